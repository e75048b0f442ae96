// tokenizer.model: special tokens, boundaries, and files that the library must not see.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/text/sentencepiece_library.h"
#include "engine/text/sentencepiece_model.h"
#include "engine/text/tokenizer.h"
#include "tests/engine/text/shared_data.h"

namespace mambad::text {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

std::string Varint(uint64_t value) {
  std::string out;
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
  return out;
}

std::string Bytes(int field, const std::string& bytes) {
  return Varint(field << 3 | 2) + Varint(bytes.size()) + bytes;
}

std::string Number(int field, uint64_t value) { return Varint(field << 3) + Varint(value); }

std::string Piece(const std::string& piece, float score, int type) {
  std::string bits(sizeof(score), '\0');
  std::memcpy(bits.data(), &score, sizeof(score));
  return Bytes(1, Bytes(1, piece) + Varint(2 << 3 | 5) + bits + Number(3, type));
}

// BPE with <unk> 0, <s> 1, </s> 2, byte pieces 3..258, then "▁" "a" "b" "▁a" "ab".
std::string Model(const std::string& normalizer = Bytes(1, "identity") + Number(4, 0),
                  int model_type = 2) {
  std::string model = Piece("<unk>", 0, 2) + Piece("<s>", 0, 3) + Piece("</s>", 0, 3);
  const char* digits = "0123456789ABCDEF";
  for (int byte = 0; byte < 256; ++byte) {
    model += Piece(std::string("<0x") + digits[byte / 16] + digits[byte % 16] + ">", 0, 6);
  }
  model += Piece("▁", -10, 1) + Piece("a", -11, 1) + Piece("b", -12, 1) + Piece("▁a", -2, 1) +
           Piece("ab", -1, 1);
  model += Bytes(2, Number(3, model_type) + Number(35, 1));
  return model + Bytes(3, normalizer);
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> Create(const std::string& model,
                                                        const std::string& config = "") {
  TokenizerFiles files;
  files.source_name = "model";
  files.sentencepiece_model = model;
  files.tokenizer_config_json = config;
  return CreateTokenizer(files);
}

// Long texts are tokenized in parts: with the same result, and until nobody wants it any more.
TEST(SentencePieceTokenizer, PartsOfALongTextGiveTheTokensOfTheWhole) {
  std::mt19937 random(7);
  const std::string models[] = {Model(), Model(Bytes(1, "identity")),
                                Model(Bytes(1, "identity") + Number(4, 0) + Number(3, 0)),
                                Model(Bytes(1, "identity") + Number(4, 0), /*model_type=*/1)};
  for (const std::string& model : models) {
    const auto tokenizer = Create(model);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
    std::string error;
    const auto library = SentencePieceLibrary::Load(model, &error);
    ASSERT_NE(library, nullptr) << error;
    // Words, one letter, spaces, letters that are no pieces, and what merges everywhere.
    for (const std::vector<std::string>& letters :
         std::vector<std::vector<std::string>>{{"a", "b", " "},
                                               {"a"},
                                               {" "},
                                               {"語", "\U0001F600"},
                                               {"a", "b", "c", " ", "\n", "語"},
                                               {"ab"}}) {
      std::string text;
      while (text.size() < 150000) text += letters[random() % letters.size()];
      std::vector<int> whole;
      ASSERT_TRUE(library->Encode(text, &whole, &error)) << error;
      const auto parts = (*tokenizer)->Encode(text, {.add_special_tokens = false});
      ASSERT_TRUE(parts.ok());
      EXPECT_TRUE(*parts == whole) << letters[0] << " of " << letters.size() << ": "
                                   << parts->size() << " and " << whole.size();
    }
  }
  // "aa" and "ab" stand in no piece of these, but one of the two places in "abab" may be merged in
  // every model that knows both "ab" and "ba".
  const auto both = Create(Model() + Piece("ba", -3, 1));
  ASSERT_TRUE(both.ok()) << both.status().ToString();
  std::string text;
  while (text.size() < (256 << 10)) text += "ab";
  EXPECT_TRUE((*both)->Encode(text, {}).ok());
  EXPECT_THAT(std::string((*both)->Encode(text + "ab", {}).status().message()),
              HasSubstr("allowed at most 262144: put spaces or line ends among them, or give"));
  text.resize(200 << 10);
  EXPECT_TRUE((*both)->Encode(text + "bb" + text, {}).ok());  // cut between the two
  const std::atomic<bool> over = true;
  const auto tokenizer = Create(Model());
  EXPECT_EQ((*tokenizer)->Encode("a", {.over = &over}).status().code(),
            absl::StatusCode::kCancelled);
}

TEST(SentencePieceTokenizer, EncodesAndGivesTextBack) {
  const auto tokenizer = Create(Model());
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  EXPECT_THAT(*(*tokenizer)->Encode("ab a", {}), ElementsAre(1, 259, 263, 262));
  EXPECT_THAT(*(*tokenizer)->Encode("a</s>a", {}), ElementsAre(1, 262, 2, 262));
  EXPECT_THAT(*(*tokenizer)->Encode("\n", {}), ElementsAre(1, 259, 13));
  EXPECT_EQ((*tokenizer)->bos_id(), 1);
  EXPECT_EQ((*tokenizer)->eos_id(), 2);
  EXPECT_TRUE((*tokenizer)->IsSpecial(2));
  EXPECT_TRUE((*tokenizer)->strips_leading_space());
  for (const std::string text : {"ab", " ab", "  a\n", "", "語"}) {
    EXPECT_EQ((*tokenizer)->Decode(*(*tokenizer)->Encode(text, {}), true), text);
  }
  EXPECT_FALSE((*tokenizer)->Encode("a\xFF", {}).ok());
}

// Where another text ended no space is put before, whatever comes after special tokens.
TEST(SentencePieceTokenizer, WhatGoesOnHasNoPrefix) {
  for (const std::string config : {"", R"({"legacy": false})"}) {
    const auto tokenizer = Create(Model(), config);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
    const auto encode = [&](const std::string& text) {
      return *(*tokenizer)->Encode(text, {.add_special_tokens = false, .goes_on = true});
    };
    EXPECT_THAT(encode("ab a"), ElementsAre(263, 262));
    EXPECT_THAT(encode(" a"), ElementsAre(262));
    EXPECT_THAT(encode("\n"), ElementsAre(13));
    EXPECT_THAT(encode("a</s>a"), ElementsAre(260, 2, config.empty() ? 262 : 260));
  }
}

TEST(SentencePieceTokenizer, ConfigurationAddsTokens) {
  const auto tokenizer = Create(Model(), R"({
      "add_bos_token": false, "add_eos_token": true, "eos_token": "<|im_end|>",
      "added_tokens_decoder": {
        "264": {"content": "<|im_end|>", "lstrip": false, "normalized": false, "rstrip": false,
                "single_word": false, "special": true},
        "2": {"content": "</s>", "rstrip": true, "special": true}}})");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  EXPECT_THAT(*(*tokenizer)->Encode("b<|im_end|></s>  b", {}),
              ElementsAre(259, 261, 264, 2, 259, 261, 264));
  EXPECT_EQ((*tokenizer)->vocabulary_size(), 265);
}

