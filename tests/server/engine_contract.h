// What the cases of the engine's contract share: both engines, and a reader that holds events to
// their rules.

#ifndef MAMBAD_TESTS_SERVER_ENGINE_CONTRACT_H_
#define MAMBAD_TESTS_SERVER_ENGINE_CONTRACT_H_

#include <algorithm>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "engine/engine.h"
#include "engine/steady_time.h"
#include "gtest/gtest.h"
#include "tests/server/fake_engine.h"
#include "tests/support/formula_models.h"
#include "tests/support/model_directory.h"

namespace mambad {

inline constexpr absl::Duration kPatience = absl::Seconds(60);

// What has been told of one request, held to the rules of events: of its own samples, one after
// another, nothing of a sample after its end.
class Reader : public EventSink {
 public:
  struct Sample {
    std::vector<TokenId> tokens;
    std::string text;
    int ends = 0;
    FinishReason finish = FinishReason::kNone;
    RequestStats stats;
  };

  explicit Reader(int samples = 1) : samples_(samples) {}

  // Falls behind at the event with this number, from 1 on; 0: at each one that is no end.
  void FallBehindAt(int event) { behind_at_ = event; }
  // Called with each event, outside of any lock.
  void OnEach(std::function<void(const TokenEvent&)> call) { on_each_ = std::move(call); }

  bool OnEvent(const TokenEvent& event) override {
    int number = 0;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      EXPECT_FALSE(inside_) << "two events at once";
      inside_ = true;
      number = ++events_;
      Read(event);
    }
    if (on_each_) on_each_(event);
    std::lock_guard<std::mutex> lock(mutex_);
    inside_ = false;
    changed_.notify_all();
    const bool behind =
        behind_at_ == 0 ? event.finish == FinishReason::kNone : number == behind_at_;
    times_behind_ += behind ? 1 : 0;
    return !behind;
  }

  // Until it has ended, every sample of it, and nothing is called for it any more.
  bool Wait() {
    return WaitFor([this] {
      return !inside_ &&
             std::all_of(samples_.begin(), samples_.end(), [](const Sample& s) { return s.ends; });
    });
  }
  bool WaitForEvents(int count) {
    return WaitFor([&] { return events_ >= count; });
  }
  int events() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return events_;
  }
  int times_behind() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return times_behind_;
  }
  Sample sample(int index = 0) const {
    std::lock_guard<std::mutex> lock(mutex_);
    return samples_[index];
  }
  FinishReason finish(int index = 0) const { return sample(index).finish; }
  RequestId id() const {
    std::lock_guard<std::mutex> lock(mutex_);
    return id_;
  }

 private:
  void Read(const TokenEvent& event) {
    if (events_ == 1) id_ = event.request;
    EXPECT_EQ(event.request, id_);
    ASSERT_GE(event.index, 0);
    ASSERT_LT(event.index, static_cast<int>(samples_.size()));
    Sample& sample = samples_[event.index];
    EXPECT_EQ(sample.ends, 0) << "an event after the end";
    sample.tokens.insert(sample.tokens.end(), event.tokens.begin(), event.tokens.end());
    sample.text += event.text;
    EXPECT_EQ(event.stats.has_value(), event.finish != FinishReason::kNone);
    if (event.finish == FinishReason::kNone) return;
    ++sample.ends;
    sample.finish = event.finish;
    if (event.stats.has_value()) sample.stats = *event.stats;
  }
  template <typename Condition>
  bool WaitFor(const Condition& condition) {
    std::unique_lock<std::mutex> lock(mutex_);
    return changed_.wait_for(lock, absl::ToChronoMilliseconds(kPatience), condition);
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;
  int behind_at_ = -1;
  std::function<void(const TokenEvent&)> on_each_;
  bool inside_ = false;
  int events_ = 0, times_behind_ = 0;
  RequestId id_ = 0;
  std::vector<Sample> samples_;
};

// A step takes a while: what a test does meanwhile comes before the answer's end.
class SlowSteps : public StepObserver {
 public:
  void OnStep(const StepReport&) override { absl::SleepFor(absl::Milliseconds(1)); }
};

struct EngineKind {
  const char* name;
  absl::StatusOr<std::unique_ptr<Engine>> (*open)(const EngineOptions&, StepObserver*);
};

