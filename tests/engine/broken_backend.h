// A CPU backend with one fault put into it: what a wrong kernel or a broken machine would look like
// to the engine.

#ifndef MAMBAD_TESTS_ENGINE_BROKEN_BACKEND_H_
#define MAMBAD_TESTS_ENGINE_BROKEN_BACKEND_H_

#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/backend.h"

namespace mambad::testing {

enum class Fault {
  kNone,
  kLosesReplay,        // accepted drafts never reach the recurrent state
  kAcceptsEverything,  // drafts are kept whatever the target says
  kRowsDependOnBatch,  // logits are a last bit off in calls with several rows of one sequence
  kGivesNotANumber,
};

// Its memory is host memory, so that faults can be written into results.
class BrokenBackend : public kernels::Backend {
 public:
  BrokenBackend(std::unique_ptr<kernels::Backend> good, Fault fault)
      : good_(std::move(good)), fault_(fault) {}

  std::string Description() const override { return good_->Description(); }
  std::string Numerics(kernels::ElementType weights,
                       kernels::ElementType key_values) const override {
    return good_->Numerics(weights, key_values);
  }
  kernels::ElementType UsualKeyValues() const override { return good_->UsualKeyValues(); }
  kernels::ElementType Activations(kernels::ElementType weights) const override {
    return good_->Activations(weights);
  }
  std::vector<std::string> Warnings() const override { return good_->Warnings(); }
  kernels::DeviceMemory Memory() const override { return good_->Memory(); }
  kernels::Buffer Allocate(size_t bytes) override { return good_->Allocate(bytes); }
  kernels::Buffer AllocateHost(size_t bytes) override { return good_->AllocateHost(bytes); }
  void Write(void* device, const void* host, size_t bytes) override {
    good_->Write(device, host, bytes);
  }
  void Read(void* host, const void* device, size_t bytes) override {
    good_->Read(host, device, bytes);
  }
  void Copy(void* to, const void* from, size_t bytes) override { good_->Copy(to, from, bytes); }
  void Fill(float* device, float value, size_t count) override {
    good_->Fill(device, value, count);
  }
  void Synchronize() override { good_->Synchronize(); }
  kernels::WeightMatrix Pack(int64_t rows, int64_t columns, kernels::ElementType type,
                             const kernels::MatrixSource& source) override {
    return good_->Pack(rows, columns, type, source);
  }
  std::unique_ptr<kernels::Workspace> CreateWorkspace(
      const kernels::WorkspaceShape& shape) override {
    return good_->CreateWorkspace(shape);
  }
  int64_t AllocatedBytes(int64_t bytes) const override { return good_->AllocatedBytes(bytes); }
  int64_t PackedBytes(int64_t rows, int64_t columns, kernels::ElementType type) const override {
    return good_->PackedBytes(rows, columns, type);
  }
  int64_t WorkspaceBytes(const kernels::WorkspaceShape& shape) const override {
    return good_->WorkspaceBytes(shape);
  }
  kernels::RecurrentSlotLayout SlotLayout(const kernels::MambaLayer& layer, int window_rows,
                                          bool keeps_working) const override {
    return good_->SlotLayout(layer, window_rows, keeps_working);
  }
  kernels::RecurrentSlotLayout SlotLayout(const kernels::Mamba2Layer& layer, int window_rows,
                                          bool keeps_working) const override {
    return good_->SlotLayout(layer, window_rows, keeps_working);
  }
  kernels::KeyValueLayout PageLayout(const kernels::AttentionLayer& layer,
                                     kernels::ElementType type) const override {
    return good_->PageLayout(layer, type);
  }
  bool BeginRound(const kernels::RoundShape& shape) override { return good_->BeginRound(shape); }
  void BeginVerify() override { good_->BeginVerify(); }
  void EndRound() override { good_->EndRound(); }
  kernels::RoundTimes TakeRoundTimes() override { return good_->TakeRoundTimes(); }
  kernels::RecordedRounds Recorded() const override { return good_->Recorded(); }
  bool RunsAhead() const override { return good_->RunsAhead(); }
  void Embed(const kernels::Batch& batch, const kernels::WeightMatrix& embedding,
             kernels::Workspace& workspace) override {
    good_->Embed(batch, embedding, workspace);
  }
  void Mamba(const kernels::Batch& batch, const kernels::MambaLayer& layer,
             const kernels::RecurrentState& state, kernels::Workspace& workspace) override {
    good_->Mamba(Spoiled(batch), layer, state, workspace);
  }
  void Mamba2(const kernels::Batch& batch, const kernels::Mamba2Layer& layer,
              const kernels::RecurrentState& state, kernels::Workspace& workspace) override {
    good_->Mamba2(Spoiled(batch), layer, state, workspace);
  }
  void Attention(const kernels::Batch& batch, const kernels::AttentionLayer& layer,
                 const kernels::KeyValueState& state, kernels::Workspace& workspace) override {
    good_->Attention(batch, layer, state, workspace);
  }
  void Mlp(const kernels::Batch& batch, const kernels::MlpLayer& layer,
           kernels::Workspace& workspace) override {
    good_->Mlp(batch, layer, workspace);
  }
  void Head(const kernels::Batch& batch, const kernels::NormWeights& norm,
            const kernels::WeightMatrix& head, kernels::Workspace& workspace) override {
    good_->Head(batch, norm, head, workspace);
    SpoilLogits(batch, workspace);
  }
  void HeadOfTokens(const kernels::Batch& batch, const kernels::NormWeights& norm,
                    const kernels::WeightMatrix& head, const int32_t* tokens,
                    kernels::Workspace& workspace) override {
    good_->HeadOfTokens(batch, norm, head, tokens, workspace);
    SpoilLogits(batch, workspace);
  }
  void SampleDrafts(const kernels::DraftSampling& request, const kernels::SamplingTables& tables,
                    const kernels::Workspace& draft) override {
    good_->SampleDrafts(request, tables, draft);
  }
  void Accept(const kernels::Acceptance& request, const kernels::SamplingTables& tables,
              const kernels::Workspace& target, const kernels::AcceptanceResult& result) override {
    good_->Accept(request, tables, target, result);
    for (int s = 0; s < request.sequences && fault_ == Fault::kAcceptsEverything; ++s) {
      if (request.slot[s] < 0) continue;
      const int drafts = std::min(request.draft_length[s], request.limit[s] - 1);
      for (int i = 0; i < drafts; ++i) {
        result.tokens[s * (kernels::kMaxWindowRows + 1) + i] =
            request.tokens[request.token_row[s] + 1 + i];
      }
      if (drafts == 0) continue;
      result.accepted[s] = drafts;
      result.kept[s] = std::max(result.kept[s], drafts);
    }
  }
  void Score(const kernels::TokenScoring& request, const kernels::SamplingTables& tables,
             const kernels::Workspace& target) override {
    good_->Score(request, tables, target);
  }

 private:
  void SpoilLogits(const kernels::Batch& batch, kernels::Workspace& workspace) const {
    for (int row = 0; row < batch.logit_count; ++row) {
      float* logits = workspace.logits.row(row);
      const int64_t count = workspace.logits.columns;
      if (fault_ == Fault::kGivesNotANumber)
        std::fill_n(logits, count, std::numeric_limits<float>::quiet_NaN());
      // Several rows with logits: a verify. The largest logits stay the largest.
      if (fault_ == Fault::kRowsDependOnBatch && batch.logit_count > batch.sequences) {
        for (int64_t i = 0; i < count; ++i) logits[i] *= 1 + 2e-7f;
      }
    }
  }
  kernels::Batch Spoiled(kernels::Batch batch) {
    if (fault_ != Fault::kLosesReplay) return batch;
    none_.assign(batch.sequences, 0);
    batch.replay = none_.data();
    return batch;
  }

  const std::unique_ptr<kernels::Backend> good_;
  const Fault fault_;
  std::vector<int32_t> none_;
};

}  // namespace mambad::testing

#endif  // MAMBAD_TESTS_ENGINE_BROKEN_BACKEND_H_
