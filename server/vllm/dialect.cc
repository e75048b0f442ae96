#include "server/vllm/dialect.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/message_reader.h"
#include "server/status_details.h"
#include "server/wire_bytes.h"

namespace mambad::server {

namespace vllm = ::vllm::grpc::engine;

namespace {

void RefuseUnserved(const vllm::GenerateRequest& wire, FieldViolations* violations) {
  const auto refuse = [violations](bool given, absl::string_view field, absl::string_view words) {
    if (given) violations->Add(field, words);
  };
  const vllm::SamplingParams& sampling = wire.sampling_params();
  const auto* constraint = sampling.GetDescriptor()->FindOneofByName("constraint");
  if (const auto* field = sampling.GetReflection()->GetOneofFieldDescriptor(sampling, constraint)) {
    refuse(true, absl::StrCat("sampling_params.", field->name()),
           "answers that are bound to a form are not served");
  }
  refuse(sampling.has_truncate_prompt_tokens(), "sampling_params.truncate_prompt_tokens",
         "prompts are not cut: give as many tokens as the model has room for");
  refuse(wire.has_mm_inputs(), "mm_inputs", "images, videos and sounds are not served");
  refuse(wire.extra_mm_inputs_size() > 0, "extra_mm_inputs",
         "images, videos and sounds are not served");
  refuse(wire.has_media_refs(), "media_refs", "images, videos and sounds are not served");
  refuse(wire.has_kv_transfer_params(), "kv_transfer_params",
         "prompts are read where answers are made");
  refuse(wire.has_kv_transfer_params_json(), "kv_transfer_params_json",
         "prompts are read where answers are made");
  refuse(wire.data_parallel_rank() != 0, "data_parallel_rank", "there is one rank, 0");
}

// Fields that cannot be left out say with 0 that they are.
template <typename Value>
Value OrOne(Value value) {
  return value != 0 ? value : Value{1};
}

void ConvertSampling(vllm::SamplingParams& wire, v1::GenerateRequest* request) {
  v1::Sampling& sampling = *request->mutable_sampling();
  if (wire.has_temperature()) sampling.set_temperature(wire.temperature());
  sampling.set_top_p(OrOne(wire.top_p()));
  sampling.set_top_k(static_cast<int32_t>(wire.top_k()));
  sampling.set_min_p(wire.min_p());
  sampling.set_frequency_penalty(wire.frequency_penalty());
  sampling.set_presence_penalty(wire.presence_penalty());
  sampling.set_repetition_penalty(OrOne(wire.repetition_penalty()));
  if (wire.has_seed()) sampling.set_seed(static_cast<uint32_t>(wire.seed()));
  sampling.mutable_logit_bias()->swap(*wire.mutable_logit_bias());

  v1::Stopping& stopping = *request->mutable_stopping();
  if (wire.has_max_tokens()) stopping.set_max_tokens(wire.max_tokens());
  stopping.set_min_tokens(wire.min_tokens());
  stopping.mutable_stop_strings()->Swap(wire.mutable_stop());
  stopping.mutable_stop_token_ids()->Add(wire.stop_token_ids().begin(),
                                         wire.stop_token_ids().end());
  stopping.set_ignore_eos(wire.ignore_eos());
  stopping.set_include_stop(wire.include_stop_str_in_output());

  v1::Output& output = *request->mutable_output();
  if (wire.has_logprobs()) output.set_logprobs(wire.logprobs());
  if (wire.has_prompt_logprobs()) output.set_prompt_logprobs(wire.prompt_logprobs());
  output.set_n(static_cast<int32_t>(OrOne(wire.n())));
}

const char* FinishWord(v1::FinishReason reason) {
  switch (reason) {
    case v1::EOS:
    case v1::STOP:
      return "stop";
    case v1::LENGTH:
      return "length";
    case v1::CANCELLED:
    case v1::DEADLINE:
      return "abort";
    default:
      return "error";
  }
}

// One entry of either list.
template <typename Logprobs>
void AddAlternatives(const v1::TokenLogprob& logprob, int wanted, Logprobs* wire) {
  if (wanted <= 0) return;
  vllm::TopLogProbs* top = wire->add_top_logprobs();
  for (const v1::TokenLogprob::Alternative& alternative : logprob.alternatives()) {
    top->add_token_ids(static_cast<uint32_t>(alternative.id()));
    top->add_values(alternative.logprob());
  }
}

class VllmDialect final : public GenerateDialect {
 public:
  absl::string_view service() const override { return kVllmService; }

  absl::Status Read(grpc::ByteBuffer* bytes, const v1::Limits& limits,
                    v1::GenerateRequest* request) override {
    vllm::GenerateRequest wire;
    const EntryLimits entries = {
        {"vllm.grpc.engine.SamplingParams.stop", limits.stop_strings()},
        {"vllm.grpc.engine.SamplingParams.logit_bias", limits.logit_bias()}};
    absl::Status status = ReadMessage(bytes, entries, &wire);
    if (status.ok()) status = FromVllm(wire, request);
    stream_ = wire.stream();
    alternatives_ = request->output().logprobs();
    prompt_alternatives_ = request->output().prompt_logprobs();
    return status;
  }

