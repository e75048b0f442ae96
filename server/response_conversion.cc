#include "server/response_conversion.h"

#include <string>

#include "engine/memory_plan.h"

namespace mambad::server {
namespace {

void FillSpeculation(const SpeculationReport& report, v1::SpeculationReport* wire) {
  wire->set_rounds(report.rounds);
  wire->set_drafted(report.drafted);
  wire->set_accepted(report.accepted);
  wire->mutable_accepted_per_position()->Add(report.accepted_per_position.begin(),
                                             report.accepted_per_position.end());
  wire->mutable_tokens_per_round()->Add(report.tokens_per_round.begin(),
                                        report.tokens_per_round.end());
  wire->set_draft_us(report.draft_microseconds);
  wire->set_verify_us(report.verify_microseconds);
}

void FillCompletion(const TokenEvent& event, AnswerReceipts* receipts, v1::Completion* wire) {
  wire->set_finish_reason(WireFinishReason(event.finish));
  if (event.matched_stop_id.has_value()) {
    wire->set_stop_token_id(*event.matched_stop_id);
  } else if (!event.matched_stop.empty()) {
    wire->set_stop_string(event.matched_stop);
  }
  wire->set_seed(receipts->seed());
  receipts->Fill(event.index, wire->mutable_receipt());
  if (event.session.has_value()) {
    wire->set_session_id(event.session->id);
    wire->set_position(event.session->position);
    wire->set_state_digest(event.session->digest);
  }
  if (!event.stats.has_value()) return;
  FillUsage(*event.stats, wire->mutable_usage());
  FillTiming(*event.stats, wire->mutable_timing());
  FillSpeculation(event.stats->speculation, wire->mutable_speculation());
}

void FillModel(const ModelInfo& info, v1::Model* wire) {
  wire->set_family(info.family);
  wire->set_path(info.path);
  wire->set_weight_type(info.weight_type);
  wire->set_fingerprint(info.fingerprint);
  wire->set_numerics(info.numerics);
  wire->set_parameters(info.parameters);
  wire->set_weight_bytes(info.weight_bytes);
  wire->set_layers(info.layers);
  wire->set_attention_layers(info.attention_layers);
  wire->set_width(info.width);
  wire->set_vocabulary(info.vocabulary);
  wire->set_context(info.context);
  wire->set_state_bytes_per_sequence(info.state_bytes_per_sequence);
  wire->mutable_eos_ids()->Add(info.eos_ids.begin(), info.eos_ids.end());
}

void FillMemory(const MemoryPlan& plan, v1::MemoryPlan* wire) {
  wire->set_weights(plan.weights);
  wire->set_states(plan.states);
  wire->set_keys_and_values(plan.keys_and_values);
  wire->set_tables(plan.tables);
  wire->set_workspace(plan.workspace);
  if (plan.free >= 0) wire->set_free(plan.free);
}

// Of an id, its value and a piece of usual length.
constexpr int64_t kLogprobBytes = 20;

int64_t LogprobBytes(const std::vector<TokenLogprob>& logprobs) {
  int64_t bytes = 0;
  for (const TokenLogprob& logprob : logprobs)
    bytes += kLogprobBytes * (1 + static_cast<int64_t>(logprob.alternatives.size()));
  return bytes;
}

}  // namespace

void AppendLogprob(const TokenLogprob& logprob, const text::Tokenizer* tokenizer,
                   v1::TokenLogprob* wire) {
  wire->set_id(logprob.id);
  wire->set_logprob(logprob.logprob);
  if (tokenizer != nullptr) tokenizer->AppendTokenBytes(logprob.id, wire->mutable_piece());
  for (const auto& [id, value] : logprob.alternatives) {
    v1::TokenLogprob::Alternative* alternative = wire->add_alternatives();
    alternative->set_id(id);
    alternative->set_logprob(value);
    if (tokenizer != nullptr) tokenizer->AppendTokenBytes(id, alternative->mutable_piece());
  }
}

void FillUsage(const RequestStats& stats, v1::Usage* wire) {
  wire->set_prompt_tokens(stats.prompt_tokens);
  wire->set_cached_tokens(stats.cached_tokens);
  wire->set_completion_tokens(stats.completion_tokens);
}

void FillTiming(const RequestStats& stats, v1::Timing* wire) {
  wire->set_queue_us(stats.queue_microseconds);
  wire->set_prefill_us(stats.prefill_microseconds);
  wire->set_first_token_us(stats.first_token_microseconds);
  wire->set_decode_us(stats.decode_microseconds);
  wire->set_total_us(stats.total_microseconds);
}

void AppendEvent(const TokenEvent& event, const text::Tokenizer* tokenizer,
                 AnswerReceipts* receipts, v1::GenerateResponse* message) {
  receipts->Add(event);
  message->set_index(event.index);
  message->mutable_text()->append(event.text);
  message->mutable_token_ids()->Add(event.tokens.begin(), event.tokens.end());
  for (const TokenLogprob& logprob : event.logprobs)
    AppendLogprob(logprob, tokenizer, message->add_logprobs());
  for (const TokenLogprob& logprob : event.prompt_logprobs)
    AppendLogprob(logprob, tokenizer, message->add_prompt_logprobs());
  if (event.finish != FinishReason::kNone)
    FillCompletion(event, receipts, message->mutable_completion());
}

int64_t EventBytes(const TokenEvent& event) {
  return static_cast<int64_t>(event.text.size() + 4 * event.tokens.size()) +
         LogprobBytes(event.logprobs) + LogprobBytes(event.prompt_logprobs);
}

v1::FinishReason WireFinishReason(FinishReason reason) {
  switch (reason) {
    case FinishReason::kEos:
      return v1::EOS;
    case FinishReason::kStop:
      return v1::STOP;
    case FinishReason::kLength:
      return v1::LENGTH;
    case FinishReason::kCancelled:
      return v1::CANCELLED;
    case FinishReason::kDeadline:
      return v1::DEADLINE;
    case FinishReason::kNone:
    case FinishReason::kError:
      break;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

absl::Status FinishStatus(FinishReason reason, const absl::Status& error, bool draining) {
  switch (reason) {
    case FinishReason::kNone:
    case FinishReason::kEos:
    case FinishReason::kStop:
    case FinishReason::kLength:
      return absl::OkStatus();
    case FinishReason::kCancelled:
      if (draining) return absl::UnavailableError("the server is draining");
      return absl::CancelledError("cancelled");
    case FinishReason::kDeadline:
      return absl::DeadlineExceededError("the deadline passed");
    case FinishReason::kError:
      return error.ok() ? absl::InternalError("generation failed") : error;
  }
  return absl::InternalError("unknown finish reason");
}

v1::GetModelInfoResponse DescribeModel(const Engine& engine, const v1::Limits& limits,
                                       absl::string_view version) {
  v1::GetModelInfoResponse response;
  FillModel(engine.model(), response.mutable_model());
  if (engine.draft_model() != nullptr)
    FillModel(*engine.draft_model(), response.mutable_draft_model());
  *response.mutable_limits() = limits;
  const SamplingParams& sampling = engine.default_sampling();
  v1::Sampling* wire = response.mutable_default_sampling();
  wire->set_temperature(sampling.temperature);
  wire->set_top_p(sampling.top_p);
  wire->set_top_k(sampling.top_k);
  wire->set_min_p(sampling.min_p);
  wire->set_repetition_penalty(sampling.repetition_penalty);
  wire->set_presence_penalty(sampling.presence_penalty);
  wire->set_frequency_penalty(sampling.frequency_penalty);
  response.set_has_tokenizer(engine.tokenizer() != nullptr);
  response.set_has_chat_template(engine.chat_template() != nullptr &&
                                 engine.chat_template()->fault().ok());
  response.set_prompt_lookup(engine.options().speculation && engine.options().prompt_lookup);
  response.set_server_version(std::string(version));
  response.set_device(engine.device());
  FillMemory(engine.memory(), response.mutable_memory());
  return response;
}

v1::GetLoadResponse DescribeLoad(const Engine& engine, const TextLoad& text, bool draining) {
  const EngineStats stats = engine.Stats();
  v1::GetLoadResponse response;
  response.set_running(stats.running);
  response.set_waiting(stats.waiting + text.waiting);
  response.set_slots_used(stats.slots_used);
  response.set_slots_total(stats.slots_total);
  response.set_pages_used(stats.pages_used);
  response.set_pages_total(stats.pages_total);
  response.set_waiting_tokens(stats.waiting_tokens);
  response.set_tokens_per_second(stats.generation_tokens_per_second);
  response.set_acceptance_rate(stats.acceptance_rate);
  response.set_state_bytes(stats.state_bytes);
  response.set_speculation_enabled(stats.speculation_enabled);
  response.set_estimated_wait_us(absl::ToInt64Microseconds(engine.EstimatedWait() + text.wait));
  response.set_text_waiting(text.waiting);
  response.set_text_waiting_bytes(text.waiting_bytes);
  response.set_draining(draining);
  return response;
}

}  // namespace mambad::server
