// The engine's core and its door (engine/intake.h) under a load, by a clock of the simulation's
// own: no threads, no waiting, the same numbers on every machine. What callers were told is held
// against what then happened.

#ifndef MAMBAD_TESTS_ENGINE_QUEUE_SIMULATION_H_
#define MAMBAD_TESTS_ENGINE_QUEUE_SIMULATION_H_

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "engine/engine_core.h"
#include "engine/intake.h"
#include "engine/retry_delay.h"
#include "engine/self_check.h"
#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/engine/broken_backend.h"
#include "tests/support/formula_models.h"
#include "tests/support/model_directory.h"

namespace mambad::testing {

// The CPU backend, which counts the rows that it is given: what a step costs here.
class CountingBackend : public BrokenBackend {
 public:
  explicit CountingBackend(int64_t* rows)
      : BrokenBackend(kernels::CreateCpuBackend({.threads = 1}), Fault::kNone), rows_(rows) {}
  void Embed(const kernels::Batch& batch, const kernels::WeightMatrix& embedding,
             kernels::Workspace& workspace) override {
    *rows_ += batch.row_begin[batch.sequences];
    BrokenBackend::Embed(batch, embedding, workspace);
  }

 private:
  int64_t* const rows_;
};

class QueueSimulation {
 public:
  // What a caller does who was refused.
  enum class Refused {
    kGoesAway,      // for good
    kReturns,       // when it was told to, again and again until it is let in
    kStandsInLine,  // asks as soon as there is room, after those who were refused before
    kAsksOften,     // every asking_seconds, whatever it was told
  };

  explicit QueueSimulation(EngineOptions options, const std::string& model = "mamba") {
    MakeFormulaModel(model).directory.Write(directory_.path(), StoredAs::kFloat32);
    options.model = directory_.path();
    options.threads = 1;
    auto core = EngineCore::Open(options, nullptr, std::make_unique<CountingBackend>(&rows_));
    if (!core.ok()) ADD_FAILURE() << core.status();
    core_ = *std::move(core);
    intake_ = std::make_unique<Intake>(core_->capacity(), core_->facts().options, core_->stats(),
                                       core_->demands());
  }

  // Of a step: this, and so much more a row.
  double step_seconds = 0.010, row_seconds = 0.0005;
  // Between two times that kAsksOften asks.
  double asking_seconds = 0.05;

  EngineCore& core() { return *core_; }
  double Uniform() { return (static_cast<double>(random_()) + 0.5) / 4294967296.0; }
  double Exponential(double mean) { return -mean * std::log(Uniform()); }

  // A request that no other is like, which ends after `tokens`; `named`: its caller says so, else
  // the model ends it.
  Request Plain(int prompt_tokens, int tokens, bool named = true) {
    Request request;
    request.prompt = FormulaTokens(prompt_tokens, core_->facts().model.vocabulary, ++requests_);
    request.speculation.mode = SpeculationMode::kOff;
    request.stopping.ignore_eos = true;
    if (named) {
      request.stopping.max_tokens = tokens;
      return request;
    }
    request.sampling.allowed_token_ids = {1, 2};
    request.sampling.logit_bias = {{2, 1000.0f}};
    request.stopping.stop_token_ids = {2};
    request.stopping.min_tokens = tokens - 1;
    return request;
  }

  void Arrive(double seconds, Request request, Refused refused) {
    EXPECT_TRUE(core_->Validate(request).ok()) << core_->Validate(request);
    callers_.push_back({std::move(request), refused, seconds < measured_from_, {}});
    events_.emplace(kStart + absl::Seconds(seconds), callers_.size() - 1);
  }
  // Who is answered asks the same again, until so many seconds: it hears of its answer while the
  // next step runs already.
  void AskAgainUntil(double seconds) { again_until_ = kStart + absl::Seconds(seconds); }
  // Callers that arrive before are not looked at: they are how the engine came to know its pace.
  void MeasureFrom(double seconds) { measured_from_ = seconds; }

  // As the engine does when it is opened.
  void CheckItself() {
    EXPECT_TRUE(SelfCheck(*core_, [this] { return Clock(); }).ok());
    now_ = kStart;
  }

  // Until everything has been answered.
  void Run() {
    bool ran = false;
    for (;;) {
      intake_->Publish(core_->stats(), core_->demands());
      LetLineIn();
      LookForRoom();
      if (!ran && submitted_.empty()) {
        if (events_.empty()) return;
        now_ = std::max(now_, events_.begin()->first);
        HandleEvents();
      }
      intake_->HandOver();
      for (auto& [id, request] : std::exchange(submitted_, {})) {
        const absl::Status admitted = core_->Admit(id, std::move(request), sinks_[id], asked_[id]);
        EXPECT_TRUE(admitted.ok()) << "the door let in what the core refuses: " << admitted;
      }
      ran = core_->Step([this] { return Clock(); });
      HandleEvents();
    }
  }

  // Of the hints that callers kept to, how many let them in; answers of each caller.
  int64_t hints_kept = 0, hints_true = 0;
  std::vector<int64_t> Answers() const {
    std::vector<int64_t> answers;
    for (const Caller& caller : callers_)
      if (!caller.ignored) answers.push_back(caller.answers);
    return answers;
  }

  // What was told, divided by what happened: of each time that one was refused (asking often: of
  // the first), and of each that was let in and waited for more than a few steps.
  std::vector<double> hints, waits;

