#include "engine/checkpoint/checkpoint.h"

#include <sys/stat.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <set>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/checkpoint/dequantise.h"
#include "engine/checkpoint/gguf.h"
#include "engine/checkpoint/gguf_config.h"
#include "engine/checkpoint/json_file.h"
#include "engine/checkpoint/mapped_file.h"
#include "engine/checkpoint/model_config_reader.h"
#include "engine/checkpoint/safetensors.h"

namespace mambad::checkpoint {
namespace {

constexpr size_t kMaxShards = 4096;

int64_t RowNumbers(const Parameter& parameter) {
  int64_t numbers = 1;
  for (size_t i = 1; i < parameter.shape.size(); ++i) numbers *= parameter.shape[i];
  return numbers;
}

// Four FNV-1a sums with different beginnings: 256 bits that tell models apart.
class Fingerprint {
 public:
  void Add(absl::Span<const std::byte> bytes) {
    for (size_t lane = 0; lane < 4; ++lane) {
      for (std::byte byte : bytes)
        sums_[lane] = (sums_[lane] ^ static_cast<uint8_t>(byte)) * 0x100000001b3ull;
    }
  }
  void Add(const std::string& text) {
    Add({reinterpret_cast<const std::byte*>(text.data()), text.size()});
  }
  std::string Digits() const {
    return absl::StrFormat("%016x%016x%016x%016x", sums_[0], sums_[1], sums_[2], sums_[3]);
  }

 private:
  uint64_t sums_[4] = {0xcbf29ce484222325ull, 0x9ae16a3b2f90404full, 0xc3a5c85c97cb3127ull,
                       0xb492b66fbe98f273ull};
};

// Tensors that writers leave behind and that mean nothing to us.
bool IsLeftover(const std::string& name) {
  return absl::EndsWith(absl::string_view(name), "rotary_emb.inv_freq") ||
         absl::EndsWith(absl::string_view(name), ".attn_rot_embd") || name == "rope_freqs.weight";
}

class MappedCheckpoint : public Checkpoint {
 public:
  MappedCheckpoint(ModelConfig config, ParameterTable table, std::vector<MappedFile> files,
                   std::map<std::string, StoredTensor> tensors, TextFiles text)
      : Checkpoint(std::move(config), std::move(table)),
        files_(std::move(files)),
        tensors_(std::move(tensors)) {
    text_ = std::move(text);
  }

  // Every parameter present with its shape, nothing unknown beside them.
  absl::Status Check(const std::string& source) {
    std::set<std::string> known;
    for (const Parameter& parameter : table_.parameters()) {
      known.insert(parameter.name);
      const auto it = tensors_.find(parameter.name);
      if (it == tensors_.end()) {
        if (parameter.optional) continue;
        return absl::InvalidArgumentError(absl::StrCat(source, ": tensor \"", parameter.name, "\" ",
                                                       ShapeText(parameter.shape),
                                                       " expected, none found"));
      }
      if (!SameShape(it->second.shape, parameter.shape)) {
        return absl::InvalidArgumentError(absl::StrCat(
            source, ": tensor \"", parameter.name, "\": shape ", ShapeText(it->second.shape),
            " found, ", ShapeText(parameter.shape), " expected"));
      }
    }
    for (const auto& [name, tensor] : tensors_) {
      if (!known.contains(name) && !IsLeftover(name)) {
        return absl::InvalidArgumentError(
            absl::StrCat(source, ": tensor \"", name.substr(0, 200), "\" ", ShapeText(tensor.shape),
                         " found, but a model of this configuration has none of that name"));
      }
    }
    ChooseNativeType();
    TakeFingerprint();
    return absl::OkStatus();
  }

  bool Has(const Parameter& parameter) const override { return tensors_.contains(parameter.name); }

  void Read(const Parameter& parameter, int64_t row_begin, int64_t row_end,
            absl::Span<float> out) const override {
    const int64_t width = RowNumbers(parameter);
    for (int64_t row = row_begin; row < row_end; ++row) {
      ReadRows(parameter, SourceRow(parameter, row), 1, out.data() + (row - row_begin) * width);
    }
  }

  void ReadBFloat16(const Parameter& parameter, int64_t row_begin, int64_t row_end,
                    absl::Span<uint16_t> out) const override {
    const int64_t width = RowNumbers(parameter);
    const StoredTensor& tensor = tensors_.at(parameter.name);
    std::vector<float> wide(width);
    for (int64_t row = row_begin; row < row_end; ++row) {
      uint16_t* to = out.data() + (row - row_begin) * width;
      if (tensor.type == StorageType::kBFloat16) {  // as they are
        std::memcpy(to, tensor.data.data() + SourceRow(parameter, row) * width * 2, width * 2);
        continue;
      }
      ReadRows(parameter, SourceRow(parameter, row), 1, wide.data());
      for (int64_t i = 0; i < width; ++i) to[i] = RoundToBFloat16(wide[i]);
    }
  }

