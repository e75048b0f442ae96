#include "engine/text/detokenizer.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "engine/text/token_table.h"

namespace mambad::text {
namespace {

// Token i < 256 is the byte i; then longer ones.
class FakeTokenizer final : public TableTokenizer {
 public:
  static constexpr TokenId kWord = 256;     // " the"
  static constexpr TokenId kEmoji = 257;    // first three bytes of U+1F600
  static constexpr TokenId kSpecial = 258;  // "<|end|>"
  static constexpr int kSize = 259;

  explicit FakeTokenizer(bool strips) : TableTokenizer(Table(), {}, strips) {}
  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text,
                                              const EncodeOptions&) const override {
    std::vector<TokenId> ids;
    for (const char c : text) ids.push_back(static_cast<uint8_t>(c));
    return ids;
  }

 private:
  static TokenTable Table() {
    TokenTable table(kSize);
    for (int byte = 0; byte < 256; ++byte) {
      (void)table.Add(byte, "b" + std::to_string(byte), std::string(1, static_cast<char>(byte)),
                      false);
    }
    (void)table.Add(kWord, "the", " the", false);
    (void)table.Add(kEmoji, "emoji", "\xF0\x9F\x98", false);
    (void)table.Add(kSpecial, "<|end|>", "<|end|>", true);
    return table;
  }
};

std::vector<TokenId> Bytes(const FakeTokenizer& tokenizer, const std::string& text) {
  return *tokenizer.Encode(text, {});
}

Detokenizer Make(const Tokenizer& tokenizer, Detokenizer::Options options) {
  auto made = Detokenizer::Create(&tokenizer, std::move(options));
  EXPECT_TRUE(made.ok()) << made.status().ToString();
  return *std::move(made);
}

TEST(Detokenizer, HoldsBytesBackUntilTheCharacterIsWhole) {
  const FakeTokenizer tokenizer(false);
  Detokenizer detokenizer = Make(tokenizer, {});
  const TokenId emoji = FakeTokenizer::kEmoji, last = 0x80;
  EXPECT_EQ(detokenizer.Push({&emoji, 1}).text, "");
  EXPECT_EQ(detokenizer.Push({&last, 1}).text, "\xF0\x9F\x98\x80");
  EXPECT_EQ(detokenizer.Push({&emoji, 1}).text, "");
  EXPECT_EQ(detokenizer.Finish().text, "\xEF\xBF\xBD");
}

// Of a character that ends the text before, the bytes come with the rest of it.
TEST(Detokenizer, GoesOnFromAnUnfinishedCharacter) {
  const FakeTokenizer tokenizer(false);
  const std::vector<TokenId> rest = {0x80, 'a'};
  const auto after = [&](const std::vector<TokenId>& before) {
    Detokenizer detokenizer = Make(tokenizer, {.stop_strings = {"b"}});
    detokenizer.GoOnFrom(before);
    return std::string(detokenizer.Push(rest).text);
  };
  const std::string alone = "\uFFFDa";
  EXPECT_EQ(after({FakeTokenizer::kWord, FakeTokenizer::kEmoji}), "\U0001F600a");
  EXPECT_EQ(after({'b', 0xF0, 0x9F, 0x98}), "\U0001F600a");
  EXPECT_EQ(after({FakeTokenizer::kEmoji, FakeTokenizer::kSpecial}), alone);
  EXPECT_EQ(after({FakeTokenizer::kEmoji, 0x80}), alone);
  EXPECT_EQ(after({'b'}), alone);
  EXPECT_EQ(after({}), alone);
}

TEST(Detokenizer, HoldsBackWhatCouldBecomeAStopString) {
  const FakeTokenizer tokenizer(false);
  Detokenizer detokenizer = Make(tokenizer, {.stop_strings = {"stop", "stab!"}});
  const auto push = [&](const std::string& text) {
    const std::vector<TokenId> ids = Bytes(tokenizer, text);
    return std::string(detokenizer.Push(ids).text);
  };
  EXPECT_EQ(push("a st"), "a ");
  EXPECT_EQ(push("a"), "");
  EXPECT_EQ(push("b s"), "stab ");
  EXPECT_EQ(push("s"), "s");
  const std::vector<TokenId> ids = Bytes(tokenizer, "topping");
  const Detokenizer::Output output = detokenizer.Push(ids);
  EXPECT_EQ(output.text, "");
  EXPECT_EQ(output.stop, 0);
  EXPECT_EQ(output.kept_tokens, 3u);
  EXPECT_TRUE(detokenizer.stopped());
  EXPECT_EQ(detokenizer.Push(ids).text, "");
  EXPECT_EQ(detokenizer.Push(ids).kept_tokens, 0u);
  EXPECT_EQ(detokenizer.Finish().text, "");
}

TEST(Detokenizer, KeepsTheStopStringOnRequest) {
  const FakeTokenizer tokenizer(false);
  Detokenizer detokenizer = Make(tokenizer, {.stop_strings = {"\n\n"}, .include_stop = true});
  const std::vector<TokenId> ids = Bytes(tokenizer, "line\n\nrest");
  const Detokenizer::Output output = detokenizer.Push(ids);
  EXPECT_EQ(output.text, "line\n\n");
  EXPECT_EQ(output.stop, 0);
  EXPECT_EQ(output.kept_tokens, 6u);
}

TEST(Detokenizer, OfStopStringsThatEndTogetherTheLongestCounts) {
  const FakeTokenizer tokenizer(false);
  Detokenizer detokenizer = Make(tokenizer, {.stop_strings = {"end", "the end", "nd"}});
  const std::vector<TokenId> ids = Bytes(tokenizer, "to the end.");
  const Detokenizer::Output output = detokenizer.Push(ids);
  EXPECT_EQ(output.text, "to ");
  EXPECT_EQ(output.stop, 1);
}

TEST(Detokenizer, FindsStopStringsThatOverlapThemselves) {
  const FakeTokenizer tokenizer(false);
  Detokenizer detokenizer = Make(tokenizer, {.stop_strings = {"aabaaa"}});
  const std::vector<TokenId> ids = Bytes(tokenizer, "aabaabaaab");
  const Detokenizer::Output output = detokenizer.Push(ids);
  EXPECT_EQ(output.text, "aab");
  EXPECT_EQ(output.kept_tokens, 9u);
}

TEST(Detokenizer, SpecialTokensAreLeftOutOrSpelled) {
  const FakeTokenizer tokenizer(false);
  const std::vector<TokenId> ids = {'a', FakeTokenizer::kSpecial, 'b'};
  EXPECT_EQ(Make(tokenizer, {}).Push(ids).text.size(), 2u);
  Detokenizer spelled = Make(tokenizer, {.skip_special = false});
  EXPECT_EQ(spelled.Push(ids).text, "a<|end|>b");
}

TEST(Detokenizer, DropsOneLeadingSpaceAtTheStartOnly) {
  const FakeTokenizer tokenizer(true);
  const std::vector<TokenId> ids = {FakeTokenizer::kSpecial, ' ', FakeTokenizer::kWord};
  Detokenizer start = Make(tokenizer, {});
  EXPECT_EQ(start.Push(ids).text, " the");
  Detokenizer middle = Make(tokenizer, {.at_start_of_text = false});
  EXPECT_EQ(middle.Push(ids).text, "  the");
}

TEST(Detokenizer, RefusesEmptyAndBrokenStopStrings) {
  const FakeTokenizer tokenizer(false);
  EXPECT_FALSE(Detokenizer::Create(&tokenizer, {.stop_strings = {"a", ""}}).ok());
  EXPECT_FALSE(Detokenizer::Create(&tokenizer, {.stop_strings = {"\xE2\x82"}}).ok());
}

std::vector<TokenId> RandomIds(std::mt19937* random) {
  // Mostly bytes that form characters, often cut ones.
  static const TokenId kChoices[] = {'a',  'b',  ' ',  '\n', 0xC3, 0xA9, 0xE2, 0x82, 0xAC, 0xF0,
                                     0x9F, 0x98, 0x80, 0xFF, 256,  257,  258,  5000, -1};
  std::vector<TokenId> ids((*random)() % 24);
  for (TokenId& id : ids) id = kChoices[(*random)() % std::size(kChoices)];
  return ids;
}

TEST(Detokenizer, JoinedPiecesEqualDecodeForEverySplit) {
  std::mt19937 random(7);
  for (int round = 0; round < 20000; ++round) {
    const FakeTokenizer tokenizer(round % 2 == 0);
    const bool skip = round % 3 != 0;
    const std::vector<TokenId> ids = RandomIds(&random);
    std::vector<std::string> stops;
    if (round % 5 == 0) stops = {"\xEF\xBF\xBD\xEF\xBF\xBDzz", "aa~", " the the the~", "\xC3\xA9x"};
    Detokenizer detokenizer = Make(tokenizer, {.skip_special = skip, .stop_strings = stops});
    std::string joined;
    for (size_t at = 0; at < ids.size();) {
      const size_t count = std::min<size_t>(1 + random() % 4, ids.size() - at);
      const Detokenizer::Output output = detokenizer.Push({ids.data() + at, count});
      EXPECT_EQ(output.kept_tokens, count);
      joined += output.text;
      at += count;
    }
    joined += detokenizer.Finish().text;
    ASSERT_EQ(joined, tokenizer.Decode(ids, skip));
  }
}

TEST(Detokenizer, StopsAtTheSamePlaceForEverySplit) {
  std::mt19937 random(8);
  int stopped = 0;
  for (int round = 0; round < 20000; ++round) {
    const FakeTokenizer tokenizer(false);
    const std::vector<TokenId> ids = RandomIds(&random);
    const std::vector<std::string> stops = {"ab", "\xC3\xA9", "ba", " the ", "\xEF\xBF\xBD\n"};
    const std::string whole = tokenizer.Decode(ids, true);
    // The stop string whose end comes first; of several the longest.
    size_t first_end = std::string::npos, begin = 0;
    int expected_stop = Detokenizer::kNoStop;
    for (size_t i = 0; i < stops.size(); ++i) {
      const size_t at = whole.find(stops[i]);
      if (at == std::string::npos) continue;
      const size_t end = at + stops[i].size();
      if (end < first_end || (end == first_end && at < begin)) {
        first_end = end;
        begin = at;
        expected_stop = static_cast<int>(i);
      }
    }
    Detokenizer detokenizer = Make(tokenizer, {.stop_strings = stops});
    std::string joined;
    int stop = Detokenizer::kNoStop;
    size_t kept = 0;
    for (size_t at = 0; at < ids.size() && stop == Detokenizer::kNoStop;) {
      const size_t count = std::min<size_t>(1 + random() % 4, ids.size() - at);
      const Detokenizer::Output output = detokenizer.Push({ids.data() + at, count});
      joined += output.text;
      stop = output.stop;
      kept += output.kept_tokens;
      at += count;
    }
    if (stop == Detokenizer::kNoStop) {
      const Detokenizer::Output output = detokenizer.Finish();
      joined += output.text;
      stop = output.stop;
    }
    ASSERT_EQ(stop, expected_stop);
    ASSERT_EQ(joined, stop == Detokenizer::kNoStop ? whole : whole.substr(0, begin));
    if (stop == Detokenizer::kNoStop) continue;
    ++stopped;
    // The kept tokens hold the whole stop string, one token fewer does not.
    const std::vector<TokenId> fewer(ids.begin(), ids.begin() + kept - 1);
    const std::vector<TokenId> all(ids.begin(), ids.begin() + kept);
    EXPECT_NE(tokenizer.Decode(all, true).find(stops[stop]), std::string::npos);
    Detokenizer again = Make(tokenizer, {.stop_strings = stops});
    EXPECT_EQ(again.Push(fewer).stop, Detokenizer::kNoStop);
  }
  EXPECT_GT(stopped, 1000);
}

// ---- stop strings that special tokens spell

// What comes of `ids`, pushed in parts of `step`: the text, the stop that matched, tokens kept.
struct Stopped {
  std::string text;
  int stop;
  size_t kept;
};
Stopped RunStops(const std::vector<TokenId>& ids, Detokenizer::Options options, size_t step) {
  const FakeTokenizer tokenizer(false);
  Detokenizer detokenizer = Make(tokenizer, std::move(options));
  Stopped result = {"", Detokenizer::kNoStop, 0};
  for (size_t at = 0; at < ids.size(); at += step) {
    const size_t count = std::min(step, ids.size() - at);
    const Detokenizer::Output output = detokenizer.Push({ids.data() + at, count});
    result.text += output.text;
    result.kept += output.kept_tokens;
    if (output.stop != Detokenizer::kNoStop) result.stop = output.stop;
  }
  result.text += detokenizer.Finish().text;
  return result;
}

TEST(Detokenizer, SpecialTokensCompleteStopStrings) {
  const TokenId end = FakeTokenizer::kSpecial;
  const struct {
    std::vector<TokenId> ids;
    std::vector<std::string> stops;
    const char *before, *including;
    int stop;
    size_t kept;
  } cases[] = {
      {{'a', end, 'b'}, {"<|end|>"}, "a", "a<|end|>", 0, 2},
      {{'a', end, 'b'}, {"a<|end|>"}, "", "a<|end|>", 0, 2},
      {{'x', 'a', end, 'b', 'c'}, {"<|end|>b"}, "xa", "xa<|end|>b", 0, 4},
      {{'x', 'a', end, 'b', 'c'}, {"a<|end|>b"}, "x", "xa<|end|>b", 0, 4},
      {{'a', end, end, 'b'}, {"<|end|><|end|>"}, "a", "a<|end|><|end|>", 0, 3},
      {{'a', end, 'b', 'c'}, {"ab"}, "", "ab", 0, 3},  // as the reader sees it
      {{'a', end, 'b', 'c'}, {"zz", "bc", "<|end|>b"}, "a", "a<|end|>b", 2, 3},
      {{'a', end, 'b'}, {"end|>"}, "ab", "ab", -1, 3},  // a part of what nobody sees
      {{'a', end, 'b'}, {"<|e"}, "ab", "ab", -1, 3},
      {{'a', end, 'b'}, {"|>b"}, "ab", "ab", -1, 3},
      {{'a', end, 'c', end, 'b'}, {"<|end|>b"}, "ac", "ac<|end|>b", 0, 5},
      {{'<', '|', 'e', 'n', 'd', '|', '>', 'b'}, {"<|end|>"}, "", "<|end|>", 0, 7},
      {{end, 'b'}, {"<|end|>c"}, "b", "b", -1, 2},
      {{0xC3, end, 0xA9, 'b'}, {"\u00E9b"}, "", "\u00E9b", 0, 4},
  };
  for (const auto& one : cases) {
    for (size_t step = 1; step <= one.ids.size(); ++step) {
      const Stopped before = RunStops(one.ids, {.stop_strings = one.stops}, step);
      EXPECT_EQ(before.text, one.before) << one.stops[0] << " by " << step;
      EXPECT_EQ(before.stop, one.stop) << one.stops[0] << " by " << step;
      EXPECT_EQ(before.kept, one.kept) << one.stops[0] << " by " << step;
      const Stopped including =
          RunStops(one.ids, {.stop_strings = one.stops, .include_stop = true}, step);
      EXPECT_EQ(including.text, one.including) << one.stops[0] << " by " << step;
    }
  }
}

// The text with special tokens shown, searched by hand, says where a stop string that covers whole
// tokens ends.
TEST(Detokenizer, SpecialTokensCompleteStopStringsAsSearchingTheWholeTextDoes) {
  const FakeTokenizer tokenizer(false);
  std::mt19937 random(5);
  for (int round = 0; round < 3000; ++round) {
    std::vector<TokenId> ids;
    for (int i = 0; i < 12; ++i) ids.push_back(random() % 4 == 0 ? 258 : "ab<"[random() % 3]);
    std::string stop;
    for (int i = 0; i <= static_cast<int>(random() % 3); ++i) {
      stop += random() % 2 == 0 ? std::string("<|end|>") : std::string(1, "ab"[random() % 2]);
    }
    // The first token after which the stop string stands at the end, with special tokens or
    // without.
    std::string whole, visible;
    size_t kept = ids.size();
    bool found = false;
    for (size_t i = 0; i < ids.size() && !found; ++i) {
      whole += tokenizer.TokenBytes(ids[i]);
      if (ids[i] != 258) visible += tokenizer.TokenBytes(ids[i]);
      found = whole.ends_with(stop) || visible.ends_with(stop);
      if (found) kept = i + 1;
    }
    const Stopped got = RunStops(ids, {.stop_strings = {stop}}, 1 + random() % 5);
    EXPECT_EQ(got.stop, found ? 0 : -1) << stop;
    EXPECT_EQ(got.kept, kept) << stop;
  }
}

}  // namespace
}  // namespace mambad::text
