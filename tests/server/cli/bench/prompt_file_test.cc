#include "server/cli/bench/prompt_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mambad::cli {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<PromptEntry> Parse(const std::string& text) {
  std::vector<PromptEntry> entries;
  EXPECT_EQ(ParsePrompts("file", text, &entries), "");
  return entries;
}

TEST(PromptFileTest, LinesOfText) {
  const auto entries = Parse("One \n\n[two]\n{three\n");
  ASSERT_EQ(entries.size(), 3u);
  EXPECT_THAT(entries[0].turns, ElementsAre("One "));
  EXPECT_THAT(entries[1].turns, ElementsAre("[two]"));
  EXPECT_THAT(entries[2].turns, ElementsAre("{three"));
}

TEST(PromptFileTest, JsonLinesOfEveryKind) {
  const auto entries = Parse(
      "\n{\"question_id\": 81, \"turns\": [\"first\", \"second\\n\"]}\n"
      "{\"task_id\": \"x/0\", \"prompt\": \"def f():\"}\n"
      "{\"question\": \"why?\", \"answer\": \"so\"}\n"
      "{\"text\": \"a story\", \"output_length\": 7}\n"
      "{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}, {\"role\": \"user\", "
      "\"content\":"
      " \"u\"}, {\"role\": \"assistant\", \"content\": \"a\"}]}\n"
      "{\"timestamp\": 1500, \"input_length\": 600, \"output_length\": 5, \"hash_ids\": [3, 4]}\n");
  ASSERT_EQ(entries.size(), 6u);
  EXPECT_THAT(entries[0].turns, ElementsAre("first", "second\n"));
  EXPECT_THAT(entries[1].turns, ElementsAre("def f():"));
  EXPECT_THAT(entries[2].turns, ElementsAre("why?"));
  EXPECT_EQ(entries[3].answer_tokens, 7);
  EXPECT_THAT(entries[4].turns, ElementsAre("u"));
  EXPECT_EQ(entries[5].prompt_tokens, 600);
  EXPECT_THAT(entries[5].blocks, ElementsAre(3, 4));
  EXPECT_EQ(entries[5].answer_tokens, 5);
  EXPECT_DOUBLE_EQ(entries[5].arrival.value(), 1.5);
}

TEST(PromptFileTest, WhatIsWrongNamesItsLine) {
  const std::pair<const char*, const char*> kCases[] = {
      {"", "file: holds no prompt"},
      {"\n\n", "file: holds no prompt"},
      {"\x1f\x8b\x08", "file: is compressed"},
      {"a\n\xff\n", "file, line 2: not UTF-8"},
      {"{\"prompt\": \"a\"}\nb\n", "file, line 2: is no JSON"},
      {"{\"prompt\": \"a\"}\n[1]\n", "file, line 2: is no JSON object"},
      {"{\"other\": 1}\n", "file, line 1: has none of"},
      {"{\"turns\": []}\n", "\"turns\" is no list of texts"},
      {"{\"turns\": [1]}\n", "\"turns\" is no list of texts"},
      {"{\"prompt\": \"\"}\n", "holds an empty text"},
      {"{\"prompt\": null}\n", "\"prompt\" is no text"},
      {"{\"messages\": [{\"role\": \"system\", \"content\": \"s\"}]}\n", "none of a user"},
      {"{\"messages\": [3]}\n", "\"messages\" is no list"},
      {"{\"input_length\": 0}\n", "\"input_length\""},
      {"{\"input_length\": 18446744073709551615}\n", "\"input_length\""},
      {"{\"input_length\": 2, \"hash_ids\": [\"x\"]}\n", "\"hash_ids\""},
      {"{\"prompt\": \"a\", \"output_length\": -1}\n", "\"output_length\""},
      {"{\"prompt\": \"a\", \"timestamp\": -1}\n", "\"timestamp\""},
      {"{\"prompt\": \"a\", \"timestamp\": \"now\"}\n", "\"timestamp\""},
  };
  for (const auto& [text, words] : kCases) {
    std::vector<PromptEntry> entries;
    EXPECT_THAT(ParsePrompts("file", text, &entries), HasSubstr(words)) << text;
  }
}

TEST(PromptFileTest, TracesAreSortedAndBeginAtZero) {
  auto entries = Parse(
      "{\"prompt\": \"late\", \"timestamp\": 9000}\n{\"prompt\": \"a\", \"timestamp\": 4000}\n"
      "{\"prompt\": \"b\", \"timestamp\": 4000}\n");
  EXPECT_EQ(SortByArrival("file", &entries), "");
  EXPECT_THAT(entries[0].turns, ElementsAre("a"));
  EXPECT_THAT(entries[1].turns, ElementsAre("b"));
  EXPECT_DOUBLE_EQ(entries[1].arrival.value(), 0);
  EXPECT_DOUBLE_EQ(entries[2].arrival.value(), 5);
  entries = Parse("{\"prompt\": \"a\", \"timestamp\": 1}\n{\"prompt\": \"b\"}\n");
  EXPECT_EQ(SortByArrival("file", &entries), "file: prompt 2 has no \"timestamp\"");
}

}  // namespace
}  // namespace mambad::cli
