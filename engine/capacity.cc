#include "engine/capacity.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/parameter_checks.h"
#include "engine/sampler.h"
#include "kernels/backend.h"

namespace mambad {
namespace {

// Log-probabilities of a prompt are held until its first token: 16 MiB a request at most.
constexpr int64_t kMaxPromptLogprobBytes = int64_t{1} << 24;

void CheckPromptLogprobs(const Request& request, FieldErrors* errors) {
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

}  // namespace

absl::Status Capacity::Validate(const Request& request) const {
  FieldErrors errors;
  CheckPrompt(request, &errors);
  CheckParameters(
      request,
      {facts_.model, facts_.options, facts_.tokenizer != nullptr, facts_.draft_model.has_value()},
      &errors);
  if (request.session != nullptr) CheckSession(request, &errors);
  if (errors.empty()) CheckRoom(request, &errors);
  return errors.ToStatus();
}

void Capacity::CheckPrompt(const Request& request, FieldErrors* errors) const {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const bool scoring = request.score_from.has_value();
  const int64_t least = scoring ? 2 : 1, most = facts_.model.context - (scoring ? 0 : 1);
  if (prompt < least || prompt > most) {
    errors->Add("prompt", absl::StrCat(prompt, " tokens given, allowed ", least, " to ", most));
  }
  if (scoring) errors->CheckRange<int64_t>("from", *request.score_from, 1, prompt - 1);
  errors->CheckIds("prompt", request.prompt, facts_.model.vocabulary);
}

// What a session's models have read is not read again: there are no logits of it, and one state.
void Capacity::CheckSession(const Request& request, FieldErrors* errors) const {
  errors->CheckRange("output.n", request.output.samples, 1, 1);
  if (request.output.prompt_logprobs >= 0)
    errors->Add("output.prompt_logprobs", "given, allowed without a session only");
}

// What one request takes must fit an empty engine. Samples that name their length are never
// preempted and keep the prompt's pages in common; others may have to start anew, each with pages
// of its own.
void Capacity::CheckRoom(const Request& request, FieldErrors* errors) const {
  const int samples = request.output.samples;
  const int rows = facts_.options.max_penalised;
  if (samples > rows && (HasPenalties(request.sampling) || HasBiases(request.sampling))) {
    errors->Add(
        "output.n",
        absl::StrCat(samples, " samples with penalties or biases given, allowed at most ", rows));
  }
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t limit = TokenLimit(request);
  for (const CacheSize* cache : {&target_, &draft_}) {
    if (cache->pages == 0) continue;
    const int64_t longest = std::max(limit, prompt + (request.score_from.has_value() ? 0 : 1));
    const bool shares = cache == &target_ && request.stopping.max_tokens > 0;
    const int64_t shared = shares ? cache->PagesShared(prompt - 1) : 0;
    if (shared + samples * (cache->PagesFor(longest) - shared) <= cache->pages) continue;
    errors->Add("output.n",
                absl::StrCat(samples, " samples of up to ", longest, " tokens given, allowed ",
                             cache->pages * kernels::kPageTokens,
                             " tokens of cache for all samples together"));
  }
  CheckPromptLogprobs(request, errors);
}

int64_t Capacity::TokenLimit(const Request& request) const {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  if (request.score_from.has_value()) return prompt;
  int64_t limit = facts_.model.context;
  if (request.stopping.max_tokens > 0) return std::min(limit, prompt + request.stopping.max_tokens);
  for (const CacheSize* cache : {&target_, &draft_}) {
    if (cache->pages == 0) continue;
    limit = std::min(limit, cache->pages / request.output.samples * kernels::kPageTokens);
  }
  return limit;
}

RequestSize Capacity::SizeOf(const Request& request) const {
  RequestSize size;
  size.prompt = static_cast<int64_t>(request.prompt.size());
  size.limit = TokenLimit(request) - size.prompt;
  size.named = request.stopping.max_tokens > 0 || request.score_from.has_value();
  size.samples = request.output.samples;
  return size;
}

ServiceDemand Capacity::DemandOf(const Request& request, const ServicePace& pace) const {
  const RequestSize size = SizeOf(request);
  ServiceDemand demand = pace.Demand(size);
  const double tokens =
      size.named ? static_cast<double>(size.limit) : pace.TokensLeft(0, size.limit, false);
  demand.pages =
      PagesFor(size.samples, size.prompt + static_cast<int64_t>(tokens), size.prompt - 1);
  return demand;
}

int64_t Capacity::PagesFor(int samples, int64_t positions, int64_t forked_at) const {
  const int64_t shared = target_.PagesShared(forked_at);
  const int64_t pages = shared + samples * (target_.PagesFor(positions) - shared);
  return std::max(pages, samples * draft_.PagesFor(positions));
}

}  // namespace mambad