  // The longest time for which anybody was sent away, seconds.
  double longest_hint = 0;

  static double Median(std::vector<double> values) {
    if (values.empty()) return -1;
    std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
    return values[values.size() / 2];
  }

 private:
  struct Refusal {
    absl::Time when;
    absl::Duration hint;
  };
  struct Caller {
    Request request;
    Refused refused;
    bool ignored;
    std::vector<Refusal> refusals;  // whose end is not known yet
    int64_t answers = 0;
  };
  class Sink : public EventSink {
   public:
    Sink(QueueSimulation* simulation, size_t caller, absl::Duration told)
        : simulation_(*simulation), caller_(caller), told_(told) {}
    bool OnEvent(const TokenEvent& event) override {
      if (event.finish == FinishReason::kNone || event.index > 0) return true;
      simulation_.Answered(caller_, told_, absl::Microseconds(event.stats->queue_microseconds));
      return true;
    }

   private:
    QueueSimulation& simulation_;
    const size_t caller_;
    const absl::Duration told_;
  };

  // A step takes time by what has been run of it.
  absl::Time Clock() {
    if (rows_ > 0) now_ += absl::Seconds(step_seconds + row_seconds * static_cast<double>(rows_));
    rows_ = 0;
    return now_;
  }

  void HandleEvents() {
    while (!events_.empty() && events_.begin()->first <= now_) {
      const auto [when, caller] = *events_.begin();
      events_.erase(events_.begin());
      Ask(when, caller);
    }
  }

  void Answered(size_t index, absl::Duration told, absl::Duration waited) {
    Caller& caller = callers_[index];
    if (caller.ignored) return;
    ++caller.answers;
    if (waited > absl::Milliseconds(300)) waits.push_back(absl::FDivDuration(told, waited));
    if (now_ < again_until_) events_.emplace(now_ + absl::Milliseconds(1), index);
  }

  void Ask(absl::Time when, size_t index) {
    Caller& caller = callers_[index];
    const bool returns = caller.refused == Refused::kReturns && !caller.refusals.empty();
    const absl::Duration told = intake_->EstimatedWait(when);
    const absl::Status status = intake_->Ask(caller.request, when);
    if (returns && !caller.ignored) ++hints_kept, hints_true += status.ok();
    if (status.ok()) {
      for (const Refusal& refusal : caller.refusals) Compare(caller, refusal, when);
      caller.refusals.clear();
      const RequestId id = ++last_id_;
      asked_[id] = when;
      sinks_[id] = std::make_shared<Sink>(this, index, told);
      submitted_.emplace_back(id, caller.request);
      return;
    }
    const absl::Duration hint = RetryDelayOf(status);
    longest_hint = std::max(longest_hint, absl::ToDoubleSeconds(hint));
    if (caller.refused != Refused::kAsksOften || caller.refusals.empty())
      caller.refusals.push_back({when, hint});
    if (caller.refused == Refused::kReturns) events_.emplace(when + hint, index);
    if (caller.refused == Refused::kAsksOften)
      events_.emplace(when + absl::Seconds(asking_seconds), index);
    if (caller.refused == Refused::kGoesAway) gone_.push_back(index);
    if (caller.refused == Refused::kStandsInLine) line_.push_back(index);
  }

  void LetLineIn() {
    while (!line_.empty()) {
      const size_t first = line_.front();
      if (!intake_->Room(static_cast<int64_t>(callers_[first].request.prompt.size())).ok()) return;
      line_.pop_front();
      Ask(now_, first);
      if (!line_.empty() && line_.back() == first) return;  // others' places are kept
    }
  }

  // Of those that went away: would they be let in now? Room comes between steps only.
  void LookForRoom() {
    const auto finds_room = [this](size_t index) {
      Caller& caller = callers_[index];
      if (!intake_->Room(static_cast<int64_t>(caller.request.prompt.size())).ok()) return false;
      for (const Refusal& refusal : caller.refusals) Compare(caller, refusal, now_);
      return true;
    };
    gone_.erase(std::remove_if(gone_.begin(), gone_.end(), finds_room), gone_.end());
  }

  void Compare(const Caller& caller, const Refusal& refusal, absl::Time room) {
    if (!caller.ignored) hints.push_back(absl::FDivDuration(refusal.hint, room - refusal.when));
  }

  const absl::Time kStart = absl::FromUnixSeconds(1000000);
  TemporaryDirectory directory_;
  int64_t rows_ = 0;
  std::unique_ptr<EngineCore> core_;
  std::unique_ptr<Intake> intake_;
  std::mt19937 random_{20};
  absl::Time now_ = kStart;
  double measured_from_ = 0;
  absl::Time again_until_ = absl::InfinitePast();
  uint64_t requests_ = 0;
  RequestId last_id_ = 0;
  std::vector<Caller> callers_;
  std::multimap<absl::Time, size_t> events_;  // who asks when
  std::vector<size_t> gone_;
  std::deque<size_t> line_;
  std::vector<std::pair<RequestId, Request>> submitted_;
  std::map<RequestId, std::shared_ptr<EventSink>> sinks_;
  std::map<RequestId, absl::Time> asked_;
};

}  // namespace mambad::testing

#endif  // MAMBAD_TESTS_ENGINE_QUEUE_SIMULATION_H_
