// Operations of a pass of few rows as steps of one launch (persistent_program.cuh): which products
// in which order, which block takes what. Host only.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_PLAN_H_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_PLAN_H_

#include <cstdint>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/persistent_program.cuh"

namespace mambad::kernels::cuda {

class PassPlan {
 public:
  explicit PassPlan(int blocks) : blocks_(blocks) {}

  // Whether such a layer can be among the steps: the kind that PassMamba says, with inner widths of
  // whole panels, as many as `blocks` blocks hold.
  static bool Takes(const MambaLayer& layer, int blocks);
  // Whether the layer and its state have the sizes of those that there are, and so the same units.
  bool Continues(const MambaLayer& layer, const RecurrentState& state) const;
  // Whether one more layer with this state can stand in the same launch: a state is visited once.
  bool Visits(const RecurrentState& state) const;

  void AddMamba(const MambaLayer& layer, const RecurrentState& state);
  // Ends the plan.
  void AddHead(const NormWeights& norm, const WeightMatrix& head, const RowsView& logits);

  // A layer's, and behind them the head's or an empty one.
  const std::vector<PassStep>& steps() const { return steps_; }
  const std::vector<PassLayer>& layers() const { return layers_; }
  const PassHead& head() const { return head_; }
  bool ended() const { return head_.outputs > 0; }

  // Writes what follows from the steps into a program: sizes and counts, no pointers but the
  // head's.
  void Describe(PassProgram& program) const;

 private:
  // The steps of every layer.
  void SetSteps(const MambaLayer& layer);

  const int blocks_;
  std::vector<PassStep> steps_ = std::vector<PassStep>(kLayerSteps + 1);
  std::vector<PassLayer> layers_;
  PassMamba mamba_;
  PassHead head_;
  int32_t residual_steps_ = 0, inner_steps_ = 0, rank_steps_ = 0, select_stride_ = 0;
  int32_t rounds_ = 1, output_rounds_ = 1, selections_ = 1;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_PLAN_H_