 private:
  static std::string ShapeText(const std::vector<int64_t>& shape) {
    return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
  }

  // Sizes of one do not count: [heads] and [heads, 1], [channels, 1, W] and [channels, W] are the
  // same numbers.
  static bool SameShape(const std::vector<int64_t>& a, const std::vector<int64_t>& b) {
    const auto essence = [](const std::vector<int64_t>& shape) {
      std::vector<int64_t> out;
      std::copy_if(shape.begin(), shape.end(), std::back_inserter(out),
                   [](int64_t size) { return size != 1; });
      return out;
    };
    return essence(a) == essence(b);
  }

  // llama.cpp stores query and key rows in the interleaved rotary order (2i, 2i + 1 rotate
  // together); ours rotates halves.
  int64_t SourceRow(const Parameter& parameter, int64_t row) const {
    const bool rotary =
        parameter.role == Role::kAttentionQuery || parameter.role == Role::kAttentionKey;
    if (config_.layout != Layout::kGguf || !rotary) return row;
    const int64_t width = config_.attention.head_width, half = width / 2;
    const int64_t head = row / width, in_head = row % width;
    return head * width + (in_head < half ? 2 * in_head : 2 * (in_head - half) + 1);
  }

  void ReadRows(const Parameter& parameter, int64_t row, int64_t rows, float* out) const {
    const StoredTensor& tensor = tensors_.at(parameter.name);
    const int64_t width = RowNumbers(parameter);
    const StorageBlock block = BlockOf(tensor.type);
    Dequantise(tensor.type, tensor.data.data() + row * width / block.numbers * block.bytes,
               rows * width, out);
    if (config_.layout == Layout::kGguf &&
        parameter.role == Role::kMambaALog) {  // the file holds A = -exp(A_log)
      for (int64_t i = 0; i < rows * width; ++i)
        out[i] = static_cast<float>(std::log(-static_cast<double>(out[i])));
    }
  }

  void ChooseNativeType() {
    std::map<StorageType, int64_t> numbers;
    for (const Parameter& parameter : table_.parameters()) {
      if (parameter.keep_float32 || !Has(parameter)) continue;
      numbers[tensors_.at(parameter.name).type] += parameter.shape[0] * RowNumbers(parameter);
    }
    int64_t most = -1;
    for (const auto& [type, count] : numbers) {
      if (count > most) {
        most = count;
        native_type_ = type;
      }
    }
  }

  // Names, shapes, types and up to 4 KiB at both ends of every tensor.
  void TakeFingerprint() {
    constexpr size_t kSample = 4096;
    Fingerprint sum;
    for (const auto& [name, tensor] : tensors_) {
      sum.Add(absl::StrCat(name, ShapeText(tensor.shape), StorageTypeName(tensor.type)));
      sum.Add(tensor.data.subspan(0, std::min(kSample, tensor.data.size())));
      sum.Add(tensor.data.subspan(tensor.data.size() - std::min(kSample, tensor.data.size())));
    }
    fingerprint_ = sum.Digits();
  }

  std::vector<MappedFile> files_;
  std::map<std::string, StoredTensor> tensors_;
};

absl::StatusOr<std::unique_ptr<const Checkpoint>> OpenGguf(const std::string& path) {
  absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<GgufFile> gguf = ParseGguf(path, file->bytes());
  if (!gguf.ok()) return gguf.status();
  ModelConfig config;
  TextFiles text;
  if (absl::Status status = ReadGgufConfig(path, *gguf, &config, &text); !status.ok())
    return status;
  std::vector<MappedFile> files;
  files.push_back(*std::move(file));
  ParameterTable table(config);
  auto checkpoint =
      std::make_unique<MappedCheckpoint>(std::move(config), std::move(table), std::move(files),
                                         std::move(gguf->tensors), std::move(text));
  if (absl::Status status = checkpoint->Check(path); !status.ok()) return status;
  return checkpoint;
}

// The shards that an index names: plain file names in the directory, each once, whatever points at
// them.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  absl::StatusOr<nlohmann::json> index = ReadJsonFile(path);
  if (!index.ok()) return index.status();
  const auto map = index->find("weight_map");
  if (map == index->end() || !map->is_object() || map->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": \"weight_map\" must name a file for every tensor"));
  }
  std::map<std::string, std::string> files;
  for (const auto& [tensor, file] : map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    const bool plain = !name.empty() && name.find('/') == std::string::npos && name[0] != '.' &&
                       absl::EndsWith(absl::string_view(name), ".safetensors");
    if (!plain) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": weight_map: \"", tensor.substr(0, 100),
                       "\": a .safetensors file name without a path expected"));
    }
    files[tensor] = name;
  }
  return files;
}

