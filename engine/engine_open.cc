// EngineCore's opening: checkpoints -> resolved options -> models, state, tokenizer.

#include <algorithm>
#include <limits>
#include <new>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/proposed_tokens.h"
#include "engine/engine_core.h"
#include "engine/weight_type.h"
#include "kernels/backend_factory.h"
#include "kernels/recording_backend.h"

namespace mambad {
namespace {

using checkpoint::Checkpoint;
using checkpoint::ModelConfig;

constexpr int64_t kUnboundedContext =
    32768;  // served by default where the model itself has no limit
constexpr int kMaxSequences = 4096;
constexpr int kStepRows = 256;
constexpr int kLeastRowsPerSequence = 2;
constexpr int64_t kCacheTokensPerSequence = 2048;      // room by default
constexpr int64_t kPenaltyBytes = int64_t{128} << 20;  // by default, of counts and biases
constexpr int64_t kLeastPenalised = 16;
// Pages over all slots that page tables may name: 1 GiB, on the host and on the device.
constexpr int64_t kMaxTableEntries = int64_t{1} << 28;

const char* FamilyName(checkpoint::Family family) {
  switch (family) {
    case checkpoint::Family::kLlama:
      return "llama";
    case checkpoint::Family::kMamba:
      return "mamba";
    case checkpoint::Family::kMamba2:
      return "mamba2";
    case checkpoint::Family::kHybrid:
      return "hybrid";
  }
  return "";
}

ModelInfo Describe(const std::string& path, const Checkpoint& checkpoint, const Model& model,
                   const StatePool& state, int64_t context, const kernels::Backend& backend) {
  const ModelConfig& config = checkpoint.config();
  ModelInfo info;
  info.family = FamilyName(config.family);
  info.path = path;
  info.weight_type =
      model.weights().type() == kernels::ElementType::kFloat32 ? "float32" : "bfloat16";
  info.fingerprint = checkpoint.fingerprint();
  info.numerics = backend.Numerics(model.weights().type(), state.key_values_type());
  info.parameters = model.weights().parameters();
  info.weight_bytes = model.weights().bytes();
  info.layers = config.layers;
  info.attention_layers = static_cast<int>(
      std::count(config.mixers.begin(), config.mixers.end(), checkpoint::MixerKind::kAttention));
  info.width = config.width;
  info.vocabulary = config.vocabulary;
  info.context = context;
  info.state_bytes_per_sequence = state.recurrent_bytes_per_slot();
  info.eos_ids = config.eos_ids;
  return info;
}

ModelLimits LimitsOf(const EngineOptions& options, int logit_rows) {
  ModelLimits limits;
  limits.max_rows = options.max_step_rows;
  limits.max_logit_rows = logit_rows;
  limits.max_sequences = options.max_sequences;
  limits.max_context = options.max_context;
  return limits;
}

StatePoolShape PoolShapeOf(const EngineOptions& options, int window_rows) {
  StatePoolShape shape;
  shape.slots = options.max_sequences;
  shape.max_context = options.max_context;
  shape.cache_tokens = options.kv_cache_tokens;
  shape.key_values = ElementTypeOf(options.kv_type);
  shape.window_rows = window_rows;
  return shape;
}

// What generation_config.json asks for; without do_sample, greedy.
SamplingParams DefaultSampling(const ModelConfig& config) {
  const ModelConfig::SamplingDefaults& defaults = config.sampling_defaults;
  SamplingParams params;
  if (!defaults.do_sample.value_or(false)) return params;
  params.temperature = static_cast<float>(defaults.temperature.value_or(1.0));
  params.top_p = static_cast<float>(defaults.top_p.value_or(1.0));
  params.top_k = defaults.top_k.value_or(0);
  params.min_p = static_cast<float>(defaults.min_p.value_or(0.0));
  params.repetition_penalty = static_cast<float>(defaults.repetition_penalty.value_or(1.0));
  return params;
}

absl::Status CheckRange(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": ", value, " given, allowed ", low, " to ", high));
}

