#include "engine/model/model.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace mambad {
namespace {

using checkpoint::MixerKind;

// The widest of a mixer's parts, as the backend's contract names them.
struct Widths {
  int64_t projection = 0, inner = 0, selection = 0;
};

Widths AttentionWidths(const checkpoint::AttentionConfig& attention) {
  const int64_t queries = int64_t{attention.query_heads} * attention.head_width;
  return {queries + 2 * int64_t{attention.key_value_heads} * attention.head_width, queries, 0};
}

Widths MambaWidths(const checkpoint::MambaConfig& mamba) {
  const int64_t inner = mamba.inner_width, source = mamba.source_width;
  if (source == 0) return {2 * inner, 2 * inner, mamba.dt_rank + 2 * int64_t{mamba.state_size}};
  const int64_t channels = mamba.repeat_before_convolution ? inner : source;
  return {2 * source + 2 * inner + mamba.dt_rank, channels + inner, 0};
}

Widths Mamba2Widths(const checkpoint::Mamba2Config& mamba) {
  const int64_t inner = mamba.inner_width, source = mamba.source_width;
  const int64_t group_rows = int64_t{mamba.groups} * mamba.state_size;
  const int64_t taken = source > 0 ? 2 * source : inner + group_rows;  // x and B
  const bool narrow = source > 0 && !mamba.repeat_before_convolution;
  const int64_t channels = narrow ? 2 * source + group_rows : inner + 2 * group_rows;
  return {inner + taken + group_rows + mamba.heads, channels + 3 * inner, 0};
}

}  // namespace

kernels::WorkspaceShape WorkspaceShapeOf(const checkpoint::ModelConfig& config,
                                         const ModelLimits& limits) {
  kernels::WorkspaceShape shape;
  shape.max_rows = limits.max_rows;
  shape.max_logit_rows = limits.max_logit_rows;
  shape.max_sequences = limits.max_sequences;
  shape.width = config.width;
  shape.vocabulary = config.padded_vocabulary;
  shape.max_context = limits.max_context;
  shape.round_layers = std::lround(limits.round_passes * config.layers);
  const auto include = [&shape](const Widths& widths) {
    shape.max_projection = std::max(shape.max_projection, widths.projection);
    shape.max_inner = std::max(shape.max_inner, widths.inner);
    shape.max_selection = std::max(shape.max_selection, widths.selection);
  };
  if (config.HasMixer(MixerKind::kAttention)) include(AttentionWidths(config.attention));
  if (config.HasMixer(MixerKind::kMamba)) include(MambaWidths(config.mamba));
  if (config.HasMixer(MixerKind::kMamba2)) include(Mamba2Widths(config.mamba2));
  include({2 * int64_t{config.mlp_width}, config.mlp_width, 0});
  return shape;
}

Model::Model(checkpoint::ModelConfig config, std::unique_ptr<const Weights> weights,
             const ModelLimits& limits, kernels::Backend& backend)
    : config_(std::move(config)),
      weights_(std::move(weights)),
      limits_(limits),
      backend_(backend),
      workspace_(backend.CreateWorkspace(WorkspaceShapeOf(config_, limits_))) {}

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
