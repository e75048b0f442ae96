// The calls that need the tokenizer and nothing else: Tokenize and Detokenize.
//
// Life: Begin reads and checks the request -> a text worker makes the answer. An answer is made in
// parts, as bytes, so that its tokens never lie in memory as messages.

#ifndef MAMBAD_SERVER_TEXT_CALLS_H_
#define MAMBAD_SERVER_TEXT_CALLS_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "mambad/v1/generation.pb.h"
#include "server/unary_call.h"

namespace mambad::server {

// What both have in common. Entered from network threads and a text worker.
class TextCall : public UnaryCall {
 protected:
  TextCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
           grpc::ByteBuffer* response, absl::string_view method)
      : UnaryCall(environment, context, response, method) {}

  // Network thread: reads the request's bytes and checks what needs no work.
  virtual absl::Status Prepare(grpc::ByteBuffer* bytes, const Engine& engine,
                               const v1::Limits& limits) = 0;
  // Text worker: the answer's bytes.
  virtual absl::StatusOr<grpc::ByteBuffer> Work(const Engine& engine, const v1::Limits& limits,
                                                const std::atomic<bool>& over) = 0;

 private:
  absl::Status Begin(grpc::ByteBuffer* request, int64_t bytes) final;
  void Abandon(const absl::Status& why) final;
  void Record(const absl::Status& status) final;
  void WorkAndAnswer(const Engine& engine, const absl::Status& turn);

  const TextJobPointer text_ = std::make_shared<TextJob>();
  absl::Status given_up_ ABSL_GUARDED_BY(mutex_);
};

class TokenizeCall final : public TextCall {
 public:
  // The reactor to return to gRPC, whose the arguments are.
  static grpc::ServerUnaryReactor* Start(CallEnvironment* environment,
                                         grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response);

 private:
  using TextCall::TextCall;
  absl::Status Prepare(grpc::ByteBuffer* bytes, const Engine& engine,
                       const v1::Limits& limits) override;
  absl::StatusOr<grpc::ByteBuffer> Work(const Engine& engine, const v1::Limits& limits,
                                        const std::atomic<bool>& over) override;

  v1::TokenizeRequest request_;  // the worker's after Prepare
};

class DetokenizeCall final : public TextCall {
 public:
  static grpc::ServerUnaryReactor* Start(CallEnvironment* environment,
                                         grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response);

 private:
  using TextCall::TextCall;
  absl::Status Prepare(grpc::ByteBuffer* bytes, const Engine& engine,
                       const v1::Limits& limits) override;
  absl::StatusOr<grpc::ByteBuffer> Work(const Engine& engine, const v1::Limits& limits,
                                        const std::atomic<bool>& over) override;

  v1::DetokenizeRequest request_;  // the worker's after Prepare
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_TEXT_CALLS_H_
