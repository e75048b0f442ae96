// Trained models through the whole engine: the story hybrid and its draft of deploy/models/stories,
// speculating against decoding plainly; stories260K converted from llama2.c's files, against its
// card and the oracle; SmolLM2-135M-Instruct as a GGUF file, against answers computed elsewhere.
// The last two are optional data: MAMBAD_SHARED_DATA is the folder with weights/stories260K and
// smollm2/expected.json, MAMBAD_SMOLLM2_GGUF the file.

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "engine/engine_core.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/arithmetic.h"
#include "tests/engine/checked_calls.h"
#include "tests/engine/engine_driver.h"
#include "tests/support/model_directory.h"
#include "tests/support/oracle.h"
#include "tests/support/stories260k.h"

namespace mambad::testing {
namespace {

std::unique_ptr<EngineCore> Open(const EngineOptions& options) {
  auto core = EngineCore::Open(Checked(options), nullptr);
  EXPECT_TRUE(core.ok()) << core.status();
  return core.ok() ? *std::move(core) : nullptr;
}

Answer AnswerTo(EngineCore& core, Request request) {
  const absl::Status valid = core.Validate(request);
  EXPECT_TRUE(valid.ok()) << valid;
  auto sink = std::make_shared<CollectingSink>();
  const absl::Status admitted = core.Admit(1, std::move(request), sink, absl::Now());
  EXPECT_TRUE(admitted.ok()) << admitted;
  while (core.Step(absl::Now)) {
  }
  EXPECT_EQ(sink->answers[0].finishes, 1);
  return sink->answers[0];
}

// MAMBAD_TEST_MODELS names the folder on hosts that have no checkout (tests/gpu/portable.sh).
std::string ModelsInTheBox() {
  const char* const folder = std::getenv("MAMBAD_TEST_MODELS");
  return folder != nullptr ? folder : MAMBAD_SOURCE_DIR "/deploy/models";
}

// With activations as they are, or rounded.
class StoriesInTheBox : public ::testing::TestWithParam<ComputeType> {
 protected:
  static constexpr int kTokens = 64;  // of each answer

  std::unique_ptr<EngineCore> OpenTarget(bool with_draft, int threads) {
    const std::string folder = ModelsInTheBox() + "/stories/";
    EngineOptions options;
    options.model = folder + "target";
    if (with_draft) options.draft_model = folder + "draft";
    options.threads = threads;
    options.activations = GetParam();
    options.max_step_rows = 48;  // prompts of some come in pieces, between the rounds of others
    return Open(options);
  }
  // Prompt i is the first words of a text, more of them each time.
  static std::vector<TokenId> Prompt(const EngineCore& core, size_t i) {
    const std::string text =
        "Once upon a time, there was a little girl named Lily. She had a red ball and a small dog. "
        "One day, Lily and the dog went to the park. They saw a big tree, and in the tree there "
        "was a bird. The bird was sad.";
    const size_t end = text.find(' ', 4 + i * text.size() / kPrompts);
    const auto ids = core.facts().tokenizer->Encode(text.substr(0, end), {});
    EXPECT_TRUE(ids.ok()) << ids.status();
    return ids.ok() ? *ids : std::vector<TokenId>();
  }
  static Request Greedy(const EngineCore& core, size_t i) {
    Request request;
    request.prompt = Prompt(core, i);
    request.stopping.max_tokens = kTokens;
    request.stopping.ignore_eos = true;
    request.output.logprobs = 3;
    request.speculation.mode = SpeculationMode::kOff;
    return request;
  }

