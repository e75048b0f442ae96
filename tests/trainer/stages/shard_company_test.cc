// Processes that make shards: who is signalled stops all, who is ready waits.

#include "trainer/stages/shard_company.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <thread>

#include "tests/trainer/expect_error.h"
#include "tests/trainer/two_processes.h"

namespace mambad::trainer {
namespace {

using testing::AsTwoProcesses;
using testing::ErrorOf;
using testing::FreePort;
using ::testing::HasSubstr;

ShardCompany::Options Quick(int signal) {
  ShardCompany::Options options;
  options.between_looks = std::chrono::milliseconds(10);
  options.own_signal = [signal] { return signal; };
  return options;
}

void WorkUntilStopped(ShardCompany* company) {
  while (company->Look() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
}

TEST(ShardCompany, ASignalToOneStopsBoth) {
  for (const int signalled : {0, 1}) {
    std::atomic<int> told = 0;
    AsTwoProcesses(FreePort(), [&](ProcessGroup* processes) {
      ShardCompany company(processes, Quick(processes->rank() == signalled ? SIGTERM : 0));
      WorkUntilStopped(&company);
      told += company.Meet() == SIGTERM;
    });
    EXPECT_EQ(told, 2);
  }
}

TEST(ShardCompany, WhoIsReadyWaitsForWhoWorks) {
  std::atomic<bool> works = true;
  std::atomic<int> finished = 0;
  AsTwoProcesses(FreePort(), [&](ProcessGroup* processes) {
    ShardCompany company(processes, Quick(0));
    if (processes->rank() == 0) {
      for (int step = 0; step < 30; ++step) {
        EXPECT_EQ(company.Look(), 0);
        std::this_thread::sleep_for(std::chrono::milliseconds(10));
      }
      works = false;
    }
    finished += company.Meet() == 0 && !works;
  });
  EXPECT_EQ(finished, 2);
}

TEST(ShardCompany, WhoWaitsCanBeSignalled) {
  std::atomic<int> told = 0;
  AsTwoProcesses(FreePort(), [&](ProcessGroup* processes) {
    ShardCompany::Options options = Quick(0);
    std::atomic<int> asked = 0;
    if (processes->rank() == 1) options.own_signal = [&] { return ++asked > 3 ? SIGINT : 0; };
    ShardCompany company(processes, options);
    if (processes->rank() == 0) WorkUntilStopped(&company);
    told += company.Meet() == SIGINT;
  });
  EXPECT_EQ(told, 2);
}

TEST(ShardCompany, WhoIsSilentHasGone) {
  std::atomic<bool> missed = false;
  AsTwoProcesses(FreePort(), [&](ProcessGroup* processes) {
    ShardCompany::Options options = Quick(0);
    options.patience = std::chrono::milliseconds(50);
    ShardCompany company(processes, options);
    if (processes->rank() == 1) {
      EXPECT_THAT(ErrorOf([&] { company.Meet(); }),
                  HasSubstr("process 1 of 2 lost another one: process 0 was not heard of for "));
      missed = true;
    }
    while (!missed) std::this_thread::sleep_for(std::chrono::milliseconds(10));
  });
}

TEST(ShardCompany, OneAloneWaitsForNobody) {
  const auto alone = JoinProcessGroup({}, false);
  EXPECT_EQ(ShardCompany(alone.get(), Quick(0)).Meet(), 0);
  ShardCompany company(alone.get(), Quick(SIGTERM));
  EXPECT_EQ(company.Look(), SIGTERM);
  EXPECT_EQ(company.Meet(), SIGTERM);
}

}  // namespace
}  // namespace mambad::trainer
