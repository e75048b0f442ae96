#include "server/vllm/tokenizer_stream.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "engine/digest/sha256.h"
#include "engine/text/tokenizer_bundle.h"
#include "server/message_reader.h"
#include "server/network_thread.h"
#include "server/status_details.h"
#include "server/vllm/dialect.h"
#include "server/vllm/zip_archive.h"
#include "server/wire_bytes.h"
#include "vllm/tokenizer.pb.h"

namespace mambad::server {
namespace {

constexpr size_t kPieceBytes = size_t{1} << 20;

}  // namespace

absl::StatusOr<std::shared_ptr<const TokenizerArchive::Made>> TokenizerArchive::Get(
    const Engine& engine) {
  {
    MutexLock lock(&mutex_);
    if (made_ != nullptr) return made_;
  }
  if (engine.tokenizer() == nullptr)
    return absl::FailedPreconditionError("the model has no tokenizer");
  absl::StatusOr<std::vector<text::BundledFile>> files = text::BundleTokenizer(
      engine.model().path, *engine.tokenizer(), engine.chat_template(), engine.chat_variables());
  if (!files.ok()) return files.status();
  std::vector<std::pair<std::string, std::string>> entries;
  for (text::BundledFile& file : *files)
    entries.emplace_back(std::move(file.name), std::move(file.contents));
  auto made = std::make_shared<Made>();
  made->zip = ZipArchive(entries);
  Sha256 digest;
  digest.Add(made->zip.data(), made->zip.size());
  made->sha256 = digest.FinishAsDigits();
  MutexLock lock(&mutex_);
  made_ = std::move(made);
  return made_;
}

TokenizerStream::TokenizerStream(CallEnvironment* environment, TokenizerArchive* archive,
                                 grpc::CallbackServerContext* context)
    : environment_(environment),
      archive_(archive),
      context_(context),
      patience_(std::make_shared<StreamPatience>(environment, context)),
      record_(environment, context, "GetTokenizer", kVllmService) {}

grpc::ServerWriteReactor<grpc::ByteBuffer>* TokenizerStream::Start(
    CallEnvironment* environment, TokenizerArchive* archive, grpc::CallbackServerContext* context,
    const grpc::ByteBuffer* request) {
  std::shared_ptr<TokenizerStream> stream(new TokenizerStream(environment, archive, context));
  stream->self_ = stream;
  grpc::ByteBuffer bytes = TakeBytes(request);
  absl::Status status = stream->record_.Admit(
      [patience = stream->patience_](const absl::Status&) { patience->GiveUp(); });
  TokenizerStream* const reactor = stream.get();
  GiveToNetwork(reactor);
  if (status.ok()) status = stream->Begin(&bytes);
  if (!status.ok()) stream->End(status);
  return reactor;
}

absl::Status TokenizerStream::Begin(grpc::ByteBuffer* request) {
  absl::StatusOr<Engine*> engine = environment_->ReadyEngine();
  if (!engine.ok()) return engine.status();
  ::smg::grpc::common::GetTokenizerRequest wire;
  if (absl::Status status = ReadMessage(request, {}, &wire); !status.ok()) return status;
  auto job = std::make_shared<TextJob>();
  job->owner = record_.owner();
  job->bytes = TextWorker::kShortText + 1;  // as long as a long text takes
  job->run = [stream = shared_from_this(), engine = *engine](const absl::Status& turn) {
    if (!turn.ok()) return stream->End(turn);
    auto made = stream->archive_->Get(*engine);
    if (!made.ok()) return stream->End(made.status());
    stream->made_ = *std::move(made);
    stream->WriteNext();
  };
  return environment_->text_worker.Submit(job);
}

void TokenizerStream::WriteNext() {
  const std::string& zip = made_->zip;
  const size_t size = std::min(kPieceBytes, zip.size() - written_);
  ::smg::grpc::common::GetTokenizerChunk chunk;
  chunk.set_data(zip.data() + written_, size);
  written_ += size;
  if (written_ == zip.size()) chunk.set_sha256(made_->sha256);
  grpc::ByteBuffer bytes = ToBytes(chunk);
  in_flight_.Swap(&bytes);
  patience_->Wait(patience_, static_cast<int64_t>(size));
  GiveToNetwork(this);
  StartWrite(&in_flight_);
}

void TokenizerStream::OnWriteDone(bool ok) {
  NetworkCallback callback(this);
  patience_->Stop();
  in_flight_.Clear();
  if (!ok) return End(absl::CancelledError("the caller is gone"));
  written_ == made_->zip.size() ? End(absl::OkStatus()) : WriteNext();
}

void TokenizerStream::End(const absl::Status& status) {
  record_.End(status, 0);
  grpc::Status end = ToGrpcStatus(status, context_);
  patience_->Wait(patience_, 0);
  GiveToNetwork(this);
  Finish(std::move(end));
}

void TokenizerStream::OnDone() {
  TakeFromNetwork(this);
  patience_->End();
  std::exchange(self_, nullptr).reset();  // destroys *this, when the text worker holds no share
}

}  // namespace mambad::server
