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

// Right values: the tokenizers library, Oniguruma inside.
TEST(Regex, CharactersOfUnicode16AreKnown) {
  const std::string letters = "\U00031350\U0002EBF0\U0001E4D0\u1C89\uA7DC";
  const std::string digits = "\U00010D40\U0001CCF9";
  EXPECT_THAT(FindAll("\\p{L}+", letters + digits), ElementsAre(letters));
  EXPECT_THAT(FindAll("[^\\p{L}]+|\\P{L}", letters + digits), ElementsAre(digits));
  EXPECT_THAT(FindAll("\\p{N}+", letters + digits + "\U0001D2C0"),
              ElementsAre(digits + "\U0001D2C0"));
  EXPECT_THAT(FindAll("\\d+|[[:alpha:]]+", letters + digits), ElementsAre(letters, digits));
  EXPECT_THAT(FindAll("\\p{M}+", "\u0897\U00011F34a"), ElementsAre("\u0897\U00011F34"));
  EXPECT_THAT(FindAll("\\p{S}+", "\U0001FAE8\U0001FAE9\u31EF\U0001CC00."),
              ElementsAre("\U0001FAE8\U0001FAE9\u31EF\U0001CC00"));
  EXPECT_THAT(FindAll("\\p{P}+", "\u1B4E\U00010D6Ea"), ElementsAre("\u1B4E\U00010D6E"));
  EXPECT_THAT(FindAll("\\p{Lu}+|\\p{Ll}+", "\U00010D50\U00010D70"),
              ElementsAre("\U00010D50", "\U00010D70"));
  EXPECT_THAT(FindAll("\\p{Han}+", "\U00031350a\U0002EE5D"),
              ElementsAre("\U00031350", "\U0002EE5D"));
  EXPECT_THAT(FindAll("\\w+", letters + digits + " " + digits),
              ElementsAre(letters + digits, digits));
  EXPECT_THAT(FindAll("\\b", letters), ElementsAre("", ""));
  EXPECT_THAT(FindAll("\\p{Cn}|\\p{C}", letters + digits + "\U0001FAE9\u0378\uE000"),
              ElementsAre("\u0378", "\uE000"));
  EXPECT_THAT(FindAll("\\p{Assigned}+|\\P{C}", letters + "\u0378"), ElementsAre(letters));
}

TEST(Regex, CaseCanBeIgnored) {
  EXPECT_THAT(FindAll("(?i:'s|'re)", "'S 're 'Re 't"), ElementsAre("'S", "'re", "'Re"));
}

TEST(Regex, EmptyMatchesCutButNotBehindAnother) {
  EXPECT_THAT(FindAll("b*", "aébbé"), ElementsAre("", "", "bb", ""));
  EXPECT_THAT(FindAll("(?=\\d{3})", "12345"), ElementsAre("", "", ""));
  EXPECT_THAT(FindAll("x*$", "axx"), ElementsAre("xx"));
}

// Right values: the tokenizers library, Oniguruma inside.
// Right values: the tokenizers library, Oniguruma inside.
TEST(Regex, AtomicGroupsDoNotGiveBack) {
  EXPECT_THAT(FindAll("(?>.+?)\\S\\d", "B-.12x34"), ElementsAre("-.1", "2x3"));
  EXPECT_THAT(FindAll("(?>b{1,2}|'*|[^x]1?) *\\z", "\u00BD'a"), ElementsAre(""));
  EXPECT_THAT(FindAll("(?>a+)ab|a", "aaab"), ElementsAre("a", "a", "a"));
}

TEST(Regex, IntervalsAreThoseOfRuby) {
  EXPECT_THAT(FindAll("\\p{N}{2}+", "12345"), ElementsAre("1234"));
  EXPECT_THAT(FindAll("\\d{2,3}++", "1234567"), ElementsAre("123456"));
  EXPECT_THAT(FindAll("\\p{N}{,3}", "12345"), ElementsAre("123", "45"));
  EXPECT_THAT(FindAll("\\p{N}{2}?", "12345"), ElementsAre("12", "34", ""));
  EXPECT_THAT(FindAll("\\p{N}{1,2}?", "123"), ElementsAre("1", "2", "3"));
  EXPECT_THAT(FindAll("a**", "aab"), ElementsAre("aa", ""));
  EXPECT_THAT(FindAll("a{,}|b{|c}", "a{,}b{c}a{n}"), ElementsAre("a{,}", "b{", "c}"));
  EXPECT_THAT(FindAll("[^\\r\\n\\p{L}\\p{N}]?+\\p{L}++", "a b!c"), ElementsAre("a", " b", "!c"));
}

