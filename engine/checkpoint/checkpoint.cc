#include "engine/checkpoint/checkpoint.h"

#include <sys/stat.h>

#include <cerrno>

#include "absl/status/status.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/checkpoint/gguf_checkpoint.h"
#include "engine/checkpoint/model_directory.h"

namespace mambad::checkpoint {

absl::StatusOr<std::unique_ptr<const Checkpoint>> Checkpoint::Open(const std::string& path) {
  if (path.empty()) return absl::InvalidArgumentError("model: no path given");
  struct stat info;
  if (stat(path.c_str(), &info) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat(path, ": cannot be opened"));
  }
  if (S_ISDIR(info.st_mode)) return OpenModelDirectory(path);
  if (absl::EndsWith(path, ".gguf")) return OpenGgufFile(path);
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": a model directory or a .gguf file expected"));
}

}  // namespace mambad::checkpoint