absl::Status AddFile(const std::string& path, std::vector<MappedFile>& files,
                     std::map<std::string, StoredTensor>& tensors,
                     std::map<std::string, std::string>* origin, const std::string& name) {
  absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<std::map<std::string, StoredTensor>> parsed =
      ParseSafetensors(path, file->bytes());
  if (!parsed.ok()) return parsed.status();
  files.push_back(*std::move(file));
  for (auto& [tensor, stored] : *parsed) {
    if (!tensors.emplace(tensor, std::move(stored)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tensor \"", tensor, "\" stands in another file too"));
    }
    (*origin)[tensor] = name;
  }
  return absl::OkStatus();
}

absl::Status OpenTensors(const std::string& directory, std::vector<MappedFile>& files,
                         std::map<std::string, StoredTensor>& tensors) {
  struct stat info;
  std::map<std::string, std::string> origin;
  const std::string index_path = absl::StrCat(directory, "/model.safetensors.index.json");
  if (stat(index_path.c_str(), &info) != 0) {
    const std::string path = absl::StrCat(directory, "/model.safetensors");
    if (stat(path.c_str(), &info) != 0) {
      return absl::NotFoundError(
          absl::StrCat(directory,
                       ": no model.safetensors and no model.safetensors.index.json (a "
                       "pytorch_model.bin is converted first)"));
    }
    return AddFile(path, files, tensors, &origin, "model.safetensors");
  }
  absl::StatusOr<std::map<std::string, std::string>> index = ReadIndex(index_path);
  if (!index.ok()) return index.status();
  std::set<std::string> names;
  for (const auto& [tensor, name] : *index) names.insert(name);
  if (names.size() > kMaxShards) {
    return absl::InvalidArgumentError(
        absl::StrCat(index_path, ": ", names.size(), " files, at most ", kMaxShards));
  }
  for (const std::string& name : names) {
    const absl::Status status =
        AddFile(absl::StrCat(directory, "/", name), files, tensors, &origin, name);
    if (!status.ok()) return status;
  }
  for (const auto& [tensor, name] : *index) {
    const auto it = origin.find(tensor);
    if (it == origin.end() || it->second != name) {
      return absl::InvalidArgumentError(
          absl::StrCat(index_path, ": tensor \"", tensor.substr(0, 200), "\" expected in ", name,
                       ", found ", it == origin.end() ? "nowhere" : it->second));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<nlohmann::json> OptionalJson(const std::string& path) {
  absl::StatusOr<nlohmann::json> json = ReadJsonFile(path);
  if (absl::IsNotFound(json.status())) return nlohmann::json();
  return json;
}

absl::StatusOr<std::unique_ptr<const Checkpoint>> OpenDirectory(const std::string& directory) {
  std::vector<MappedFile> files;
  std::map<std::string, StoredTensor> tensors;
  ConfigFiles config_files;
  config_files.directory = directory;
  absl::StatusOr<nlohmann::json> json = ReadJsonFile(absl::StrCat(directory, "/config.json"));
  if (!json.ok()) return json.status();
  config_files.config = *std::move(json);
  json = OptionalJson(absl::StrCat(directory, "/mamba_config.json"));
  if (!json.ok()) return json.status();
  config_files.mamba_config = *std::move(json);
  json = OptionalJson(absl::StrCat(directory, "/generation_config.json"));
  if (!json.ok()) return json.status();
  config_files.generation_config = *std::move(json);
  if (absl::Status status = OpenTensors(directory, files, tensors); !status.ok()) return status;

  TensorShapes shapes;
  for (const auto& [name, tensor] : tensors) shapes[name] = tensor.shape;
  absl::StatusOr<ModelConfig> config = ReadModelConfig(config_files, shapes);
  if (!config.ok()) return config.status();
  ParameterTable table(*config);
  TextFiles text;
  text.directory = directory;
  auto checkpoint = std::make_unique<MappedCheckpoint>(
      *std::move(config), std::move(table), std::move(files), std::move(tensors), std::move(text));
  if (absl::Status status = checkpoint->Check(directory); !status.ok()) return status;
  return checkpoint;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Checkpoint>> Checkpoint::Open(const std::string& path) {
  struct stat info;
  if (path.empty()) return absl::InvalidArgumentError("model: no path given");
  if (stat(path.c_str(), &info) != 0)
    return absl::NotFoundError(absl::StrCat(path, ": no such file or directory"));
  if (S_ISDIR(info.st_mode)) return OpenDirectory(path);
  if (absl::EndsWith(absl::string_view(path), ".gguf")) return OpenGguf(path);
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": a model directory or a .gguf file expected"));
}

}  // namespace mambad::checkpoint