TEST(Regex, LettersMeanWhatTheyMeanInOniguruma) {
  EXPECT_THAT(FindAll("\\h+", "zZ9fF g"), ElementsAre("9fF"));
  EXPECT_THAT(FindAll("\\H", "9g"), ElementsAre("g"));
  EXPECT_THAT(FindAll("\\R", "a\r\n\n\v\u2028\u0085b"),
              ElementsAre("\r\n", "\n", "\v", "\u2028", "\u0085"));
  EXPECT_THAT(FindAll("\\N+", "ab\r\nc"), ElementsAre("ab\r", "c"));
  EXPECT_THAT(FindAll("\\O+", "a\nb"), ElementsAre("a\nb"));
  EXPECT_THAT(FindAll("\\bé", "é aé"), ElementsAre("é"));
  EXPECT_THAT(FindAll("a\\B.", "ab a!"), ElementsAre("ab"));
  EXPECT_THAT(FindAll("\\A.|.\\z|.\\Z", "ab\ncd"), ElementsAre("a", "d"));
  EXPECT_THAT(FindAll("^.|.$", "ab\ncd"), ElementsAre("a", "b", "c", "d"));
  EXPECT_THAT(FindAll("\\v|\\x41|\\x{e9}|\\u0042", "\vABé\f"), ElementsAre("\v", "A", "B", "é"));
}

TEST(Regex, SetsMayBeNegatedNestedAndCut) {
  EXPECT_THAT(FindAll("[\\S]+", "a\u0085\u180Eb"), ElementsAre("a", "\u180Eb"));
  EXPECT_THAT(FindAll("[^\\S\\n]+", "a \t\n b"), ElementsAre(" \t", " "));
  EXPECT_THAT(FindAll("[^\\W_]+", "a_b-c"), ElementsAre("a", "b", "c"));
  EXPECT_THAT(FindAll("[a-z&&[^x]]+", "axb"), ElementsAre("a", "b"));
  EXPECT_THAT(FindAll("[^a-z&&[^x]]+", "axb!"), ElementsAre("x", "!"));
  EXPECT_THAT(FindAll("[a-c[0-9]]+", "ab1d2"), ElementsAre("ab1", "2"));
  EXPECT_THAT(FindAll("[]a-]+", "]-ab"), ElementsAre("]-a"));
  EXPECT_THAT(FindAll("[a-c-e]+", "b-ed"), ElementsAre("b-e"));
  EXPECT_THAT(FindAll("[[:alpha:]]+", "aé1Ⅷ\u0301"), ElementsAre("aé", "Ⅷ"));
  EXPECT_THAT(FindAll("[[:^space:]]+", "a\u00A0b"), ElementsAre("a", "b"));
  EXPECT_THAT(FindAll("[[:punct:]]+", "a+b!😀"), ElementsAre("+", "!😀"));
  EXPECT_THAT(FindAll("\\p{Punct}+", "a+b!😀"), ElementsAre("!"));
}

TEST(Regex, PropertiesHaveManyNames) {
  EXPECT_THAT(FindAll("\\p{lu}|\\p{Lowercase_Letter}", "aB1"), ElementsAre("a", "B"));
  EXPECT_THAT(FindAll("\\p{^L}+", "a1!b"), ElementsAre("1!"));
  EXPECT_THAT(FindAll("[^\\P{L}]+", "a1b"), ElementsAre("a", "b"));
  EXPECT_THAT(FindAll("\\p{Han}+", "a語。b"), ElementsAre("語"));
  EXPECT_THAT(FindAll("\\p{Greek}+", "aγb"), ElementsAre("γ"));
}

