// A CPU backend that lets rows wait in replay rows before it stores a state, as a device may for
// which that is faster.

#ifndef MAMBAD_TESTS_ENGINE_WAITING_BACKEND_H_
#define MAMBAD_TESTS_ENGINE_WAITING_BACKEND_H_

#include <algorithm>
#include <memory>
#include <utility>

#include "kernels/backend.h"
#include "tests/engine/broken_backend.h"

namespace mambad::testing {

class WaitingBackend : public BrokenBackend {
 public:
  WaitingBackend(std::unique_ptr<kernels::Backend> backend, int waiting_rows)
      : BrokenBackend(std::move(backend), Fault::kNone), waiting_rows_(waiting_rows) {}

  kernels::RecurrentSlotLayout SlotLayout(const kernels::MambaLayer& layer, int window_rows,
                                          bool keeps_working) const override {
    return Waiting(BrokenBackend::SlotLayout(layer, window_rows, keeps_working));
  }
  kernels::RecurrentSlotLayout SlotLayout(const kernels::Mamba2Layer& layer, int window_rows,
                                          bool keeps_working) const override {
    return Waiting(BrokenBackend::SlotLayout(layer, window_rows, keeps_working));
  }
  void Mamba(const kernels::Batch& batch, const kernels::MambaLayer& layer,
             const kernels::RecurrentState& state, kernels::Workspace& workspace) override {
    Count(batch);
    BrokenBackend::Mamba(batch, layer, state, workspace);
  }
  void Mamba2(const kernels::Batch& batch, const kernels::Mamba2Layer& layer,
              const kernels::RecurrentState& state, kernels::Workspace& workspace) override {
    Count(batch);
    BrokenBackend::Mamba2(batch, layer, state, workspace);
  }

  // Sequences of calls that found rows waiting and left them where they were; those that folded.
  int64_t waited() const { return waited_; }
  int64_t folded() const { return folded_; }

 private:
  // The CPU's replay rows stand last in a block.
  kernels::RecurrentSlotLayout Waiting(kernels::RecurrentSlotLayout layout) const {
    const int more = std::max(0, waiting_rows_ - layout.replay_rows);
    layout.waiting_rows = waiting_rows_;
    layout.replay_rows += more;
    layout.floats += more * layout.replay_row;
    return layout;
  }
  void Count(const kernels::Batch& batch) {
    for (int s = 0; s < batch.sequences; ++s) {
      waited_ += batch.replay[s] > 0 && batch.fold[s] == 0;
      folded_ += batch.replay[s] > 0 && batch.fold[s] != 0;
    }
  }

  const int waiting_rows_;
  int64_t waited_ = 0, folded_ = 0;
};

}  // namespace mambad::testing

#endif  // MAMBAD_TESTS_ENGINE_WAITING_BACKEND_H_
