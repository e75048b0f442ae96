#include "server/session_streams.h"

#include <utility>

#include "mambad/v1/session.pb.h"
#include "server/message_reader.h"
#include "server/network_thread.h"
#include "server/session_wire.h"
#include "server/status_details.h"
#include "server/wire_bytes.h"

namespace mambad::server {
namespace {

constexpr int64_t kPieceBytes = int64_t{1} << 20;

absl::StatusOr<Sessions*> SessionsOf(CallEnvironment* environment) {
  absl::StatusOr<Engine*> engine = environment->ReadyEngine();
  if (!engine.ok()) return engine.status();
  Sessions* const sessions = (*engine)->sessions();
  if (sessions == nullptr) return absl::UnimplementedError("sessions are not served");
  return sessions;
}

}  // namespace

// ---- patience -----------------------------------------------------------------------------------

void StreamPatience::Wait(const std::shared_ptr<StreamPatience>& owner, int64_t bytes) {
  MutexLock lock(&mutex_);
  if (ended_) return;
  const int wait = ++waits_;
  timer_.Start(ReadingTime(environment_->options.stall_timeout, bytes),
               [weak = std::weak_ptr<StreamPatience>(owner), wait] {
                 if (const auto patience = weak.lock()) patience->GiveUpOn(wait);
               });
}

void StreamPatience::Stop() {
  MutexLock lock(&mutex_);
  ++waits_;
  timer_.Stop();
}

void StreamPatience::End() {
  MutexLock lock(&mutex_);
  ended_ = true;
  timer_.Stop();
}

void StreamPatience::GiveUp() {
  MutexLock lock(&mutex_);
  if (!ended_) context_->TryCancel();
}

void StreamPatience::GiveUpOn(int wait) {
  MutexLock lock(&mutex_);
  if (!ended_ && wait == waits_) context_->TryCancel();
}

// ---- export -------------------------------------------------------------------------------------

ExportStream::ExportStream(CallEnvironment* environment, grpc::CallbackServerContext* context)
    : environment_(environment),
      context_(context),
      patience_(std::make_shared<StreamPatience>(environment, context)),
      record_(environment, context, "ExportSession", kSessionsService) {}

grpc::ServerWriteReactor<grpc::ByteBuffer>* ExportStream::Start(
    CallEnvironment* environment, grpc::CallbackServerContext* context,
    const grpc::ByteBuffer* request) {
  std::shared_ptr<ExportStream> stream(new ExportStream(environment, context));
  stream->self_ = stream;
  grpc::ByteBuffer bytes = TakeBytes(request);
  absl::Status status = stream->record_.Admit(
      [patience = stream->patience_](const absl::Status&) { patience->GiveUp(); });
  ExportStream* const reactor = stream.get();
  GiveToNetwork(reactor);
  if (status.ok()) status = stream->Begin(&bytes);
  if (!status.ok()) stream->End(status);
  return reactor;
}

absl::Status ExportStream::Begin(grpc::ByteBuffer* request) {
  absl::StatusOr<Sessions*> sessions = SessionsOf(environment_);
  if (!sessions.ok()) return sessions.status();
  v1::ExportSessionRequest wire;
  if (absl::Status status = ReadMessage(request, {}, &wire); !status.ok()) return status;
  (*sessions)->Export(record_.principal(), wire.session_id(),
                      [stream = shared_from_this()](absl::StatusOr<ExportedSession> exported) {
                        stream->WriteFirst(std::move(exported));
                      });
  return absl::OkStatus();
}

void ExportStream::WriteFirst(absl::StatusOr<ExportedSession> exported) {
  if (!exported.ok()) return End(exported.status());
  source_ = exported->source;
  v1::ExportSessionResponse first;
  first.set_piece(source_->Next(kPieceBytes));
  *first.mutable_session() = ToWire(exported->info);
  first.set_total_bytes(source_->total_bytes());
  Write(ToBytes(first));
}

void ExportStream::Write(grpc::ByteBuffer bytes) {
  in_flight_.Swap(&bytes);
  patience_->Wait(patience_, static_cast<int64_t>(in_flight_.Length()));
  GiveToNetwork(this);
  StartWrite(&in_flight_);
}

void ExportStream::OnWriteDone(bool ok) {
  NetworkCallback callback(this);
  patience_->Stop();
  in_flight_.Clear();
  if (!ok) return End(absl::CancelledError("the caller is gone"));
  v1::ExportSessionResponse next;
  next.set_piece(source_->Next(kPieceBytes));
  if (next.piece().empty()) return End(absl::OkStatus());
  Write(ToBytes(next));
}

void ExportStream::End(const absl::Status& status) {
  record_.End(status, 0);
  grpc::Status end = ToGrpcStatus(WithFieldDetails(status), context_);
  patience_->Wait(patience_, 0);
  GiveToNetwork(this);
  Finish(std::move(end));
}

void ExportStream::OnDone() {
  TakeFromNetwork(this);
  patience_->End();
  std::exchange(self_, nullptr).reset();  // destroys *this, when the engine holds no share
}

// ---- import -------------------------------------------------------------------------------------

ImportStream::ImportStream(CallEnvironment* environment, grpc::CallbackServerContext* context,
                           grpc::ByteBuffer* response)
    : environment_(environment),
      context_(context),
      response_(response),
      patience_(std::make_shared<StreamPatience>(environment, context)),
      record_(environment, context, "ImportSession", kSessionsService) {}

grpc::ServerReadReactor<grpc::ByteBuffer>* ImportStream::Start(CallEnvironment* environment,
                                                               grpc::CallbackServerContext* context,
                                                               grpc::ByteBuffer* response) {
  std::shared_ptr<ImportStream> stream(new ImportStream(environment, context, response));
  stream->self_ = stream;
  ImportStream* const reactor = stream.get();
  GiveToNetwork(reactor);
  absl::Status status = stream->record_.Admit(
      [patience = stream->patience_](const absl::Status&) { patience->GiveUp(); });
  if (status.ok()) status = stream->Begin();
  if (status.ok()) {
    stream->ReadNext();
  } else {
    stream->End(status);
  }
  return reactor;
}

absl::Status ImportStream::Begin() {
  absl::StatusOr<Sessions*> sessions = SessionsOf(environment_);
  if (!sessions.ok()) return sessions.status();
  sessions_ = *sessions;
  principal_ = record_.principal();
  return absl::OkStatus();
}

void ImportStream::ReadNext() {
  patience_->Wait(patience_, environment_->options.limits.message_bytes);
  GiveToNetwork(this);
  StartRead(&piece_);
}

void ImportStream::OnReadDone(bool ok) {
  NetworkCallback callback(this);
  patience_->Stop();
  if (ok) {
    const absl::Status status = ReadPiece();
    if (!status.ok()) return End(status);
    return target_->wants_room() > 0 ? MakeRoom() : ReadNext();
  }
  absl::Status status;
  if (target_ != nullptr) status = target_->Read("");  // of the last piece, what waited for room
  if (!status.ok()) return End(status);
  if (target_ == nullptr || !target_->done())
    return End(absl::InvalidArgumentError("piece: the stream ends before the session's record"));
  sessions_->Import(principal_, std::move(target_),
                    [stream = shared_from_this()](absl::StatusOr<SessionInfo> info) {
                      if (!info.ok()) return stream->End(info.status());
                      grpc::ByteBuffer answer = ToBytes(ToWire(*info));
                      stream->response_->Swap(&answer);
                      stream->End(absl::OkStatus());
                    });
}

void ImportStream::MakeRoom() {
  sessions_->MakeRoom(principal_, *target_,
                      [stream = shared_from_this()](const absl::Status& status) {
                        status.ok() ? stream->ReadNext() : stream->End(status);
                      });
}

absl::Status ImportStream::ReadPiece() {
  v1::ImportSessionRequest wire;
  absl::Status status = ReadMessage(&piece_, {}, &wire);
  piece_.Clear();
  if (!status.ok()) return status;
  if (target_ == nullptr) target_ = sessions_->NewTarget(principal_, wire.other_numerics());
  return target_->Read(wire.piece());
}

void ImportStream::End(const absl::Status& status) {
  record_.End(status, 0);
  grpc::Status end = ToGrpcStatus(WithFieldDetails(status), context_);
  patience_->Wait(patience_, 0);
  GiveToNetwork(this);
  Finish(std::move(end));
}

void ImportStream::OnDone() {
  TakeFromNetwork(this);
  patience_->End();
  std::exchange(self_, nullptr).reset();  // destroys *this, when the engine holds no share
}

}  // namespace mambad::server
