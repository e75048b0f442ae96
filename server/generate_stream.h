// One streaming Generate call, of whichever service: a write reactor with one write in flight, and
// the sink of its engine request.
//
// Life: Start reads and checks the request -> a text worker tokenizes, where there is text ->
// engine events become messages -> when every sample has ended and all is written: Finish ->
// OnDone. While a write is in flight, further events coalesce into one pending message a sample;
// beyond `max_pending_bytes` the engine is told to pause, and told to go on when the writes have
// caught up. Whoever lets it pause, or takes nothing of an answer that is made, for the stall
// timeout (ReadingTime) is cancelled, and what lay there for him is free.

#ifndef MAMBAD_SERVER_GENERATE_STREAM_H_
#define MAMBAD_SERVER_GENERATE_STREAM_H_

#include <grpcpp/server_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "engine/mutex.h"
#include "engine/request.h"
#include "mambad/v1/generation.pb.h"
#include "server/answer_receipts.h"
#include "server/call_environment.h"
#include "server/call_names.h"
#include "server/generate_dialect.h"
#include "server/request_conversion.h"
#include "server/stall_timer.h"

namespace mambad::server {

// Entered from network threads (reactor methods), the engine's delivery threads (OnEvent), a text
// worker (Submit) and the stall timer; everything mutable is guarded by mutex_. The engine and gRPC
// are never called with it held.
class GenerateStream final : public grpc::ServerWriteReactor<grpc::ByteBuffer>,
                             public AnswerReader,
                             public AbortableCall,
                             public std::enable_shared_from_this<GenerateStream> {
 public:
  // The reactor to return to gRPC. The arguments are gRPC's and live until OnDone; the bytes of
  // `request` are taken.
  static grpc::ServerWriteReactor<grpc::ByteBuffer>* Start(
      CallEnvironment* environment, grpc::CallbackServerContext* context,
      const grpc::ByteBuffer* request, std::unique_ptr<GenerateDialect> dialect);

  bool OnEvent(const TokenEvent& event) override;
  void OnTakenOver() override;
  // What there is of the answer is told, then the call ends with CANCELLED.
  void Abort() override;

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
  // What a thread that changed the state must do once it has released the lock.
  struct Actions {
    bool write = false;   // in_flight_, which is then written as messages
    bool resume = false;  // ticket_.Resume()
    bool finish = false;  // Finish(status)
    absl::Status status;
  };

  GenerateStream(CallEnvironment* environment, grpc::CallbackServerContext* context,
                 std::unique_ptr<GenerateDialect> dialect);

  absl::Status Admit();
  absl::Status Begin(grpc::ByteBuffer* request, int64_t bytes);
  // Whole samples lie in memory until they are read: whether there is room for them.
  absl::Status CheckUnread();
  // Once the request is read: for the log, and for who asks again or aborts it.
  void TakeName();
  void TokenizeAndSubmit(Engine* engine, PreparedGenerate prepared, const absl::Status& turn);
  absl::Status Submit(Engine* engine, PreparedGenerate prepared);
  // Before events come, of the answer's own or of an earlier call's.
  void PrepareAnswer(const Engine& engine, const AnswerStart& start, int stream_interval);
  absl::Status Join(const Engine& engine, std::shared_ptr<NamedAnswer> named, int stream_interval);
  void FailBeforeEngine(const absl::Status& status);
  // The caller is gone, its time is up, or its token is no longer valid: nothing more is written.
  void GiveUp(const absl::Status& why);
  // Others are told the answer, or will be: nothing comes here any more.
  void LeaveAnswer();
  void OnStall(int stall);

  // Decides what comes next. Perform acts on it without the lock.
  Actions Next() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool TakeReadyMessage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool MayBeTold(const Sample& sample) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Of the messages that are in flight. False: there is none more to write.
  bool WriteNext();
  void Perform(const Actions& actions) ABSL_LOCKS_EXCLUDED(mutex_);
  // The reader is waited for: because the engine pauses, or because the answer is made.
  bool WaitsForReader() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StartStallTimer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  CallEnvironment* const environment_;
  grpc::CallbackServerContext* const context_;
  const absl::Time deadline_;  // steady time
  EngineTicket ticket_;
  const TextJobPointer text_ = std::make_shared<TextJob>();
  v1::GenerateRequest request_;  // until it is submitted: of the thread that prepares it
  RequestName name_;             // likewise
  // The name that the call can be aborted by, and whose; empty: none. Written before the request is
  // submitted.
  std::string call_name_, principal_;
  // What is being written: of the thread that writes it, then gRPC's while writing_.
  const std::unique_ptr<GenerateDialect> dialect_;
  v1::GenerateResponse in_flight_;
  std::vector<grpc::ByteBuffer> messages_;  // in_flight_, as it is told
  size_t next_message_ = 0;                 // of them, to be written

  Mutex mutex_;
  // Until OnDone: gRPC's share of the ownership.
  std::shared_ptr<GenerateStream> self_ ABSL_GUARDED_BY(mutex_);
  CallRecord record_ ABSL_GUARDED_BY(mutex_);
  std::vector<Sample> samples_ ABSL_GUARDED_BY(mutex_);
  // Not ended yet; 1 until the request is prepared.
  size_t samples_left_ ABSL_GUARDED_BY(mutex_) = 1;
  size_t next_sample_ ABSL_GUARDED_BY(mutex_) = 0;  // whose turn it is to be written
  int stream_interval_ ABSL_GUARDED_BY(mutex_) = 1;
  AnswerReceipts receipts_ ABSL_GUARDED_BY(mutex_);
  const text::Tokenizer* tokenizer_ ABSL_GUARDED_BY(mutex_) = nullptr;
  int64_t pending_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  // A write failed or the caller is gone: nothing more is written.
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  bool left_ ABSL_GUARDED_BY(mutex_) = false;  // LeaveAnswer
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  bool paused_ ABSL_GUARDED_BY(mutex_) = false;
  // Numbers the timers, so that an old one finds that it is not meant any more.
  int stalls_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t in_flight_size_ ABSL_GUARDED_BY(mutex_) = 0;  // bytes, about
  int64_t unread_bytes_ ABSL_GUARDED_BY(mutex_) = 0;    // of whole samples that were told
  StallTimer stall_timer_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);  // how the call ends
  // Held while the timer uses context_, which is gone after OnDone.
  Mutex context_mutex_;
  bool done_ ABSL_GUARDED_BY(context_mutex_) = false;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_GENERATE_STREAM_H_
