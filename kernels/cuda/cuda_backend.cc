// The CUDA backend: composes products, mixers and sampling into the operations of
// kernels/backend.h. Everything is enqueued on one stream and nothing is waited for but in
// Synchronize; decode rounds become graphs (round_graphs.h).

#include "kernels/cuda/cuda_backend.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "kernels/cuda/device.h"
#include "kernels/cuda/embedding.h"
#include "kernels/cuda/errors.h"
#include "kernels/cuda/gate.h"
#include "kernels/cuda/head.h"
#include "kernels/cuda/linear.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/mixers.h"
#include "kernels/cuda/norm.h"
#include "kernels/cuda/persistent_pass.h"
#include "kernels/cuda/persistent_recorder.h"
#include "kernels/cuda/round_graphs.h"
#include "kernels/cuda/sampling.h"
#include "kernels/view_parts.h"

namespace mambad::kernels::cuda {
namespace {

// Shapes of decode rounds are few: some sizes of a batch, draft lengths and contexts.
constexpr int kMostGraphs = 128;
// A launch in a graph takes so much of the device (2.6 to 3.1 kB on an H200, CUDA 13.0); a layer
// is so many launches, mixer and MLP together.
constexpr int64_t kBytesOfLaunch = 3100, kLaunchesOfLayer = 12;

void RequireShape(const char* operation, const WeightMatrix* matrix, int64_t rows,
                  int64_t columns) {
  if (matrix == nullptr) Fail(operation, {rows, columns});
  if (matrix->rows != rows || matrix->columns != columns) {
    Fail(operation, {matrix->rows, rows, matrix->columns, columns});
  }
}

struct CudaWorkspace : Workspace {
  CudaWorkspace(const ProductUnits& products, const WorkspaceShape& s, const Allocate& allocate)
      : shape(s),
        residual_rows(s.max_rows, s.width, allocate),
        logit_rows(s.max_logit_rows, s.vocabulary, allocate),
        head_input(s.max_logit_rows, s.width, allocate),
        projection(s.max_rows, s.max_projection, allocate),
        inner(s.max_rows, s.max_inner, allocate),
        second(s.max_rows, s.max_inner, allocate),
        selection(s.max_rows, s.max_selection, allocate),
        logit_count(allocate(sizeof(int32_t))),
        linear(CreateLinearScratch(
            products, std::max(s.max_rows, s.max_logit_rows),
            std::max({s.width, s.max_inner, s.max_projection, s.max_selection}), allocate)),
        sampling(CreateSamplingScratch(s.max_sequences, s.max_logit_rows, s.vocabulary, allocate)),
        attention(allocate(AttentionScratchBytes(s))),
        pass_mail(allocate(MailBytes(s))) {
    residual = residual_rows.View("CreateWorkspace", s.max_rows, s.width);
    logits = logit_rows.View("CreateWorkspace", s.max_logit_rows, s.vocabulary);
  }

  const WorkspaceShape shape;
  ScratchRows residual_rows, logit_rows;
  ScratchRows head_input;     // residual rows whose logits are wanted
  ScratchRows projection;     // what `in` gives
  ScratchRows inner, second;  // between the products of a mixer or MLP
  ScratchRows selection;      // dt, B and C of Mamba-1
  Buffer logit_count;         // int32: how many rows of logits there are
  mutable LinearScratch linear;
  mutable SamplingScratch sampling;
  Buffer attention;
  Buffer pass_mail;  // of passes in one launch
};

// Owns the stream, so that it outlives what works on it.
class Stream {
 public:
  Stream() {
    Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  }
  ~Stream() {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  operator cudaStream_t() const { return stream_; }  // NOLINT: it is one

 private:
  cudaStream_t stream_ = nullptr;
};

class CudaBackend : public Backend {
 public:
  CudaBackend(Device device, std::function<void(std::string_view)> lost)
      : device_(std::move(device)),
        lost_(std::move(lost)),
        rounds_(stream_, kMostGraphs),
        passes_(stream_) {}
  ~CudaBackend() override { SetLostHook(nullptr); }

  std::string Description() const override { return device_.Description(); }
  // Tensor cores and approximate exponentials of another generation may round in another way.
  std::string Numerics(ElementType weights, ElementType key_values) const override {
    return "cuda-sm" + std::to_string(device_.major) + std::to_string(device_.minor) +
           (weights == ElementType::kFloat32 ? "/weights-f32/activations-f32"
                                             : "/weights-bf16/activations-bf16") +
           (key_values == ElementType::kFloat32 ? "/kv-f32" : "/kv-bf16");
  }
  ElementType Activations(ElementType weights) const override { return weights; }
  ElementType UsualKeyValues() const override { return ElementType::kBFloat16; }
  std::vector<std::string> Warnings() const override { return {}; }

