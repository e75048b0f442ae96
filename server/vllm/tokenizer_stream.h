// One GetTokenizer call: a text worker makes the archive, or finds it made, and its pieces are
// written, one at a time. Whoever lets a piece lie for the stall timeout is cancelled.

#ifndef MAMBAD_SERVER_VLLM_TOKENIZER_STREAM_H_
#define MAMBAD_SERVER_VLLM_TOKENIZER_STREAM_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "engine/mutex.h"
#include "server/call_environment.h"
#include "server/session_streams.h"

namespace mambad::server {

// The tokenizer as VllmEngine's callers get it, made when it is first asked for. Thread-safe.
class TokenizerArchive {
 public:
  struct Made {
    std::string zip;
    std::string sha256;  // digits
  };
  // Computes: not for the network's threads. FAILED_PRECONDITION: the model has no tokenizer;
  // otherwise as BundleTokenizer.
  absl::StatusOr<std::shared_ptr<const Made>> Get(const Engine& engine);

 private:
  Mutex mutex_;
  std::shared_ptr<const Made> made_ ABSL_GUARDED_BY(mutex_);
};

// Entered from network threads, which gRPC sees to be one at a time, and once from a text worker.
class TokenizerStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                              public std::enable_shared_from_this<TokenizerStream> {
 public:
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(CallEnvironment* environment,
                                                           TokenizerArchive* archive,
                                                           grpc::CallbackServerContext* context,
                                                           const grpc::ByteBuffer* request);
  void OnWriteDone(bool ok) override;
  void OnDone() override;

 private:
  TokenizerStream(CallEnvironment* environment, TokenizerArchive* archive,
                  grpc::CallbackServerContext* context);
  absl::Status Begin(grpc::ByteBuffer* request);
  void WriteNext();
  void End(const absl::Status& status);

  CallEnvironment* const environment_;
  TokenizerArchive* const archive_;
  grpc::CallbackServerContext* const context_;
  const std::shared_ptr<StreamPatience> patience_;
  CallRecord record_;
  std::shared_ptr<TokenizerStream> self_;  // until OnDone
  std::shared_ptr<const TokenizerArchive::Made> made_;
  size_t written_ = 0;  // bytes of it
  grpc::ByteBuffer in_flight_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_VLLM_TOKENIZER_STREAM_H_
