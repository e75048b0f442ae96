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

// Waits for others, who may need the core to get there.
template <typename Condition>
void WaitFor(const Condition& condition) {
  while (!condition()) std::this_thread::yield();
}

TEST(ThreadPoolTest, BorrowedThreadsDoEveryPart) {
  static int calls;
  calls = 0;
  ThreadPool pool(3, [](int threads, void (*call)(const void*, int), const void* task) {
    ++calls;
    for (int thread = threads - 1; thread >= 0; --thread) call(task, thread);
  });
  ASSERT_EQ(pool.threads(), 3);
  int64_t covered = 0;
  pool.Split(100, 8, [&](int64_t begin, int64_t end, int) { covered += end - begin; });
  EXPECT_EQ(covered, 100);
  EXPECT_EQ(calls, 1);
}

TEST(ThreadPoolTest, TheCallerSeesAllWritesAndIsThreadZero) {
  ThreadPool pool(4);
  const std::thread::id caller = std::this_thread::get_id();
  std::vector<std::thread::id> ids(1000);
  std::vector<int64_t> values(1000);
  std::vector<int> threads(1000);
  for (int64_t round = 0; round < 200; ++round) {
    pool.Split(1000, 1, [&](int64_t begin, int64_t end, int thread) {
      for (int64_t i = begin; i < end; ++i) {
        ids[i] = std::this_thread::get_id();
        threads[i] = thread;
        values[i] = i * 4 + round;
      }
    });
    for (int64_t i = 0; i < 1000; ++i) {
      ASSERT_EQ(values[i], i * 4 + round);
      ASSERT_EQ(ids[i] == caller, threads[i] == 0);
    }
  }
}

// A worker is kept from going on for as long as anything else is left to do.
TEST(ThreadPoolTest, NobodyWaitsForPartsThatNoThreadHasBegun) {
  ThreadPool pool(3);
  constexpr int64_t kCount = 1200;
  for (int round = 0; round < 50; ++round) {
    std::atomic<int64_t> done{0};
    std::atomic<int64_t> held{0};  // by workers that have begun a part
    pool.Split(kCount, 1, [&](int64_t begin, int64_t end, int thread) {
      if (thread != 0) {
        held += end - begin;
        WaitFor([&] { return done + held >= kCount; });
        held -= end - begin;
      }
      done += end - begin;
    });
    ASSERT_EQ(done, kCount);
  }
}

// Both threads are needed at once, or neither gets through.
TEST(ThreadPoolTest, PartsRunAtTheSameTime) {
  ThreadPool pool(2);
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> begun{0};
    pool.Split(2, 1, [&](int64_t, int64_t, int) {
      ++begun;
      WaitFor([&] { return begun == 2; });
    });
  }
}

// Tasks of all sizes on the heels of each other: threads that come late for one find the next.
TEST(ThreadPoolTest, TasksDoNotRunIntoEachOther) {
  ThreadPool pool(4);
  std::vector<int64_t> sums(4);
  int64_t expected = 0;
  for (int64_t round = 0; round < 20000; ++round) {
    const int64_t count = round % 23, mark = round;
    expected += count * mark;
    pool.Split(count, 1, [&sums, mark](int64_t begin, int64_t end, int thread) {
      sums[thread] += (end - begin) * mark;
    });
  }
  EXPECT_EQ(sums[0] + sums[1] + sums[2] + sums[3], expected);
}

TEST(ThreadPoolTest, OnlyTheActiveTakePart) {
  ThreadPool pool(4);
  EXPECT_EQ(pool.active(), 4);
  for (const int active : {2, 4, 1, 3, 4, 2}) {
    pool.SetActive(active);
    ASSERT_EQ(pool.active(), active);
    for (int round = 0; round < 100; ++round) {
      std::atomic<int64_t> covered{0};
      std::atomic<int> parts{0};
      pool.Split(64, 1, [&](int64_t begin, int64_t end, int) {
        covered += end - begin;
        ++parts;
      });
      ASSERT_EQ(covered, 64);
      // 64 / active, of which each part has 16 or more.
      ASSERT_EQ(parts, active == 1 ? 1 : active * (64 / active / 16));
    }
  }
  pool.SetActive(100);
  EXPECT_EQ(pool.active(), 4);
  pool.SetActive(0);
  EXPECT_EQ(pool.active(), 1);
}

TEST(ThreadPoolTest, ThoseThatAreNotActiveSleepAndComeBack) {
  ThreadPool pool(3);
  pool.SetActive(2);
  // The third sees by then that it is not meant.
  for (int i = 0; i < 20; ++i) {
    pool.Split(64, 1, [](int64_t, int64_t, int) {});
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
  pool.SetActive(3);
  std::atomic<int> begun{0};
  pool.Split(3, 1, [&](int64_t, int64_t, int) {
    ++begun;
    WaitFor([&] { return begun == 3; });
  });
  EXPECT_EQ(begun, 3);
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

TEST(ThreadPoolTest, FinePartsCoverEveryIndexOnce) {
  ThreadPool pool(3);
  for (int64_t count : {0, 1, 5, 192, 193, 5000}) {
    std::vector<std::atomic<int>> hits(count);
    pool.SplitFinely(count, [&](int64_t begin, int64_t end, int) {
      EXPECT_LE(end - begin, 2 + count / (3 * 64));
      for (int64_t i = begin; i < end; ++i) ++hits[i];
    });
    for (const std::atomic<int>& hit : hits) ASSERT_EQ(hit, 1) << count;
  }
}

TEST(ThreadPoolTest, WorksAfterItsThreadsFellAsleep) {
  ThreadPool pool(3);
  for (int i = 0; i < 5; ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> begun{0};
    pool.Split(3, 1, [&](int64_t, int64_t, int) {
      ++begun;
      WaitFor([&] { return begun == 3; });
    });
  }
}

TEST(ThreadPoolTest, TheCallerSleepsThroughALongPartOfAWorker) {
  ThreadPool pool(2);
  std::atomic<int> begun{0};
  pool.Split(2, 1, [&](int64_t, int64_t, int thread) {
    ++begun;
    WaitFor([&] { return begun == 2; });
    if (thread == 1) std::this_thread::sleep_for(std::chrono::milliseconds(20));
  });
  std::atomic<int> parts{0};
  pool.Split(2, 1, [&](int64_t, int64_t, int) { ++parts; });
  EXPECT_EQ(parts, 2);
}

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
         1e-6 * (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

TEST(ThreadPoolTest, UsesNoCpuWhenIdle) {
  ThreadPool pool(4);
  pool.Split(64, 1, [](int64_t, int64_t, int) {});
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
