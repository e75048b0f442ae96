#include "kernels/cpu/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <fstream>
#include <limits>
#include <sstream>
#include <thread>
#include <vector>

namespace mambad::kernels {
namespace {

// How long a thread looks for what it waits for before it sleeps: longer than the gaps inside a
// step, and nothing that shows on an idle machine.
constexpr std::chrono::microseconds kSpinTime{50};
constexpr int kPausesBetweenClocks = 32;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Waits until value != old, first spinning, then asleep; `sleepers` counts those whom a change
// must wake.
template <typename T>
T WaitForChange(const std::atomic<T>& value, T old, std::atomic<int>& sleepers) {
  T now = value.load(std::memory_order_acquire);
  if (now != old) return now;
  const auto deadline = std::chrono::steady_clock::now() + kSpinTime;
  do {
    for (int i = 0; i < kPausesBetweenClocks; ++i) {
      Pause();
      now = value.load(std::memory_order_acquire);
      if (now != old) return now;
    }
  } while (std::chrono::steady_clock::now() < deadline);
  // Either the waker sees the count or this thread sees the change: both sides are sequentially
  // consistent.
  sleepers.fetch_add(1);
  while ((now = value.load()) == old) value.wait(old);
  sleepers.fetch_sub(1);
  return now;
}

// The quota of one control group in cores, or a number above all machines'.
int QuotaCores(const std::string& group) {
  std::ifstream file(group + "/cpu.max");
  long long quota = 0, period = 0;
  if (!(file >> quota >> period) || quota <= 0 || period <= 0)
    return std::numeric_limits<int>::max();  // "max 100000"
  return static_cast<int>(std::min<long long>(1 << 20, (quota + period - 1) / period));
}

}  // namespace

int UsableCores(const std::string& membership, const std::string& groups) {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cores = sched_getaffinity(0, sizeof(set), &set) == 0
                  ? CPU_COUNT(&set)
                  : static_cast<int>(std::thread::hardware_concurrency());
  std::ifstream file(membership);
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("0::/", 0) != 0) continue;
    // The group, the one above it, ..., the root.
    for (std::string group = line.substr(3); !group.empty(); group.resize(group.rfind('/'))) {
      cores = std::min(cores, QuotaCores(groups + group));
      if (group == "/") break;
    }
    cores = std::min(cores, QuotaCores(groups));
  }
  return std::max(1, cores);
}

// `epoch` counts tasks: a worker that sees it move runs the task and then writes the count into
// its own `finished`. What different threads write lies in different cache lines, so that a task
// costs one line's way to each worker and back.
struct ThreadPool::State {
  struct alignas(64) Worker {
    std::atomic<uint32_t> finished{0};
    std::thread thread;
  };

  explicit State(int count) : threads(count), workers(count) {}

  const int threads;
  Runner run = nullptr;  // null: the workers
  alignas(64) std::atomic<uint32_t> epoch{0};
  void (*call)(const void*, int) = nullptr;  // written before epoch, read after it
  const void* task = nullptr;
  bool stop = false;
  alignas(64) std::atomic<int> sleeping_workers{0};
  alignas(64) std::atomic<int> sleeping_callers{0};
  std::vector<Worker> workers;  // the caller's own place, 0, is unused

  void Work(int thread) {
    Worker& self = workers[thread];
    for (uint32_t seen = 0;;) {
      seen = WaitForChange(epoch, seen, sleeping_workers);
      if (stop) return;
      call(task, thread);
      self.finished.store(seen);
      if (sleeping_callers.load() > 0) self.finished.notify_all();
    }
  }

  void Announce() {
    epoch.store(epoch.load(std::memory_order_relaxed) + 1);
    if (sleeping_workers.load() > 0) epoch.notify_all();
  }
};

ThreadPool::ThreadPool(int threads)
    : state_(std::make_unique<State>(threads > 0 ? threads : UsableCores())) {
  for (int thread = 1; thread < state_->threads; ++thread) {
    state_->workers[thread].thread =
        std::thread([state = state_.get(), thread] { state->Work(thread); });
  }
}

ThreadPool::ThreadPool(int threads, Runner run) : state_(std::make_unique<State>(threads)) {
  state_->run = run;
}

ThreadPool::~ThreadPool() {
  if (state_->run != nullptr) return;
  state_->stop = true;
  state_->Announce();
  for (int thread = 1; thread < state_->threads; ++thread) state_->workers[thread].thread.join();
}

int ThreadPool::threads() const { return state_->threads; }

void ThreadPool::RunErased(void (*call)(const void*, int), const void* task) {
  State& state = *state_;
  if (state.threads == 1) {
    call(task, 0);
    return;
  }
  if (state.run != nullptr) {
    state.run(state.threads, call, task);
    return;
  }
  state.call = call;
  state.task = task;
  state.Announce();
  call(task, 0);
  const uint32_t epoch = state.epoch.load(std::memory_order_relaxed);
  for (int thread = 1; thread < state.threads; ++thread) {
    WaitForChange(state.workers[thread].finished, epoch - 1, state.sleeping_callers);
  }
}

}  // namespace mambad::kernels
