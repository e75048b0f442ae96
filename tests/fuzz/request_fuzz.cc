// Any bytes as the request of any call: an error that says what is wrong, or a message that can be
// made a request of, text and all. The first byte says of which call.

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>

#include "mambad/v1/generation.pb.h"
#include "mambad/v1/session.pb.h"
#include "server/message_reader.h"
#include "server/request_conversion.h"
#include "server/text_conversion.h"
#include "server/vllm/dialect.h"
#include "tests/server/fake_engine.h"
#include "vllm/vllm_engine.pb.h"

namespace {

using namespace mambad;
using namespace mambad::server;

const Engine& TheEngine() {
  static const Engine* engine = [] {
    EngineOptions options;
    options.model = "fuzz";
    auto opened = OpenFakeEngine(options, nullptr);
    if (!opened.ok()) std::abort();
    return opened->release();
  }();
  return *engine;
}

const v1::Limits& TheLimits() {
  static const auto* limits = new v1::Limits(EffectiveLimits(TheEngine(), RequestLimits()));
  return *limits;
}

void CheckError(const absl::Status& status) {
  if (status.ok()) return;
  const bool expected = absl::IsInvalidArgument(status) || absl::IsUnimplemented(status) ||
                        absl::IsFailedPrecondition(status);
  if (!expected || status.message().empty()) std::abort();
}

// Whether the bytes are such a message, within its bounds.
bool Read(const std::string& bytes, google::protobuf::Message* message) {
  grpc::Slice slice(bytes);
  grpc::ByteBuffer buffer(&slice, 1);
  const absl::Status status = ReadMessage(&buffer, EntryLimitsOf(TheLimits()), message);
  CheckError(status);
  return status.ok();
}

void CheckPrompt(const absl::StatusOr<std::vector<TokenId>>& prompt) {
  CheckError(prompt.status());
  if (!prompt.ok()) return;
  for (const TokenId id : *prompt) {
    if (id < 0 || id >= kFakeVocabulary) std::abort();
  }
}

// A request of either service that was read.
void CheckGenerate(v1::GenerateRequest& wire) {
  const std::atomic<bool> over{false};
  const auto prepared = PrepareGenerate(wire, TheEngine(), TheLimits());
  CheckError(prepared.status());
  if (!prepared.ok()) return;
  const Request& request = prepared->request;
  const bool good = request.output.samples >= 1 && request.output.samples <= TheLimits().n() &&
                    request.output.logprobs <= TheLimits().logprobs() &&
                    request.sampling.temperature >= 0 && request.sampling.top_p > 0 &&
                    prepared->stream_interval >= 1;
  if (!good) std::abort();
  if (HasText(wire)) CheckPrompt(ReadPrompt(wire, TheEngine(), TheLimits(), over));
}

void Generate(const std::string& bytes) {
  v1::GenerateRequest wire;
  if (Read(bytes, &wire)) CheckGenerate(wire);
}

void VllmGenerate(const std::string& bytes) {
  grpc::Slice slice(bytes);
  grpc::ByteBuffer buffer(&slice, 1);
  v1::GenerateRequest wire;
  const absl::Status status = MakeVllmDialect()->Read(&buffer, TheLimits(), &wire);
  CheckError(status);
  if (status.ok()) CheckGenerate(wire);
}

void Score(const std::string& bytes) {
  v1::ScoreRequest wire;
  if (!Read(bytes, &wire)) return;
  const std::atomic<bool> over{false};
  const auto prepared = PrepareScore(wire, TheEngine(), TheLimits());
  CheckError(prepared.status());
  if (!prepared.ok()) return;
  if (!prepared->score_from.has_value()) std::abort();
  if (wire.input_case() == v1::ScoreRequest::kText)
    CheckPrompt(ReadPrompt(wire, TheEngine(), TheLimits(), over));
}

void TokenizeText(const std::string& bytes) {
  v1::TokenizeRequest wire;
  if (!Read(bytes, &wire)) return;
  const absl::Status status = CheckTokenize(wire, TheEngine(), TheLimits());
  CheckError(status);
  if (!status.ok()) return;
  const std::atomic<bool> over{false};
  CheckError(Tokenize(&wire, TheEngine(), over).status());
}

void DetokenizeIds(const std::string& bytes) {
  v1::DetokenizeRequest wire;
  if (!Read(bytes, &wire)) return;
  const absl::Status status = CheckDetokenize(wire, TheEngine(), TheLimits());
  CheckError(status);
  if (status.ok()) Detokenize(wire, TheEngine());
}

template <typename Message>
void ReadOnly(const std::string& bytes) {
  Message message;
  Read(bytes, &message);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  static constexpr void (*kCalls[])(const std::string&) = {
      Generate,
      Score,
      TokenizeText,
      DetokenizeIds,
      ReadOnly<v1::GetModelInfoRequest>,
      ReadOnly<v1::CreateSessionRequest>,
      ReadOnly<v1::GetSessionRequest>,
      ReadOnly<v1::ListSessionsRequest>,
      ReadOnly<v1::ForkSessionRequest>,
      ReadOnly<v1::CheckpointSessionRequest>,
      ReadOnly<v1::RewindSessionRequest>,
      ReadOnly<v1::ExportSessionRequest>,
      ReadOnly<v1::ImportSessionRequest>,
      ReadOnly<v1::DeleteSessionRequest>,
      ReadOnly<v1::GetLoadRequest>,
      VllmGenerate,
      ReadOnly<::vllm::grpc::engine::AbortRequest>,
      ReadOnly<::vllm::grpc::engine::GetLoadsRequest>,
  };
  constexpr size_t kCount = sizeof(kCalls) / sizeof(kCalls[0]);
  kCalls[data[0] % kCount](std::string(reinterpret_cast<const char*>(data + 1), size - 1));
  return 0;
}
