// EngineCore's door: the checks of a request against what was opened. Every message reads "field:
// what was given, what is allowed"; the server makes google.rpc.BadRequest of it.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "engine/engine_core.h"
#include "engine/text/utf8.h"

namespace mambad {
namespace {

// Log-probabilities of a prompt are held until its first token: 16 MiB a request at most.
constexpr int64_t kMaxPromptLogprobBytes = int64_t{1} << 24;

// "field: given, allowed".
template <typename Given, typename... Allowed>
absl::Status Refuse(const std::string& field, const Given& given, const Allowed&... allowed) {
  return absl::InvalidArgumentError(absl::StrCat(field, ": ", given, " given, ", allowed...));
}

absl::Status CheckRange(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return Refuse(field, value, "allowed ", low, " to ", high);
}

absl::Status CheckIds(const char* field, const std::vector<TokenId>& ids, int vocabulary) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocabulary) continue;
    return Refuse(absl::StrCat(field, "[", i, "]"), absl::StrCat("id ", ids[i]), "allowed 0 to ",
                  vocabulary - 1);
  }
  return absl::OkStatus();
}

absl::Status FirstError(absl::Span<const absl::Status> checks) {
  const auto failed =
      std::find_if(checks.begin(), checks.end(), [](const absl::Status& s) { return !s.ok(); });
  return failed == checks.end() ? absl::OkStatus() : *failed;
}

}  // namespace

absl::Status EngineCore::Validate(const Request& request) const {
  // In this order: each may rely on what those before it have seen to.
  if (absl::Status status = ValidatePrompt(request); !status.ok()) return status;
  if (absl::Status status = ValidateSampling(request.sampling, facts_.model.vocabulary);
      !status.ok())
    return status;
  if (absl::Status status = ValidateStopping(request); !status.ok()) return status;
  if (absl::Status status = ValidateOutput(request); !status.ok()) return status;
  return ValidateRoom(request);
}

absl::Status EngineCore::ValidatePrompt(const Request& request) const {
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const bool scoring = request.score_from.has_value();
  const int64_t least = scoring ? 2 : 1, most = facts_.model.context - (scoring ? 0 : 1);
  if (prompt < least || prompt > most)
    return Refuse("prompt", absl::StrCat(prompt, " tokens"), "allowed ", least, " to ", most);
  if (scoring) {
    const absl::Status status = CheckRange("from", *request.score_from, 1, prompt - 1);
    if (!status.ok()) return status;
  }
  return CheckIds("prompt", request.prompt, facts_.model.vocabulary);
}

absl::Status EngineCore::ValidateStopping(const Request& request) const {
  const StoppingParams& stopping = request.stopping;
  const int vocabulary = facts_.model.vocabulary;
  const int64_t most_stops =
      stopping.ignore_eos ? kernels::kMaxStopIds : facts_.model.most_stop_token_ids;
  if (static_cast<int64_t>(stopping.stop_token_ids.size()) > most_stops) {
    return Refuse("stopping.stop_token_ids", absl::StrCat(stopping.stop_token_ids.size(), " ids"),
                  "allowed at most ", most_stops);
  }
  const absl::Status checks[] = {
      CheckRange("stopping.max_tokens", stopping.max_tokens, 0, kMaxContext),
      CheckRange("stopping.min_tokens", stopping.min_tokens, 0,
                 stopping.max_tokens > 0 ? stopping.max_tokens : facts_.model.context),
      CheckIds("stopping.stop_token_ids", stopping.stop_token_ids, vocabulary)};
  if (absl::Status status = FirstError(checks); !status.ok()) return status;
  if (stopping.min_tokens > 0 && !AllowsMoreThanStops(request)) {
    return Refuse("stopping.min_tokens", stopping.min_tokens,
                  "allowed 0 when no token but stop ids may be sampled");
  }
  if (stopping.stop_strings.empty()) return absl::OkStatus();
  if (facts_.tokenizer == nullptr) {
    return Refuse("stopping.stop_strings", absl::StrCat(stopping.stop_strings.size(), " strings"),
                  "allowed none: the model has no tokenizer");
  }
  for (size_t i = 0; i < stopping.stop_strings.size(); ++i) {
    const std::string& stop = stopping.stop_strings[i];
    if (!stop.empty() && text::CheckUtf8(stop).ok()) continue;
    return Refuse(absl::StrCat("stopping.stop_strings[", i, "]"),
                  absl::StrCat(stop.size(), " bytes"), "allowed at least one byte of valid UTF-8");
  }
  return absl::OkStatus();
}

