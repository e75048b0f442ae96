#include "engine/speculation/prompt_lookup.h"

#include <chrono>
#include <random>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mambad {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

std::vector<TokenId> Proposal(const PromptLookup& lookup, int length) {
  std::vector<TokenId> out = {-7};
  lookup.Propose(length, out);
  return out;
}

// The contract by search: for each length from the longest, the last earlier place, then a copy
// that may read itself.
std::vector<TokenId> Searched(const std::vector<TokenId>& tokens, int max_length, int* match) {
  const int size = static_cast<int>(tokens.size());
  for (const int length : PromptLookup::kMatchLengths) {
    for (int end = size - 1; end >= length; --end) {
      if (!std::equal(tokens.end() - length, tokens.end(), tokens.begin() + end - length)) continue;
      std::vector<TokenId> all = tokens;
      for (int i = 0; i < max_length; ++i) all.push_back(all[end + i]);
      *match = length;
      return {all.end() - max_length, all.end()};
    }
  }
  *match = 0;
  return {};
}

TEST(PromptLookupTest, ContinuesTheMostRecentOccurrence) {
  PromptLookup lookup;
  lookup.Append({1, 2, 3, 4, 9, 1, 2, 5, 6, 8, 1, 2});
  EXPECT_EQ(lookup.match_length(), 2);
  EXPECT_THAT(Proposal(lookup, 3), ElementsAre(5, 6, 8));
}

TEST(PromptLookupTest, PrefersTheLongerMatch) {
  PromptLookup lookup;
  lookup.Append({7, 1, 2, 3, 30, 31, 8, 1, 2, 40, 41, 7, 1, 2});
  EXPECT_EQ(lookup.match_length(), 3);
  EXPECT_THAT(Proposal(lookup, 2), ElementsAre(3, 30));
}

TEST(PromptLookupTest, ProposesNothingWithoutAMatch) {
  PromptLookup lookup;
  EXPECT_THAT(Proposal(lookup, 4), IsEmpty());
  lookup.Append({1});
  EXPECT_THAT(Proposal(lookup, 4), IsEmpty());
  lookup.Append({2, 3, 4, 1});  // one equal token is no match
  EXPECT_THAT(Proposal(lookup, 4), IsEmpty());
  EXPECT_EQ(lookup.match_length(), 0);
}

TEST(PromptLookupTest, RepeatsAPeriodBeyondTheContext) {
  PromptLookup lookup;
  lookup.Append({5, 1, 2, 1, 2, 1, 2});
  EXPECT_THAT(Proposal(lookup, 5), ElementsAre(1, 2, 1, 2, 1));
  EXPECT_THAT(Proposal(lookup, 0), IsEmpty());
}

TEST(PromptLookupTest, AgreesWithSearchAfterEveryToken) {
  std::mt19937 random(1);
  for (const int vocabulary : {1, 2, 3, 5, 30}) {
    PromptLookup lookup;
    std::vector<TokenId> tokens;
    for (int i = 0; i < 400; ++i) {
      // Words of several tokens, so that long matches come up.
      const TokenId first = static_cast<TokenId>(random() % vocabulary);
      std::vector<TokenId> word = {first};
      if (random() % 3 == 0) word = {first, first + 1, first + 3, first + 1, first + 7};
      lookup.Append(word);
      tokens.insert(tokens.end(), word.begin(), word.end());
      int match = 0;
      const std::vector<TokenId> expected = Searched(tokens, 6, &match);
      ASSERT_EQ(lookup.match_length(), match)
          << "vocabulary " << vocabulary << ", " << tokens.size() << " tokens";
      ASSERT_EQ(Proposal(lookup, 6), expected)
          << "vocabulary " << vocabulary << ", " << tokens.size() << " tokens";
    }
  }
}

TEST(PromptLookupTest, AnyTokenIdsAreFine) {
  PromptLookup lookup;
  lookup.Append({-1, 0x7fffffff, -0x7fffffff - 1, -1, 0x7fffffff});
  EXPECT_THAT(Proposal(lookup, 1), ElementsAre(-0x7fffffff - 1));
}

