#include "trainer/train_loop.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <csignal>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_format.h"
#include "trainer/report.h"
#include "trainer/train_state.h"

namespace mambad::trainer {
namespace {

using at::Tensor;
using Clock = std::chrono::steady_clock;

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// What may happen between two steps, as all processes agree.
struct Wishes {
  int signal = 0;     // one of them was asked to stop
  bool late = false;  // no time is left
  bool save = false;  // the newest state is old
};

constexpr char kUntoldSums[] = "loop.untold_sums";  // among a state's tensors
constexpr double kSecondsBetweenQuestions = 1;

// A line that fits a terminal: the cross entropy is the perplexity's logarithm.
std::string HeldOutWords(const Metrics& metrics) {
  std::string words;
  for (const auto& [name, value] : metrics) {
    const std::string own = name.starts_with("valid_") ? name.substr(6) : name;
    if (own != "cross_entropy") words += absl::StrFormat("  %s %.4g", own, value);
  }
  return words;
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
    if (state_.step == 0) SayBeginning();
    if (EvaluationIsMissing()) Evaluate();
    started_ = told_ = asked_ = saved_ = Clock::now();
    const double seconds_before = state_.seconds;
    saved_step_ = step_told_ = step_asked_ = state_.step;
    tokens_told_ = state_.tokens;
    // A state whose loss is high may be one that does not come down again: it is not saved, and
    // who runs out of time goes on for the few steps until that is known.
    bool late = false, ends = false;
    int signal = 0;
    while (!AtEnd() && !ends) {
      OneStep();
      const bool saves = Due(options_.save_every), evaluates = EvaluationIsDue();
      if (saves || evaluates || late || Due(options_.log_every) || state_.step == 1) Tell();
      const Wishes wishes = Ask();
      late |= wishes.late;
      signal = wishes.signal;
      state_.seconds = seconds_before + SecondsSince(started_);
      const bool wants_state = saves || wishes.save || late || signal != 0;
      const bool good = wants_state && LossIsGood();
      if (AtEnd() || good) Save();
      if (evaluates && signal == 0) Evaluate();
      ends = signal != 0 || (late && good);
    }
    return Result(signal);
  }

 private:
  bool Due(int64_t every) const { return every > 0 && state_.step % every == 0; }
  bool AtEnd() const { return state_.step >= options_.steps; }

  TrainResult Result(int signal) {
    TrainResult result;
    result.steps = state_.step;
    result.tokens = state_.tokens;
    result.seconds = state_.seconds;
    result.finished = AtEnd() && signal == 0;
    result.stop_signal = signal;
    result.saved_step = saved_step_;
    result.last = last_;
    result.evaluations = evaluations_;
    if (options_.wants_masters && result.finished) result.masters = optimizer_->Masters();
    return result;
  }

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
    const auto untold = saved->tensors.find(kUntoldSums);
    if (untold != saved->tensors.end()) sums_.copy_(untold->second.view(sums_.sizes()));
    state_ = *std::move(saved);
    state_.tensors.clear();
    progress_.Say(absl::StrFormat("%s goes on from step %d", options_.title, state_.step));
  }

  // Once a training: how it will go. Once a program: what the names in its lines mean.
  void SayBeginning() {
    std::string saving;
    if (options_.save_every > 0) saving = absl::StrFormat(" every %d steps", options_.save_every);
    if (options_.save_seconds > 0) {
      saving += absl::StrFormat("%s every %.3g minutes", saving.empty() ? "" : ",",
                                options_.save_seconds / 60);
    }
    progress_.Say(absl::StrFormat(
        "%s: %d steps, the learning rate rises in the first %d; saved%s%s", options_.title,
        options_.steps, options_.schedule.warmup_steps, saving,
        saving.empty() ? " on a signal and at the end only" : ", on a signal and at the end"));
    // The parts of a stage have the same ones.
    static std::set<std::string> explained = {"loss"};
    for (const StageMetric& kind : kinds_) {
      const std::string meaning = MetricMeaning(kind.name);
      if (meaning.empty() || options_.progress == nullptr || !explained.insert(kind.name).second) {
        continue;
      }
      progress_.Say(absl::StrFormat("  %s: %s", kind.name, meaning));
    }
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
    state_.untold_trained_tokens += trained;
    state_.untold_micro_batches += options_.accumulation * processes_->size();
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
    const bool counted = state_.untold_trained_tokens > 0;
    for (size_t i = 0; i < kinds_.size() && counted; ++i) {
      last_.emplace_back(kinds_[i].name, values[i] / UntoldCount(i));
    }
    const double seconds = SecondsSince(told_);
    const double rate = static_cast<double>(state_.tokens - tokens_told_) / std::max(seconds, 1e-9);
    const double left = seconds / static_cast<double>(state_.step - step_told_) *
                        static_cast<double>(options_.steps - state_.step + options_.later_steps);
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
    state_.untold_trained_tokens = state_.untold_micro_batches = 0;
    StopIfDiverged(values[kinds_.size() + 1]);
  }

