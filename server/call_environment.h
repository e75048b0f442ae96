// What every call needs of the daemon, and the bookkeeping of one call.

#ifndef MAMBAD_SERVER_CALL_ENVIRONMENT_H_
#define MAMBAD_SERVER_CALL_ENVIRONMENT_H_

#include <grpcpp/server_context.h>

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/mutex.h"
#include "engine/steady_time.h"
#include "mambad/v1/generation.pb.h"
#include "server/call_names.h"
#include "server/metrics.h"
#include "server/named_answers.h"
#include "server/network/transport_settings.h"
#include "server/process_limits.h"
#include "server/request_log.h"
#include "server/security/authenticator.h"
#include "server/server_options.h"
#include "server/stall_timer.h"
#include "server/text_worker.h"
#include "server/unread_answers.h"

namespace mambad::server {

// Counts the calls of our services, so that a drain waits for them and for nothing else: not for
// those that come later, which are refused, and would keep it waiting for as long as anyone asks.
// Thread-safe.
class OpenCalls {
 public:
  // Whether the call is counted; then, and only then, it must Leave.
  bool Enter();
  void Leave();
  // Calls that enter from now on are not counted.
  void Close();
  int count() const;
  // Whether none is left; false when `deadline` came first.
  bool WaitUntilNone(absl::Time deadline);

 private:
  mutable Mutex mutex_;
  Condition none_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

// Owned by the daemon; outlives every call.
struct CallEnvironment {
  const ServerOptions& options;
  Metrics& metrics;
  RequestLog& log;
  TextWorker& text_worker;
  Authenticator* authenticator = nullptr;  // nullptr: tokens are not asked for
  std::atomic<Engine*> engine{nullptr};    // set once, when the model is loaded
  std::atomic<bool> draining{false};
  std::atomic<bool> serving{false};  // what health says
  OpenCalls open_calls{};
  CallNames call_names{};
  NamedAnswers named_answers{options.retries};
  UnreadAnswers unread_answers{ChooseMemoryQuota(options, MemoryLimitBytes())};

  // The engine, or UNAVAILABLE while loading or draining.
  absl::StatusOr<Engine*> ReadyEngine() const;
  // What requests are held to, once the engine is there: EffectiveLimits.
  const v1::Limits& Limits(const Engine& ready_engine);
  // How a call ends whose sample ended with this event.
  absl::Status FinishStatus(const TokenEvent& event) const;

  std::once_flag limits_made{};
  v1::Limits limits{};  // Limits
};

// A call's metadata as gRPC gives it.
using Metadata = std::multimap<grpc::string_ref, grpc::string_ref>;

// RESOURCE_EXHAUSTED: it is larger than kMostMetadataBytes.
absl::Status CheckMetadata(const Metadata& metadata);

// Whose a call is, of callers that nobody knows by name: the host of gRPC's "ipv4:192.0.2.1:40000",
// "ipv6:[::1]:40000" or "unix:/path", without the port.
std::string PrincipalOfPeer(absl::string_view peer);

// When the caller stops waiting, in steady time. absl::InfiniteFuture(): never, as far as clocks
// reach.
absl::Time SteadyDeadline(const grpc::CallbackServerContext& context);

// One request in the engine as its call sees it: it may be cancelled or resumed before Submit has
// told its id. Thread-safe.
class EngineTicket {
 public:
  // Once. The engine's errors with their wire details: BadRequest, RetryInfo. `named`: the answer,
  // which others may be told too, and which this call has begun; null: it is this call's alone.
  absl::Status Submit(Engine* engine, Request request, std::shared_ptr<AnswerReader> sink,
                      std::shared_ptr<NamedAnswer> named = nullptr);
  // Instead: the answer that an earlier call of the same name began. From a call that is told it
  // now it is taken a little later, unless this one is cancelled before. `sink` owns the ticket.
  absl::Status Join(std::shared_ptr<NamedAnswer> named, std::shared_ptr<AnswerReader> sink);
  // The engine ends it, and tells so, or goes on for a caller that may return: then it is true, and
  // but for an event that is under way nothing comes to the sink any more.
  bool Cancel(bool may_return = false);
  void Resume();
  RequestId id() const;  // 0: not submitted

 private:
  absl::Status Attach(std::shared_ptr<NamedAnswer> named, std::shared_ptr<AnswerReader> sink);
  absl::Status SubmitNamed(Engine* engine, Request request,
                           const std::shared_ptr<NamedAnswer>& named, const AnswerReader* reader);

  mutable Mutex mutex_;
  Engine* engine_ ABSL_GUARDED_BY(mutex_) = nullptr;  // set together with id_
  // Instead, where it has a name; and who it is told.
  std::shared_ptr<NamedAnswer> named_ ABSL_GUARDED_BY(mutex_);
  const AnswerReader* reader_ ABSL_GUARDED_BY(mutex_) = nullptr;
  RequestId id_ ABSL_GUARDED_BY(mutex_) = 0;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  bool resumed_ ABSL_GUARDED_BY(mutex_) = false;
  bool waits_ ABSL_GUARDED_BY(mutex_) = false;  // to take an answer over
  StallTimer take_over_ ABSL_GUARDED_BY(mutex_);
};

// Our services' full names, as they stand in the paths of calls.
inline constexpr absl::string_view kGenerationService = "mambad.v1.Generation",
                                   kSessionsService = "mambad.v1.Sessions";

// One call of our services, from its arrival until gRPC has done with it: it counts as open while
// its record lives, unless it came when calls were no longer counted. Times and outcome are told to
// metrics and log at its end. Not thread-safe: guarded by its call's own lock.
class CallRecord {
 public:
  // `context` is used until End. `service`: whose call it is, by its full name.
  CallRecord(CallEnvironment* environment, grpc::CallbackServerContext* context,
             absl::string_view method, absl::string_view service = kGenerationService);
  ~CallRecord();
  CallRecord(const CallRecord&) = delete;
  CallRecord& operator=(const CallRecord&) = delete;

  // Whether the call may run; ask before anything else of it. Its metadata are too large, there are
  // network.max_calls already: RESOURCE_EXHAUSTED; or as Authenticator::Admit, whose `end` it is.
  absl::Status Admit(std::function<void(const absl::Status&)> end);
  // After Admit. Who takes turns with others for the engine: by token, by certificate, or by host.
  const std::string& principal() const { return principal_; }
  // And for memory: the same, but a connection where callers are not known by name.
  const std::string& owner() const { return owner_; }

  void SetRequestId(const std::string& request_id) { request_id_ = request_id; }
  // News of a sample: its first token, the end of it.
  void OnEvent(const TokenEvent& event);
  // A message of a stream is about to be written.
  void OnMessage(int index);
  // Once, when the call's status is known, before Finish.
  void End(const absl::Status& status, RequestId engine_id);

 private:
  CallEnvironment* const environment_;
  const bool counted_;
  grpc::CallbackServerContext* const context_;
  const absl::string_view method_, service_;
  const absl::Time arrival_;
  std::unique_ptr<CallPass> pass_;  // nullptr: without tokens, or not admitted
  std::string principal_, owner_;
  bool is_known_ = false;  // by name
  std::string request_id_;
  bool has_token_ = false;
  std::vector<absl::Time> last_message_;  // by index
  std::string finish_reasons_;
  std::optional<RequestStats> stats_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_CALL_ENVIRONMENT_H_
