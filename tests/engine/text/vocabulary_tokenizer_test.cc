// Tokenizers from the vocabulary inside a GGUF file.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "engine/text/byte_level.h"
#include "engine/text/tokenizer.h"

namespace mambad::text {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using Type = BpeVocabulary::Type;

BpeVocabulary ByteLevel(const std::string& pre_tokenizer) {
  BpeVocabulary vocabulary;
  vocabulary.source_name = "file.gguf";
  vocabulary.pre_tokenizer = pre_tokenizer;
  for (int byte = 0; byte < 256; ++byte) {
    vocabulary.pieces.push_back(ByteLevelCharacter(byte));
    vocabulary.types.push_back(Type::kNormal);
  }
  for (const char* piece : {"12", "123", "1234", "Ġx", "x'", "cba"}) {  // 256..261
    vocabulary.pieces.push_back(piece);
    vocabulary.types.push_back(Type::kNormal);
  }
  vocabulary.pieces.push_back("<|end|>");  // 262
  vocabulary.types.push_back(Type::kControl);
  vocabulary.pieces.push_back("<user>");  // 263
  vocabulary.types.push_back(Type::kUserDefined);
  vocabulary.merges = {{"1", "2"}, {"12", "3"}, {"123", "4"}, {"Ġ", "x"}, {"x", "'"}};
  vocabulary.bos_id = 262;
  return vocabulary;
}

std::vector<TokenId> Encode(const BpeVocabulary& vocabulary, const std::string& text,
                            const Tokenizer::EncodeOptions& options = {}) {
  const auto tokenizer = CreateTokenizerFromVocabulary(vocabulary);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  const auto ids = (*tokenizer)->Encode(text, options);
  EXPECT_TRUE(ids.ok()) << ids.status().ToString();
  EXPECT_EQ((*tokenizer)->Decode(*ids, true).size() > 0, true);
  return *ids;
}

TEST(VocabularyTokenizer, PreTokenizersDiffer) {
  const std::string text = "1234 x'";
  EXPECT_THAT(Encode(ByteLevel("gpt-2"), text), ElementsAre(258, 259, '\''));
  EXPECT_THAT(Encode(ByteLevel("mpt"), text), ElementsAre(258, 259, '\''));
  EXPECT_THAT(Encode(ByteLevel("smollm"), text), ElementsAre('1', '2', '3', '4', 259, '\''));
  EXPECT_THAT(Encode(ByteLevel("qwen2"), text), ElementsAre('1', '2', '3', '4', 259, '\''));
  EXPECT_THAT(Encode(ByteLevel("llama-bpe"), text), ElementsAre(262, 257, '4', 259, '\''));
  EXPECT_THAT(Encode(ByteLevel("default"), text), ElementsAre(257, '4', 259, '\''));
  EXPECT_THAT(Encode(ByteLevel(""), text), ElementsAre(257, '4', 259, '\''));
}

// How the families cut: by their patterns, the pieces of a text whose tokens are its bytes.
TEST(VocabularyTokenizer, EveryNameHasItsRule) {
  const auto ids = [](const std::string& name, const std::string& text) {
    BpeVocabulary vocabulary = ByteLevel(name);
    vocabulary.add_bos = false;
    return Encode(vocabulary, text);
  };
  for (const char* name :
       {"smaug-bpe", "falcon3", "pixtral", "dbrx", "glm4", "gpt-4o", "llama4", "deepseek-v3",
        "hunyuan-dense", "jais-2", "superbpe", "lfm2", "falcon-h1"}) {
    EXPECT_THAT(ids(name, "123"), ElementsAre(257)) << name;
  }
  for (const char* name :
       {"tekken", "deepseek-llm", "deepseek-coder", "stablelm2", "qwen35", "seed-coder", "exaone",
        "exaone-moe", "bailingmoe", "viking", "chameleon", "youtu", "hunyuan", "spark2_5",
        "minerva-7b", "laguna", "ufakzeka", "megrez"}) {
    EXPECT_THAT(ids(name, "12"), ElementsAre('1', '2')) << name;
  }
  for (const char* name : {"bloom", "poro-chat", "gpt3-finnish", "trillion", "exaone4", "gigachat",
                           "roberta-bpe", "olmo", "jais", "granite-docling"}) {
    EXPECT_THAT(ids(name, "1234 x"), ElementsAre(258, 259)) << name;
  }
  EXPECT_THAT(ids("superbpe", "1234"), ElementsAre('1', '2', '3', '4')) << "1|234";
  EXPECT_THAT(ids("tiny_aya", "1234"), ElementsAre('1', '2', '3', '4')) << "1|234";
  EXPECT_THAT(ids("gpt-4o", "1234"), ElementsAre(257, '4'));
  EXPECT_THAT(ids("falcon", "1234"), ElementsAre(257, '4'));
  EXPECT_THAT(ids("deepseek-llm", "x'"), ElementsAre('x', '\''))
      << "signs stand apart from letters";
  EXPECT_THAT(ids("kimi-k2", "語x'"), testing::SizeIs(5));
}

TEST(VocabularyTokenizer, UnknownNamesAreRefusedWithTheKnownOnes) {
  const auto status = CreateTokenizerFromVocabulary(ByteLevel("gemma4")).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"gemma4\" is not supported"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("smaug-bpe, smollm, "));
}

