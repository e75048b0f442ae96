// The daemon's log: one line a request's end, and few others. Prompts and texts never reach it; ids
// do.

#ifndef MAMBAD_SERVER_REQUEST_LOG_H_
#define MAMBAD_SERVER_REQUEST_LOG_H_

#include <spdlog/logger.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/request.h"
#include "server/server_options.h"

namespace mambad::server {

// What is told about a request that ended.
struct RequestSummary {
  absl::string_view method;  // "Generate"
  std::string request_id;    // the caller's; printable ASCII
  RequestId engine_id = 0;   // 0: it never reached the engine
  absl::Status status;
  std::string finish_reasons;  // "EOS", or one a sample: "EOS,LENGTH"
  RequestStats stats;          // of sample 0; completion_tokens of all
  absl::Duration duration;     // from arrival
};

// Thread-safe. Writes to standard error, each line whole.
class RequestLog {
 public:
  RequestLog(LogFormat format, LogLevel level);
  // Tests: writes to `logger` instead.
  RequestLog(LogFormat format, std::shared_ptr<spdlog::logger> logger);

  void RequestEnd(const RequestSummary& summary);  // level info
  void Info(absl::string_view message);
  void Warning(absl::string_view message);
  void Error(absl::string_view message);

 private:
  void Write(LogLevel level, absl::string_view message);
  const LogFormat format_;
  const std::shared_ptr<spdlog::logger> logger_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_REQUEST_LOG_H_
