#include "engine/checkpoint/model_directory.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "engine/checkpoint/directory_contents.h"
#include "engine/checkpoint/error_text.h"
#include "engine/checkpoint/file_kind.h"
#include "engine/checkpoint/json_file.h"
#include "engine/checkpoint/mapped_checkpoint.h"
#include "engine/checkpoint/model_config_reader.h"
#include "engine/checkpoint/quantised_model.h"
#include "engine/checkpoint/tensor_names.h"

namespace mambad::checkpoint {
namespace {

constexpr size_t kMaxShards = 4096;
constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

bool Exists(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 || errno != ENOENT;
}

// A file beside the index or in folders below: an index must not reach out of its directory, nor
// into what is hidden there.
bool IsBelow(const std::string& name) {
  const std::vector<std::string> steps = absl::StrSplit(name, '/');
  return name.find('\0') == std::string::npos && absl::EndsWith(name, ".safetensors") &&
         std::none_of(steps.begin(), steps.end(),
                      [](const std::string& step) { return step.empty() || step[0] == '.'; });
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
    const std::string given = file.is_string() ? file.get<std::string>() : "";
    const std::string name(absl::StripPrefix(given, "./"));
    if (!IsBelow(name)) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": weight_map: tensor ", Quoted(tensor), ": ", Quoted(given),
                       " found, the name of a .safetensors file beside it or below expected"));
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
  if (!parsed.ok()) return Explained(parsed.status(), path);
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
    const absl::Status status = AddFile(path, parts);
    if (absl::IsNotFound(status)) {
      return absl::NotFoundError(absl::StrCat(path, ": missing, one of ", names.size(),
                                              " files that ", index_path,
                                              " names: download it too"));
    }
    if (!status.ok()) return status;
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

// What lies there in place of safetensors, and the way to them.
std::string WhatIsThere(const DirectoryContents& contents) {
  for (const char* ending : {".part", ".incomplete", ".crdownload", ".aria2", ".tmp"}) {
    if (const auto names = contents.EndingWith(ending); !names.empty()) {
      return absl::StrCat("; an unfinished download found: ", NamesText(names));
    }
  }
  if (const auto names = contents.EndingWith(".xml"); !names.empty()) {  // whose weights are .bin
    return absl::StrCat("; ", NamesText(names),
                        " found, an OpenVINO model, which is not read: download the model as "
                        "safetensors");
  }
  for (const char* ending : {".bin", ".pt", ".pth"}) {
    const auto names = contents.EndingWith(ending);
    if (names.empty()) continue;
    return absl::StrCat("; ", NamesText(names), " found: PyTorch checkpoints must be converted ",
                        "first: trainer convert --config FILE with the lines \"input: ",
                        contents.path(), "\" and \"output: DIRECTORY\"");
  }
  if (contents.Has("adapter_config.json")) {
    return "; an adapter (LoRA) found: merge it into its base model first (merge_and_unload of "
           "peft)";
  }
  for (const char* ending : {".h5", ".msgpack", ".onnx", ".npz", ".ckpt"}) {
    if (const auto names = contents.EndingWith(ending); !names.empty()) {
      return absl::StrCat("; ", NamesText(names),
                          " found, which is not read: download the model as safetensors");
    }
  }
  const std::vector<FileSet> ggufs = FileSetsOf(contents.EndingWith(".gguf"), ".gguf");
  if (!ggufs.empty()) {
    return absl::StrCat("; GGUF files found: name one of ",
                        NamesText(contents.EndingWith(".gguf")));
  }
  return "; a configuration without weights found: download them too";
}

// Neither model.safetensors nor an index: shards without their index, a variant such as
// model.fp16.safetensors, or any other name, as long as there is no doubt.
absl::Status ReadOtherNames(const std::string& directory, CheckpointParts& parts) {
  const absl::StatusOr<DirectoryContents> contents = DirectoryContents::Read(directory);
  if (!contents.ok()) return contents.status();
  std::vector<std::string> names = contents->EndingWith(".safetensors");
  const bool own_format = contents->Has("consolidated.safetensors");
  std::erase_if(names, [](const std::string& name) {
    return name.starts_with("consolidated") || name.starts_with("adapter");
  });
  const std::vector<FileSet> sets = FileSetsOf(names, ".safetensors");
  if (sets.empty()) {
    return absl::NotFoundError(absl::StrCat(
        directory, ": ", kSingleFile, " or ", kIndexFile, " expected, neither found",
        own_format ? "; consolidated.safetensors is in its maker's own format: download the "
                     "model's other safetensors"
                   : WhatIsThere(*contents)));
  }
  if (sets.size() > 1) {
    return absl::InvalidArgumentError(absl::StrCat(directory, ": ", kSingleFile, " or ", kIndexFile,
                                                   " expected, found ", NamesText(names),
                                                   ": leave one model's files there"));
  }
  if (!sets[0].missing.empty()) {
    return absl::NotFoundError(absl::StrCat(directory, ": ", NamesText(sets[0].missing),
                                            " missing beside ", NamesText(sets[0].names),
                                            ": download it too"));
  }
  for (const std::string& name : sets[0].names) {
    const absl::Status status = AddFile(contents->PathOf(name), parts);
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

// A whole file wins over an index, as in the original library: indices stay behind where a model
// was put together.
absl::Status ReadTensors(const std::string& directory, CheckpointParts& parts) {
  const std::string path = absl::StrCat(directory, "/", kSingleFile);
  if (Exists(path)) return AddFile(path, parts);
  if (Exists(absl::StrCat(directory, "/", kIndexFile))) return ReadShards(directory, parts);
  return ReadOtherNames(directory, parts);
}

// The names that the layout has for them.
template <typename Value>
void Rename(const std::map<std::string, std::string>& names, std::map<std::string, Value>& things) {
  for (const auto& [from, to] : names) {
    if (auto node = things.extract(from); !node.empty()) {
      node.key() = to;
      things.insert(std::move(node));
    }
  }
}

std::set<std::string> NamesOf(const CheckpointParts& parts) {
  std::set<std::string> names;
  for (const auto& [name, tensor] : parts.tensors) names.insert(name);
  for (const auto& [name, type] : parts.ignored) names.insert(name);
  return names;
}

// A hybrid's config.json is that of the Transformer it was made of.
absl::Status CheckForHybrid(const ConfigFiles& files, const std::set<std::string>& names) {
  if (!files.mamba_config.is_null()) return absl::OkStatus();
  for (const std::string& name : names) {
    if (!name.starts_with("model.layers.") || !absl::StrContains(name, ".mamba.")) continue;
    return absl::NotFoundError(absl::StrCat(
        files.directory, "/mamba_config.json: missing: tensor ", Quoted(name),
        " is of a hybrid, whose Mamba layers that file describes: copy it from where the model "
        "came from"));
  }
  return absl::OkStatus();
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
    if (!read.ok()) return Explained(read.status(), absl::StrCat(directory, "/", name));
    *json = *std::move(read);
  }
  return absl::OkStatus();
}

// A head that stands beside the embedding that it is tied to is left out. Where the two differ,
// some loaders take it all the same, so this is told.
void WarnOfAnotherHead(const std::string& source, const CheckpointParts& parts,
                       ModelConfig& config) {
  if (!config.tied_head) return;
  const auto head = parts.tensors.find("lm_head.weight");
  if (head == parts.tensors.end()) return;
  const ParameterTable table(config);
  const auto embedding = parts.tensors.find(table.Find(Role::kEmbedding, -1)->name);
  if (embedding == parts.tensors.end()) return;
  // Trained tensors differ at once; equal ones need not be read to their end.
  static constexpr size_t kCompared = 1 << 20;
  const auto beginning = [](const StoredTensor& tensor) {
    return tensor.data.first(std::min(kCompared, tensor.data.size()));
  };
  if (head->second.type == embedding->second.type &&
      beginning(head->second) == beginning(embedding->second)) {
    return;
  }
  config.warnings.push_back(absl::StrCat(
      source, ": tensor \"lm_head.weight\" is left out: it differs from ", Quoted(embedding->first),
      ", to which the head is tied; if it is the model's head, say \"tie_word_embeddings\": "
      "false"));
}

}  // namespace

absl::Status SettleTensors(const ConfigFiles& files, CheckpointParts& parts) {
  const std::map<std::string, std::string> renamed = LayoutNames(NamesOf(parts), files.config);
  Rename(renamed, parts.tensors);
  Rename(renamed, parts.ignored);
  const std::set<std::string> names = NamesOf(parts);
  if (absl::Status status = RefuseQuantised(files.directory, files.config, names); !status.ok()) {
    return status;
  }
  return CheckForHybrid(files, names);
}

absl::StatusOr<std::unique_ptr<const Checkpoint>> OpenModelDirectory(const std::string& directory) {
  ConfigFiles files;
  CheckpointParts parts;
  parts.path = directory;
  if (absl::Status status = ReadConfigFiles(directory, files); !status.ok()) return status;
  if (absl::Status status = ReadTensors(directory, parts); !status.ok()) return status;
  if (absl::Status status = SettleTensors(files, parts); !status.ok()) return status;
  TensorShapes shapes;
  for (const auto& [name, tensor] : parts.tensors) shapes[name] = tensor.shape;
  absl::StatusOr<ModelConfig> config = ReadModelConfig(files, shapes);
  if (!config.ok()) return config.status();
  WarnOfAnotherHead(absl::StrCat(directory, "/config.json"), parts, *config);
  parts.config = *std::move(config);
  parts.text.directory = directory;
  parts.identity = absl::StrCat(files.config.dump(), files.mamba_config.dump());
  return MappedCheckpoint::Create(std::move(parts));
}

}  // namespace mambad::checkpoint
