// Drawing the next token of many sequences at once.

#ifndef MAMBAD_TRAINER_STAGES_TOKEN_SAMPLING_H_
#define MAMBAD_TRAINER_STAGES_TOKEN_SAMPLING_H_

#include <ATen/core/Tensor.h>

namespace mambad::trainer {

// logits fp32 [sequences, vocabulary]; temperatures and uniforms (in [0, 1)) fp32 [sequences], all
// on one device. Returns int64 [sequences]: row i is drawn from softmax(logits / temperature), cut
// to the likeliest tokens that together have `top_p` (the one that reaches it counts) and
// normalised, at the place uniforms[i] of its cumulative distribution. Temperature 0: the likeliest
// token.
at::Tensor DrawTokens(const at::Tensor& logits, const at::Tensor& temperatures,
                      const at::Tensor& uniforms, double top_p);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_TOKEN_SAMPLING_H_
