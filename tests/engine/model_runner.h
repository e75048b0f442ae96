// A model on the tested device, driven row by row: what the engine's decoder does with Model and
// StatePool, without requests.

#ifndef MAMBAD_TESTS_ENGINE_MODEL_RUNNER_H_
#define MAMBAD_TESTS_ENGINE_MODEL_RUNNER_H_

#include <cstdint>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/model/model.h"
#include "engine/options.h"
#include "engine/speculation/staging_area.h"
#include "engine/speculation/step_batch.h"
#include "engine/state/state_pool.h"
#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/engine/checked_calls.h"
#include "tests/engine/tested_device.h"
#include "tests/engine/waiting_backend.h"

namespace mambad::testing {

using LogitRow = std::vector<float>;

struct RunnerOptions {
  ComputeType type = ComputeType::kAuto;
  kernels::CpuBackendOptions backend = {.threads = 1};
  int slots = 4;
  int64_t context = 256;
  int window_rows = kernels::kMaxWindowRows;
  // That may wait before they are folded; -1, and elsewhere than on the CPU: as the backend says.
  int waiting_rows = -1;
  bool keeps_working = false;
  kernels::ElementType key_values = kernels::ElementType::kFloat32;
  std::vector<int32_t> proposed_tokens = {};  // of a draft; empty: all
};

class ModelRunner {
 public:
  static constexpr int kMaxRows = 320;

  static absl::StatusOr<std::unique_ptr<ModelRunner>> Open(const std::string& directory,
                                                           const RunnerOptions& options) {
    auto opened = checkpoint::Checkpoint::Open(directory);
    if (!opened.ok()) return opened.status();
    std::unique_ptr<ModelRunner> runner(new ModelRunner);
    runner->keeps_working_ = options.keeps_working;
    runner->backend_ = OpenTestedDevice(options.backend);
    if (options.waiting_rows >= 0 && OnCpu()) {
      runner->backend_ =
          std::make_unique<WaitingBackend>(std::move(runner->backend_), options.waiting_rows);
    }
    runner->backend_ = Checked(std::move(runner->backend_));
    ModelLimits limits;
    limits.max_rows = limits.max_logit_rows = kMaxRows;
    limits.max_sequences = options.slots;
    limits.max_context = options.context;
    auto model =
        Model::Load(**opened, options.type, limits, *runner->backend_, options.proposed_tokens);
    if (!model.ok()) return model.status();
    runner->model_ = *std::move(model);
    StatePoolShape shape;
    shape.slots = options.slots;
    shape.max_context = options.context;
    shape.cache_tokens = options.context * options.slots;
    shape.window_rows = options.window_rows;
    shape.keeps_working = options.keeps_working;
    shape.key_values = options.key_values;
    runner->state_ =
        std::make_unique<StatePool>(runner->model_->weights().blocks(), shape, *runner->backend_);
    runner->batch_.Reserve(runner->inputs_, options.slots, kMaxRows, kMaxRows);
    runner->inputs_.Allocate(*runner->backend_);
    runner->options_ = options;
    return runner;
  }

  const checkpoint::ModelConfig& config() const { return model_->config(); }
  const Model& model() const { return *model_; }
  StatePool& state() { return *state_; }
  std::string device() const { return backend_->Description(); }

  // A fresh sequence in `slot`.
  bool Start(int slot) { return state_->Acquire(slot, options_.context); }
  void Stop(int slot) { state_->Release(slot); }

  // Everything that sequences keep becomes NaN. Only a slot that is started afterwards may be used.
  void Poison() {
    const float nan = std::numeric_limits<float>::quiet_NaN();
    for (size_t i = 0; i < model_->weights().blocks().size(); ++i) {
      const kernels::RecurrentState& recurrent = state_->recurrent(i);
      for (int slot = 0; slot < options_.slots && recurrent.data != nullptr; ++slot)
        backend_->Fill(recurrent.slot(slot), nan, recurrent.layout.floats);
      const kernels::KeyValueState& cache = state_->key_values(i);
      if (cache.keys == nullptr) continue;
      // All ones are not a number, neither of two bytes nor of four.
      const std::vector<std::byte> ones(state_->pages_total() * cache.layout.key_bytes,
                                        std::byte{0xff});
      backend_->Write(cache.keys, ones.data(), ones.size());
      backend_->Write(cache.values, ones.data(), ones.size());
      backend_->Synchronize();
    }
  }

  // One sequence's part of a call; `rows` follow from its tokens.
  struct Window : StepBatch::Window {
    std::vector<int32_t> tokens;
  };
  // One forward pass. Logits of all rows, in the order of the windows and their tokens.
  std::vector<LogitRow> Forward(absl::Span<const Window> windows) {
    batch_.Clear();
    for (const Window& window : windows) {
      StepBatch::Window with_rows = window;
      with_rows.rows = static_cast<int>(window.tokens.size());
      const int first = batch_.AddSequence(with_rows);
      for (int i = 0; i < with_rows.rows; ++i) {
        batch_.token(first + i) = window.tokens[i];
        batch_.AddLogits(first + i);
      }
    }
    inputs_.Upload(*backend_);
    state_->Upload();
    model_->Forward(batch_.View(*state_, keeps_working_), *state_);
    backend_->Synchronize();
    const kernels::RowsView logits = model_->workspace().logits;
    std::vector<LogitRow> rows(batch_.rows());
    for (int row = 0; row < batch_.rows(); ++row) {
      rows[row].resize(config().padded_vocabulary);
      backend_->Read(rows[row].data(), logits.row(row), sizeof(float) * rows[row].size());
    }
    backend_->Synchronize();
    return rows;
  }

  // Reads `tokens` from a fresh start of `slot` in chunks of at most `chunk` tokens, all committed.
  std::vector<LogitRow> Read(int slot, absl::Span<const int32_t> tokens, int chunk) {
    Start(slot);
    std::vector<LogitRow> all;
    for (size_t at = 0; at < tokens.size(); at += chunk) {
      const auto part = tokens.subspan(at, chunk);
      Window window;
      window.slot = slot;
      window.position = static_cast<int64_t>(at);
      window.keep_from = static_cast<int>(part.size());
      window.tokens.assign(part.begin(), part.end());
      for (LogitRow& row : Forward({window})) all.push_back(std::move(row));
    }
    Stop(slot);
    return all;
  }

 private:
  ModelRunner() = default;

  RunnerOptions options_;
  bool keeps_working_ = false;
  std::unique_ptr<kernels::Backend> backend_;  // outlives the others
  std::unique_ptr<Model> model_;
  std::unique_ptr<StatePool> state_;
  StagingArea inputs_;
  StepBatch batch_;
};

}  // namespace mambad::testing

#endif  // MAMBAD_TESTS_ENGINE_MODEL_RUNNER_H_
