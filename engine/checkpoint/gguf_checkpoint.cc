#include "engine/checkpoint/gguf_checkpoint.h"

#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/checkpoint/gguf.h"
#include "engine/checkpoint/gguf_config.h"
#include "engine/checkpoint/mapped_checkpoint.h"

namespace mambad::checkpoint {
namespace {

// The architecture's own numbers as text; the tokenizer is no part of the weights' identity.
std::string Identity(const GgufFile& file) {
  std::string text;
  for (const auto& [key, value] : file.metadata) {
    if (absl::StartsWith(key, "general.") && key != "general.architecture") continue;
    if (const int64_t* number = std::get_if<int64_t>(&value)) {
      absl::StrAppend(&text, key, "=", *number, ";");
    } else if (const double* number = std::get_if<double>(&value)) {
      absl::StrAppend(&text, key, "=", *number, ";");
    }
  }
  return text;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Checkpoint>> OpenGgufFile(const std::string& path) {
  absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  absl::StatusOr<GgufFile> gguf = ParseGguf(path, file->bytes());
  if (!gguf.ok()) return gguf.status();
  CheckpointParts parts;
  parts.path = path;
  const absl::Status status = ReadGgufConfig(path, *gguf, &parts.config, &parts.text);
  if (!status.ok()) return status;
  parts.files.push_back(*std::move(file));
  parts.identity = Identity(*gguf);
  parts.tensors = std::move(gguf->tensors);
  return MappedCheckpoint::Create(std::move(parts));
}

}  // namespace mambad::checkpoint
