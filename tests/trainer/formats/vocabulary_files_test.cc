// A GGUF file's vocabulary as files of a directory: the same ids either way.

#include "trainer/formats/vocabulary_files.h"

#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "engine/text/byte_level.h"
#include "engine/text/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/trainer/expect_error.h"

namespace mambad::trainer {
namespace {

using checkpoint::TextFiles;
using mambad::testing::ErrorOf;
using ::testing::HasSubstr;
using text::Tokenizer;

constexpr const char* kTexts[] = {
    "",
    "The year 1984, and 12345 others.",
    "  two spaces\n\nlines\r\n\ttab ",
    "don't we'll I'm THEY'RE",
    "x+=1; // ~^| $5 <a> **b**",
    "na\xc3\xafve caf\xc3\xa9 \xe4\xbd\xa0\xe5\xa5\xbd \xf0\x9f\x98\x80",
    "e\xcc\x81 composed",
    "the the  thethe",
};
constexpr const char* kSpecialText = "<s>special</s><user>\xe2\x96\x81";

// The bytes, a few merges, two special tokens and one that a user defined.
TextFiles ByteLevelVocabulary(const std::string& pre_tokenizer) {
  TextFiles text;
  text.tokenizer_model = "gpt2";
  text.pre_tokenizer = pre_tokenizer;
  for (int byte = 0; byte < 256; ++byte) text.pieces.push_back(text::ByteLevelCharacter(byte));
  const std::string space = text::ByteLevelCharacter(' ');
  for (const auto& [left, right] :
       std::vector<std::pair<std::string, std::string>>{{"t", "h"},
                                                        {"th", "e"},
                                                        {space, "the"},
                                                        {"1", "2"},
                                                        {"1", "9"},
                                                        {"12", "3"},
                                                        {space, space},
                                                        {"\xc3\x83", "\xc2\xa9"},
                                                        {"'", "t"},
                                                        {"n", "'t"}}) {
    text.merges.push_back(left + " " + right);
    text.pieces.push_back(left + right);
  }
  text.piece_types.assign(text.pieces.size(), 1);
  for (const auto& [piece, type] :
       std::vector<std::pair<std::string, int>>{{"<s>", 3}, {"</s>", 3}, {"<user>", 4}}) {
    text.pieces.push_back(piece);
    text.piece_types.push_back(type);
  }
  text.bos_id = static_cast<int32_t>(text.pieces.size()) - 3;
  text.eos_id = text.bos_id + 1;
  return text;
}

TextFiles ScoredVocabulary() {
  TextFiles text;
  text.tokenizer_model = "llama";
  const auto add = [&](const std::string& piece, float score, int type) {
    text.pieces.push_back(piece);
    text.scores.push_back(score);
    text.piece_types.push_back(type);
  };
  add("<unk>", 0, 2);
  add("<s>", 0, 3);
  add("</s>", 0, 3);
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    add(name, 0, 6);
  }
  float score = 0;
  for (const char* piece : {"th", "the", "\xe2\x96\x81the", "\xe2\x96\x81\xe2\x96\x81", "er",
                            "\xe2\x96\x81", "t", "h", "e", "r", "o", "s", "1", "9", "n", "a"}) {
    add(piece, score -= 1, 1);
  }
  add("<user>", 0, 4);
  text.bos_id = 1;
  text.eos_id = 2;
  text.unknown_id = 0;
  return text;
}

std::unique_ptr<const Tokenizer> FromVocabulary(const TextFiles& text) {
  text::BpeVocabulary vocabulary;
  vocabulary.kind = text.tokenizer_model == "gpt2" ? text::BpeVocabulary::Kind::kByteLevel
                                                   : text::BpeVocabulary::Kind::kSentencePiece;
  vocabulary.pieces = text.pieces;
  vocabulary.scores = text.scores;
  for (const int32_t type : text.piece_types) {
    vocabulary.types.push_back(static_cast<text::BpeVocabulary::Type>(type));
  }
  for (const std::string& merge : text.merges) {
    const size_t space = merge.find(' ');
    vocabulary.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  vocabulary.pre_tokenizer = text.pre_tokenizer;
  if (text.bos_id >= 0) vocabulary.bos_id = text.bos_id;
  if (text.eos_id >= 0) vocabulary.eos_id = text.eos_id;
  if (text.unknown_id >= 0) vocabulary.unknown_id = text.unknown_id;
  vocabulary.add_bos = text.add_bos;
  vocabulary.add_eos = text.add_eos;
  vocabulary.add_space_prefix = text.add_space_prefix.value_or(true);
  auto tokenizer = text::CreateTokenizerFromVocabulary(std::move(vocabulary));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

std::unique_ptr<const Tokenizer> FromFiles(const TextFiles& text) {
  const auto written = VocabularyFiles("file", text);
  text::TokenizerFiles files;
  files.source_name = "file";
  if (written.contains("tokenizer.json")) files.tokenizer_json = written.at("tokenizer.json");
  if (written.contains("tokenizer.model"))
    files.sentencepiece_model = written.at("tokenizer.model");
  files.tokenizer_config_json = written.at("tokenizer_config.json");
  auto tokenizer = text::CreateTokenizer(files);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

void ExpectSameTokenizer(const TextFiles& text, std::vector<const char*> texts) {
  const auto expected = FromVocabulary(text), found = FromFiles(text);
  EXPECT_EQ(found->vocabulary_size(), expected->vocabulary_size());
  EXPECT_EQ(found->bos_id(), expected->bos_id());
  EXPECT_EQ(found->eos_id(), expected->eos_id());
  for (int id = 0; id < expected->vocabulary_size(); ++id) {
    EXPECT_EQ(found->IsSpecial(id), expected->IsSpecial(id)) << id;
    EXPECT_EQ(found->TokenBytes(id), expected->TokenBytes(id)) << id;
  }
  for (const char* words : texts) {
    for (const bool special : {false, true}) {
      const Tokenizer::EncodeOptions options{special, special};
      const auto wanted = expected->Encode(words, options), got = found->Encode(words, options);
      ASSERT_TRUE(wanted.ok() && got.ok()) << words;
      EXPECT_EQ(*got, *wanted) << words;
      EXPECT_EQ(found->Decode(*got, false), expected->Decode(*wanted, false)) << words;
    }
  }
}

TEST(VocabularyFiles, ByteLevelGivesTheSameIds) {
  std::vector<const char*> texts(std::begin(kTexts), std::end(kTexts));
  texts.push_back(kSpecialText);
  for (const char* name : {"smollm", "gpt-2", "gpt-neox", "llama-bpe", "qwen2"}) {
    SCOPED_TRACE(name);
    TextFiles text = ByteLevelVocabulary(name);
    ExpectSameTokenizer(text, texts);
    text.add_bos = true;
    text.add_eos = true;
    ExpectSameTokenizer(text, texts);
    text.add_bos = false;
    ExpectSameTokenizer(text, texts);
  }
}

TEST(VocabularyFiles, ScoredPiecesGiveTheSameIds) {
  // Where a text goes on behind a special token, llama.cpp and SentencePiece put spaces by rules of
  // their own.
  const std::vector<const char*> texts(std::begin(kTexts), std::end(kTexts));
  TextFiles text = ScoredVocabulary();
  ExpectSameTokenizer(text, texts);
  text.add_bos = false;
  text.add_eos = true;
  ExpectSameTokenizer(text, texts);
}

TEST(VocabularyFiles, ChatTemplateIsKept) {
  TextFiles text = ByteLevelVocabulary("smollm");
  text.chat_template = "{{ messages[0]['content'] }}\n\"quoted\"";
  const auto files = VocabularyFiles("file", text);
  const auto config = nlohmann::json::parse(files.at("tokenizer_config.json"));
  EXPECT_EQ(config.at("chat_template"), text.chat_template);
  EXPECT_EQ(config.at("bos_token"), "<s>");
  const auto document = nlohmann::json::parse(files.at("tokenizer.json"));
  EXPECT_EQ(document.at("pre_tokenizer").at("pretokenizers").at(0).at("type"), "Digits");
}

TEST(VocabularyFiles, WhatIsNotUnderstoodIsNamed) {
  const auto error = [](const TextFiles& text) {
    return ErrorOf([&] { VocabularyFiles("file", text); });
  };
  EXPECT_THAT(error({}), HasSubstr("file: tokenizer: none"));
  TextFiles text = ByteLevelVocabulary("klingon");
  EXPECT_THAT(error(text), HasSubstr("pre-tokenizer \"klingon\""));
  text = ByteLevelVocabulary("smollm");
  text.pieces[300 % text.pieces.size()] = text.pieces[3];
  EXPECT_THAT(error(text), HasSubstr("stands twice"));
  text = ByteLevelVocabulary("smollm");
  text.tokenizer_model = "rwkv";
  EXPECT_THAT(error(text), HasSubstr("\"rwkv\" found"));
  text = ByteLevelVocabulary("smollm");
  text.add_bos = true;
  text.bos_id = -1;
  EXPECT_THAT(error(text), HasSubstr("is to be added and not named"));
  text = ScoredVocabulary();
  text.scores.pop_back();
  EXPECT_THAT(error(text), HasSubstr("scores found"));
}

}  // namespace
}  // namespace mambad::trainer
