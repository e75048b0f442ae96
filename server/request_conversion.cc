#include "server/request_conversion.h"

#include <algorithm>
#include <random>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "engine/parameter_checks.h"
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
  if (wire.has_temperature()) result.temperature = wire.temperature();
  if (wire.has_min_p()) result.min_p = wire.min_p();
  if (wire.has_top_p()) result.top_p = wire.top_p();
  if (wire.has_top_k()) result.top_k = wire.top_k();
  if (wire.has_repetition_penalty()) result.repetition_penalty = wire.repetition_penalty();
  if (wire.has_presence_penalty()) result.presence_penalty = wire.presence_penalty();
  if (wire.has_frequency_penalty()) result.frequency_penalty = wire.frequency_penalty();
  result.seed = wire.has_seed() ? wire.seed() : DrawSeed();
  CheckCount("sampling.logit_bias", wire.logit_bias_size(), limits.logit_bias(), violations);
  for (const auto& [id, bias] : wire.logit_bias()) result.logit_bias.emplace_back(id, bias);
  std::sort(result.logit_bias.begin(), result.logit_bias.end());  // a map's order is not its own
  CheckCount("sampling.allowed_token_ids", wire.allowed_token_ids_size(), engine.model().vocabulary,
             violations);
  result.allowed_token_ids.assign(wire.allowed_token_ids().begin(), wire.allowed_token_ids().end());
  return result;
}

StoppingParams ConvertStopping(const v1::Stopping& wire, const v1::Limits& limits,
                               FieldViolations* violations) {
  StoppingParams result;
  if (wire.has_max_tokens()) {
    violations->CheckRange<int64_t>("stopping.max_tokens", wire.max_tokens(), 1, limits.context());
    result.max_tokens = wire.max_tokens();
  }
  if (wire.has_min_tokens()) result.min_tokens = wire.min_tokens();
  CheckCount("stopping.stop_strings", wire.stop_strings_size(), limits.stop_strings(), violations);
  for (int i = 0; i < wire.stop_strings_size(); ++i) {
    const auto bytes = static_cast<int64_t>(wire.stop_strings(i).size());
    if (bytes >= 1 && bytes <= limits.stop_string_bytes()) continue;
    violations->Add(absl::StrCat("stopping.stop_strings[", i, "]"),
                    absl::StrCat(bytes, " bytes given, allowed 1 to ", limits.stop_string_bytes()));
  }
  CheckCount("stopping.stop_token_ids", wire.stop_token_ids_size(), limits.stop_token_ids(),
             violations);
  result.stop_strings.assign(wire.stop_strings().begin(), wire.stop_strings().end());
  result.stop_token_ids.assign(wire.stop_token_ids().begin(), wire.stop_token_ids().end());
  result.ignore_eos = wire.ignore_eos();
  result.include_stop = wire.include_stop();
  return result;
}

OutputParams ConvertOutput(const v1::Output& wire, const v1::Limits& limits,
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
  return result;
}

SpeculationParams ConvertSpeculation(const v1::Speculation& wire, const v1::Limits& limits,
                                     FieldViolations* violations) {
  SpeculationParams result;
  switch (wire.mode()) {
    case v1::Speculation::MODE_UNSPECIFIED:
    case v1::Speculation::AUTO:
      break;
    case v1::Speculation::OFF:
      result.mode = SpeculationMode::kOff;
      break;
    case v1::Speculation::DRAFT_MODEL:
      result.mode = SpeculationMode::kDraftModel;
      break;
    case v1::Speculation::PROMPT_LOOKUP:
      result.mode = SpeculationMode::kPromptLookup;
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

// What the engine would refuse, refused before any text is read, with what is over the server's own
// limits.
void CheckWithEngine(const Request& request, const Engine& engine, FieldViolations* violations) {
  CheckParameters(request,
                  {engine.model(), engine.options(), engine.tokenizer() != nullptr,
                   engine.draft_model() != nullptr},
                  violations);
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
  PreparedGenerate result;
  Request& request = result.request;
  FieldViolations violations;
  request.sampling = ConvertSampling(wire.sampling(), engine, limits, &violations);
  request.stopping = ConvertStopping(wire.stopping(), limits, &violations);
  request.output = ConvertOutput(wire.output(), limits, &violations);
  request.speculation = ConvertSpeculation(wire.speculation(), limits, &violations);
  request.priority = wire.priority();
  request.prefix_cache = !wire.has_prefix_cache() || wire.prefix_cache();
  if (wire.output().has_stream_interval()) result.stream_interval = wire.output().stream_interval();
  CheckRequestId(wire.request_id(), &violations);
  CheckWithEngine(request, engine, &violations);
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
      if (wire.session_id().empty()) input = NoInput("text, token_ids, conversation");
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
  request.priority = wire.priority();
  request.score_from = wire.has_from() ? wire.from() : 1;
  CheckRequestId(wire.request_id(), &violations);
  CheckWithEngine(request, engine, &violations);
  if (!violations.empty()) return violations.ToStatus();

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
                                                const std::atomic<bool>& over, bool begins) {
  const bool is_text = wire.input_case() == v1::GenerateRequest::kText;
  auto prompt = is_text ? ReadText(wire.text(), engine, over, begins)
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
