// A batch of packed documents as tensors on the model's device: what every module reads.

#ifndef MAMBAD_TRAINER_TOKEN_BATCH_H_
#define MAMBAD_TRAINER_TOKEN_BATCH_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "trainer/dataset.h"

namespace mambad::trainer {

// A PackedBatch as tensors [B, T] on the model's device.
struct TokenBatch {
  at::Tensor token_ids, target_ids, positions;  // int64
  at::Tensor document_start;                    // bool
  at::Tensor loss_mask;                         // fp32, 0 or 1

  // Where documents lie in the B * T tokens taken one row after the other: documents + 1 numbers,
  // from 0 to B * T, rising. No document crosses the end of a row. On the host, because loops over
  // documents and launch sizes are made there, and int32 on the device for its attention (on a CPU
  // undefined).
  std::vector<int32_t> document_bounds;
  at::Tensor device_document_bounds;
  int64_t longest_document = 0;  // tokens

  int64_t rows() const { return token_ids.size(0); }
  int64_t row_tokens() const { return token_ids.size(1); }
};

// Copies without waiting for the device.
TokenBatch MoveToDevice(const PackedBatch& batch, at::Device device);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_TOKEN_BATCH_H_
