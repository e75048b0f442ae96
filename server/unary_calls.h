// The calls that are answered once but run in the engine: GenerateOnce and Score.
//
// Life: Begin reads and checks the request -> a text worker tokenizes, where there is text -> the
// engine's events are gathered -> when every sample has ended: Answer. The answer is bounded by the
// context and the request limits.

#ifndef MAMBAD_SERVER_UNARY_CALLS_H_
#define MAMBAD_SERVER_UNARY_CALLS_H_

#include <memory>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/request.h"
#include "mambad/v1/generation.pb.h"
#include "server/answer_receipts.h"
#include "server/unary_call.h"
#include "server/wire_bytes.h"

namespace mambad::server {

// What both have in common. Entered from network threads, a text worker and the engine's delivery
// threads.
class UnaryEngineCall : public UnaryCall, public AnswerReader {
 public:
  bool OnEvent(const TokenEvent& event) final;
  void OnTakenOver() final;

 protected:
  UnaryEngineCall(CallEnvironment* environment, grpc::CallbackServerContext* context,
                  grpc::ByteBuffer* response, absl::string_view method)
      : UnaryCall(environment, context, response, method) {}

  // Network thread: reads the request's bytes and checks all of it but its text.
  virtual absl::StatusOr<Request> Prepare(grpc::ByteBuffer* bytes, const Engine& engine,
                                          const v1::Limits& limits) = 0;
  virtual const std::string& request_id() const = 0;
  virtual bool has_text() const = 0;
  // Network thread, after Prepare, when it is known whose the request is.
  virtual absl::Status TakeSession(Engine& engine, Request* request) = 0;
  // Text worker, with text only: the prompt, after which the text is not needed any more.
  virtual absl::Status ReadPrompt(const Engine& engine, const v1::Limits& limits,
                                  const std::atomic<bool>& over, Request* request) = 0;
  // Before Submit. `start`: as StartOf says.
  virtual void Begun(const Engine& engine, const Request& request, const AnswerStart& start) = 0;
  // Instead, of an answer with a name_ that an earlier call began.
  virtual void Joined(const Engine&, const AnswerStart&) {}
  // With mutex_ held: takes what is wanted of the event.
  virtual void Gather(const TokenEvent& event) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) = 0;
  // After the last event, when nobody else touches it any more: the answer, which then lies in
  // memory as bytes only.
  virtual grpc::ByteBuffer TakeAnswer() = 0;

  RequestName name_;  // set by Prepare, where calls may be repeated

 private:
  absl::Status Begin(grpc::ByteBuffer* request, int64_t bytes) final;
  void Abandon(const absl::Status& why) final;
  void Record(const absl::Status& status) final;
  void TokenizeAndSubmit(Engine* engine, Request request, const absl::Status& turn);
  absl::Status Submit(Engine* engine, Request request);
  absl::Status Join(const Engine& engine, std::shared_ptr<NamedAnswer> named);

  EngineTicket ticket_;
  const TextJobPointer text_ = std::make_shared<TextJob>();
  int samples_left_ ABSL_GUARDED_BY(mutex_) = 1;
  // Others are told the answer, or will be: nothing comes here any more.
  bool left_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

class GenerateOnceCall final : public UnaryEngineCall {
 public:
  // The reactor to return to gRPC, whose the arguments are.
  static grpc::ServerUnaryReactor* Start(CallEnvironment* environment,
                                         grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response);

 private:
  using UnaryEngineCall::UnaryEngineCall;
  absl::StatusOr<Request> Prepare(grpc::ByteBuffer* bytes, const Engine& engine,
                                  const v1::Limits& limits) override;
  const std::string& request_id() const override { return request_.request_id(); }
  bool has_text() const override;
  absl::Status TakeSession(Engine& engine, Request* request) override;
  absl::Status ReadPrompt(const Engine& engine, const v1::Limits& limits,
                          const std::atomic<bool>& over, Request* request) override;
  void Begun(const Engine& engine, const Request& request, const AnswerStart& start) override;
  void Joined(const Engine& engine, const AnswerStart& start) override;
  void Gather(const TokenEvent& event) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  grpc::ByteBuffer TakeAnswer() override { return TakeMessage(&response_); }

  // Written before Submit, read by events after it.
  v1::GenerateRequest request_;
  v1::GenerateResponse response_;
  AnswerReceipts receipts_;
  const text::Tokenizer* tokenizer_ = nullptr;
};

class ScoreCall final : public UnaryEngineCall {
 public:
  static grpc::ServerUnaryReactor* Start(CallEnvironment* environment,
                                         grpc::CallbackServerContext* context,
                                         const grpc::ByteBuffer* request,
                                         grpc::ByteBuffer* response);

 private:
  using UnaryEngineCall::UnaryEngineCall;
  absl::StatusOr<Request> Prepare(grpc::ByteBuffer* bytes, const Engine& engine,
                                  const v1::Limits& limits) override;
  const std::string& request_id() const override { return request_.request_id(); }
  bool has_text() const override;
  absl::Status TakeSession(Engine&, Request*) override { return absl::OkStatus(); }
  absl::Status ReadPrompt(const Engine& engine, const v1::Limits& limits,
                          const std::atomic<bool>& over, Request* request) override;
  void Begun(const Engine& engine, const Request& request, const AnswerStart& start) override;
  void Gather(const TokenEvent& event) override ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  grpc::ByteBuffer TakeAnswer() override { return TakeMessage(&response_); }

  v1::ScoreRequest request_;
  v1::ScoreResponse response_;
  const text::Tokenizer* tokenizer_ = nullptr;  // as in GenerateOnceCall
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_UNARY_CALLS_H_