  static constexpr size_t kPrompts = 8;
};

TEST_P(StoriesInTheBox, Invariants1And2SpeculationOfManyTogetherChangesNoBit) {
  const auto plain = OpenTarget(/*with_draft=*/false, 1);
  const auto core = OpenTarget(/*with_draft=*/true, 2);
  ASSERT_TRUE(plain != nullptr && core != nullptr);
  std::vector<Answer> expected;
  for (size_t i = 0; i < kPrompts; ++i) {
    expected.push_back(AnswerTo(*plain, Greedy(*plain, i)));
    ASSERT_EQ(expected[i].tokens.size(), size_t{kTokens});
  }

  int64_t accepted = 0, rejected = 0;
  RequestId id = 0;
  for (const int draft_length : {0, 1, 3, 8}) {  // 0: it chooses its own lengths
    for (const SpeculationMode mode :
         {SpeculationMode::kDraftModel, SpeculationMode::kPromptLookup, SpeculationMode::kAuto}) {
      SCOPED_TRACE(::testing::Message()
                   << "draft length " << draft_length << ", mode " << static_cast<int>(mode));
      std::vector<std::shared_ptr<CollectingSink>> sinks;
      for (size_t i = 0; i < kPrompts; ++i) {
        Request request = Greedy(*core, i);
        request.speculation.mode = mode;
        if (draft_length > 0) request.speculation.draft_length = draft_length;
        sinks.push_back(std::make_shared<CollectingSink>());
        ASSERT_TRUE(core->Admit(++id, std::move(request), sinks.back(), absl::Now()).ok());
        // Beside it one that is drawn, for company.
        Request drawn = Greedy(*core, i);
        drawn.sampling.temperature = 1;
        drawn.speculation.mode = mode;
        ASSERT_TRUE(
            core->Admit(++id, std::move(drawn), std::make_shared<CollectingSink>(), absl::Now())
                .ok());
        if (i % 3 == 0) core->Step(absl::Now);  // some come later
      }
      while (core->Step(absl::Now)) {
      }
      for (size_t i = 0; i < kPrompts; ++i) {
        SCOPED_TRACE(::testing::Message() << "prompt " << i);
        const Answer& answer = sinks[i]->answers[0];
        EXPECT_EQ(answer.finishes, 1);
        EXPECT_EQ(answer.text, expected[i].text);
        ASSERT_EQ(answer.tokens, expected[i].tokens);
        for (size_t t = 0; t < answer.tokens.size(); ++t) {
          EXPECT_EQ(answer.logprobs[t].logprob, expected[i].logprobs[t].logprob);
          EXPECT_EQ(answer.logprobs[t].alternatives, expected[i].logprobs[t].alternatives);
        }
        accepted += answer.stats->speculation.accepted;
        rejected += answer.stats->speculation.drafted - answer.stats->speculation.accepted;
      }
    }
  }
  // Both kinds were seen, or nothing was tested.
  EXPECT_GT(accepted, 100);
  EXPECT_GT(rejected, 100);
}

TEST_P(StoriesInTheBox, EchoPutsThePromptsTextFirst) {
  const auto core = OpenTarget(/*with_draft=*/true, 1);
  ASSERT_NE(core, nullptr);
  Request request = Greedy(*core, 2);
  const std::string prompt = core->facts().tokenizer->Decode(request.prompt, true);
  EXPECT_EQ(prompt.substr(0, 17), "Once upon a time,");
  const Answer plain = AnswerTo(*core, request);
  request.output.echo = true;
  const Answer echoed = AnswerTo(*core, request);
  EXPECT_EQ(echoed.text, prompt + plain.text);
  EXPECT_EQ(echoed.tokens, plain.tokens);
  // Both together are what all tokens say: no space is lost or won between them.
  std::vector<TokenId> all = request.prompt;
  all.insert(all.end(), plain.tokens.begin(), plain.tokens.end());
  EXPECT_EQ(core->facts().tokenizer->Decode(all, true), echoed.text);
}

INSTANTIATE_TEST_SUITE_P(Activations, StoriesInTheBox, ::testing::ValuesIn(EveryActivations()),
                         [](const auto& info) { return NameOf(info.param); });

class Stories260K : public ::testing::Test {
 protected:
  void SetUp() override {
    source_ = FindStories260K();
    if (source_.empty()) GTEST_SKIP() << "MAMBAD_SHARED_DATA has no weights/stories260K";
    const absl::Status written = WriteStories260K(source_, folder_.path());
    ASSERT_TRUE(written.ok()) << written;
    auto card = ReadStories260KCardText(source_);
    ASSERT_TRUE(card.ok()) << card.status();
    // The first piece carries a space. The card's program leaves it out at the very start; an
    // answer is the continuation of a prompt and keeps it.
    card_text_ = *std::move(card);
    answer_text_ = " " + card_text_;
    options_.model = folder_.path();
    options_.threads = 1;
  }
  // What the card's program does: begin of text, then 256 tokens, greedily.
  Request Greedy() const {
    Request request;
    request.prompt = {1};
    request.stopping.max_tokens = 256;
    request.stopping.ignore_eos = true;
    request.speculation.mode = SpeculationMode::kOff;
    return request;
  }

