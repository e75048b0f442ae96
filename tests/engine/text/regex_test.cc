#include "engine/text/regex.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace mambad::text {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::vector<std::string> FindAll(const std::string& pattern, const std::string& text) {
  const auto regex = Regex::Compile(pattern);
  EXPECT_TRUE(regex.ok()) << regex.status().ToString();
  std::vector<Match> matches;
  EXPECT_TRUE(regex->FindAll(text, &matches).ok());
  std::vector<std::string> found;
  for (const Match& match : matches) {
    found.push_back(text.substr(match.begin, match.end - match.begin));
  }
  return found;
}

TEST(Regex, ClassesFollowUnicode) {
  EXPECT_THAT(FindAll("\\p{L}+", "añb 語x 1"), ElementsAre("añb", "語x"));
  // Next line (U+0085) is white space, the Mongolian vowel separator (U+180E) is not.
  EXPECT_THAT(FindAll("\\s", "a\u0085\u180E\u3000b"), ElementsAre("\u0085", "\u3000"));
  EXPECT_THAT(FindAll("\\S+", "a\u0085\u180E\u3000b"), ElementsAre("a", "\u180E", "b"));
  EXPECT_THAT(FindAll("[^\\s\\p{L}]+", "a\u0085\u180E\u3000!b"), ElementsAre("\u180E", "!"));
  // Numbers of letters and letters in circles are of words everywhere, the fractions and raised
  // numbers of Latin-1 only outside of brackets.
  const std::string words = "a\u0301_1-\u00BD \u2167\u24B6\U0001F130 \u200D";
  EXPECT_THAT(FindAll("\\w+", words), ElementsAre("a\u0301_1", "\u00BD", "\u2167\u24B6\U0001F130"));
  EXPECT_THAT(FindAll("\\W+", words), ElementsAre("-", " ", " \u200D"));
  EXPECT_THAT(FindAll("[\\w]+", words), ElementsAre("a\u0301_1", "\u2167\u24B6\U0001F130"));
  EXPECT_THAT(FindAll("[^\\w]+", words), ElementsAre("-\u00BD ", " \u200D"));
  EXPECT_THAT(FindAll("\\d", "1\u0661\u00BD"), ElementsAre("1", "\u0661"));
}

TEST(Regex, CaseCanBeIgnored) {
  EXPECT_THAT(FindAll("(?i:'s|'re)", "'S 're 'Re 't"), ElementsAre("'S", "'re", "'Re"));
}

TEST(Regex, EmptyMatchesAreLeftOut) { EXPECT_THAT(FindAll("b*", "aébbé"), ElementsAre("bb")); }

TEST(Regex, NamesWhatItDoesNotUnderstand) {
  for (const char* pattern : {"\\b", "[a-z&&[b]]", "[[:alpha:]]", "\\h", "[\\S]", "(*UTF)", "[]a]",
                              "\\", "\\C", "\\K", "(\\1)"}) {
    const auto regex = Regex::Compile(pattern);
    EXPECT_EQ(regex.status().code(), absl::StatusCode::kInvalidArgument) << pattern;
    EXPECT_THAT(std::string(regex.status().message()), HasSubstr("not supported")) << pattern;
  }
  EXPECT_THAT(std::string(Regex::Compile("(a").status().message()), HasSubstr("(a"));
  EXPECT_FALSE(Regex::Compile(std::string(70000, 'a')).ok());
  EXPECT_FALSE(Regex::Compile(std::string(10000, '(') + std::string(10000, ')')).ok());
}

TEST(Regex, GivesUpOnExponentialPatterns) {
  const auto regex = Regex::Compile("(a|aa)+[bc]");
  ASSERT_TRUE(regex.ok());
  std::vector<Match> matches;
  EXPECT_EQ(regex->FindAll(std::string(200, 'a'), &matches).code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace mambad::text
