// Sessions on their way: one streaming Export or Import call.
//
// Export: Start reads the request -> the engine makes the record -> its pieces are written, one at
// a time -> Finish. Import: pieces are read, one at a time, each checked before the next is asked
// for -> the engine makes the session -> its facts, Finish. Whoever lets a piece lie, or sends
// none, for the stall timeout (ReadingTime) is cancelled.

#ifndef MAMBAD_SERVER_SESSION_STREAMS_H_
#define MAMBAD_SERVER_SESSION_STREAMS_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/mutex.h"
#include "engine/session.h"
#include "server/call_environment.h"
#include "server/stall_timer.h"

namespace mambad::server {

// The time that the other end of a stream has for its part.
class StreamPatience {
 public:
  StreamPatience(CallEnvironment* environment, grpc::CallbackServerContext* context)
      : environment_(environment), context_(context) {}

  // It is waited for from now on, for so many bytes; `owner` keeps this alive.
  void Wait(const std::shared_ptr<StreamPatience>& owner, int64_t bytes);
  void Stop();
  // Its token is no longer valid. Any thread.
  void GiveUp();
  // The context is gone.
  void End();

 private:
  void GiveUpOn(int wait);

  CallEnvironment* const environment_;
  grpc::CallbackServerContext* const context_;
  Mutex mutex_;
  StallTimer timer_ ABSL_GUARDED_BY(mutex_);
  int waits_ ABSL_GUARDED_BY(mutex_) = 0;
  bool ended_ ABSL_GUARDED_BY(mutex_) = false;
};

// Entered from network threads, which gRPC sees to be one at a time, and once from the engine's.
class ExportStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                           public std::enable_shared_from_this<ExportStream> {
 public:
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(CallEnvironment* environment,
                                                           grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request);
  void OnWriteDone(bool ok) override;
  void OnDone() override;

 private:
  ExportStream(CallEnvironment* environment, grpc::CallbackServerContext* context);
  absl::Status Begin(grpc::ByteBuffer* request);
  void WriteFirst(absl::StatusOr<ExportedSession> exported);
  void Write(grpc::ByteBuffer bytes);
  void End(const absl::Status& status);

  CallEnvironment* const environment_;
  grpc::CallbackServerContext* const context_;
  const std::shared_ptr<StreamPatience> patience_;
  CallRecord record_;
  std::shared_ptr<ExportStream> self_;  // until OnDone
  std::shared_ptr<SessionSource> source_;
  grpc::ByteBuffer in_flight_;
};

class ImportStream final : public grpc::ServerReadReactor<grpc::ByteBuffer>,
                           public std::enable_shared_from_this<ImportStream> {
 public:
  static grpc::ServerReadReactor<grpc::ByteBuffer>* Start(CallEnvironment* environment,
                                                          grpc::CallbackServerContext* context,
                                                          grpc::ByteBuffer* response);
  void OnReadDone(bool ok) override;
  void OnDone() override;

 private:
  ImportStream(CallEnvironment* environment, grpc::CallbackServerContext* context,
               grpc::ByteBuffer* response);
  absl::Status Begin();
  absl::Status ReadPiece();
  // Until there is room for the state whose record begins, nothing more is read of it.
  void MakeRoom();
  void ReadNext();
  void End(const absl::Status& status);

  CallEnvironment* const environment_;
  grpc::CallbackServerContext* const context_;
  grpc::ByteBuffer* const response_;
  const std::shared_ptr<StreamPatience> patience_;
  CallRecord record_;
  std::shared_ptr<ImportStream> self_;  // until OnDone
  Sessions* sessions_ = nullptr;
  std::string principal_;
  std::unique_ptr<SessionTarget> target_;  // from the first piece on
  grpc::ByteBuffer piece_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_SESSION_STREAMS_H_
