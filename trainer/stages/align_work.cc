#include "trainer/stages/align_work.h"

#include <ATen/ATen.h>

#include "trainer/layer_choice.h"

namespace mambad::trainer {

using at::Tensor;

AlignWork::AlignWork(const LanguageModel* student, const LanguageModel* teacher, AlignmentKind kind,
                     HeldOut* held_out)
    : student_(student),
      teacher_(teacher),
      kind_(kind),
      held_out_(held_out),
      recurrent_(student->config().layers, false) {
  for (const int layer : RecurrentLayersOf(student->config())) {
    recurrent_[layer] = true;
    ++layers_;
  }
}

std::vector<StageMetric> AlignWork::metrics() const {
  return {{"loss", StageMetric::Per::kMicroBatch}, {"worst", StageMetric::Per::kMicroBatch}};
}

// Backward of a layer right behind its forward: one layer's activations at a time.
void AlignWork::Backward(const TokenBatch& batch, double /*token_weight*/, double batch_weight,
                         Tensor sums) {
  at::NoGradGuard no_grad;
  Tensor total = at::zeros({}, sums.options()), worst = at::zeros({}, sums.options());
  teacher_->Hidden(batch, [&](int layer, const Tensor& input, const Tensor& output) {
    if (!recurrent_[layer]) return;
    at::AutoGradMode gradients(true);
    const Tensor given = student_->Mixer(layer, input.detach(), batch);
    const Tensor loss = AlignmentLoss(given, output, batch.loss_mask, kind_);
    (loss * (batch_weight / layers_)).backward();
    const Tensor told = loss.detach().to(at::kFloat);
    total.add_(told, 1.0 / layers_);
    at::maximum_out(worst, worst, told);
  });
  sums.select(0, 0).add_(total);
  sums.select(0, 1).add_(worst);
}

Metrics AlignWork::Evaluate() {
  return held_out_ == nullptr ? Metrics() : held_out_->Compare(*student_, teacher_);
}

}  // namespace mambad::trainer
