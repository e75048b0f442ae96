// What the tokenizer's training reads of files; SentencePiece learns the rest.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"
#include "trainer/stages/stage.h"

namespace mambad::trainer {
namespace {

using testing::ErrorOf;
using ::testing::HasSubstr;
using ::testing::Not;

// Characters that are in the text have a piece each: tokenizer.model shows which were read.
class TokenizerTraining : public ::testing::Test {
 protected:
  std::string Train(const std::string& name, const std::string& content) {
    TokenizerConfig config;
    config.output = folder_.path() + "/out";
    config.train = {folder_.path() + "/" + name};
    config.vocabulary = 280;
    config.threads = 1;
    testing::WriteText(config.train[0], content);
    RunTokenizer(config);
    return testing::ReadText(config.output + "/tokenizer.model");
  }
  std::string Lines(const std::string& line) const {
    std::string lines;
    for (int i = 0; i < 20; ++i) lines += line + "\n";
    return lines;
  }
  testing::TemporaryDirectory folder_;
};

TEST_F(TokenizerTraining, ReadsTheTextsOfRecordsOnly) {
  const std::string model = Train(
      "words.jsonl",
      Lines(R"({"id": "ä", "text": "a cat sat ö"})") +
          Lines(R"({"messages": [{"role": "ü", "content": "the cat é\nè"}], "source": "ä"})") +
          Lines(R"({"prompt": "à", "chosen": "â", "rejected": "ê"})") + "\n");
  for (const char* read : {"ö", "é", "è", "à", "â", "ê"}) EXPECT_THAT(model, HasSubstr(read));
  for (const char* left : {"ä", "ü"}) EXPECT_THAT(model, Not(HasSubstr(left)));
}

TEST_F(TokenizerTraining, PlainTextMayLookLikeARecord) {
  EXPECT_THAT(Train("words.txt", "the cat sat on a mat\n" + Lines("{\"id\": \"ä\"} a cat sat")),
              HasSubstr("ä"));
}

TEST_F(TokenizerTraining, MalformedLinesAreNamedWithFileAndLine) {
  const std::string good = "{\"text\": \"a cat\"}\n", path = folder_.path() + "/words.jsonl";
  for (const char* line : {"{\"text\": \"a c", "[]", "{\"id\": 3}", "a cat"}) {
    EXPECT_THAT(ErrorOf([&] { Train("words.jsonl", good + "\n" + line + "\n"); }),
                HasSubstr(path + ":3: expected JSON Lines"))
        << line;
    EXPECT_THAT(ErrorOf([&] { Train("words.jsonl", line + std::string("\n") + good); }),
                HasSubstr(path + ":1: expected JSON Lines"))
        << line;
  }
}

}  // namespace
}  // namespace mambad::trainer