  // A device that fails to say is found to be lost by whoever drives it, not by whoever asks.
  DeviceMemory Memory() const override {
    DeviceMemory memory;
    memory.dedicated = !device_.shares_memory;
    size_t free = 0, total = 0;
    if (cudaSetDevice(device_.index) == cudaSuccess &&
        cudaMemGetInfo(&free, &total) == cudaSuccess) {
      memory.total = static_cast<int64_t>(total);
      memory.free = static_cast<int64_t>(free);
    }
    return memory;
  }
  Buffer Allocate(size_t bytes) override {
    Enter();
    return AllocateDevice(bytes, stream_);
  }
  Buffer AllocateHost(size_t bytes) override {
    Enter();
    return AllocatePinned(bytes);
  }
  void Write(void* device, const void* host, size_t bytes) override {
    Move(device, host, bytes, cudaMemcpyHostToDevice, "Write");
  }
  void Read(void* host, const void* device, size_t bytes) override {
    Move(host, device, bytes, cudaMemcpyDeviceToHost, "Read");
  }
  void Copy(void* to, const void* from, size_t bytes) override {
    Move(to, from, bytes, cudaMemcpyDeviceToDevice, "Copy");
  }
  void Fill(float* device, float value, size_t count) override {
    Enter();
    cuda::Fill(stream_, device, value, count);
  }
  void Synchronize() override {
    Enter();
    Check(cudaStreamSynchronize(stream_), "Synchronize");
  }

