// Speculation that the engine chooses by itself, on a device whose times are made up: whatever its
// rounds take, on the device and on the host before them, answers come no later than without
// drafts, and are the same.

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/engine/broken_backend.h"
#include "tests/engine/engine_driver.h"

namespace mambad::testing {
namespace {

using kernels::RoundKind;
using kernels::RoundShape;

// Seconds, whatever the rows: what a round takes without drafts and each draft of the draft model
// takes besides; the host's part in a round, without drafts and with them; to record a round of a
// new shape, and each of its drafts besides.
struct Times {
  double round = 100e-6, draft = 10e-6;
  double host = 5e-6, host_with_drafts = 5e-6;
  double recording = 0, recording_draft = 0;
};

// Computes like a CPU, in times like those. What is kept of rounds is their shapes.
class TimedDevice : public BrokenBackend {
 public:
  explicit TimedDevice(const Times& times)
      : BrokenBackend(kernels::CreateCpuBackend({.threads = 1}), Fault::kNone), times_(times) {}

  bool BeginRound(const RoundShape& shape) override {
    const bool drafts = shape.draft_model && shape.draft_length > 0;
    taken_ = {};
    taken_.verify = times_.round;
    if (drafts) taken_.draft = times_.draft * shape.draft_length;
    taken_.whole = taken_.draft + taken_.verify;
    double host = shape.draft_length > 0 ? times_.host_with_drafts : times_.host;
    const bool known = std::find(shapes_.begin(), shapes_.end(), shape) != shapes_.end();
    if (shape.kind == RoundKind::kDecode && !known) {
      shapes_.push_back(shape);
      host += times_.recording + (drafts ? times_.recording_draft * shape.draft_length : 0);
    }
    now += absl::Seconds(taken_.whole + host);
    return BrokenBackend::BeginRound(shape);
  }
  kernels::RoundTimes TakeRoundTimes() override { return taken_; }
  kernels::RecordedRounds Recorded() const override {
    const auto count = static_cast<int>(shapes_.size());
    return {count, count};
  }

  absl::Time now = absl::UnixEpoch();

 private:
  const Times times_;
  kernels::RoundTimes taken_;
  std::vector<RoundShape> shapes_;  // recorded
};

constexpr int kSequences = 3, kTokens = 3000;  // of an answer

struct Outcome {
  double seconds = 0;  // until so many tokens were there as all have before the first one ends
  int64_t drafted = 0;
  std::vector<std::vector<TokenId>> answers;
};

// Answers that begin together, with a draft model that is the target itself.
Outcome Decode(const Times& times, SpeculationMode mode, EngineOptions options) {
  auto device = std::make_unique<TimedDevice>(times);
  TimedDevice& clock = *device;
  options.max_sequences = kSequences;
  options.prompt_lookup = false;
  TemporaryDirectory draft;
  MakeFormulaModel("mamba").directory.Write(draft.path(), StoredAs::kFloat32);
  options.draft_model = draft.path();
  EngineDriver driver("mamba", "", options, std::move(device));
  std::vector<std::shared_ptr<CollectingSink>> sinks;
  for (int i = 0; i < kSequences; ++i) {
    Request request = driver.Plain(3, kTokens, i);
    request.speculation.mode = mode;
    sinks.push_back(driver.Send(std::move(request)));
  }
  Outcome outcome;
  const absl::Time begin = clock.now;
  while (driver.core().Step([&] { return clock.now; })) {
    const bool counts = driver.core().stats().generation_tokens <= kTokens;
    if (counts) outcome.seconds = absl::ToDoubleSeconds(clock.now - begin);
  }
  outcome.drafted = driver.core().stats().draft_tokens;
  for (const auto& sink : sinks) outcome.answers.push_back(sink->answers[0].tokens);
  return outcome;
}

// Drafts that all stay, and gain something by the device's own times.
TEST(DeviceTimes, WhatTheHostTakesForDraftsIsNoLoss) {
  Times times;
  times.draft = 60e-6;
  times.host_with_drafts = 105e-6;
  EngineOptions options;
  options.max_draft_length = 1;
  const Outcome plain = Decode(times, SpeculationMode::kOff, options);
  const Outcome chosen = Decode(times, SpeculationMode::kAuto, options);
  EXPECT_EQ(chosen.answers, plain.answers);
  EXPECT_EQ(plain.drafted, 0);
  EXPECT_GT(chosen.drafted, 0);
  EXPECT_LT(chosen.seconds, 1.05 * plain.seconds);
}

TEST(DeviceTimes, DraftsThatStayGainThoughRoundsAreRecorded) {
  Times times;
  times.recording = 500e-6;
  times.recording_draft = 250e-6;
  const Outcome plain = Decode(times, SpeculationMode::kOff, {});
  const Outcome chosen = Decode(times, SpeculationMode::kAuto, {});
  EXPECT_EQ(chosen.answers, plain.answers);
  EXPECT_LT(chosen.seconds, 0.5 * plain.seconds);
}

}  // namespace
}  // namespace mambad::testing
