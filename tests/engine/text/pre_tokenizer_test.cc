#include "engine/text/pre_tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "engine/text/tokenizer_components.h"

namespace mambad::text {
namespace {

using testing::ElementsAre;

std::vector<std::string> Split(const std::string& json, const std::string& text,
                               bool at_start = true) {
  const Json document = Json::parse(json);
  auto rule = ReadPreTokenizer(JsonReader(document, "pre_tokenizer"));
  EXPECT_TRUE(rule.ok()) << rule.status().ToString();
  const PreTokenizer pre_tokenizer(std::move(rule->steps));
  Pieces pieces;
  EXPECT_TRUE(pre_tokenizer.Split(text, at_start, &pieces).ok());
  return {pieces.pieces.begin(), pieces.pieces.end()};
}

std::string SplitOn(const std::string& behavior, bool invert = false) {
  return R"({"type":"Split","pattern":{"String":"-"},"behavior":")" + behavior + R"(","invert":)" +
         (invert ? "true" : "false") + "}";
}

// The example of the `tokenizers` documentation: "the-final--countdown" cut at "-".
TEST(PreTokenizer, SplitBehaviors) {
  const std::string text = "the-final--countdown";
  EXPECT_THAT(Split(SplitOn("Removed"), text), ElementsAre("the", "final", "countdown"));
  EXPECT_THAT(Split(SplitOn("Isolated"), text),
              ElementsAre("the", "-", "final", "-", "-", "countdown"));
  EXPECT_THAT(Split(SplitOn("MergedWithPrevious"), text),
              ElementsAre("the-", "final-", "-", "countdown"));
  EXPECT_THAT(Split(SplitOn("MergedWithNext"), text),
              ElementsAre("the", "-final", "-", "-countdown"));
  EXPECT_THAT(Split(SplitOn("Contiguous"), text),
              ElementsAre("the", "-", "final", "--", "countdown"));
  EXPECT_THAT(Split(SplitOn("Removed", true), text), ElementsAre("-", "-", "-"));
}

TEST(PreTokenizer, Gpt2) {
  const std::string json = R"({"type":"ByteLevel","add_prefix_space":false})";
  EXPECT_THAT(Split(json, "I've 12 cats,  ok?\n\n "),
              ElementsAre("I", "'ve", " 12", " cats", ",", " ", " ok", "?", "\n\n "));
  EXPECT_THAT(Split(R"({"type":"ByteLevel","add_prefix_space":true})", "a b"),
              ElementsAre(" a", " b"));
}

TEST(PreTokenizer, Smollm) {
  const std::string json = R"({"type":"Sequence","pretokenizers":[
      {"type":"Digits","individual_digits":true},
      {"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}]})";
  EXPECT_THAT(Split(json, "in 2024 we"), ElementsAre("in", " ", "2", "0", "2", "4", " we"));
}

TEST(PreTokenizer, DigitsTogether) {
  EXPECT_THAT(Split(R"({"type":"Digits","individual_digits":false})", "ab123c"),
              ElementsAre("ab", "123", "c"));
}

TEST(PreTokenizer, Metaspace) {
  const std::string first = R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"first"})";
  EXPECT_THAT(Split(first, "a  b"), ElementsAre("▁a", "▁", "▁b"));
  EXPECT_THAT(Split(first, "a b", false), ElementsAre("a", "▁b"));
  EXPECT_THAT(
      Split(R"({"type":"Metaspace","replacement":"▁","add_prefix_space":true})", "a b", false),
      ElementsAre("▁a", "▁b"));
  EXPECT_THAT(Split(R"({"type":"Metaspace","replacement":"▁","prepend_scheme":"never",
                        "split":false})",
                    "a b"),
              ElementsAre("a▁b"));
  // Where the beginning of the text was removed, nothing stands at its start.
  const std::string removed =
      R"({"type":"Split","pattern":{"String":"-"},"behavior":"Removed","invert":false})";
  const std::string both = R"({"type":"Sequence","pretokenizers":[)" + removed + "," + first + "]}";
  EXPECT_THAT(Split(both, "a-b"), ElementsAre("▁a", "b"));
  EXPECT_THAT(Split(both, "-a-b"), ElementsAre("a", "b"));
}

}  // namespace
}  // namespace mambad::text
