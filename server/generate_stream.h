// One streaming Generate call: a write reactor with one write in flight, and the sink of its engine
// request.
//
// Life: Start -> text worker prepares and submits -> engine events become messages -> when every
// sample has ended and all is written: Finish -> OnDone. While a write is in flight, further events
// coalesce into one pending message a sample; beyond `max_pending_bytes` the engine is told to
// pause, and told to go on when the writes have caught up. A pause of `stall_timeout` cancels the
// call.

#ifndef MAMBAD_SERVER_GENERATE_STREAM_H_
#define MAMBAD_SERVER_GENERATE_STREAM_H_

#include <grpcpp/alarm.h>
#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/mutex.h"
#include "engine/request.h"
#include "mambad/v1/generation.pb.h"
#include "server/call_environment.h"

namespace mambad::server {

// Entered from network threads (reactor methods), the engine thread (OnEvent), a text worker
// (Submit) and the stall timer; everything mutable is guarded by mutex_. The engine and gRPC are
// never called with it held.
class GenerateStream final : public grpc::ServerWriteReactor<v1::GenerateResponse>,
                             public EventSink,
                             public std::enable_shared_from_this<GenerateStream> {
 public:
  // The reactor to return to gRPC. `request` and `context` are gRPC's and live until OnDone.
  static grpc::ServerWriteReactor<v1::GenerateResponse>* Start(CallEnvironment* environment,
                                                               grpc::CallbackServerContext* context,
                                                               const v1::GenerateRequest* request);

  bool OnEvent(const TokenEvent& event) override;

  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  struct Sample {
    v1::GenerateResponse pending;  // events that are not yet being written
    int pending_tokens = 0;
    bool has_pending = false;
    bool begun = false;  // its first message is written or being written
    bool ended = false;  // the engine has sent its last event
  };
  class TimerCallback;
  // What a thread that changed the state must do once it has released the lock.
  struct Actions {
    bool write = false;   // StartWrite(&in_flight_)
    bool resume = false;  // ticket_.Resume()
    bool finish = false;  // Finish(status)
    absl::Status status;
  };

  GenerateStream(CallEnvironment* environment, grpc::CallbackServerContext* context);

  void PrepareAndSubmit(Engine* engine, const v1::GenerateRequest& request);
  void FailBeforeEngine(const absl::Status& status);
  void OnStall(int pause);

  // Decides what comes next. Perform acts on it without the lock.
  Actions Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool TakeReadyMessage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Perform(const Actions& actions) ABSL_LOCKS_EXCLUDED(mutex_);
  static void SetTimer(grpc::Alarm* timer, absl::Time when, TimerCallback callback);
  void ArmStallTimer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  CallEnvironment* const environment_;
  grpc::CallbackServerContext* const context_;
  EngineTicket ticket_;
  v1::GenerateResponse in_flight_;  // gRPC's while writing_, else guarded by mutex_

  Mutex mutex_;
  // Until OnDone: gRPC's share of the ownership.
  std::shared_ptr<GenerateStream> self_ ABSL_GUARDED_BY(mutex_);
  CallRecord record_ ABSL_GUARDED_BY(mutex_);
  std::vector<Sample> samples_ ABSL_GUARDED_BY(mutex_);
  // Not ended yet; 1 until the request is prepared.
  size_t samples_left_ ABSL_GUARDED_BY(mutex_) = 1;
  size_t next_sample_ ABSL_GUARDED_BY(mutex_) = 0;  // whose turn it is to be written
  int stream_interval_ ABSL_GUARDED_BY(mutex_) = 1;
  uint64_t seed_ ABSL_GUARDED_BY(mutex_) = 0;
  const text::Tokenizer* tokenizer_ ABSL_GUARDED_BY(mutex_) = nullptr;
  int64_t pending_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  // A write failed or the caller is gone: nothing more is written.
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  // The stall timer is using context_: no Finish meanwhile.
  bool cancelling_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  // Numbers them, so that an old timer finds its pause gone.
  int pauses_ ABSL_GUARDED_BY(mutex_) = 0;
  std::unique_ptr<grpc::Alarm> stall_timer_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);  // how the call ends
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_GENERATE_STREAM_H_
