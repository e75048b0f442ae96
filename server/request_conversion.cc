#include "server/request_conversion.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "server/status_details.h"
#include "server/text_conversion.h"

namespace mambad::server {
namespace {

constexpr size_t kLongestRequestId = 128;

uint64_t DrawSeed() {
  thread_local std::mt19937_64 generator{[] {
    std::random_device device;
    return (uint64_t{device()} << 32) | device();
  }()};
  return generator();
}

void CheckRequestId(const std::string& id, FieldViolations* violations) {
  if (id.size() > kLongestRequestId) {
    violations->Add("request_id", absl::StrCat(id.size(), " characters given, allowed at most ",
                                               kLongestRequestId));
  } else if (!IsValidRequestId(id)) {
    violations->Add("request_id", "allowed: printable ASCII characters");
  }
}

SamplingParams ConvertSampling(const v1::Sampling& wire, const Engine& engine,
                               const v1::Limits& limits, FieldViolations* violations) {
  SamplingParams result = engine.default_sampling();
  const int vocabulary = engine.model().vocabulary;
  const auto convert = [&](const char* field, bool given, float value, float least, float most,
                           float* target) {
    if (!given) return;
    violations->CheckRange(absl::StrCat("sampling.", field), value, least, most);
    *target = value;
  };
  convert("temperature", wire.has_temperature(), wire.temperature(), 0.0f, 100.0f,
          &result.temperature);
  convert("min_p", wire.has_min_p(), wire.min_p(), 0.0f, 1.0f, &result.min_p);
  convert("top_p", wire.has_top_p(), wire.top_p(), kLeastTopP, 1.0f, &result.top_p);
  convert("repetition_penalty", wire.has_repetition_penalty(), wire.repetition_penalty(),
          kLeastRepetitionPenalty, 100.0f, &result.repetition_penalty);
  convert("presence_penalty", wire.has_presence_penalty(), wire.presence_penalty(), -100.0f, 100.0f,
          &result.presence_penalty);
  convert("frequency_penalty", wire.has_frequency_penalty(), wire.frequency_penalty(), -100.0f,
          100.0f, &result.frequency_penalty);
  if (wire.has_top_k()) {
    violations->CheckRange("sampling.top_k", wire.top_k(), 0, vocabulary);
    result.top_k = wire.top_k();
  }
  result.seed = wire.has_seed() ? wire.seed() : DrawSeed();

  CheckCount("sampling.logit_bias", wire.logit_bias_size(), limits.logit_bias(), violations);
  for (const auto& [id, bias] : wire.logit_bias()) {
    const std::string field = absl::StrCat("sampling.logit_bias[", id, "]");
    if (id < 0 || id >= vocabulary) {
      violations->Add(field, absl::StrCat("id ", id, " given, allowed 0 to ", vocabulary - 1));
    }
    violations->CheckRange(field, bias, -kLargestLogitBias, kLargestLogitBias);
    result.logit_bias.emplace_back(id, bias);
  }
  std::sort(result.logit_bias.begin(), result.logit_bias.end());  // a map's order is not its own
  CheckCount("sampling.allowed_token_ids", wire.allowed_token_ids_size(), vocabulary, violations);
  CheckIds("sampling.allowed_token_ids", wire.allowed_token_ids(), vocabulary, violations);
  result.allowed_token_ids.assign(wire.allowed_token_ids().begin(), wire.allowed_token_ids().end());
  return result;
}

StoppingParams ConvertStopping(const v1::Stopping& wire, const Engine& engine,
                               const v1::Limits& limits, FieldViolations* violations) {
  StoppingParams result;
  if (wire.has_max_tokens()) {
    violations->CheckRange<int64_t>("stopping.max_tokens", wire.max_tokens(), 1, limits.context());
    result.max_tokens = wire.max_tokens();
  }
  if (wire.has_min_tokens()) {
    violations->CheckRange<int64_t>("stopping.min_tokens", wire.min_tokens(), 0,
                                    wire.has_max_tokens() ? wire.max_tokens() : limits.context());
    result.min_tokens = wire.min_tokens();
  }
  CheckCount("stopping.stop_strings", wire.stop_strings_size(), limits.stop_strings(), violations);
  for (int i = 0; i < wire.stop_strings_size(); ++i) {
    const auto bytes = static_cast<int64_t>(wire.stop_strings(i).size());
    if (bytes >= 1 && bytes <= limits.stop_string_bytes()) continue;
    violations->Add(absl::StrCat("stopping.stop_strings[", i, "]"),
                    absl::StrCat(bytes, " bytes given, allowed 1 to ", limits.stop_string_bytes()));
  }
  if (wire.stop_strings_size() > 0 && engine.tokenizer() == nullptr) {
    violations->Add("stopping.stop_strings", "the model has no tokenizer: use stop_token_ids");
  }
  CheckCount("stopping.stop_token_ids", wire.stop_token_ids_size(), limits.stop_token_ids(),
             violations);
  CheckIds("stopping.stop_token_ids", wire.stop_token_ids(), engine.model().vocabulary, violations);
  result.stop_strings.assign(wire.stop_strings().begin(), wire.stop_strings().end());
  result.stop_token_ids.assign(wire.stop_token_ids().begin(), wire.stop_token_ids().end());
  result.ignore_eos = wire.ignore_eos();
  result.include_stop = wire.include_stop();
  return result;
}

OutputParams ConvertOutput(const v1::Output& wire, const Engine& engine, const v1::Limits& limits,
                           FieldViolations* violations) {
  OutputParams result;
  const auto convert = [&](const char* field, bool given, int value, int least, int most,
                           int* target) {
    if (!given) return;
    violations->CheckRange(absl::StrCat("output.", field), value, least, most);
    *target = value;
  };
  int ignored = 1;
  convert("logprobs", wire.has_logprobs(), wire.logprobs(), 0, limits.logprobs(), &result.logprobs);
  convert("prompt_logprobs", wire.has_prompt_logprobs(), wire.prompt_logprobs(), 0,
          limits.logprobs(), &result.prompt_logprobs);
  convert("n", wire.has_n(), wire.n(), 1, limits.n(), &result.samples);
  convert("stream_interval", wire.has_stream_interval(), wire.stream_interval(), 1, 65536,
          &ignored);
  result.echo = wire.echo();
  if (wire.echo() && engine.tokenizer() == nullptr)
    violations->Add("output.echo", "the model has no tokenizer");
  return result;
}

SpeculationParams ConvertSpeculation(const v1::Speculation& wire, const Engine& engine,
                                     const v1::Limits& limits, FieldViolations* violations) {
  SpeculationParams result;
  const EngineOptions& options = engine.options();
  switch (wire.mode()) {
    case v1::Speculation::MODE_UNSPECIFIED:
    case v1::Speculation::AUTO:
      break;
    case v1::Speculation::OFF:
      result.mode = SpeculationMode::kOff;
      break;
    case v1::Speculation::DRAFT_MODEL:
      result.mode = SpeculationMode::kDraftModel;
      if (engine.draft_model() == nullptr)
        violations->Add("speculation.mode", "DRAFT_MODEL given, the server has none");
      break;
    case v1::Speculation::PROMPT_LOOKUP:
      result.mode = SpeculationMode::kPromptLookup;
      if (!options.prompt_lookup)
        violations->Add("speculation.mode", "PROMPT_LOOKUP given, the server has it switched off");
      break;
    default:
      violations->Add("speculation.mode",
                      absl::StrCat(static_cast<int>(wire.mode()), " given, allowed 0 to 4"));
  }
  if (wire.has_draft_length()) {
    violations->CheckRange("speculation.draft_length", wire.draft_length(), 0,
                           limits.draft_length());
    result.draft_length = wire.draft_length();
  }
  return result;
}

int ConvertPriority(int32_t priority, FieldViolations* violations) {
  violations->CheckRange("priority", priority, -100, 100);
  return priority;
}

absl::Status CheckPromptLength(absl::string_view field, int64_t length, int64_t least,
                               int64_t most) {
  FieldViolations violations;
  if (length < least || length > most) {
    violations.Add(field, absl::StrCat(length, " tokens given, allowed ", least, " to ", most));
  }
  return violations.ToStatus();
}

// Token ids of the wire become the prompt and are gone there.
absl::Status TakeTokenIds(v1::TokenIds& wire, const Engine& engine, int64_t least, int64_t most,
                          std::vector<TokenId>* prompt) {
  // Their number first: they may be as many as a message holds.
  absl::Status status = CheckPromptLength("token_ids.ids", wire.ids_size(), least, most);
  if (status.ok()) status = CheckTokenIds(wire, engine);
  if (!status.ok()) return status;
  prompt->assign(wire.ids().begin(), wire.ids().end());
  return status;
}

absl::Status CheckScoreFrom(int64_t from, int64_t tokens) {
  FieldViolations violations;
  violations.CheckRange<int64_t>("from", from, 1, tokens - 1);
  return violations.ToStatus();
}

}  // namespace

EntryLimits EntryLimitsOf(const v1::Limits& limits) {
  return {{"mambad.v1.Stopping.stop_strings", limits.stop_strings()},
          {"mambad.v1.Sampling.logit_bias", limits.logit_bias()},
          {"mambad.v1.Conversation.messages", limits.messages()}};
}

bool HasText(const v1::GenerateRequest& wire) {
  return wire.input_case() == v1::GenerateRequest::kText ||
         wire.input_case() == v1::GenerateRequest::kConversation;
}

bool IsValidRequestId(absl::string_view id) {
  return id.size() <= kLongestRequestId && std::all_of(id.begin(), id.end(), [](char c) {
           return absl::ascii_isprint(static_cast<unsigned char>(c));
         });
}

v1::Limits EffectiveLimits(const Engine& engine, const RequestLimits& limits) {
  v1::Limits result;
  const int64_t context = engine.model().context;
  result.set_context(context);
  result.set_prompt_tokens(limits.prompt_tokens > 0 ? std::min(limits.prompt_tokens, context - 1)
                                                    : context - 1);
  result.set_message_bytes(limits.message_bytes);
  // Samples of one request run together, so that they must fit into the slots.
  result.set_n(std::min(limits.samples, engine.options().max_sequences));
  result.set_logprobs(std::min(limits.logprobs, engine.model().vocabulary));
  result.set_stop_strings(limits.stop_strings);
  result.set_stop_string_bytes(limits.stop_string_bytes);
  result.set_stop_token_ids(std::min(limits.stop_token_ids, engine.model().most_stop_token_ids));
  result.set_logit_bias(limits.logit_bias);
  result.set_draft_length(engine.options().speculation ? engine.options().max_draft_length : 0);
  result.set_sequences(engine.options().max_sequences);
  result.set_waiting(engine.options().max_waiting);
  result.set_messages(limits.messages);
  if (engine.tokenizer() != nullptr)
    result.set_text_bytes(MostScored(result) * LongestPiece(*engine.tokenizer()));
  return result;
}

absl::StatusOr<PreparedGenerate> PrepareGenerate(v1::GenerateRequest& wire, const Engine& engine,
                                                 const v1::Limits& limits) {
  FieldViolations unserved;
  if (!wire.session_id().empty()) unserved.Add("session_id", "sessions are not served");
  if (wire.keep_session()) unserved.Add("keep_session", "sessions are not served");
  if (!unserved.empty()) return unserved.ToStatus(absl::StatusCode::kUnimplemented);

  PreparedGenerate result;
  Request& request = result.request;
  FieldViolations violations;
  request.sampling = ConvertSampling(wire.sampling(), engine, limits, &violations);
  request.stopping = ConvertStopping(wire.stopping(), engine, limits, &violations);
  request.output = ConvertOutput(wire.output(), engine, limits, &violations);
  request.speculation = ConvertSpeculation(wire.speculation(), engine, limits, &violations);
  request.priority = ConvertPriority(wire.priority(), &violations);
  if (wire.output().has_stream_interval()) result.stream_interval = wire.output().stream_interval();
  CheckRequestId(wire.request_id(), &violations);
  if (!violations.empty()) return violations.ToStatus();

  absl::Status input;
  switch (wire.input_case()) {
    case v1::GenerateRequest::kText:
      input = CheckText(wire.text(), engine, limits);
      break;
    case v1::GenerateRequest::kTokenIds:
      input = TakeTokenIds(*wire.mutable_token_ids(), engine, 1, limits.prompt_tokens(),
                           &request.prompt);
      wire.clear_token_ids();
      break;
    case v1::GenerateRequest::kConversation:
      input = CheckConversation(wire.conversation(), engine, limits);
      break;
    case v1::GenerateRequest::INPUT_NOT_SET:
      input = NoInput("text, token_ids, conversation");
      break;
  }
  if (!input.ok()) return input;
  return result;
}

absl::StatusOr<Request> PrepareScore(v1::ScoreRequest& wire, const Engine& engine,
                                     const v1::Limits& limits) {
  FieldViolations violations;
  Request request;
  violations.CheckRange("alternatives", wire.alternatives(), 0, limits.logprobs());
  request.output.prompt_logprobs = wire.alternatives();
  request.priority = ConvertPriority(wire.priority(), &violations);
  CheckRequestId(wire.request_id(), &violations);
  if (!violations.empty()) return violations.ToStatus();
  request.score_from = wire.has_from() ? wire.from() : 1;

  absl::Status input;
  if (wire.input_case() == v1::ScoreRequest::kText) {
    input = CheckText(wire.text(), engine, limits);
  } else if (wire.input_case() == v1::ScoreRequest::kTokenIds) {
    input = TakeTokenIds(*wire.mutable_token_ids(), engine, 2, MostScored(limits), &request.prompt);
    wire.clear_token_ids();
    if (input.ok())
      input = CheckScoreFrom(*request.score_from, static_cast<int64_t>(request.prompt.size()));
  } else {
    input = NoInput("text, token_ids");
  }
  if (!input.ok()) return input;
  return request;
}

absl::StatusOr<std::vector<TokenId>> ReadPrompt(const v1::GenerateRequest& wire,
                                                const Engine& engine, const v1::Limits& limits,
                                                const std::atomic<bool>& over) {
  const bool is_text = wire.input_case() == v1::GenerateRequest::kText;
  auto prompt = is_text ? ReadText(wire.text(), engine, over)
                        : ReadConversation(wire.conversation(), engine, over);
  if (!prompt.ok()) return prompt;
  absl::Status length =
      CheckPromptLength(is_text ? "text" : "conversation", static_cast<int64_t>(prompt->size()), 1,
                        limits.prompt_tokens());
  if (!length.ok()) return length;
  return prompt;
}

absl::StatusOr<std::vector<TokenId>> ReadPrompt(const v1::ScoreRequest& wire, const Engine& engine,
                                                const v1::Limits& limits,
                                                const std::atomic<bool>& over) {
  auto prompt = ReadText(wire.text(), engine, over);
  if (!prompt.ok()) return prompt;
  const auto tokens = static_cast<int64_t>(prompt->size());
  absl::Status status = CheckPromptLength("text", tokens, 2, MostScored(limits));
  if (status.ok()) status = CheckScoreFrom(wire.has_from() ? wire.from() : 1, tokens);
  if (!status.ok()) return status;
  return prompt;
}

}  // namespace mambad::server
