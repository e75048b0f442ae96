// Every family in every released layout and spelling: written by tests from the published names,
// opened here.

#include <cmath>
#include <cstring>
#include <map>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/dequantise.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/checkpoint/test_directory.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/support/oracle.h"

namespace mambad::checkpoint {
namespace {

using support::AllVariants;
using support::NamedTensor;
using support::RandomModelOptions;

int64_t Count(const Parameter& parameter) {
  int64_t count = 1;
  for (int64_t size : parameter.shape) count *= size;
  return count;
}

std::vector<float> ReadAll(const Checkpoint& checkpoint, const Parameter& parameter) {
  std::vector<float> values(Count(parameter));
  checkpoint.Read(parameter, 0, parameter.shape[0], absl::MakeSpan(values));
  return values;
}

class ReleasedLayouts
    : public ::testing::TestWithParam<std::pair<std::string, RandomModelOptions>> {};

TEST_P(ReleasedLayouts, OpensWithEveryTensorInItsRole) {
  const RandomModelOptions& options = GetParam().second;
  TestDirectory directory;
  ASSERT_TRUE(support::SaveRandomCheckpoint(directory.path(), options).ok());
  const auto checkpoint = Checkpoint::Open(directory.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();

  std::map<std::string, NamedTensor> written;
  for (NamedTensor& tensor : support::DrawTensors(options)) written[tensor.name] = tensor;
  size_t found = 0;
  for (const Parameter& parameter : (*checkpoint)->table().parameters()) {
    if (!(*checkpoint)->Has(parameter)) {
      EXPECT_TRUE(parameter.optional) << parameter.name;
      continue;
    }
    ASSERT_TRUE(written.contains(parameter.name)) << parameter.name;
    EXPECT_EQ(written[parameter.name].shape, parameter.shape) << parameter.name;
    EXPECT_EQ(written[parameter.name].values, ReadAll(**checkpoint, parameter)) << parameter.name;
    ++found;
  }
  EXPECT_EQ(found, written.size());

  const ModelConfig& config = (*checkpoint)->config();
  EXPECT_EQ(config.family, options.family);
  EXPECT_EQ(config.layout, options.layout);
  EXPECT_EQ(config.width, options.width);
  EXPECT_EQ(config.layers, options.layers);
  EXPECT_EQ(config.vocabulary, options.vocabulary);
  EXPECT_EQ(config.tied_head, options.tied_head);
  EXPECT_EQ((*checkpoint)->text().directory, directory.path());
  EXPECT_EQ((*checkpoint)->native_type(), StorageType::kFloat32);
}

// A second reader of the same files, which shares nothing with this one: it wants every tensor
// used, and its logits tell that the random weights are neither dead nor deafening.
TEST_P(ReleasedLayouts, AnotherReaderMakesTheSameOfIt) {
  const RandomModelOptions& options = GetParam().second;
  TestDirectory directory;
  ASSERT_TRUE(support::SaveRandomCheckpoint(directory.path(), options).ok());
  const auto oracle = oracle::Oracle::Open(directory.path());
  ASSERT_TRUE(oracle.ok()) << oracle.status();
  const std::vector<int32_t> prompt = {5, 17, 80, 3, 3, 42};
  const auto logits = (*oracle)->Logits(prompt);
  const auto checkpoint = Checkpoint::Open(directory.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  ASSERT_EQ(static_cast<int>(logits[0].size()), (*checkpoint)->config().padded_vocabulary);
  for (const auto& row : logits) {
    double squares = 0;
    for (double logit : row) squares += logit * logit;
    const double deviation = std::sqrt(squares / static_cast<double>(row.size()));
    EXPECT_GT(deviation, 0.5);
    EXPECT_LT(deviation, 6);
  }
  // The past matters: the same last token after another beginning gives other logits.
  const auto other = (*oracle)->Logits(std::vector<int32_t>{9, 60, 7, 100, 3, 42});
  double difference = 0;
  for (size_t i = 0; i < other.back().size(); ++i) {
    difference = std::max(difference, std::fabs(other.back()[i] - logits.back()[i]));
  }
  EXPECT_GT(difference, 0.05);
}

TEST_P(ReleasedLayouts, SixteenBitFilesAndShardsReadTheSame) {
  RandomModelOptions options = GetParam().second;
  for (StorageType type : {StorageType::kBFloat16, StorageType::kFloat16}) {
    options.type = type;
    options.shards = type == StorageType::kBFloat16 ? 3 : 1;
    TestDirectory directory;
    ASSERT_TRUE(support::SaveRandomCheckpoint(directory.path(), options).ok());
    EXPECT_EQ(std::filesystem::exists(directory / "model.safetensors.index.json"),
              options.shards > 1);
    const auto checkpoint = Checkpoint::Open(directory.path());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ((*checkpoint)->native_type(), type);
    for (const NamedTensor& tensor : support::DrawTensors(options)) {
      const Parameter* parameter = (*checkpoint)->table().Find(tensor.name);
      ASSERT_NE(parameter, nullptr) << tensor.name;
      const std::vector<float> values = ReadAll(**checkpoint, *parameter);
      std::vector<uint16_t> words(values.size());
      (*checkpoint)->ReadBFloat16(*parameter, 0, parameter->shape[0], absl::MakeSpan(words));
      for (size_t i = 0; i < values.size(); ++i) {
        // 8 and 11 significant bits: half a unit in the last place at most.
        const float bound =
            std::fabs(tensor.values[i]) * (type == StorageType::kBFloat16 ? 0x1p-8f : 0x1p-11f) +
            0x1p-25f;
        ASSERT_NEAR(values[i], tensor.values[i], bound) << tensor.name << " " << i;
        ASSERT_EQ(words[i], RoundToBFloat16(values[i])) << tensor.name << " " << i;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, ReleasedLayouts, ::testing::ValuesIn(AllVariants()),
                         [](const auto& info) { return info.param.first; });

}  // namespace
}  // namespace mambad::checkpoint
