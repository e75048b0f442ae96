#include "engine/model/model.h"

#include <algorithm>
#include <utility>

namespace mambad {
namespace {

using checkpoint::MixerKind;

kernels::WorkspaceShape ShapeOf(const checkpoint::ModelConfig& config, const Weights& weights,
                                const ModelLimits& limits) {
  kernels::WorkspaceShape shape;
  shape.max_rows = limits.max_rows;
  shape.max_logit_rows = limits.max_logit_rows;
  shape.max_sequences = limits.max_sequences;
  shape.width = config.width;
  shape.vocabulary = config.padded_vocabulary;
  shape.max_context = limits.max_context;
  for (const Block& block : weights.blocks()) {
    switch (block.mixer) {
      case MixerKind::kAttention:
        shape.max_projection = std::max(shape.max_projection, block.attention.in->rows);
        shape.max_inner = std::max(shape.max_inner, block.attention.out->columns);
        break;
      case MixerKind::kMamba:
        shape.max_projection = std::max(shape.max_projection, block.mamba.in->rows);
        shape.max_inner = std::max<int64_t>(
            shape.max_inner, block.mamba.convolution_channels() + block.mamba.inner_width);
        if (block.mamba.select != nullptr)
          shape.max_selection = std::max(shape.max_selection, block.mamba.select->rows);
        break;
      case MixerKind::kMamba2:
        shape.max_projection = std::max(shape.max_projection, block.mamba2.in->rows);
        shape.max_inner = std::max<int64_t>(
            shape.max_inner, block.mamba2.convolution_channels() + 3 * block.mamba2.inner_width);
        break;
    }
    if (block.has_mlp) {
      shape.max_projection = std::max(shape.max_projection, block.mlp.in->rows);
      shape.max_inner = std::max<int64_t>(shape.max_inner, block.mlp.mlp_width);
    }
  }
  return shape;
}

}  // namespace

Model::Model(checkpoint::ModelConfig config, std::unique_ptr<const Weights> weights,
             const ModelLimits& limits, kernels::Backend& backend)
    : config_(std::move(config)),
      weights_(std::move(weights)),
      limits_(limits),
      backend_(backend),
      workspace_(backend.CreateWorkspace(ShapeOf(config_, *weights_, limits_))) {}

absl::StatusOr<std::unique_ptr<Model>> Model::Load(const checkpoint::Checkpoint& checkpoint,
                                                   ComputeType type, const ModelLimits& limits,
                                                   kernels::Backend& backend,
                                                   absl::Span<const int32_t> proposed_tokens) {
  absl::StatusOr<std::unique_ptr<const Weights>> weights =
      Weights::Load(checkpoint, type, backend, proposed_tokens);
  if (!weights.ok()) return weights.status();
  return std::unique_ptr<Model>(
      new Model(checkpoint.config(), *std::move(weights), limits, backend));
}

void Model::Forward(const kernels::Batch& batch, StatePool& state) {
  backend_.Embed(batch, weights_->embedding(), *workspace_);
  const std::vector<Block>& blocks = weights_->blocks();
  for (size_t i = 0; i < blocks.size(); ++i) {
    const Block& block = blocks[i];
    switch (block.mixer) {
      case MixerKind::kAttention:
        backend_.Attention(batch, block.attention, state.key_values(i), *workspace_);
        break;
      case MixerKind::kMamba:
        backend_.Mamba(batch, block.mamba, state.recurrent(i), *workspace_);
        break;
      case MixerKind::kMamba2:
        backend_.Mamba2(batch, block.mamba2, state.recurrent(i), *workspace_);
        break;
    }
    if (block.has_mlp) backend_.Mlp(batch, block.mlp, *workspace_);
  }
  if (batch.logit_count == 0) return;
  const kernels::NormWeights& norm = weights_->final_norm();
  if (weights_->head_tokens() == nullptr) {
    backend_.Head(batch, norm, weights_->head(), *workspace_);
  } else {
    backend_.HeadOfTokens(batch, norm, weights_->head(), weights_->head_tokens(), *workspace_);
  }
}

}  // namespace mambad
