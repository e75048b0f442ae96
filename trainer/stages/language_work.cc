#include "trainer/stages/language_work.h"

#include <ATen/ATen.h>

namespace mambad::trainer {
namespace {

using at::Tensor;

Tensor Rows(const Tensor& hidden) { return hidden.reshape({-1, hidden.size(-1)}); }

}  // namespace

LanguageWork::LanguageWork(const LanguageModel* model, const LanguageModel* teacher,
                           const HeadLossOptions& loss, HeldOut* held_out)
    : model_(model), teacher_(teacher), loss_(loss), held_out_(held_out) {}

std::vector<StageMetric> LanguageWork::metrics() const {
  if (teacher_ == nullptr) return {{"loss"}};
  return {{"loss"}, {"divergence"}, {"cross_entropy"}, {"agreement"}, {"overlap"}};
}

void LanguageWork::Backward(const TokenBatch& batch, double token_weight, double /*batch_weight*/,
                            Tensor sums) {
  Tensor teacher_hidden, teacher_head;
  if (teacher_ != nullptr) {
    at::NoGradGuard no_grad;
    teacher_hidden = Rows(teacher_->Hidden(batch));
    teacher_head = teacher_->Head();
  }
  const Tensor weights = batch.loss_mask.view({-1}) * token_weight;
  const HeadLoss loss =
      HeadLossAndGradient(Rows(model_->Hidden(batch)), model_->Head(), teacher_hidden, teacher_head,
                          batch.target_ids.view({-1}), weights, loss_);
  loss.loss.backward();
  at::NoGradGuard no_grad;
  sums.select(0, 0).add_(loss.loss, 1.0 / token_weight);
  if (teacher_ != nullptr) sums.narrow(0, 1, 4).add_(loss.sums);
}

Metrics LanguageWork::Evaluate() {
  return held_out_ == nullptr ? Metrics() : held_out_->Compare(*model_, teacher_);
}

}  // namespace mambad::trainer
