// One record from its first to its last token, without a model.

#include "trainer/stages/generated_record.h"

#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/engine/checkpoint/test_directory.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/trainer/expect_error.h"

namespace mambad::trainer {
namespace {

using checkpoint::TestDirectory;
using mambad::testing::ErrorOf;
using ::testing::HasSubstr;
using text::TokenId;
using Outcome = GeneratedRecord::Outcome;

constexpr TokenId kEnd = 2, kBegin = 1;
constexpr char kTemplate[] =
    "{% for m in messages %}[{{ m['role'] }}]{{ m['content'] | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}";

// Bytes are tokens: 3 + byte.
class Generation : public ::testing::Test {
 protected:
  void Open(bool chat) {
    ASSERT_TRUE(support::SaveByteTokenizer(directory_.path()).ok());
    nlohmann::json config = {{"bos_token", "<s>"}, {"eos_token", "</s>"}};
    if (chat) config["chat_template"] = kTemplate;
    directory_.Write("tokenizer_config.json", config.dump());
    prompts_ = std::make_unique<GenerationPrompts>(directory_.path(), std::vector<TokenId>{kEnd});
  }

  // What is fed until a token is wanted, as text; the end of text as "$".
  std::string Feed(GeneratedRecord* record) {
    std::string fed = record->TakeReset() ? "!" : "";
    while (!record->wants_token()) {
      fed += Spell(record->next());
      record->Take(100);  // means nothing
      if (record->TakeReset()) fed += "!";
    }
    return fed + Spell(record->next());
  }
  // The record draws these, one after another.
  void Draw(GeneratedRecord* record, const std::string& words, bool end) {
    for (const char c : words) {
      Feed(record);
      record->Take(3 + static_cast<unsigned char>(c));
    }
    if (!end) return;
    Feed(record);
    record->Take(kEnd);
  }
  static std::string Spell(TokenId id) {
    return id == kEnd ? "$" : id == kBegin ? "^" : std::string(1, static_cast<char>(id - 3));
  }
  GeneratedRecord Begin(const GenerationPrompt& prompt, int64_t maximum_tokens = 200) {
    return GeneratedRecord(prompts_.get(), prompt, {maximum_tokens, 3.0});
  }

