// EngineCore's opening: checkpoints -> resolved options -> models, state, tokenizer.

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/proposed_tokens.h"
#include "engine/engine_core.h"

namespace mambad {
namespace {

using checkpoint::Checkpoint;
using checkpoint::ModelConfig;

constexpr int64_t kUnboundedContext =
    32768;  // served by default where the model itself has no limit
constexpr int kMaxSequences = 4096;
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
                   const StatePool& state, int64_t context) {
  const ModelConfig& config = checkpoint.config();
  ModelInfo info;
  info.family = FamilyName(config.family);
  info.path = path;
  info.weight_type =
      model.weights().type() == kernels::ElementType::kFloat32 ? "float32" : "bfloat16";
  info.fingerprint = checkpoint.fingerprint();
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

absl::Status CheckOption(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": ", value, " given, allowed ", low, " to ", high));
}

absl::StatusOr<std::unique_ptr<const text::Tokenizer>> OpenTokenizerOf(
    const std::string& path, const Checkpoint& checkpoint) {
  const checkpoint::TextFiles& files = checkpoint.text();
  if (!files.directory.empty()) return text::OpenTokenizer(files.directory);
  if (files.pieces.empty()) return absl::NotFoundError("no tokenizer in the file");
  text::BpeVocabulary vocabulary;
  if (files.tokenizer_model == "gpt2") {
    vocabulary.kind = text::BpeVocabulary::Kind::kByteLevel;
  } else if (files.tokenizer_model == "llama") {
    vocabulary.kind = text::BpeVocabulary::Kind::kSentencePiece;
  } else {
    return absl::InvalidArgumentError(absl::StrCat(path, ": tokenizer.ggml.model: \"",
                                                   files.tokenizer_model,
                                                   "\" found, \"gpt2\" or \"llama\" expected"));
  }
  const auto id = [](int32_t value) {
    return value < 0 ? std::nullopt : std::optional<text::TokenId>(value);
  };
  vocabulary.pieces = files.pieces;
  vocabulary.scores = files.scores;
  for (int32_t type : files.piece_types)
    vocabulary.types.push_back(static_cast<text::BpeVocabulary::Type>(type));
  for (const std::string& merge : files.merges) {
    const size_t space = merge.find(' ', 1);  // a piece may begin with one
    if (space == std::string::npos) {
      return absl::InvalidArgumentError(
          absl::StrCat(path, ": tokenizer.ggml.merges: \"", merge, "\" has no two parts"));
    }
    vocabulary.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
  }
  vocabulary.pre_tokenizer = files.pre_tokenizer;
  vocabulary.bos_id = id(files.bos_id);
  vocabulary.eos_id = id(files.eos_id);
  vocabulary.unknown_id = id(files.unknown_id);
  vocabulary.add_bos = files.add_bos;
  vocabulary.add_eos = files.add_eos;
  vocabulary.add_space_prefix = files.add_space_prefix.value_or(true);
  vocabulary.source_name = path;
  return text::CreateTokenizerFromVocabulary(std::move(vocabulary));
}

}  // namespace

absl::StatusOr<std::unique_ptr<EngineCore>> EngineCore::Open(
    const EngineOptions& options, StepObserver* observer,
    std::unique_ptr<kernels::Backend> backend) {
  auto core = std::unique_ptr<EngineCore>(new EngineCore());
  core->facts_.options = options;
  core->observer_ = observer;
  core->backend_ = std::move(backend);
  if (absl::Status status = core->OpenModels(); !status.ok()) return status;
  return core;
}