// A quadratic method needs minutes for these: the bound is for that, not for speed.
TEST(PromptLookupTest, LongMonotonousTextIsLinear) {
  const auto start = std::chrono::steady_clock::now();
  for (const int period : {1, 2, 100, 1000000}) {
    PromptLookup lookup;
    std::vector<TokenId> out;
    for (int i = 0; i < 500000; ++i) {
      lookup.Append({i % period});
      lookup.Propose(4, out);
    }
    EXPECT_EQ(out.empty(), period == 1000000);
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

TEST(PromptLookupTest, MemoryFollowsTheTextAndEndsAtTheWindow) {
  PromptLookup lookup;
  lookup.Reserve(1000);
  const int64_t reserved = lookup.bytes();
  EXPECT_LT(reserved, 100 * 1000);
  std::mt19937 random(3);
  for (int i = 0; i < 1000; ++i) lookup.Append({static_cast<TokenId>(random())});
  EXPECT_EQ(lookup.bytes(), reserved);
  lookup.Reserve(int64_t{1} << 24);
  const int64_t most = lookup.bytes();
  EXPECT_LE(most, 9 << 20);
  for (int64_t i = 0; i < 3 * PromptLookup::kWindow; ++i)
    lookup.Append({static_cast<TokenId>(random())});
  EXPECT_EQ(lookup.bytes(), most);
}

// Half a window back everything is found, a whole one back nothing.
TEST(PromptLookupTest, LongTextsAreForgottenFromTheirBeginning) {
  std::mt19937 random(4);
  const auto fill = [&](PromptLookup& lookup, int64_t tokens) {
    std::vector<TokenId> text;
    for (int64_t i = 0; i < tokens; ++i) text.push_back(static_cast<TokenId>(random() >> 1));
    lookup.Append(text);
    return text;
  };
  PromptLookup lookup;
  fill(lookup, 2 * PromptLookup::kWindow + 777);
  lookup.Append({-10, -11, -12, -13});
  fill(lookup, PromptLookup::kWindow / 2 - 10);
  lookup.Append({-10, -11});
  EXPECT_EQ(lookup.match_length(), 2);
  EXPECT_THAT(Proposal(lookup, 2), ElementsAre(-12, -13));
  fill(lookup, PromptLookup::kWindow);
  lookup.Append({-12, -13});
  EXPECT_EQ(lookup.match_length(), 0);
}

// What is known after forgetting is what a search in the latest tokens finds.
TEST(PromptLookupTest, AgreesWithSearchAfterForgetting) {
  std::mt19937 random(5);
  PromptLookup lookup;
  std::vector<TokenId> tokens;
  const auto append = [&](TokenId token) {
    lookup.Append({token});
    tokens.push_back(token);
  };
  for (int64_t i = 0; i < PromptLookup::kWindow - 100; ++i)
    append(static_cast<TokenId>(1000 + (random() >> 1) % 100000000));
  for (int i = 0; i < 300; ++i) {  // forgets on the way
    append(static_cast<TokenId>(random() % 4));
    const std::vector<TokenId> latest(tokens.end() - PromptLookup::kWindow / 2, tokens.end());
    int match = 0;
    const std::vector<TokenId> expected = Searched(latest, 3, &match);
    ASSERT_EQ(lookup.match_length(), match) << i;
    ASSERT_EQ(Proposal(lookup, 3), expected) << i;
  }
}

TEST(PromptLookupTest, ReserveChangesNothing) {
  PromptLookup plain, reserved;
  reserved.Reserve(1000);
  std::mt19937 random(2);
  for (int i = 0; i < 1000; ++i) {
    const TokenId token = static_cast<TokenId>(random() % 6);
    plain.Append({token});
    reserved.Append({token});
    if (i == 500) reserved.Reserve(4000);
    ASSERT_EQ(Proposal(plain, 4), Proposal(reserved, 4));
  }
}

}  // namespace
}  // namespace mambad
