// A model on a backend: weights and the activations of one forward pass. One class, two instances
// (target, draft). What it keeps for its sequences is a StatePool's.

#ifndef MAMBAD_ENGINE_MODEL_MODEL_H_
#define MAMBAD_ENGINE_MODEL_MODEL_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/model/weights.h"
#include "engine/options.h"
#include "engine/state/state_pool.h"
#include "kernels/backend.h"

namespace mambad {

// How much one forward pass may take.
struct ModelLimits {
  int max_rows = 0;        // rows a call
  int max_logit_rows = 0;  // of them with logits
  int max_sequences = 0;
  int64_t max_context = 0;  // positions
  double round_passes = 1;  // in a decode round, of all draft lengths on average
};

// What a pass of so much takes of activations.
kernels::WorkspaceShape WorkspaceShapeOf(const checkpoint::ModelConfig& config,
                                         const ModelLimits& limits);

class Model {
 public:
  // `proposed_tokens`: see Weights::Load.
  static absl::StatusOr<std::unique_ptr<Model>> Load(
      const checkpoint::Checkpoint& checkpoint, ComputeType type, const ModelLimits& limits,
      kernels::Backend& backend, absl::Span<const int32_t> proposed_tokens = {});

  // Runs batch.rows rows through all layers, committing to `state` as kernels::Batch says, and
  // leaves the logits of batch.logit_rows in workspace().logits: kUnproposedLogit for tokens that
  // are not among those proposed. Engine thread.
  void Forward(const kernels::Batch& batch, StatePool& state);

  const checkpoint::ModelConfig& config() const { return config_; }
  const Weights& weights() const { return *weights_; }
  const kernels::Workspace& workspace() const { return *workspace_; }
  const ModelLimits& limits() const { return limits_; }

 private:
  Model(checkpoint::ModelConfig config, std::unique_ptr<const Weights> weights,
        const ModelLimits& limits, kernels::Backend& backend);

  const checkpoint::ModelConfig config_;
  const std::unique_ptr<const Weights> weights_;
  const ModelLimits limits_;
  kernels::Backend& backend_;
  std::unique_ptr<kernels::Workspace> workspace_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_MODEL_MODEL_H_
