#include "trainer/stages/preference_work.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "trainer/losses.h"

namespace mambad::trainer {
namespace {

using at::Tensor;

// Log probability of each row's answer, [rows].
Tensor AnswerLogProbabilities(const LanguageModel& model, const TokenBatch& batch) {
  const Tensor hidden = model.Hidden(batch);
  const Tensor tokens = TokenLogProbabilities(hidden.reshape({-1, hidden.size(-1)}), model.Head(),
                                              batch.target_ids.view({-1}));
  return (tokens.view(batch.target_ids.sizes()) * batch.loss_mask).sum(1);
}

PreferenceLoss LossOf(const LanguageModel& model, const LanguageModel* reference,
                      const TokenBatch& batch, int64_t pairs, double beta) {
  const int64_t rows = batch.rows() / 2;
  Tensor before;
  {
    at::NoGradGuard no_grad;
    before = reference ? AnswerLogProbabilities(*reference, batch)
                       : at::zeros({batch.rows()}, batch.loss_mask.options());
  }
  const Tensor now = AnswerLogProbabilities(model, batch);
  return DirectPreferenceLoss(now.narrow(0, 0, pairs), now.narrow(0, rows, pairs),
                              before.narrow(0, 0, pairs), before.narrow(0, rows, pairs), beta);
}

}  // namespace

Metrics MeasurePreference(const LanguageModel& model, const LanguageModel* reference,
                          const TokenStore& store, const PreferenceOptions& options,
                          ProcessGroup* processes) {
  at::NoGradGuard no_grad;
  DatasetOptions order;
  order.row_tokens = options.row_tokens;
  order.shuffle = false;
  order.epochs = 1;
  PairDataset data(&store, order, options.prompt_tokens);
  const int64_t pairs = std::min(options.pairs, data.counts().pairs);
  Tensor sums = at::zeros({3}, at::TensorOptions().device(model.device()).dtype(at::kFloat));
  PackedBatch host;
  int64_t taken = 0;
  for (int64_t index = 0; taken < pairs; ++index) {
    const int64_t count = std::min(options.micro_batch, pairs - taken);
    if (!data.Next(count, &host)) break;
    taken += count;
    if (index % processes->size() != processes->rank()) continue;
    const PreferenceLoss loss =
        LossOf(model, reference, MoveToDevice(host, model.device()), count, options.beta);
    sums.add_(at::stack({loss.loss, loss.accuracy.to(at::kFloat), loss.margin}));
  }
  processes->AllReduceSum(sums);
  const Tensor told = sums.to(at::kCPU).div(static_cast<double>(pairs));
  const float* value = told.data_ptr<float>();
  return {{"valid_preference_loss", value[0]},
          {"valid_preference_accuracy", value[1]},
          {"valid_preference_margin", value[2]}};
}

PreferenceWork::PreferenceWork(const LanguageModel* model, const LanguageModel* reference,
                               const TokenStore* valid, const PreferenceOptions& options,
                               ProcessGroup* processes)
    : model_(model),
      reference_(reference),
      valid_(valid),
      options_(options),
      processes_(processes) {}

std::vector<StageMetric> PreferenceWork::metrics() const {
  using Per = StageMetric::Per;
  return {{"loss", Per::kMicroBatch}, {"accuracy", Per::kMicroBatch}, {"margin", Per::kMicroBatch}};
}

void PreferenceWork::Backward(const TokenBatch& batch, double /*token_weight*/, double batch_weight,
                              Tensor sums) {
  const int64_t pairs = batch.rows() / 2;
  const PreferenceLoss loss = LossOf(*model_, reference_, batch, pairs, options_.beta);
  const double share = 1.0 / static_cast<double>(pairs);
  (loss.loss * (share * batch_weight)).backward();
  sums.add_(at::stack({loss.loss.detach(), loss.accuracy.to(at::kFloat), loss.margin}), share);
}

double PreferenceWork::negligible_loss() const { return std::log(2.0); }

Metrics PreferenceWork::Evaluate() {
  if (valid_ == nullptr) return {};
  return MeasurePreference(*model_, reference_, *valid_, options_, processes_);
}

}  // namespace mambad::trainer
