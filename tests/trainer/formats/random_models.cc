#include "tests/trainer/formats/random_models.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/checkpoint/dequantise.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "tests/trainer/formats/pytorch_writer.h"

namespace mambad::trainer {
namespace {

using checkpoint::StorageType;

std::string NarrowBytes(const std::vector<float>& values, uint16_t (*round)(float)) {
  std::string bytes;
  for (const float value : values) bytes += Raw(round(value));
  return bytes;
}

std::vector<float> Numbers(const checkpoint::Checkpoint& checkpoint,
                           const checkpoint::Parameter& parameter, int64_t rows) {
  int64_t columns = 1;
  for (size_t i = 1; i < parameter.shape.size(); ++i) columns *= parameter.shape[i];
  std::vector<float> values(rows * columns);
  checkpoint.Read(parameter, 0, rows, absl::MakeSpan(values));
  return values;
}

}  // namespace

std::string FloatBytes(const std::vector<float>& values) {
  return std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float));
}

void SavePytorchCheckpoint(const checkpoint::TestDirectory& directory,
                           const support::RandomModelOptions& options, int files) {
  const support::ConfigTexts texts = support::WriteConfigTexts(options);
  directory.Write("config.json", texts.config);
  if (!texts.mamba_config.empty()) directory.Write("mamba_config.json", texts.mamba_config);
  if (!texts.generation_config.empty()) {
    directory.Write("generation_config.json", texts.generation_config);
  }
  std::vector<PytorchWriter> writers(files);
  nlohmann::json index;
  int count = 0;
  const auto file_name = [&](int file) {
    return files == 1 ? std::string("pytorch_model.bin")
                      : absl::StrFormat("pytorch_model-%05d.bin", file + 1);
  };
  for (const support::NamedTensor& tensor : support::DrawTensors(options)) {
    const int file = count++ % files;
    index["weight_map"][tensor.name] = file_name(file);
    if (options.type == StorageType::kFloat32) {
      writers[file].Tensor(tensor.name, "Float", tensor.shape, FloatBytes(tensor.values));
    } else if (options.type == StorageType::kFloat16) {
      writers[file].Tensor(tensor.name, "Half", tensor.shape,
                           NarrowBytes(tensor.values, support::RoundToFloat16));
    } else {
      writers[file].Tensor(tensor.name, "BFloat16", tensor.shape,
                           NarrowBytes(tensor.values, checkpoint::RoundToBFloat16));
    }
  }
  for (int file = 0; file < files; ++file) directory.Write(file_name(file), writers[file].Finish());
  if (files > 1) directory.Write("pytorch_model.bin.index.json", index.dump());
}

void ExpectSameNumbers(const checkpoint::Checkpoint& expected, const checkpoint::Checkpoint& found,
                       bool rounded) {
  for (const checkpoint::Parameter& parameter : found.table().parameters()) {
    if (!found.Has(parameter)) {
      EXPECT_TRUE(parameter.optional) << parameter.name;
      continue;
    }
    const checkpoint::Parameter* from = expected.table().Find(parameter.role, parameter.layer);
    ASSERT_NE(from, nullptr) << parameter.name;
    std::vector<float> wanted = Numbers(expected, *from, parameter.shape[0]);
    const std::vector<float> got = Numbers(found, parameter, parameter.shape[0]);
    ASSERT_EQ(wanted.size(), got.size()) << parameter.name;
    if (rounded && !parameter.keep_float32) {
      for (float& value : wanted) {
        const auto narrow = static_cast<uint32_t>(checkpoint::RoundToBFloat16(value)) << 16;
        std::memcpy(&value, &narrow, sizeof(value));
      }
    }
    EXPECT_EQ(std::memcmp(wanted.data(), got.data(), got.size() * sizeof(float)), 0)
        << parameter.name;
  }
}

}  // namespace mambad::trainer
