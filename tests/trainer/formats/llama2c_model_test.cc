// llama2.c's files, written here as the program reads them.

#include "trainer/formats/llama2c_model.h"

#include <map>
#include <string>
#include <vector>

#include "engine/text/tokenizer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/checkpoint/test_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/formats/pytorch_writer.h"

namespace mambad::trainer {
namespace {

using mambad::testing::ErrorOf;
constexpr char kNoError[] = "nothing was thrown";
using checkpoint::Role;
using checkpoint::TestDirectory;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Width 8, MLP 6, 2 layers, 2 heads of 4, 1 key head, vocabulary 5, context 3; numbers count up.
constexpr int kWidth = 8, kMlp = 6, kLayers = 2, kHeads = 2, kKeyHeads = 1, kContext = 3;
std::string File(int vocabulary) {
  std::string bytes;
  for (const int number : {kWidth, kMlp, kLayers, kHeads, kKeyHeads, vocabulary, kContext}) {
    bytes += Raw<int32_t>(number);
  }
  const int tokens = std::abs(vocabulary), head_width = kWidth / kHeads;
  const int layer =
      2 * kWidth + 2 * kWidth * kWidth + 2 * kWidth * kKeyHeads * head_width + 3 * kWidth * kMlp;
  const int head = vocabulary < 0 ? tokens * kWidth : 0;
  const int total = tokens * kWidth + kLayers * layer + kWidth + kContext * head_width + head;
  for (int i = 0; i < total; ++i) bytes += Raw<float>(static_cast<float>(i));
  return bytes;
}

std::vector<float> Read(const checkpoint::Checkpoint& checkpoint, Role role, int layer) {
  const checkpoint::Parameter& parameter = *checkpoint.table().Find(role, layer);
  int64_t columns = 1;
  for (size_t i = 1; i < parameter.shape.size(); ++i) columns *= parameter.shape[i];
  std::vector<float> values(parameter.shape[0] * columns);
  checkpoint.Read(parameter, 0, parameter.shape[0], absl::MakeSpan(values));
  return values;
}

TEST(Llama2c, TensorsStandInTheFormatsOrder) {
  for (const int vocabulary : {5, -5}) {
    TestDirectory directory;
    directory.Write("model.bin", File(vocabulary));
    const ModelSource source = OpenModelSource(directory / "model.bin");
    EXPECT_EQ(source.kind, SourceKind::kLlama2c);
    const checkpoint::Checkpoint& model = *source.checkpoint;
    EXPECT_EQ(model.config().vocabulary, 5);
    EXPECT_EQ(model.config().tied_head, vocabulary > 0);
    EXPECT_EQ(model.config().context_length, kContext);
    EXPECT_EQ(model.config().attention.head_width, 4);
    EXPECT_EQ(Read(model, Role::kEmbedding, -1).front(), 0);
    // Sizes of what stands before, one after another.
    float at = 5 * kWidth;
    EXPECT_EQ(Read(model, Role::kMixerNorm, 1).front(), at + kWidth);
    at += kLayers * kWidth;
    // Rows of a head: even ones first.
    std::vector<float> first_column;
    const std::vector<float> query = Read(model, Role::kAttentionQuery, 1);
    for (int row = 0; row < kWidth; ++row) first_column.push_back(query[row * kWidth]);
    const float q = at + kWidth * kWidth;
    EXPECT_THAT(first_column,
                ElementsAre(q, q + 16, q + 8, q + 24, q + 32, q + 48, q + 40, q + 56));
    at += kLayers * kWidth * kWidth;
    const std::vector<float> key = Read(model, Role::kAttentionKey, 0);
    EXPECT_THAT((std::vector<float>{key[0], key[8], key[16], key[24]}),
                ElementsAre(at, at + 16, at + 8, at + 24));
    at += kLayers * 4 * kWidth;
    const std::vector<float> value = Read(model, Role::kAttentionValue, 0);
    EXPECT_THAT((std::vector<float>{value[0], value[8], value[16]}),
                ElementsAre(at, at + 8, at + 16));
    at += kLayers * 4 * kWidth;
    EXPECT_EQ(Read(model, Role::kAttentionOutput, 1).front(), at + kWidth * kWidth);
    at += kLayers * kWidth * kWidth;
    EXPECT_EQ(Read(model, Role::kMlpNorm, 0).front(), at);
    at += kLayers * kWidth;
    EXPECT_EQ(Read(model, Role::kMlpGate, 1).front(), at + kWidth * kMlp);
    at += kLayers * kWidth * kMlp;
    EXPECT_EQ(Read(model, Role::kMlpDown, 1).front(), at + kWidth * kMlp);
    at += kLayers * kWidth * kMlp;
    EXPECT_EQ(Read(model, Role::kMlpUp, 0).front(), at);
    at += kLayers * kWidth * kMlp;
    EXPECT_EQ(Read(model, Role::kFinalNorm, -1).front(), at);
    at += kWidth + kContext * 4;
    if (vocabulary < 0) {
      EXPECT_EQ(Read(model, Role::kHead, -1).front(), at);
    }
  }
}

TEST(Llama2c, OtherFilesAreRefused) {
  TestDirectory directory;
  const auto error = [&](const std::string& bytes) {
    directory.Write("model.bin", bytes);
    return ErrorOf([&] { OpenModelSource(directory / "model.bin"); });
  };
  const std::string good = File(5);
  ASSERT_EQ(error(good), kNoError);
  EXPECT_THAT(error("short"), HasSubstr("too short"));
  EXPECT_THAT(error(good.substr(0, good.size() - 4)), HasSubstr("truncated"));
  EXPECT_THAT(error(good + "more"), HasSubstr("bytes of tensors found"));
  EXPECT_THAT(error("24ka" + Raw<int32_t>(2) + good), HasSubstr("llama2.c's format 2 is not read"));
  EXPECT_THAT(error("PK\3\4" + good), HasSubstr("give the directory"));
  // Numbers that nobody has the memory for, or that divide by nothing.
  for (const size_t field : {0u, 1u, 2u, 3u, 4u, 5u, 6u}) {
    for (const int32_t number : {0, -1, INT32_MIN, INT32_MAX, 1 << 16}) {
      std::string changed = good;
      changed.replace(field * 4, 4, Raw(number));
      EXPECT_THAT(error(changed), HasSubstr("model.bin")) << field << " " << number;
    }
  }
}

std::string TokenizerFile() {
  std::string bytes = Raw<int32_t>(6);
  const auto piece = [&](float score, const std::string& text) {
    bytes += Raw(score) + Raw(static_cast<int32_t>(text.size())) + text;
  };
  for (const char* name : {"<unk>", "\n<s>\n", "\n</s>\n"}) piece(0, name);
  for (int byte = 0; byte < 256; ++byte) {
    char name[8];
    std::snprintf(name, sizeof(name), "<0x%02X>", byte);
    piece(0, name);
  }
  piece(-1, " a");
  piece(-2, "b");
  piece(-3, " ");
  piece(-4, "a");
  return bytes;
}

TEST(Llama2cTokenizer, GivesTheSameIds) {
  TestDirectory directory;
  directory.Write("tok.bin", TokenizerFile());
  text::TokenizerFiles files;
  files.sentencepiece_model = ReadLlama2cTokenizer(directory / "tok.bin", 263).Serialize();
  files.tokenizer_config_json = R"({"add_bos_token": true, "bos_token": "<s>"})";
  const auto tokenizer = text::CreateTokenizer(files);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const auto ids = (*tokenizer)->Encode("ab\xc3\xa9", {});
  ASSERT_TRUE(ids.ok());
  EXPECT_THAT(*ids, ElementsAre(1, 259, 260, 3 + 0xc3, 3 + 0xa9));
  EXPECT_EQ((*tokenizer)->Decode(*ids, true), "ab\xc3\xa9");
}

TEST(Llama2cTokenizer, DamageIsNamed) {
  TestDirectory directory;
  const auto error = [&](const std::string& bytes, int64_t vocabulary) {
    directory.Write("tok.bin", bytes);
    return ErrorOf([&] { ReadLlama2cTokenizer(directory / "tok.bin", vocabulary); });
  };
  const std::string good = TokenizerFile();
  EXPECT_EQ(error(good, 263), kNoError);
  EXPECT_THAT(error(good, 264), HasSubstr("ends early"));
  EXPECT_THAT(error(good, 262), HasSubstr("behind the last of 262 pieces"));
  for (size_t length = 1; length < good.size(); length += 7) {
    EXPECT_THAT(error(good.substr(0, length), 263), HasSubstr("tok.bin")) << length;
  }
  std::string huge = good;
  huge.replace(8, 4, Raw<int32_t>(INT32_MAX));
  EXPECT_THAT(error(huge, 263), HasSubstr("piece 0: a length of 2147483647"));
  huge.replace(8, 4, Raw<int32_t>(-1));
  EXPECT_THAT(error(huge, 263), HasSubstr("piece 0: a length of -1"));
}

}  // namespace
}  // namespace mambad::trainer
