// The CPU backend's compute threads. One caller at a time cuts a task into parts; it and every
// thread that runs claim parts until none is left. Nobody waits for a part that no thread has
// begun: where other processes keep a thread from running, the others do its share. A thread that
// waits for the next task of a busy step spins for some microseconds, then sleeps: an idle process
// uses no CPU.

#ifndef MAMBAD_KERNELS_CPU_THREAD_POOL_H_
#define MAMBAD_KERNELS_CPU_THREAD_POOL_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>

namespace mambad::kernels {

// Cores that this process may use: its cpu affinity, and the quotas (cpu.max) of its control
// group and of the groups above it, a part of a core counting as one. At least 1. `membership` is
// the process's list of control groups, `groups` the folder where version 2 of them is mounted;
// what cannot be read does not limit.
int UsableCores(const std::string& membership = "/proc/self/cgroup",
                const std::string& groups = "/sys/fs/cgroup");

class ThreadPool {
 public:
  // `threads`: the caller counts as one; 0: UsableCores(). At most 1024.
  explicit ThreadPool(int threads);
  // Borrows another library's threads, so that two sets of waiting threads do not fight over the
  // cores: `run` calls call(task, thread) once for each thread in [0, threads), at the same time or
  // one after another, and returns when all have returned.
  using Runner = void (*)(int threads, void (*call)(const void*, int), const void* task);
  ThreadPool(int threads, Runner run);
  ~ThreadPool();

  // Those that there are; scratch for each of them is enough for every task.
  int threads() const;
  // Those that take part, the caller and the first of the others: 1 to threads(). Between tasks.
  void SetActive(int threads);
  int active() const;

  // Cuts [0, count) at multiples of `grain` into parts, one or a few for each active thread, and
  // calls task(begin, end, thread) for each; `thread` in [0, threads()) tells who does it, and no
  // two calls with one `thread` run at a time. Returns when all are done, with their writes
  // visible. Which thread does which part is chance, and so is how many a thread does: results must
  // not depend on either. A thread begins with parts that lie together, and with the same ones each
  // time, whose data its core may still hold. Allocates nothing. Not reentrant.
  template <typename Task>
  void Split(int64_t count, int64_t grain, const Task& task) {
    Cut(count, grain, kUnitsAPart, kPartsAThread, task);
  }
  // The same in many more parts: for work that is unevenly spread.
  template <typename Task>
  void SplitFinely(int64_t count, const Task& task) {
    Cut(count, 1, 1, kFinePartsAThread, task);
  }

 private:
  // So many parts of its own a thread begins with, at most; and where no part need be finer, each
  // of so many units at least: a part has its price.
  static constexpr int64_t kPartsAThread = 4, kFinePartsAThread = 64, kUnitsAPart = 16;

  // units [0, units) in `shares` shares, share s cut into parts_of_share parts.
  struct Job {
    void (*call)(const void* task, int64_t first, int64_t last, int thread) = nullptr;
    const void* task = nullptr;
    int64_t units = 0;
    int shares = 0, parts_of_share = 0;
  };

  template <typename Task>
  void Cut(int64_t count, int64_t grain, int64_t units_a_part, int64_t most_parts,
           const Task& task) {
    const int64_t units = (count + grain - 1) / grain;
    if (units <= 1 || active() == 1) {
      if (count > 0) task(int64_t{0}, count, 0);
      return;
    }
    const auto some = [&](int64_t first, int64_t last, int thread) {
      const int64_t end = last * grain;
      task(first * grain, std::min(end, count), thread);
    };
    Job job;
    job.call = [](const void* t, int64_t first, int64_t last, int thread) {
      (*static_cast<const decltype(some)*>(t))(first, last, thread);
    };
    job.task = &some;
    job.units = units;
    job.shares = static_cast<int>(std::min<int64_t>(units, active()));
    const int64_t parts = std::max<int64_t>(1, units / job.shares / units_a_part);
    job.parts_of_share = static_cast<int>(std::min(parts, most_parts));
    Run(job);
  }
  void Run(const Job& job);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_THREAD_POOL_H_
