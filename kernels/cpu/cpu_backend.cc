// The CPU backend: composes products, mixers and sampling into the operations of
// kernels/backend.h. Every call is done when it returns, so that ordering costs nothing.

#include "kernels/cpu/cpu_backend.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <string>

#include "kernels/cpu/gate.h"
#include "kernels/cpu/instruction_set.h"
#include "kernels/cpu/linear.h"
#include "kernels/cpu/machine.h"
#include "kernels/cpu/memory.h"
#include "kernels/cpu/mixers.h"
#include "kernels/cpu/norm.h"
#include "kernels/cpu/sampling.h"
#include "kernels/cpu/thread_choice.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/view_parts.h"

namespace mambad::kernels {
namespace {

// A matrix of scratch whose operations each choose their own width, up to a limit.
class ScratchRows {
 public:
  ScratchRows(int64_t rows, int64_t columns, const Allocate& allocate)
      : rows_(rows), columns_(columns), memory_(allocate(rows * Stride(columns) * sizeof(float))) {}

  RowsView View(const char* operation, int64_t rows, int64_t columns) const {
    if (rows > rows_ || columns > columns_) Fail(operation, {rows, rows_, columns, columns_});
    return {memory_.as<float>(), rows, columns, Stride(columns)};
  }

 private:
  // Whole cache lines, and no multiple of a page: rows that are used together should not share
  // cache sets.
  static int64_t Stride(int64_t columns) {
    const int64_t stride = (columns + 15) / 16 * 16;
    return stride % 1024 == 0 ? stride + 16 : stride;
  }

  int64_t rows_ = 0, columns_ = 0;
  Buffer memory_;
};

struct CpuWorkspace : Workspace {
  CpuWorkspace(const WorkspaceShape& s, int threads, const Allocate& allocate)
      : shape(s),
        thread_choices(threads),
        residual_rows(s.max_rows, s.width, allocate),
        logit_rows(s.max_logit_rows, s.vocabulary, allocate),
        head_input(s.max_logit_rows, s.width, allocate),
        projection(s.max_rows, s.max_projection, allocate),
        inner(s.max_rows, s.max_inner, allocate),
        second(s.max_rows, s.max_inner, allocate),
        selection(s.max_rows, s.max_selection, allocate),
        linear(CreateLinearScratch(
            std::max(s.max_rows, s.max_logit_rows),
            std::max({s.width, s.max_inner, s.max_projection, s.max_selection}), allocate)) {
    residual = residual_rows.View("CreateWorkspace", s.max_rows, s.width);
    logits = logit_rows.View("CreateWorkspace", s.max_logit_rows, s.vocabulary);
  }

  const WorkspaceShape shape;
  ThreadChoices thread_choices;
  ScratchRows residual_rows, logit_rows;
  ScratchRows head_input;     // residual rows whose logits are wanted
  ScratchRows projection;     // what `in` gives
  ScratchRows inner, second;  // between the products of a mixer or MLP
  ScratchRows selection;      // dt, B and C of Mamba-1
  LinearScratch linear;
};

void RequireShape(const char* operation, const WeightMatrix* matrix, int64_t rows,
                  int64_t columns) {
  if (matrix == nullptr) Fail(operation, {rows, columns});
  if (matrix->rows != rows || matrix->columns != columns) {
    Fail(operation, {matrix->rows, rows, matrix->columns, columns});
  }
}

std::vector<std::string> ThreadWarnings(int threads) {
  const int usable = UsableCores();
  if (threads > usable) {
    return {std::to_string(threads) + " threads for " + std::to_string(usable) +
            (usable == 1 ? " core" : " cores") +
            " that this process may use: more threads than cores are slower than one"};
  }
  const int cores = static_cast<int>(sysconf(_SC_NPROCESSORS_ONLN));
  const double free_cores = FreeCores(std::max(cores, usable));
  if (threads == 1 || threads <= free_cores + 0.5) return {};
  char text[200];
  std::snprintf(
      text, sizeof(text),
      "%d threads, and others leave %.1f of %d cores free: answers come slower than on an "
      "idle machine",
      threads, free_cores, std::max(cores, usable));
  return {text};
}

class CpuBackend : public Backend {
 public:
  explicit CpuBackend(const CpuBackendOptions& options) : pool_(options.threads) {
    linear_settings_.activations = options.activations;
  }

  std::string Description() const override {
    return "CPU, " + LinearInstructionSet() + ", " + std::to_string(pool_.threads()) +
           (pool_.threads() == 1 ? " thread" : " threads");
  }