// What can be said of options without a model. Names are those of the configuration file.
absl::Status CheckRanges(const EngineOptions& options) {
  const absl::Status checks[] = {
      CheckRange("batching.max_sequences", options.max_sequences, 1, kMaxSequences),
      CheckRange("batching.max_context", options.max_context, 0, kMaxContext),
      CheckRange("batching.kv_cache_tokens", options.kv_cache_tokens, 0, int64_t{1} << 32),
      CheckRange("batching.max_step_rows", options.max_step_rows, 0, 1 << 16),
      CheckRange("batching.max_penalised", options.max_penalised, 0, kMaxSequences),
      CheckRange("batching.max_waiting", options.max_waiting, 0, 1 << 20),
      CheckRange("speculation.max_draft_length", options.max_draft_length, 1, kMaxDraftLength),
      CheckRange("compute.threads", options.threads, 0, 1024),
  };
  for (const absl::Status& status : checks) {
    if (!status.ok()) return status;
  }
  const int64_t least = int64_t{kLeastRowsPerSequence} * options.max_sequences;
  if (options.max_step_rows == 0 || options.max_step_rows >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "batching.max_step_rows: ", options.max_step_rows, " is too few for batching.max_sequences: ",
      options.max_sequences, " (at least ", least, ", or 0: chosen)"));
}

// Positions that the page tables of so many sequences may name.
int64_t LongestContext(const EngineOptions& options) {
  return kMaxTableEntries / options.max_sequences * kernels::kPageTokens;
}

absl::Status CheckPageTable(const EngineOptions& options, bool has_attention) {
  const int64_t longest = LongestContext(options);
  if (!has_attention || options.max_context <= longest) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("batching.max_context: ", options.max_context, " given, allowed at most ",
                   longest, " with batching.max_sequences ", options.max_sequences));
}

// Rounding that was asked for by name is done, or refused.
absl::Status CheckActivations(const EngineOptions& options, const Checkpoint& target,
                              const kernels::Backend& backend) {
  using kernels::ElementType;
  const bool rounds = backend.Activations(ElementType::kBFloat16) == ElementType::kBFloat16;
  const bool float32_weights = ComputesInFloat32(target, options.weight_type);
  if (options.activations == ComputeType::kFloat32 && rounds && !float32_weights) {
    return absl::InvalidArgumentError(absl::StrCat(
        "compute.activations: float32 given, but this device (", backend.Description(),
        ") rounds what it multiplies with bfloat16 weights: set auto, or compute.weight_type: "
        "float32"));
  }
  if (options.activations != ComputeType::kBFloat16) return absl::OkStatus();
  if (float32_weights) {
    return absl::InvalidArgumentError(absl::StrCat(
        "compute.activations: bfloat16 given, but the weights of ", options.model,
        " are computed with in float32, where nothing is rounded: set compute.activations: auto, "
        "or compute.weight_type: bfloat16"));
  }
  if (rounds) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("compute.activations: bfloat16 given, but this device (", backend.Description(),
                   ") does not multiply pairs of bfloat16 numbers: set auto or float32"));
}

}  // namespace

// The files that an engine is opened from. Mapped, not read; they go when it is open.
struct EngineCore::ModelFiles {
  std::unique_ptr<const Checkpoint> target;
  std::unique_ptr<const Checkpoint> draft;  // null: none
  std::vector<int32_t> proposed_tokens;     // the draft's; empty: all
};

