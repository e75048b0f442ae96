#include "trainer/train_loop.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_format.h"
#include "trainer/train_state.h"

namespace mambad::trainer {
namespace {

using at::Tensor;
using Clock = std::chrono::steady_clock;

constexpr int64_t kHighLossesAllowed = 3;

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
    state_.lowest_loss = std::numeric_limits<double>::max();
  }

  TrainResult Run() {
    Resume();
    if (processes_->rank() == 0) writer_.emplace(options_.directory, state_.step);
    started_ = told_ = Clock::now();
    const double seconds_before = state_.seconds;
    saved_step_ = step_told_ = state_.step;
    tokens_told_ = state_.tokens;
    bool in_time = true;
    while (state_.step < options_.steps && in_time) {
      OneStep();
      const bool last = state_.step == options_.steps;
      const bool saves = last || Due(options_.save_every);
      const bool evaluates = last || Due(options_.evaluate_every);
      if (saves || evaluates || Due(options_.log_every) || state_.step == 1) {
        Tell();
        in_time = AllInTime();
        state_.seconds = seconds_before + SecondsSince(started_);
      }
      if (evaluates) Evaluate();
      if (saves || !in_time) Save();
    }
    TrainResult result{state_.step, state_.tokens, state_.seconds, state_.step >= options_.steps,
                       last_,       evaluations_};
    return result;
  }

 private:
  bool Due(int64_t every) const { return every > 0 && state_.step % every == 0; }

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
    for (size_t i = 0; i < kinds_.size(); ++i) {
      const int64_t count = kinds_[i].per == StageMetric::Per::kTrainedToken ? trained_since_told_
                                                                             : batches_since_told_;
      last_.emplace_back(kinds_[i].name,
                         values[i] / static_cast<double>(std::max<int64_t>(count, 1)));
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
    StopIfDiverged(last_.front().second, values[kinds_.size() + 1]);
  }

  void StopIfDiverged(double loss, double bad_steps) {
    std::string what;
    if (!std::isfinite(loss)) {
      what = absl::StrFormat("the %s is %f", kinds_.front().name, loss);
    } else if (bad_steps > bad_steps_) {
      what = absl::StrFormat(
          "the gradient was not finite in %.0f of the last steps (those were "
          "left out)",
          bad_steps - bad_steps_);
    } else if (options_.divergence_factor > 0 && state_.lowest_loss > 0 &&
               loss > options_.divergence_factor * state_.lowest_loss) {
      if (++state_.losses_too_high >= kHighLossesAllowed) {
        what = absl::StrFormat("the %s is %g after a lowest of %g", kinds_.front().name, loss,
                               state_.lowest_loss);
      }
    } else {
      state_.losses_too_high = 0;
    }
    state_.lowest_loss = std::min(state_.lowest_loss, loss);
    if (what.empty()) return;
    throw TrainingDiverged(absl::StrFormat(
        "stopped at step %d: %s; %s", state_.step, what,
        saved_step_ > 0
            ? absl::StrFormat("the state of step %d is kept in %s", saved_step_, states_)
            : std::string("no state had been saved yet")));
  }

  // The first process's clock decides for all.
  bool AllInTime() {
    if (options_.most_seconds <= 0) return true;
    Tensor late =
        at::full({1}, SecondsSince(started_) > options_.most_seconds ? 1.0 : 0.0, sums_.options());
    processes_->Broadcast(late, 0);
    return late.item<float>() == 0;
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
