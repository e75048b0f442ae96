// What is written reads back as the same model, in every layout.

#include "engine/checkpoint/model_writer.h"

#include <limits>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/checkpoint/test_directory.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/support/oracle.h"

namespace mambad::checkpoint {
namespace {

using support::RandomModelOptions;
using ::testing::HasSubstr;
using ::testing::Not;

struct Contents {
  std::vector<std::vector<float>> values;
  std::vector<TensorToWrite> tensors;
};

Contents ReadAll(const Checkpoint& checkpoint) {
  Contents contents;
  for (const Parameter& parameter : checkpoint.table().parameters()) {
    if (!checkpoint.Has(parameter)) continue;
    int64_t count = 1;
    for (int64_t size : parameter.shape) count *= size;
    contents.values.emplace_back(count);
    checkpoint.Read(parameter, 0, parameter.shape[0], absl::MakeSpan(contents.values.back()));
    contents.tensors.push_back({parameter.name, StorageType::kFloat32, parameter.shape, {}});
  }
  for (size_t i = 0; i < contents.tensors.size(); ++i) {
    contents.tensors[i].data = {reinterpret_cast<const std::byte*>(contents.values[i].data()),
                                contents.values[i].size() * 4};
  }
  return contents;
}

void ExpectTheSame(const ModelConfig& a, const ModelConfig& b) {
  EXPECT_EQ(a.family, b.family);
  EXPECT_EQ(a.layout, b.layout);
  EXPECT_EQ(a.width, b.width);
  EXPECT_EQ(a.vocabulary, b.vocabulary);
  EXPECT_EQ(a.padded_vocabulary, b.padded_vocabulary);
  EXPECT_EQ(a.mlp_width, b.mlp_width);
  EXPECT_EQ(a.norm_epsilon, b.norm_epsilon);
  EXPECT_EQ(a.tied_head, b.tied_head);
  EXPECT_EQ(a.context_length, b.context_length);
  EXPECT_EQ(a.mixers, b.mixers);
  EXPECT_EQ(a.fused_attention, b.fused_attention);
  EXPECT_EQ(a.fused_mamba, b.fused_mamba);
  EXPECT_EQ(a.attention.sliding_window, b.attention.sliding_window);
  EXPECT_EQ(a.attention.head_width, b.attention.head_width);
  EXPECT_EQ(a.attention.rope.theta, b.attention.rope.theta);
  EXPECT_EQ(a.attention.rope.scaling, b.attention.rope.scaling);
  EXPECT_EQ(a.attention.rope.factor, b.attention.rope.factor);
  EXPECT_EQ(a.attention.rope.original_context, b.attention.rope.original_context);
  EXPECT_EQ(a.mamba.dt_rank, b.mamba.dt_rank);
  EXPECT_EQ(a.mamba.dt_bias_applied_twice, b.mamba.dt_bias_applied_twice);
  EXPECT_EQ(a.mamba.repeat_before_convolution, b.mamba.repeat_before_convolution);
  EXPECT_EQ(a.mamba2.groups, b.mamba2.groups);
  EXPECT_EQ(a.mamba2.dt_minimum, b.mamba2.dt_minimum);
  EXPECT_EQ(a.mamba2.dt_maximum, b.mamba2.dt_maximum);
  EXPECT_EQ(a.mamba2.norm_epsilon, b.mamba2.norm_epsilon);
  EXPECT_EQ(a.eos_ids, b.eos_ids);
  EXPECT_EQ(a.bos_id, b.bos_id);
}

class ModelWriter : public ::testing::TestWithParam<std::pair<std::string, RandomModelOptions>> {};

TEST_P(ModelWriter, WritesTheSameModel) {
  TestDirectory from, to;
  ASSERT_TRUE(support::SaveRandomCheckpoint(from.path(), GetParam().second).ok());
  const auto first = Checkpoint::Open(from.path());
  ASSERT_TRUE(first.ok()) << first.status();
  const Contents contents = ReadAll(**first);
  // Leftovers of another model in the same folder must not be believed.
  to.Write("mamba_config.json", "{\"d_xb\": 16}");
  to.Write("model.safetensors.index.json", "{\"weight_map\": {\"x\": \"y.safetensors\"}}");
  const absl::Status written =
      WriteModelDirectory(to.path(), (*first)->config(), contents.tensors, 0);
  ASSERT_TRUE(written.ok()) << written;
  const auto second = Checkpoint::Open(to.path());
  ASSERT_TRUE(second.ok()) << second.status();
  ExpectTheSame((*first)->config(), (*second)->config());
  EXPECT_EQ(contents.values, ReadAll(**second).values);
  // Another reader takes it for the same model too.
  const auto expected = oracle::Oracle::Open(from.path()), found = oracle::Oracle::Open(to.path());
  ASSERT_TRUE(expected.ok() && found.ok()) << found.status();
  const std::vector<int32_t> prompt = {7, 70, 7, 12};
  EXPECT_EQ((*expected)->Logits(prompt), (*found)->Logits(prompt));
}

INSTANTIATE_TEST_SUITE_P(All, ModelWriter, ::testing::ValuesIn(support::AllVariants()),
                         [](const auto& info) { return info.param.first; });

TEST(WriteModelDirectory, RefusesTensorsOfAnotherModel) {
  TestDirectory from, to;
  ASSERT_TRUE(support::SaveRandomCheckpoint(from.path(), {}).ok());
  const auto checkpoint = Checkpoint::Open(from.path());
  ASSERT_TRUE(checkpoint.ok());
  const Contents contents = ReadAll(**checkpoint);
  const auto error = [&](const auto& change) {
    std::vector<TensorToWrite> tensors = contents.tensors;
    change(tensors);
    const absl::Status status = WriteModelDirectory(to.path(), (*checkpoint)->config(), tensors, 0);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  const std::string name = contents.tensors[3].name;
  EXPECT_THAT(error([](auto& tensors) { tensors.erase(tensors.begin() + 3); }), HasSubstr(name));
  EXPECT_THAT(error([](auto& tensors) { tensors[3].shape.push_back(1); }), HasSubstr(name));
  EXPECT_THAT(error([](auto& tensors) {
                tensors.push_back({"other", StorageType::kFloat32, {0}, {}});
              }),
              HasSubstr("other"));
  ModelConfig gguf = (*checkpoint)->config();
  gguf.layout = Layout::kGguf;
  EXPECT_FALSE(WriteModelDirectory(to.path(), gguf, contents.tensors, 0).ok());
  EXPECT_TRUE(std::filesystem::is_empty(to.path()));
}

TEST(WriteModelConfig, SaysWhatTheRestOfTheWorldReads) {
  ModelConfig config;
  config.layout = Layout::kHuggingFace;
  config.family = Family::kMamba2;
  config.width = 96;
  config.layers = 1;
  config.mixers = {MixerKind::kMamba2};
  config.vocabulary = config.padded_vocabulary = 10;
  config.mamba2.inner_width = 100;  // 100 / 96 is no binary fraction
  config.mamba2.heads = 10;
  config.mamba2.state_size = 8;
  const ConfigTexts texts = WriteModelConfig(config, StorageType::kBFloat16);
  EXPECT_THAT(texts.config, HasSubstr("Infinity\n"));
  EXPECT_THAT(texts.config, Not(HasSubstr("\"Infinity\"")));
  EXPECT_THAT(texts.config, HasSubstr("\"torch_dtype\": \"bfloat16\""));
  const size_t at = texts.config.find("\"expand\": ") + 10;
  EXPECT_EQ(static_cast<int>(std::stod(texts.config.substr(at)) * 96), 100);
  config.mamba2.inner_width = 192;
  EXPECT_THAT(WriteModelConfig(config, StorageType::kFloat16).config, HasSubstr("\"expand\": 2,"));
}

}  // namespace
}  // namespace mambad::checkpoint