absl::StatusOr<std::unique_ptr<EngineCore>> EngineCore::Open(
    const EngineOptions& options, StepObserver* observer, std::unique_ptr<kernels::Backend> backend,
    DeviceLostHandler lost) {
  auto core = std::unique_ptr<EngineCore>(new EngineCore());
  core->facts_.options = options;
  core->observer_ = observer;
  core->backend_ = std::move(backend);
  ModelFiles files;
  if (absl::Status status = core->Prepare(&files, std::move(lost)); !status.ok()) return status;
  try {  // the plan fits, but a device may give less than it says
    if (absl::Status status = core->LoadTarget(files); !status.ok()) return status;
    if (files.draft != nullptr) {
      if (absl::Status status = core->LoadDraft(files); !status.ok()) return status;
    }
    core->CreateParts(files.target->config());
  } catch (const std::bad_alloc&) {
    return OutOfMemory(core->facts_.memory, core->facts_.options);
  }
  return core;
}

absl::StatusOr<std::vector<std::string>> EngineCore::Check(const EngineOptions& options) {
  EngineCore core;
  core.facts_.options = options;
  ModelFiles files;
  if (absl::Status status = core.Prepare(&files, nullptr); !status.ok()) return status;
  return std::move(core.facts_.warnings);
}

absl::Status EngineCore::Prepare(ModelFiles* files, DeviceLostHandler lost) {
  if (absl::Status status = CheckRanges(facts_.options); !status.ok()) return status;
  if (absl::Status status = OpenFiles(files); !status.ok()) return status;
  if (absl::Status status = ResolveOptions(*files); !status.ok()) return status;
  if (absl::Status status = OpenDevice(*files->target, std::move(lost)); !status.ok()) {
    return status;
  }
  if (absl::Status status = ResolveMemory(*files); !status.ok()) return status;
  return OpenText(*files->target);
}

absl::Status EngineCore::OpenDevice(const Checkpoint& target, DeviceLostHandler lost) {
  EngineOptions& options = facts_.options;
  if (backend_ == nullptr) {
    const bool rounds = options.activations != ComputeType::kFloat32;
    kernels::CreatedBackend created = kernels::CreateBackend(
        {options.device, options.threads,
         rounds ? kernels::ElementType::kBFloat16 : kernels::ElementType::kFloat32,
         std::move(lost)});
    if (created.backend == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("compute.device: ", options.device, " given, but ", created.error));
    }
    if (!created.note.empty()) {
      AddWarnings({absl::StrCat("compute.device: ", options.device, ": ", created.note,
                                ": computed on the CPU")});
    }
    backend_ = std::move(created.backend);
    options.device = created.device;
  }
  if (options.check_calls) backend_ = kernels::CreateRecordingBackend(std::move(backend_));
  facts_.device = backend_->Description();
  AddWarnings(backend_->Warnings());
  if (options.kv_type == ComputeType::kAuto) {
    options.kv_type = backend_->UsualKeyValues() == kernels::ElementType::kBFloat16
                          ? ComputeType::kBFloat16
                          : ComputeType::kFloat32;
  }
  return CheckActivations(options, target, *backend_);
}

void EngineCore::AddWarnings(const std::vector<std::string>& lines) {
  facts_.warnings.insert(facts_.warnings.end(), lines.begin(), lines.end());
}

absl::Status EngineCore::OpenFiles(ModelFiles* files) {
  const EngineOptions& options = facts_.options;
  absl::StatusOr<std::unique_ptr<const Checkpoint>> opened = Checkpoint::Open(options.model);
  if (!opened.ok()) return opened.status();
  files->target = *std::move(opened);
  AddWarnings(files->target->config().warnings);
  if (options.weight_type == ComputeType::kAuto && LosesFloat16(*files->target)) {
    AddWarnings({absl::StrCat(
        options.model,
        ": float16 weights are computed with in float32, which takes twice their memory; "
        "compute.weight_type: bfloat16 takes half of that and rounds them: logits off by "
        "0.3 to 1.5 %")});
  }
  return options.draft_model.empty() ? absl::OkStatus() : OpenDraftFiles(files);
}

