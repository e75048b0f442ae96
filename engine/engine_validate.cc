// EngineCore's door: the checks of a request against what was opened. Every message reads "field:
// what was given, what is allowed"; the server makes google.rpc.BadRequest of it.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/engine_core.h"
#include "engine/parameter_checks.h"

namespace mambad {
namespace {

// Log-probabilities of a prompt are held until its first token: 16 MiB a request at most.
constexpr int64_t kMaxPromptLogprobBytes = int64_t{1} << 24;

}  // namespace

absl::Status EngineCore::Validate(const Request& request) const {
  FieldErrors errors;
  CheckPrompt(request, &errors);
  CheckParameters(request,
                  {facts_.model, facts_.options, facts_.tokenizer != nullptr,
                   facts_.draft_model.has_value()},
                  &errors);
  if (errors.empty()) CheckRoom(request, &errors);
  return errors.ToStatus();
}

void EngineCore::CheckPrompt(const Request& request, FieldErrors* errors) const {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const bool scoring = request.score_from.has_value();
  const int64_t least = scoring ? 2 : 1, most = facts_.model.context - (scoring ? 0 : 1);
  if (prompt < least || prompt > most) {
    errors->Add("prompt", absl::StrCat(prompt, " tokens given, allowed ", least, " to ", most));
  }
  if (scoring) errors->CheckRange<int64_t>("from", *request.score_from, 1, prompt - 1);
  errors->CheckIds("prompt", request.prompt, facts_.model.vocabulary);
}

// What one request takes must fit an empty engine, or it would wait for ever. Samples that name
// their length are never preempted and keep the prompt's pages in common; others may have to start
// anew, each with pages of its own.
void EngineCore::CheckRoom(const Request& request, FieldErrors* errors) const {
  const int samples = request.output.samples;
  const int rows = facts_.options.max_penalised;
  if (samples > rows && (HasPenalties(request.sampling) || HasBiases(request.sampling))) {
    errors->Add(
        "output.n",
        absl::StrCat(samples, " samples with penalties or biases given, allowed at most ", rows));
  }
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t limit = TokenLimit(request);
  for (const StatePool* pool : {parts_.target_state.get(), parts_.draft_state.get()}) {
    if (pool == nullptr || pool->pages_total() == 0) continue;
    const int64_t longest = std::max(limit, prompt + (request.score_from.has_value() ? 0 : 1));
    const bool shares = pool == parts_.target_state.get() && request.stopping.max_tokens > 0;
    const int64_t shared = shares ? pool->PagesShared(prompt - 1) : 0;
    if (shared + samples * (pool->PagesFor(longest) - shared) <= pool->pages_total()) continue;
    errors->Add("output.n",
                absl::StrCat(samples, " samples of up to ", longest, " tokens given, allowed ",
                             pool->pages_total() * kernels::kPageTokens,
                             " tokens of cache for all samples together"));
  }
  CheckPromptLogprobs(request, errors);
}

void EngineCore::CheckPromptLogprobs(const Request& request, FieldErrors* errors) {
  const bool scoring = request.score_from.has_value();
  const int alternatives = request.output.prompt_logprobs;
  if (!scoring && alternatives < 0) return;
  const int64_t bytes_each =
      static_cast<int64_t>(sizeof(TokenLogprob)) +
      std::max(0, alternatives) * static_cast<int64_t>(sizeof(std::pair<TokenId, float>));
  const int64_t scored =
      static_cast<int64_t>(request.prompt.size()) - request.score_from.value_or(1);
  if (scored * bytes_each <= kMaxPromptLogprobBytes) return;
  errors->Add(scoring ? "alternatives" : "output.prompt_logprobs",
              absl::StrCat(alternatives, " for ", scored, " tokens given, allowed for at most ",
                           kMaxPromptLogprobBytes / bytes_each, " tokens"));
}

}  // namespace mambad
