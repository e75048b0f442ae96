// Causal attention over packed documents.

#ifndef MAMBAD_TRAINER_MODULES_ATTENTION_H_
#define MAMBAD_TRAINER_MODULES_ATTENTION_H_

#include <ATen/core/Tensor.h>

#include <cstdint>

#include "trainer/token_batch.h"

namespace mambad::trainer {

// softmax(query key^T / sqrt(head_width)) value, each token seeing its document up to itself, at
// most `sliding_window` tokens with itself counted (0: all). query [M, H, head_width], rotated; key
// and value [M, K, head_width], every one serving H / K query heads; [M, H, head_width].
// Differentiable. bf16 on CUDA with heads of whole 16 bytes: one launch for all documents; else one
// call of LibTorch's attention for each document.
at::Tensor CausalAttention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                           const TokenBatch& batch, int64_t sliding_window);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_MODULES_ATTENTION_H_
