#include "trainer/stages/generator_state.h"

#include <ATen/ATen.h>

#include <cstddef>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <utility>
#include <vector>

#include "engine/checkpoint/mapped_file.h"
#include "engine/checkpoint/safetensors.h"
#include "trainer/text_file.h"

namespace mambad::trainer {
namespace {

// A tensor's name that differs from state to state: what stands in the JSON file too.
std::string MarkOf(const nlohmann::json& words) {
  return "mark." + std::to_string(std::hash<std::string>()(words.dump()));
}

}  // namespace

void SaveGeneratorState(const std::string& stem, nlohmann::json words,
                        const std::map<std::string, at::Tensor>& tensors) {
  const std::string mark = MarkOf(words);
  const at::Tensor one = at::ones({1}, at::kFloat);
  std::vector<checkpoint::TensorToWrite> list;
  const auto add = [&](const std::string& name, const at::Tensor& tensor) {
    if (tensor.numel() == 0) return;
    list.push_back({name,
                    checkpoint::StorageType::kFloat32,
                    {tensor.numel()},
                    {static_cast<const std::byte*>(tensor.data_ptr()), tensor.nbytes()}});
  };
  for (const auto& [name, tensor] : tensors) add(name, tensor);
  add(mark, one);
  const absl::Status status = checkpoint::WriteSafetensors(stem + ".safetensors", list);
  if (!status.ok()) throw std::runtime_error(std::string(status.message()));
  words["mark"] = mark;
  WriteText(stem + ".json", words.dump() + "\n");
}

std::optional<GeneratorState> LoadGeneratorState(const std::string& stem) {
  std::ifstream file(stem + ".json", std::ios::binary);
  if (!file) return std::nullopt;
  GeneratorState state;
  state.words = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!state.words.is_object() || !state.words.contains("mark") ||
      !state.words["mark"].is_string()) {
    return std::nullopt;
  }
  const auto mapped = checkpoint::MappedFile::Open(stem + ".safetensors");
  if (!mapped.ok()) return std::nullopt;
  const auto read = checkpoint::ParseSafetensors(stem + ".safetensors", mapped->bytes());
  if (!read.ok() || read->tensors.count(state.words["mark"].get<std::string>()) == 0) {
    return std::nullopt;
  }
  for (const auto& [name, stored] : read->tensors) {
    if (stored.type != checkpoint::StorageType::kFloat32) return std::nullopt;
    at::Tensor tensor =
        at::empty({static_cast<int64_t>(stored.data.size() / sizeof(float))}, at::kFloat);
    std::memcpy(tensor.data_ptr(), stored.data.data(), stored.data.size());
    state.tensors[name] = tensor;
  }
  return state;
}

void RemoveGeneratorState(const std::string& stem) {
  std::error_code ignored;
  std::filesystem::remove(stem + ".json", ignored);
  std::filesystem::remove(stem + ".safetensors", ignored);
}

}  // namespace mambad::trainer
