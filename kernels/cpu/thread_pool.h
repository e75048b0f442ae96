// The CPU backend's compute threads. One caller at a time hands the same task to every thread and
// takes part itself. A thread that waits for the next task of a busy step spins for some
// microseconds, then sleeps: an idle process uses no CPU.

#ifndef MAMBAD_KERNELS_CPU_THREAD_POOL_H_
#define MAMBAD_KERNELS_CPU_THREAD_POOL_H_

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
  // `threads`: the caller counts as one; 0: UsableCores().
  explicit ThreadPool(int threads);
  // Borrows another library's threads, so that two sets of waiting threads do not fight over the
  // cores: `run` calls call(task, thread) once for each thread in [0, threads), at the same time or
  // one after another, and returns when all have returned.
  using Runner = void (*)(int threads, void (*call)(const void*, int), const void* task);
  ThreadPool(int threads, Runner run);
  ~ThreadPool();

  int threads() const;

  // Runs task(thread) once for each thread in [0, threads()), the caller being 0; returns when
  // all are done, with their writes visible. Allocates nothing. Not reentrant.
  template <typename Task>
  void Run(const Task& task) {
    RunErased([](const void* t, int thread) { (*static_cast<const Task*>(t))(thread); }, &task);
  }

  // Splits [0, count) into one contiguous part a thread, borders at multiples of `grain`:
  // task(begin, end, thread).
  template <typename Task>
  void Split(int64_t count, int64_t grain, const Task& task) {
    const int64_t units = (count + grain - 1) / grain;
    if (units <= 1 || threads() == 1) {
      if (count > 0) task(int64_t{0}, count, 0);
      return;
    }
    Run([&](int thread) {
      const int64_t begin = units * thread / threads() * grain;
      int64_t end = units * (thread + 1) / threads() * grain;
      if (end > count) end = count;
      if (begin < end) task(begin, end, thread);
    });
  }

 private:
  void RunErased(void (*call)(const void*, int), const void* task);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_THREAD_POOL_H_
