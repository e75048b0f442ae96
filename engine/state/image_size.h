// Bytes of a state's image (engine/state/state_pool.h), out of how far a model has read. Plain
// numbers; any thread.

#ifndef MAMBAD_ENGINE_STATE_IMAGE_SIZE_H_
#define MAMBAD_ENGINE_STATE_IMAGE_SIZE_H_

#include <cstdint>
#include <string>

#include "kernels/backend.h"

namespace mambad {

struct ImageSize {
  int64_t fixed = 0;       // checkpoints and inputs before the convolution
  int64_t replay_row = 0;  // of all layers
  int64_t page = 0;        // of all layers; 0: no attention layers
  int replay_rows = 0;     // that there may be
  // Tells images apart that other layers, or layers of another layout, have made.
  std::string layout;

  // Of a model that has read `fed` tokens, the last `replay` of which wait in replay rows.
  int64_t Bytes(int64_t fed, int replay) const {
    const int64_t pages = (fed + kernels::kPageTokens - 1) / kernels::kPageTokens;
    return fixed + replay * replay_row + pages * page;
  }
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_STATE_IMAGE_SIZE_H_