  std::string source_, card_text_, answer_text_;
  TemporaryDirectory folder_;
  EngineOptions options_;
};

TEST_F(Stories260K, GreedyTextIsTheModelCards) {
  const auto core = Open(options_);
  ASSERT_NE(core, nullptr);
  const Answer answer = AnswerTo(*core, Greedy());
  EXPECT_EQ(answer.tokens.size(), 256u);
  EXPECT_EQ(core->facts().tokenizer->Decode(answer.tokens, /*skip_special=*/true), card_text_);
  EXPECT_EQ(answer.text, answer_text_);

  // Each choice is the oracle's too.
  std::vector<int32_t> tokens = {1};
  tokens.insert(tokens.end(), answer.tokens.begin(), answer.tokens.end());
  const auto oracle = oracle::Oracle::Open(folder_.path());
  ASSERT_TRUE(oracle.ok()) << oracle.status();
  const auto logits = (*oracle)->Logits(tokens);
  for (size_t i = 0; i + 1 < tokens.size(); ++i) {
    EXPECT_EQ(std::max_element(logits[i].begin(), logits[i].end()) - logits[i].begin(),
              tokens[i + 1])
        << "position " << i;
  }
}

TEST_F(Stories260K, SpeculationWritesTheSameText) {
  TemporaryDirectory draft;  // the same model; in bf16 it proposes what is nearly always right
  ASSERT_TRUE(WriteStories260K(source_, draft.path(), StoredAs::kBFloat16).ok());
  options_.draft_model = draft.path();
  const auto core = Open(options_);
  ASSERT_NE(core, nullptr);
  for (const SpeculationMode mode :
       {SpeculationMode::kDraftModel, SpeculationMode::kPromptLookup, SpeculationMode::kAuto}) {
    for (int draft_length = 1; draft_length <= 8; ++draft_length) {
      if (mode == SpeculationMode::kAuto && draft_length > 1)
        continue;  // it chooses its own lengths
      SCOPED_TRACE(::testing::Message()
                   << "mode " << static_cast<int>(mode) << ", draft length " << draft_length);
      Request request = Greedy();
      request.speculation.mode = mode;
      if (mode != SpeculationMode::kAuto) request.speculation.draft_length = draft_length;
      const Answer answer = AnswerTo(*core, std::move(request));
      EXPECT_EQ(answer.text, answer_text_);
      ASSERT_TRUE(answer.stats.has_value());
      const int least = mode == SpeculationMode::kDraftModel     ? 80
                        : mode == SpeculationMode::kPromptLookup ? 10
                                                                 : 0;
      EXPECT_GE(answer.stats->speculation.accepted, least);
    }
  }
}

TEST_F(Stories260K, TokenizerReadsTheCardsTextBack) {
  const auto core = Open(options_);
  ASSERT_NE(core, nullptr);
  const text::Tokenizer* tokenizer = core->facts().tokenizer.get();
  ASSERT_NE(tokenizer, nullptr);
  EXPECT_EQ(core->facts().model.eos_ids, std::vector<TokenId>({2}));
  const auto ids = tokenizer->Encode(card_text_, {});
  ASSERT_TRUE(ids.ok()) << ids.status();
  EXPECT_EQ(ids->front(), 1);
  EXPECT_EQ(tokenizer->Decode(*ids, /*skip_special=*/true), card_text_);
  // The model writes as its tokenizer would.
  const Answer answer = AnswerTo(*core, Greedy());
  EXPECT_THAT(answer.tokens, ::testing::ElementsAreArray(ids->begin() + 1, ids->end()));
}

// With activations as they are, as where the answers were computed, or rounded.
class SmolLM2 : public ::testing::TestWithParam<ComputeType> {
 protected:
  void SetUp() override {
    const char* file = std::getenv("MAMBAD_SMOLLM2_GGUF");
    const char* shared = std::getenv("MAMBAD_SHARED_DATA");
    if (file == nullptr) GTEST_SKIP() << "MAMBAD_SMOLLM2_GGUF names no SmolLM2-135M-Instruct file";
    if (shared == nullptr) GTEST_SKIP() << "MAMBAD_SHARED_DATA is not set";
    std::ifstream stream(std::string(shared) + "/smollm2/expected.json");
    if (!stream) GTEST_SKIP() << "MAMBAD_SHARED_DATA has no smollm2/expected.json";
    chats_ = nlohmann::json::parse(stream, nullptr, false);
    ASSERT_TRUE(chats_.is_array());
    options_.model = file;
    options_.activations = GetParam();
    options_.max_context = 512;
    options_.max_sequences = 4;
  }

