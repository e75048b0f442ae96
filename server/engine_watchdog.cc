#include "server/engine_watchdog.h"

#include <algorithm>
#include <utility>

#include "engine/steady_time.h"

namespace mambad::server {
namespace {

// So often within the timeout, and no less often than this, it looks.
constexpr int kLooks = 8;
constexpr absl::Duration kLongestPause = absl::Seconds(1);

}  // namespace

EngineWatchdog::EngineWatchdog(const Engine& engine, absl::Duration timeout, Listener listener)
    : engine_(engine),
      timeout_(timeout),
      listener_(std::move(listener)),
      thread_([this] { Run(); }) {}

EngineWatchdog::~EngineWatchdog() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  stopped_.NotifyAll();
  thread_.join();
}

void EngineWatchdog::Run() {
  const absl::Duration pause = std::min(timeout_ / kLooks, kLongestPause);
  for (;;) {
    {
      MutexLock lock(&mutex_);
      const absl::Time next = SteadyNow() + pause;
      while (!stopping_ && stopped_.WaitUntil(&mutex_, next)) {
      }
      if (stopping_) return;
    }
    const absl::Duration step = engine_.CurrentStep();
    const bool stalled = step > timeout_;
    if (stalled == stalled_.load()) continue;
    stalled_.store(stalled);
    if (stalled) ++stalls_;
    listener_(stalled, step);
  }
}

void EngineWatchdog::AddFamilies(MetricFamilies* families) const {
  families->Gauge("mambad_engine_stalled", "1: a step lasts for longer than watchdog_timeout",
                  stalled_.load() ? 1 : 0);
  families->Counter("mambad_engine_stalls_total",
                    "Steps that lasted for longer than watchdog_timeout",
                    static_cast<double>(stalls_.load()));
  families->Gauge("mambad_engine_current_step_seconds",
                  "How long the step that is under way has lasted; 0: none is",
                  absl::ToDoubleSeconds(engine_.CurrentStep()));
}

}  // namespace mambad::server