TEST(Regex, OptionsHoldToTheEndOfTheirGroup) {
  EXPECT_THAT(FindAll("a(?i)b|c", "aBCcabA C"), ElementsAre("aB", "ab"));
  EXPECT_THAT(FindAll("(?:x(?i)b|c)|D", "xBxcCdD"), ElementsAre("xB", "xc", "D"));
  EXPECT_THAT(FindAll("(?m).+", "a\nb"), ElementsAre("a\nb"));
  EXPECT_THAT(FindAll("(?mi-i:A.)", "A\na."), ElementsAre("A\n"));
  EXPECT_THAT(FindAll("(?<name>a)(?'other'b)(?#c)", "ab"), ElementsAre("ab"));
  EXPECT_THAT(FindAll("# b", "a# b"), ElementsAre("# b"));
  EXPECT_THAT(FindAll("(?i:a)\\p{Lu}|(?i)(?-i)\\p{Lu}", "AB c"), ElementsAre("AB"));
  EXPECT_THAT(FindAll("(?i)[^a]", "aAb"), ElementsAre("b"));
}

TEST(Regex, NamesWhatItDoesNotUnderstand) {
  for (const char* pattern : {"\\X",
                              "[[:foo:]]",
                              "\\y",
                              "\\xE3\\x81",
                              "(*UTF)",
                              "[]",
                              "\\",
                              "\\C",
                              "\\K",
                              "(a)\\1",
                              "(?<n>a)\\k<n>",
                              "\\g<1>",
                              "(?~ab)",
                              "(?(1)a|b)",
                              "(?x: a)",
                              "(?s:.)",
                              "(?P<n>a)",
                              "\\pL",
                              "\\p{IsL}",
                              "\\p{Nonsense}",
                              "*",
                              "a|+",
                              "a)",
                              "(a",
                              "[a",
                              "[a-\\d]",
                              "[\\d-a]",
                              "[z-a]",
                              "\\Q",
                              "a{70000}",
                              "(?#",
                              "(?i)\\p{Lu}",
                              "(?i:[[:upper:]])",
                              "(?i)[a&&[^b]]",
                              "(?i)[a[^b]]",
                              "(a*)*",
                              "(a|b?)+",
                              "(?:a?){2,}",
                              "(?:a?|b){2}",
                              "(?>a*|b)*+",
                              "(?:(?=a))+",
                              "(?:a{0,2}b?)*?"}) {
    const auto regex = Regex::Compile(pattern);
    EXPECT_EQ(regex.status().code(), absl::StatusCode::kInvalidArgument) << pattern;
    EXPECT_THAT(std::string(regex.status().message()), HasSubstr("not supported")) << pattern;
  }
  EXPECT_THAT(std::string(Regex::Compile("x(?~ab)").status().message()), HasSubstr("(?~"));
  EXPECT_THAT(std::string(Regex::Compile("(a|b?)+").status().message()),
              HasSubstr("\"+ after what may match nothing\""));
  for (const char* pattern : {"(a*)?", "(a*){,1}", "(a*b)*", "(?:a+|(?=b)c)+", "a**"}) {
    EXPECT_TRUE(Regex::Compile(pattern).ok()) << pattern;
  }
  EXPECT_THAT(std::string(Regex::Compile("\\p{Nonsense}").status().message()),
              HasSubstr("\\p{Nonsense}"));
  EXPECT_FALSE(Regex::Compile(std::string(70000, 'a')).ok());
  EXPECT_FALSE(Regex::Compile(std::string(10000, '(') + std::string(10000, ')')).ok());
  EXPECT_FALSE(Regex::Compile(std::string(10000, '[') + std::string(10000, ']')).ok());
  EXPECT_FALSE(Regex::Compile(std::string(60000, '+')).ok());
  std::string long_one = "a";
  for (int i = 0; i < 20000; ++i) long_one += "\\b";
  EXPECT_FALSE(Regex::Compile(long_one).ok());
  EXPECT_FALSE(Regex::Compile("a" + std::string(60000, '*')).ok());
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
