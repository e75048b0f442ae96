#include "engine/parameter_checks.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/text/utf8.h"
#include "kernels/backend.h"

namespace mambad {
namespace {

void CheckSampling(const SamplingParams& params, int vocabulary, FieldErrors* errors) {
  errors->CheckRange("sampling.temperature", params.temperature, 0.0f, 100.0f);
  errors->CheckRange("sampling.top_p", params.top_p, kLeastTopP, 1.0f);
  errors->CheckRange("sampling.top_k", params.top_k, 0, vocabulary);
  errors->CheckRange("sampling.min_p", params.min_p, 0.0f, 1.0f);
  errors->CheckRange("sampling.repetition_penalty", params.repetition_penalty,
                     kLeastRepetitionPenalty, 100.0f);
  errors->CheckRange("sampling.presence_penalty", params.presence_penalty, -100.0f, 100.0f);
  errors->CheckRange("sampling.frequency_penalty", params.frequency_penalty, -100.0f, 100.0f);
  for (const auto& [id, bias] : params.logit_bias) {
    const std::string field = absl::StrCat("sampling.logit_bias[", id, "]");
    if (id < 0 || id >= vocabulary)
      errors->Add(field, absl::StrCat("id ", id, " given, allowed 0 to ", vocabulary - 1));
    errors->CheckRange(field, bias, -kLargestLogitBias, kLargestLogitBias);
  }
  errors->CheckIds("sampling.allowed_token_ids", params.allowed_token_ids, vocabulary);
}

// Whether a token may be sampled that does not end the answer.
bool AllowsMoreThanStops(const Request& request, const ModelInfo& model) {
  const auto stops = [&](TokenId id) {
    const auto among = [id](const std::vector<TokenId>& ids) {
      return std::find(ids.begin(), ids.end(), id) != ids.end();
    };
    return among(request.stopping.stop_token_ids) ||
           (!request.stopping.ignore_eos && among(model.eos_ids));
  };
  const std::vector<TokenId>& allowed = request.sampling.allowed_token_ids;
  if (!allowed.empty()) return !std::all_of(allowed.begin(), allowed.end(), stops);
  // Stop ids are few: an id beyond them is found among the first.
  for (TokenId id = 0; id < std::min(model.vocabulary, kernels::kMaxStopIds + 1); ++id) {
    if (!stops(id)) return true;
  }
  return false;
}

void CheckStopStrings(const std::vector<std::string>& stop_strings, bool tokenizer,
                      FieldErrors* errors) {
  if (!stop_strings.empty() && !tokenizer)
    errors->Add("stopping.stop_strings",
                absl::StrCat(stop_strings.size(),
                             " strings given, allowed none: the model has no "
                             "tokenizer, use stop_token_ids"));
  for (size_t i = 0; i < stop_strings.size(); ++i) {
    if (!stop_strings[i].empty() && text::CheckUtf8(stop_strings[i]).ok()) continue;
    errors->Add(
        absl::StrCat("stopping.stop_strings[", i, "]"),
        absl::StrCat(stop_strings[i].size(), " bytes given, allowed 1 or more of valid UTF-8"));
  }
}

void CheckStopping(const Request& request, const ParameterBounds& bounds, FieldErrors* errors) {
  const StoppingParams& stopping = request.stopping;
  const int64_t context = bounds.model.context;
  errors->CheckRange<int64_t>("stopping.max_tokens", stopping.max_tokens, 0, context);
  errors->CheckRange<int64_t>("stopping.min_tokens", stopping.min_tokens, 0,
                              stopping.max_tokens > 0 ? stopping.max_tokens : context);
  if (stopping.min_tokens > 0 && !AllowsMoreThanStops(request, bounds.model)) {
    errors->Add("stopping.min_tokens",
                absl::StrCat(stopping.min_tokens,
                             " given, allowed 0 when no token but stop ids may be sampled"));
  }
  const int most_stops =
      stopping.ignore_eos ? kernels::kMaxStopIds : bounds.model.most_stop_token_ids;
  if (static_cast<int64_t>(stopping.stop_token_ids.size()) > most_stops) {
    errors->Add(
        "stopping.stop_token_ids",
        absl::StrCat(stopping.stop_token_ids.size(), " ids given, allowed at most ", most_stops));
  }
  errors->CheckIds("stopping.stop_token_ids", stopping.stop_token_ids, bounds.model.vocabulary);
  CheckStopStrings(stopping.stop_strings, bounds.tokenizer, errors);
}

void CheckOutput(const Request& request, const ParameterBounds& bounds, FieldErrors* errors) {
  const OutputParams& output = request.output;
  const bool scoring = request.score_from.has_value();
  const int most = std::min(kernels::kMaxAlternatives, bounds.model.vocabulary);
  errors->CheckRange("output.logprobs", output.logprobs, -1, most);
  // A score's alternatives have a field of their own on the wire.
  errors->CheckRange(scoring ? "alternatives" : "output.prompt_logprobs", output.prompt_logprobs,
                     -1, most);
  errors->CheckRange("output.n", output.samples, 1, scoring ? 1 : bounds.options.max_sequences);
  if (output.echo && !bounds.tokenizer && !request.echo_text.has_value())
    errors->Add("output.echo", "true given, allowed false: the model has no tokenizer");
}

void CheckSpeculation(const SpeculationParams& params, const ParameterBounds& bounds,
                      FieldErrors* errors) {
  errors->CheckRange("speculation.draft_length", params.draft_length.value_or(0), 0,
                     bounds.options.max_draft_length);
  if (params.mode == SpeculationMode::kDraftModel && !bounds.draft_model)
    errors->Add("speculation.mode", "DRAFT_MODEL given, allowed only with a draft model loaded");
  if (params.mode == SpeculationMode::kPromptLookup && !bounds.options.prompt_lookup)
    errors->Add("speculation.mode", "PROMPT_LOOKUP given, the server has it switched off");
}

}  // namespace

void CheckParameters(const Request& request, const ParameterBounds& bounds, FieldErrors* errors) {
  CheckSampling(request.sampling, bounds.model.vocabulary, errors);
  CheckStopping(request, bounds, errors);
  CheckOutput(request, bounds, errors);
  CheckSpeculation(request.speculation, bounds, errors);
  errors->CheckRange("priority", request.priority, -kHighestPriority, kHighestPriority);
}

}  // namespace mambad
