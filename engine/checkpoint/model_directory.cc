#include "engine/checkpoint/model_directory.h"

#include <sys/stat.h>

#include <cerrno>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/checkpoint/error_text.h"
#include "engine/checkpoint/json_file.h"
#include "engine/checkpoint/mapped_checkpoint.h"
#include "engine/checkpoint/model_config_reader.h"

namespace mambad::checkpoint {
namespace {

constexpr size_t kMaxShards = 4096;
constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

bool Exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 || errno != ENOENT;
}

// A file's name alone: an index must not reach out of its directory.
bool IsPlainName(const std::string& name) {
  return !name.empty() && name.find('/') == std::string::npos &&
         name.find('\0') == std::string::npos && name[0] != '.' &&
         absl::EndsWith(absl::string_view(name), ".safetensors");
}

// Tensor -> file.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const std::string& path) {
  absl::StatusOr<nlohmann::json> index = ReadJsonFile(path);
  if (!index.ok()) return index.status();
  const auto map = index->find("weight_map");
  if (map == index->end() || !map->is_object() || map->empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": weight_map: a file for every tensor expected"));
  }
  std::map<std::string, std::string> files;
  std::set<std::string> names;
  for (const auto& [tensor, file] : map->items()) {
    const std::string name = file.is_string() ? file.get<std::string>() : "";
    if (!IsPlainName(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": weight_map: tensor ", Quoted(tensor), ": ", Quoted(name),
                       " found, the name of a .safetensors file beside it expected"));
    }
    files[tensor] = name;
    names.insert(name);
  }
  if (names.size() > kMaxShards) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", names.size(), " files found, at most ", kMaxShards, " expected"));
  }
  return files;
}

absl::Status AddFile(const std::string& path, CheckpointParts& parts) {
  absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<SafetensorsFile> parsed = ParseSafetensors(path, file->bytes());
  if (!parsed.ok()) return parsed.status();
  const int number = static_cast<int>(parts.files.size());
  parts.files.push_back(*std::move(file));
  parts.ignored.merge(parsed->ignored);
  for (auto& [name, tensor] : parsed->tensors) {
    tensor.file = number;
    const auto [it, added] = parts.tensors.emplace(name, std::move(tensor));
    if (!added) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": tensor ", Quoted(name), " stands in ",
                                                     parts.files[it->second.file].path(), " too"));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadShards(const std::string& directory, CheckpointParts& parts) {
  const std::string index_path = absl::StrCat(directory, "/", kIndexFile);
  absl::StatusOr<std::map<std::string, std::string>> index = ReadIndex(index_path);
  if (!index.ok()) return index.status();
  std::set<std::string> names;
  for (const auto& [tensor, name] : *index) names.insert(absl::StrCat(directory, "/", name));
  for (const std::string& path : names) {
    if (absl::Status status = AddFile(path, parts); !status.ok()) return status;
  }
  for (const auto& [tensor, name] : *index) {
    const auto it = parts.tensors.find(tensor);
    if (it == parts.tensors.end()) {
      if (parts.ignored.contains(tensor)) continue;
      return absl::InvalidArgumentError(absl::StrCat(index_path, ": tensor ", Quoted(tensor),
                                                     " expected in ", name, ", not found there"));
    }
    const std::string& found = parts.files[it->second.file].path();
    if (found != absl::StrCat(directory, "/", name)) {
      return absl::InvalidArgumentError(absl::StrCat(index_path, ": tensor ", Quoted(tensor),
                                                     " expected in ", name, ", found in ", found));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadTensors(const std::string& directory, CheckpointParts& parts) {
  if (Exists(absl::StrCat(directory, "/", kIndexFile))) return ReadShards(directory, parts);
  const std::string path = absl::StrCat(directory, "/", kSingleFile);
  if (Exists(path)) return AddFile(path, parts);
  return absl::NotFoundError(absl::StrCat(
      directory, ": ", kSingleFile, " or ", kIndexFile, " expected, neither found",
      Exists(directory + "/pytorch_model.bin") ? " (pytorch_model.bin must be converted first)"
                                               : ""));
}

absl::Status ReadConfigFiles(const std::string& directory, ConfigFiles& files) {
  files.directory = directory;
  const struct {
    const char* name;
    bool required;
    nlohmann::json* json;
  } wanted[] = {{"config.json", true, &files.config},
                {"mamba_config.json", false, &files.mamba_config},
                {"generation_config.json", false, &files.generation_config}};
  for (const auto& [name, required, json] : wanted) {
    absl::StatusOr<nlohmann::json> read = ReadJsonFile(absl::StrCat(directory, "/", name));
    if (absl::IsNotFound(read.status()) && !required) continue;
    if (!read.ok()) return read.status();
    *json = *std::move(read);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Checkpoint>> OpenModelDirectory(const std::string& directory) {
  ConfigFiles files;
  CheckpointParts parts;
  parts.path = directory;
  if (absl::Status status = ReadConfigFiles(directory, files); !status.ok()) return status;
  if (absl::Status status = ReadTensors(directory, parts); !status.ok()) return status;
  TensorShapes shapes;
  for (const auto& [name, tensor] : parts.tensors) shapes[name] = tensor.shape;
  absl::StatusOr<ModelConfig> config = ReadModelConfig(files, shapes);
  if (!config.ok()) return config.status();
  parts.config = *std::move(config);
  parts.text.directory = directory;
  parts.identity = absl::StrCat(files.config.dump(), files.mamba_config.dump());
  return MappedCheckpoint::Create(std::move(parts));
}

}  // namespace mambad::checkpoint
