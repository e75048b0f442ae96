#include "engine/opening/opening.h"

#include <algorithm>
#include <new>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/proposed_tokens.h"
#include "engine/opening/model_text.h"
#include "engine/opening/resolved_memory.h"
#include "engine/opening/resolved_options.h"
#include "engine/weight_type.h"
#include "kernels/backend_factory.h"
#include "kernels/recording_backend.h"

namespace mambad {
namespace {

using checkpoint::Checkpoint;
using checkpoint::ModelConfig;

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

// One opening: what was found so far.
class Opening {
 public:
  Opening(const EngineOptions& options, std::unique_ptr<kernels::Backend> backend) {
    facts_.options = options;
    parts_.backend = std::move(backend);
  }

  // All that can be refused before weights are read.
  absl::Status Prepare(DeviceLostHandler lost);
  // Weights, states, and room for all that a step needs on the device. RESOURCE_EXHAUSTED: the plan
  // fits, but a device may give less than it says.
  absl::Status Load();

  EngineParts TakeParts() { return std::move(parts_); }
  std::vector<std::string> TakeWarnings() { return std::move(facts_.warnings); }

 private:
  absl::Status OpenTarget();
  absl::Status OpenDraft();
  absl::Status OpenDevice(DeviceLostHandler lost);
  absl::Status CreateBackend(DeviceLostHandler lost);
  absl::Status ResolveMemory();
  absl::Status OpenText();
  absl::Status LoadTarget();
  absl::Status LoadDraft();
  void CreateParts();
  void DescribeSessions();
  absl::Status OpenSessions();

  void Warn(std::string line) { facts_.warnings.push_back(std::move(line)); }
  void Warn(const std::vector<std::string>& lines) {
    facts_.warnings.insert(facts_.warnings.end(), lines.begin(), lines.end());
  }

