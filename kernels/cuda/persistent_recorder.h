// Passes of few rows as one launch each: while a decode round is captured, operations that can be
// steps of it are noted down instead of launched, and become one launch before anything else is
// enqueued.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_RECORDER_H_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_RECORDER_H_

#include <cuda_runtime.h>

#include <functional>
#include <optional>
#include <vector>

#include "kernels/backend.h"
#include "kernels/buffer.h"
#include "kernels/cuda/persistent_pass.h"
#include "kernels/cuda/persistent_plan.h"

namespace mambad::kernels::cuda {

// Of one backend. Operations of a round that is captured, in the order of their calls.
class PassRecorder {
 public:
  explicit PassRecorder(cudaStream_t stream) : stream_(stream) {}

  // A round begins; `captured`: its operations may be noted down.
  void Begin(bool captured) { captured_ = captured; }

  // True: the operation is a step of the next launch. False: it is the caller's to launch, after
  // Flush. `kernels` launches it by itself, should there be no memory for the steps.
  bool NoteMamba(const Batch& batch, const MambaLayer& layer, const RecurrentState& state,
                 const RowsView& residual, const Buffer& mail, std::function<void()> kernels);
  bool NoteHead(const Batch& batch, const NormWeights& norm, const WeightMatrix& head,
                const RowsView& residual, const RowsView& logits, std::function<void()> kernels);

  // Launches what was noted down, if anything was. What it gives back must live as long as the
  // graph that the launch is captured for.
  Buffer Flush();

 private:
  // Whether `batch` and `residual` are those of what was noted down.
  bool Continues(const Batch& batch, const RowsView& residual) const;

  const cudaStream_t stream_;
  bool captured_ = false;
  std::optional<PassLaunch> launch_;  // from the first round that is captured on
  std::optional<PassPlan> plan_;
  PassProgram program_;
  const Buffer* mail_ = nullptr;
  std::vector<std::function<void()>> kernels_;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_RECORDER_H_
