// A real quantised model, where there is one: environment variable MAMBAD_SMOLLM2_GGUF names the
// file.

#include <cmath>
#include <cstdlib>

#include "engine/checkpoint/checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mambad::checkpoint {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(SmolLM2, OpensAsItIs) {
  const char* path = std::getenv("MAMBAD_SMOLLM2_GGUF");
  if (path == nullptr || *path == '\0') {
    GTEST_SKIP() << "MAMBAD_SMOLLM2_GGUF does not name SmolLM2-135M-Instruct's GGUF file";
  }
  const auto opened = Checkpoint::Open(path);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const ModelConfig& config = (*opened)->config();
  EXPECT_EQ(config.family, Family::kLlama);
  EXPECT_EQ(config.width, 576);
  EXPECT_EQ(config.layers, 30);
  EXPECT_EQ(config.mlp_width, 1536);
  EXPECT_EQ(config.vocabulary, 49152);
  EXPECT_EQ(config.padded_vocabulary, 49152);
  EXPECT_TRUE(config.tied_head);
  EXPECT_EQ(config.context_length, 8192);
  EXPECT_EQ(config.attention.query_heads, 9);
  EXPECT_EQ(config.attention.key_value_heads, 3);
  EXPECT_EQ(config.attention.head_width, 64);
  EXPECT_EQ(config.attention.rope.theta, 100000);
  EXPECT_THAT(config.eos_ids, ElementsAre(2, 0));  // the end of a turn, and of a text by its piece
  const TextFiles& text = (*opened)->text();
  EXPECT_EQ(text.tokenizer_model, "gpt2");
  EXPECT_EQ(text.pre_tokenizer, "smollm");
  EXPECT_EQ(text.pieces.size(), 49152u);
  EXPECT_EQ(text.merges.size(), 48900u);
  EXPECT_THAT(text.chat_template, HasSubstr("<|im_start|>"));
  // Every number of the model is one.
  for (const Parameter& parameter : (*opened)->table().parameters()) {
    if (!(*opened)->Has(parameter)) continue;
    int64_t columns = 1;
    for (size_t i = 1; i < parameter.shape.size(); ++i) columns *= parameter.shape[i];
    std::vector<float> row(columns);
    double squares = 0;
    for (int64_t i = 0; i < parameter.shape[0]; ++i) {
      (*opened)->Read(parameter, i, i + 1, absl::MakeSpan(row));
      for (float value : row) squares += static_cast<double>(value) * value;
    }
    const double root = std::sqrt(squares / static_cast<double>(parameter.shape[0] * columns));
    EXPECT_GT(root, 1e-3) << parameter.name;
    EXPECT_LT(root, 100) << parameter.name;
  }
}

}  // namespace
}  // namespace mambad::checkpoint
