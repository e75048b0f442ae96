// Inverse frequencies of rotary position embedding, scaling applied.

#ifndef MAMBAD_ENGINE_CHECKPOINT_ROPE_FREQUENCIES_H_
#define MAMBAD_ENGINE_CHECKPOINT_ROPE_FREQUENCIES_H_

#include <vector>

#include "engine/checkpoint/model_config.h"

namespace mambad::checkpoint {

// [head_width / 2]: theta^(-2i/head_width); `linear` divides by the factor; `llama3` divides low
// frequencies by it, keeps high ones and blends between (Llama 3.1's rule, by wavelength against
// the original context).
std::vector<float> InverseFrequencies(const RopeConfig& rope, int head_width);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_ROPE_FREQUENCIES_H_
