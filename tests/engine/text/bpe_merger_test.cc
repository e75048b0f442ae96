#include "engine/text/bpe_merger.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>
#include <vector>

namespace mambad::text {
namespace {

struct Rule {
  int rank, result;
};
using Rules = std::map<std::pair<int, int>, Rule>;

// The definition: while some pair has a rule, apply the best one at its leftmost place.
std::vector<int32_t> MergeByDefinition(const Rules& rules, std::vector<int32_t> symbols) {
  while (true) {
    size_t best = symbols.size();
    Rule best_rule{};
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto rule = rules.find({symbols[i], symbols[i + 1]});
      if (rule == rules.end()) continue;
      if (best == symbols.size() || rule->second.rank < best_rule.rank) {
        best = i;
        best_rule = rule->second;
      }
    }
    if (best == symbols.size()) return symbols;
    symbols[best] = best_rule.result;
    symbols.erase(symbols.begin() + best + 1);
  }
}

// Rules as a vocabulary has them: what is joined is the text of both, however it came about. Then a
// long text falls into runs, which must not change what becomes of it.
TEST(BpeMerger, RunsOfAVocabularyDoNotNeedEachOther) {
  std::mt19937 random(5);
  for (int round = 0; round < 500; ++round) {
    std::vector<std::string> tokens = {"a", "b", "c", "d", "e", "f"};
    std::map<std::string, int> ids;
    for (const std::string& token : tokens) ids.emplace(token, static_cast<int>(ids.size()));
    Rules rules;
    BpeMerger merger;
    for (int i = 0; i < 10; ++i) {
      const std::string left = tokens[random() % tokens.size()];
      const std::string right = tokens[random() % tokens.size()];
      const auto [id, is_new] = ids.emplace(left + right, static_cast<int>(ids.size()));
      if (is_new) tokens.push_back(left + right);
      rules[{ids[left], ids[right]}] = {static_cast<int>(random() % 5), id->second};
    }
    for (const auto& [pair, rule] : rules)
      merger.AddRule(pair.first, pair.second, rule.rank, rule.result);
    merger.Seal();
    std::vector<int32_t> symbols(random() % 60);
    for (int32_t& symbol : symbols) symbol = static_cast<int32_t>(random() % 6);
    const std::vector<int32_t> expected = MergeByDefinition(rules, symbols);
    BpeMerger::Scratch scratch;
    merger.Merge(&symbols, &scratch);
    ASSERT_EQ(symbols, expected);
  }
}

TEST(BpeMerger, LongTextsNeedTheMemoryOfTheirLongestRun) {
  BpeMerger merger;
  merger.AddRule(1, 2, 0, 3);
  merger.AddRule(3, 2, 1, 4);
  merger.Seal();
  std::vector<int32_t> symbols;
  for (int i = 0; i < 100000; ++i) symbols.insert(symbols.end(), {1, 2, 2, 0});
  BpeMerger::Scratch scratch;
  merger.Merge(&symbols, &scratch);
  EXPECT_EQ(symbols.size(), 200000u);
  EXPECT_EQ(symbols[0], 4);
  EXPECT_LE(scratch.next.capacity(), 16u);
}

TEST(BpeMerger, AgreesWithTheDefinitionOnRandomRules) {
  std::mt19937 random(3);
  for (int round = 0; round < 3000; ++round) {
    Rules rules;
    BpeMerger merger;
    const int rank_count = round % 2 == 0 ? 4 : 1000;  // few ranks: many ties
    for (int i = 0; i < 12; ++i) {
      const std::pair<int, int> pair(random() % 8, random() % 8);
      // A result is made of its parts, so it has only one rank wherever it comes from.
      const int result = static_cast<int>(random() % 8);
      rules[pair] = {static_cast<int>(random() % rank_count), result};
    }
    for (const auto& [pair, rule] : rules) {
      merger.AddRule(pair.first, pair.second, rule.rank, rule.result);
    }
    if (round % 3 != 0) merger.Seal();
    std::vector<int32_t> symbols(random() % 40);
    for (int32_t& symbol : symbols) symbol = static_cast<int32_t>(random() % 4);
    const std::vector<int32_t> expected = MergeByDefinition(rules, symbols);
    BpeMerger::Scratch scratch;
    merger.Merge(&symbols, &scratch);
    ASSERT_EQ(symbols, expected);
  }
}

TEST(BpeMerger, ManyEqualSymbolsTakeNearLinearTime) {
  BpeMerger merger;  // symbol k stands for 2^k letters
  for (int k = 0; k < 24; ++k) merger.AddRule(k, k, k, k + 1);
  std::vector<int32_t> symbols(1 << 20, 0);
  BpeMerger::Scratch scratch;
  merger.Merge(&symbols, &scratch);
  EXPECT_THAT(symbols, testing::ElementsAre(20));
}

}  // namespace
}  // namespace mambad::text
