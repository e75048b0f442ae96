// Records of every kind become tokens with the right ones trained; malformed ones are named.

#include "trainer/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"

namespace mambad::trainer {
namespace {

using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;
using testing::Spelled;

class CorpusTest : public ::testing::Test {
 protected:
  void Open(bool chat_template) {
    testing::WriteSmallTokenizer(folder_.path(), chat_template);
    text_ = OpenModelText(folder_.path());
  }
  // "tokens|trained": what is trained in the second part, the rest as dots.
  std::vector<std::string> Read(const std::string& content, const CorpusOptions& options = {},
                                const std::string& name = "corpus") {
    const std::string path = folder_.path() + "/" + name;
    testing::WriteText(path, content);
    std::vector<std::string> documents;
    counts_ = ReadCorpus(path, text_.corpus(), options, [&](std::vector<TokenizedDocument> record) {
      for (const TokenizedDocument& document : record) {
        std::vector<int64_t> all(document.tokens.begin(), document.tokens.end()), trained;
        for (size_t i = 0; i < all.size(); ++i) {
          if (document.trained[i]) trained.push_back(all[i]);
        }
        documents.push_back(Spelled(all) + "|" + Spelled(trained));
      }
    });
    return documents;
  }

  testing::TemporaryDirectory folder_;
  ModelText text_;
  CorpusCounts counts_;
};

TEST_F(CorpusTest, PlainTextIsCutAtSeparators) {
  Open(false);
  EXPECT_THAT(Read("one\ntwo\n<|endoftext|>\nthree\n<|endoftext|>\n\n<|endoftext|>\n"),
              ElementsAre("one\ntwo[256]|one\ntwo[256]", "three[256]|three[256]"));
  CorpusOptions options;
  options.separator = "";
  options.append_end_of_text = false;
  EXPECT_THAT(Read("one\n\ntwo", options), ElementsAre("one\n\ntwo|one\n\ntwo"));
}

// Text of a file must not be able to write the tokens that end a turn.
TEST_F(CorpusTest, PlainTextSpellsNoSpecialTokens) {
  Open(false);
  EXPECT_THAT(Read("{\"text\": \"a<|im_end|>b\"}"),
              ElementsAre("a<|im_end|>b[256]|a<|im_end|>b[256]"));
}

TEST_F(CorpusTest, CompletionsAreTrainedAndPromptsAreNot) {
  Open(false);
  EXPECT_THAT(Read("{\"prompt\": \"2+2=\", \"completion\": \"4\"}\n"),
              ElementsAre("2+2=4[256]|4[256]"));
  CorpusOptions options;
  options.train_on_prompts = true;
  EXPECT_THAT(Read("{\"prompt\": \"2+2=\", \"completion\": \"4\"}\n", options),
              ElementsAre("2+2=4[256]|2+2=4[256]"));
}

TEST_F(CorpusTest, EveryAnswerOfAConversationIsTrainedToTheEndOfItsTurn) {
  Open(true);
  const auto read = Read(
      R"({"messages": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"},)"
      R"({"role": "user", "content": "C"}, {"role": "assistant", "content": "D"}]})");
  EXPECT_THAT(read, ElementsAre("[257]user\nA[258]\n[257]assistant\nB[258]\n"
                                "[257]user\nC[258]\n[257]assistant\nD[258]\n|"
                                "B[258]\nD[258]\n"));
}

TEST_F(CorpusTest, APromptIsAUsersTurnWhereThereIsATemplate) {
  Open(true);
  EXPECT_THAT(Read("{\"prompt\": \"A\", \"completion\": \"B\"}"),
              ElementsAre("[257]user\nA[258]\n[257]assistant\nB[258]\n|B[258]\n"));
  CorpusOptions options;
  options.prompts_are_chat = false;
  EXPECT_THAT(Read("{\"prompt\": \"A\", \"completion\": \"B\"}", options),
              ElementsAre("AB[256]|B[256]"));
}

TEST_F(CorpusTest, PairsGiveChosenThenRejected) {
  Open(false);
  EXPECT_THAT(Read("{\"prompt\": \"A\", \"chosen\": \"B\", \"rejected\": \"C\"}"),
              ElementsAre("AB[256]|B[256]", "AC[256]|C[256]"));
}

TEST_F(CorpusTest, LongDocumentsAreCut) {
  Open(false);
  CorpusOptions options;
  options.maximum_tokens = 3;
  EXPECT_THAT(Read("{\"text\": \"abcdef\"}", options), ElementsAre("abc|abc"));
}

TEST_F(CorpusTest, RecordsArePythons) {
  Open(false);
  EXPECT_THAT(Read(R"({"text": "a", "score": NaN})"
                   "\n"
                   R"({"loss": [-Infinity, Infinity], "text": "b\ud83d"})"),
              ElementsAre("a[256]|a[256]", "b\uFFFD[256]|b\uFFFD[256]"));
}

