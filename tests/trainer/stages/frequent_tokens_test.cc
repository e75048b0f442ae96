// Counting a text's tokens against counts by hand.

#include "trainer/stages/frequent_tokens.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"

namespace mambad::trainer {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FrequentTokensTest : public ::testing::Test {
 protected:
  // Documents of a vocabulary of 20, over two shards; token t of a document is trained unless it is
  // among the first `prompt`.
  TokenStore Store(const std::vector<std::vector<int>>& documents, size_t prompt = 0) {
    TokenStoreWriter writer(folder_.path(), 20, 6);
    for (const std::vector<int>& tokens : documents) {
      TokenizedDocument document;
      document.tokens.assign(tokens.begin(), tokens.end());
      for (size_t t = 0; t < tokens.size(); ++t) document.trained.push_back(t >= prompt);
      writer.Add({document});
    }
    writer.Finish({});
    return TokenStore::Open(folder_.path());
  }

  mambad::testing::TemporaryDirectory folder_;
};

TEST_F(FrequentTokensTest, AreTheMostFrequentInAscendingOrder) {
  const TokenStore store = Store({{7, 3, 7, 7}, {3, 5, 11, 5, 5}, {7, 12}});
  const FrequentTokens two = MostFrequentTokens(store, 2, 20, {});
  EXPECT_THAT(two.ids, ElementsAre(5, 7));
  EXPECT_DOUBLE_EQ(two.share, 7.0 / 11.0);
  // Of 11 and 12, once each, the lower.
  EXPECT_THAT(MostFrequentTokens(store, 4, 20, {}).ids, ElementsAre(3, 5, 7, 11));
  // Those that never occur come last, the lowest first.
  const FrequentTokens seven = MostFrequentTokens(store, 7, 20, {});
  EXPECT_THAT(seven.ids, ElementsAre(0, 1, 3, 5, 7, 11, 12));
  EXPECT_DOUBLE_EQ(seven.share, 1);
  EXPECT_EQ(MostFrequentTokens(store, 100, 20, {}).ids.size(), 20u);
}

TEST_F(FrequentTokensTest, EndsOfTextsAreAlwaysAmongThem) {
  const TokenStore store = Store({{7, 3, 7, 7}});
  EXPECT_THAT(MostFrequentTokens(store, 1, 20, {19, 2}).ids, ElementsAre(2, 7, 19));
  EXPECT_THAT(MostFrequentTokens(store, 1, 20, {7}).ids, ElementsAre(7));
}

TEST_F(FrequentTokensTest, OnlyWhatIsWrittenCounts) {
  const TokenStore store = Store({{9, 9, 3, 4, 3}, {9, 9, 8}}, 2);
  EXPECT_THAT(MostFrequentTokens(store, 1, 20, {}).ids, ElementsAre(3));
  EXPECT_DOUBLE_EQ(MostFrequentTokens(store, 1, 20, {}).share, 0.5);
}

// Longer than what is read at once.
TEST_F(FrequentTokensTest, LongDocumentsAreCountedToTheirEnd) {
  std::vector<int> tokens(10000, 1);
  for (int i = 0; i < 6000; ++i) tokens[9999 - i] = 2;
  const FrequentTokens one = MostFrequentTokens(Store({tokens}), 1, 20, {});
  EXPECT_THAT(one.ids, ElementsAre(2));
  EXPECT_DOUBLE_EQ(one.share, 0.6);
}

TEST_F(FrequentTokensTest, TokensBeyondTheVocabularyAreNamed) {
  const TokenStore store = Store({{7, 12}});
  EXPECT_THAT(mambad::testing::ErrorOf([&] { MostFrequentTokens(store, 1, 10, {}); }),
              HasSubstr("token 12 of a text for a vocabulary of 10"));
}

}  // namespace
}  // namespace mambad::trainer
