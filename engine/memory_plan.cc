#include "engine/memory_plan.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/model/model.h"
#include "engine/weight_type.h"
#include "kernels/backend.h"

namespace mambad {
namespace {

using checkpoint::Checkpoint;
using checkpoint::MixerKind;
using checkpoint::ModelConfig;
using checkpoint::Parameter;
using checkpoint::Role;

constexpr int64_t kLeastCacheTokens = 2048;

int64_t Numbers(const Parameter& parameter) {
  int64_t numbers = 1;
  for (int64_t extent : parameter.shape) numbers *= extent;
  return numbers;
}

int64_t WeightBytes(const Checkpoint& checkpoint, ComputeType type, int64_t proposed_tokens) {
  const bool float32 = ComputesInFloat32(checkpoint, type);
  int64_t bytes = 0;
  for (const Parameter& parameter : checkpoint.table().parameters()) {
    if (parameter.optional && !checkpoint.Has(parameter)) continue;
    // The embedding stands for a tied head, listed rows for a whole one.
    if (parameter.role == Role::kHead && (checkpoint.config().tied_head || proposed_tokens > 0)) {
      continue;
    }
    bytes += Numbers(parameter) * (float32 || parameter.keep_float32 ? 4 : 2);
  }
  return bytes + proposed_tokens * checkpoint.config().width * (float32 ? 4 : 2);
}

// The shapes that a slot's layout depends on.
int64_t SlotFloats(const ModelConfig& config, MixerKind mixer, int window_rows, bool keeps_working,
                   const kernels::Backend& backend) {
  if (mixer == MixerKind::kMamba) {
    kernels::MambaLayer layer;
    layer.inner_width = config.mamba.inner_width;
    layer.state_size = config.mamba.state_size;
    layer.dt_rank = config.mamba.dt_rank;
    layer.convolution_width = config.mamba.convolution_width;
    layer.groups = config.mamba.groups;
    layer.source_width = config.mamba.source_width;
    layer.repeat_before_convolution = config.mamba.repeat_before_convolution;
    return backend.SlotLayout(layer, window_rows, keeps_working).floats;
  }
  kernels::Mamba2Layer layer;
  layer.inner_width = config.mamba2.inner_width;
  layer.state_size = config.mamba2.state_size;
  layer.heads = config.mamba2.heads;
  layer.groups = config.mamba2.groups;
  layer.convolution_width = config.mamba2.convolution_width;
  layer.source_width = config.mamba2.source_width;
  layer.repeat_before_convolution = config.mamba2.repeat_before_convolution;
  return backend.SlotLayout(layer, window_rows, keeps_working).floats;
}

int64_t StateBytes(const ModelConfig& config, int slots, int window_rows, bool keeps_working,
                   const kernels::Backend& backend) {
  int64_t floats = 0;
  for (MixerKind kind : {MixerKind::kMamba, MixerKind::kMamba2}) {
    const int64_t layers = std::count(config.mixers.begin(), config.mixers.end(), kind);
    if (layers > 0)
      floats += layers * SlotFloats(config, kind, window_rows, keeps_working, backend);
  }
  return floats * slots * 4;
}

// Keys and values of one token, in all attention layers.
int64_t CacheBytesPerToken(const ModelConfig& config, const EngineOptions& options,
                           const kernels::Backend& backend) {
  const int64_t layers =
      std::count(config.mixers.begin(), config.mixers.end(), MixerKind::kAttention);
  if (layers == 0) return 0;
  kernels::AttentionLayer layer;
  layer.query_heads = config.attention.query_heads;
  layer.key_value_heads = config.attention.key_value_heads;
  layer.head_width = config.attention.head_width;
  const kernels::KeyValueLayout layout = backend.PageLayout(layer, ElementTypeOf(options.kv_type));
  return layers * (layout.key_bytes + layout.value_bytes) / kernels::kPageTokens;
}

// What the CPU's backend takes, at most: rows of each part, and twice the widest of them on its way
// into a product. Rows end on cache lines, and never at a multiple of a page.
int64_t WorkspaceBytes(const ModelConfig& config, const EngineOptions& options, int logit_rows) {
  ModelLimits limits;
  limits.max_rows = options.max_step_rows;
  limits.max_logit_rows = logit_rows;
  const kernels::WorkspaceShape shape = WorkspaceShapeOf(config, limits);
  constexpr int64_t kPadding = 32;
  const int64_t row =
      shape.width + shape.max_projection + 2 * shape.max_inner + shape.max_selection + 5 * kPadding;
  const int64_t logit_row = shape.vocabulary + shape.width + 2 * kPadding;
  const int64_t widest =
      std::max({shape.width, shape.max_inner, shape.max_projection, shape.max_selection});
  const int64_t all_rows = std::max(shape.max_rows, shape.max_logit_rows);
  return 4 * (shape.max_rows * row + shape.max_logit_rows * logit_row +
              2 * all_rows * (widest + kPadding));
}

int64_t PageTableBytes(const ModelConfig& config, const EngineOptions& options) {
  const int64_t pages =
      config.HasMixer(MixerKind::kAttention)
          ? (options.max_context + kernels::kPageTokens - 1) / kernels::kPageTokens
          : 1;
  return 2 * 4 * pages * options.max_sequences;  // the host's and the device's
}

// `had`: how much there was, as the middle of a sentence.
absl::Status TooLittle(const MemoryPlan& plan, const EngineOptions& options,
                       const std::string& had) {
  const std::pair<int64_t, std::string> parts[] = {
      {plan.weights, plan.float32_weights
                         ? "compute.weight_type: bfloat16, or serve a smaller model"
                         : "a smaller model"},
      {plan.states, absl::StrCat("batching.max_sequences: ", options.max_sequences)},
      {plan.keys_and_values, absl::StrCat("batching.kv_cache_tokens: ", options.kv_cache_tokens)},
      {plan.tables, absl::StrCat("batching.max_sequences: ", options.max_sequences)},
      {plan.workspace, absl::StrCat("batching.max_step_rows: ", options.max_step_rows)},
  };
  const auto& largest =
      *std::max_element(std::begin(parts), std::end(parts),
                        [](const auto& a, const auto& b) { return a.first < b.first; });
  return absl::ResourceExhaustedError(absl::StrCat(
      "too little memory: ", BytesForPeople(plan.total()), " are needed (weights ",
      BytesForPeople(plan.weights), ", states ", BytesForPeople(plan.states), ", keys and values ",
      BytesForPeople(plan.keys_and_values), ", tables ", BytesForPeople(plan.tables),
      ", work space ", BytesForPeople(plan.workspace), "), ", had, ": ",
      &largest != &parts[0]  ? "lower "
      : plan.float32_weights ? "set "
                             : "serve ",
      largest.second));
}

}  // namespace

MemoryPlan PlanMemory(const Checkpoint& target, const Checkpoint* draft, int64_t proposed_tokens,
                      const EngineOptions& options, const kernels::Backend& backend) {
  MemoryPlan plan;
  plan.free = backend.FreeBytes();
  plan.float32_weights = ComputesInFloat32(target, options.weight_type);
  const int64_t vocabulary = target.config().padded_vocabulary;
  const int logit_rows = MaxLogitRows(options);
  for (const Checkpoint* model : {&target, draft}) {
    if (model == nullptr) continue;
    const ModelConfig& config = model->config();
    const bool drafts = model == draft;
    plan.weights += WeightBytes(*model, options.weight_type, drafts ? proposed_tokens : 0);
    const int window_rows = drafts ? DraftWindowRows(options) : TargetWindowRows(options);
    plan.states += StateBytes(config, options.max_sequences, window_rows, drafts, backend);
    plan.cache_token += CacheBytesPerToken(config, options, backend);
    plan.tables += PageTableBytes(config, options);
    plan.workspace += WorkspaceBytes(config, options, drafts ? options.max_sequences : logit_rows);
  }
  plan.keys_and_values = plan.cache_token * options.kv_cache_tokens;
  plan.tables += options.max_penalised * vocabulary * 8;  // penalties' counts and biases
  return plan;
}

int64_t FittingCacheTokens(const MemoryPlan& plan, int64_t wanted) {
  if (plan.free < 0 || plan.cache_token == 0) return wanted;
  const int64_t others = plan.total() - plan.keys_and_values;
  const int64_t room = plan.free - plan.free / 20 - others;
  const int64_t pages = room / (plan.cache_token * kernels::kPageTokens);
  return std::min(wanted, std::max(pages * kernels::kPageTokens, kLeastCacheTokens));
}

absl::Status CheckFits(const MemoryPlan& plan, const EngineOptions& options) {
  if (plan.free < 0 || plan.total() <= plan.free) return absl::OkStatus();
  return TooLittle(plan, options, absl::StrCat(BytesForPeople(plan.free), " are free"));
}

absl::Status OutOfMemory(const MemoryPlan& plan, const EngineOptions& options) {
  return TooLittle(plan, options,
                   plan.free < 0 ? "more than the device gives"
                                 : absl::StrCat(BytesForPeople(plan.free),
                                                " were free, but the device gives less"));
}

}  // namespace mambad