  // What the sum of metric `index` since the last line is divided by.
  double UntoldCount(size_t index) const {
    return static_cast<double>(kinds_[index].per == StageMetric::Per::kTrainedToken
                                   ? state_.untold_trained_tokens
                                   : state_.untold_micro_batches);
  }

  // Whether a state of now is worth keeping: no loss is high, neither of those told nor since.
  bool LossIsGood() {
    if (state_.loss.high()) return false;
    if (state_.untold_trained_tokens == 0) return true;
    const Tensor sums = sums_.clone();
    processes_->AllReduceSum(sums);
    const Tensor both =
        at::cat({sums.narrow(0, 0, 1), optimizer_->bad_steps().view({1})}).to(at::kCPU);
    const double loss = both.data_ptr<float>()[0] / UntoldCount(0);
    if (!std::isfinite(loss) || both.data_ptr<float>()[1] > bad_steps_) return false;
    LossWatch next = state_.loss;
    next.Add(loss, options_.divergence_factor, work_->negligible_loss());
    return !next.high();
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

  // Of this process.
  Wishes OwnWishes() const {
    const double age = SecondsSince(saved_);
    return {options_.stop_signal(),
            options_.most_seconds > 0 && SecondsSince(options_.started) > options_.most_seconds,
            options_.save_seconds > 0 && age >= options_.save_seconds};
  }

  // Anyone's signal stops all; for the rest the first process's clock decides. With several
  // processes the answer has to come from the device, so the question waits until about a second
  // has gone by, a number of steps that the first process's clock tells as well.
  Wishes Ask() {
    Wishes wishes = OwnWishes();
    if (processes_->size() == 1) return wishes;
    if (state_.step < ask_at_ && !AtEnd()) return {};
    const bool first = processes_->rank() == 0;
    const double seconds_a_step =
        SecondsSince(asked_) / static_cast<double>(std::max<int64_t>(1, state_.step - step_asked_));
    const std::array<float, 5> votes = {
        static_cast<float>(wishes.signal == SIGINT), static_cast<float>(wishes.signal == SIGTERM),
        static_cast<float>(first && wishes.late), static_cast<float>(first && wishes.save),
        first ? static_cast<float>(seconds_a_step) : 0.0F};
    Tensor sum = at::tensor(at::ArrayRef<float>(votes)).to(device_);
    processes_->AllReduceSum(sum);
    sum = sum.to(at::kCPU);
    const float* answers = sum.data_ptr<float>();
    wishes = {answers[1] > 0   ? SIGTERM
              : answers[0] > 0 ? SIGINT
                               : 0,
              answers[2] > 0, answers[3] > 0};
    asked_ = Clock::now();
    step_asked_ = state_.step;
    ask_at_ = state_.step + static_cast<int64_t>(std::clamp(
                                kSecondsBetweenQuestions / std::max(1e-6, 1.0 * answers[4]), 1.0,
                                static_cast<double>(options_.log_every)));
    return wishes;
  }

  void Evaluate() {
    const Clock::time_point begin = Clock::now();
    const Metrics metrics = work_->Evaluate();
    if (metrics.empty()) return;
    evaluations_.emplace_back(state_.step, metrics);
    if (writer_) writer_->Write(state_.step, metrics);
    progress_.Say(absl::StrFormat("%s step %d, held out:", options_.title, state_.step) +
                  HeldOutWords(metrics));
    // Rates speak of training only.
    told_ += Clock::now() - begin;
  }

  void Save() {
    const Clock::time_point begin = Clock::now();
    state_.cursor = source_->cursor();
    state_.tensors = optimizer_->State();
    state_.tensors[kUntoldSums] = sums_;
    SaveTrainState(states_, state_, options_.keep_states, processes_);
    state_.tensors.clear();
    saved_step_ = state_.step;
    saved_ = Clock::now();
    told_ += saved_ - begin;
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
  Clock::time_point started_, told_, asked_, saved_;
  int64_t tokens_told_ = 0, step_told_ = 0, step_asked_ = 0, ask_at_ = 0;
  int64_t saved_step_ = 0;
  double bad_steps_ = 0;
  Metrics last_;
  std::vector<std::pair<int64_t, Metrics>> evaluations_;
};

}  // namespace

TrainResult Train(const TrainLoopOptions& options, at::Device device, BatchSource* source,
                  Optimizer* optimizer, ProcessGroup* processes, StageWork* work) {
  const StopSignals signals(processes->rank() == 0 && options.progress != nullptr);
  return Loop(options, device, source, optimizer, processes, work).Run();
}

}  // namespace mambad::trainer
