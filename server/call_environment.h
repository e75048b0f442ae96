// What every call needs of the daemon, and the bookkeeping of one call.

#ifndef MAMBAD_SERVER_CALL_ENVIRONMENT_H_
#define MAMBAD_SERVER_CALL_ENVIRONMENT_H_

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/mutex.h"
#include "server/metrics.h"
#include "server/request_log.h"
#include "server/server_options.h"
#include "server/text_worker.h"

namespace mambad::server {

// Owned by the daemon; outlives every call.
struct CallEnvironment {
  const ServerOptions& options;
  Metrics& metrics;
  RequestLog& log;
  TextWorker& text_worker;
  std::atomic<Engine*> engine{nullptr};  // set once, when the model is loaded
  std::atomic<bool> draining{false};

  // The engine, or UNAVAILABLE while loading or draining.
  absl::StatusOr<Engine*> ReadyEngine() const;
};

// One request in the engine as its call sees it: it may be cancelled or resumed before Submit has
// told its id. Thread-safe.
class EngineTicket {
 public:
  // Once. The engine's errors with their wire details: BadRequest, RetryInfo.
  absl::Status Submit(Engine* engine, Request request, std::shared_ptr<EventSink> sink);
  void Cancel();
  void Resume();
  RequestId id() const;  // 0: not submitted

 private:
  mutable Mutex mutex_;
  Engine* engine_ ABSL_GUARDED_BY(mutex_) = nullptr;  // set together with id_
  RequestId id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool resumed_ ABSL_GUARDED_BY(mutex_) = false;
};

// Times and outcome of one call, told to metrics and log at its end. Not thread-safe: guarded by
// its call's own lock.
class CallRecord {
 public:
  CallRecord(CallEnvironment* environment, absl::string_view method)
      : environment_(environment), method_(method), arrival_(absl::Now()) {}

  void SetRequestId(const std::string& request_id) { request_id_ = request_id; }
  // News of a sample: its first token, the end of it.
  void OnEvent(const TokenEvent& event);
  // A message of a stream is about to be written.
  void OnMessage(int index);
  // Once, when the call's status is known.
  void End(const absl::Status& status, RequestId engine_id);

 private:
  CallEnvironment* const environment_;
  const absl::string_view method_;
  const absl::Time arrival_;
  std::string request_id_;
  bool has_token_ = false;
  std::vector<absl::Time> last_message_;  // by index
  std::string finish_reasons_;
  std::optional<RequestStats> stats_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_CALL_ENVIRONMENT_H_