TEST(SentencePieceTokenizer, ListedPiecesKeepTheirSpaces) {
  const std::string model = Model() + Piece("▁▁", -3, 4);
  const auto tokenizer = Create(model, R"({"added_tokens_decoder": {
      "264": {"content": "▁▁", "normalized": false, "special": false}}})");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  EXPECT_EQ((*tokenizer)->TokenBytes(264), "  ");
}

TEST(SentencePieceTokenizer, WithoutDummyPrefix) {
  const auto tokenizer = Create(Model(Bytes(1, "identity") + Number(3, 0) + Number(4, 0)));
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  EXPECT_FALSE((*tokenizer)->strips_leading_space());
  EXPECT_THAT(*(*tokenizer)->Encode("b", {}), ElementsAre(1, 261));
}

// Right values: transformers' LlamaTokenizer.
TEST(SentencePieceTokenizer, WithoutLegacyOnlyTheStartGetsAPrefix) {
  const std::string tokens =
      R"("added_tokens_decoder": {"264": {"content": "<x>", "special": true}})";
  const auto without = Create(Model(), R"({"legacy": false, )" + tokens + "}");
  ASSERT_TRUE(without.ok()) << without.status();
  EXPECT_THAT(*(*without)->Encode("a<x>a</s>b", {}), ElementsAre(1, 262, 264, 260, 2, 261));
  EXPECT_THAT(*(*without)->Encode("<x>a", {}), ElementsAre(1, 264, 260));
  EXPECT_THAT(*(*without)->Encode("<x> a", {}), ElementsAre(1, 264, 262)) << "its own space stays";
  EXPECT_THAT(*(*without)->Encode(" a", {}), ElementsAre(1, 262)) << "a space is a prefix";
  EXPECT_TRUE((*without)->strips_leading_space());
  for (const char* legacy : {"true", "null"}) {
    const auto with = Create(Model(), absl::StrCat(R"({"legacy": )", legacy, ", ", tokens, "}"));
    ASSERT_TRUE(with.ok()) << with.status();
    EXPECT_THAT(*(*with)->Encode("a<x>a", {}), ElementsAre(1, 262, 264, 262));
  }
  const auto none = Create(Model(), R"({"add_prefix_space": false, )" + tokens + "}");
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_THAT(*(*none)->Encode("a<x>a", {}), ElementsAre(1, 260, 264, 260));
  EXPECT_FALSE((*none)->strips_leading_space());
}

