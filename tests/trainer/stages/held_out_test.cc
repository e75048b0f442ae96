// Numbers on held-out text against their definitions, from logits in one piece.

#include "trainer/stages/held_out.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"
#include "trainer/stages/document_rows.h"
#include "trainer/stages/draft_acceptance.h"
#include "trainer/stages/multiple_choice.h"
#include "trainer/stages/new_model.h"

namespace mambad::trainer {
namespace {

using at::Tensor;
using testing::ErrorOf;
using ::testing::HasSubstr;

class HeldOutTest : public ::testing::Test {
 protected:
  HeldOutTest() : alone_(JoinProcessGroup({}, false)) {
    testing::WriteSmallTokenizer(folder_.path(), false);
    NewModelConfig numbers;
    numbers.family = NewModelConfig::Family::kLlama;
    numbers.width = 16;
    numbers.layers = 2;
    numbers.query_heads = 2;
    model_ = Make(numbers, 1);
    numbers.layers = 1;
    other_ = Make(numbers, 2);
    TokenStoreWriter writer(folder_.path() + "/store", testing::kSmallVocabulary, 1 << 20);
    for (int d = 0; d < 9; ++d) {
      TokenizedDocument document;
      for (int t = 0; t < 10 + d; ++t) {
        document.tokens.push_back((17 * d + t * t) % testing::kSmallVocabulary);
        document.trained.push_back(t > 3);
      }
      documents_.push_back(document);
      writer.Add({document});
    }
    writer.Finish({});
    store_ = std::make_unique<TokenStore>(TokenStore::Open(folder_.path() + "/store"));
  }

  std::unique_ptr<LanguageModel> Make(const NewModelConfig& numbers, uint64_t seed) {
    auto model = LanguageModel::Create(
        NewModelConfiguration(numbers, testing::kSmallVocabulary, folder_.path()), seed, at::kCPU,
        at::kFloat);
    at::NoGradGuard no_grad;
    for (const ModelParameter& parameter : model->parameters()) {
      // Far from uniform, so that nothing agrees by chance.
      if (parameter.description.shape.size() == 2) Tensor(parameter.value).mul_(25);
    }
    return model;
  }

  // log softmax of the tokens after each, [length, vocabulary].
  Tensor LogProbabilities(const LanguageModel& model, const TokenizedDocument& document) const {
    const DocumentRow row = {{document.tokens.begin(), document.tokens.end()}, 0};
    const Tensor hidden = model.Hidden(MoveToDevice(DocumentRows({row}), at::kCPU)).squeeze(0);
    return at::log_softmax(hidden.mm(model.Head().t()).to(at::kDouble), -1);
  }

