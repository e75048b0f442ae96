#include "trainer/stop_signal.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <ctime>
#include <mutex>
#include <string_view>

namespace mambad::trainer {
namespace {

constexpr int kSignals[] = {SIGINT, SIGTERM};
constexpr int64_t kOneSignalMilliseconds = 1000;
constexpr int64_t kNever = INT64_MAX;

// Read and written by the handler.
std::atomic<int> noted = 0;
std::atomic<int64_t> noted_at = kNever;
std::atomic<bool> announces = false;

std::mutex mutex;
int living = 0;  // guarded by `mutex`, as are the actions from before
struct sigaction before[std::size(kSignals)];

int64_t Milliseconds() {
  timespec now = {};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{1000} * now.tv_sec + now.tv_nsec / 1'000'000;
}

void Announce(int signal) {
  constexpr std::string_view kInterrupt = "\ntrainer: SIGINT", kTerminate = "\ntrainer: SIGTERM";
  constexpr std::string_view kRest =
      ": saves its state after this step and stops; a second signal ends it at once\n";
  for (const std::string_view words : {signal == SIGINT ? kInterrupt : kTerminate, kRest}) {
    if (write(STDERR_FILENO, words.data(), words.size()) < 0) return;  // nobody reads it
  }
}

// Async-signal-safe throughout.
void Note(int signal) {
  const int error = errno;
  int none = 0;
  if (noted.compare_exchange_strong(none, signal)) {
    noted_at = Milliseconds();
    if (announces) Announce(signal);
  } else if (noted_at != kNever && Milliseconds() - noted_at >= kOneSignalMilliseconds) {
    // Takes effect as the handler returns: until then the signal is held back.
    std::signal(signal, SIG_DFL);
    std::raise(signal);
  }
  errno = error;
}

}  // namespace

StopSignals::StopSignals(bool announce) {
  const std::lock_guard lock(mutex);
  if (announce) announces = true;
  if (living++ > 0) return;
  noted = 0;
  noted_at = kNever;
  struct sigaction action = {};
  action.sa_handler = Note;
  action.sa_flags = SA_RESTART;
  sigemptyset(&action.sa_mask);
  for (size_t i = 0; i < std::size(kSignals); ++i) sigaction(kSignals[i], &action, &before[i]);
}

StopSignals::~StopSignals() {
  const std::lock_guard lock(mutex);
  if (--living > 0) return;
  announces = false;
  for (size_t i = 0; i < std::size(kSignals); ++i) sigaction(kSignals[i], &before[i], nullptr);
}

int StopSignals::Noted() { return noted; }

std::string SignalName(int signal) { return signal == SIGINT ? "SIGINT" : "SIGTERM"; }

}  // namespace mambad::trainer
