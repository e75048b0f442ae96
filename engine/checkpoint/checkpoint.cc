#include "engine/checkpoint/checkpoint.h"

#include "engine/checkpoint/gguf_checkpoint.h"
#include "engine/checkpoint/model_directory.h"
#include "engine/checkpoint/model_place.h"

namespace mambad::checkpoint {

absl::StatusOr<std::unique_ptr<const Checkpoint>> Checkpoint::Open(const std::string& path) {
  const absl::StatusOr<ModelPlace> place = FindModel(path);
  if (!place.ok()) return place.status();
  return place->gguf ? OpenGgufFile(place->path) : OpenModelDirectory(place->path);
}

}  // namespace mambad::checkpoint