  bool rounded() const { return GetParam() == ComputeType::kBFloat16; }
  // Token for token; where activations are rounded, up to a first token that came close to the
  // expected one, as close as rounding moves it. What follows upon another token is another text.
  void ExpectAnswer(const Answer& answer, const std::vector<TokenId>& expected) const {
    if (!rounded()) {
      EXPECT_EQ(answer.tokens, expected);
      return;
    }
    constexpr float kTie = 0.02f;
    const size_t same =
        std::mismatch(answer.tokens.begin(), answer.tokens.end(), expected.begin(), expected.end())
            .first -
        answer.tokens.begin();
    if (same == answer.tokens.size() && same == expected.size()) return;
    ASSERT_LT(same, std::min(answer.logprobs.size(), expected.size()));
    const auto& alternatives = answer.logprobs[same].alternatives;
    EXPECT_EQ(alternatives[1].first, expected[same]) << "token " << same;
    EXPECT_LT(alternatives[0].second - alternatives[1].second, kTie) << "token " << same;
  }

  nlohmann::json chats_;
  EngineOptions options_;
};

TEST_P(SmolLM2, AnswersTokenForToken) {
  const auto core = Open(options_);
  ASSERT_NE(core, nullptr);
  ASSERT_TRUE(core->facts().chat_template.has_value());
  ASSERT_EQ(chats_.size(), 4u);
  for (const nlohmann::json& chat : chats_) {
    const std::string user = chat["user"];
    SCOPED_TRACE(user);
    const auto prompt =
        core->facts().chat_template->Render({{"user", user}}, core->facts().chat_variables);
    ASSERT_TRUE(prompt.ok()) << prompt.status();
    EXPECT_EQ(*prompt, chat["prompt"].get<std::string>());
    const auto ids = core->facts().tokenizer->Encode(
        *prompt, {.add_special_tokens = false, .parse_special = true});
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, chat["prompt_ids"].get<std::vector<TokenId>>());

    std::vector<TokenId> plain;
    for (const SpeculationMode mode : {SpeculationMode::kOff, SpeculationMode::kPromptLookup}) {
      SCOPED_TRACE(mode == SpeculationMode::kOff ? "plain" : "prompt lookup");
      Request request;
      request.prompt = *ids;
      request.stopping.max_tokens = 64;
      request.output.logprobs = 5;
      request.speculation.mode = mode;
      const Answer answer = AnswerTo(*core, std::move(request));
      if (mode == SpeculationMode::kOff) plain = answer.tokens;
      EXPECT_EQ(answer.tokens, plain);
      ExpectAnswer(answer, chat["greedy_ids"].get<std::vector<TokenId>>());
      EXPECT_EQ(answer.text, core->facts().tokenizer->Decode(answer.tokens, true));
      if (!rounded()) {
        EXPECT_EQ(answer.text, chat["greedy_text"].get<std::string>());
      }
      ASSERT_FALSE(answer.logprobs.empty());
      const auto& alternatives = answer.logprobs[0].alternatives;
      ASSERT_EQ(alternatives.size(), 5u);
      for (size_t i = 0; i < 5; ++i) {
        EXPECT_EQ(alternatives[i].first, chat["first_token_top5"]["ids"][i].get<TokenId>());
        EXPECT_NEAR(alternatives[i].second, chat["first_token_top5"]["logprobs"][i].get<double>(),
                    rounded() ? 5e-2 : 1e-3);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Activations, SmolLM2, ::testing::ValuesIn(EveryActivations()),
                         [](const auto& info) { return NameOf(info.param); });

}  // namespace
}  // namespace mambad::testing
