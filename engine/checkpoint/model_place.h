// What a path that somebody gave leads to: told by contents, not by names.

#ifndef MAMBAD_ENGINE_CHECKPOINT_MODEL_PLACE_H_
#define MAMBAD_ENGINE_CHECKPOINT_MODEL_PLACE_H_

#include <string>

#include "absl/status/statusor.h"

namespace mambad::checkpoint {

struct ModelPlace {
  bool gguf = false;  // else a directory with a config.json
  std::string path;   // of the GGUF file (of a split one: of any part) or of the directory
};

// A GGUF file under any name; a directory with config.json and safetensors, or with one GGUF model
// and nothing else to serve; config.json itself, the index or a safetensors file of such a
// directory: the directory. Anything else is an error that says what was found there, and the way
// to what is wanted: a repository's name (how to download it), a folder of model parts, adapters, a
// folder above or below the model's, web pages and Git LFS pointers in a file's place, archives.
// NOT_FOUND, PERMISSION_DENIED or INVALID_ARGUMENT, beginning with the path.
absl::StatusOr<ModelPlace> FindModel(const std::string& path);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_MODEL_PLACE_H_
