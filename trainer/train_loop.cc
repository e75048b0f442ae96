#include "trainer/train_loop.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "trainer/train_state.h"

namespace mambad::trainer {
namespace {

using at::Tensor;
using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// One call of Train: everything the phases share.
class Loop {
 public:
  Loop(const TrainLoopOptions& options, at::Device device, BatchSource* source,
       Optimizer* optimizer, ProcessGroup* processes, StageWork* work)
      : options_(options),
        device_(device),
        source_(source),
        optimizer_(optimizer),
        processes_(processes),
        work_(work),
        kinds_(work->metrics()),
        states_(options.directory + "/states"),
        progress_(processes->rank() == 0 ? options.progress : nullptr, options.title,
                  options.steps) {
    sums_ = at::zeros({static_cast<int64_t>(kinds_.size())},
                      at::TensorOptions().device(device).dtype(at::kFloat));
  }

  TrainResult Run() {
    Resume();
    if (processes_->rank() == 0) writer_.emplace(options_.directory, state_.step);
    if (EvaluationIsMissing()) Evaluate();
    started_ = told_ = Clock::now();
    const double seconds_before = state_.seconds;
    saved_step_ = step_told_ = state_.step;
    tokens_told_ = state_.tokens;
    // A state whose loss is high may be one that does not come down again: it is not saved, and
    // who runs out of time goes on for the few steps until that is known.
    bool late = false;
    while (!AtEnd() && !(late && !state_.loss.high())) {
      OneStep();
      const bool saves = Due(options_.save_every), evaluates = EvaluationIsDue();
      if (saves || evaluates || late || Due(options_.log_every) || state_.step == 1) {
        Tell();
        late = IsLate();
        state_.seconds = seconds_before + SecondsSince(started_);
      }
      if (AtEnd() || ((saves || late) && !state_.loss.high())) Save();
      if (evaluates) Evaluate();
    }
    TrainResult result{state_.step, state_.tokens, state_.seconds, AtEnd(), last_,
                       {},          evaluations_};
    if (options_.wants_masters && AtEnd()) result.masters = optimizer_->Masters();
    return result;
  }

 private:
  bool Due(int64_t every) const { return every > 0 && state_.step % every == 0; }
  bool AtEnd() const { return state_.step >= options_.steps; }
  bool EvaluationIsDue() const { return AtEnd() || Due(options_.evaluate_every); }

  // After a start that ended between saving and evaluating. The first process's file decides.
  bool EvaluationIsMissing() {
    if (state_.step == 0 || !EvaluationIsDue()) return false;
    const bool missing = writer_ && !writer_->evaluated();
    Tensor agreed = at::full({1}, missing ? 1.0 : 0.0, sums_.options());
    processes_->Broadcast(agreed, 0);
    return agreed.item<float>() > 0;
  }

  void Resume() {
    std::optional<TrainState> saved = LoadNewestTrainState(states_, *processes_);
    if (!saved) return;
    optimizer_->Load(saved->tensors);
    source_->Seek(saved->cursor);
    bad_steps_ = optimizer_->bad_steps().item<double>();
    state_ = *std::move(saved);
    state_.tensors.clear();
    progress_.Say(absl::StrFormat("%s goes on from step %d", options_.title, state_.step));
  }

  // Every process walks through the data of all, so that each knows the step's number of tokens
  // without asking and the cursor is the same everywhere.
  std::vector<TokenBatch> TakeBatches(int64_t* trained_tokens) {
    std::vector<TokenBatch> batches;
    for (int64_t micro = 0; micro < options_.accumulation * processes_->size(); ++micro) {
      if (!source_->Next(options_.micro_batch, &host_batch_)) {
        throw std::runtime_error("the training data has an end before the last step");
      }
      *trained_tokens += host_batch_.trained_tokens;
      state_.tokens += host_batch_.rows * host_batch_.row_tokens;
      if (micro % processes_->size() == processes_->rank()) {
        batches.push_back(MoveToDevice(host_batch_, device_));
      }
    }
    return batches;
  }

  void OneStep() {
    work_->BeginStep(state_.step);
    int64_t trained = 0;
    const std::vector<TokenBatch> batches = TakeBatches(&trained);
    const double token_weight = 1.0 / static_cast<double>(std::max<int64_t>(trained, 1));
    const double batch_weight =
        1.0 / static_cast<double>(options_.accumulation * processes_->size());
    for (size_t index = 0; index < batches.size(); ++index) {
      work_->Backward(batches[index], token_weight, batch_weight, sums_);
      if (index + 1 < batches.size()) optimizer_->AccumulateGradients();
    }
    optimizer_->Step(options_.schedule.At(state_.step));
    ++state_.step;
    trained_since_told_ += trained;
    batches_since_told_ += options_.accumulation * processes_->size();
  }

