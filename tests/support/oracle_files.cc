#include "tests/support/oracle_files.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace mambad::oracle {
namespace {

std::string ReadWhole(const std::string& path) {
  std::ifstream stream(path, std::ios::binary);
  return std::string(std::istreambuf_iterator<char>(stream), {});
}

double FromHalf(uint16_t bits) {
  const int exponent = (bits >> 10) & 31;
  const int fraction = bits & 1023;
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  if (exponent == 31) return fraction == 0 ? sign * INFINITY : NAN;
  return sign * std::ldexp(1024 + fraction, exponent - 25);
}

template <typename T>
T Load(const char* data) {
  T value;
  std::memcpy(&value, data, sizeof(T));
  return value;
}

double FromBFloat16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  return Load<float>(reinterpret_cast<const char*>(&wide));
}

// `data` holds values.size() numbers of type `type`. False: a type that model files do not use.
bool Decode(const std::string& type, const char* data, std::vector<double>& values) {
  for (size_t i = 0; i < values.size(); ++i) {
    if (type == "F32") {
      values[i] = Load<float>(data + 4 * i);
    } else if (type == "BF16") {
      values[i] = FromBFloat16(Load<uint16_t>(data + 2 * i));
    } else if (type == "F16") {
      values[i] = FromHalf(Load<uint16_t>(data + 2 * i));
    } else if (type == "F64") {
      values[i] = Load<double>(data + 8 * i);
    } else {
      return false;
    }
  }
  return true;
}

}  // namespace

bool FileExists(const std::string& path) { return std::filesystem::exists(path); }

absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path) {
  const std::string text = absl::StrReplaceAll(ReadWhole(path), {{"Infinity", "1e308"}});
  nlohmann::json json = nlohmann::json::parse(text, nullptr, false);
  if (!json.is_object()) return absl::InvalidArgumentError(absl::StrCat(path, ": no JSON object"));
  return json;
}

absl::StatusOr<TensorFiles> TensorFiles::Read(const std::string& directory) {
  TensorFiles files;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    if (entry.path().extension() != ".safetensors") continue;
    absl::Status status = files.ReadOne(entry.path().string());
    if (!status.ok()) return status;
  }
  if (files.tensors_.empty()) return absl::NotFoundError(absl::StrCat(directory, ": no tensors"));
  return files;
}

absl::Status TensorFiles::ReadOne(const std::string& path) {
  const std::string bytes = ReadWhole(path);
  const auto bad = [&path](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", what));
  };
  if (bytes.size() < 8) return bad("too short");
  const uint64_t header_size = Load<uint64_t>(bytes.data());
  if (header_size > bytes.size() - 8) return bad("header beyond the end");
  const auto header = nlohmann::json::parse(bytes.substr(8, header_size), nullptr, false);
  if (!header.is_object()) return bad("header is no JSON object");
  const size_t data_begin = 8 + header_size;
  for (const auto& [name, entry] : header.items()) {
    if (name == "__metadata__") continue;
    Tensor tensor;
    tensor.shape = entry["shape"].get<std::vector<int64_t>>();
    const auto offsets = entry["data_offsets"].get<std::vector<uint64_t>>();
    const std::string type = entry["dtype"].get<std::string>();
    int64_t count = 1;
    for (const int64_t size : tensor.shape) count *= size;
    tensor.values.resize(count);
    const size_t width = type == "F32" ? 4 : type == "F64" ? 8 : 2;
    if (offsets[1] - offsets[0] != count * width || data_begin + offsets[1] > bytes.size()) {
      return bad(absl::StrCat(name, ": offsets do not fit its shape"));
    }
    if (!Decode(type, bytes.data() + data_begin + offsets[0], tensor.values))
      return bad(absl::StrCat(name, ": type ", type));
    if (!tensors_.emplace(name, std::move(tensor)).second)
      return bad(absl::StrCat(name, ": twice"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Tensor> TensorFiles::Take(const std::string& name,
                                         const std::vector<int64_t>& shape) {
  const auto found = tensors_.find(name);
  if (found == tensors_.end())
    return absl::NotFoundError(absl::StrCat("oracle: tensor ", name, " is missing"));
  if (found->second.shape != shape) {
    return absl::InvalidArgumentError(
        absl::StrCat("oracle: tensor ", name, " is [", absl::StrJoin(found->second.shape, ", "),
                     "], expected [", absl::StrJoin(shape, ", "), "]"));
  }
  taken_.insert(name);
  return found->second;
}

absl::Status TensorFiles::CheckAllTaken() const {
  for (const auto& [name, tensor] : tensors_) {
    if (!taken_.contains(name))
      return absl::FailedPreconditionError(absl::StrCat("oracle: no use for tensor ", name));
  }
  return absl::OkStatus();
}

}  // namespace mambad::oracle