  bool names_answers() const override { return false; }
  bool tells_text() const override { return false; }
  bool tells_whole_samples() const override { return !stream_; }

  void BeginAnswer(const std::vector<TokenId>& prompt) override {
    prompt_tokens_ = static_cast<uint32_t>(prompt.size());
    first_token_ = static_cast<uint32_t>(prompt.front());
  }

  void Tell(const v1::GenerateResponse& part, std::vector<grpc::ByteBuffer>* messages) override {
    const bool has_news = part.token_ids_size() > 0 || part.prompt_logprobs_size() > 0;
    if (stream_ && (has_news || !part.has_completion())) messages->push_back(ToBytes(Chunk(part)));
    if (part.has_completion()) messages->push_back(ToBytes(Complete(part)));
  }

 private:
  vllm::GenerateResponse Chunk(const v1::GenerateResponse& part) const {
    vllm::GenerateResponse response;
    vllm::GenerateStreamChunk& chunk = *response.mutable_chunk();
    chunk.mutable_token_ids()->Add(part.token_ids().begin(), part.token_ids().end());
    chunk.set_prompt_tokens(prompt_tokens_);
    chunk.set_completion_tokens(static_cast<uint32_t>(part.token_ids_size()));
    if (part.logprobs_size() > 0) FillLogprobs(part, chunk.mutable_output_logprobs());
    if (part.prompt_logprobs_size() > 0) FillPromptLogprobs(part, chunk.mutable_input_logprobs());
    chunk.set_index(static_cast<uint32_t>(part.index()));
    return response;
  }

  vllm::GenerateResponse Complete(const v1::GenerateResponse& part) const {
    vllm::GenerateResponse response;
    vllm::GenerateComplete& complete = *response.mutable_complete();
    if (!stream_) {
      complete.mutable_output_ids()->Add(part.token_ids().begin(), part.token_ids().end());
      if (part.logprobs_size() > 0) FillLogprobs(part, complete.mutable_output_logprobs());
      if (part.prompt_logprobs_size() > 0)
        FillPromptLogprobs(part, complete.mutable_input_logprobs());
    }
    const v1::Completion& completion = part.completion();
    complete.set_finish_reason(FinishWord(completion.finish_reason()));
    complete.set_prompt_tokens(prompt_tokens_);
    complete.set_completion_tokens(static_cast<uint32_t>(completion.usage().completion_tokens()));
    complete.set_cached_tokens(static_cast<uint32_t>(completion.usage().cached_tokens()));
    complete.set_index(static_cast<uint32_t>(part.index()));
    // An end of text that is the model's own is no match of anything that was asked for.
    if (completion.finish_reason() == v1::STOP) {
      if (completion.has_stop_string()) complete.set_matched_stop_str(completion.stop_string());
      if (completion.has_stop_token_id())
        complete.set_matched_token_id(static_cast<uint32_t>(completion.stop_token_id()));
    }
    complete.set_spec_accepted_tokens(static_cast<uint32_t>(completion.speculation().accepted()));
    complete.set_spec_draft_tokens(static_cast<uint32_t>(completion.speculation().drafted()));
    return response;
  }

  void FillLogprobs(const v1::GenerateResponse& part, vllm::OutputLogProbs* wire) const {
    for (const v1::TokenLogprob& logprob : part.logprobs()) {
      wire->add_token_ids(static_cast<uint32_t>(logprob.id()));
      wire->add_token_logprobs(logprob.logprob());
      AddAlternatives(logprob, alternatives_, wire);
    }
  }

  void FillPromptLogprobs(const v1::GenerateResponse& part, vllm::InputLogProbs* wire) const {
    wire->add_token_ids(first_token_);
    wire->add_token_logprobs();
    if (prompt_alternatives_ > 0) wire->add_top_logprobs();
    for (const v1::TokenLogprob& logprob : part.prompt_logprobs()) {
      wire->add_token_ids(static_cast<uint32_t>(logprob.id()));
      wire->add_token_logprobs()->set_value(logprob.logprob());
      AddAlternatives(logprob, prompt_alternatives_, wire);
    }
  }

  bool stream_ = false;
  int alternatives_ = 0, prompt_alternatives_ = 0;  // that were asked for
  uint32_t prompt_tokens_ = 0, first_token_ = 0;
};

}  // namespace

absl::Status FromVllm(vllm::GenerateRequest& wire, v1::GenerateRequest* request) {
  FieldViolations violations;
  RefuseUnserved(wire, &violations);
  if (!violations.empty()) return violations.ToStatus(absl::StatusCode::kUnimplemented);
  request->set_request_id(std::move(*wire.mutable_request_id()));
  if (wire.has_tokenized()) {
    const auto& ids = wire.tokenized().input_ids();
    request->mutable_token_ids()->mutable_ids()->Add(ids.begin(), ids.end());
  } else if (wire.has_text()) {
    request->set_text(std::move(*wire.mutable_text()));
  }
  ConvertSampling(*wire.mutable_sampling_params(), request);
  return absl::OkStatus();
}

std::unique_ptr<GenerateDialect> MakeVllmDialect() { return std::make_unique<VllmDialect>(); }

}  // namespace mambad::server
