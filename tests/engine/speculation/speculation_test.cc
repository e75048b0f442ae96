// Invariant 4: sampled output has the target's distribution, whatever drafts were proposed. Three
// tokens are drawn for thousands of seeds; how often each triple comes is compared, by chi-square,
// with its probability under the double precision oracle. Seeds are fixed, so that the outcome is
// too.

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/arithmetic.h"
#include "tests/engine/engine_driver.h"
#include "tests/support/formula_models.h"
#include "tests/support/model_directory.h"
#include "tests/support/oracle.h"

namespace mambad::testing {
namespace {

constexpr float kTemperature = 1.5f;
constexpr int kDrawn = 3;  // tokens
const std::vector<TokenId>& Allowed() {
  static const auto* ids = new std::vector<TokenId>{3, 7, 11, 19};
  return *ids;
}
// Of allowed tokens that repeat, so that prompt lookup has something to propose.
const std::vector<TokenId>& Prompt() {
  static const auto* ids = new std::vector<TokenId>{3, 7, 11, 3, 19, 7, 11, 3, 7};
  return *ids;
}

using Triple = std::vector<TokenId>;

// Probability of every continuation of `tokens` by the rest of kDrawn allowed tokens.
void AddProbabilities(const oracle::Oracle& truth, std::vector<TokenId>& tokens, double probability,
                      std::map<Triple, double>& all) {
  if (tokens.size() == Prompt().size() + kDrawn) {
    all[Triple(tokens.end() - kDrawn, tokens.end())] = probability;
    return;
  }
  const std::vector<double> logits = truth.Logits(tokens).back();
  double total = 0;
  for (const TokenId id : Allowed()) total += std::exp(logits[id] / kTemperature);
  for (const TokenId id : Allowed()) {
    tokens.push_back(id);
    AddProbabilities(truth, tokens, probability * std::exp(logits[id] / kTemperature) / total, all);
    tokens.pop_back();
  }
}

// Triples expected less than five times are counted together.
double ChiSquare(const std::map<Triple, int>& seen, const std::map<Triple, double>& probabilities,
                 int draws, int* degrees) {
  double sum = 0, rare_expected = 0;
  int rare_seen = 0;
  *degrees = -1;
  const auto add = [&](double count, double expected) {
    sum += (count - expected) * (count - expected) / expected;
    ++*degrees;
  };
  for (const auto& [triple, probability] : probabilities) {
    const auto found = seen.find(triple);
    const int count = found == seen.end() ? 0 : found->second;
    if (probability * draws < 5) {
      rare_expected += probability * draws;
      rare_seen += count;
    } else {
      add(count, probability * draws);
    }
  }
  if (rare_expected > 0) add(rare_seen, std::max(rare_expected, 1e-9));
  return sum;
}

// Exceeded once in ten thousand times by chance (Wilson and Hilferty's approximation).
double Critical(int degrees) {
  const double part = 2.0 / (9.0 * degrees);
  return degrees * std::pow(1 - part + 3.719 * std::sqrt(part), 3);
}

class SampledOutput : public ::testing::TestWithParam<std::tuple<std::string, Arithmetic>> {
 protected:
  static constexpr int kDraws = 4000;

  static std::string Model() { return std::get<0>(GetParam()); }
  static Arithmetic Computed() { return std::get<1>(GetParam()); }
  static oracle::OracleOptions OracleOptions() {
    return {.bfloat16_matrices = Computed().weights == ComputeType::kBFloat16,
            .bfloat16_activations = Computed().activations == ComputeType::kBFloat16};
  }

  // How often each triple comes with drafts of `mode` from `driver`; the drafts accepted and
  // rejected are added up.
  std::map<Triple, int> Draw(EngineDriver& driver, SpeculationMode mode) {
    std::map<Triple, int> seen;
    for (int first = 0; first < kDraws; first += 200) {
      std::vector<std::shared_ptr<CollectingSink>> sinks;
      for (int i = first; i < first + 200; ++i) {
        Request request;
        request.prompt = Prompt();
        request.sampling.temperature = kTemperature;
        request.sampling.allowed_token_ids = Allowed();
        request.sampling.seed = i;
        request.stopping.max_tokens = kDrawn;
        request.stopping.ignore_eos = true;
        request.speculation.mode = mode;
        request.speculation.draft_length = mode == SpeculationMode::kOff ? 0 : 2;
        sinks.push_back(driver.Send(std::move(request)));
      }
      driver.RunAll();
      for (const auto& sink : sinks) {
        const Answer& answer = sink->answers[0];
        EXPECT_EQ(answer.finishes, 1);
        ++seen[answer.tokens];
        if (!answer.stats.has_value()) continue;
        accepted_ += answer.stats->speculation.accepted;
        rejected_ += answer.stats->speculation.drafted - answer.stats->speculation.accepted;
      }
    }
    return seen;
  }