absl::Status EngineCore::OpenDraftFiles(ModelFiles* files) {
  absl::StatusOr<std::unique_ptr<const Checkpoint>> opened =
      Checkpoint::Open(facts_.options.draft_model);
  if (!opened.ok()) return opened.status();
  files->draft = *std::move(opened);
  AddWarnings(files->draft->config().warnings);
  absl::StatusOr<std::vector<int32_t>> tokens = checkpoint::ReadProposedTokens(
      files->draft->text().directory, files->draft->config().vocabulary);
  if (!tokens.ok()) return tokens.status();
  files->proposed_tokens = *std::move(tokens);
  return absl::OkStatus();
}

absl::Status EngineCore::LoadTarget(const ModelFiles& files) {
  const EngineOptions& options = facts_.options;
  absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(
      *files.target, options.weight_type, LimitsOf(options, MaxLogitRows(options)), *backend_);
  if (!model.ok()) return model.status();
  target_ = *std::move(model);
  target_state_ = std::make_unique<StatePool>(
      target_->weights().blocks(), PoolShapeOf(options, TargetWindowRows(options)), *backend_);
  ModelInfo model_info = Describe(options.model, *files.target, *target_, *target_state_,
                                  options.max_context, *backend_);
  // What the texts' files had to add.
  model_info.eos_ids = std::move(facts_.model.eos_ids);
  model_info.most_stop_token_ids = facts_.model.most_stop_token_ids;
  facts_.model = std::move(model_info);
  return absl::OkStatus();
}

absl::Status EngineCore::LoadDraft(const ModelFiles& files) {
  const EngineOptions& options = facts_.options;
  absl::StatusOr<std::unique_ptr<Model>> model =
      Model::Load(*files.draft, options.weight_type, LimitsOf(options, options.max_sequences),
                  *backend_, files.proposed_tokens);
  if (!model.ok()) return model.status();
  draft_ = *std::move(model);
  StatePoolShape shape = PoolShapeOf(options, DraftWindowRows(options));
  shape.keeps_working = true;
  draft_state_ = std::make_unique<StatePool>(draft_->weights().blocks(), shape, *backend_);
  facts_.draft_model = Describe(options.draft_model, *files.draft, *draft_, *draft_state_,
                                options.max_context, *backend_);
  if (facts_.draft_model->parameters > facts_.model.parameters) {
    AddWarnings(
        {absl::StrCat("draft_model: ", options.draft_model, " has ", facts_.draft_model->parameters,
                      " parameters, the model ", options.model, " ", facts_.model.parameters,
                      ": a draft is to be the smaller one; are they swapped?")});
  }
  return absl::OkStatus();
}

// What works on the models, and room for all that a step needs.
void EngineCore::CreateParts(const ModelConfig& config) {
  const EngineOptions& options = facts_.options;
  sampler_ = std::make_unique<Sampler>(options.max_sequences, options.max_penalised,
                                       config.vocabulary, config.padded_vocabulary, *backend_);
  decoder_ = std::make_unique<SpeculativeDecoder>(
      SpeculativeDecoder::Shape{options.max_sequences, options.max_step_rows, MaxLogitRows(options),
                                options.max_draft_length},
      *backend_, *target_, *target_state_, draft_.get(), draft_state_.get(), *sampler_);
  scheduler_ =
      std::make_unique<Scheduler>(SchedulerLimits{options.max_step_rows, MaxLogitRows(options)});
  slots_ =
      std::make_unique<SlotTable>(options.max_sequences, target_state_.get(), draft_state_.get());
  plan_.reserve(options.max_sequences);
  running_.reserve(options.max_sequences);
  demands_.running.reserve(options.max_sequences);
  wished_drafts_.reserve(options.max_sequences);
  choices_.reserve(options.max_sequences);
  chosen_.reserve(options.max_sequences);
  lookup_.reserve(kMaxDraftLength);
  events_.Reserve(options.max_sequences);
  stats_.accepted_per_position.reserve(kMaxDraftLength);
  facts_.default_sampling = DefaultSampling(config);
  set_speculation_enabled(options.speculation);
  UpdateGauges(absl::UnixEpoch());
}