  TestDirectory directory_;
  std::unique_ptr<GenerationPrompts> prompts_;
};

TEST_F(Generation, AnswersAPrompt) {
  Open(true);
  GeneratedRecord record = Begin({{{"system", "be kind"}, {"user", "hello"}}, ""});
  EXPECT_EQ(Feed(&record), "![system]be kind$\n[user]hello$\n[assistant]");
  record.Take(3 + 'h');
  EXPECT_EQ(Feed(&record), "h");
  record.Take(3 + 'i');
  record.Take(kEnd);
  EXPECT_EQ(record.outcome(), Outcome::kFinished);
  EXPECT_EQ(record.written_tokens(), 3);
  EXPECT_EQ(
      record.Line(),
      R"({"messages":[{"role":"system","content":"be kind"},{"role":"user","content":"hello"},)"
      R"({"role":"assistant","content":"hi"}]})");
}

TEST_F(Generation, InventsTheUsersTurn) {
  Open(true);
  GeneratedRecord record = Begin({});
  EXPECT_EQ(Feed(&record), "![user]");
  Draw(&record, "why", /*end=*/true);
  // What was fed stays; only what the template puts behind the turn follows.
  EXPECT_EQ(Feed(&record), "$\n[assistant]");
  record.Take(3 + 'x');
  record.Take(kEnd);
  EXPECT_EQ(record.outcome(), Outcome::kFinished);
  EXPECT_EQ(record.Line(), R"({"messages":[{"role":"user","content":"why"},)"
                           R"({"role":"assistant","content":"x"}]})");
}

// The template trims what the teacher wrote: the model must see the conversation as it is kept.
TEST_F(Generation, BeginsAnewWhereTheTemplateChangesTheTurn) {
  Open(true);
  GeneratedRecord record = Begin({});
  Draw(&record, " why ", /*end=*/true);
  EXPECT_EQ(Feed(&record), "![user]why$\n[assistant]");
}

TEST_F(Generation, PlainModelsWriteTexts) {
  Open(false);
  GeneratedRecord record = Begin({});
  EXPECT_EQ(Feed(&record), "!^");
  Draw(&record, "once", /*end=*/true);
  EXPECT_EQ(record.Line(), R"({"text":"once"})");
  GeneratedRecord continued = Begin({{}, "The sky"});
  Draw(&continued, " is", /*end=*/true);
  EXPECT_EQ(continued.Line(), R"({"text":"The sky is"})");
}

TEST_F(Generation, OnlyGoodRecordsAreKept) {
  Open(true);
  const GenerationPrompt hello{{{"user", "hello"}}, ""};
  GeneratedRecord endless = Begin(hello, 39);
  Draw(&endless, "abcdefghijklmno", /*end=*/false);
  EXPECT_EQ(endless.outcome(), Outcome::kUnfinished);
  EXPECT_EQ(Begin(hello, 10).outcome(), Outcome::kUnfinished);  // the prompt is too long
  GeneratedRecord blank = Begin(hello);
  Draw(&blank, " \n", /*end=*/true);
  EXPECT_EQ(blank.outcome(), Outcome::kEmpty);
  GeneratedRecord loop = Begin(hello);
  std::string again;
  while (again.size() < 150) again += "again and ";
  Draw(&loop, again, /*end=*/true);
  EXPECT_EQ(loop.outcome(), Outcome::kLoop);
  GeneratedRecord broken = Begin(hello);
  Draw(&broken, "a", /*end=*/false);
  Feed(&broken);
  broken.Take(kBegin);
  EXPECT_EQ(broken.outcome(), Outcome::kBroken);
}

TEST_F(Generation, PromptsAreRead) {
  Open(true);
  directory_.Write("prompts.jsonl", R"({"messages": [{"role": "user", "content": "a"},)"
                                    R"( {"role": "assistant", "content": "cut off"}]})"
                                    "\n\n"
                                    R"({"prompt": "b", "completion": "ignored"})"
                                    "\n"
                                    R"({"text": "c"})");
  prompts_->Read(directory_ / "prompts.jsonl");
  ASSERT_EQ(prompts_->size(), 3);
  EXPECT_EQ(prompts_->prompt(0).messages.size(), 1u);
  EXPECT_EQ(prompts_->prompt(1).messages[0].content, "b");
  EXPECT_EQ(prompts_->prompt(2).messages[0].content, "c");
  const auto error = [&](const std::string& line) {
    directory_.Write("bad.jsonl", "{\"text\": \"x\"}\n" + line);
    EXPECT_THAT(ErrorOf([&] { prompts_->Read(directory_ / "bad.jsonl"); }),
                HasSubstr("bad.jsonl:2: "));
  };
  error("{");
  error("[]");
  error("{}");
  error(R"({"prompt": "  "})");
  error(R"({"messages": [{"role": "assistant", "content": "x"}]})");
  error(R"({"messages": [{"role": "user"}]})");
  directory_.Write("empty.jsonl", "\n");
  EXPECT_THAT(ErrorOf([&] { prompts_->Read(directory_ / "empty.jsonl"); }),
              HasSubstr("no prompts"));
}

TEST_F(Generation, ModelsWithoutAnEndAreRefused) {
  ASSERT_TRUE(support::SaveByteTokenizer(directory_.path()).ok());
  directory_.Write("tokenizer_config.json", "{}");
  EXPECT_THAT(ErrorOf([&] { GenerationPrompts(directory_.path(), {}); }),
              HasSubstr("names an end-of-text token"));
  EXPECT_THAT(ErrorOf([&] { GenerationPrompts(directory_ / "model.gguf", {2}); }),
              HasSubstr("convert the file first"));
}

TEST(Compression, RepetitionIsTold) {
  EXPECT_EQ(CompressionRatio(""), 0);
  EXPECT_LT(CompressionRatio("The quick brown fox jumps over the lazy dog."), 1.2);
  EXPECT_GT(CompressionRatio(std::string(1000, 'a')), 20);
}

}  // namespace
}  // namespace mambad::trainer
