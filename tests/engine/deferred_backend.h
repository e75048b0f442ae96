// A CPU backend that is as late as the contract allows: what it is called for it does in
// Synchronize, in order, out of the memory that it was shown. Host memory that is touched too
// early, a result that is read too early and a call that depends on one show as wrong answers.

#ifndef MAMBAD_TESTS_ENGINE_DEFERRED_BACKEND_H_
#define MAMBAD_TESTS_ENGINE_DEFERRED_BACKEND_H_

#include <cstdlib>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "engine/options.h"
#include "kernels/cpu/cpu_backend.h"
#include "tests/engine/broken_backend.h"

namespace mambad::testing {

class DeferredBackend : public BrokenBackend {
 public:
  explicit DeferredBackend(std::unique_ptr<kernels::Backend> backend)
      : BrokenBackend(std::move(backend), Fault::kNone) {}

  bool RunsAhead() const override { return true; }

  void Write(void* device, const void* host, size_t bytes) override {
    Later([=, this] { BrokenBackend::Write(device, host, bytes); });
  }
  void Read(void* host, const void* device, size_t bytes) override {
    Later([=, this] { BrokenBackend::Read(host, device, bytes); });
  }
  void Copy(void* to, const void* from, size_t bytes) override {
    Later([=, this] { BrokenBackend::Copy(to, from, bytes); });
  }
  void Fill(float* device, float value, size_t count) override {
    Later([=, this] { BrokenBackend::Fill(device, value, count); });
  }
  void Synchronize() override {
    for (const std::function<void()>& call : std::exchange(calls_, {})) call();
    BrokenBackend::Synchronize();
  }

  bool BeginRound(const kernels::RoundShape& shape) override {
    Later([=, this] { BrokenBackend::BeginRound(shape); });
    return true;
  }
  void BeginVerify() override {
    Later([this] { BrokenBackend::BeginVerify(); });
  }
  void EndRound() override {
    Later([this] { BrokenBackend::EndRound(); });
  }
  void Embed(const kernels::Batch& batch, const kernels::WeightMatrix& embedding,
             kernels::Workspace& workspace) override {
    Later([=, this, &embedding, &workspace] { BrokenBackend::Embed(batch, embedding, workspace); });
  }
  void Mamba(const kernels::Batch& batch, const kernels::MambaLayer& layer,
             const kernels::RecurrentState& state, kernels::Workspace& workspace) override {
    Later([=, this, &layer, &state, &workspace] {
      BrokenBackend::Mamba(batch, layer, state, workspace);
    });
  }
  void Mamba2(const kernels::Batch& batch, const kernels::Mamba2Layer& layer,
              const kernels::RecurrentState& state, kernels::Workspace& workspace) override {
    Later([=, this, &layer, &state, &workspace] {
      BrokenBackend::Mamba2(batch, layer, state, workspace);
    });
  }
  void Attention(const kernels::Batch& batch, const kernels::AttentionLayer& layer,
                 const kernels::KeyValueState& state, kernels::Workspace& workspace) override {
    Later([=, this, &layer, &state, &workspace] {
      BrokenBackend::Attention(batch, layer, state, workspace);
    });
  }
  void Mlp(const kernels::Batch& batch, const kernels::MlpLayer& layer,
           kernels::Workspace& workspace) override {
    Later([=, this, &layer, &workspace] { BrokenBackend::Mlp(batch, layer, workspace); });
  }
  void Head(const kernels::Batch& batch, const kernels::NormWeights& norm,
            const kernels::WeightMatrix& head, kernels::Workspace& workspace) override {
    Later(
        [=, this, &norm, &head, &workspace] { BrokenBackend::Head(batch, norm, head, workspace); });
  }
  void HeadOfTokens(const kernels::Batch& batch, const kernels::NormWeights& norm,
                    const kernels::WeightMatrix& head, const int32_t* tokens,
                    kernels::Workspace& workspace) override {
    Later([=, this, &norm, &head, &workspace] {
      BrokenBackend::HeadOfTokens(batch, norm, head, tokens, workspace);
    });
  }
  void SampleDrafts(const kernels::DraftSampling& request, const kernels::SamplingTables& tables,
                    const kernels::Workspace& draft) override {
    Later([=, this, &draft] { BrokenBackend::SampleDrafts(request, tables, draft); });
  }
  void Accept(const kernels::Acceptance& request, const kernels::SamplingTables& tables,
              const kernels::Workspace& target, const kernels::AcceptanceResult& result) override {
    Later([=, this, &target] { BrokenBackend::Accept(request, tables, target, result); });
  }
  void Score(const kernels::TokenScoring& request, const kernels::SamplingTables& tables,
             const kernels::Workspace& target) override {
    Later([=, this, &target] { BrokenBackend::Score(request, tables, target); });
  }

 private:
  void Later(std::function<void()> call) { calls_.push_back(std::move(call)); }

  std::vector<std::function<void()>> calls_;
};

// With MAMBAD_TEST_DEFERRED set, as ctest's NAME_deferred does, tests that name no backend of their
// own run on this one.
inline std::unique_ptr<kernels::Backend> DeferredIfAsked(const EngineOptions& options) {
  if (std::getenv("MAMBAD_TEST_DEFERRED") == nullptr) return nullptr;
  const bool rounds = options.activations != ComputeType::kFloat32;
  return std::make_unique<DeferredBackend>(kernels::CreateCpuBackend(
      {.threads = options.threads,
       .activations = rounds ? kernels::ElementType::kBFloat16 : kernels::ElementType::kFloat32}));
}

}  // namespace mambad::testing

#endif  // MAMBAD_TESTS_ENGINE_DEFERRED_BACKEND_H_
