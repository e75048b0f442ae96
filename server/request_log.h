// The daemon's log: one line a request's end, and few others. Prompts and texts never reach it; ids
// do. Logging never waits: what nobody reads is dropped and counted (log_writer.h).

#ifndef MAMBAD_SERVER_REQUEST_LOG_H_
#define MAMBAD_SERVER_REQUEST_LOG_H_

#include <spdlog/logger.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/request.h"
#include "server/log_writer.h"
#include "server/server_options.h"
#include "server/trace_context.h"

namespace mambad::server {

// What is told about a request that ended.
struct RequestSummary {
  absl::string_view method;    // "Generate"
  std::string request_id;      // the caller's; printable ASCII
  RequestId engine_id = 0;     // 0: it never reached the engine
  std::string principal;       // of a token or a certificate; empty: not known by name
  TraceContext trace;          // of the caller's
  absl::Status status;         // unless OK, its field and reason are told
  std::string peer;            // "ipv4:192.0.2.1:40000"; told unless OK
  std::string finish_reasons;  // "EOS", or one a sample: "EOS,LENGTH"
  RequestStats stats;          // of sample 0; completion_tokens of all
  absl::Duration duration;     // from arrival
};

// Thread-safe. Writes to standard error or another descriptor, each line whole; in JSON each line
// is one object. At its end it waits half a second for its reader.
class RequestLog {
 public:
  RequestLog(LogFormat format, LogLevel level, int descriptor = 2);
  // Tests: writes to `logger` instead.
  RequestLog(LogFormat format, std::shared_ptr<spdlog::logger> logger);

  void RequestEnd(const RequestSummary& summary);  // level info
  void Debug(absl::string_view message);
  void Info(absl::string_view message);
  void Warning(absl::string_view message);
  void Error(absl::string_view message);

  // Written here and now, past what waits: for a process that ends next, in whatever state it is.
  void LastError(absl::string_view message);

  // Waits until all is written, or until `deadline` (steady time); whether it is.
  bool Flush(absl::Time deadline);
  // Lines that nobody read in time.
  int64_t dropped_lines() const;

 private:
  void Write(LogLevel level, absl::string_view message);
  const LogFormat format_;
  const int descriptor_;                     // -1: `logger_` is a test's
  const std::unique_ptr<LogWriter> writer_;  // nullptr: `logger_` is a test's
  const std::shared_ptr<spdlog::logger> logger_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_REQUEST_LOG_H_
