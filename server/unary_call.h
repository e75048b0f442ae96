// What the calls that are answered once have in common: how their bytes come in, how their answer
// goes out, and who owns them meanwhile.
//
// Life: Launch -> Begin -> End or Answer, once -> OnDone. An answer that its caller does not take
// is given up after the stall timeout (ReadingTime): what it held is free then.

#ifndef MAMBAD_SERVER_UNARY_CALL_H_
#define MAMBAD_SERVER_UNARY_CALL_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/mutex.h"
#include "mambad/v1/generation.pb.h"
#include "server/call_environment.h"
#include "server/stall_timer.h"

namespace mambad::server {

// Entered from network threads and whatever works for the call; what is mutable is guarded by
// mutex_. gRPC is never called with it held.
class UnaryCall : public grpc::ServerUnaryReactor, public std::enable_shared_from_this<UnaryCall> {
 public:
  void OnCancel() final;
  void OnDone() final;

 protected:
  // `response` and `context` are gRPC's and live until OnDone.
  UnaryCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
            grpc::ByteBuffer* response, absl::string_view method,
            absl::string_view service = kGenerationService);

  // The reactor to return to gRPC. `request` is gRPC's; its bytes are taken.
  static grpc::ServerUnaryReactor* Launch(std::shared_ptr<UnaryCall> call,
                                          const grpc::ByteBuffer* request);

  // Network thread: reads the request and sees to it that the call ends some day; what it returns
  // but OK ends it at once. `bytes`: of the request.
  virtual absl::Status Begin(grpc::ByteBuffer* request, int64_t bytes) = 0;
  // The caller is gone, its time is up, or its token is no longer valid. The call must still end.
  virtual void Abandon(const absl::Status& why) = 0;
  // Before the end is told to gRPC.
  virtual void Record(const absl::Status& status) = 0;

  // Ends the call, once: with an answer, or with why there is none.
  void Answer(grpc::ByteBuffer answer);
  void End(const absl::Status& status);

  CallEnvironment* const environment_;
  grpc::CallbackServerContext* const context_;
  const absl::Time deadline_;      // steady time
  std::string principal_, owner_;  // CallRecord's; before Begin
  Mutex mutex_;
  CallRecord record_ ABSL_GUARDED_BY(mutex_);

 private:
  absl::Status Admit();  // before Begin
  void StartStallTimer(int64_t bytes);
  void GiveUp();

  grpc::ByteBuffer* const response_;
  // Until OnDone: gRPC's share of the ownership.
  std::shared_ptr<UnaryCall> self_ ABSL_GUARDED_BY(mutex_);
  StallTimer stall_timer_ ABSL_GUARDED_BY(mutex_);
  int64_t unread_bytes_ ABSL_GUARDED_BY(mutex_) = 0;  // of the answer, until OnDone
  // Held while the timer uses context_, which is gone after OnDone.
  Mutex context_mutex_;
  bool done_ ABSL_GUARDED_BY(context_mutex_) = false;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_UNARY_CALL_H_
