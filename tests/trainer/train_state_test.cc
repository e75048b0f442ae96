// States that are whole or not there.

#include "trainer/train_state.h"

#include <ATen/ATen.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"

namespace mambad::trainer {
namespace {

using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;
namespace filesystem = std::filesystem;

TrainState State(int64_t step, int64_t numbers = 1000) {
  TrainState state;
  state.step = step;
  state.tokens = step * 512;
  state.seconds = 0.1 * static_cast<double>(step);
  state.loss = {17, 2.0 / 3.0, 1.0 / 3.0, 2};
  state.cursor = {3, 14, 15};
  state.tensors["average"] = at::full({numbers}, static_cast<double>(step), at::kFloat);
  state.tensors["step"] = at::full({}, 7.0, at::kFloat);
  return state;
}

std::vector<std::string> Names(const std::string& folder) {
  std::vector<std::string> names;
  for (const auto& entry : filesystem::directory_iterator(folder)) {
    names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

TEST(TrainState, ComesBackAsItWasAndOldOnesGo) {
  testing::TemporaryDirectory folder;
  const std::string states = folder.path() + "/states";
  const auto alone = JoinProcessGroup({}, false);
  EXPECT_FALSE(LoadNewestTrainState(states, *alone));
  for (const int64_t step : {10, 20, 30}) SaveTrainState(states, State(step), 2, alone.get());
  EXPECT_THAT(Names(states), ElementsAre("step-000000020", "step-000000030"));
  const auto found = LoadNewestTrainState(states, *alone);
  ASSERT_TRUE(found);
  EXPECT_EQ(found->step, 30);
  EXPECT_EQ(found->tokens, 30 * 512);
  EXPECT_EQ(found->seconds, 0.1 * 30);
  EXPECT_EQ(found->loss, State(30).loss);
  EXPECT_EQ(found->cursor, (DatasetCursor{3, 14, 15}));
  EXPECT_TRUE(at::equal(found->tensors.at("average"), State(30).tensors.at("average")));
  // The same step again replaces it.
  SaveTrainState(states, State(30, 5), 2, alone.get());
  EXPECT_EQ(LoadNewestTrainState(states, *alone)->tensors.at("average").numel(), 5);
}

TEST(TrainState, WhatAKillLeftUnfinishedIsNoState) {
  testing::TemporaryDirectory folder;
  const std::string states = folder.path() + "/states";
  const auto alone = JoinProcessGroup({}, false);
  SaveTrainState(states, State(10), 2, alone.get());
  filesystem::create_directories(states + "/unfinished-000000020");
  testing::WriteText(states + "/unfinished-000000020/state-0-of-1.json", "{");
  EXPECT_EQ(LoadNewestTrainState(states, *alone)->step, 10);
  SaveTrainState(states, State(20), 2, alone.get());
  EXPECT_EQ(LoadNewestTrainState(states, *alone)->step, 20);
  EXPECT_THAT(Names(states), ElementsAre("step-000000010", "step-000000020"));
}

TEST(TrainState, DamageAndOtherProcessCountsAreNamed) {
  testing::TemporaryDirectory folder;
  const std::string states = folder.path() + "/states";
  const auto alone = JoinProcessGroup({}, false);
  SaveTrainState(states, State(10), 2, alone.get());
  const std::string stem = states + "/step-000000010/state-0-of-1";
  const std::string good = testing::ReadText(stem + ".safetensors");
  testing::WriteText(stem + ".safetensors", good.substr(0, good.size() - 8));
  const auto error = [&] { return ErrorOf([&] { LoadNewestTrainState(states, *alone); }); };
  EXPECT_THAT(error(), HasSubstr(stem + ".safetensors"));
  EXPECT_THAT(error(), HasSubstr("; remove " + states + "/step-000000010 to begin anew"));
  filesystem::copy(states + "/step-000000010", states + "/step-000000007");
  EXPECT_THAT(error(), HasSubstr("; remove " + states + "/step-000000010 to go on from step 7"));
  testing::WriteText(stem + ".safetensors", good);
  testing::WriteText(stem + ".json", "{\"step\": 10}");
  EXPECT_THAT(error(), HasSubstr("\"tokens\": expected a number"));
  filesystem::remove(stem + ".json");
  EXPECT_THAT(error(), HasSubstr(stem + ".json"));
  filesystem::rename(stem + ".safetensors", states + "/step-000000010/state-0-of-2.safetensors");
  EXPECT_EQ(error(),
            states + "/step-000000010: saved by 2 processes, expected as many to go on, found 1");
}

// A full disk: the error names the file, and what was saved before is as it was.
TEST(TrainState, AFullDiskLosesNothingSavedBefore) {
  testing::TemporaryDirectory folder;
  const std::string states = folder.path() + "/states";
  const auto alone = JoinProcessGroup({}, false);
  SaveTrainState(states, State(10), 1, alone.get());
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small = {100000, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const std::string error =
      ErrorOf([&] { SaveTrainState(states, State(20, 100000), 1, alone.get()); });
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, SIG_DFL);
  EXPECT_THAT(error, HasSubstr("state-0-of-1.safetensors"));
  EXPECT_THAT(error, HasSubstr("File too large"));
  EXPECT_THAT(Names(states), ElementsAre("step-000000010"));
  EXPECT_TRUE(at::equal(LoadNewestTrainState(states, *alone)->tensors.at("average"),
                        State(10).tensors.at("average")));
}

TEST(TrainState, AFolderThatCannotBeWrittenIsNamed) {
  const auto alone = JoinProcessGroup({}, false);
  EXPECT_THAT(ErrorOf([&] { SaveTrainState("/proc/nowhere", State(1), 1, alone.get()); }),
              HasSubstr("/proc/nowhere"));
}

// Killed at any moment while it saves one state after the other, the newest that is there is whole.
TEST(TrainState, KilledAtAnyMomentTheNewestStateIsWhole) {
  testing::TemporaryDirectory folder;
  const std::string states = folder.path() + "/states";
  const auto alone = JoinProcessGroup({}, false);
  int64_t newest = 0;
  // Later and later, until a slow disk has taken a state too.
  for (int round = 0; round < 15 || (newest == 0 && round < 300); ++round) {
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (int64_t step = newest + 1;; ++step) SaveTrainState(states, State(step), 2, alone.get());
    }
    usleep(static_cast<useconds_t>(3000 + 1700 * round));
    kill(child, SIGKILL);
    waitpid(child, nullptr, 0);
    const auto found = LoadNewestTrainState(states, *alone);
    if (!found) continue;
    EXPECT_GE(found->step, newest);
    newest = found->step;
    EXPECT_TRUE(at::equal(found->tensors.at("average"), State(newest).tensors.at("average")));
    EXPECT_EQ(found->tokens, newest * 512);
  }
  EXPECT_GT(newest, 0);
}

}  // namespace
}  // namespace mambad::trainer
