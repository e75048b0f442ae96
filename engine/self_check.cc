#include "engine/self_check.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/time/clock.h"

namespace mambad {
namespace {

constexpr int kAnswerTokens = 12;
constexpr RequestId kFirstId = RequestId{1} << 62;  // far from the ids that requests get

class Collector : public EventSink {
 public:
  bool OnEvent(const TokenEvent& event) override {
    tokens.insert(tokens.end(), event.tokens.begin(), event.tokens.end());
    return true;
  }
  std::vector<TokenId> tokens;
};

// A prompt that repeats itself, so that prompt lookup has something to propose.
std::vector<TokenId> FixedPrompt(int which, int vocabulary) {
  std::vector<TokenId> prompt;
  for (int i = 0; i < 9 + 4 * which; ++i)
    prompt.push_back((37 * (i % 5) + 101 * which + 11) % vocabulary);
  return prompt;
}

std::vector<std::vector<TokenId>> Decode(EngineCore& core, SpeculationMode mode, int prompts) {
  const EngineFacts& facts = core.facts();
  std::vector<std::shared_ptr<Collector>> collectors;
  for (int i = 0; i < prompts; ++i) {
    Request request;
    request.prompt = FixedPrompt(i, facts.model.vocabulary);
    request.stopping.max_tokens = kAnswerTokens;
    request.stopping.ignore_eos = true;
    request.speculation.mode = mode;
    if (mode != SpeculationMode::kOff)
      request.speculation.draft_length = std::min(3, facts.options.max_draft_length);
    collectors.push_back(std::make_shared<Collector>());
    if (core.Validate(request).ok())
      core.Admit(kFirstId + i, std::move(request), collectors.back(), absl::Now()).IgnoreError();
  }
  while (core.Step(absl::Now())) {
  }
  std::vector<std::vector<TokenId>> answers;
  for (const auto& collector : collectors) answers.push_back(std::move(collector->tokens));
  return answers;
}

}  // namespace

bool SelfCheck(EngineCore& core) {
  const EngineFacts& facts = core.facts();
  const absl::Time start = absl::Now();
  int prompts = 1;
  std::vector<std::vector<TokenId>> plain = Decode(core, SpeculationMode::kOff, prompts);
  if (absl::Now() - start < absl::Milliseconds(50)) {
    prompts = std::min(3, facts.options.max_sequences);
    plain = Decode(core, SpeculationMode::kOff, prompts);
  }
  if (facts.draft_model.has_value() && Decode(core, SpeculationMode::kDraftModel, prompts) != plain)
    return false;
  return !facts.options.prompt_lookup ||
         Decode(core, SpeculationMode::kPromptLookup, prompts) == plain;
}

}  // namespace mambad
