#include "trainer/stages/held_out.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "absl/strings/str_format.h"
#include "trainer/dataset.h"
#include "trainer/losses.h"
#include "trainer/token_batch.h"

namespace mambad::trainer {
namespace {

using at::Tensor;

// The order of held-out text is no run's: numbers of different runs are of the same rows.
constexpr uint64_t kOrderSeed = 20;

Tensor Rows(const Tensor& hidden) { return hidden.reshape({-1, hidden.size(-1)}); }

DatasetOptions Order(const HeldOutOptions& options) {
  DatasetOptions order;
  order.row_tokens = options.row_tokens;
  order.seed = kOrderSeed;
  order.epochs = 1;
  return order;
}

// Places in the sums of one pass.
enum Sum { kTokens, kDivergence, kCrossEntropy, kAgreement, kOverlap, kTeacherCrossEntropy, kSums };

}  // namespace

HeldOut::HeldOut(const TokenStore* store, const HeldOutOptions& options, ProcessGroup* processes)
    : store_(store), options_(options), processes_(processes) {
  if (store->index().pairs) {
    throw std::runtime_error("held-out text: preference pairs in place of documents");
  }
  PackedDataset data(store, Order(options));
  PackedBatch row;
  for (int64_t taken = 0; taken < options.rows && data.Next(1, &row); ++taken) {
    if (row.trained_tokens > 0) return;
  }
  throw std::runtime_error(absl::StrFormat(
      "held-out text: expected a token that counts in the first %d rows, found none",
      options.rows));
}

Metrics HeldOut::Compare(const LanguageModel& model, const LanguageModel* teacher) {
  at::NoGradGuard no_grad;
  PackedDataset data(store_, Order(options_));
  // fp32: collectives take it on every device; sums of some 100,000 terms of one size.
  Tensor sums = at::zeros({kSums}, at::TensorOptions().device(model.device()).dtype(at::kFloat));
  const Tensor head = model.Head(), teacher_head = teacher ? teacher->Head() : Tensor();
  PackedBatch host;
  int64_t taken = 0;
  for (int64_t index = 0; taken < options_.rows; ++index) {
    if (!data.Next(std::min(options_.micro_batch, options_.rows - taken), &host)) break;
    taken += host.rows;
    if (index % processes_->size() != processes_->rank() || host.trained_tokens == 0) continue;
    const TokenBatch batch = MoveToDevice(host, model.device());
    const Tensor targets = batch.target_ids.view({-1}), mask = batch.loss_mask.view({-1});
    const Tensor hidden = Rows(model.Hidden(batch));
    const Tensor teacher_hidden = teacher ? Rows(teacher->Hidden(batch)) : Tensor();
    const HeadLoss loss =
        HeadLossAndGradient(hidden, head, teacher_hidden, teacher_head, targets, mask, {});
    sums.select(0, kTokens).add_(static_cast<double>(host.trained_tokens));
    sums.narrow(0, kDivergence, 4).add_(loss.sums);
    if (teacher && !teacher_cross_entropy_) {
      const Tensor log_p = TokenLogProbabilities(teacher_hidden, teacher_head, targets);
      sums.select(0, kTeacherCrossEntropy).sub_((log_p * mask).sum());
    }
  }
  processes_->AllReduceSum(sums);
  const Tensor told = sums.to(at::kCPU).to(at::kDouble);
  const double* value = told.data_ptr<double>();
  const double cross_entropy = value[kCrossEntropy] / value[kTokens];
  Metrics metrics = {{"valid_cross_entropy", cross_entropy},
                     {"valid_perplexity", std::exp(cross_entropy)}};
  if (teacher == nullptr) return metrics;
  if (!teacher_cross_entropy_)
    teacher_cross_entropy_ = value[kTeacherCrossEntropy] / value[kTokens];
  metrics.emplace_back("valid_divergence", value[kDivergence] / value[kTokens]);
  metrics.emplace_back("valid_perplexity_ratio", std::exp(cross_entropy - *teacher_cross_entropy_));
  metrics.emplace_back("valid_agreement", value[kAgreement] / value[kTokens]);
  metrics.emplace_back("valid_overlap", value[kOverlap] / value[kTokens]);
  return metrics;
}

}  // namespace mambad::trainer
