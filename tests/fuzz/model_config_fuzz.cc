// Any text as config.json, mamba_config.json and generation_config.json, one after another with a
// NUL byte between them: an error, or a configuration of which nothing overflows.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "engine/checkpoint/json_file.h"
#include "engine/checkpoint/model_config_reader.h"
#include "engine/checkpoint/model_writer.h"
#include "engine/checkpoint/parameter_table.h"

namespace {

using namespace mambad::checkpoint;

// The next text; null when there is none or it is no JSON.
nlohmann::json Next(std::string_view& input) {
  const size_t end = input.find('\0');
  const std::string_view text = input.substr(0, end);
  input = end == std::string_view::npos ? std::string_view() : input.substr(end + 1);
  auto json = ParseJsonObject("fuzz", text);
  return json.ok() ? *std::move(json) : nlohmann::json();
}

void Require(bool condition) {
  if (!condition) std::abort();
}

void CheckTable(const ModelConfig& config) {
  if (config.layers > 64) return;  // more of the same
  const ParameterTable table(config);
  for (const Parameter& parameter : table.parameters()) {
    int64_t numbers = 1;
    for (const int64_t extent : parameter.shape) {
      Require(extent > 0 && extent <= (1 << 23));
      numbers *= extent;
    }
    Require(numbers <= int64_t{1} << 46);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  std::string_view input(reinterpret_cast<const char*>(data), size);
  ConfigFiles files;
  files.directory = "fuzz";
  files.config = Next(input);
  files.mamba_config = Next(input);
  files.generation_config = Next(input);
  // Layer 0 looks like Mamba-2, layer 1 fused, the others are told by what is missing.
  const TensorShapes tensors = {{"model.layers.0.mamba.dt_bias", {4}},
                                {"model.layers.0.mamba.A_log", {4}},
                                {"model.layers.0.mamba.conv1d.weight", {128, 1, 4}},
                                {"model.layers.1.mamba.in_proj.weight", {100, 64}},
                                {"model.layers.1.mha.in_proj.weight", {100, 64}},
                                {"model.layers.2.mamba.conv1d.weight", {0, 1, 4}}};
  const auto config = ReadModelConfig(files, tensors);
  if (!config.ok()) {
    const absl::string_view message = config.status().message();
    Require(message.size() <= 2000 && message.find('\n') == absl::string_view::npos);
    return 0;
  }
  CheckTable(*config);
  WriteModelConfig(*config, StorageType::kFloat32);
  return 0;
}