  // Waits for the device, once.
  void Tell() {
    processes_->AllReduceSum(sums_);
    const Tensor both =
        at::cat({sums_, optimizer_->gradient_norm().view({1}), optimizer_->bad_steps().view({1})})
            .to(at::kCPU);
    const float* values = both.data_ptr<float>();
    sums_.zero_();
    last_.clear();
    const bool counted = trained_since_told_ > 0;
    for (size_t i = 0; i < kinds_.size() && counted; ++i) {
      const int64_t count = kinds_[i].per == StageMetric::Per::kTrainedToken ? trained_since_told_
                                                                             : batches_since_told_;
      last_.emplace_back(kinds_[i].name, values[i] / static_cast<double>(count));
    }
    const double seconds = SecondsSince(told_);
    const double rate = static_cast<double>(state_.tokens - tokens_told_) / std::max(seconds, 1e-9);
    const double left = seconds / static_cast<double>(state_.step - step_told_) *
                        static_cast<double>(options_.steps - state_.step);
    progress_.Show(state_.step, rate, left, last_);
    if (writer_) {
      Metrics all = last_;
      all.emplace_back("gradient_norm", values[kinds_.size()]);
      all.emplace_back("learning_rate_factor", options_.schedule.At(state_.step - 1));
      all.emplace_back("tokens", static_cast<double>(state_.tokens));
      all.emplace_back("tokens_per_second", rate);
      writer_->Write(state_.step, all);
    }
    told_ = Clock::now();
    tokens_told_ = state_.tokens;
    step_told_ = state_.step;
    trained_since_told_ = batches_since_told_ = 0;
    StopIfDiverged(values[kinds_.size() + 1]);
  }

  // By what was told just now; no loss is there when no token counted.
  void StopIfDiverged(double bad_steps) {
    std::string what;
    if (bad_steps > bad_steps_) {
      what = absl::StrFormat(
          "the gradient was not finite in %.0f of the last steps (those were left out)",
          bad_steps - bad_steps_);
    }
    if (!last_.empty()) {
      const auto& [name, loss] = last_.front();
      if (!std::isfinite(loss)) {
        what = absl::StrFormat("the %s is %f", name, loss);
      } else {
        state_.loss.Add(loss, options_.divergence_factor, work_->negligible_loss());
        if (state_.loss.diverged() && what.empty()) {
          what = absl::StrFormat("the %s is %g after a lowest of %g", name, loss,
                                 state_.loss.lowest_level);
        }
      }
    }
    if (what.empty()) return;
    throw TrainingDiverged(absl::StrFormat(
        "stopped at step %d: %s; %s", state_.step, what,
        saved_step_ > 0
            ? absl::StrFormat("the state of step %d is kept in %s: the same command goes on from "
                              "there, with a lower learning_rate, rest_learning_rate or clip_norm",
                              saved_step_, states_)
            : std::string("no state had been saved yet (loop.save_every)")));
  }

  // The first process's clock decides for all.
  bool IsLate() {
    if (options_.most_seconds <= 0) return false;
    const bool late = SecondsSince(options_.started) > options_.most_seconds;
    Tensor agreed = at::full({1}, late ? 1.0 : 0.0, sums_.options());
    processes_->Broadcast(agreed, 0);
    return agreed.item<float>() > 0;
  }

  void Evaluate() {
    const Clock::time_point begin = Clock::now();
    const Metrics metrics = work_->Evaluate();
    if (metrics.empty()) return;
    evaluations_.emplace_back(state_.step, metrics);
    if (writer_) writer_->Write(state_.step, metrics);
    std::string words = absl::StrFormat("%s step %d:", options_.title, state_.step);
    for (const auto& [name, value] : metrics) words += absl::StrFormat("  %s %.5g", name, value);
    progress_.Say(words);
    // Rates speak of training only.
    told_ += Clock::now() - begin;
  }

  void Save() {
    const Clock::time_point begin = Clock::now();
    state_.cursor = source_->cursor();
    state_.tensors = optimizer_->State();
    SaveTrainState(states_, state_, options_.keep_states, processes_);
    state_.tensors.clear();
    saved_step_ = state_.step;
    told_ += Clock::now() - begin;
  }

  const TrainLoopOptions& options_;
  const at::Device device_;
  BatchSource* const source_;
  Optimizer* const optimizer_;
  ProcessGroup* const processes_;
  StageWork* const work_;
  const std::vector<StageMetric> kinds_;
  const std::string states_;
  Progress progress_;
  std::optional<MetricsWriter> writer_;  // of process 0
  TrainState state_;
  PackedBatch host_batch_;
  Tensor sums_;
  Clock::time_point started_, told_;
  int64_t tokens_told_ = 0, step_told_ = 0, trained_since_told_ = 0, batches_since_told_ = 0;
  int64_t saved_step_ = 0;
  double bad_steps_ = 0;
  Metrics last_;
  std::vector<std::pair<int64_t, Metrics>> evaluations_;
};

}  // namespace

TrainResult Train(const TrainLoopOptions& options, at::Device device, BatchSource* source,
                  Optimizer* optimizer, ProcessGroup* processes, StageWork* work) {
  return Loop(options, device, source, optimizer, processes, work).Run();
}

}  // namespace mambad::trainer