TEST_F(CorpusTest, MalformedLinesAreNamedWithFileAndLine) {
  Open(false);
  const std::string good = "{\"text\": \"x\"}\n";
  const std::string place = folder_.path() + "/corpus:2: ";
  EXPECT_EQ(ErrorOf([&] { Read(good + "{\"text\": 3}\n"); }),
            place + "\"text\": expected a text, found number");
  EXPECT_EQ(ErrorOf([&] { Read(good + "{\"text\": \"x\"\n"); }),
            place + "expected JSON Lines: a whole JSON object on every line");
  EXPECT_EQ(ErrorOf([&] { Read(good + "{}\n"); }),
            place + "expected \"text\", \"messages\" or \"prompt\", found none of them");
  EXPECT_EQ(ErrorOf([&] { Read(good + "{\"messages\": []}\n"); }),
            place + "\"messages\": expected a list of messages, found an empty one");
  EXPECT_EQ(ErrorOf([&] { Read(good + "{\"prompt\": \"a\", \"chosen\": \"b\"}\n"); }),
            place + "\"rejected\": expected a text, found nothing");
  EXPECT_THAT(
      ErrorOf([&] { Read(good + "{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}"); }),
      HasSubstr(place + "preference pairs and other records"));
  EXPECT_THAT(ErrorOf([&] { Read(good + R"({"messages": [{"role": "user", "content": "A"}]})"); }),
              HasSubstr("need a chat template"));
  EXPECT_THAT(ErrorOf([&] { Read(good + "{\"text\": \"\xff\"}\n"); }), HasSubstr(place));
  const std::string deep = "{\"text\": " + std::string(100000, '[');
  EXPECT_EQ(ErrorOf([&] { Read(good + deep); }),
            place + "expected JSON Lines: a whole JSON object on every line");
}

TEST_F(CorpusTest, MalformedLinesAreLeftOutAndCountedOnRequest) {
  Open(false);
  CorpusOptions options;
  options.skip_malformed = true;
  EXPECT_THAT(Read("{\"text\": \"x\"}\n{\"text\": 3}\nno json\n{\"text\": \"y\"}\n", options),
              ElementsAre("x[256]|x[256]", "y[256]|y[256]"));
  EXPECT_EQ(counts_.records, 2);
  EXPECT_EQ(counts_.skipped, 2);
  EXPECT_THAT(counts_.first_skipped, HasSubstr("corpus:2: \"text\": expected a text"));
}

// Whatever its first line looks like: no JSON is read as the text of a document.
TEST_F(CorpusTest, AFileNamedAsJsonIsNotReadAsPlainText) {
  Open(false);
  const std::string good = "{\"text\": \"x\"}\n";
  for (const std::string name : {"corpus.jsonl", "corpus.json", "corpus.jsonl.gz"}) {
    const std::string error = folder_.path() + "/" + name + ":1: expected JSON Lines";
    EXPECT_THAT(ErrorOf([&] { Read("\"text\": \"x\"}\n" + good, {}, name); }), HasSubstr(error));
    EXPECT_THAT(ErrorOf([&] { Read("[" + good + "]\n", {}, name); }), HasSubstr(error));
    EXPECT_THAT(ErrorOf([&] { Read("{\n\"text\": \"x\"\n}", {}, name); }), HasSubstr(error));
  }
  EXPECT_THAT(Read("[" + good, {}, "corpus.txt"), ElementsAre(HasSubstr("[{\"text\"")));
}

TEST_F(CorpusTest, AByteOrderMarkIsNoText) {
  Open(false);
  EXPECT_THAT(Read("\xEF\xBB\xBF{\"text\": \"x\"}\n"), ElementsAre("x[256]|x[256]"));
  EXPECT_THAT(Read("\xEF\xBB\xBFx\n"), ElementsAre("x[256]|x[256]"));
}

TEST_F(CorpusTest, AFileOfMalformedLinesOnlyIsAnErrorInAnyCase) {
  Open(false);
  CorpusOptions options;
  options.skip_malformed = true;
  EXPECT_THAT(ErrorOf([&] { Read("[\n{\"text\": \"x\"\n]\n", options, "corpus.json"); }),
              ::testing::AllOf(HasSubstr("corpus.json:1: "), HasSubstr("not one good record")));
}

// A full disk is no malformed record.
TEST_F(CorpusTest, WhatTheReaderDoesIsNoRecordsFault) {
  Open(false);
  CorpusOptions options;
  options.skip_malformed = true;
  testing::WriteText(folder_.path() + "/corpus", "{\"text\": \"x\"}\n");
  EXPECT_EQ(ErrorOf([&] {
              ReadCorpus(folder_.path() + "/corpus", text_.corpus(), options,
                         [](auto) { throw std::runtime_error("disk full"); });
            }),
            "disk full");
}

// The answers of a prompt are not those that are learned.
TEST_F(CorpusTest, OfAPromptWithAnswersOnlyTheLastOneIsTrained) {
  Open(true);
  const auto read =
      Read(R"({"prompt": [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"},)"
           R"({"role": "user", "content": "C"}], "completion": "D"})");
  EXPECT_THAT(read, ElementsAre("[257]user\nA[258]\n[257]assistant\nB[258]\n"
                                "[257]user\nC[258]\n[257]assistant\nD[258]\n|D[258]\n"));
}

TEST_F(CorpusTest, AFileThatIsMissingIsNamed) {
  Open(false);
  EXPECT_THAT(ErrorOf([&] { ReadCorpus("/nowhere/x.jsonl", text_.corpus(), {}, [](auto) {}); }),
              HasSubstr("/nowhere/x.jsonl: No such file"));
}

}  // namespace
}  // namespace mambad::trainer