TEST(SentencePieceTokenizer, AddedTokensFileCountsWhereNothingElseListsThem) {
  TokenizerFiles files;
  files.source_name = "model";
  files.sentencepiece_model = Model();
  files.added_tokens_json = R"({"<x>": 264, "<y>": 265})";
  files.special_tokens_map_json = R"({"additional_special_tokens": ["<y>"]})";
  auto tokenizer = CreateTokenizer(files);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(*(*tokenizer)->Encode("a<x>a<y>", {}), ElementsAre(1, 262, 264, 262, 265));
  EXPECT_FALSE((*tokenizer)->IsSpecial(264));
  EXPECT_TRUE((*tokenizer)->IsSpecial(265));
  files.added_tokens_json = R"({"<x>": "264"})";
  EXPECT_THAT(std::string(CreateTokenizer(files).status().message()),
              HasSubstr("model/added_tokens.json: [\"<x>\"]"));
}

// As the slow tokenizers of transformers 4.46 count: a new row for each name that is no piece.
TEST(SentencePieceTokenizer, NamedTokensGetRowsBehindThePieces) {
  struct Case {
    std::string config, special_tokens_map, added_tokens;
    std::vector<TokenId> ids;  // of "a<x>a<pad> ab <mask>"
    TokenId eos;
  };
  const std::vector<TokenId> mask = {63, 112, 260, 118, 110, 65};  // as text
  const auto with_mask = [&](std::vector<TokenId> ids) {
    ids.insert(ids.end(), mask.begin(), mask.end());
    return ids;
  };
  const Case cases[] = {
      {R"({"pad_token": "<pad>", "mask_token": "<mask>", "additional_special_tokens": ["<x>", "<y>"]})",
       "",
       "",
       {1, 262, 266, 262, 264, 259, 259, 263, 259, 265},
       2},
      // The order of the names, not of the files.
      {R"({"pad_token": "<pad>"})",
       R"({"additional_special_tokens": ["<x>"], "sep_token": "<sep>"})", "",
       with_mask({1, 262, 266, 262, 265, 259, 259, 263, 259}), 2},
      {R"({"pad_token": "<pad>"})", "", R"({"<x>": 264})",
       with_mask({1, 262, 264, 262, 265, 259, 259, 263, 259}), 2},
      // Tokens are counted, not rows.
      {R"({"pad_token": "<pad>"})", "", R"({"<x>": 270})",
       with_mask({1, 262, 270, 262, 265, 259, 259, 263, 259}), 2},
      {R"({"additional_special_tokens": ["ab", "<pad>", "<x>"]})", "", "",
       with_mask({1, 262, 265, 262, 264, 259, 259, 263, 259, 259}), 2},
      // special_tokens_map.json has the last word where tokenizer_config.json lists no tokens.
      {R"({"eos_token": "</s>", "pad_token": "<pad>"})", R"({"eos_token": "<x>"})", "",
       with_mask({1, 262, 264, 262, 265, 259, 259, 263, 259}), 264},
      {R"({"eos_token": "</s>", "pad_token": "<pad>",
          "added_tokens_decoder": {"264": {"content": "<x>", "special": true}}})",
       R"({"eos_token": "<x>"})", "", with_mask({1, 262, 264, 262, 265, 259, 259, 263, 259}), 2},
  };
  for (const Case& one : cases) {
    SCOPED_TRACE(absl::StrCat(one.config, one.special_tokens_map, one.added_tokens));
    TokenizerFiles files;
    files.source_name = "model";
    files.sentencepiece_model = Model();
    files.tokenizer_config_json = one.config;
    files.special_tokens_map_json = one.special_tokens_map;
    files.added_tokens_json = one.added_tokens;
    files.model_vocabulary = 272;
    const auto tokenizer = CreateTokenizer(files);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    EXPECT_EQ(*(*tokenizer)->Encode("a<x>a<pad> ab <mask>", {}), one.ids);
    EXPECT_EQ((*tokenizer)->eos_id(), one.eos);
    EXPECT_THAT((*tokenizer)->warnings(), testing::IsEmpty());
  }
}