  std::string Numerics(ElementType weights, ElementType key_values) const override {
    const bool rounds = Activations(weights) == ElementType::kBFloat16;
    const InstructionSet set = ActiveInstructionSet();
    return std::string("cpu-") + (rounds ? RoundedNumericsName(set) : NumericsName(set)) +
           (weights == ElementType::kFloat32 ? "/weights-f32" : "/weights-bf16") +
           (rounds ? "/activations-bf16" : "/activations-f32") +
           (key_values == ElementType::kFloat32 ? "/kv-f32" : "/kv-bf16");
  }
  ElementType UsualKeyValues() const override { return ElementType::kFloat32; }
  ElementType Activations(ElementType weights) const override {
    return RoundsActivations(linear_settings_, weights) ? ElementType::kBFloat16
                                                        : ElementType::kFloat32;
  }

  std::vector<std::string> Warnings() const override { return ThreadWarnings(pool_.threads()); }

  DeviceMemory Memory() const override {
    const auto known = [](double bytes) {
      return std::isinf(bytes) ? -1 : static_cast<int64_t>(bytes);
    };
    DeviceMemory memory;
    memory.total = known(MachineBytes());
    memory.free = known(FreeMachineBytes());
    return memory;
  }
  Buffer Allocate(size_t bytes) override { return AllocateMemory(bytes); }
  Buffer AllocateHost(size_t bytes) override { return AllocateMemory(bytes); }
  void Write(void* device, const void* host, size_t bytes) override {
    CopyMemory(device, host, bytes);
  }
  void Read(void* host, const void* device, size_t bytes) override {
    CopyMemory(host, device, bytes);
  }
  void Copy(void* to, const void* from, size_t bytes) override { std::memmove(to, from, bytes); }
  void Fill(float* device, float value, size_t count) override {
    std::fill_n(device, count, value);
  }
  void Synchronize() override {}

  WeightMatrix Pack(int64_t rows, int64_t columns, ElementType type,
                    const MatrixSource& source) override {
    return PackMatrix(rows, columns, type, source, pool_);
  }

  std::unique_ptr<Workspace> CreateWorkspace(const WorkspaceShape& shape) override {
    if (shape.vocabulary > sampling_vocabulary_) {
      sampling_ = CreateSamplingScratch(pool_.threads(), shape.vocabulary);
      sampling_vocabulary_ = shape.vocabulary;
    }
    return std::make_unique<CpuWorkspace>(shape, pool_.threads(), AllocateMemory);
  }
  int64_t AllocatedBytes(int64_t bytes) const override { return bytes; }
  int64_t PackedBytes(int64_t rows, int64_t columns, ElementType type) const override {
    return kernels::PackedBytes(rows, columns, type);
  }
  int64_t WorkspaceBytes(const WorkspaceShape& shape) const override {
    int64_t bytes = shape.vocabulary > sampling_vocabulary_
                        ? SamplingScratchBytes(pool_.threads(), shape.vocabulary)
                        : 0;
    CpuWorkspace(shape, pool_.threads(), [&bytes](size_t piece) {
      bytes += static_cast<int64_t>(piece);
      return Buffer();
    });
    return bytes;
  }

  RecurrentSlotLayout SlotLayout(const MambaLayer& layer, int window_rows,
                                 bool keeps_working) const override {
    return MambaSlotLayout(layer, window_rows, keeps_working);
  }
  RecurrentSlotLayout SlotLayout(const Mamba2Layer& layer, int window_rows,
                                 bool keeps_working) const override {
    return Mamba2SlotLayout(layer, window_rows, keeps_working);
  }
  KeyValueLayout PageLayout(const AttentionLayer& layer, ElementType type) const override {
    return AttentionPageLayout(layer, type);
  }

  bool BeginRound(const RoundShape&) override {
    round_begin_ = verify_begin_ = Clock::now();
    return true;
  }
  void BeginVerify() override { verify_begin_ = Clock::now(); }
  void EndRound() override { round_end_ = Clock::now(); }
  RoundTimes TakeRoundTimes() override {
    const auto seconds = [](Clock::duration time) {
      return std::chrono::duration<double>(time).count();
    };
    const double draft = seconds(verify_begin_ - round_begin_);
    const double verify = seconds(round_end_ - verify_begin_);
    return {draft, verify, draft + verify};
  }
  RecordedRounds Recorded() const override { return {}; }
  bool RunsAhead() const override { return false; }