TEST(VocabularyTokenizer, RepeatedAndEmptyPiecesServe) {
  BpeVocabulary vocabulary = ByteLevel("gpt-2");
  for (const char* piece : {"[PAD]", "[PAD]", "", "", "<|end|>"}) {
    vocabulary.pieces.push_back(piece);
    vocabulary.types.push_back(Type::kControl);
  }
  const auto tokenizer = CreateTokenizerFromVocabulary(vocabulary);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(*(*tokenizer)->Encode("a[PAD]<|end|>", {}), ElementsAre('a', 264, 262));
  EXPECT_EQ((*tokenizer)->TokenToId("[PAD]"), 264);
  EXPECT_EQ((*tokenizer)->IdToToken(265), "[PAD]");
  EXPECT_EQ((*tokenizer)->TokenBytes(266), "");
}

TEST(VocabularyTokenizer, ConversationsBeginWithTheFilesOwnBeginning) {
  BpeVocabulary vocabulary = ByteLevel("gpt-2");
  vocabulary.add_bos = true;
  auto tokenizer = CreateTokenizerFromVocabulary(vocabulary);
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_THAT(*(*tokenizer)->EncodeConversation("a"), ElementsAre(262, 'a'));
  EXPECT_THAT(*(*tokenizer)->EncodeConversation("<|end|>a"), ElementsAre(262, 'a'));
  EXPECT_THAT(*(*tokenizer)->EncodeConversation(""), ElementsAre(262));
  vocabulary.add_bos = false;
  tokenizer = CreateTokenizerFromVocabulary(vocabulary);
  EXPECT_THAT(*(*tokenizer)->EncodeConversation("a"), ElementsAre('a'));
}

TEST(VocabularyTokenizer, WarnsOfABeginningThatIsNotThere) {
  BpeVocabulary vocabulary = ByteLevel("gpt-2");
  vocabulary.bos_id.reset();
  vocabulary.add_bos = vocabulary.add_eos = true;
  const auto tokenizer = CreateTokenizerFromVocabulary(vocabulary);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  EXPECT_THAT(*(*tokenizer)->Encode("a", {}), ElementsAre('a'));
  EXPECT_THAT((*tokenizer)->warnings(),
              ElementsAre(HasSubstr("add_bos_token"), HasSubstr("add_eos_token")));
}

TEST(VocabularyTokenizer, BytesWithoutPieceNeverBecomeASpecialToken) {
  BpeVocabulary vocabulary = ByteLevel("gpt-2");
  vocabulary.unknown_id = 262;
  vocabulary.pieces[0xC3] = "spare";
  EXPECT_THAT(Encode(vocabulary, "1é2"), ElementsAre('1', 0xA9, '2'));
}

TEST(VocabularyTokenizer, WholePiecesOfLlama3) {
  EXPECT_THAT(Encode(ByteLevel("llama-bpe"), "cba"), ElementsAre(262, 261));
  EXPECT_THAT(Encode(ByteLevel("gpt-2"), "cba"), ElementsAre('c', 'b', 'a'));
}

TEST(VocabularyTokenizer, SpecialPieces) {
  const BpeVocabulary vocabulary = ByteLevel("gpt-2");
  EXPECT_THAT(Encode(vocabulary, "1<|end|><user>"), ElementsAre('1', 262, 263));
  const std::vector<TokenId> plain = Encode(vocabulary, "<user><|end|>", {.parse_special = false});
  EXPECT_EQ(plain.size(), 1 + std::string("<|end|>").size());
  EXPECT_EQ(plain[0], 263) << "user-defined pieces are text";
  BpeVocabulary with_bos = vocabulary;
  with_bos.add_bos = true;
  EXPECT_THAT(Encode(with_bos, "1"), ElementsAre(262, '1'));
}