TEST(SentencePieceTokenizer, NamedTokensWithoutARowAreLeftOut) {
  TokenizerFiles files;
  files.source_name = "model";
  files.sentencepiece_model = Model();
  files.tokenizer_config_json = R"({"pad_token": "<pad>", "mask_token": "<mask>"})";
  files.model_vocabulary = 265;
  auto tokenizer = CreateTokenizer(files);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT((*tokenizer)->TokenToId("<pad>"), testing::Optional(264));
  EXPECT_EQ((*tokenizer)->TokenToId("<mask>"), std::nullopt);
  EXPECT_THAT((*tokenizer)->warnings(), ElementsAre(HasSubstr("\"<mask>\" has the id 265")));
  // Nobody knows how many rows there are.
  files.model_vocabulary = 0;
  tokenizer = CreateTokenizer(files);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->TokenToId("<pad>"), std::nullopt);
}

TEST(SentencePieceTokenizer, ReservedPiecesMayGetAnotherName) {
  const auto tokenizer =
      Create(Model() + Piece("<reserved>", -20, 4),
             R"({"added_tokens_decoder": {"264": {"content": "<|end|>", "special": true}}})");
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(*(*tokenizer)->Encode("a<|end|>", {}), ElementsAre(1, 262, 264));
  EXPECT_EQ((*tokenizer)->IdToToken(264), "<|end|>");
  EXPECT_TRUE((*tokenizer)->IsSpecial(264));
}

TEST(SentencePieceTokenizer, WarnsOfWhatItLeavesOut) {
  TokenizerFiles files;
  files.source_name = "model";
  files.sentencepiece_model = Model();
  files.model_vocabulary = 264;
  files.tokenizer_config_json = R"({"added_tokens_decoder": {"264": {"content": "[PAD]"}},
      "eos_token": "<gone>", "add_eos_token": true, "add_prefix_space": "yes", "pad_token": 7})";
  const auto tokenizer = CreateTokenizer(files);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_EQ((*tokenizer)->vocabulary_size(), 264);
  EXPECT_EQ((*tokenizer)->TokenToId("[PAD]"), std::nullopt);
  EXPECT_THAT((*tokenizer)->warnings(),
              testing::UnorderedElementsAre(HasSubstr("\"[PAD]\" has the id 264"),
                                            HasSubstr("\"<gone>\" has the id 264"),
                                            HasSubstr("add_eos_token is true"),
                                            HasSubstr("add_prefix_space: expected true or false"),
                                            HasSubstr("pad_token: expected the text of a token")));
}

// A tokenizer.json of a kind that is not read here, beside a tokenizer.model.
TEST(SentencePieceTokenizer, IsReadWhereTokenizerJsonIsOfAnotherKind) {
  TokenizerFiles files;
  files.source_name = "model";
  files.tokenizer_json = R"({"model": {"type": "Unigram", "vocab": [["a", 0.0]]}})";
  EXPECT_EQ(CreateTokenizer(files).status().code(), absl::StatusCode::kUnimplemented);
  files.sentencepiece_model = Model();
  const auto tokenizer = CreateTokenizer(files);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(*(*tokenizer)->Encode("a", {}), ElementsAre(1, 262));
  EXPECT_THAT((*tokenizer)->warnings(), ElementsAre(HasSubstr("\"Unigram\"")));
  files.tokenizer_json = "{";
  EXPECT_EQ(CreateTokenizer(files).status().code(), absl::StatusCode::kInvalidArgument)
      << "a broken file is an error";
}