  int64_t accepted_ = 0, rejected_ = 0;
};

TEST_P(SampledOutput, Invariant4HasTheTargetsDistribution) {
  TemporaryDirectory exact, rounded;
  const FormulaModel model = MakeFormulaModel(Model());
  model.directory.Write(exact.path(), StoredAs::kFloat32);
  model.directory.Write(rounded.path(), StoredAs::kBFloat16);
  const auto truth = oracle::Oracle::Open(exact.path(), OracleOptions());
  ASSERT_TRUE(truth.ok()) << truth.status();
  std::map<Triple, double> probabilities;
  std::vector<TokenId> tokens = Prompt();
  AddProbabilities(**truth, tokens, 1, probabilities);

  EngineOptions options = Computed().AddedTo({});
  options.threads = 1;
  EngineOptions with_good_draft = options;
  with_good_draft.draft_model = rounded.path();
  EngineDriver bad(Model(), Model(), options), good(Model(), "", with_good_draft);
  // Drafts that propose some tokens only: two of those allowed among others, and none of them.
  const auto with_list = [&](const char* list, const TemporaryDirectory& directory) {
    FormulaModel draft = model;
    draft.directory.AddFile("proposed_tokens.json", list);
    draft.directory.Write(directory.path(), StoredAs::kBFloat16);
    EngineOptions with_draft = options;
    with_draft.draft_model = directory.path();
    return with_draft;
  };
  TemporaryDirectory some_directory, none_directory;
  EngineDriver some(Model(), "", with_list("[2, 7, 19, 30]", some_directory)),
      none(Model(), "", with_list("[0, 8, 49]", none_directory));
  struct Way {
    const char* name;
    EngineDriver& driver;
    SpeculationMode mode;
    bool accepts, rejects;
  };
  const Way ways[] = {
      {"plain", bad, SpeculationMode::kOff, false, false},
      {"a draft model with other weights", bad, SpeculationMode::kDraftModel, true, true},
      {"a draft model nearly the target", good, SpeculationMode::kDraftModel, true, false},
      {"a draft that proposes two of the four", some, SpeculationMode::kDraftModel, true, true},
      {"a draft that proposes none of them", none, SpeculationMode::kDraftModel, true, true},
      {"prompt lookup", bad, SpeculationMode::kPromptLookup, true, true}};
  for (const Way& way : ways) {
    SCOPED_TRACE(way.name);
    accepted_ = rejected_ = 0;
    const std::map<Triple, int> seen = Draw(way.driver, way.mode);
    int degrees = 0;
    const double distance = ChiSquare(seen, probabilities, kDraws, &degrees);
    EXPECT_GT(degrees, 5);  // or the distribution says too little
    EXPECT_LT(distance, Critical(degrees)) << degrees << " degrees of freedom";
    EXPECT_GE(accepted_, way.accepts ? 30 : 0);
    EXPECT_GE(rejected_, way.rejects ? 100 : 0);
  }

  // The test would see a target of other weights.
  TemporaryDirectory other;
  MakeFormulaModel(Model(), 1).directory.Write(other.path(), StoredAs::kFloat32);
  std::map<Triple, double> others;
  AddProbabilities(**oracle::Oracle::Open(other.path(), OracleOptions()), tokens, 1, others);
  int degrees = 0;
  const double distance =
      ChiSquare(Draw(bad, SpeculationMode::kDraftModel), others, kDraws, &degrees);
  EXPECT_GT(distance, Critical(std::max(degrees, 1)));
}

INSTANTIATE_TEST_SUITE_P(
    Formula, SampledOutput,
    ::testing::Combine(::testing::Values("llama_llama3", "mamba_rank", "mamba2", "hybrid_mamba",
                                         "hybrid_mamba2"),
                       ::testing::ValuesIn(ExtremeArithmetics())),
    [](const auto& info) { return std::get<0>(info.param) + "_" + std::get<1>(info.param).name; });

}  // namespace
}  // namespace mambad::testing