BpeVocabulary Scored() {
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
  add("</s>", 0, Type::kControl);
  const char* digits = "0123456789ABCDEF";
  for (int byte = 0; byte < 256; ++byte) {  // 3..258
    add(std::string("<0x") + digits[byte / 16] + digits[byte % 16] + ">", 0, Type::kByte);
  }
  add("▁", -10, Type::kNormal);    // 259
  add("a", -11, Type::kNormal);    // 260
  add("b", -12, Type::kNormal);    // 261
  add("▁a", -2, Type::kNormal);    // 262
  add("ab", -1, Type::kNormal);    // 263
  add("語本", -3, Type::kNormal);  // 264: its characters are no pieces
  vocabulary.bos_id = 1;
  vocabulary.eos_id = 2;
  return vocabulary;
}

TEST(VocabularyTokenizer, ScoresRankMerges) {
  EXPECT_THAT(Encode(Scored(), "ab a"), ElementsAre(1, 259, 263, 262));
  EXPECT_THAT(Encode(Scored(), "b語本"), ElementsAre(1, 259, 261, 264));
  EXPECT_THAT(Encode(Scored(), "語"), ElementsAre(1, 259, 3 + 0xE8, 3 + 0xAA, 3 + 0x9E));
  EXPECT_THAT(Encode(Scored(), "\n"), ElementsAre(1, 259, 3 + 0x0A));
  EXPECT_THAT(Encode(Scored(), "a</s>a"), ElementsAre(1, 262, 2, 262));
  const Tokenizer::EncodeOptions goes_on = {.add_special_tokens = false, .goes_on = true};
  EXPECT_THAT(Encode(Scored(), "ab a", goes_on), ElementsAre(263, 262));
  EXPECT_THAT(Encode(Scored(), " a</s>a", goes_on), ElementsAre(262, 2, 262));
  BpeVocabulary bare = Scored();
  bare.add_space_prefix = false;
  bare.add_bos = false;
  bare.add_eos = true;
  EXPECT_THAT(Encode(bare, "ab"), ElementsAre(263, 2));
}

TEST(VocabularyTokenizer, ScoredTextComesBack) {
  const auto tokenizer = CreateTokenizerFromVocabulary(Scored());
  ASSERT_TRUE(tokenizer.ok());
  EXPECT_TRUE((*tokenizer)->strips_leading_space());
  for (const std::string text : {"ab", " ab", "  x\n語本語 ", "", "😀"}) {
    EXPECT_EQ((*tokenizer)->Decode(*(*tokenizer)->Encode(text, {}), true), text);
  }
  EXPECT_EQ((*tokenizer)->TokenBytes(262), " a");
  EXPECT_EQ((*tokenizer)->TokenBytes(3 + 0xE8), "\xE8");
  EXPECT_TRUE((*tokenizer)->IsSpecial(0));
}

TEST(VocabularyTokenizer, FaultsAreNamed) {
  const auto message = [](const BpeVocabulary& vocabulary) {
    const auto status = CreateTokenizerFromVocabulary(vocabulary).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  BpeVocabulary vocabulary = ByteLevel("gpt-2");
  vocabulary.types.pop_back();
  EXPECT_THAT(message(vocabulary), HasSubstr("expected 264 token types, found 263"));
  vocabulary = ByteLevel("gpt-2");
  vocabulary.merges.push_back({"q", "q"});
  EXPECT_THAT(message(vocabulary), HasSubstr("merge 5 (\"q\", \"q\")"));
  vocabulary = ByteLevel("gpt-2");
  vocabulary.eos_id = 264;
  EXPECT_THAT(message(vocabulary), HasSubstr("expected special ids below 264, found 264"));
  vocabulary = ByteLevel("gpt-2");
  vocabulary.pieces[3] = "\xFF";
  EXPECT_THAT(message(vocabulary), HasSubstr("piece 3 is not valid UTF-8"));
  vocabulary = Scored();
  vocabulary.scores[5] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THAT(message(vocabulary), HasSubstr("score 5 is not finite"));
  vocabulary = Scored();
  vocabulary.scores.pop_back();
  EXPECT_THAT(message(vocabulary), HasSubstr("scores"));
  vocabulary = Scored();
  vocabulary.pieces[260] = std::string(300, 'a');
  EXPECT_THAT(message(vocabulary), HasSubstr("piece 260: expected at most 256 bytes"));
  EXPECT_THAT(message(BpeVocabulary()), HasSubstr("expected pieces, found none"));
}

}  // namespace
}  // namespace mambad::text
