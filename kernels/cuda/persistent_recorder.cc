#include "kernels/cuda/persistent_recorder.h"

#include <algorithm>
#include <utility>

namespace mambad::kernels::cuda {

bool PassRecorder::Continues(const Batch& batch, const RowsView& residual) const {
  const Batch& noted = program_.batch;
  return residual.data == program_.residual.data && residual.rows == program_.residual.rows &&
         batch.sequences == noted.sequences && batch.rows == noted.rows &&
         batch.row_begin == noted.row_begin && batch.slot == noted.slot &&
         batch.position == noted.position && batch.replay == noted.replay &&
         batch.fold == noted.fold && batch.keep_from == noted.keep_from &&
         batch.keep_at == noted.keep_at && batch.resume == noted.resume &&
         batch.keeps_working == noted.keeps_working;
}

bool PassRecorder::NoteMamba(const Batch& batch, const MambaLayer& layer,
                             const RecurrentState& state, const RowsView& residual,
                             const Buffer& mail, std::function<void()> kernels) {
  if (!captured_ || batch.rows == 0 || batch.rows > kPassRows || batch.sequences > kPassRows) {
    return false;
  }
  if (!launch_.has_value()) launch_ = PassLaunchOfDevice();
  if (!PassPlan::Takes(layer, launch_->blocks)) return false;
  if (plan_.has_value() && (plan_->ended() || plan_->Visits(state) ||
                            !plan_->Continues(layer, state) || !Continues(batch, residual))) {
    return false;
  }
  if (!plan_.has_value()) {
    plan_.emplace(launch_->blocks);
    program_ = {};
    program_.batch = batch;
    program_.batch.logit_count = 0;
    program_.residual = residual;
    mail_ = &mail;
  }
  plan_->AddMamba(layer, state);
  kernels_.push_back(std::move(kernels));
  return true;
}

bool PassRecorder::NoteHead(const Batch& batch, const NormWeights& norm, const WeightMatrix& head,
                            const RowsView& residual, const RowsView& logits,
                            std::function<void()> kernels) {
  if (!plan_.has_value() || plan_->ended() || !Continues(batch, residual)) return false;
  if (batch.logit_count > kPassRows || head.type != ElementType::kBFloat16) return false;
  program_.batch.logit_rows = batch.logit_rows;
  program_.batch.logit_count = batch.logit_count;
  plan_->AddHead(norm, head, logits);
  kernels_.push_back(std::move(kernels));
  return true;
}

Buffer PassRecorder::Flush() {
  Buffer memory;
  if (!plan_.has_value()) return memory;
  plan_->Describe(program_);
  program_.rows = std::max(program_.batch.rows, program_.batch.logit_count);
  if (FitPass(*launch_, program_) && AddressMail(*mail_, program_)) {
    memory = UploadPlan(*plan_, program_);
  }
  if (memory.data() != nullptr) {
    LaunchPass(stream_, *launch_, program_);
  } else {
    for (const std::function<void()>& kernels : kernels_) kernels();
  }
  plan_.reset();
  kernels_.clear();
  return memory;
}

}  // namespace mambad::kernels::cuda
