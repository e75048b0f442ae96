// A draft that proposes from a list of tokens: its logits, and that answers stay the target's own
// to the last bit, whatever the list leaves out. (Sampled ones: speculation_test.cc.)

#include <algorithm>
#include <cstring>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "engine/self_check.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/engine_driver.h"
#include "tests/engine/model_runner.h"
#include "tests/support/formula_models.h"
#include "tests/support/model_directory.h"

namespace mambad::testing {
namespace {

using ::testing::HasSubstr;

constexpr int kVocabulary = 50;  // of all formula models

class EveryHead : public ::testing::TestWithParam<std::string> {};

// Tied, stored apart, and with padded rows: bit for bit the whole head's logits where the list has
// a token, and nowhere else one that could be drawn.
TEST_P(EveryHead, GivesTheLogitsOfItsTokens) {
  TemporaryDirectory folder;
  const FormulaModel model = MakeFormulaModel(GetParam());
  for (const StoredAs stored : {StoredAs::kFloat32, StoredAs::kBFloat16}) {
    model.directory.Write(folder.path(), stored);
    RunnerOptions some;
    some.proposed_tokens = {0, 1, 2, 4, 7, 30, 31, 49};
    const auto whole = ModelRunner::Open(folder.path(), {});
    const auto listed = ModelRunner::Open(folder.path(), some);
    ASSERT_TRUE(whole.ok() && listed.ok()) << listed.status();
    const std::vector<int32_t> tokens = FormulaTokens(20, kVocabulary);
    const std::vector<LogitRow> rows = (*whole)->Read(0, tokens, 20);
    const std::vector<LogitRow> found = (*listed)->Read(0, tokens, 20);
    for (size_t i = 0; i < rows.size(); ++i) {
      LogitRow expected(model.padded_vocabulary, kernels::kUnproposedLogit);
      for (const int32_t id : some.proposed_tokens) expected[id] = rows[i][id];
      EXPECT_EQ(std::memcmp(found[i].data(), expected.data(), sizeof(float) * expected.size()), 0)
          << "position " << i;
    }

    // What the head holds is counted where it is.
    const Weights& all = (*whole)->model().weights();
    const Weights& few = (*listed)->model().weights();
    const bool tied = &all.head() == &all.embedding();
    const int64_t size = stored == StoredAs::kFloat32 ? 4 : 2, columns = all.head().columns;
    const int64_t rows_fewer = tied ? 0 : all.head().rows - few.head().rows;
    EXPECT_EQ(all.parameters() - few.parameters(), rows_fewer * columns);
    EXPECT_EQ(few.bytes() - all.bytes(),
              8 * 4 + (tied ? 8 * columns * size : -rows_fewer * columns * size));
  }
}

INSTANTIATE_TEST_SUITE_P(Formula, EveryHead,
                         ::testing::Values("llama_tied", "mamba_rank", "mamba_state_spaces",
                                           "mamba2"),
                         [](const auto& info) { return info.param; });

// A target and, as its draft, itself in bf16 with a list: most drafts are right unless the list has
// not what the target wants.
class ListedDraft : public ::testing::TestWithParam<std::string> {
 protected:
  std::unique_ptr<EngineDriver> Open(const std::vector<TokenId>& list) {
    FormulaModel draft = MakeFormulaModel(GetParam());
    draft.directory.AddFile("proposed_tokens.json",
                            absl::StrCat("[", absl::StrJoin(list, ","), "]"));
    draft.directory.Write(draft_.path(), StoredAs::kBFloat16);
    EngineOptions options;
    options.threads = 1;
    options.draft_model = draft_.path();
    return std::make_unique<EngineDriver>(GetParam(), "", options);
  }
  static Request Greedy(const EngineDriver& driver, int prompt) {
    Request request = driver.Plain(prompt, 24, prompt);
    request.output.logprobs = 3;
    return request;
  }
  // Requests of several lengths together, each drafting; EXPECTs the answers of `expected`.
  static SpeculationReport Compare(EngineDriver& driver, std::vector<Request> requests,
                                   const std::vector<Answer>& expected) {
    std::vector<std::shared_ptr<CollectingSink>> sinks;
    for (size_t i = 0; i < requests.size(); ++i) {
      requests[i].speculation.mode = SpeculationMode::kDraftModel;
      requests[i].speculation.draft_length = 1 + static_cast<int>(i) % 5;
      sinks.push_back(driver.Send(requests[i]));
    }
    driver.RunAll();
    SpeculationReport all;
    for (size_t i = 0; i < requests.size(); ++i) {
      const Answer& answer = sinks[i]->answers[0];
      EXPECT_EQ(answer.tokens, expected[i].tokens) << i;
      EXPECT_EQ(answer.logprobs.size(), expected[i].logprobs.size());
      for (size_t t = 0; t < std::min(answer.logprobs.size(), expected[i].logprobs.size()); ++t) {
        EXPECT_EQ(answer.logprobs[t].logprob, expected[i].logprobs[t].logprob);
        EXPECT_EQ(answer.logprobs[t].alternatives, expected[i].logprobs[t].alternatives);
      }
      all.drafted += answer.stats->speculation.drafted;
      all.accepted += answer.stats->speculation.accepted;
    }
    return all;
  }

