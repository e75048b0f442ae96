// Tokenizers as tokenizer.json: what is written is read back, here, as the same tokenizer. That
// others read it so too is for tests/e2e to see.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "engine/text/byte_level.h"
#include "engine/text/chat_template.h"
#include "engine/text/tokenizer.h"
#include "engine/text/tokenizer_bundle.h"
#include "nlohmann/json.hpp"

namespace mambad::text {
namespace {

using Type = BpeVocabulary::Type;

const std::vector<std::string> kTexts = {
    "",       " ",      "Once upon a time, there was a little girl.",
    "  two",  "a  b\n", "Straße café \xE4\xB8\xAD\xE6\x96\x87 \xF0\x9F\x8C\x8A",
    "1234 x", "<s>",    "<|end|>x <user>"};

std::unique_ptr<const Tokenizer> ReadBack(const Tokenizer& tokenizer) {
  const absl::StatusOr<std::string> json = tokenizer.ToJson();
  EXPECT_TRUE(json.ok()) << json.status().ToString();
  TokenizerFiles files;
  files.source_name = "exported";
  files.tokenizer_json = *json;
  auto again = CreateTokenizer(files);
  EXPECT_TRUE(again.ok()) << again.status().ToString();
  return again.ok() ? *std::move(again) : nullptr;
}

void ExpectSame(const Tokenizer& tokenizer) {
  const std::unique_ptr<const Tokenizer> again = ReadBack(tokenizer);
  ASSERT_NE(again, nullptr);
  EXPECT_EQ(again->vocabulary_size(), tokenizer.vocabulary_size());
  for (const std::string& text : kTexts) {
    const auto expected = tokenizer.Encode(text, {});
    const auto ids = again->Encode(text, {});
    ASSERT_TRUE(expected.ok() && ids.ok()) << text;
    EXPECT_EQ(*ids, *expected) << text;
    EXPECT_EQ(again->Decode(*ids, true), tokenizer.Decode(*expected, true)) << text;
  }
}

// The story model's, beside the others in the checkout.
std::unique_ptr<const Tokenizer> StoryTokenizer() {
  auto tokenizer = OpenTokenizer(MAMBAD_SOURCE_DIR "/deploy/models/stories/target");
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  return *std::move(tokenizer);
}

BpeVocabulary ByteLevel(const std::string& pre_tokenizer) {
  BpeVocabulary vocabulary;
  vocabulary.source_name = "file.gguf";
  vocabulary.pre_tokenizer = pre_tokenizer;
  for (int byte = 0; byte < 256; ++byte) vocabulary.pieces.push_back(ByteLevelCharacter(byte));
  for (const char* piece : {"12", "123", "1234", "Ġx", "th", "the", "Ġthe"})
    vocabulary.pieces.push_back(piece);
  vocabulary.types.assign(vocabulary.pieces.size(), Type::kNormal);
  vocabulary.pieces.push_back("<|end|>");
  vocabulary.types.push_back(Type::kControl);
  vocabulary.pieces.push_back("<user>");
  vocabulary.types.push_back(Type::kUserDefined);
  vocabulary.merges = {{"1", "2"}, {"12", "3"}, {"123", "4"}, {"Ġ", "x"},
                       {"t", "h"}, {"th", "e"}, {"Ġ", "the"}};
  vocabulary.bos_id = static_cast<TokenId>(vocabulary.pieces.size()) - 2;
  return vocabulary;
}

TEST(TokenizerExportTest, ByteLevelOfGgufFiles) {
  // With and without a prefix, a normal form, whole pieces.
  for (const char* name : {"gpt-2", "smollm", "llama-bpe", "qwen2", "deepseek-v3", "default"}) {
    SCOPED_TRACE(name);
    const auto tokenizer = CreateTokenizerFromVocabulary(ByteLevel(name));
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
    ExpectSame(**tokenizer);
  }
}

TEST(TokenizerExportTest, ScoredPiecesOfGgufFiles) {
  BpeVocabulary vocabulary;
  vocabulary.kind = BpeVocabulary::Kind::kSentencePiece;
  vocabulary.source_name = "file.gguf";
  const auto add = [&](const std::string& piece, float score, Type type) {
    vocabulary.pieces.push_back(piece);
    vocabulary.scores.push_back(score);
    vocabulary.types.push_back(type);
  };
  add("<unk>", 0, Type::kUnknown);
  add("<s>", 0, Type::kControl);
  constexpr char kDigits[] = "0123456789ABCDEF";
  for (int byte = 0; byte < 256; ++byte)
    add(std::string("<0x") + kDigits[byte / 16] + kDigits[byte % 16] + ">", 0, Type::kByte);
  for (const char* piece : {"▁t", "he", "▁the", "in", "▁th", "▁", "t", "h", "e", "i", "n", "a"})
    add(piece, -static_cast<float>(vocabulary.pieces.size()), Type::kNormal);
  vocabulary.bos_id = 1;
  for (const bool prefix : {true, false}) {
    vocabulary.add_space_prefix = prefix;
    const auto tokenizer = CreateTokenizerFromVocabulary(vocabulary);
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
    ExpectSame(**tokenizer);
  }
}

TEST(TokenizerExportTest, SentencePieceModels) { ExpectSame(*StoryTokenizer()); }

TEST(TokenizerExportTest, OfTokenizerJsonThereIsTheFile) {
  const auto again = ReadBack(*StoryTokenizer());
  ASSERT_NE(again, nullptr);
  EXPECT_EQ(again->ToJson().status().code(), absl::StatusCode::kUnimplemented);
}

class TokenizerBundleTest : public ::testing::Test {
 protected:
  TokenizerBundleTest() { std::filesystem::create_directories(directory_); }
  ~TokenizerBundleTest() override { std::filesystem::remove_all(directory_); }

