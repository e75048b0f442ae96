#include "kernels/cpu/thread_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <thread>
#include <vector>

namespace mambad::kernels {
namespace {

// How long a thread looks for its next task before it sleeps: longer than the gaps inside a step, far shorter than a human
// notices on an idle machine.
constexpr int kSpins = 4000;

void Relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Cores that the control group's quota pays for, rounded up; a large number without a quota.
int QuotaCores() {
  std::FILE* file = std::fopen("/sys/fs/cgroup/cpu.max", "r");
  if (file == nullptr) return 1 << 20;
  long long quota = 0, period = 0;
  const int fields = std::fscanf(file, "%lld %lld", &quota, &period);
  std::fclose(file);
  if (fields != 2 || quota <= 0 || period <= 0) return 1 << 20;   // "max 100000" gives no fields
  return static_cast<int>((quota + period - 1) / period);
}

int UsableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cores = static_cast<int>(std::thread::hardware_concurrency());
  if (sched_getaffinity(0, sizeof(set), &set) == 0) cores = CPU_COUNT(&set);
  return std::max(1, std::min(cores, QuotaCores()));
}

}  // namespace

// `epoch` counts tasks; a worker that sees it move runs the task and counts itself into `done`. Both sides spin for a while
// and then wait on the atomic.
struct ThreadPool::State {
  explicit State(int count) : threads(count) {}

  const int threads;
  std::atomic<uint32_t> epoch{0};
  std::atomic<int> done{0};
  std::atomic<bool> stop{false};
  void (*call)(const void*, int) = nullptr;
  const void* task = nullptr;
  std::vector<std::thread> workers;

  void Work(int thread) {
    uint32_t seen = 0;
    for (;;) {
      uint32_t now = epoch.load(std::memory_order_acquire);
      for (int spin = 0; now == seen && spin < kSpins; ++spin) {
        Relax();
        now = epoch.load(std::memory_order_acquire);
      }
      while (now == seen) {
        epoch.wait(seen, std::memory_order_acquire);
        now = epoch.load(std::memory_order_acquire);
      }
      seen = now;
      if (stop.load(std::memory_order_relaxed)) return;
      call(task, thread);
      if (done.fetch_add(1, std::memory_order_acq_rel) + 1 == threads - 1) done.notify_one();
    }
  }
};

ThreadPool::ThreadPool(int threads) : state_(std::make_unique<State>(threads > 0 ? threads : UsableCores())) {
  for (int thread = 1; thread < state_->threads; ++thread) {
    state_->workers.emplace_back([state = state_.get(), thread] { state->Work(thread); });
  }
}

ThreadPool::~ThreadPool() {
  state_->stop.store(true, std::memory_order_relaxed);
  state_->epoch.fetch_add(1, std::memory_order_release);
  state_->epoch.notify_all();
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::threads() const { return state_->threads; }

void ThreadPool::RunErased(void (*call)(const void*, int), const void* task) {
  State& state = *state_;
  if (state.threads == 1) {
    call(task, 0);
    return;
  }
  state.call = call;
  state.task = task;
  state.done.store(0, std::memory_order_relaxed);
  state.epoch.fetch_add(1, std::memory_order_release);
  state.epoch.notify_all();
  call(task, 0);
  int done = state.done.load(std::memory_order_acquire);
  for (int spin = 0; done != state.threads - 1 && spin < kSpins; ++spin) {
    Relax();
    done = state.done.load(std::memory_order_acquire);
  }
  while (done != state.threads - 1) {
    state.done.wait(done, std::memory_order_acquire);
    done = state.done.load(std::memory_order_acquire);
  }
}

}  // namespace mambad::kernels