  TemporaryDirectory draft_;
};

TEST_P(ListedDraft, Invariant2GreedyAnswersStayWhateverTheListLeavesOut) {
  EngineOptions one_thread;
  one_thread.threads = 1;
  EngineDriver plain(GetParam(), "", one_thread);
  std::vector<Request> requests;
  std::vector<Answer> expected;
  std::set<TokenId> wanted;
  for (const int prompt : {1, 3, 17, 33, 64}) {
    requests.push_back(Greedy(plain, prompt));
    expected.push_back(plain.Run(requests.back()));
    wanted.insert(expected.back().tokens.begin(), expected.back().tokens.end());
  }
  std::vector<TokenId> right(wanted.begin(), wanted.end()), some, wrong;
  for (size_t i = 0; i < right.size(); i += 2) some.push_back(right[i]);
  for (TokenId id = 0; id < kVocabulary; ++id) {
    if (!wanted.contains(id)) wrong.push_back(id);
  }
  ASSERT_FALSE(wrong.empty());

  const auto all_of_them = Open(right);
  const SpeculationReport with_all = Compare(*all_of_them, requests, expected);
  EXPECT_GT(with_all.accepted, with_all.drafted / 2);
  EXPECT_TRUE(SelfCheck(all_of_them->core()).ok());
  const SpeculationReport with_some = Compare(*Open(some), requests, expected);
  EXPECT_GT(with_some.accepted, 0);
  EXPECT_LT(with_some.accepted, with_some.drafted);
  const auto none_of_them = Open(wrong);
  const SpeculationReport with_none = Compare(*none_of_them, requests, expected);
  EXPECT_GT(with_none.drafted, 100);
  EXPECT_EQ(with_none.accepted, 0);
  EXPECT_TRUE(SelfCheck(none_of_them->core()).ok());
}

// Allowed tokens, biases and penalties that leave the draft nothing of its list.
TEST_P(ListedDraft, Invariant2HoldsWhereTheListIsForbidden) {
  const std::vector<TokenId> list = {5, 6, 30};
  EngineOptions one_thread;
  one_thread.threads = 1;
  EngineDriver plain(GetParam(), "", one_thread);
  std::vector<Request> requests;
  for (int kind = 0; kind < 4; ++kind) {
    Request request = Greedy(plain, 9 + kind);
    if (kind == 0) request.sampling.allowed_token_ids = {11, 12, 40, 41};
    if (kind == 1) request.sampling.allowed_token_ids = {6, 12, 40, 41};
    if (kind == 2) request.sampling.logit_bias = {{5, -1e3f}, {6, -1e3f}, {30, -1e3f}, {9, 1e3f}};
    if (kind == 3) request.sampling.repetition_penalty = 100, request.sampling.presence_penalty = 1;
    requests.push_back(request);
  }
  std::vector<Answer> expected;
  for (const Request& request : requests) expected.push_back(plain.Run(request));
  EXPECT_GT(Compare(*Open(list), requests, expected).drafted, 100);
}

INSTANTIATE_TEST_SUITE_P(Formula, ListedDraft,
                         ::testing::Values("llama_tied", "mamba_state_spaces", "mamba2",
                                           "hybrid_mamba2"),
                         [](const auto& info) { return info.param; });

// ---- opening

class ListFile : public ::testing::Test {
 protected:
  ListFile() {
    FormulaModel model = MakeFormulaModel("mamba");
    model.directory.Write(plain_.path(), StoredAs::kFloat32);
    model.directory.AddFile("proposed_tokens.json", "[1, 50]");
    model.directory.Write(broken_.path(), StoredAs::kFloat32);
  }
  static absl::Status Open(const std::string& model, const std::string& draft) {
    EngineOptions options;
    options.model = model;
    options.draft_model = draft;
    options.threads = 1;
    return EngineCore::Open(options, nullptr).status();
  }

  TemporaryDirectory plain_, broken_;
};

TEST_F(ListFile, ABrokenOneIsRefusedOfADraft) {
  EXPECT_EQ(Open(plain_.path(), broken_.path()).message(),
            broken_.path() +
                "/proposed_tokens.json: [1]: 50 found, a token id above 1 and up to 49 expected");
}

TEST_F(ListFile, MeansNothingBesideATarget) {
  EXPECT_TRUE(Open(broken_.path(), plain_.path()).ok());
}

}  // namespace
}  // namespace mambad::testing
