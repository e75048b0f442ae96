// What a run needs to go on exactly where it was: saved so that a kill at any moment leaves the
// last complete state readable.

#ifndef MAMBAD_TRAINER_TRAIN_STATE_H_
#define MAMBAD_TRAINER_TRAIN_STATE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>

#include "trainer/dataset.h"
#include "trainer/loss_watch.h"
#include "trainer/process_group.h"

namespace mambad::trainer {

struct TrainState {
  int64_t step = 0;  // steps made
  int64_t tokens = 0;
  double seconds = 0;  // of training, over all starts
  // Since the last line of metrics: what their sums are over.
  int64_t untold_trained_tokens = 0, untold_micro_batches = 0;
  LossWatch loss;
  DatasetCursor cursor;
  std::map<std::string, at::Tensor> tensors;  // fp32, this process's shard
};

// `directory`/step-000000042/, with one pair of files a process: state-0-of-2.safetensors and
// state-0-of-2.json. It is written under another name, flushed to disk and renamed, so that a
// folder of that name is complete. Afterwards the `keep` newest remain.
//
// Every process calls it at the same step; each throws std::runtime_error (with the path and the
// system's words) when any of them could not write, and then everything saved before is untouched.
void SaveTrainState(const std::string& directory, const TrainState& state, int64_t keep,
                    ProcessGroup* processes);

// The newest complete state, or nothing when there is none. Throws std::runtime_error: damaged
// (says which folder to remove, and from what step the run then goes on), or saved by another
// number of processes.
std::optional<TrainState> LoadNewestTrainState(const std::string& directory,
                                               const ProcessGroup& processes);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_TRAIN_STATE_H_