TEST(SentencePieceTokenizer, FaultsAreNamed) {
  const auto message = [](const std::string& model, const std::string& config = "") {
    const auto status = Create(model, config).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  EXPECT_THAT(message(Model(Bytes(1, "identity"), 3)), HasSubstr("model_type"));
  EXPECT_THAT(message(Model(Number(5, 0))), HasSubstr("escape_whitespaces"));
  EXPECT_THAT(message(Model(Bytes(2, "12345"))), HasSubstr("precompiled_charsmap is broken"));
  EXPECT_THAT(message("plain text"), HasSubstr("not a sound SentencePiece model"));
  EXPECT_THAT(message(Bytes(2, Number(3, 2))), HasSubstr("no pieces"));
  EXPECT_THAT(message(Model() + Piece("a", 0, 1)), HasSubstr("model/tokenizer.model: "));
  EXPECT_THAT(message(Model() + Piece("\xFF", 0, 1)), HasSubstr("not a sound"));
  EXPECT_THAT(message(Model() + Piece(std::string(2, '\0'), 0, 1)), HasSubstr("not a sound"));
  EXPECT_THAT(message(Model(), R"({"added_tokens_decoder": {"x": {"content": "y"}}})"),
              HasSubstr("a token id as key"));
}

// A double array whose root leads to a value at `text_offset`; see Darts.
std::string CharacterMap(uint32_t root_offset, uint32_t value) {
  std::vector<uint32_t> units(512, 0);
  units[0] = root_offset << 10;
  const uint32_t child = root_offset ^ 'x';
  const uint32_t leaf_base = 256;
  if (child < units.size()) units[child] = (child ^ leaf_base) << 10 | 1u << 8 | 'x';
  units[leaf_base] = 0x80000000u | value;
  const uint32_t size = static_cast<uint32_t>(units.size() * 4);
  std::string map(reinterpret_cast<const char*>(&size), 4);
  map.append(reinterpret_cast<const char*>(units.data()), size);
  return map + std::string("a\0", 2);
}

TEST(SentencePieceTokenizer, CharacterMapsMayNotLeadOutside) {
  const auto sound = Create(Model(Bytes(2, CharacterMap(1, 0)) + Number(4, 0)));
  ASSERT_TRUE(sound.ok()) << sound.status().ToString();
  EXPECT_THAT(*(*sound)->Encode("xb", {}), ElementsAre(1, 259, 263)) << "x is read as a";
  EXPECT_FALSE(Create(Model(Bytes(2, CharacterMap(1, 2)))).ok());
  EXPECT_FALSE(Create(Model(Bytes(2, CharacterMap(0x1000, 0)))).ok());
}

TEST(SentencePieceTokenizer, CutAndChangedFilesDoNotCrash) {
  const std::string model = Model();
  for (size_t length = 0; length < model.size(); length += 37) {
    (void)Create(model.substr(0, length));
  }
  for (size_t at = 0; at < model.size(); at += 11) {
    std::string changed = model;
    changed[at] = static_cast<char>(changed[at] ^ 0x55);
    const auto tokenizer = Create(changed);
    if (tokenizer.ok()) (void)(*tokenizer)->Encode("ab a\n語", {});
  }
}

TEST(SentencePieceTokenizer, RealFiles) {
  const std::string mistral = ReadSharedData("mistral/tokenizer.model.v1");
  MAMBAD_SKIP_WITHOUT(mistral);
  const auto tokenizer = Create(mistral);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  // From the model's documentation: the prompt form of its instruct versions.
  const auto ids = (*tokenizer)->Encode("[INST] Hello [/INST]", {});
  ASSERT_TRUE(ids.ok());
  EXPECT_EQ(ids->front(), 1);
  EXPECT_EQ((*tokenizer)->Decode(*ids, true), "[INST] Hello [/INST]");
  const std::string unigram = ReadSharedData("small/test_model.model");
  const auto small = Create(unigram);
  ASSERT_TRUE(small.ok()) << small.status().ToString();
  EXPECT_EQ((*small)->Decode(*(*small)->Encode("Hello world", {}), true), "Hello world");
}

TEST(SentencePieceTokenizer, LongTextsTakeNearLinearTime) {
  const auto tokenizer = Create(Model());
  ASSERT_TRUE(tokenizer.ok());
  for (const char c : {'a', ' '}) {
    const std::string text(1 << 19, c);
    EXPECT_EQ((*tokenizer)->Decode(*(*tokenizer)->Encode(text, {}), true), text);
  }
}

}  // namespace
}  // namespace mambad::text