inline absl::StatusOr<std::unique_ptr<Engine>> OpenReal(const EngineOptions& options,
                                                        StepObserver* observer) {
  const testing::TemporaryDirectory directory;
  testing::MakeFormulaModel("hybrid_mamba")
      .directory.Write(directory.path(), testing::StoredAs::kFloat32);
  EngineOptions opened = options;
  opened.model = directory.path();
  opened.threads = 1;
  return Engine::Open(opened, observer);
}

inline absl::StatusOr<std::unique_ptr<Engine>> OpenFake(const EngineOptions& options,
                                                        StepObserver* observer) {
  return OpenFakeEngine(options, observer);
}

class EngineContractTest : public ::testing::TestWithParam<EngineKind> {
 protected:
  static constexpr int kContext = 512;

  void Open(EngineOptions options = {}) {
    options.max_context = kContext;
    options.speculation = false;  // a step, a token: answers take as long as they are
    auto engine = GetParam().open(options, &slow_steps_);
    ASSERT_TRUE(engine.ok()) << engine.status();
    engine_ = *std::move(engine);
  }
  // Room for `running` sequences and `waiting` requests more.
  void Open(int running, int waiting) {
    EngineOptions options;
    options.max_sequences = running;
    options.max_waiting = waiting;
    Open(options);
  }

  // Goes on to max_tokens (0: to the context's end).
  static Request Asking(int64_t max_tokens, int samples = 1, int prompt = 4) {
    Request request;
    for (int i = 0; i < prompt; ++i) request.prompt.push_back(1 + i % 9);
    request.stopping.max_tokens = max_tokens;
    request.stopping.ignore_eos = true;
    request.output.samples = samples;
    return request;
  }
  // The reader of a request that was taken, and its id.
  std::shared_ptr<Reader> Submit(Request request, RequestId* id = nullptr,
                                 std::shared_ptr<Reader> reader = nullptr) {
    if (reader == nullptr) reader = std::make_shared<Reader>(request.output.samples);
    const absl::StatusOr<RequestId> submitted = engine_->Submit(std::move(request), reader);
    EXPECT_TRUE(submitted.ok()) << submitted.status();
    if (submitted.ok() && id != nullptr) *id = *submitted;
    return reader;
  }
  absl::Status Refused(Request request) {
    const auto reader = std::make_shared<Reader>();
    const absl::Status status = engine_->Submit(std::move(request), reader).status();
    EXPECT_EQ(reader->events(), 0);
    return status;
  }
  // One that holds its slots and does not move: its reader has fallen behind.
  std::shared_ptr<Reader> Hold(RequestId* id, int samples = 1) {
    const auto reader = std::make_shared<Reader>(samples);
    reader->FallBehindAt(1);
    Submit(Asking(0, samples), id, reader);
    EXPECT_TRUE(reader->WaitForEvents(1));
    EXPECT_TRUE(Becomes([&] { return engine_->Stats().slots_used == samples; }));
    return reader;
  }
  // What a request is answered that nothing disturbs.
  Reader::Sample Undisturbed(const Request& request) {
    const auto reader = Submit(request);
    EXPECT_TRUE(reader->Wait());
    return reader->sample();
  }
  template <typename Condition>
  static bool Becomes(const Condition& condition) {
    const absl::Time late = SteadyNow() + kPatience;
    while (!condition()) {
      if (SteadyNow() >= late) return false;
      absl::SleepFor(absl::Milliseconds(1));
    }
    return true;
  }
  // The events of a step or two may come all the same, then nothing.
  static void ExpectStandsStill(const Reader& reader) {
    int before = -1;
    EXPECT_TRUE(Becomes([&] {
      const bool still = reader.events() == before;
      before = reader.events();
      if (!still) absl::SleepFor(absl::Milliseconds(100));
      return still;
    }));
  }
  // The final event comes before the numbers are published.
  void ExpectNothingHeld() {
    EXPECT_TRUE(Becomes([this] {
      const EngineStats stats = engine_->Stats();
      return stats.slots_used + stats.pages_used + stats.running + stats.waiting == 0;
    })) << "slots, pages or queue places are still held";
  }

  SlowSteps slow_steps_;
  std::unique_ptr<Engine> engine_;
};

// Every file of cases runs them over these.
inline auto BothEngines() {
  return ::testing::Values(EngineKind{"Real", OpenReal}, EngineKind{"Fake", OpenFake});
}
inline std::string NameOfEngine(const ::testing::TestParamInfo<EngineKind>& info) {
  return info.param.name;
}

}  // namespace mambad

#endif  // MAMBAD_TESTS_SERVER_ENGINE_CONTRACT_H_
