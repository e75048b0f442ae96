#include "engine/checkpoint/model_place.h"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/checkpoint/directory_contents.h"
#include "engine/checkpoint/error_text.h"
#include "engine/checkpoint/file_kind.h"
#include "engine/checkpoint/json_file.h"

namespace mambad::checkpoint {
namespace {

bool IsDirectory(const std::string& path) {
  struct stat info;
  return stat(path.c_str(), &info) == 0 && S_ISDIR(info.st_mode);
}

// ---- no such path ------------------------------------------------------------------------------

// owner/name, as model hubs call repositories.
bool LooksLikeRepository(const std::string& path) {
  const size_t slash = path.find('/');
  if (slash == std::string::npos || slash == 0 || slash + 1 == path.size() ||
      path.find('/', slash + 1) != std::string::npos || path[0] == '.' || path[0] == '~') {
    return false;
  }
  return std::all_of(path.begin(), path.end(), [](char c) {
    return absl::ascii_isalnum(c) || c == '/' || c == '-' || c == '_' || c == '.';
  });
}

absl::Status NoSuchPath(const std::string& path, int error) {
  const absl::Status status = absl::ErrnoToStatus(error, absl::StrCat(path, ": cannot be opened"));
  std::string advice;
  if (absl::StrContains(path, "://")) {
    advice = "; the path of a local file or directory is expected: download the model first";
  } else if (error != ENOENT) {
    return status;
  } else if (path[0] == '~') {
    advice = "; a shell replaces ~ only at the beginning of a word: give the whole path";
  } else if (LooksLikeRepository(path)) {
    const std::string name = path.substr(path.find('/') + 1);
    advice = absl::StrCat(
        "; the path of a local file or directory is expected. If this is the name of a "
        "repository, download it first (hf download ",
        path, " --local-dir ", name, ", formerly huggingface-cli download) and give ", name);
  }
  return absl::Status(status.code(), absl::StrCat(std::string(status.message()), advice));
}

// ---- directories -------------------------------------------------------------------------------

// The models among GGUF files: projectors of images lie beside the model that they belong to.
std::vector<FileSet> GgufModels(const DirectoryContents& contents) {
  std::vector<FileSet> sets = FileSetsOf(contents.EndingWith(".gguf"), ".gguf");
  const auto is_projector = [](const FileSet& set) {
    return absl::StrContains(
        absl::AsciiStrToLower((set.names.empty() ? set.missing : set.names)[0]), "mmproj");
  };
  if (!std::all_of(sets.begin(), sets.end(), is_projector)) std::erase_if(sets, is_projector);
  return sets;
}

bool IsParts(const DirectoryContents& contents, const std::vector<FileSet>& models) {
  return std::any_of(models.begin(), models.end(), [&](const FileSet& set) {
    return !set.names.empty() &&
           absl::StrContains(FileBeginning(contents.PathOf(set.names[0])), "mambad-parts");
  });
}

// Folders below that could be meant: with a config.json or a GGUF file of their own.
std::vector<std::string> ModelsBelow(const DirectoryContents& contents) {
  constexpr size_t kMostLookedAt = 64;
  std::vector<std::string> found;
  size_t looked = 0;
  for (const std::string& name : contents.names()) {
    if (name[0] == '.' || !IsDirectory(contents.PathOf(name)) || ++looked > kMostLookedAt) continue;
    const auto below = DirectoryContents::Read(contents.PathOf(name));
    if (below.ok() && (below->Has("config.json") || !below->EndingWith(".gguf").empty())) {
      found.push_back(contents.PathOf(name));
    }
  }
  return found;
}

// A directory without config.json and without a GGUF model: what is it, then?
std::string WhatDirectoryIs(const DirectoryContents& contents) {
  if (contents.empty()) return "an empty directory found";
  if (contents.Has("adapter_config.json") || contents.Has("adapter_model.safetensors")) {
    return "an adapter (LoRA) found, no whole model: merge it into its base model first "
           "(merge_and_unload of peft) and give that folder";
  }
  if (contents.Has("snapshots") && contents.Has("refs")) {
    const auto snapshots = DirectoryContents::Read(contents.PathOf("snapshots"));
    const std::string name =
        snapshots.ok() && !snapshots->empty() ? snapshots->names()[0] : std::string("...");
    return absl::StrCat("a download cache's folder of a repository found: give the folder below, ",
                        contents.PathOf("snapshots/"), name);
  }
  if (const std::vector<std::string> below = ModelsBelow(contents); !below.empty()) {
    return absl::StrCat("neither of a model's files found; its folders look like models: ",
                        NamesText(below));
  }
  if (contents.Has("params.json")) {
    return "a model in its maker's own format found (params.json): download the one with "
           "config.json and model.safetensors";
  }
  if (!contents.EndingWith(".safetensors").empty()) {
    return "safetensors found, but no config.json: download it too";
  }
  for (const char* ending : {".bin", ".pt", ".pth"}) {
    if (const auto names = contents.EndingWith(ending); !names.empty()) {
      return absl::StrCat(Quoted(names[0]), " found, but no config.json: download it too");
    }
  }
  if (contents.Has("tokenizer.json") || contents.Has("tokenizer.model")) {
    return "a tokenizer found, but no model";
  }
  return "neither found";
}

absl::StatusOr<ModelPlace> InDirectory(const std::string& path) {
  const absl::StatusOr<DirectoryContents> contents = DirectoryContents::Read(path);
  if (!contents.ok()) return contents.status();
  const bool has_config = contents->Has("config.json");
  if (has_config && !contents->EndingWith(".safetensors").empty()) return ModelPlace{false, path};
  const std::vector<FileSet> models = GgufModels(*contents);
  if (IsParts(*contents, models)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": parts of models found (", NamesText(contents->EndingWith(".gguf")),
        "), which their teacher completes: make a model of them with mambad-models assemble "
        "--teacher FILE --parts FILE --output DIRECTORY, or with deploy/quickstart.sh --chat"));
  }
  if (models.size() == 1 && !models[0].names.empty()) {
    return ModelPlace{true, contents->PathOf(models[0].names[0])};
  }
  if (has_config) return ModelPlace{false, path};  // whose reader says what is missing
  if (models.size() > 1) {
    std::vector<std::string> names;
    for (const FileSet& set : models)
      names.push_back((set.names.empty() ? set.missing : set.names)[0]);
    return absl::InvalidArgumentError(absl::StrCat(
        path, ": ", models.size(), " GGUF models found: name one of ", NamesText(names)));
  }
  return absl::NotFoundError(
      absl::StrCat(path, ": config.json or a GGUF file expected, ", WhatDirectoryIs(*contents)));
}

