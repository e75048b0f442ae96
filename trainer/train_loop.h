// The loop of every training stage: batches, accumulation, update, metrics, evaluation, saving.

#ifndef MAMBAD_TRAINER_TRAIN_LOOP_H_
#define MAMBAD_TRAINER_TRAIN_LOOP_H_

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "trainer/dataset.h"
#include "trainer/metrics_writer.h"
#include "trainer/optimizer.h"
#include "trainer/process_group.h"
#include "trainer/stop_signal.h"
#include "trainer/token_batch.h"

namespace mambad::trainer {

// A quantity of the loss, summed over micro-batches on the device and divided when it is told.
struct StageMetric {
  enum class Per { kTrainedToken, kMicroBatch };
  std::string name;
  Per per = Per::kTrainedToken;
};

// What one stage does with a batch. One thread.
class StageWork {
 public:
  virtual ~StageWork() = default;
  // The first one is the loss that is watched for divergence.
  virtual std::vector<StageMetric> metrics() const = 0;
  // Forward and backward of one micro-batch: gradients of sum(loss of its tokens) * token_weight,
  // or of loss * batch_weight where the loss is a mean already. The weights are 1 / (trained
  // tokens, micro-batches) of the whole step over all processes. Adds to `sums` [metrics]. Must not
  // wait for the device.
  virtual void Backward(const TokenBatch& batch, double token_weight, double batch_weight,
                        at::Tensor sums) = 0;
  // On held-out data; empty: nothing to tell.
  virtual Metrics Evaluate() { return {}; }
  // Called at the beginning of each step, for what follows a schedule.
  virtual void BeginStep(int64_t /*step*/) {}
  // A loss up to which rising means nothing, by the unit of the first metric.
  virtual double negligible_loss() const { return 0.01; }
};

struct TrainLoopOptions {
  std::string title = "train";  // of the progress line
  std::string directory;        // of the run
  int64_t steps = 1;
  int64_t micro_batch = 1;   // rows (or pairs) a process takes at once
  int64_t accumulation = 1;  // micro-batches a process takes per step
  Schedule schedule;
  int64_t log_every = 10;      // steps; the only moments at which the host waits for a device
  int64_t evaluate_every = 0;  // steps; 0: at the end only
  int64_t save_every = 0;      // steps; 0: by time and at the end only
  double save_seconds = 0;     // between states that are saved by time; 0: none is
  int64_t keep_states = 2;
  // The run saves and stops when so much time has gone by since `started`; 0: no bound.
  double most_seconds = 0;
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();
  // Steps of the trainings that the same command makes after this one: the time that is left tells
  // of them too.
  int64_t later_steps = 0;
  // Of this process: the signal that asks it to stop, or 0. One process's wish stops them all.
  std::function<int()> stop_signal = StopSignals::Noted;
  // The run stops when three losses told in a row are this many times the lowest level that it had
  // come to (loss_watch.h); 0: never.
  double divergence_factor = 3.0;
  bool wants_masters = false;
  std::FILE* progress = stderr;  // null: silent
};

struct TrainResult {
  int64_t steps = 0, tokens = 0;
  double seconds = 0;
  bool finished = false;                      // false: most_seconds or a signal came first
  int stop_signal = 0;                        // the signal that came first
  int64_t saved_step = 0;                     // of the newest state; 0: there is none
  Metrics last;                               // as told last
  std::map<std::string, at::Tensor> masters;  // of a finished run, if wanted: Optimizer::Masters
  std::vector<std::pair<int64_t, Metrics>> evaluations;
};

// The loss or the gradient is no longer a number, or the loss has risen and stayed up. What was
// saved last is from before that: nothing is saved while the loss is high.
class TrainingDiverged : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Asks at the end of each step, with several processes about once a second, whether to stop or to
// save; what of the metrics is not told by then goes into the state, so that the lines of metrics
// do not depend on when that was. A state whose loss is high is not saved: who runs out of time
// goes on for the few steps until that is known, who is stopped by a signal stops without.
//
// Goes on from the newest state in options.directory + "/states" and else from the beginning; saves
// there, before it evaluates: what goes wrong in an evaluation costs no step, and the next start
// makes up for one that is missing. Losses are told and watched over steps in which a token counts.
// Process r of W takes micro-batches r, W + r, 2 W + r ... of a step's W * accumulation: W
// processes with accumulation A see the data of one with W * A. Throws TrainingDiverged, or
// std::runtime_error for files.
TrainResult Train(const TrainLoopOptions& options, at::Device device, BatchSource* source,
                  Optimizer* optimizer, ProcessGroup* processes, StageWork* work);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_TRAIN_LOOP_H_
