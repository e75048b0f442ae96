// AdamW with fp32 masters behind working copies, its state sharded over the process group.

#ifndef MAMBAD_TRAINER_OPTIMIZER_H_
#define MAMBAD_TRAINER_OPTIMIZER_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "trainer/process_group.h"

namespace mambad::trainer {

// Learning rate relative to the peak: a linear rise over `warmup_steps`, then half a cosine down to
// `final_fraction` at `total_steps`, and that afterwards. The first step is number 0 and already
// moves: (step + 1) / warmup_steps.
struct Schedule {
  int64_t total_steps = 1;
  int64_t warmup_steps = 0;
  double final_fraction = 0.0;
  double At(int64_t step) const;
};

struct ParameterGroup {
  std::string name;
  double learning_rate = 1e-4;  // peak
  double weight_decay = 0.0;
  std::vector<std::pair<std::string, at::Tensor>> parameters;  // leaves, working precision
};

struct AdamOptions {
  double beta1 = 0.9, beta2 = 0.95, epsilon = 1e-8;
  double clip_norm = 1.0;  // of the gradient of all parameters together; 0: not clipped
};

// A_log, D, dt biases, norms and other biases: vectors that decay would pull away from where they
// mean something.
bool WantsWeightDecay(const std::string& name, int64_t dimensions);

// One thread. After construction every parameter is a view into one flat tensor of its type, and so
// is its gradient: what is done per step takes a few launches, however many parameters there are.
//
//   for each micro-batch: backward; AccumulateGradients();
//   Step(schedule.At(step));
class Optimizer {
 public:
  // Parameters are turned into views (their handles stay, their storage moves); each stands in one
  // group only. All processes give the same. Throws std::runtime_error: none, or one given twice.
  Optimizer(std::vector<ParameterGroup> groups, const AdamOptions& options,
            ProcessGroup* processes);

  // After each backward pass but the last one of a step, when the working type is not fp32: moves
  // the gradients into fp32 sums, with several processes into each one's part of them (so that none
  // holds all in fp32). May be called after the last one too; by all processes equally often.
  void AccumulateGradients();
  // Sums gradients over processes, clips, updates, and clears the gradients. With a gradient that
  // is not finite nothing moves (but the count of bad steps). Does not wait for the device.
  void Step(double learning_rate_factor);

  // fp32 scalars on the device: of the last step; and how many steps were not finite.
  const at::Tensor& gradient_norm() const { return gradient_norm_; }
  const at::Tensor& bad_steps() const { return bad_steps_; }

  // State of this process, by name: masters, moments, step count. Tensors share memory with the
  // optimizer. Load copies into them and renews the working copies; throws std::runtime_error for a
  // missing tensor or another shape.
  std::map<std::string, at::Tensor> State() const;
  void Load(const std::map<std::string, at::Tensor>& state);

  // The masters of parameters whose working type is narrower than fp32, by parameter name: whole
  // and on the host, in the first process; nothing in the others. Called by all.
  std::map<std::string, at::Tensor> Masters();

  int64_t parameter_count() const { return parameter_count_; }

 private:
  // Parameters of one element type in one flat tensor: groups one after the other, padded so that
  // it can be cut into equal shards.
  struct Region {
    at::ScalarType type;
    at::Tensor working;          // [padded], the parameters are views of it
    at::Tensor working_shard;    // this process's part of it
    at::Tensor gradient;         // [padded], type; the parameters' gradients are views of it
    at::Tensor gradient_sum;     // [padded] fp32; `gradient` itself when that is fp32; undefined
                                 // when narrow_shard is there in its place
    at::Tensor narrow_shard;     // [padded / size] type: what comes of one micro-batch
    at::Tensor gradient_shard;   // [padded / size] fp32
    at::Tensor master;           // [padded / size] fp32; working_shard itself when that is fp32
    at::Tensor average, square;  // moments, as master
    // This process's pieces, one per group that has a part in its shard.
    std::vector<at::Tensor> masters, gradients, averages, squares, steps;
    std::vector<size_t> groups;
  };
  void MakeRegion(at::ScalarType type);
  void ClearGradients();
  at::Tensor GradientScale();

  std::vector<ParameterGroup> groups_;
  AdamOptions options_;
  ProcessGroup* processes_;
  std::vector<Region> regions_;
  bool accumulated_ = false;
  at::Tensor step_;  // fp32 scalar: updates made
  at::Tensor gradient_norm_, bad_steps_, not_finite_;
  int64_t parameter_count_ = 0;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_OPTIMIZER_H_