  WeightMatrix Pack(int64_t rows, int64_t columns, ElementType type,
                    const MatrixSource& source) override {
    Enter();
    return PackMatrix(rows, columns, type, source, allocate_, stream_);
  }
  std::unique_ptr<Workspace> CreateWorkspace(const WorkspaceShape& shape) override {
    Enter();
    auto workspace = std::make_unique<CudaWorkspace>(device_.products, shape, allocate_);
    EmptyMail(stream_, workspace->pass_mail);
    return workspace;
  }
  int64_t AllocatedBytes(int64_t bytes) const override { return DeviceBytes(bytes); }
  int64_t PackedBytes(int64_t rows, int64_t columns, ElementType type) const override {
    return DeviceBytes(cuda::PackedBytes(rows, columns, type));
  }
  int64_t WorkspaceBytes(const WorkspaceShape& shape) const override {
    Enter();
    int64_t bytes = kMostGraphs * shape.round_layers * kLaunchesOfLayer * kBytesOfLaunch;
    CudaWorkspace(device_.products, shape, [&bytes](size_t piece) {
      bytes += DeviceBytes(static_cast<int64_t>(piece));
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

  bool BeginRound(const RoundShape& shape) override {
    Enter();
    const bool described = rounds_.Begin(shape);
    passes_.Begin(rounds_.captures());
    return described;
  }
  void BeginVerify() override {
    EndPass();
    rounds_.BeginVerify();
  }
  void EndRound() override {
    EndPass();
    passes_.Begin(false);
    rounds_.End();
  }
  RoundTimes TakeRoundTimes() override {
    Enter();
    return rounds_.Times();
  }
  RecordedRounds Recorded() const override { return rounds_.Counts(); }
  bool RunsAhead() const override { return true; }

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
    EndPass();
    if (request.sequences == 0) return;
    SampleDraftTokens(stream_, request, tables, draft.logits, ScratchOf(draft));
  }
  void Accept(const Acceptance& request, const SamplingTables& tables, const Workspace& target,
              const AcceptanceResult& result) override {
    EndPass();
    if (request.sequences == 0) return;
    AcceptDrafts(stream_, request, tables, target.logits, result, ScratchOf(target),
                 rounds_.LongestDraft());
  }
  void Score(const TokenScoring& request, const SamplingTables& tables,
             const Workspace& target) override {
    EndPass();
    if (request.count == 0) return;
    ScoreTokens(stream_, request, tables, target.logits, ScratchOf(target));
  }

 private:
  // Every call may be the first of another thread, or come after another backend's.
  void Enter() const {
    SetLostHook(&lost_);
    Check(cudaSetDevice(device_.index), "cudaSetDevice");
  }
  void Move(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, const char* operation) {
    Enter();
    if (bytes > 0) Check(cudaMemcpyAsync(to, from, bytes, kind, stream_), operation);
  }
  static SamplingScratch& ScratchOf(const Workspace& workspace) {
    return static_cast<const CudaWorkspace&>(workspace).sampling;
  }

  // Before anything is enqueued behind operations that were noted down.
  void EndPass() {
    Enter();
    Buffer memory = passes_.Flush();
    if (memory.data() != nullptr) rounds_.Keep(std::move(memory));
  }
  // Notes an operation down, in this pass or in a new one; else launches its kernels.
  template <typename Note, typename Kernels>
  void NoteOrLaunch(const Note& note, const Kernels& kernels) {
    if (note(kernels)) return;
    EndPass();
    if (!note(kernels)) kernels();
  }

  // Checks the bounds of a batch. False: there is nothing in it.
  bool Begin(const char* operation, const Batch& batch, const CudaWorkspace& workspace) const {
    Enter();
    if (batch.rows > workspace.shape.max_rows || batch.sequences > workspace.shape.max_sequences) {
      Fail(operation,
           {batch.rows, workspace.shape.max_rows, batch.sequences, workspace.shape.max_sequences});
    }
    return batch.sequences > 0;
  }
  static RowsView Residual(const Batch& batch, const CudaWorkspace& workspace) {
    return FirstRows(workspace.residual, batch.rows);
  }
  // Of the rows that there are.
  static const int32_t* RowCount(const Batch& batch) { return batch.row_begin + batch.sequences; }

  void Product(const int32_t* row_count, const WeightMatrix& weights, const RowsView& x,
               const NormWeights* norm, const RowsView& y, LinearOutput output,
               CudaWorkspace& workspace, const float* bias = nullptr) {
    if (x.rows == 0) return;
    Linear(stream_, row_count, weights, x, norm, y, output, workspace.linear, bias);
  }
  // The same without a norm; where there are tiles, they have the rows and x their shape.
  void Product(const int32_t* row_count, const WeightMatrix& weights, const RowsView& x,
               const TokenTiles& tiles, const RowsView& y, LinearOutput output,
               CudaWorkspace& workspace, const float* bias = nullptr) {
    if (!tiles) return Product(row_count, weights, x, nullptr, y, output, workspace, bias);
    LinearOfTiles(stream_, row_count, weights, x, tiles, y, output, workspace.linear, bias);
  }
  void MambaKernels(const Batch& batch, const MambaLayer& layer, const RecurrentState& state,
                    CudaWorkspace& workspace);
  // y [logit rows, rows of head] of the rows whose logits are wanted.
  void HeadProduct(const char* operation, const Batch& batch, const NormWeights& norm,
                   const WeightMatrix& head, CudaWorkspace& workspace, const RowsView& y);

  const Device device_;
  const std::function<void(std::string_view)> lost_;
  Stream stream_;
  RoundGraphs rounds_;
  PassRecorder passes_;
  const cuda::Allocate allocate_ = [this](size_t bytes) { return AllocateDevice(bytes, stream_); };
};

void CudaBackend::Embed(const Batch& batch, const WeightMatrix& embedding, Workspace& base) {
  CudaWorkspace& workspace = static_cast<CudaWorkspace&>(base);
  if (!Begin("Embed", batch, workspace) || batch.rows == 0) return;
  EndPass();
  const RowsView residual = Residual(batch, workspace);
  RequireShape("Embed", &embedding, embedding.rows, residual.columns);
  cuda::Embed(stream_, batch, embedding, residual);
}

void CudaBackend::Mamba(const Batch& batch, const MambaLayer& layer, const RecurrentState& state,
                        Workspace& base) {
  CudaWorkspace& workspace = static_cast<CudaWorkspace&>(base);
  if (!Begin("Mamba", batch, workspace)) return;
  const RowsView residual = Residual(batch, workspace);
  const int64_t inner = layer.inner_width, source = layer.source_width, rank = layer.dt_rank;
  const bool standard = source == 0;
  const int64_t in_rows = standard ? 2 * inner : 2 * source + 2 * inner + rank;
  RequireShape("Mamba in", layer.in, in_rows, residual.columns);
  RequireShape("Mamba dt", layer.dt, inner, rank);
  RequireShape("Mamba out", layer.out, residual.columns, inner);
  if (standard) RequireShape("Mamba select", layer.select, rank + 2 * layer.state_size, inner);

  NoteOrLaunch(
      [&](const auto& kernels) {
        return passes_.NoteMamba(batch, layer, state, residual, workspace.pass_mail, kernels);
      },
      [this, batch, layer, state, &workspace] { MambaKernels(batch, layer, state, workspace); });
}

void CudaBackend::MambaKernels(const Batch& batch, const MambaLayer& layer,
                               const RecurrentState& state, CudaWorkspace& workspace) {
  const RowsView residual = Residual(batch, workspace);
  const int32_t* const rows = RowCount(batch);
  const int64_t inner = layer.inner_width, source = layer.source_width, rank = layer.dt_rank,
                size = layer.state_size, in_rows = layer.in->rows;
  const bool standard = source == 0;
  const RowsView projected = workspace.projection.View("Mamba in", batch.rows, in_rows);
  const RowsView x = workspace.inner.View("Mamba x", batch.rows, inner);
  const RowsView delta = workspace.second.View("Mamba delta", batch.rows, inner);
  Product(rows, *layer.in, residual, &layer.norm, projected, LinearOutput::kStore, workspace,
          layer.in_bias);
  const TokenTiles x_tiles =
      standard ? TilesFor(*layer.select, batch.rows, workspace.linear) : TokenTiles();
  MambaConvolution(stream_, batch, layer, state, projected, x, x_tiles);
  RowsView z, b, c, low;
  if (standard) {
    const RowsView selected = workspace.selection.View("Mamba select", batch.rows, rank + 2 * size);
    Product(rows, *layer.select, x, x_tiles, selected, LinearOutput::kStore, workspace);
    low = Columns(selected, 0, rank);
    b = Columns(selected, rank, size);
    c = Columns(selected, rank + size, size);
    if (layer.selection_norm) {
      NormSelection(stream_, rows, layer.selection_norm_epsilon, {low, b, c});
    }
    z = Columns(projected, inner, inner);
  } else {
    z = Columns(projected, source, inner);
    b = Columns(projected, source + inner, source);
    c = Columns(projected, 2 * source + inner, inner);
    low = Columns(projected, 2 * source + 2 * inner, rank);
  }
  Product(rows, *layer.dt, low, nullptr, delta, LinearOutput::kStore, workspace);
  const TokenTiles tiles = TilesFor(*layer.out, batch.rows, workspace.linear);
  MambaScan(stream_, batch, layer, state, x, delta, b, c, z, x, tiles);
  Product(rows, *layer.out, x, tiles, residual, LinearOutput::kAdd, workspace, layer.out_bias);
}

void CudaBackend::Mamba2(const Batch& batch, const Mamba2Layer& layer, const RecurrentState& state,
                         Workspace& base) {
  CudaWorkspace& workspace = static_cast<CudaWorkspace&>(base);
  if (!Begin("Mamba2", batch, workspace)) return;
  EndPass();
  const RowsView residual = Residual(batch, workspace);
  const int32_t* const rows = RowCount(batch);
  const int64_t inner = layer.inner_width, source = layer.source_width;
  const int64_t groups = int64_t{layer.groups} * layer.state_size;
  const int64_t in_rows = inner + (source > 0 ? 2 * source : inner + groups) + groups + layer.heads;
  RequireShape("Mamba2 in", layer.in, in_rows, residual.columns);
  RequireShape("Mamba2 out", layer.out, residual.columns, inner);

  const RowsView projected = workspace.projection.View("Mamba2 in", batch.rows, in_rows);
  const RowsView convolved =
      workspace.inner.View("Mamba2 convolution", batch.rows, layer.convolution_channels());
  const RowsView mixed = workspace.second.View("Mamba2 mixer", batch.rows, inner);
  Product(rows, *layer.in, residual, &layer.norm, projected, LinearOutput::kStore, workspace,
          layer.in_bias);
  const TokenTiles tiles = TilesFor(*layer.out, batch.rows, workspace.linear);
  Mamba2Mix(stream_, batch, layer, state, projected, convolved, mixed, tiles);
  Product(rows, *layer.out, mixed, tiles, residual, LinearOutput::kAdd, workspace, layer.out_bias);
}

void CudaBackend::Attention(const Batch& batch, const AttentionLayer& layer,
                            const KeyValueState& state, Workspace& base) {
  CudaWorkspace& workspace = static_cast<CudaWorkspace&>(base);
  if (!Begin("Attention", batch, workspace) || batch.rows == 0) return;
  EndPass();
  const RowsView residual = Residual(batch, workspace);
  const int32_t* const rows = RowCount(batch);
  const int64_t queries = int64_t{layer.query_heads} * layer.head_width;
  const int64_t in_rows = queries + 2 * int64_t{layer.key_value_heads} * layer.head_width;
  RequireShape("Attention in", layer.in, in_rows, residual.columns);
  RequireShape("Attention out", layer.out, residual.columns, queries);

  const RowsView projected = workspace.projection.View("Attention in", batch.rows, in_rows);
  const RowsView mixed = workspace.inner.View("Attention", batch.rows, queries);
  Product(rows, *layer.in, residual, &layer.norm, projected, LinearOutput::kStore, workspace,
          layer.in_bias);
  PagedAttention(
      stream_, batch, layer, state, projected, mixed,
      {workspace.attention.as<float>(), static_cast<int64_t>(workspace.attention.bytes())});
  Product(rows, *layer.out, mixed, nullptr, residual, LinearOutput::kAdd, workspace,
          layer.out_bias);
}

void CudaBackend::Mlp(const Batch& batch, const MlpLayer& layer, Workspace& base) {
  CudaWorkspace& workspace = static_cast<CudaWorkspace&>(base);
  if (!Begin("Mlp", batch, workspace) || batch.rows == 0) return;
  EndPass();
  const RowsView residual = Residual(batch, workspace);
  const int32_t* const rows = RowCount(batch);
  const int64_t width = layer.mlp_width;
  RequireShape("Mlp in", layer.in, 2 * width, residual.columns);
  RequireShape("Mlp out", layer.out, residual.columns, width);

  const RowsView projected = workspace.projection.View("Mlp in", batch.rows, 2 * width);
  const RowsView gated = workspace.inner.View("Mlp gate", batch.rows, width);
  Product(rows, *layer.in, residual, &layer.norm, projected, LinearOutput::kStore, workspace,
          layer.in_bias);
  const TokenTiles tiles = TilesFor(*layer.out, batch.rows, workspace.linear);
  SiluGate(stream_, rows, projected, gated, tiles);
  Product(rows, *layer.out, gated, tiles, residual, LinearOutput::kAdd, workspace, layer.out_bias);
}

void CudaBackend::HeadProduct(const char* operation, const Batch& batch, const NormWeights& norm,
                              const WeightMatrix& head, CudaWorkspace& workspace,
                              const RowsView& y) {
  const RowsView input =
      workspace.head_input.View(operation, batch.logit_count, workspace.residual.columns);
  int32_t* const count = workspace.logit_count.as<int32_t>();
  GatherLogitRows(stream_, batch, workspace.residual, input, count);
  Product(count, head, input, &norm, y, LinearOutput::kStore, workspace);
}

void CudaBackend::Head(const Batch& batch, const NormWeights& norm, const WeightMatrix& head,
                       Workspace& base) {
  CudaWorkspace& workspace = static_cast<CudaWorkspace&>(base);
  RequireShape("Head", &head, workspace.logits.columns, workspace.residual.columns);
  if (!Begin("Head", batch, workspace) || batch.logit_count == 0) return;
  const RowsView logits = FirstRows(workspace.logits, batch.logit_count);
  NoteOrLaunch(
      [&](const auto& kernels) {
        return passes_.NoteHead(batch, norm, head, Residual(batch, workspace), logits, kernels);
      },
      [this, batch, norm, &head, &workspace, logits] {
        HeadProduct("Head", batch, norm, head, workspace, logits);
      });
}

void CudaBackend::HeadOfTokens(const Batch& batch, const NormWeights& norm,
                               const WeightMatrix& head, const int32_t* tokens, Workspace& base) {
  CudaWorkspace& workspace = static_cast<CudaWorkspace&>(base);
  RequireShape("HeadOfTokens", &head, head.rows, workspace.residual.columns);
  if (head.rows > workspace.logits.columns) {
    Fail("HeadOfTokens", {head.rows, workspace.logits.columns});
  }
  if (!Begin("HeadOfTokens", batch, workspace) || batch.logit_count == 0) return;
  EndPass();
  const RowsView logits = FirstRows(workspace.logits, batch.logit_count);
  HeadProduct("HeadOfTokens", batch, norm, head, workspace, Columns(logits, 0, head.rows));
  SpreadOverTokens(stream_, workspace.logit_count.as<int32_t>(), tokens, head.rows, logits);
}

}  // namespace

std::unique_ptr<Backend> CreateCudaBackend(const CudaBackendOptions& options, std::string* error) {
  std::optional<Device> device = OpenDevice(options.index, error);
  if (!device.has_value()) return nullptr;
  SetLostHook(nullptr);
  return std::make_unique<CudaBackend>(*std::move(device), options.lost);
}

}  // namespace mambad::kernels::cuda