  EngineParts parts_;
  EngineFacts& facts_ = parts_.facts;
  // Mapped, not read; they go when all is open.
  std::unique_ptr<const Checkpoint> target_;
  std::unique_ptr<const Checkpoint> draft_;  // null: none
  std::vector<int32_t> proposed_tokens_;     // the draft's; empty: all
};

absl::Status Opening::Prepare(DeviceLostHandler lost) {
  if (absl::Status status = CheckRanges(facts_.options); !status.ok()) return status;
  if (absl::Status status = OpenTarget(); !status.ok()) return status;
  if (absl::Status status = OpenDraft(); !status.ok()) return status;
  if (absl::Status status = OpenDevice(std::move(lost)); !status.ok()) return status;
  if (absl::Status status = ResolveMemory(); !status.ok()) return status;
  return OpenText();
}

absl::Status Opening::Load() {
  try {
    if (absl::Status status = LoadTarget(); !status.ok()) return status;
    if (draft_ != nullptr) {
      if (absl::Status status = LoadDraft(); !status.ok()) return status;
    }
    CreateParts();
    if (absl::Status status = OpenSessions(); !status.ok()) return status;
  } catch (const std::bad_alloc&) {
    return OutOfMemory(facts_.memory, facts_.options);
  }
  return absl::OkStatus();
}

// ---- before weights are read --------------------------------------------------------------------

absl::Status Opening::OpenTarget() {
  const EngineOptions& options = facts_.options;
  absl::StatusOr<std::unique_ptr<const Checkpoint>> opened = Checkpoint::Open(options.model);
  if (!opened.ok()) return opened.status();
  target_ = *std::move(opened);
  Warn(target_->config().warnings);
  if (options.weight_type == ComputeType::kAuto && LosesFloat16(*target_)) {
    Warn(absl::StrCat(
        options.model,
        ": float16 weights are computed with in float32, which takes twice their memory; "
        "compute.weight_type: bfloat16 takes half of that and rounds them: logits off by "
        "0.3 to 1.5 %"));
  }
  return absl::OkStatus();
}

absl::Status Opening::OpenDraft() {
  if (facts_.options.draft_model.empty()) return absl::OkStatus();
  absl::StatusOr<std::unique_ptr<const Checkpoint>> opened =
      Checkpoint::Open(facts_.options.draft_model);
  if (!opened.ok()) return opened.status();
  draft_ = *std::move(opened);
  Warn(draft_->config().warnings);
  absl::StatusOr<std::vector<int32_t>> tokens =
      checkpoint::ReadProposedTokens(draft_->text().directory, draft_->config().vocabulary);
  if (!tokens.ok()) return tokens.status();
  proposed_tokens_ = *std::move(tokens);
  return absl::OkStatus();
}

absl::Status Opening::OpenDevice(DeviceLostHandler lost) {
  EngineOptions& options = facts_.options;
  if (parts_.backend == nullptr) {
    if (absl::Status status = CreateBackend(std::move(lost)); !status.ok()) return status;
  }
  if (options.check_calls)
    parts_.backend = kernels::CreateRecordingBackend(std::move(parts_.backend));
  const kernels::Backend& backend = *parts_.backend;
  facts_.device = backend.Description();
  Warn(backend.Warnings());
  if (options.kv_type == ComputeType::kAuto) {
    options.kv_type = backend.UsualKeyValues() == kernels::ElementType::kBFloat16
                          ? ComputeType::kBFloat16
                          : ComputeType::kFloat32;
  }
  return CheckActivations(options, *target_, backend);
}

absl::Status Opening::CreateBackend(DeviceLostHandler lost) {
  EngineOptions& options = facts_.options;
  kernels::BackendOptions wanted;
  wanted.device = options.device;
  wanted.threads = options.threads;
  if (options.activations != ComputeType::kFloat32) {
    wanted.activations = kernels::ElementType::kBFloat16;
  }
  wanted.lost = std::move(lost);
  kernels::CreatedBackend created = kernels::CreateBackend(wanted);
  if (created.backend == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("compute.device: ", options.device, " given, but ", created.error));
  }
  if (!created.note.empty()) {
    Warn(absl::StrCat("compute.device: ", options.device, ": ", created.note,
                      ": computed on the CPU; compute.device: cpu says that this is meant"));
  }
  parts_.backend = std::move(created.backend);
  options.device = created.device;
  return absl::OkStatus();
}

absl::Status Opening::ResolveMemory() {
  absl::StatusOr<MemoryPlan> plan = mambad::ResolveMemory(
      {target_.get(), draft_.get(), static_cast<int64_t>(proposed_tokens_.size())}, *parts_.backend,
      &facts_.options, &facts_.warnings);
  if (!plan.ok()) return plan.status();
  facts_.memory = *std::move(plan);
  return absl::OkStatus();
}

absl::Status Opening::OpenText() {
  absl::StatusOr<ModelText> opened =
      OpenModelText(*target_, facts_.options.model, facts_.options.chat_template);
  if (!opened.ok()) return opened.status();
  facts_.tokenizer = std::move(opened->tokenizer);
  facts_.chat_template = std::move(opened->chat_template);
  facts_.chat_variables = std::move(opened->chat_variables);
  facts_.model.eos_ids = std::move(opened->eos_ids);
  Warn(opened->warnings);
  return absl::OkStatus();
}

// ---- weights and states -------------------------------------------------------------------------

absl::Status Opening::LoadTarget() {
  const EngineOptions& options = facts_.options;
  kernels::Backend& backend = *parts_.backend;
  absl::StatusOr<std::unique_ptr<Model>> model =
      Model::Load(*target_, options.weight_type, TargetLimits(options), backend);
  if (!model.ok()) return model.status();
  parts_.target = *std::move(model);
  parts_.target_state = std::make_unique<StatePool>(
      parts_.target->weights().blocks(), PoolShapeOf(options, TargetWindowRows(options)), backend);
  std::vector<TokenId> eos_ids = std::move(facts_.model.eos_ids);  // the text's files', too
  facts_.model = Describe(options.model, *target_, *parts_.target, *parts_.target_state,
                          options.max_context, backend);
  facts_.model.eos_ids = std::move(eos_ids);
  facts_.model.most_stop_token_ids =
      kernels::kMaxStopIds - static_cast<int>(facts_.model.eos_ids.size());
  facts_.default_sampling = DefaultSampling(target_->config());
  return absl::OkStatus();
}

absl::Status Opening::LoadDraft() {
  const EngineOptions& options = facts_.options;
  kernels::Backend& backend = *parts_.backend;
  absl::StatusOr<std::unique_ptr<Model>> model =
      Model::Load(*draft_, options.weight_type, DraftLimits(options), backend, proposed_tokens_);
  if (!model.ok()) return model.status();
  parts_.draft = *std::move(model);
  StatePoolShape shape = PoolShapeOf(options, DraftWindowRows(options));
  shape.keeps_working = true;
  parts_.draft_state =
      std::make_unique<StatePool>(parts_.draft->weights().blocks(), shape, backend);
  facts_.draft_model = Describe(options.draft_model, *draft_, *parts_.draft, *parts_.draft_state,
                                options.max_context, backend);
  if (facts_.draft_model->parameters > facts_.model.parameters) {
    Warn(absl::StrCat("draft_model: ", options.draft_model, " has ", facts_.draft_model->parameters,
                      " parameters, the model ", options.model, " ", facts_.model.parameters,
                      ": a draft is to be the smaller one; are they swapped?"));
  }
  return absl::OkStatus();
}

// What works on the models.
void Opening::CreateParts() {
  const EngineOptions& options = facts_.options;
  const ModelConfig& config = target_->config();
  parts_.sampler =
      std::make_unique<Sampler>(options.max_sequences, options.max_penalised, config.vocabulary,
                                config.padded_vocabulary, *parts_.backend);
  parts_.decoder = std::make_unique<SpeculativeDecoder>(
      SpeculativeDecoder::Shape{options.max_sequences, options.max_step_rows, MaxLogitRows(options),
                                options.max_draft_length},
      *parts_.backend, *parts_.target, *parts_.target_state, parts_.draft.get(),
      parts_.draft_state.get(), *parts_.sampler);
  parts_.slots = std::make_unique<SlotTable>(options.max_sequences, parts_.target_state.get(),
                                             parts_.draft_state.get());
}

// What sessions are held to: the models' names, and the sizes of their states.
void Opening::DescribeSessions() {
  auto described = std::make_shared<SessionFormat>();
  facts_.session_format = described;
  SessionFormat& format = *described;
  format.names.model = facts_.model.fingerprint;
  format.names.numerics = facts_.model.numerics;
  format.names.tokenizer = TokenizerFingerprint(facts_.tokenizer.get());
  format.vocabulary = facts_.model.vocabulary;
  format.context = facts_.model.context;
  format.target = parts_.target_state->image_size();
  if (!facts_.draft_model.has_value()) return;
  format.names.draft =
      absl::StrCat(facts_.draft_model->fingerprint, " ", facts_.draft_model->numerics);
  format.draft = parts_.draft_state->image_size();
}

absl::Status Opening::OpenSessions() {
  DescribeSessions();
  const SessionOptions& options = facts_.options.sessions;
  parts_.session_memory = std::make_shared<HostMemory>(options.host_memory_bytes);
  SessionLimits limits;
  limits.sessions = options.max_sessions;
  limits.text_bytes = options.host_memory_bytes / 4;
  limits.idle_time = options.idle_timeout;
  parts_.sessions =
      std::make_shared<SessionTable>(facts_.session_format, parts_.session_memory, limits);
  if (options.directory.empty()) return absl::OkStatus();
  std::vector<SessionFiles::Found> found;
  auto files = SessionFiles::Open(options.directory, facts_.session_format, parts_.session_memory,
                                  &found, &facts_.warnings);
  if (!files.ok()) return files.status();
  parts_.session_files = *std::move(files);
  for (const SessionFiles::Found& file : found) {
    auto session = std::make_shared<KeptSession>(file.record->id, file.record->principal);
    session->in_file = file.record->state_bytes > 0;
    session->file_bytes = file.record->state_bytes;
    for (const SessionFiles::Found::Checkpoint& checkpoint : file.checkpoints) {
      session->checkpoints.push_back(
          {checkpoint.position, nullptr, checkpoint.state_bytes > 0, checkpoint.state_bytes});
      session->checkpoint_files.insert(checkpoint.position);
    }
    session->exact = file.record->exact;
    session->used_before = file.age;
    parts_.sessions->Add(session, file.record->tokens);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<EngineParts> OpenParts(const EngineOptions& options,
                                      std::unique_ptr<kernels::Backend> backend,
                                      DeviceLostHandler lost) {
  Opening opening(options, std::move(backend));
  if (absl::Status status = opening.Prepare(std::move(lost)); !status.ok()) return status;
  if (absl::Status status = opening.Load(); !status.ok()) return status;
  return opening.TakeParts();
}

absl::StatusOr<std::vector<std::string>> CheckParts(const EngineOptions& options) {
  Opening opening(options, /*backend=*/nullptr);
  if (absl::Status status = opening.Prepare(/*lost=*/nullptr); !status.ok()) return status;
  return opening.TakeWarnings();
}

}  // namespace mambad