  void Embed(const Batch& batch, const WeightMatrix& embedding, Workspace& workspace) override;
  void Mamba(const Batch& batch, const MambaLayer& layer, const RecurrentState& state,
             Workspace& workspace) override;
  void Mamba2(const Batch& batch, const Mamba2Layer& layer, const RecurrentState& state,
              Workspace& workspace) override;
  void Attention(const Batch& batch, const AttentionLayer& layer, const KeyValueState& state,
                 Workspace& workspace) override;
  void Mlp(const Batch& batch, const MlpLayer& layer, Workspace& workspace) override;
  void Head(const Batch& batch, const NormWeights& norm, const WeightMatrix& head,
            Workspace& workspace) override;
  void HeadOfTokens(const Batch& batch, const NormWeights& norm, const WeightMatrix& head,
                    const int32_t* tokens, Workspace& workspace) override;

  void SampleDrafts(const DraftSampling& request, const SamplingTables& tables,
                    const Workspace& draft) override {
    SampleDraftTokens(pool_, request, tables, draft.logits, sampling_);
  }
  void Accept(const Acceptance& request, const SamplingTables& tables, const Workspace& target,
              const AcceptanceResult& result) override {
    AcceptDrafts(pool_, request, tables, target.logits, result, sampling_);
  }
  void Score(const TokenScoring& request, const SamplingTables& tables,
             const Workspace& target) override {
    ScoreTokens(pool_, request, tables, target.logits, sampling_);
  }

 private:
  // The sequences and rows that there are, of a batch whose bounds were checked.
  static Batch WhatThereIs(const char* operation, Batch batch, const CpuWorkspace& workspace) {
    if (batch.rows > workspace.shape.max_rows || batch.sequences > workspace.shape.max_sequences) {
      Fail(operation,
           {batch.rows, workspace.shape.max_rows, batch.sequences, workspace.shape.max_sequences});
    }
    const int rows = batch.row_begin[batch.sequences];
    if (rows > batch.rows) Fail(operation, {rows, batch.rows});
    while (batch.sequences > 0 && batch.slot[batch.sequences - 1] < 0) --batch.sequences;
    batch.rows = rows;
    return batch;
  }
  static RowsView Residual(const Batch& batch, const CpuWorkspace& workspace) {
    return FirstRows(workspace.residual, batch.rows);
  }
  // Copies of the residual rows whose logits are wanted.
  static RowsView HeadInput(const char* operation, const Batch& batch,
                            const CpuWorkspace& workspace);

  // From Embed to Head: as many threads as are fastest for such a pass.
  void BeginPass(int64_t rows, CpuWorkspace& workspace) {
    pool_.SetActive(workspace.thread_choices.ForRows(rows).threads());
    pass_begin_ = Clock::now();
  }
  void EndPass(int64_t rows, CpuWorkspace& workspace) {
    const std::chrono::duration<double> taken = Clock::now() - pass_begin_;
    workspace.thread_choices.ForRows(rows).Observe(taken.count(), rows);
  }

  // Each row of each part by itself.
  void NormSelection(float epsilon, const std::array<RowsView, 3>& parts) {
    const NormWeights norm{nullptr, epsilon};
    pool_.Split(parts[0].rows, 8, [&](int64_t begin, int64_t end, int) {
      for (const RowsView& part : parts) {
        for (int64_t r = begin; r < end; ++r)
          RmsNormRow(norm, part.row(r), part.columns, part.row(r));
      }
    });
  }

  void Product(const WeightMatrix& weights, const RowsView& x, const NormWeights* norm,
               const RowsView& y, LinearOutput output, CpuWorkspace& workspace,
               const float* bias = nullptr) {
    Linear(pool_, weights, x, norm, y, output, linear_settings_, workspace.linear, bias);
  }

  using Clock = std::chrono::steady_clock;

  ThreadPool pool_;
  Clock::time_point pass_begin_, round_begin_, verify_begin_, round_end_;
  LinearSettings linear_settings_;
  SamplingScratch sampling_;
  int64_t sampling_vocabulary_ = 0;
};

void CpuBackend::Embed(const Batch& described, const WeightMatrix& embedding, Workspace& base) {
  CpuWorkspace& workspace = static_cast<CpuWorkspace&>(base);
  const Batch batch = WhatThereIs("Embed", described, workspace);
  if (batch.sequences == 0) return;
  const RowsView residual = Residual(batch, workspace);
  RequireShape("Embed", &embedding, embedding.rows, residual.columns);
  BeginPass(batch.rows, workspace);
  pool_.Split(batch.rows, 8, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const int32_t token = batch.tokens[row];
      if (token < 0 || token >= embedding.rows) {
        Fail("Embed: token, vocabulary, row", {token, embedding.rows, row});
      }
      UnpackRow(embedding, token, residual.row(row));
    }
  });
}

