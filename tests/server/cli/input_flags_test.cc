#include "server/cli/input_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mambad::cli {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::StartsWith;

TEST(InputFlagsTest, TokenIds) {
  std::vector<int32_t> ids;
  EXPECT_TRUE(ParseTokenIds("1,2, 30", &ids));
  EXPECT_THAT(ids, ElementsAre(1, 2, 30));
  EXPECT_TRUE(ParseTokenIds("", &ids));
  EXPECT_THAT(ids, IsEmpty());
  for (const char* text : {"1,", ",1", "1;2", "a", "1.5", "99999999999"})
    EXPECT_FALSE(ParseTokenIds(text, &ids)) << text;
}

TEST(InputFlagsTest, MessagesInBothForms) {
  for (const char* text : {R"([{"role": "user", "content": "a\nb"}])",
                           R"({"messages": [{"role": "user", "content": "a\nb"}], "n": 1})",
                           // As Python's json writes what is no number.
                           R"([{"role": "user", "content": "a\nb", "score": NaN}])"}) {
    v1::Conversation conversation;
    EXPECT_EQ(ParseMessages(text, &conversation), "");
    ASSERT_EQ(conversation.messages_size(), 1);
    EXPECT_EQ(conversation.messages(0).role(), "user");
    EXPECT_EQ(conversation.messages(0).content(), "a\nb");
  }
}

TEST(InputFlagsTest, MessagesThatAreNone) {
  const std::pair<const char*, const char*> kCases[] = {
      {"", "not valid JSON: line 1, column 1: "},
      {"[", "not valid JSON: line 1, column 2: "},
      {"[{\"role\": \"\xff\"}]", "not valid JSON: line 1, column 12: "},
      {"3", "expected a list"},
      {"{\"messages\": 3}", "expected a list"},
      {"[]", "the list has no message"},
      {"[3]", "message 1 is not"},
      {R"([{"role": "user", "content": "a"}, {"role": 1, "content": "b"}])", "message 2 is not"},
      {R"([{"role": "user", "content": null}])", "message 1 is not"},
  };
  for (const auto& [text, problem] : kCases) {
    v1::Conversation conversation;
    EXPECT_THAT(ParseMessages(text, &conversation), StartsWith(problem)) << text;
  }
}

}  // namespace
}  // namespace mambad::cli
