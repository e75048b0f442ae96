#include "engine/text/normalizer.h"

#include <gtest/gtest.h>

#include <memory>
#include <string>

namespace mambad::text {
namespace {

TEST(NormalizeUnicode, Forms) {
  // Rows of Unicode's NormalizationTest.txt.
  EXPECT_EQ(NormalizeUnicode("\u1E0A", UnicodeForm::kNfd), "D\u0307");
  EXPECT_EQ(NormalizeUnicode("D\u0307\u0323", UnicodeForm::kNfc), "\u1E0C\u0307");
  EXPECT_EQ(NormalizeUnicode("D\u0307\u0323", UnicodeForm::kNfd), "D\u0323\u0307");
  EXPECT_EQ(NormalizeUnicode("\u0344", UnicodeForm::kNfc), "\u0308\u0301");
  EXPECT_EQ(NormalizeUnicode("\uFB01", UnicodeForm::kNfc), "\uFB01");
  EXPECT_EQ(NormalizeUnicode("\uFB01", UnicodeForm::kNfkc), "fi");
  EXPECT_EQ(NormalizeUnicode("\u1100\u1161\u11A8", UnicodeForm::kNfc), "\uAC01");
  EXPECT_EQ(NormalizeUnicode("\uAC01", UnicodeForm::kNfd), "\u1100\u1161\u11A8");
  EXPECT_EQ(NormalizeUnicode("\u212B", UnicodeForm::kNfc), "\u00C5");
  EXPECT_EQ(NormalizeUnicode("e\u0301 plain", UnicodeForm::kNfc), "\u00E9 plain");
}

TEST(NormalizeUnicode, LongRunsOfMarksTakeNearLinearTime) {
  std::string marks = "a";
  for (int i = 0; i < 200000; ++i) marks += "\u0301\u0316";
  const std::string composed = NormalizeUnicode(marks, UnicodeForm::kNfc);
  // The lower marks come first; the letter takes the first of the upper ones.
  EXPECT_EQ(composed.size(), marks.size() - 1);
  EXPECT_EQ(composed.substr(0, 6), "\u00E1\u0316\u0316");
}

TEST(Normalizer, StepsFollowEachOther) {
  const Normalizer llama({{NormalizerStep::Kind::kPrepend, UnicodeForm::kNfc, "", "\u2581"},
                          {NormalizerStep::Kind::kReplace, UnicodeForm::kNfc, " ", "\u2581"}});
  EXPECT_EQ(*llama.Normalize("a  b"), "\u2581a\u2581\u2581b");
  EXPECT_EQ(*llama.Normalize(""), "");
}

TEST(Normalizer, RefusesToGrowTextWithoutBound) {
  const NormalizerStep tenfold{NormalizerStep::Kind::kReplace, UnicodeForm::kNfc, "a",
                               std::string(10, 'a')};
  const Normalizer normalizer(std::vector<NormalizerStep>(12, tenfold));
  const auto grown = normalizer.Normalize("aaaa");
  EXPECT_EQ(grown.status().code(), absl::StatusCode::kResourceExhausted);
}

std::string With(NormalizerStep step, std::string_view text) {
  return *Normalizer({std::move(step)}).Normalize(text);
}

// Right values: the tokenizers library.
TEST(Normalizer, DecompositionsOfNewerCharactersAreNotKnown) {
  for (const UnicodeForm form : {UnicodeForm::kNfkc, UnicodeForm::kNfkd}) {
    EXPECT_EQ(NormalizeUnicode("\u32FE\u32FF", form), "ヲ\u32FF");
    EXPECT_EQ(NormalizeUnicode("\uA7F2\U0001FBF0\U0001E030", form), "\uA7F2\U0001FBF0\U0001E030");
  }
  EXPECT_EQ(NormalizeUnicode("\U00011938", UnicodeForm::kNfd), "\U00011938");
  // Marks without a place in the order, across which nothing is joined.
  EXPECT_EQ(NormalizeUnicode("a\u0301\u0899\u0323", UnicodeForm::kNfd), "a\u0301\u0899\u0323");
  EXPECT_EQ(NormalizeUnicode("a\u0899\u0301\u0301e\u0301", UnicodeForm::kNfc),
            "a\u0899\u0301\u0301é");
}

TEST(Normalizer, LowercaseIsByCharacter) {
  const NormalizerStep lower{NormalizerStep::Kind::kLowercase};
  EXPECT_EQ(With(lower, "ÀB\u0130ΣΣ1"), "àbi\u0307σσ1");
  EXPECT_EQ(With(lower, "\U00010D50\U00010D65\uA7CB\uA7DC"), "\U00010D70\U00010D85\u0264\u019B")
      << "letters of Unicode 16";
}

TEST(Normalizer, AccentsAndEndsAreStripped) {
  const NormalizerStep accents{NormalizerStep::Kind::kStripAccents};
  EXPECT_EQ(With(accents, "e\u0301a\u0903\u20DDé"), "eaé");
  EXPECT_EQ(With(accents, "a\u07FDb\u0C3Cc\U00011A01"), "a\u07FDb\u0C3Cc\U00011A01")
      << "marks that Unicode 9 did not have";
  EXPECT_EQ(With(accents, "a\u0CF3b\U00011F36c"), "a\u0CF3b\U00011F36c");
  EXPECT_EQ(With(accents, "a\u1CF2b"), "ab") << "one that is a mark no more";
  NormalizerStep strip{NormalizerStep::Kind::kStrip};
  strip.left = true;
  EXPECT_EQ(With(strip, "\u3000 a \n"), "a \n");
  strip.right = true;
  EXPECT_EQ(With(strip, " a\u2003\u0085"), "a");
  EXPECT_EQ(With(strip, " \t"), "");
}

TEST(Normalizer, ReplacesMatches) {
  NormalizerStep step{NormalizerStep::Kind::kReplaceRegex};
  step.content = "-";
  step.regex = std::make_shared<const Regex>(*Regex::Compile("\\s+"));
  EXPECT_EQ(With(step, "a  b\n"), "a-b-");
}

}  // namespace
}  // namespace mambad::text
