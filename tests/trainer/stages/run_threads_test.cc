#include "trainer/stages/run_threads.h"

#include <ATen/Parallel.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdio>
#include <filesystem>
#include <string>

#include "nlohmann/json.hpp"
#include "tests/support/model_directory.h"
#include "tests/trainer/small_text.h"
#include "tests/trainer/stages/small_model.h"
#include "trainer/modules/language_model.h"
#include "trainer/stages/stage_run.h"

namespace mambad::trainer {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

class RunThreadsTest : public ::testing::Test {
 protected:
  static constexpr int kAll = 3;

  RunThreadsTest() {
    testing::WriteSmallTokenizer(folder_.path(), false);
    testing::WriteSmallModel(folder_.path(), 1);
    config_.run.output = folder_.path() + "/run";
    config_.run.device = DeviceChoice::kCpu;
    config_.student = folder_.path();
    config_.data.train = {"text.txt"};
    at::set_num_threads(kAll);
  }
  ~RunThreadsTest() override { at::set_num_threads(1); }

  // What a start of the run says while it chooses.
  std::string Choose() {
    StageRun run = OpenStageRun("finetune", config_.run, DescriptionOf(config_));
    const auto model = LoadModel(run, "student", config_.student);
    const std::string path = folder_.path() + "/said";
    run.progress = std::fopen(path.c_str(), "w");
    ChooseThreads(run, *model, 64);
    std::fclose(run.progress);
    return testing::ReadText(path);
  }
  void HoldAState() {
    std::filesystem::create_directories(folder_.path() + "/run/states/step-000000001");
  }
  nlohmann::json Kept() const {
    return nlohmann::json::parse(testing::ReadText(folder_.path() + "/run/inputs.json"))["threads"];
  }

  testing::TemporaryDirectory folder_;
  FinetuneConfig config_;
};

TEST_F(RunThreadsTest, WhatWasMeasuredIsTakenAndSaid) {
  EXPECT_THAT(Choose(), ::testing::MatchesRegex(
                            "finetune: [123] threads?, the fastest as measured at the start, .* ms "
                            "with 1, .* ms with 2, .* ms with 3\\); threads: N sets the number\n"));
  EXPECT_THAT(at::get_num_threads(), AnyOf(1, 2, kAll));
  EXPECT_EQ(Kept(), at::get_num_threads());
}

TEST_F(RunThreadsTest, ANumberInTheSettingsIsNotMeasured) {
  config_.run.threads = 2;
  EXPECT_EQ(Choose(), "");
  EXPECT_EQ(at::get_num_threads(), 2);
  EXPECT_EQ(Kept(), 2);
}

TEST_F(RunThreadsTest, OneThreadLeavesNothingToMeasure) {
  at::set_num_threads(1);
  EXPECT_EQ(Choose(), "");
  EXPECT_EQ(Kept(), 1);
}

// The last bits of what it computes depend on it.
TEST_F(RunThreadsTest, ARunThatGoesOnKeepsItsNumber) {
  config_.run.threads = 2;
  Choose();
  HoldAState();
  config_.run.threads = 0;
  at::set_num_threads(kAll);
  EXPECT_EQ(Choose(), "finetune: as many threads as before, 2; threads: N sets the number\n");
  EXPECT_EQ(at::get_num_threads(), 2);
  config_.run.threads = kAll;
  Choose();
  EXPECT_EQ(Kept(), kAll);
}

// What came to no state was not begun.
TEST_F(RunThreadsTest, ARunThatBeginsAnewMeasuresAnew) {
  config_.run.threads = 2;
  Choose();
  config_.run.threads = 0;
  at::set_num_threads(kAll);
  EXPECT_THAT(Choose(), HasSubstr("measured at the start"));
}

}  // namespace
}  // namespace mambad::trainer
