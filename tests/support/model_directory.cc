#include "tests/support/model_directory.h"

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <utility>

#include "nlohmann/json.hpp"

namespace mambad::testing {
namespace {

void WriteFile(const std::string& path, const std::string& contents) {
  std::ofstream stream(path, std::ios::binary);
  stream << contents;
  stream.close();
  if (!stream) {
    std::fprintf(stderr, "cannot write %s\n", path.c_str());
    std::abort();
  }
}

uint16_t ToBFloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// To nearest even; values of test models are normal halves or zero-like small, never huge.
uint16_t ToHalf(float value) {
  const uint16_t sign = std::signbit(value) ? 0x8000 : 0;
  const double size = std::fabs(static_cast<double>(value));
  if (size < std::ldexp(1.0, -14))
    return sign | static_cast<uint16_t>(std::nearbyint(std::ldexp(size, 24)));
  int exponent;
  std::frexp(size, &exponent);  // size = [0.5, 1) * 2^exponent
  const auto significand =
      static_cast<int>(std::nearbyint(std::ldexp(size, 11 - exponent)));  // [1024, 2048]
  return sign | static_cast<uint16_t>(((exponent + 14) << 10) + significand - 1024);
}

template <typename T>
void Append(std::string& bytes, T value) {
  bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
}

}  // namespace

TemporaryDirectory::TemporaryDirectory() {
  path_ = (std::filesystem::temp_directory_path() / "mambad_model_XXXXXX").string();
  if (mkdtemp(path_.data()) == nullptr) {
    std::fprintf(stderr, "cannot make a temporary folder like %s\n", path_.c_str());
    std::abort();
  }
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  std::filesystem::remove_all(path_, ignored);
}

void ModelDirectory::AddTensor(const std::string& name, std::vector<int64_t> shape,
                               std::vector<float> values) {
  tensors_[name] = {std::move(shape), std::move(values)};
}

std::string ModelDirectory::Pack(const std::vector<std::string>& names, StoredAs stored) const {
  nlohmann::json header;
  std::string data;
  for (const std::string& name : names) {
    const Tensor& tensor = tensors_.at(name);
    const size_t begin = data.size();
    for (const float value : tensor.values) {
      if (stored == StoredAs::kFloat32) Append(data, value);
      if (stored == StoredAs::kFloat16) Append(data, ToHalf(value));
      if (stored == StoredAs::kBFloat16) Append(data, ToBFloat16(value));
    }
    header[name] = {{"dtype", stored == StoredAs::kFloat32   ? "F32"
                              : stored == StoredAs::kFloat16 ? "F16"
                                                             : "BF16"},
                    {"shape", tensor.shape},
                    {"data_offsets", {begin, data.size()}}};
  }
  header["__metadata__"] = {{"format", "pt"}};
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  std::string bytes;
  Append(bytes, static_cast<uint64_t>(text.size()));
  return bytes + text + data;
}

void ModelDirectory::Write(const std::string& path, StoredAs stored, int shards) const {
  for (const auto& [name, contents] : files_) WriteFile(path + "/" + name, contents);
  std::vector<std::vector<std::string>> names(shards);
  size_t i = 0;
  for (const auto& [name, tensor] : tensors_) names[i++ * shards / tensors_.size()].push_back(name);
  if (shards == 1) {
    WriteFile(path + "/model.safetensors", Pack(names[0], stored));
    return;
  }
  nlohmann::json index;
  int64_t bytes = 0;
  for (int shard = 0; shard < shards; ++shard) {
    char file[64];
    std::snprintf(file, sizeof(file), "model-%05d-of-%05d.safetensors", shard + 1, shards);
    for (const std::string& name : names[shard]) {
      index["weight_map"][name] = file;
      bytes += static_cast<int64_t>(tensors_.at(name).values.size()) *
               (stored == StoredAs::kFloat32 ? 4 : 2);
    }
    WriteFile(path + "/" + file, Pack(names[shard], stored));
  }
  index["metadata"]["total_size"] = bytes;
  WriteFile(path + "/model.safetensors.index.json", index.dump());
}

}  // namespace mambad::testing