  void Write(const std::string& name, const std::string& text) const {
    std::ofstream(directory_ / name) << text;
  }
  std::vector<BundledFile> Bundle(const ChatTemplate* chat_template) const {
    ChatTemplate::Variables variables;
    variables.bos_token = "<s>";
    variables.text_variables = {{"pad_token", "</s>"}};
    auto files = BundleTokenizer(directory_.string(), *StoryTokenizer(), chat_template, variables);
    EXPECT_TRUE(files.ok()) << files.status().ToString();
    return *std::move(files);
  }

  const std::filesystem::path directory_ =
      std::filesystem::path(::testing::TempDir()) / "tokenizer_bundle_test";
};

TEST_F(TokenizerBundleTest, IsMadeWhereThereAreNoFiles) {
  const auto chat_template = ChatTemplate::Parse("{{ messages[0].content }}");
  const std::vector<BundledFile> files = Bundle(&*chat_template);
  ASSERT_EQ(files.size(), 2u);
  EXPECT_EQ(files[0].name, "tokenizer.json");
  EXPECT_EQ(nlohmann::json::parse(files[0].contents)["model"]["type"], "BPE");
  EXPECT_EQ(files[1].name, "tokenizer_config.json");
  const auto config = nlohmann::json::parse(files[1].contents);
  EXPECT_EQ(config["bos_token"], "<s>");
  EXPECT_EQ(config["pad_token"], "</s>");
  EXPECT_EQ(config["chat_template"], "{{ messages[0].content }}");
}

TEST_F(TokenizerBundleTest, TakesTheFilesThatThereAre) {
  Write("tokenizer.json", "{\"mine\": 1}");
  Write("tokenizer_config.json", R"({"eos_token": "<end>", "chat_template": "old"})");
  const auto chat_template = ChatTemplate::Parse("new");
  std::vector<BundledFile> files = Bundle(&*chat_template);
  EXPECT_EQ(files[0].contents, "{\"mine\": 1}");
  auto config = nlohmann::json::parse(files[1].contents);
  EXPECT_EQ(config["eos_token"], "<end>");
  EXPECT_EQ(config["chat_template"], "new");
  EXPECT_FALSE(config.contains("pad_token"));

  const ChatTemplate unusable = ChatTemplate::Unusable(absl::UnimplementedError("no"));
  files = Bundle(&unusable);
  config = nlohmann::json::parse(files[1].contents);
  EXPECT_FALSE(config.contains("chat_template"));
}

}  // namespace
}  // namespace mambad::text
