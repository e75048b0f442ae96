// What a training run needs, before anyone rents it: memory, arithmetic, time and money. Formulas
// follow what the modules, losses and optimizer of this trainer hold and do.

#ifndef MAMBAD_TRAINER_PLAN_H_
#define MAMBAD_TRAINER_PLAN_H_

#include <cstdint>
#include <optional>
#include <string>

#include "engine/checkpoint/model_config.h"
#include "trainer/train_config.h"

namespace mambad::trainer {

struct PlannedRun {
  checkpoint::ModelConfig model;
  std::optional<checkpoint::ModelConfig> teacher;  // runs forward beside it
  TrainedPart trained = TrainedPart::kAll;         // mixers: recurrent mixers only
  int64_t processes = 1;                           // one a device
  int64_t row_tokens = 2048;
  int64_t micro_batch = 1;
  bool recompute = false;  // activation checkpointing
  // Every recurrent layer learns alone from what its layer of the teacher reads and gives, one
  // after the other; no head. The teacher is there and `trained` is mixers; `recompute` means
  // nothing.
  bool aligned = false;
  bool held_out = false;  // aligned: the two models are compared on held-out text, head and all
  bool half_precision = true;  // bf16 weights and activations, as on a GPU; else fp32, on a CPU
};

// Bytes on one device at the worst moment of a step.
struct PlannedMemory {
  double weights = 0, teacher_weights = 0;
  double gradients = 0;  // in the working type, summed in fp32, this process's part after exchange
  double optimizer = 0;  // this process's part of masters and moments
  double activations = 0;  // kept for the backward pass
  double head = 0;         // hidden states and the head's gradient
  // What comes and goes: logits of some rows, or the gradients of one block, whichever is more.
  double passing = 0;
  double total() const {
    return weights + teacher_weights + gradients + optimizer + activations + head + passing;
  }
};

struct PlannedWork {
  int64_t parameters = 0, trained_parameters = 0, teacher_parameters = 0;
  // Floating point operations a token, a multiplication and an addition counted as two.
  double forward = 0;   // of the model
  double backward = 0;  // gradients of activations and of trained matrices, recomputed blocks
  double teacher = 0;
  double products = 0;  // of all these, those of matrix products
  double total() const { return forward + backward + teacher; }
};

PlannedWork PlanWork(const PlannedRun& run);
PlannedMemory PlanMemory(const PlannedRun& run);

// Throws std::runtime_error that tells what is needed and what to change when `available` bytes of
// a device are fewer than the plan's.
void RequireMemory(const PlannedRun& run, double available, const std::string& device);

// The plan as Markdown.
std::string ExplainPlan(const PlannedRun& run, const PlanConfig& config);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_PLAN_H_
