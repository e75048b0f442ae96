// The code books of the importance-matrix types IQ1 to IQ3: numbers of the formats, not ours to
// choose.

#ifndef MAMBAD_ENGINE_CHECKPOINT_QUANTISATION_GRIDS_H_
#define MAMBAD_ENGINE_CHECKPOINT_QUANTISATION_GRIDS_H_

#include <cstdint>

namespace mambad::checkpoint {

// An entry is one word. IQ1 and IQ2: eight numbers of 2 bits, IQ3: four of 3 bits, the first
// lowest; each chooses one of the type's magnitudes (see the blocks' readers).
extern const uint16_t kGridIQ1[2048];  // of IQ1_S and IQ1_M
extern const uint16_t kGridIQ2_XXS[256];
extern const uint16_t kGridIQ2_XS[512];
extern const uint16_t kGridIQ2_S[1024];
extern const uint16_t kGridIQ3_XXS[256];
extern const uint16_t kGridIQ3_S[512];

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_QUANTISATION_GRIDS_H_
