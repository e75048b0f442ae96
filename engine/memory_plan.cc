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
using kernels::DeviceMemory;
using kernels::ElementType;

constexpr int64_t kLeastCacheTokens = 2048;

// Matrices are packed, all else is float32; channels may be padded to 16 (kernels::MambaLayer::a).
// Parameters that share a matrix are each taken for one.
int64_t ParameterBytes(const Parameter& parameter, ElementType type,
                       const kernels::Backend& backend) {
  constexpr int64_t kChannels = 16;
  int64_t columns = 1;
  for (size_t i = 1; i < parameter.shape.size(); ++i) columns *= parameter.shape[i];
  const int64_t rows = parameter.shape[0];
  if (parameter.shape.size() == 2 && !parameter.keep_float32)
    return backend.PackedBytes(rows, columns, type);
  return backend.AllocatedBytes((rows + kChannels - 1) / kChannels * kChannels * columns * 4);
}

int64_t WeightBytes(const Checkpoint& checkpoint, ElementType type, int64_t proposed_tokens,
                    const kernels::Backend& backend) {
  const ModelConfig& config = checkpoint.config();
  int64_t bytes = 0;
  for (const Parameter& parameter : checkpoint.table().parameters()) {
    if (parameter.optional && !checkpoint.Has(parameter)) continue;
    // The embedding stands for a tied head, listed rows for a whole one.
    if (parameter.role == Role::kHead && (config.tied_head || proposed_tokens > 0)) continue;
    bytes += ParameterBytes(parameter, type, backend);
  }
  if (config.HasMixer(MixerKind::kAttention)) {
    bytes += 2 * backend.AllocatedBytes(2 * config.attention.head_width);  // rotary frequencies
  }
  if (proposed_tokens == 0) return bytes;
  return bytes + backend.PackedBytes(proposed_tokens, config.width, type) +
         backend.AllocatedBytes(4 * proposed_tokens);
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
  return backend.AllocatedBytes(floats * slots * 4);
}

// How keys and values of each of the attention layers lie; none: no bytes.
kernels::KeyValueLayout PageLayout(const ModelConfig& config, const EngineOptions& options,
                                   const kernels::Backend& backend) {
  if (!config.HasMixer(MixerKind::kAttention)) return {};
  kernels::AttentionLayer layer;
  layer.query_heads = config.attention.query_heads;
  layer.key_value_heads = config.attention.key_value_heads;
  layer.head_width = config.attention.head_width;
  return backend.PageLayout(layer, ElementTypeOf(options.kv_type));
}

void AddPages(const ModelConfig& config, const EngineOptions& options,
              const kernels::Backend& backend, MemoryPlan* plan) {
  const int64_t layers =
      std::count(config.mixers.begin(), config.mixers.end(), MixerKind::kAttention);
  const int64_t pages = (options.kv_cache_tokens + kernels::kPageTokens - 1) / kernels::kPageTokens;
  const kernels::KeyValueLayout layout = PageLayout(config, options, backend);
  plan->cache_token += layers * (layout.key_bytes + layout.value_bytes) / kernels::kPageTokens;
  plan->keys_and_values += layers * (backend.AllocatedBytes(pages * layout.key_bytes) +
                                     backend.AllocatedBytes(pages * layout.value_bytes));
}

// On the device, and on the CPU, whose memory is the host's, once more for the host.
int64_t PageTableBytes(const ModelConfig& config, const EngineOptions& options,
                       const kernels::Backend& backend, bool dedicated) {
  const int64_t pages =
      config.HasMixer(MixerKind::kAttention)
          ? (options.max_context + kernels::kPageTokens - 1) / kernels::kPageTokens
          : 1;
  return (dedicated ? 1 : 2) * backend.AllocatedBytes(4 * pages * options.max_sequences);
}

// What SpeculativeDecoder sends over and gets back at most, in arrays that end on cache lines.
int64_t StepBytes(const EngineOptions& options, bool draft_model, const kernels::Backend& backend) {
  constexpr int64_t kLine = 64, kArrays = 24, kArraysOfCall = 14;
  constexpr int64_t kKept = kernels::kMaxWindowRows + 1, kListed = kernels::kMaxAlternatives;
  const int64_t sequences = options.max_sequences, rows = options.max_step_rows,
                logits = MaxLogitRows(options), calls = draft_model ? options.max_draft_length : 0;
  const int64_t sent =
      sequences * (kArrays + calls * kArraysOfCall) + (draft_model ? 2 : 1) * rows + 3 * logits;
  const int64_t got = sequences * (3 + 2 * kKept * (1 + kListed)) + logits * (1 + 2 * kListed);
  return backend.AllocatedBytes(4 * sent + kLine * (kArrays + calls * kArraysOfCall)) +
         backend.AllocatedBytes(4 * got + kLine * kArrays);
}

// States of slots, counts and biases of those with penalties.
int64_t SamplingBytes(const EngineOptions& options, int64_t vocabulary,
                      const kernels::Backend& backend) {
  constexpr auto kState = static_cast<int64_t>(sizeof(kernels::SamplingState));
  return backend.AllocatedBytes(kState * options.max_sequences) +
         2 * backend.AllocatedBytes(4 * vocabulary * options.max_penalised);
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

ModelLimits TargetLimits(const EngineOptions& options) {
  ModelLimits limits;
  limits.max_rows = options.max_step_rows;
  limits.max_logit_rows = MaxLogitRows(options);
  limits.max_sequences = options.max_sequences;
  limits.max_context = options.max_context;
  return limits;
}

ModelLimits DraftLimits(const EngineOptions& options) {
  ModelLimits limits = TargetLimits(options);
  limits.max_logit_rows = options.max_sequences;
  limits.round_passes = (1 + options.max_draft_length) / 2.0;
  return limits;
}

MemoryPlan PlanMemory(const Checkpoint& target, const Checkpoint* draft, int64_t proposed_tokens,
                      const EngineOptions& options, const kernels::Backend& backend) {
  const DeviceMemory memory = backend.Memory();
  MemoryPlan plan;
  plan.free = memory.free;
  plan.float32_weights = ComputesInFloat32(target, options.weight_type);
  for (const Checkpoint* model : {&target, draft}) {
    if (model == nullptr) continue;
    const ModelConfig& config = model->config();
    const bool drafts = model == draft;
    const ElementType type = ComputesInFloat32(*model, options.weight_type)
                                 ? ElementType::kFloat32
                                 : ElementType::kBFloat16;
    plan.weights += WeightBytes(*model, type, drafts ? proposed_tokens : 0, backend);
    const int window_rows = drafts ? DraftWindowRows(options) : TargetWindowRows(options);
    plan.states += StateBytes(config, options.max_sequences, window_rows, drafts, backend);
    AddPages(config, options, backend, &plan);
    plan.tables += PageTableBytes(config, options, backend, memory.dedicated);
    plan.workspace += backend.WorkspaceBytes(
        WorkspaceShapeOf(config, drafts ? DraftLimits(options) : TargetLimits(options)));
  }
  plan.tables += StepBytes(options, draft != nullptr, backend) +
                 SamplingBytes(options, target.config().padded_vocabulary, backend);
  return plan;
}

int64_t FittingCacheTokens(const MemoryPlan& plan, int64_t wanted, double fraction) {
  if (plan.free < 0 || plan.cache_token == 0) return wanted;
  const int64_t others = plan.total() - plan.keys_and_values;
  const auto room = static_cast<int64_t>(fraction * static_cast<double>(plan.free)) - others;
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
