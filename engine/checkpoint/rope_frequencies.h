// Inverse frequencies of rotary position embedding, scaling applied.

#ifndef MAMBAD_ENGINE_CHECKPOINT_ROPE_FREQUENCIES_H_
#define MAMBAD_ENGINE_CHECKPOINT_ROPE_FREQUENCIES_H_

#include <vector>

#include "engine/checkpoint/model_config.h"

namespace mambad::checkpoint {

// [head_width / 2]: theta^(-2i/head_width); `linear` divides by the factor; `llama3` divides low
// frequencies by it, keeps high ones and blends between (Llama 3.1's rule, by wavelength against
// the original context); `yarn` does the same by dimension, between those that turn beta_fast and
// beta_slow times within the original context (arXiv 2309.00071, section 3.2); `dynamic` leaves
// them as they are up to the original context.
//
// `dynamic` (NTK by length) beyond it: position p >= original_context turns by frequencies of the
// base theta (factor (p + 1) / original_context - (factor - 1))^(head_width / (head_width - 2)). A
// function of the position alone, so that nothing else can change an answer. It is what
// transformers gives every token that it generates, and every prompt that fits the original
// context. A longer prompt read at once is turned by its whole length there, which then differs
// from the same prompt read in pieces; here both are the same.
std::vector<float> InverseFrequencies(const RopeConfig& rope, int head_width);

// YaRN's factor of cosine and sine where a file does not give it.
double YarnAttentionFactor(double factor, double multiplier);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_ROPE_FREQUENCIES_H_
