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
constexpr int kMostThreads = 1024;

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

// How many parts of a share are left lies in one word with the number of its job. A part is claimed
// by changing that word; so who has claimed one may read the job, which cannot end before the part
// is done, and a thread that comes late changes nothing. A word of an older job is one whose parts
// are all left in this one: nobody has to write it before.
//
// What different threads write lies in different cache lines. A job whose threads all come in time
// costs the way of the job's line to each of them, and of one line from each back.
struct ThreadPool::State {
  static constexpr int kLowBits = 24;  // of a word; the job's number stands above
  static constexpr uint64_t kLow = (uint64_t{1} << kLowBits) - 1;

  struct alignas(64) Share {
    std::atomic<uint64_t> word{0};  // job << kLowBits | parts that are left
    std::atomic<uint32_t> done{0};  // parts of all jobs
  };

  explicit State(int count) : threads(count), shares(count), expected(count), active(count) {}

  const int threads;
  Runner run = nullptr;  // null: the workers
  std::vector<std::thread> workers;
  std::vector<Share> shares;
  std::vector<uint32_t> expected;  // of each share's done, at the end of this job: the caller's
  // Written while no part is left, read by those who claimed one.
  alignas(64) Job job;
  std::atomic<uint64_t> current{0};  // job << kLowBits | shares << 12 | parts of a share
  std::atomic<uint32_t> epoch{0};    // counts jobs too, for those who wait for the next
  std::atomic<int> active;           // workers from this one on sleep until it grows
  std::atomic<bool> stop{false};
  alignas(64) std::atomic<int> sleeping_workers{0};  // for the epoch to change
  alignas(64) std::atomic<int> sleeping_callers{0};

  void Publish(const Job& next) {
    job = next;
    for (int share = 0; share < job.shares; ++share)
      expected[share] += static_cast<uint32_t>(job.parts_of_share);
    const uint64_t number = (current.load(std::memory_order_relaxed) >> kLowBits) + 1;
    current.store(number << kLowBits | static_cast<uint64_t>(job.shares << 12 | job.parts_of_share),
                  std::memory_order_release);
  }

  void Announce() {
    epoch.store(epoch.load(std::memory_order_relaxed) + 1);
    if (sleeping_workers.load() > 0) epoch.notify_all();
  }

  // The part's number from the end; 0: none is left, or the job is over.
  int Claim(int share, uint64_t number, int parts) {
    std::atomic<uint64_t>& word = shares[share].word;
    uint64_t now = word.load(std::memory_order_acquire);
    for (;;) {
      const uint64_t of = now >> kLowBits;
      const uint64_t left = of < number ? static_cast<uint64_t>(parts) : now & kLow;
      if (of > number || left == 0) return 0;
      if (word.compare_exchange_weak(now, number << kLowBits | (left - 1),
                                     std::memory_order_acq_rel, std::memory_order_acquire)) {
        return static_cast<int>(left);
      }
    }
  }

  void DoPart(int share, int left, int thread) const {
    const int64_t begin = job.units * share / job.shares,
                  end = job.units * (share + 1) / job.shares;
    const int64_t part = job.parts_of_share - left;
    const int64_t first = begin + (end - begin) * part / job.parts_of_share,
                  last = begin + (end - begin) * (part + 1) / job.parts_of_share;
    if (first < last) job.call(job.task, first, last, thread);
  }

  // Until no part is left, of the thread's own share or another's. Of a job that is not worth
  // cutting finely, the caller alone looks at others': looking has its price too.
  void Drain(int thread) {
    const uint64_t now = current.load(std::memory_order_acquire);
    const int count = static_cast<int>(now >> 12 & 0xfff), parts = static_cast<int>(now & 0xfff);
    const int shares_to_see = thread == 0 || parts > 1 ? count : thread < count ? 1 : 0;
    for (int i = 0; i < shares_to_see; ++i) {
      const int share = (thread + i) % count;
      uint32_t done = 0;
      for (int left; (left = Claim(share, now >> kLowBits, parts)) > 0; ++done)
        DoPart(share, left, thread);
      if (done == 0) continue;
      shares[share].done.fetch_add(done);
      if (sleeping_callers.load() > 0) shares[share].done.notify_all();
    }
  }

  void Work(int thread) {
    for (uint32_t seen = 0;;) {
      seen = WaitForChange(epoch, seen, sleeping_workers);
      if (stop) return;
      Drain(thread);
      for (int now; (now = active.load()) <= thread;) active.wait(now);
    }
  }

  void SetActive(int count) {
    const int before = active.exchange(count);
    if (count > before) active.notify_all();
  }
};

ThreadPool::ThreadPool(int threads)
    : state_(
          std::make_unique<State>(std::min(kMostThreads, threads > 0 ? threads : UsableCores()))) {
  for (int thread = 1; thread < state_->threads; ++thread)
    state_->workers.emplace_back([state = state_.get(), thread] { state->Work(thread); });
}

ThreadPool::ThreadPool(int threads, Runner run)
    : state_(std::make_unique<State>(std::min(kMostThreads, threads))) {
  state_->run = run;
}

ThreadPool::~ThreadPool() {
  state_->stop = true;
  state_->SetActive(state_->threads + 1);  // a change, for those that sleep until there is one
  state_->Announce();
  for (std::thread& worker : state_->workers) worker.join();
}

int ThreadPool::threads() const { return state_->threads; }

void ThreadPool::SetActive(int threads) {
  threads = std::clamp(threads, 1, state_->threads);
  if (threads != active()) state_->SetActive(threads);
}

int ThreadPool::active() const { return state_->active.load(std::memory_order_relaxed); }

void ThreadPool::Run(const Job& job) {
  State& state = *state_;
  state.Publish(job);
  if (state.run != nullptr) {
    const auto drain = [](const void* task, int thread) {
      (*static_cast<State* const*>(task))->Drain(thread);
    };
    State* const self = &state;
    state.run(state.threads, drain, &self);
    return;
  }
  state.Announce();
  state.Drain(0);
  for (int i = 0; i < job.shares; ++i) {
    const std::atomic<uint32_t>& done = state.shares[i].done;
    for (uint32_t now = done.load(std::memory_order_acquire); now != state.expected[i];)
      now = WaitForChange(done, now, state.sleeping_callers);
  }
}

}  // namespace mambad::kernels