void CpuBackend::Mamba(const Batch& described, const MambaLayer& layer, const RecurrentState& state,
                       Workspace& base) {
  CpuWorkspace& workspace = static_cast<CpuWorkspace&>(base);
  const Batch batch = WhatThereIs("Mamba", described, workspace);
  if (batch.sequences == 0) return;
  const RowsView residual = Residual(batch, workspace);
  const int64_t inner = layer.inner_width, source = layer.source_width, rank = layer.dt_rank,
                size = layer.state_size;
  const bool standard = source == 0;
  const int64_t in_rows = standard ? 2 * inner : 2 * source + 2 * inner + rank;
  RequireShape("Mamba in", layer.in, in_rows, residual.columns);
  RequireShape("Mamba dt", layer.dt, inner, rank);
  RequireShape("Mamba out", layer.out, residual.columns, inner);
  if (standard) RequireShape("Mamba select", layer.select, rank + 2 * size, inner);

  const RowsView projected = workspace.projection.View("Mamba in", batch.rows, in_rows);
  const RowsView x = workspace.inner.View("Mamba x", batch.rows, inner);
  const RowsView delta = workspace.second.View("Mamba delta", batch.rows, inner);
  Product(*layer.in, residual, &layer.norm, projected, LinearOutput::kStore, workspace,
          layer.in_bias);
  MambaConvolution(pool_, batch, layer, state, projected, x);
  RowsView z, b, c, low;
  if (standard) {
    const RowsView selected = workspace.selection.View("Mamba select", batch.rows, rank + 2 * size);
    Product(*layer.select, x, nullptr, selected, LinearOutput::kStore, workspace);
    low = Columns(selected, 0, rank);
    b = Columns(selected, rank, size);
    c = Columns(selected, rank + size, size);
    if (layer.selection_norm) NormSelection(layer.selection_norm_epsilon, {low, b, c});
    z = Columns(projected, inner, inner);
  } else {
    z = Columns(projected, source, inner);
    b = Columns(projected, source + inner, source);
    c = Columns(projected, 2 * source + inner, inner);
    low = Columns(projected, 2 * source + 2 * inner, rank);
  }
  Product(*layer.dt, low, nullptr, delta, LinearOutput::kStore, workspace);
  MambaScan(pool_, batch, layer, state, x, delta, b, c, z, x);
  Product(*layer.out, x, nullptr, residual, LinearOutput::kAdd, workspace, layer.out_bias);
}

void CpuBackend::Mamba2(const Batch& described, const Mamba2Layer& layer,
                        const RecurrentState& state, Workspace& base) {
  CpuWorkspace& workspace = static_cast<CpuWorkspace&>(base);
  const Batch batch = WhatThereIs("Mamba2", described, workspace);
  if (batch.sequences == 0) return;
  const RowsView residual = Residual(batch, workspace);
  const int64_t inner = layer.inner_width, source = layer.source_width;
  const int64_t groups = int64_t{layer.groups} * layer.state_size;
  const int64_t in_rows = inner + (source > 0 ? 2 * source : inner + groups) + groups + layer.heads;
  RequireShape("Mamba2 in", layer.in, in_rows, residual.columns);
  RequireShape("Mamba2 out", layer.out, residual.columns, inner);

  const RowsView projected = workspace.projection.View("Mamba2 in", batch.rows, in_rows);
  const RowsView convolved =
      workspace.inner.View("Mamba2 convolution", batch.rows, layer.convolution_channels());
  const RowsView mixed = workspace.second.View("Mamba2 mixer", batch.rows, inner);
  Product(*layer.in, residual, &layer.norm, projected, LinearOutput::kStore, workspace,
          layer.in_bias);
  Mamba2Mix(pool_, batch, layer, state, projected, convolved, mixed);
  Product(*layer.out, mixed, nullptr, residual, LinearOutput::kAdd, workspace, layer.out_bias);
}

void CpuBackend::Attention(const Batch& described, const AttentionLayer& layer,
                           const KeyValueState& state, Workspace& base) {
  CpuWorkspace& workspace = static_cast<CpuWorkspace&>(base);
  const Batch batch = WhatThereIs("Attention", described, workspace);
  if (batch.sequences == 0) return;
  const RowsView residual = Residual(batch, workspace);
  const int64_t queries = int64_t{layer.query_heads} * layer.head_width;
  const int64_t in_rows = queries + 2 * int64_t{layer.key_value_heads} * layer.head_width;
  RequireShape("Attention in", layer.in, in_rows, residual.columns);
  RequireShape("Attention out", layer.out, residual.columns, queries);

  const RowsView projected = workspace.projection.View("Attention in", batch.rows, in_rows);
  const RowsView mixed = workspace.inner.View("Attention", batch.rows, queries);
  Product(*layer.in, residual, &layer.norm, projected, LinearOutput::kStore, workspace,
          layer.in_bias);
  PagedAttention(pool_, batch, layer, state, projected, mixed);
  Product(*layer.out, mixed, nullptr, residual, LinearOutput::kAdd, workspace, layer.out_bias);
}

