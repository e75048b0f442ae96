// Where answers end: at every end of text that the model's files name, and at stop strings that
// special tokens spell.

#include <algorithm>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "nlohmann/json.hpp"
#include "tests/engine/engine_driver.h"

namespace mambad::testing {
namespace {

using ::testing::Contains;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using Json = nlohmann::json;

// One letter a token, but special tokens at `specials` (id -> spelling).
ModelDirectory WithTokenizer(const std::string& model, const std::map<int, std::string>& specials,
                             const Json& tokenizer_config = Json::object()) {
  FormulaModel made = MakeFormulaModel(model);
  Json vocabulary = Json::object(), added = Json::array();
  for (int id = 0; id < made.vocabulary; ++id) {
    const auto special = specials.find(id);
    if (special == specials.end()) {
      vocabulary[id < 26 ? std::string(1, static_cast<char>('a' + id)) : absl::StrCat("t", id)] =
          id;
    } else {
      added.push_back({{"id", id}, {"content", special->second}, {"special", true}});
    }
  }
  const Json byte_level = {{"type", "ByteLevel"}, {"add_prefix_space", false}};
  const Json document = {
      {"added_tokens", added},
      {"pre_tokenizer", byte_level},
      {"decoder", byte_level},
      {"model", {{"type", "BPE"}, {"vocab", vocabulary}, {"merges", Json::array()}}}};
  made.directory.AddFile("tokenizer.json", document.dump());
  made.directory.AddFile("tokenizer_config.json", tokenizer_config.dump());
  return std::move(made.directory);
}

absl::Status OpenStatus(const ModelDirectory& model) {
  TemporaryDirectory directory;
  model.Write(directory.path(), StoredAs::kFloat32);
  EngineOptions options;
  options.model = directory.path();
  options.threads = 1;
  return EngineCore::Open(options, nullptr).status();
}

// A request whose answer can only be `token`.
Request Only(TokenId token) {
  Request request;
  request.prompt = {1, 2, 3};
  request.stopping.max_tokens = 4;
  request.sampling.allowed_token_ids = {token};
  return request;
}

TEST(EndsOfText, AreTheUnionOfAllFiles) {
  ModelDirectory model = WithTokenizer("llama_tied", {{7, "<|end|>"}}, {{"eos_token", "<|end|>"}});
  model.AddFile("generation_config.json", R"({"eos_token_id": [5, 2, 70000]})");
  EngineDriver driver(model);
  const EngineFacts& facts = driver.core().facts();
  for (const TokenId end : {5, 2, 7}) {
    EXPECT_EQ(std::count(facts.model.eos_ids.begin(), facts.model.eos_ids.end(), end), 1) << end;
    const Answer answer = driver.Run(Only(end));
    EXPECT_EQ(answer.finish, FinishReason::kEos) << end;
    EXPECT_EQ(answer.matched_stop_id, end);
    EXPECT_THAT(answer.tokens, ElementsAre(end));
    Request ignoring = Only(end);
    ignoring.stopping.ignore_eos = true;
    EXPECT_EQ(driver.Run(ignoring).finish, FinishReason::kLength) << end;
  }
  EXPECT_THAT(facts.warnings, Contains(HasSubstr("generation_config.json: eos_token_id: 70000")));
}

TEST(EndsOfText, ALayoutWithoutEndsTakesTheTokenizers) {
  EngineDriver driver(
      WithTokenizer("mamba_state_spaces", {{9, "<end>"}}, {{"eos_token", "<end>"}}));
  EXPECT_THAT(driver.core().facts().model.eos_ids, ElementsAre(9));
  EXPECT_EQ(driver.Run(Only(9)).finish, FinishReason::kEos);
}

TEST(EndsOfText, MoreThanASequenceMayHaveAreRefusedAtTheStart) {
  ModelDirectory model = WithTokenizer("llama_tied", {{40, "<end>"}}, {{"eos_token", "<end>"}});
  Json ends = Json::array();
  for (int id = 0; id < kernels::kMaxStopIds; ++id) ends.push_back(id);
  model.AddFile("generation_config.json", Json{{"eos_token_id", ends}}.dump());
  const absl::Status status = OpenStatus(model);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("33 ends of text"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("at most 32"));
}

TEST(EndsOfText, AsManyAsFitLeaveTheRestToRequests) {
  ModelDirectory model =
      WithTokenizer("mamba_state_spaces", {{40, "<end>"}}, {{"eos_token", "<end>"}});
  Json ends = Json::array();
  for (int id = 0; id < kernels::kMaxStopIds - 2; ++id) ends.push_back(id);
  model.AddFile("generation_config.json", Json{{"eos_token_id", ends}}.dump());
  EngineDriver driver(model);
  EXPECT_EQ(driver.core().facts().model.most_stop_token_ids, 1);
  Request request = Only(45);
  request.stopping.stop_token_ids = {45};
  EXPECT_EQ(driver.Run(request).finish, FinishReason::kStop);
  request.stopping.stop_token_ids = {45, 46};
  EXPECT_THAT(std::string(driver.core().Validate(request).message()),
              HasSubstr("allowed at most 1"));
}

TEST(EndsOfText, TokensBeyondTheModelServeWithAWarning) {
  FormulaModel plain = MakeFormulaModel("llama_tied");
  const int beyond = plain.vocabulary;
  ModelDirectory model =
      WithTokenizer("llama_tied", {},
                    {{"added_tokens_decoder",
                      {{std::to_string(beyond), {{"content", "[PAD]"}, {"special", true}}}}}});
  EngineDriver driver(model);
  EXPECT_THAT(driver.core().facts().warnings, Contains(HasSubstr("[PAD]")));
  EXPECT_EQ(driver.Run(Only(3)).finish, FinishReason::kLength);
}

// ---- stop strings

TEST(StopStrings, ASpecialTokenEndsTheAnswer) {
  EngineDriver driver(WithTokenizer("llama_tied", {{7, "<|end|>"}}));
  Request request = Only(7);
  request.stopping.stop_strings = {"zz", "<|end|>"};
  Answer answer = driver.Run(request);
  EXPECT_EQ(answer.finish, FinishReason::kStop);
  EXPECT_EQ(answer.matched_stop, "<|end|>");
  EXPECT_EQ(answer.matched_stop_id, std::nullopt);
  EXPECT_THAT(answer.tokens, ElementsAre(7));
  EXPECT_EQ(answer.text, "");
  request.stopping.include_stop = true;
  EXPECT_EQ(driver.Run(request).text, "<|end|>");
  request.output.echo = true;
  answer = driver.Run(request);
  EXPECT_EQ(answer.text, "bcd<|end|>") << "the prompt comes first";
  EXPECT_EQ(answer.finish, FinishReason::kStop);
}

// What the request asks for is more specific than what the model's files say.
TEST(StopStrings, WinOverAnEndOfTextThatTheySpell) {
  EngineDriver driver(WithTokenizer("llama_tied", {{7, "<|end|>"}}, {{"eos_token", "<|end|>"}}));
  EXPECT_EQ(driver.Run(Only(7)).finish, FinishReason::kEos);
  for (const bool ignores : {false, true}) {
    for (const bool includes : {false, true}) {
      Request request = Only(7);
      request.stopping.stop_strings = {"<|end|>"};
      request.stopping.ignore_eos = ignores;
      request.stopping.include_stop = includes;
      const Answer answer = driver.Run(request);
      EXPECT_EQ(answer.finish, FinishReason::kStop);
      EXPECT_EQ(answer.matched_stop, "<|end|>");
      EXPECT_EQ(answer.matched_stop_id, std::nullopt);
      EXPECT_EQ(answer.text, includes ? "<|end|>" : "");
      EXPECT_THAT(answer.tokens, ElementsAre(7));
    }
  }
}

// The same cut whether tokens come one by one or as accepted drafts, for each of several samples;
// and what was cut off is not committed: the books close.
TEST(StopStrings, CutAcceptedDraftsToo) {
  EngineDriver free_run("llama_tied");
  // A run that says something new after some tokens: with drafts before the cut, and behind it.
  Request request;
  std::vector<TokenId> expected;
  for (uint64_t seed = 0; seed < 50 && expected.size() < 4; ++seed) {
    request = free_run.Plain(20, 40, seed);
    const std::vector<TokenId> whole = free_run.Run(request).tokens;
    expected = {whole[0]};
    for (size_t i = 1; i < 20; ++i) {
      const bool is_new =
          std::find(whole.begin(), whole.begin() + i, whole[i]) == whole.begin() + i;
      if (is_new && i >= 3) expected.assign(whole.begin(), whole.begin() + i + 1);
      if (is_new && i >= 3) break;
    }
  }
  ASSERT_GE(expected.size(), 4);
  const TokenId special = expected.back();
  TemporaryDirectory draft;  // the same model: every draft is accepted
  MakeFormulaModel("llama_tied").directory.Write(draft.path(), StoredAs::kFloat32);
  EngineOptions options;
  options.draft_model = draft.path();
  EngineDriver driver(WithTokenizer("llama_tied", {{special, "<|end|>"}}), options);
  for (const SpeculationMode mode : {SpeculationMode::kOff, SpeculationMode::kDraftModel}) {
    for (const int samples : {1, 2}) {
      Request stopped = request;
      stopped.speculation.mode = mode;
      stopped.speculation.draft_length = 4;
      stopped.output.samples = samples;
      stopped.stopping.stop_strings = {"<|end|>"};
      const auto sink = driver.Send(stopped);
      driver.RunAll();
      for (int sample = 0; sample < samples; ++sample) {
        const Answer& answer = sink->answers[sample];
        EXPECT_EQ(answer.tokens, expected);
        EXPECT_EQ(answer.finish, FinishReason::kStop);
        EXPECT_EQ(answer.matched_stop, "<|end|>");
        EXPECT_EQ(answer.stats->completion_tokens, static_cast<int64_t>(expected.size()));
        EXPECT_EQ(answer.stats->speculation.accepted > 0, mode != SpeculationMode::kOff);
      }
      EXPECT_EQ(driver.Held(), 0);
    }
  }
}

}  // namespace
}  // namespace mambad::testing
