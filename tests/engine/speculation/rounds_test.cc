// What a step asks of the device around its operations: which rounds, how often it waits, what it
// reads back.

#include <algorithm>
#include <memory>
#include <set>
#include <tuple>
#include <vector>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/engine/broken_backend.h"
#include "tests/engine/engine_driver.h"

namespace mambad::testing {
namespace {

using kernels::RoundKind;
using kernels::RoundShape;

class Spy : public BrokenBackend {
 public:
  Spy() : BrokenBackend(kernels::CreateCpuBackend({.threads = 1}), Fault::kNone) {}
  bool BeginRound(const RoundShape& shape) override {
    rounds.push_back(shape);
    if (shape.kind == RoundKind::kDecode) recorded.kept = ++recorded.recordings;
    return BrokenBackend::BeginRound(shape);
  }
  void Synchronize() override {
    ++waits;
    BrokenBackend::Synchronize();
  }
  void Read(void* host, const void* device, size_t bytes) override {
    reads.push_back(bytes);
    BrokenBackend::Read(host, device, bytes);
  }

  kernels::RecordedRounds Recorded() const override { return recorded; }

  kernels::RecordedRounds recorded;
  std::vector<RoundShape> rounds;
  std::vector<size_t> reads;
  int waits = 0;
};

class Rounds : public ::testing::Test {
 protected:
  void Open(const std::string& target, const std::string& draft, EngineOptions options = {}) {
    auto spy = std::make_unique<Spy>();
    spy_ = spy.get();
    driver_ = std::make_unique<EngineDriver>(target, draft, options, std::move(spy));
    Forget();
  }
  void Forget() {
    spy_->rounds.clear();
    spy_->reads.clear();
    spy_->waits = 0;
  }
  Request Drafting(int prompt, int tokens, int drafts, uint64_t seed = 0) const {
    Request request = driver_->Plain(prompt, tokens, seed);
    request.speculation.mode = SpeculationMode::kDraftModel;
    request.speculation.draft_length = drafts;
    return request;
  }
  bool Step() { return driver_->core().Step(absl::Now); }