absl::Status EngineCore::OpenModels() {
  EngineOptions& options = facts_.options;
  if (options.device != "auto" && options.device != "cpu") {
    return absl::InvalidArgumentError(absl::StrCat(
        "device: \"", options.device, "\" given; this build has \"auto\" and \"cpu\""));
  }
  absl::StatusOr<std::unique_ptr<const Checkpoint>> target = Checkpoint::Open(options.model);
  if (!target.ok()) return target.status();
  std::unique_ptr<const Checkpoint> draft;
  std::vector<int32_t> proposed_tokens;
  if (!options.draft_model.empty()) {
    absl::StatusOr<std::unique_ptr<const Checkpoint>> opened =
        Checkpoint::Open(options.draft_model);
    if (!opened.ok()) return opened.status();
    draft = *std::move(opened);
    absl::StatusOr<std::vector<int32_t>> tokens =
        checkpoint::ReadProposedTokens(draft->text().directory, draft->config().vocabulary);
    if (!tokens.ok()) return tokens.status();
    proposed_tokens = *std::move(tokens);
  }
  facts_.warnings = (*target)->config().warnings;
  if (draft != nullptr) {
    const std::vector<std::string>& more = draft->config().warnings;
    facts_.warnings.insert(facts_.warnings.end(), more.begin(), more.end());
  }
  if (absl::Status status = ResolveOptions(**target, draft.get()); !status.ok()) return status;

  if (backend_ == nullptr)
    backend_ = kernels::CreateCpuBackend({options.threads, options.bfloat16_activations});
  const int64_t context = options.max_context;
  ModelLimits limits;
  limits.max_rows = options.max_step_rows;
  limits.max_logit_rows =
      std::min(options.max_step_rows, options.max_sequences * (options.max_draft_length + 1) + 32);
  limits.max_sequences = options.max_sequences;
  limits.max_context = context;
  absl::StatusOr<std::unique_ptr<Model>> model =
      Model::Load(**target, options.weight_type, limits, *backend_);
  if (!model.ok()) return model.status();
  target_ = *std::move(model);
  target_state_ = std::make_unique<StatePool>(
      target_->weights().blocks(),
      StatePoolShape{options.max_sequences, context, options.kv_cache_tokens, false}, *backend_);
  facts_.model = Describe(options.model, **target, *target_, *target_state_, context);

  if (draft != nullptr) {
    ModelLimits draft_limits = limits;
    draft_limits.max_logit_rows = options.max_sequences;
    model = Model::Load(*draft, options.weight_type, draft_limits, *backend_, proposed_tokens);
    if (!model.ok()) return model.status();
    draft_ = *std::move(model);
    draft_state_ = std::make_unique<StatePool>(
        draft_->weights().blocks(),
        StatePoolShape{options.max_sequences, context, options.kv_cache_tokens, true}, *backend_);
    facts_.draft_model = Describe(options.draft_model, *draft, *draft_, *draft_state_, context);
  }

  const ModelConfig& config = (*target)->config();
  sampler_ = std::make_unique<Sampler>(options.max_sequences, config.vocabulary,
                                       config.padded_vocabulary, *backend_);
  decoder_ = std::make_unique<SpeculativeDecoder>(
      SpeculativeDecoder::Shape{options.max_sequences, limits.max_rows, limits.max_logit_rows,
                                options.max_draft_length},
      *backend_, *target_, *target_state_, draft_.get(), draft_state_.get(), *sampler_);
  scheduler_ = std::make_unique<Scheduler>(SchedulerLimits{limits.max_rows, limits.max_logit_rows});
  for (int slot = options.max_sequences - 1; slot >= 0; --slot) free_slots_.push_back(slot);
  plan_.reserve(options.max_sequences);
  running_.reserve(options.max_sequences);
  wished_drafts_.reserve(options.max_sequences);
  choices_.reserve(options.max_sequences);
  chosen_.reserve(options.max_sequences);
  lookup_.reserve(kMaxDraftLength);
  event_.tokens.reserve(kernels::kMaxWindowRows + 1);
  event_.logprobs.reserve(kernels::kMaxWindowRows + 1);
  spare_logprobs_.reserve(kernels::kMaxWindowRows + 1);
  stats_.accepted_per_position.reserve(kMaxDraftLength);
  facts_.default_sampling = DefaultSampling(config);
  set_speculation_enabled(options.speculation);
  UpdateGauges(absl::UnixEpoch());
  return OpenText(**target);
}

// A model without a tokenizer serves token ids; one with a broken tokenizer is an error.
absl::Status EngineCore::OpenText(const Checkpoint& checkpoint) {
  absl::StatusOr<std::unique_ptr<const text::Tokenizer>> tokenizer =
      OpenTokenizerOf(facts_.options.model, checkpoint);
  if (absl::IsNotFound(tokenizer.status())) return absl::OkStatus();
  if (!tokenizer.ok()) return tokenizer.status();
  facts_.tokenizer = *std::move(tokenizer);
  if (facts_.tokenizer->vocabulary_size() > checkpoint.config().padded_vocabulary) {
    return absl::InvalidArgumentError(absl::StrCat(
        facts_.options.model, ": the tokenizer has ", facts_.tokenizer->vocabulary_size(),
        " tokens, the model ", checkpoint.config().padded_vocabulary));
  }
  return OpenChatTemplate(checkpoint);
}

absl::Status EngineCore::ResolveOptions(const Checkpoint& target, const Checkpoint* draft) {
  EngineOptions& options = facts_.options;
  const ModelConfig& config = target.config();
  const absl::Status checks[] = {
      CheckOption("max_sequences", options.max_sequences, 1, kMaxSequences),
      CheckOption("max_context", options.max_context, 0, kMaxContext),
      CheckOption("kv_cache_tokens", options.kv_cache_tokens, 0, int64_t{1} << 32),
      CheckOption("max_step_rows", options.max_step_rows, int64_t{2} * options.max_sequences,
                  1 << 16),
      CheckOption("max_waiting", options.max_waiting, 0, 1 << 20),
      CheckOption("max_draft_length", options.max_draft_length, 1, kMaxDraftLength),
      CheckOption("threads", options.threads, 0, 1024),
  };
  for (const absl::Status& status : checks) {
    if (!status.ok()) return status;
  }
  if (draft != nullptr && (draft->config().vocabulary != config.vocabulary ||
                           draft->config().padded_vocabulary != config.padded_vocabulary)) {
    return absl::InvalidArgumentError(absl::StrCat(
        options.draft_model, ": draft model has a vocabulary of ", draft->config().vocabulary, " (",
        draft->config().padded_vocabulary, " rows), the target of ", config.vocabulary, " (",
        config.padded_vocabulary, " rows); they must be the same"));
  }
  int64_t model_context = config.context_length > 0 ? config.context_length : kUnboundedContext;
  if (config.context_length > 0 && options.max_context > config.context_length) {
    return absl::InvalidArgumentError(absl::StrCat("max_context: ", options.max_context,
                                                   " given, but the model's limit is ",
                                                   config.context_length));
  }
  if (options.max_context == 0) options.max_context = model_context;
  if (options.kv_cache_tokens == 0) {
    options.kv_cache_tokens = std::max(
        options.max_context, std::min<int64_t>(options.max_context, 2048) * options.max_sequences);
  }
  if (config.HasMixer(checkpoint::MixerKind::kAttention)) {
    options.max_context = std::min(options.max_context, options.kv_cache_tokens);
    const int64_t longest = kMaxTableEntries / options.max_sequences * kernels::kPageTokens;
    if (options.max_context > longest) {
      return absl::InvalidArgumentError(
          absl::StrCat("max_context: ", options.max_context, " given, allowed at most ", longest,
                       " with max_sequences ", options.max_sequences));
    }
  }
  return absl::OkStatus();
}

}  // namespace mambad
