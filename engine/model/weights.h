// A checkpoint's parameters in a backend's memory and compute type, arranged as the layers that
// kernels/backend.h names. Immutable after Load; shared by nothing else.

#ifndef MAMBAD_ENGINE_MODEL_WEIGHTS_H_
#define MAMBAD_ENGINE_MODEL_WEIGHTS_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/model/block.h"
#include "engine/options.h"
#include "kernels/backend.h"

namespace mambad {

class Weights {
 public:
  // Reads every parameter. `type` kAuto follows the file: float32 files stay float32, all others
  // become bf16. INVALID_ARGUMENT when a shape is one that the kernels cannot run, with the limit.
  // `proposed_tokens`: a draft model's (engine/checkpoint/proposed_tokens.h), which gets a head of
  // these rows only; empty: the whole one.
  static absl::StatusOr<std::unique_ptr<const Weights>> Load(
      const checkpoint::Checkpoint& checkpoint, ComputeType type, kernels::Backend& backend,
      absl::Span<const int32_t> proposed_tokens = {});

  const std::vector<Block>& blocks() const { return blocks_; }
  const kernels::WeightMatrix& embedding() const { return *embedding_; }
  // The embedding itself when tied and whole.
  const kernels::WeightMatrix& head() const { return *head_; }
  // The tokens of the head's rows, in backend memory; nullptr: row i is token i's.
  const int32_t* head_tokens() const { return head_tokens_.as<int32_t>(); }
  const kernels::NormWeights& final_norm() const { return final_norm_; }

  kernels::ElementType type() const { return type_; }
  // Of the model; rows of a tied embedding that stand in the head once more count in bytes only.
  int64_t parameters() const { return parameters_; }
  int64_t bytes() const { return bytes_; }

 private:
  friend class WeightsLoader;
  Weights() = default;

  std::vector<Block> blocks_;
  const kernels::WeightMatrix* embedding_ = nullptr;
  const kernels::WeightMatrix* head_ = nullptr;
  kernels::Buffer head_tokens_;
  kernels::NormWeights final_norm_;
  kernels::ElementType type_ = kernels::ElementType::kFloat32;
  int64_t parameters_ = 0, bytes_ = 0;

  std::deque<kernels::WeightMatrix> matrices_;  // addresses are stable
  std::deque<kernels::Buffer> vectors_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_MODEL_WEIGHTS_H_
