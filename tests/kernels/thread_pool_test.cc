#include "kernels/cpu/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

namespace mambad::kernels {
namespace {

TEST(ThreadPoolTest, EveryThreadRunsTheTaskOnce) {
  for (int threads : {1, 2, 3, 8}) {
    ThreadPool pool(threads);
    ASSERT_EQ(pool.threads(), threads);
    std::vector<int> runs(threads);
    for (int i = 1; i <= 300; ++i) {
      pool.Run([&runs](int thread) { ++runs[thread]; });
      ASSERT_EQ(runs, std::vector<int>(threads, i));
    }
  }
}

TEST(ThreadPoolTest, BorrowedThreadsRunTheTaskOnceToo) {
  static int calls;
  calls = 0;
  ThreadPool pool(3, [](int threads, void (*call)(const void*, int), const void* task) {
    ++calls;
    for (int thread = threads - 1; thread >= 0; --thread) call(task, thread);
  });
  ASSERT_EQ(pool.threads(), 3);
  std::vector<int> runs(3);
  pool.Run([&runs](int thread) { ++runs[thread]; });
  int64_t covered = 0;
  pool.Split(100, 8, [&](int64_t begin, int64_t end, int) { covered += end - begin; });
  EXPECT_EQ(runs, std::vector<int>(3, 1));
  EXPECT_EQ(covered, 100);
  EXPECT_EQ(calls, 2);
}

TEST(ThreadPoolTest, TheCallerIsThreadZeroAndSeesAllWrites) {
  ThreadPool pool(4);
  const std::thread::id caller = std::this_thread::get_id();
  std::vector<std::thread::id> ids(4);
  std::vector<int64_t> values(4);
  for (int64_t i = 0; i < 200; ++i) {
    pool.Run([&](int thread) {
      ids[thread] = std::this_thread::get_id();
      values[thread] = i * 4 + thread;
    });
    for (int thread = 0; thread < 4; ++thread) {
      ASSERT_EQ(values[thread], i * 4 + thread);
      ASSERT_EQ(ids[thread] == caller, thread == 0);
    }
  }
}

TEST(ThreadPoolTest, SplitCoversEveryIndexOnceAtGrainBorders) {
  for (int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    for (int64_t count : {0, 1, 2, 3, 7, 8, 63, 64, 65, 1000}) {
      for (int64_t grain : {1, 4, 16}) {
        std::vector<std::atomic<int>> hits(count);
        std::atomic<bool> aligned{true};
        pool.Split(count, grain, [&](int64_t begin, int64_t end, int thread) {
          if (begin % grain != 0 || (end % grain != 0 && end != count)) aligned = false;
          if (thread < 0 || thread >= threads || begin >= end) aligned = false;
          for (int64_t i = begin; i < end; ++i) ++hits[i];
        });
        EXPECT_TRUE(aligned);
        for (const std::atomic<int>& hit : hits) ASSERT_EQ(hit, 1) << count << " by " << grain;
      }
    }
  }
}

TEST(ThreadPoolTest, WorksAfterItsThreadsFellAsleep) {
  ThreadPool pool(3);
  std::atomic<int> runs{0};
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    pool.Run([&runs](int) { ++runs; });
  }
  EXPECT_EQ(runs, 15);
}

TEST(ThreadPoolTest, TheCallerSleepsThroughALongTaskOfAWorker) {
  ThreadPool pool(2);
  pool.Run([](int thread) {
    if (thread == 1) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  });
  std::atomic<int> runs{0};
  pool.Run([&runs](int) { ++runs; });
  EXPECT_EQ(runs, 2);
}

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
         1e-6 * (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

TEST(ThreadPoolTest, UsesNoCpuWhenIdle) {
  ThreadPool pool(4);
  pool.Run([](int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const double before = CpuSeconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(CpuSeconds() - before, 0.03);  // one spinning thread alone would use 0.3
}

TEST(UsableCoresTest, FollowsAffinity) {
  cpu_set_t before, one;
  ASSERT_EQ(sched_getaffinity(0, sizeof(before), &before), 0);
  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof(one), &one), 0);
  EXPECT_EQ(UsableCores("", ""), 1);
  EXPECT_EQ(ThreadPool(0).threads(), 1);
  ASSERT_EQ(sched_setaffinity(0, sizeof(before), &before), 0);
  EXPECT_EQ(UsableCores("", ""), CPU_COUNT(&before));
}

class QuotaTest : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = testing::TempDir() + "quota_test";
    std::filesystem::create_directories(folder_ + "/system/daemon");
    Write("/membership", "1:name=systemd:/\n0::/system/daemon\n");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ + name) << text;
  }
  int Cores() const { return UsableCores(folder_ + "/membership", folder_); }

  std::string folder_;
};

TEST_F(QuotaTest, TheSmallestQuotaOfTheGroupsAboveCounts) {
  const int all = UsableCores("", "");
  EXPECT_EQ(Cores(), all);
  Write("/system/daemon/cpu.max", "max 100000\n");
  EXPECT_EQ(Cores(), all);
  Write("/system/daemon/cpu.max", "50000 100000\n");
  EXPECT_EQ(Cores(), 1);
  Write("/system/daemon/cpu.max", "1000000000 100000\n");
  EXPECT_EQ(Cores(), all);
  Write("/system/cpu.max", "100000 100000\n");
  EXPECT_EQ(Cores(), 1);
  Write("/system/cpu.max", "nonsense\n");
  EXPECT_EQ(Cores(), all);
  Write("/cpu.max", "1 100000\n");
  EXPECT_EQ(Cores(), 1);
  Write("/membership", "0::/\n");
  EXPECT_EQ(Cores(), 1);
}

}  // namespace
}  // namespace mambad::kernels
