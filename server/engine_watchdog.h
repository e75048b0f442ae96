// Looks whether the engine still gets through its steps. One that does not (a device that never
// answers, a bug) is not told by any call: those that run simply wait.

#ifndef MAMBAD_SERVER_ENGINE_WATCHDOG_H_
#define MAMBAD_SERVER_ENGINE_WATCHDOG_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>

#include "absl/time/time.h"
#include "engine/engine.h"
#include "engine/mutex.h"
#include "server/metric_families.h"

namespace mambad::server {

class EngineWatchdog {
 public:
  // On a thread of the watchdog's own: a step has lasted for longer than `timeout`; or, after that,
  // it has come to an end (`stalled` is false). `step`: how long it had lasted when looked at.
  using Listener = std::function<void(bool stalled, absl::Duration step)>;

  // `engine` outlives it. `timeout` above 0.
  EngineWatchdog(const Engine& engine, absl::Duration timeout, Listener listener);
  ~EngineWatchdog();  // waits for a call of the listener's that is under way
  EngineWatchdog(const EngineWatchdog&) = delete;
  EngineWatchdog& operator=(const EngineWatchdog&) = delete;

  void AddFamilies(MetricFamilies* families) const;  // any thread

 private:
  void Run();

  const Engine& engine_;
  const absl::Duration timeout_;
  const Listener listener_;
  std::atomic<int64_t> stalls_{0};
  std::atomic<bool> stalled_{false};
  Mutex mutex_;
  Condition stopped_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;  // last: uses what stands above
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_ENGINE_WATCHDOG_H_