absl::Status EngineCore::ResolveOptions(const ModelFiles& files) {
  EngineOptions& options = facts_.options;
  const ModelConfig& config = files.target->config();
  if (files.draft != nullptr) {
    const ModelConfig& draft = files.draft->config();
    if (draft.vocabulary != config.vocabulary ||
        draft.padded_vocabulary != config.padded_vocabulary) {
      return absl::InvalidArgumentError(
          absl::StrCat(options.draft_model, ": draft model has a vocabulary of ", draft.vocabulary,
                       " (", draft.padded_vocabulary, " rows), the target of ", config.vocabulary,
                       " (", config.padded_vocabulary, " rows); they must be the same"));
    }
  }
  if (options.max_step_rows == 0) {
    options.max_step_rows = std::max(kStepRows, kLeastRowsPerSequence * options.max_sequences);
  }
  if (options.max_penalised == 0) {
    const int64_t fitting = kPenaltyBytes / (8 * config.padded_vocabulary);
    options.max_penalised = static_cast<int>(
        std::clamp<int64_t>(fitting, kLeastPenalised, std::numeric_limits<int>::max()));
  }
  options.max_penalised = std::min(options.max_penalised, options.max_sequences);
  if (config.context_length > 0 && options.max_context > config.context_length) {
    return absl::InvalidArgumentError(absl::StrCat("batching.max_context: ", options.max_context,
                                                   " given, but the model's limit is ",
                                                   config.context_length));
  }
  if (options.max_context == 0) ChooseContext(config);
  return absl::OkStatus();
}

// What the model's files claim, as far as page tables reach: claims are no reason to refuse.
void EngineCore::ChooseContext(const ModelConfig& config) {
  EngineOptions& options = facts_.options;
  const int64_t claimed = config.context_length;
  options.max_context = claimed > 0 ? claimed : kUnboundedContext;
  if (!config.HasMixer(checkpoint::MixerKind::kAttention)) return;
  options.max_context = std::min(options.max_context, LongestContext(options));
  if (options.max_context == claimed) return;
  AddWarnings({absl::StrCat(
      options.model, ": its files claim a context of ", claimed, " tokens, ", options.max_context,
      " are served, the most with batching.max_sequences ", options.max_sequences)});
}

// The cache's room, chosen or given, and with it how long a sequence may get.
absl::Status EngineCore::ResolveMemory(const ModelFiles& files) {
  EngineOptions& options = facts_.options;
  const bool has_attention = files.target->config().HasMixer(checkpoint::MixerKind::kAttention);
  const int64_t context = options.max_context;
  const bool chosen = options.kv_cache_tokens == 0;
  if (chosen) {
    options.kv_cache_tokens =
        std::max(context, std::min(context, kCacheTokensPerSequence) * options.max_sequences);
  }
  const auto plan = [&] {
    if (has_attention) options.max_context = std::min(context, options.kv_cache_tokens);
    facts_.memory =
        PlanMemory(*files.target, files.draft.get(),
                   static_cast<int64_t>(files.proposed_tokens.size()), options, *backend_);
  };
  plan();
  if (absl::Status status = CheckPageTable(options, has_attention); !status.ok()) return status;
  const int64_t wanted = options.kv_cache_tokens;
  if (chosen) options.kv_cache_tokens = FittingCacheTokens(facts_.memory, wanted);
  if (options.kv_cache_tokens < wanted) {
    plan();
    AddWarnings({absl::StrCat("batching.kv_cache_tokens: free memory has room for ",
                              options.kv_cache_tokens, " tokens of keys and values; ", wanted,
                              " would be taken of more")});
  }
  if (absl::Status status = CheckFits(facts_.memory, options); !status.ok()) return status;
  if (options.max_context < context) {
    AddWarnings(
        {absl::StrCat("batching.kv_cache_tokens: ", options.kv_cache_tokens,
                      " cuts the context from ", context, " to ", options.max_context, " tokens")});
  }
  return absl::OkStatus();
}

}  // namespace mambad