// ---- files -------------------------------------------------------------------------------------

std::string FolderOf(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

bool HasConfig(const std::string& folder) {
  struct stat info;
  return stat((folder + "/config.json").c_str(), &info) == 0;
}

// Whether the directory's reader takes its tensors from this file: whoever names one must not be
// served another. An index that cannot be read is for that reader to explain.
bool IsServedFrom(const DirectoryContents& contents, const std::string& name) {
  if (contents.Has("model.safetensors")) return name == "model.safetensors";
  constexpr char kIndex[] = "model.safetensors.index.json";
  if (!contents.Has(kIndex))
    return !name.starts_with("consolidated") && !name.starts_with("adapter");
  const absl::StatusOr<nlohmann::json> index = ReadJsonFile(contents.PathOf(kIndex));
  if (!index.ok()) return true;
  const auto map = index->find("weight_map");
  if (map == index->end() || !map->is_object()) return true;
  return std::any_of(map->begin(), map->end(), [&](const nlohmann::json& file) {
    return file == name || file == "./" + name;
  });
}

// A file of a model directory stands for the directory.
absl::StatusOr<ModelPlace> OfADirectory(const std::string& path, FileKind kind) {
  const std::string folder = FolderOf(path), name = path.substr(path.rfind('/') + 1);
  if (!HasConfig(folder)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", WhatFileIs(kind),
                     "; a model directory with config.json beside its weights, or a GGUF file, is "
                     "expected"));
  }
  if (kind == FileKind::kJson) return ModelPlace{false, folder};
  const absl::StatusOr<DirectoryContents> contents = DirectoryContents::Read(folder);
  if (!contents.ok()) return contents.status();
  if (!IsServedFrom(*contents, name)) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": not among the files of weights that the directory ", Quoted(folder),
                     " is served from: give the directory, or put this file into one of its own as "
                     "model.safetensors, with its config.json"));
  }
  return ModelPlace{false, folder};
}

absl::StatusOr<ModelPlace> AtFile(const std::string& path) {
  const absl::StatusOr<std::string> beginning = ReadFileBeginning(path);
  if (!beginning.ok()) return beginning.status();
  const FileKind kind =
      RecogniseFile({reinterpret_cast<const std::byte*>(beginning->data()), beginning->size()});
  if (kind == FileKind::kGguf) return ModelPlace{true, path};
  if (kind == FileKind::kSafetensors || kind == FileKind::kJson) return OfADirectory(path, kind);
  const std::string what = WhatFileIs(kind);
  return absl::InvalidArgumentError(absl::StrCat(
      path, ": a model directory or a GGUF file expected", what.empty() ? "" : ", ", what));
}

}  // namespace

absl::StatusOr<ModelPlace> FindModel(const std::string& path) {
  if (path.empty()) return absl::InvalidArgumentError("model: no path given");
  struct stat info;
  if (stat(path.c_str(), &info) != 0) return NoSuchPath(path, errno);
  return S_ISDIR(info.st_mode) ? InDirectory(path) : AtFile(path);
}

}  // namespace mambad::checkpoint