  Spy* spy_ = nullptr;
  std::unique_ptr<EngineDriver> driver_;
};

TEST_F(Rounds, DecodingHasFewShapesHoweverManySequencesAndTokens) {
  EngineOptions options;
  options.max_sequences = 6;
  Open("hybrid_mamba", "mamba", options);
  // Of unequal lengths, so that they end one after another.
  for (int i = 0; i < 6; ++i) driver_->Send(Drafting(5 + i, 40 + 9 * i, 3, i));
  driver_->RunAll();
  std::set<std::tuple<bool, bool, int, int, int64_t>> shapes;
  size_t decoding = 0;
  for (const RoundShape& shape : spy_->rounds) {
    if (shape.kind == RoundKind::kPrompts) {
      EXPECT_EQ(shape, RoundShape());
      continue;
    }
    ++decoding;
    EXPECT_THAT(shape.sequences, ::testing::AnyOf(1, 2, 4, 6));
    EXPECT_LE(shape.draft_length, 3);
    shapes.emplace(shape.draft_model, shape.logprobs, shape.sequences, shape.draft_length,
                   shape.context);
  }
  EXPECT_GT(decoding, spy_->rounds.size() * 3 / 4);
  EXPECT_LE(shapes.size(), 12u);
}

TEST_F(Rounds, WhatTheDeviceRecordedIsCountedAmongTheEnginesNumbers) {
  Open("mamba", "mamba");
  driver_->Send(Drafting(5, 20, 2));
  driver_->RunAll();
  ASSERT_GT(spy_->recorded.kept, 0);
  EXPECT_EQ(driver_->core().stats().recorded_rounds, spy_->recorded.kept);
  EXPECT_EQ(driver_->core().stats().round_recordings, spy_->recorded.recordings);
}

TEST_F(Rounds, ADraftModelThatCatchesUpMakesARoundOfPrompts) {
  Open("mamba", "mamba");
  driver_->Send(Drafting(9, 30, 2));
  ASSERT_TRUE(Step());  // reads the prompt
  ASSERT_TRUE(Step());  // the draft model reads it, too
  EXPECT_EQ(spy_->rounds[0].kind, RoundKind::kPrompts);
  EXPECT_EQ(spy_->rounds[1].kind, RoundKind::kPrompts);
  for (int i = 0; i < 4; ++i) {
    ASSERT_TRUE(Step());
    EXPECT_EQ(spy_->rounds.back().kind, RoundKind::kDecode);
    EXPECT_TRUE(spy_->rounds.back().draft_model);
    EXPECT_EQ(spy_->rounds.back().draft_length, 2);
  }
}

// A round of one shape has as many steps of the draft model as it has drafts, whoever makes the
// longest: described again and replayed, it is the same.
TEST(CheckedRounds, DraftersOfUnequalLengthsShareARound) {
  EngineOptions options;
  const auto request = [](const EngineDriver& driver, SpeculationMode mode, int drafts) {
    Request request = driver.Plain(12, 40);
    for (size_t i = 0; i < request.prompt.size(); ++i) request.prompt[i] = 1 + i % 3;
    request.speculation.mode = mode;
    if (mode != SpeculationMode::kOff) request.speculation.draft_length = drafts;
    return request;
  };
  EngineDriver plain("mamba", "", options);
  const Answer expected = plain.Run(request(plain, SpeculationMode::kOff, 0));
  options.check_calls = true;
  EngineDriver driver("mamba", "mamba", options);
  for (const int drafts : {2, 4, 1, 3, 2, 4}) {
    const auto model = driver.Send(request(driver, SpeculationMode::kDraftModel, drafts));
    const auto lookup = driver.Send(request(driver, SpeculationMode::kPromptLookup, 4));
    driver.RunAll();
    EXPECT_EQ(model->answers[0].tokens, expected.tokens);
    EXPECT_EQ(lookup->answers[0].tokens, expected.tokens);
    EXPECT_GT(lookup->answers[0].stats->speculation.drafted, 20);
  }
}

TEST_F(Rounds, TheContextCountsWhereThereIsAttention) {
  EngineOptions options;
  options.max_context = 500;
  for (const std::string model : {"mamba", "hybrid_mamba"}) {
    Open(model, "", options);
    driver_->Send(driver_->Plain(250, 20));
    driver_->RunAll();
    std::set<int64_t> contexts;
    for (const RoundShape& shape : spy_->rounds) {
      if (shape.kind == RoundKind::kDecode) contexts.insert(shape.context);
    }
    if (model == "mamba") {
      EXPECT_THAT(contexts, ::testing::ElementsAre(500));
    } else {
      EXPECT_THAT(contexts, ::testing::ElementsAre(256, 500));
    }
  }
}

// Steps that admit and that assign pages among them.
TEST_F(Rounds, AStepWaitsOnceAndReadsOnceWhatIsWanted) {
  Open("hybrid_mamba", "mamba");
  const auto run = [&](int logprobs) {
    for (int i = 0; i < 3; ++i) {
      Request request = Drafting(5 + i, 0, 2, i);
      request.output.logprobs = logprobs;
      request.sampling.frequency_penalty = 0.5f;
      driver_->Send(std::move(request));
    }
    size_t most = 0;
    for (int step = 0; step < 90; ++step) {
      Forget();
      EXPECT_TRUE(Step());
      EXPECT_EQ(spy_->waits, 1);
      EXPECT_EQ(spy_->reads.size(), 1u);
      most = std::max(most, spy_->reads[0]);
    }
    driver_->core().CancelAll();
    driver_->RunAll();
    return most;
  };
  const size_t nothing = run(-1), chosen = run(0), alternatives = run(2);
  EXPECT_LT(nothing, 2000u);
  EXPECT_LT(nothing, chosen);
  EXPECT_LT(10 * chosen, alternatives);
}

}  // namespace
}  // namespace mambad::testing
