#include "engine/self_check.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace mambad {
namespace {

constexpr int kAnswerTokens = 12, kShortestAnswer = 3, kDraftLength = 3;
constexpr RequestId kFirstId = RequestId{1} << 62;  // far from the ids that requests get

class Collector : public EventSink {
 public:
  bool OnEvent(const TokenEvent& event) override {
    tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
    for (const TokenLogprob& logprob : event.logprobs) logprobs.push_back(logprob.logprob);
    if (event.stats.has_value()) drafted += event.stats->speculation.drafted;
    if (event.finish != FinishReason::kNone) finish = event.finish;
    return true;
  }
  std::vector<TokenId> tokens;
  std::vector<float> logprobs;
  int64_t drafted = 0;
  FinishReason finish = FinishReason::kNone;
};

enum class Kind {
  kGreedy,
  kFewTokens,  // greedy, of two tokens
  kSampled,    // of two tokens, too
};

// What is decoded, again and again in different ways. Nothing of its answers is known beforehand.
Request Probe(const EngineFacts& facts, int which, Kind kind) {
  const int vocabulary = facts.model.vocabulary;
  const auto context = static_cast<int>(std::min<int64_t>(facts.model.context, 1000));
  const auto token = [&](int i) { return (37 * i + 101 * which + 11) % vocabulary; };
  Request request;
  if (kind != Kind::kGreedy) {
    // Two tokens in all their pairs, and no others allowed: whatever the answer, its last two have
    // been seen before, so that prompt lookup has something to propose.
    for (int i : {0, 0, 1, 1, 0}) request.prompt.push_back(token(i));
    request.sampling.allowed_token_ids = {token(0), token(1)};
  } else {
    const int length = std::clamp(context - kAnswerTokens, 1, 9 + 4 * which);
    for (int i = 0; i < length; ++i) request.prompt.push_back(token(i % 5));
  }
  request.stopping.max_tokens =
      std::min(kAnswerTokens, context - static_cast<int>(request.prompt.size()));
  request.stopping.ignore_eos = true;
  request.output.logprobs = 0;
  if (kind == Kind::kSampled) {
    request.sampling.temperature = 0.8f;
    request.sampling.seed = 1 + static_cast<uint64_t>(which);
  }
  return request;
}

struct Decoded {
  std::vector<std::vector<TokenId>> tokens;
  std::vector<std::vector<float>> logprobs;
  int64_t drafted = 0;
};

absl::StatusOr<Decoded> Decode(EngineCore& core, absl::FunctionRef<absl::Time()> clock,
                               SpeculationMode mode, int probes, Kind kind) {
  std::vector<std::shared_ptr<Collector>> collectors;
  absl::Status refused;
  for (int i = 0; i < probes; ++i) {
    Request request = Probe(core.facts(), i, kind);
    request.speculation.mode = mode;
    if (mode != SpeculationMode::kOff)
      request.speculation.draft_length =
          std::min(kDraftLength, core.facts().options.max_draft_length);
    collectors.push_back(std::make_shared<Collector>());
    refused.Update(core.Validate(request));
    if (!refused.ok()) break;
    refused.Update(core.Admit(kFirstId + i, std::move(request), collectors.back(), clock()));
    if (!refused.ok()) break;
  }
  while (core.Step(clock)) {
  }
  if (!refused.ok())
    return absl::InternalError(absl::StrCat("a probe was refused: ", refused.message()));
  Decoded decoded;
  for (const auto& collector : collectors) {
    if (collector->finish != FinishReason::kLength)
      return absl::InternalError("a probe did not end by its length");
    for (float logprob : collector->logprobs) {
      if (!std::isfinite(logprob))
        return absl::InternalError("the model gives numbers that are not finite");
    }
    decoded.tokens.push_back(std::move(collector->tokens));
    decoded.logprobs.push_back(std::move(collector->logprobs));
    decoded.drafted += collector->drafted;
  }
  return decoded;
}

absl::Status Compare(EngineCore& core, absl::FunctionRef<absl::Time()> clock, const Decoded& plain,
                     SpeculationMode mode, int probes, Kind kind) {
  const char* drafter = mode == SpeculationMode::kDraftModel ? "the draft model" : "prompt lookup";
  const absl::StatusOr<Decoded> decoded = Decode(core, clock, mode, probes, kind);
  if (!decoded.ok()) {
    return absl::InternalError(absl::StrCat("with ", drafter, ": ", decoded.status().message()));
  }
  // Steps of few rows may end a short answer before a draft model has read its prompt.
  const bool long_enough = core.facts().model.context >= 5 + kAnswerTokens;
  if (decoded->drafted == 0 && long_enough)
    return absl::InternalError(absl::StrCat(drafter, " drafted nothing"));
  if (decoded->tokens != plain.tokens)
    return absl::InternalError(absl::StrCat("with ", drafter, ", other tokens come than without"));
  if (decoded->logprobs != plain.logprobs) {
    return absl::InternalError(
        absl::StrCat("with ", drafter, ", other log-probabilities come than without"));
  }
  return absl::OkStatus();
}

absl::Status CheckDrafters(EngineCore& core, absl::FunctionRef<absl::Time()> clock) {
  const EngineFacts& facts = core.facts();
  const absl::Time start = clock();
  // A draft model is asked both: for any token, and for so few that some of its drafts are
  // accepted, however bad it is.
  for (Kind kind : {Kind::kGreedy, Kind::kFewTokens, Kind::kSampled}) {
    std::vector<SpeculationMode> modes;
    if (facts.draft_model.has_value()) modes.push_back(SpeculationMode::kDraftModel);
    if (facts.options.prompt_lookup && kind != Kind::kGreedy)
      modes.push_back(SpeculationMode::kPromptLookup);
    if (modes.empty()) continue;
    int probes = 1;
    absl::StatusOr<Decoded> plain = Decode(core, clock, SpeculationMode::kOff, probes, kind);
    if (plain.ok() && clock() - start < absl::Milliseconds(50)) {
      probes = std::min(3, facts.options.max_sequences);
      plain = Decode(core, clock, SpeculationMode::kOff, probes, kind);
    }
    if (!plain.ok()) return plain.status();
    for (SpeculationMode mode : modes) {
      if (absl::Status status = Compare(core, clock, *plain, mode, probes, kind); !status.ok())
        return status;
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status SelfCheck(EngineCore& core, absl::FunctionRef<absl::Time()> clock) {
  constexpr int kShortestContext = 5 + kShortestAnswer;
  if (core.facts().model.context < kShortestContext) return absl::OkStatus();
  StepObserver* const observer = core.set_observer(nullptr);
  absl::Status status = CheckDrafters(core, clock);
  core.ForgetHistory();
  core.set_observer(observer);
  return status;
}

}  // namespace mambad
