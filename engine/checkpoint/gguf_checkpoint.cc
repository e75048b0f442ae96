#include "engine/checkpoint/gguf_checkpoint.h"

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "engine/checkpoint/directory_contents.h"
#include "engine/checkpoint/error_text.h"
#include "engine/checkpoint/gguf.h"
#include "engine/checkpoint/gguf_config.h"
#include "engine/checkpoint/mapped_checkpoint.h"

namespace mambad::checkpoint {
namespace {

// The architecture's own values as text: the tokenizer, the model's name and how it is cut into
// files are no part of its identity.
std::string Identity(const GgufFile& file) {
  std::string text;
  for (const auto& [key, value] : file.metadata) {
    const bool foreign = absl::StartsWith(key, "general.") || absl::StartsWith(key, "split.") ||
                         absl::StartsWith(key, "tokenizer.") || absl::StartsWith(key, "quantize.");
    if (foreign && key != "general.architecture") continue;
    if (const std::optional<double> number = GgufNumber(value)) {
      absl::StrAppend(&text, key, "=", *number, ";");
    } else if (const auto* words = std::get_if<std::string>(&value)) {
      absl::StrAppend(&text, key, "=", *words, ";");
    } else if (const auto numbers = GgufNumbers(value)) {
      absl::StrAppend(&text, key, "=", absl::StrJoin(*numbers, ","), ";");
    }
  }
  return text;
}

// What a part says of the set that it belongs to: split.no, split.count, split.tensors.count.
struct Split {
  int64_t number = 0;  // from 0
  int64_t count = 1;
  int64_t tensors = -1;  // of the whole model; -1: not said
};

Split SplitOf(const GgufFile& file) {
  const auto number = [&](const char* key, int64_t absent) {
    constexpr double kMost = 1 << 30;
    const auto it = file.metadata.find(key);
    const std::optional<double> value =
        it == file.metadata.end() ? std::nullopt : GgufNumber(it->second);
    return value.has_value() && *value >= 0 && *value <= kMost ? static_cast<int64_t>(*value)
                                                               : absent;
  };
  return {number("split.no", 0), std::max<int64_t>(1, number("split.count", 1)),
          number("split.tensors.count", -1)};
}

absl::StatusOr<GgufFile> AddFile(const std::string& path, CheckpointParts& parts) {
  absl::StatusOr<MappedFile> mapped = MappedFile::Open(path);
  if (!mapped.ok()) return mapped.status();
  absl::StatusOr<GgufFile> file = ParseGguf(path, mapped->bytes());
  if (!file.ok()) return file.status();
  const int number = static_cast<int>(parts.files.size());
  parts.files.push_back(*std::move(mapped));
  for (auto& [name, tensor] : file->tensors) {
    tensor.file = number;
    const auto [it, added] = parts.tensors.emplace(name, tensor);
    if (!added) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": tensor ", Quoted(name), " stands in ",
                                                     parts.files[it->second.file].path(), " too"));
    }
  }
  return file;
}

// Where the parts of the set lie, by the name of one of them.
absl::StatusOr<std::vector<std::string>> PartPaths(const std::string& path, const Split& split) {
  const size_t name_begin = path.rfind('/') + 1;
  const std::optional<PartName> name = ParsePartName(path.substr(name_begin), ".gguf");
  if (!name.has_value() || name->count != split.count || name->number != split.number + 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: part %d of %d of a split model: a name ending in -%05d-of-%05d.gguf "
                        "expected, by which "
                        "the other parts are found beside it",
                        path, split.number + 1, split.count, split.number + 1, split.count));
  }
  std::vector<std::string> paths;
  for (int i = 1; i <= name->count; ++i) {
    paths.push_back(path.substr(0, name_begin) + name->Name(i));
  }
  return paths;
}

// Opens every part and gives the first one's metadata, which is the model's.
absl::StatusOr<GgufFile> AddParts(const std::string& path, const Split& split,
                                  CheckpointParts& parts) {
  const absl::StatusOr<std::vector<std::string>> paths = PartPaths(path, split);
  if (!paths.ok()) return paths.status();
  absl::StatusOr<GgufFile> first;
  for (size_t i = 0; i < paths->size(); ++i) {
    const std::string& part = (*paths)[i];
    absl::StatusOr<GgufFile> file = AddFile(part, parts);
    if (absl::IsNotFound(file.status())) {
      return absl::NotFoundError(absl::StrCat(part, ": missing, part ", i + 1, " of ", split.count,
                                              " of the model in ", path, ": download it too"));
    }
    if (!file.ok()) return file.status();
    const Split found = SplitOf(*file);
    if (found.count != split.count || found.number != static_cast<int64_t>(i) ||
        found.tensors != split.tensors) {
      return absl::InvalidArgumentError(
          absl::StrCat(part, ": part ", found.number + 1, " of ", found.count, " of a model of ",
                       found.tensors, " tensors found, part ", i + 1, " of ", split.count, " of ",
                       split.tensors, " expected: it belongs to another model than ", path));
    }
    if (i == 0) first = std::move(file);
  }
  const int64_t tensors = static_cast<int64_t>(parts.tensors.size());
  if (split.tensors >= 0 && tensors != split.tensors) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", tensors, " tensors found in its ",
                                                   split.count, " parts, ", split.tensors,
                                                   " expected (split.tensors.count)"));
  }
  return first;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Checkpoint>> OpenGgufFile(const std::string& path) {
  CheckpointParts parts;
  parts.path = path;
  absl::StatusOr<GgufFile> gguf = AddFile(path, parts);
  if (!gguf.ok()) return gguf.status();
  if (const Split split = SplitOf(*gguf); split.count > 1) {
    parts.files.clear();
    parts.tensors.clear();
    gguf = AddParts(path, split, parts);
    if (!gguf.ok()) return gguf.status();
    gguf->tensors = parts.tensors;
  }
  const absl::Status status = ReadGgufConfig(path, *gguf, &parts.config, &parts.text);
  if (!status.ok()) return status;
  parts.identity = Identity(*gguf);
  return MappedCheckpoint::Create(std::move(parts));
}

}  // namespace mambad::checkpoint
