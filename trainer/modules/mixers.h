// The three mixers of a block, from normed input to what is added to the residual stream. Equations
// and row orders: engine/checkpoint/parameter_table.h and kernels/training_scan.h.

#ifndef MAMBAD_TRAINER_MODULES_MIXERS_H_
#define MAMBAD_TRAINER_MODULES_MIXERS_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/modules/block_functions.h"
#include "trainer/modules/language_model.h"
#include "trainer/token_batch.h"

namespace mambad::trainer {

// What all blocks of one pass share.
struct BlockContext {
  TokenBatch batch;
  Rotation rotation, fused_rotation;  // of self_attn.* and of mha.* layers; undefined without them
};

// Everywhere: input [M, width] in the model's compute type, M = rows * row_tokens; returns [M,
// width].
at::Tensor AttentionMixer(const LanguageModel& model, int layer, const at::Tensor& input,
                          const BlockContext& context);
at::Tensor MambaMixer(const LanguageModel& model, int layer, const at::Tensor& input,
                      const BlockContext& context);
at::Tensor Mamba2Mixer(const LanguageModel& model, int layer, const at::Tensor& input,
                       const BlockContext& context);
// What the attention of a layer gives, [M, H hd], to [M, width].
at::Tensor AttentionOutput(const LanguageModel& model, int layer, const at::Tensor& mixed);
// y [M, I] of a recurrent mixer to [M, width].
at::Tensor RecurrentOutput(const LanguageModel& model, int layer, const at::Tensor& y);
// The layer's own of these.
at::Tensor RunMixer(const LanguageModel& model, int layer, const at::Tensor& input,
                    const BlockContext& context);

// ---- the parts, for decoding -------------------------------------------------------------------

// query [M, H hd], key and value [M, K hd]: with biases, heads normed where the model does so, the
// query times what scores are multiplied by; not yet rotated.
struct AttentionParts {
  at::Tensor query, key, value;
};
AttentionParts ProjectAttention(const LanguageModel& model, int layer, const at::Tensor& input);

// Before the convolution: gate [M, I] and x [M, channels]; in hybrids also b [M, Gs N], c [M, I]
// and low [M, r], which standard Mamba makes of the convolved x.
struct MambaParts {
  at::Tensor gate, x, b, c, low;
};
MambaParts ProjectMamba(const LanguageModel& model, int layer, const at::Tensor& input);
// After the convolution: completes the parts, x becomes [M, I]. Returns delta [M, I].
at::Tensor SelectMamba(const LanguageModel& model, int layer, const at::Tensor& convolved,
                       MambaParts* parts);

// gate [M, I], convolution input x, B, C side by side [M, channels], dt [M, heads].
struct Mamba2Parts {
  at::Tensor gate, convolution_input, dt;
};
Mamba2Parts ProjectMamba2(const LanguageModel& model, int layer, const at::Tensor& input);
// x [M, Hx P], b [M, Gs N], c [M, G N] of the convolved columns.
struct Mamba2Sources {
  at::Tensor x, b, c;
};
Mamba2Sources SplitMamba2(const LanguageModel& model, const at::Tensor& convolved);

// Each of the groups of `size` columns `times` times in a row: [M, groups x size] -> [M, groups x
// times x size].
at::Tensor RepeatGroups(const at::Tensor& input, int64_t size, int64_t times);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_MODULES_MIXERS_H_