void CpuBackend::Mlp(const Batch& described, const MlpLayer& layer, Workspace& base) {
  CpuWorkspace& workspace = static_cast<CpuWorkspace&>(base);
  const Batch batch = WhatThereIs("Mlp", described, workspace);
  if (batch.sequences == 0) return;
  const RowsView residual = Residual(batch, workspace);
  const int64_t width = layer.mlp_width;
  RequireShape("Mlp in", layer.in, 2 * width, residual.columns);
  RequireShape("Mlp out", layer.out, residual.columns, width);

  const RowsView projected = workspace.projection.View("Mlp in", batch.rows, 2 * width);
  const RowsView gated = workspace.inner.View("Mlp gate", batch.rows, width);
  Product(*layer.in, residual, &layer.norm, projected, LinearOutput::kStore, workspace,
          layer.in_bias);
  pool_.Split(batch.rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      SiluGate(projected.row(row), projected.row(row) + width, width, gated.row(row));
    }
  });
  Product(*layer.out, gated, nullptr, residual, LinearOutput::kAdd, workspace, layer.out_bias);
}

void CpuBackend::Head(const Batch& described, const NormWeights& norm, const WeightMatrix& head,
                      Workspace& base) {
  CpuWorkspace& workspace = static_cast<CpuWorkspace&>(base);
  RequireShape("Head", &head, workspace.logits.columns, workspace.residual.columns);
  const Batch batch = WhatThereIs("Head", described, workspace);
  if (batch.sequences == 0) return;
  const RowsView input = HeadInput("Head", batch, workspace);
  Product(head, input, &norm, FirstRows(workspace.logits, input.rows), LinearOutput::kStore,
          workspace);
  EndPass(batch.rows, workspace);
}

RowsView CpuBackend::HeadInput(const char* operation, const Batch& batch,
                               const CpuWorkspace& workspace) {
  const RowsView residual = Residual(batch, workspace);
  int64_t count = batch.logit_count;
  while (count > 0 && batch.logit_rows[count - 1] < 0) --count;
  const RowsView input = workspace.head_input.View(operation, count, residual.columns);
  for (int64_t i = 0; i < count; ++i) {
    const int32_t row = batch.logit_rows[i];
    if (row < 0 || row >= batch.rows) Fail(operation, {row, batch.rows});
    std::memcpy(input.row(i), residual.row(row), residual.columns * sizeof(float));
  }
  return input;
}

// Spreads the first `count` numbers of a row of V over the places of `tokens`. From the last to the
// first, since tokens[i] >= i: no number is overwritten before it was moved.
void SpreadOverTokens(const int32_t* tokens, int64_t count, int64_t vocabulary, float* row) {
  int64_t end = vocabulary;  // from here on the row is done
  for (int64_t i = count; i-- > 0;) {
    const int64_t token = tokens[i];
    if (token < i || token >= end) Fail("HeadOfTokens: token, place, below", {token, i, end});
    std::fill(row + token + 1, row + end, kUnproposedLogit);
    row[token] = row[i];
    end = token;
  }
  std::fill(row, row + end, kUnproposedLogit);
}

void CpuBackend::HeadOfTokens(const Batch& described, const NormWeights& norm,
                              const WeightMatrix& head, const int32_t* tokens, Workspace& base) {
  CpuWorkspace& workspace = static_cast<CpuWorkspace&>(base);
  RequireShape("HeadOfTokens", &head, head.rows, workspace.residual.columns);
  if (head.rows > workspace.logits.columns)
    Fail("HeadOfTokens", {head.rows, workspace.logits.columns});
  const Batch batch = WhatThereIs("HeadOfTokens", described, workspace);
  if (batch.sequences == 0) return;
  const RowsView input = HeadInput("HeadOfTokens", batch, workspace);
  const RowsView logits = FirstRows(workspace.logits, input.rows);
  Product(head, input, &norm, Columns(logits, 0, head.rows), LinearOutput::kStore, workspace);
  pool_.Split(logits.rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      SpreadOverTokens(tokens, head.rows, logits.columns, logits.row(row));
    }
  });
  EndPass(batch.rows, workspace);
}

}  // namespace

std::unique_ptr<Backend> CreateCpuBackend(const CpuBackendOptions& options) {
  return std::make_unique<CpuBackend>(options);
}

}  // namespace mambad::kernels
