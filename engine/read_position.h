// How far a model has read a text.

#ifndef MAMBAD_ENGINE_READ_POSITION_H_
#define MAMBAD_ENGINE_READ_POSITION_H_

#include <cstdint>

namespace mambad {

// How far one model has read a sequence: `fed` tokens. All but the last `replay` of them are in the
// checkpoint, those wait in the replay rows (kernels/backend.h).
struct ReadPosition {
  int64_t fed = 0;
  int replay = 0;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_READ_POSITION_H_
