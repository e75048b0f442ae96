#include "trainer/run_lock.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <optional>
#include <string>

#include "tests/support/model_directory.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/small_text.h"

namespace mambad::trainer {
namespace {

using testing::ErrorOf;
using ::testing::HasSubstr;

TEST(RunLock, OneAtATimeAndTheOtherIsNamed) {
  testing::TemporaryDirectory folder;
  std::optional<RunLock> first(folder.path());
  EXPECT_THAT(
      ErrorOf([&] { RunLock second(folder.path()); }),
      HasSubstr("another trainer works there (process " + std::to_string(getpid()) + " on "));
  first.reset();
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  RunLock again(folder.path());
}

TEST(RunLock, WhatAKilledProcessLeavesHoldsNobodyUp) {
  testing::TemporaryDirectory folder;
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  const pid_t child = fork();
  if (child == 0) {
    RunLock held(folder.path());
    if (write(ready[1], "x", 1) != 1) _exit(1);
    pause();
  }
  char byte = 0;
  ASSERT_EQ(read(ready[0], &byte, 1), 1);
  EXPECT_THAT(ErrorOf([&] { RunLock mine(folder.path()); }),
              HasSubstr("process " + std::to_string(child)));
  kill(child, SIGKILL);
  waitpid(child, nullptr, 0);
  EXPECT_TRUE(std::filesystem::exists(folder.path() + "/run.lock"));
  RunLock mine(folder.path());
  EXPECT_THAT(testing::ReadText(folder.path() + "/run.lock"),
              HasSubstr("process " + std::to_string(getpid()) + " on "));
  close(ready[0]);
  close(ready[1]);
}

TEST(RunLock, AFolderThatCannotBeWrittenIsNamed) {
  EXPECT_THAT(ErrorOf([] { RunLock lock("/proc"); }), HasSubstr("/proc/run.lock: cannot be made"));
}

}  // namespace
}  // namespace mambad::trainer
