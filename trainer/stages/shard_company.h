// The processes that make shards, each at its own pace: a signal to one stops all, and who is ready
// first waits for the others.

#ifndef MAMBAD_TRAINER_STAGES_SHARD_COMPANY_H_
#define MAMBAD_TRAINER_STAGES_SHARD_COMPANY_H_

#include <chrono>
#include <functional>
#include <string>

#include "trainer/process_group.h"
#include "trainer/stop_signal.h"

namespace mambad::trainer {

// One thread. Throws std::runtime_error when another process has gone.
class ShardCompany {
 public:
  struct Options {
    std::chrono::duration<double> between_looks{2};
    // Who is not heard of for so long has gone: longer than a step and reading a model take.
    std::chrono::duration<double> patience{600};
    std::function<int()> own_signal = StopSignals::Noted;
  };

  // `processes` must outlive the object.
  ShardCompany(ProcessGroup* processes, Options options);
  explicit ShardCompany(ProcessGroup* processes) : ShardCompany(processes, Options()) {}

  // Between steps: the signal that stops the work, this process's or another's; 0: none. The others
  // hear of this one, and are looked at, every now and then.
  int Look();

  // Behind this process's last step, finished or stopped by Look's signal: waits for the others, as
  // long as they work, and tells them of a signal still. The one that stopped any of them; 0: all
  // have finished.
  int Meet();

 private:
  using Clock = std::chrono::steady_clock;
  struct Heard {
    std::string words;
    Clock::time_point at;
  };
  bool NoteOwnSignal();
  // Whether the process has ended its work. Throws when it is silent for too long.
  bool HasEnded(int rank, Heard* heard);

  ProcessGroup* const processes_;
  const Options options_;
  Clock::time_point looked_at_;
  int64_t looks_ = 0;
  int signal_ = 0;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_SHARD_COMPANY_H_
