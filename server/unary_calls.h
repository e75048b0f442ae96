// The calls that are answered once but run in the engine: GenerateOnce and Score.
//
// Life: Start -> text worker prepares and submits -> engine events are gathered -> when every
// sample has ended: Finish -> OnDone. The answer is bounded by the context and the request limits.

#ifndef MAMBAD_SERVER_UNARY_CALLS_H_
#define MAMBAD_SERVER_UNARY_CALLS_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/server_callback.h>

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/mutex.h"
#include "engine/request.h"
#include "mambad/v1/generation.pb.h"
#include "server/call_environment.h"

namespace mambad::server {

// What both have in common. Entered from network threads, a text worker and the engine thread; what
// is mutable is guarded by mutex_. The engine and gRPC are never called with it held.
class UnaryEngineCall : public grpc::ServerUnaryReactor,
                        public EventSink,
                        public std::enable_shared_from_this<UnaryEngineCall> {
 public:
  bool OnEvent(const TokenEvent& event) final;
  void OnCancel() final;
  void OnDone() final;

 protected:
  UnaryEngineCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
                  absl::string_view method, const std::string& request_id);

  static grpc::ServerUnaryReactor* Start(std::shared_ptr<UnaryEngineCall> call);

  // Text worker: the engine request.
  virtual absl::StatusOr<Request> Prepare(const Engine& engine, absl::Time deadline) = 0;
  // With mutex_ held: takes what is wanted of the event.
  virtual void Gather(const TokenEvent& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) = 0;

  CallEnvironment* const environment_;
  Mutex mutex_;

 private:
  void PrepareAndSubmit(Engine* engine);
  void End(const absl::Status& status);  // once; no event comes after

  grpc::CallbackServerContext* const context_;
  EngineTicket ticket_;
  // Until OnDone: gRPC's share of the ownership.
  std::shared_ptr<UnaryEngineCall> self_ ABSL_GUARDED_BY(mutex_);
  CallRecord record_ ABSL_GUARDED_BY(mutex_);
  int samples_left_ ABSL_GUARDED_BY(mutex_) = 1;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

class GenerateOnceCall final : public UnaryEngineCall {
 public:
  // The reactor to return to gRPC; request, response and context are gRPC's and live until OnDone.
  static grpc::ServerUnaryReactor* Start(CallEnvironment* environment,
                                         grpc::CallbackServerContext* context,
                                         const v1::GenerateRequest* request,
                                         v1::GenerateResponse* response);

 private:
  GenerateOnceCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
                   const v1::GenerateRequest* request, v1::GenerateResponse* response);
  absl::StatusOr<Request> Prepare(const Engine& engine, absl::Time deadline) override;
  void Gather(const TokenEvent& event) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const v1::GenerateRequest* const request_;
  v1::GenerateResponse* const response_;
  // Written before Submit, read by events after it.
  uint64_t seed_ = 0;
  const text::Tokenizer* tokenizer_ = nullptr;
};

class ScoreCall final : public UnaryEngineCall {
 public:
  static grpc::ServerUnaryReactor* Start(CallEnvironment* environment,
                                         grpc::CallbackServerContext* context,
                                         const v1::ScoreRequest* request,
                                         v1::ScoreResponse* response);

 private:
  ScoreCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
            const v1::ScoreRequest* request, v1::ScoreResponse* response);
  absl::StatusOr<Request> Prepare(const Engine& engine, absl::Time deadline) override;
  void Gather(const TokenEvent& event) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const v1::ScoreRequest* const request_;
  v1::ScoreResponse* const response_;
  const text::Tokenizer* tokenizer_ = nullptr;  // as in GenerateOnceCall
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_UNARY_CALLS_H_
