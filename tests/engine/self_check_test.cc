// The check before serving must pass on what works and fail on each thing that can be broken.

#include "engine/self_check.h"

#include <limits>
#include <memory>
#include <string>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/engine/broken_backend.h"
#include "tests/engine/checked_calls.h"
#include "tests/engine/engine_driver.h"

namespace mambad::testing {
namespace {

using ::testing::HasSubstr;

class CountingObserver : public StepObserver {
 public:
  void OnStep(const StepReport&) override { ++steps; }
  int steps = 0;
};

class SelfCheckTest : public ::testing::Test {
 protected:
  void Open(const std::string& target, const std::string& draft, Fault fault,
            EngineOptions options = {}) {
    MakeFormulaModel(target).directory.Write(target_directory_.path(), StoredAs::kFloat32);
    options.model = target_directory_.path();
    if (!draft.empty()) {
      MakeFormulaModel(draft, /*seed=*/1)
          .directory.Write(draft_directory_.path(), StoredAs::kFloat32);
      options.draft_model = draft_directory_.path();
    }
    auto core = EngineCore::Open(
        Checked(options), &observer_,
        std::make_unique<BrokenBackend>(kernels::CreateCpuBackend({.threads = 1}), fault));
    ASSERT_TRUE(core.ok()) << core.status();
    core_ = *std::move(core);
  }

  TemporaryDirectory target_directory_, draft_directory_;
  CountingObserver observer_;
  std::unique_ptr<EngineCore> core_;
};

class GoodModels : public SelfCheckTest,
                   public ::testing::WithParamInterface<std::pair<const char*, const char*>> {};

TEST_P(GoodModels, PassAndLeaveNoTrace) {
  Open(GetParam().first, GetParam().second, Fault::kNone);
  const absl::Status status = SelfCheck(*core_);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_TRUE(core_->idle());
  const EngineStats& stats = core_->stats();
  EXPECT_EQ(observer_.steps, 0);
  EXPECT_EQ(stats.steps + stats.prompt_tokens + stats.generation_tokens + stats.draft_tokens, 0);
  EXPECT_EQ(stats.slots_used + stats.pages_used + stats.waiting_tokens, 0);
  EXPECT_EQ(stats.step_seconds + stats.generation_tokens_per_second, 0);
  EXPECT_TRUE(stats.speculation_enabled);
  EXPECT_EQ(stats.slots_total, core_->facts().options.max_sequences);

  // The observer is back.
  Request request;
  request.prompt = {1, 2, 3};
  request.stopping.max_tokens = 2;
  auto sink = std::make_shared<CollectingSink>();
  ASSERT_TRUE(core_->Admit(1, std::move(request), sink, absl::Now()).ok());
  while (core_->Step(absl::Now)) {
  }
  EXPECT_GT(observer_.steps, 0);
}

INSTANTIATE_TEST_SUITE_P(Families, GoodModels,
                         ::testing::Values(std::pair("llama_tied", ""), std::pair("mamba", ""),
                                           std::pair("mamba", "mamba"),
                                           std::pair("mamba2", "llama_tied"),
                                           std::pair("hybrid_mamba", "mamba2"),
                                           std::pair("hybrid_mamba2", "mamba")),
                         [](const auto& info) {
                           return std::string(info.param.first) + "_" +
                                  (info.param.second[0] == 0 ? "lookup" : info.param.second);
                         });

struct Breakage {
  const char* name;
  Fault fault;
  const char *target, *draft, *says;
};

class BrokenMachines : public SelfCheckTest, public ::testing::WithParamInterface<Breakage> {};

TEST_P(BrokenMachines, Fail) {
  Open(GetParam().target, GetParam().draft, GetParam().fault);
  const absl::Status status = SelfCheck(*core_);
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().says));
  EXPECT_TRUE(core_->idle());
  EXPECT_EQ(core_->stats().steps, 0);
}

INSTANTIATE_TEST_SUITE_P(
    Faults, BrokenMachines,
    ::testing::Values(
        Breakage{"lookup_replay_lost", Fault::kLosesReplay, "mamba", "", "prompt lookup"},
        Breakage{"draft_replay_lost", Fault::kLosesReplay, "mamba2", "mamba2", "the draft model"},
        Breakage{"accepts_everything", Fault::kAcceptsEverything, "llama_tied", "mamba",
                 "other tokens"},
        Breakage{"lookup_accepts_everything", Fault::kAcceptsEverything, "hybrid_mamba", "",
                 "other tokens"},
        Breakage{"rows_depend_on_their_number", Fault::kRowsDependOnBatch, "mamba", "",
                 "other log-probabilities"},
        Breakage{"not_finite", Fault::kGivesNotANumber, "mamba", "", "not finite"}),
    [](const auto& info) { return info.param.name; });

TEST_F(SelfCheckTest, FailsWhenNothingWasDrafted) {
  Open("mamba", "", Fault::kNone);
  core_->set_speculation_enabled(false);
  EXPECT_THAT(std::string(SelfCheck(*core_).message()), HasSubstr("drafted nothing"));
}

TEST_F(SelfCheckTest, FailsWhenAProbeIsRefused) {
  EngineOptions options;
  options.max_sequences = 1;
  options.max_waiting = 0;
  Open("mamba", "", Fault::kNone, options);
  // The only place there is has been taken.
  Request request;
  request.prompt = {1};
  auto sink = std::make_shared<CollectingSink>();
  ASSERT_TRUE(core_->Admit(1, std::move(request), sink, absl::Now()).ok());
  EXPECT_THAT(std::string(SelfCheck(*core_).message()), HasSubstr("refused"));
}

TEST_F(SelfCheckTest, PassesInContextsOfAnyLength) {
  for (int context : {2, 3, 7, 8, 9, 16, 20, 21, 22, 40}) {
    EngineOptions options;
    options.max_context = context;
    Open("mamba", "mamba", Fault::kNone, options);
    const absl::Status status = SelfCheck(*core_);
    EXPECT_TRUE(status.ok()) << "context " << context << ": " << status;
  }
}

TEST_F(SelfCheckTest, AFailureIsCountedAndOutlivesTheForgetting) {
  Open("mamba", "", Fault::kNone);
  core_->CountSelfCheckFailure();
  core_->set_speculation_enabled(false);
  core_->ForgetHistory();
  EXPECT_EQ(core_->stats().self_check_failures, 1);
  EXPECT_FALSE(core_->stats().speculation_enabled);
}

}  // namespace
}  // namespace mambad::testing