  testing::TemporaryDirectory folder_;
  std::unique_ptr<ProcessGroup> alone_;
  std::unique_ptr<LanguageModel> model_, other_;
  std::vector<TokenizedDocument> documents_;
  std::unique_ptr<TokenStore> store_;
};

TEST_F(HeldOutTest, AgreesWithDefinitions) {
  at::NoGradGuard no_grad;
  double tokens = 0, entropy = 0, other_entropy = 0, divergence = 0, agreement = 0, overlap = 0;
  for (const TokenizedDocument& document : documents_) {
    const Tensor log_q = LogProbabilities(*model_, document);
    const Tensor log_p = LogProbabilities(*other_, document);
    for (size_t t = 1; t < document.tokens.size(); ++t) {
      if (!document.trained[t]) continue;
      const auto at = static_cast<int64_t>(t) - 1;
      ++tokens;
      entropy -= log_q[at][document.tokens[t]].item<double>();
      other_entropy -= log_p[at][document.tokens[t]].item<double>();
      divergence += (log_p[at].exp() * (log_p[at] - log_q[at])).sum().item<double>();
      agreement += log_p[at].argmax().item<int64_t>() == log_q[at].argmax().item<int64_t>();
      overlap += at::minimum(log_p[at].exp(), log_q[at].exp()).sum().item<double>();
    }
  }
  // One document a row, as above: packed rows would cut them.
  HeldOut held_out(store_.get(), {200, 100, 2}, alone_.get());
  for (int again = 0; again < 2; ++again) {
    std::map<std::string, double> found;
    for (const auto& [name, value] : held_out.Compare(*model_, other_.get())) found[name] = value;
    EXPECT_NEAR(found["valid_cross_entropy"], entropy / tokens, 1e-4);
    EXPECT_NEAR(found["valid_perplexity"], std::exp(entropy / tokens),
                1e-3 * std::exp(entropy / tokens));
    EXPECT_NEAR(found["valid_divergence"], divergence / tokens, 1e-4 * divergence / tokens);
    EXPECT_NEAR(found["valid_perplexity_ratio"], std::exp((entropy - other_entropy) / tokens),
                1e-3 * std::exp((entropy - other_entropy) / tokens));
    EXPECT_NEAR(found["valid_agreement"], agreement / tokens, 1e-6);
    EXPECT_NEAR(found["valid_overlap"], overlap / tokens, 1e-5);
  }
}

// Where the only document that counts is not the one in the first row.
TEST_F(HeldOutTest, RowsInWhichNothingCountsAreRefusedBeforeAnythingRuns) {
  int refused = 0;
  for (int counted = 0; counted < 5; ++counted) {
    const std::string folder = folder_.path() + "/blank-" + std::to_string(counted);
    TokenStoreWriter writer(folder, testing::kSmallVocabulary, 1 << 20);
    for (int d = 0; d < 5; ++d) {
      writer.Add({{std::vector<text::TokenId>(16, d), std::vector<bool>(16, d == counted)}});
    }
    writer.Finish({});
    const TokenStore store = TokenStore::Open(folder);
    HeldOut(&store, {16, 5, 4}, alone_.get());
    const std::string error = ErrorOf([&] { HeldOut few(&store, {16, 1, 4}, alone_.get()); });
    if (error == "nothing was thrown") continue;
    EXPECT_THAT(error, HasSubstr("expected a token that counts in the first 1 rows, found none"));
    ++refused;
  }
  EXPECT_EQ(refused, 4);
}

TEST_F(HeldOutTest, TakesAsManyRowsAsItMay) {
  HeldOut few(store_.get(), {16, 1, 4}, alone_.get()),
      all(store_.get(), {16, 100, 4}, alone_.get());
  EXPECT_NE(few.Compare(*model_, nullptr)[0].second, all.Compare(*model_, nullptr)[0].second);
}

// A draft that is the target itself is always right; another model is not.
TEST_F(HeldOutTest, ADraftEqualToItsTargetIsAlwaysAccepted) {
  AcceptanceOptions options;
  options.draft_tokens = 3;
  options.answer_tokens = 20;
  for (const double temperature : {0.0, 1.0}) {
    options.temperature = temperature;
    const SpeculationCounts same = MeasureAcceptance(*model_, *model_, *store_, options);
    EXPECT_GT(same.verifications, 10);
    EXPECT_GT(same.AcceptedShare(), 0.99);
    EXPECT_LT(MeasureAcceptance(*model_, *other_, *store_, options).AcceptanceAt(0), 0.7);
  }
}

// Of each token that was written, from log p and log q [tokens, vocabulary] at the token before it.
std::vector<float> Acceptance(const WrittenAnswer& answer, const Tensor& log_p, const Tensor& log_q,
                              double temperature) {
  std::vector<float> acceptance;
  for (size_t t = answer.prompt_tokens; t < answer.tokens.size(); ++t) {
    const auto at = static_cast<int64_t>(t) - 1;
    const double ratio =
        std::exp((log_p[at][answer.tokens[t]] - log_q[at][answer.tokens[t]]).item<double>());
    double sum = 0;
    for (int64_t j = 0; j < log_p.size(1) && temperature > 0; ++j) {
      const double p = std::exp(log_p[at][j].item<double>());
      const double q = std::exp(log_q[at][j].item<double>());
      sum += std::max(p, q > 0 ? q * ratio : 0);
    }
    const bool best = log_q[at].argmax().item<int64_t>() == answer.tokens[t];
    acceptance.push_back(static_cast<float>(temperature == 0 ? best : 1 / sum));
  }
  return acceptance;
}

// Each token of an answer is judged by what the draft says at the token before it.
TEST_F(HeldOutTest, AcceptanceIsTheDraftsOwn) {
  at::NoGradGuard no_grad;
  AcceptanceOptions options;
  options.draft_tokens = 2;
  options.answer_tokens = 60;
  for (const double temperature : {0.0, 1.0}) {
    options.temperature = temperature;
    std::vector<std::vector<float>> acceptance;
    for (const WrittenAnswer& answer : WriteAnswers(*model_, *store_, options)) {
      if (static_cast<int64_t>(answer.tokens.size()) == answer.prompt_tokens) continue;
      TokenizedDocument document;
      document.tokens.assign(answer.tokens.begin(), answer.tokens.end());
      const Tensor log_p = LogProbabilities(*model_, document);
      const Tensor log_q = LogProbabilities(*other_, document);
      acceptance.push_back(Acceptance(answer, log_p, log_q, temperature));
    }
    const SpeculationCounts expected = SimulateSpeculation(acceptance, 2, options.seed);
    const SpeculationCounts found = MeasureAcceptance(*model_, *other_, *store_, options);
    EXPECT_EQ(found.reached, expected.reached) << temperature;
    EXPECT_EQ(found.accepted, expected.accepted) << temperature;
    if (temperature == 1) {
      EXPECT_GT(expected.accepted[0], 0);
    }
  }
}

// A draft with a list is judged as it is served: it proposes of these alone.
TEST_F(HeldOutTest, AcceptanceIsOfProposedTokens) {
  at::NoGradGuard no_grad;
  AcceptanceOptions options;
  options.draft_tokens = 1;
  options.answer_tokens = 60;
  std::vector<int32_t> list;
  for (int32_t id = 1; id < testing::kSmallVocabulary; id += 3) list.push_back(id);
  const Tensor ids = at::empty({static_cast<int64_t>(list.size())}, at::kLong);
  std::copy(list.begin(), list.end(), ids.data_ptr<int64_t>());
  for (const double temperature : {0.0, 1.0}) {
    options.temperature = temperature;
    std::vector<std::vector<float>> acceptance;
    for (const WrittenAnswer& answer : WriteAnswers(*model_, *store_, options)) {
      if (static_cast<int64_t>(answer.tokens.size()) == answer.prompt_tokens) continue;
      TokenizedDocument document;
      document.tokens.assign(answer.tokens.begin(), answer.tokens.end());
      const Tensor log_p = LogProbabilities(*model_, document);
      // q of the list, and nothing elsewhere.
      Tensor q = at::zeros_like(log_p);
      q.index_copy_(1, ids, at::softmax(log_p.index_select(1, ids), -1));
      acceptance.push_back(Acceptance(answer, log_p, q.log(), temperature));
    }
    // The draft is the target itself: without the list it would always be right.
    model_->SetProposedTokens(list);
    const SpeculationCounts found = MeasureAcceptance(*model_, *model_, *store_, options);
    model_->SetProposedTokens({});
    const SpeculationCounts expected = SimulateSpeculation(acceptance, 1, options.seed);
    EXPECT_EQ(found.reached, expected.reached) << temperature;
    EXPECT_EQ(found.accepted, expected.accepted) << temperature;
    EXPECT_GT(found.accepted[0], 0) << temperature;
    EXPECT_LT(found.accepted[0], found.reached[0]) << temperature;
  }
}

// Greedy answers are the arg max, step for step, of a forward pass over what was written.
TEST_F(HeldOutTest, AnswersAreTheModelsOwn) {
  at::NoGradGuard no_grad;
  AcceptanceOptions options;
  options.answer_tokens = 12;
  for (const WrittenAnswer& answer : WriteAnswers(*model_, *store_, options)) {
    EXPECT_EQ(answer.prompt_tokens, 4);  // up to the first trained token
    TokenizedDocument document;
    document.tokens.assign(answer.tokens.begin(), answer.tokens.end());
    const Tensor log_q = LogProbabilities(*model_, document);
    for (size_t t = answer.prompt_tokens; t < answer.tokens.size(); ++t) {
      EXPECT_EQ(log_q[static_cast<int64_t>(t) - 1].argmax().item<int64_t>(), answer.tokens[t]);
    }
  }
}

TEST_F(HeldOutTest, ChoicesAreScoredByTheirLogProbability) {
  const ModelText text = OpenModelText(folder_.path());
  CorpusOptions plain;
  plain.append_end_of_text = false;
  std::string lines;
  int right = 0;
  const std::vector<std::string> prompts = {"ab", "c", "xyz"}, choices = {"q", "rs", "tuv"};
  at::NoGradGuard no_grad;
  for (const std::string& prompt : prompts) {
    std::vector<double> scores;
    for (const std::string& choice : choices) {
      const TokenizedDocument document = TokenizeAnswer(prompt, choice, text.corpus(), plain);
      const Tensor log_q = LogProbabilities(*model_, document);
      scores.push_back(0);
      for (size_t t = prompt.size(); t < document.tokens.size(); ++t) {
        scores.back() += log_q[static_cast<int64_t>(t) - 1][document.tokens[t]].item<double>();
      }
    }
    right += std::max_element(scores.begin(), scores.end()) == scores.begin() + 1;
    lines +=
        "{\"prompt\": \"" + prompt + "\", \"choices\": [\"q\", \"rs\", \"tuv\"], \"answer\": 1}\n";
  }
  const std::string path = folder_.path() + "/choices.jsonl";
  testing::WriteText(path, lines);
  const ChoiceAccuracy found = MeasureChoices(*model_, ReadQuestions(path, text.corpus(), plain));
  EXPECT_EQ(found.questions, 3);
  EXPECT_DOUBLE_EQ(found.accuracy, right / 3.0);
  testing::WriteText(path, lines + "{\"prompt\": \"a\", \"choices\": [\"b\"], \"answer\": 0}\n");
  try {
    ReadQuestions(path, text.corpus(), plain);
    FAIL();
  } catch (const std::runtime_error& error) {
    EXPECT_THAT(error.what(), ::testing::HasSubstr(path + ":4: expected two choices"));
  }
}

}  // namespace
}  // namespace mambad::trainer