// Whether a token may be sampled that does not end the answer.
bool EngineCore::AllowsMoreThanStops(const Request& request) const {
  const auto stops = [&](TokenId id) {
    const auto among = [id](const std::vector<TokenId>& ids) {
      return std::find(ids.begin(), ids.end(), id) != ids.end();
    };
    return among(request.stopping.stop_token_ids) ||
           (!request.stopping.ignore_eos && among(facts_.model.eos_ids));
  };
  const std::vector<TokenId>& allowed = request.sampling.allowed_token_ids;
  if (!allowed.empty()) return !std::all_of(allowed.begin(), allowed.end(), stops);
  // Stop ids are few: an id beyond them is found among the first.
  for (TokenId id = 0; id < std::min(facts_.model.vocabulary, kernels::kMaxStopIds + 1); ++id) {
    if (!stops(id)) return true;
  }
  return false;
}

absl::Status EngineCore::ValidateOutput(const Request& request) const {
  const OutputParams& output = request.output;
  const bool scoring = request.score_from.has_value();
  // A score's alternatives have a field of their own on the wire.
  const char* prompt_field = scoring ? "alternatives" : "output.prompt_logprobs";
  const int most = std::min(kernels::kMaxAlternatives, facts_.model.vocabulary);
  const absl::Status checks[] = {
      CheckRange("output.logprobs", output.logprobs, -1, most),
      CheckRange(prompt_field, output.prompt_logprobs, -1, most),
      CheckRange("output.n", output.samples, 1, scoring ? 1 : facts_.options.max_sequences),
      CheckRange("speculation.draft_length", request.speculation.draft_length.value_or(0), 0,
                 facts_.options.max_draft_length)};
  if (absl::Status status = FirstError(checks); !status.ok()) return status;
  if (request.speculation.mode == SpeculationMode::kDraftModel && draft_ == nullptr)
    return Refuse("speculation.mode", "DRAFT_MODEL", "allowed only with a draft model loaded");
  if (!scoring && output.prompt_logprobs < 0) return absl::OkStatus();
  const int64_t bytes_each =
      static_cast<int64_t>(sizeof(TokenLogprob)) +
      std::max(0, output.prompt_logprobs) * static_cast<int64_t>(sizeof(std::pair<TokenId, float>));
  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t scored = prompt - request.score_from.value_or(1);
  if (scored * bytes_each <= kMaxPromptLogprobBytes) return absl::OkStatus();
  return Refuse(prompt_field, absl::StrCat(output.prompt_logprobs, " for ", scored, " tokens"),
                "allowed for at most ", kMaxPromptLogprobBytes / bytes_each, " tokens");
}

// What one request takes must fit an empty engine, or it would wait for ever. Samples that name
// their length are never preempted and keep the prompt's pages in common; others may have to start
// anew, each with pages of its own.
absl::Status EngineCore::ValidateRoom(const Request& request) const {
  const int samples = request.output.samples;
  const int rows = facts_.options.max_penalised;
  if (samples > rows && (HasPenalties(request.sampling) || HasBiases(request.sampling)))
    return Refuse("output.n", absl::StrCat(samples, " samples with penalties or biases"),
                  "allowed at most ", rows);
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t limit = TokenLimit(request);
  for (const StatePool* pool : {target_state_.get(), draft_state_.get()}) {
    if (pool == nullptr || pool->pages_total() == 0) continue;
    const int64_t longest = std::max(limit, prompt + (request.score_from.has_value() ? 0 : 1));
    const bool shares = pool == target_state_.get() && request.stopping.max_tokens > 0;
    const int64_t shared = shares ? pool->PagesShared(prompt - 1) : 0;
    if (shared + samples * (pool->PagesFor(longest) - shared) <= pool->pages_total()) continue;
    return Refuse("output.n", absl::StrCat(samples, " samples of up to ", longest, " tokens"),
                  "allowed ", pool->pages_total() * kernels::kPageTokens,
                  " tokens of cache for all samples together");
  }
  return absl::OkStatus();
}

}  // namespace mambad
