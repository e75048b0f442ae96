#include "trainer/modules/language_model.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <cmath>
#include <cstring>
#include <stdexcept>

#include "absl/strings/str_format.h"
#include "engine/checkpoint/model_config_reader.h"
#include "engine/checkpoint/rope_frequencies.h"
#include "trainer/modules/block.h"
#include "trainer/modules/block_functions.h"
#include "trainer/modules/mixers.h"
#include "trainer/modules/random_values.h"
#include "trainer/modules/recompute.h"

namespace mambad::trainer {

using at::Tensor;
using checkpoint::MixerKind;
using checkpoint::Parameter;
using checkpoint::Role;

namespace {

constexpr char kProjectionName[] = "embedding_projection.weight";

Tensor Frequencies(const checkpoint::RopeConfig& rope, int head_width, at::Device device) {
  const std::vector<float> values = checkpoint::InverseFrequencies(rope, head_width);
  Tensor host = at::empty({static_cast<int64_t>(values.size())}, at::kFloat);
  std::memcpy(host.data_ptr(), values.data(), values.size() * sizeof(float));
  return host.to(at::kDouble).to(device);
}

void CheckComputeType(at::Device device, at::ScalarType type) {
  const bool fits = device.is_cuda() ? type == at::kFloat || type == at::kBFloat16
                                     : type == at::kFloat || type == at::kDouble;
  if (!fits) {
    throw std::runtime_error(absl::StrFormat("computing in %s on %s: %s expected",
                                             c10::toString(type), device.str(),
                                             device.is_cuda() ? "fp32 or bf16" : "fp32 or fp64"));
  }
}

}  // namespace

bool IsRecurrentMixerRole(Role role) { return role >= Role::kMambaIn; }

bool IsAttentionRole(Role role) {
  return role >= Role::kAttentionQuery && role <= Role::kAttentionOutput;
}

// ---- parameters --------------------------------------------------------------------------------

LanguageModel::LanguageModel(const checkpoint::ModelConfig& config, at::Device device,
                             at::ScalarType compute_type)
    : config_(config), device_(device), compute_type_(compute_type) {
  CheckComputeType(device, compute_type);
  if (const absl::Status status = checkpoint::CheckModelConfig("model", config); !status.ok()) {
    throw std::runtime_error(std::string(status.message()));
  }
  const checkpoint::ParameterTable table(config_);
  for (const Parameter& parameter : table.parameters()) {
    if (parameter.role == Role::kHead && config_.tied_head) continue;
    places_[{parameter.role, parameter.layer}] = parameters_.size();
    const at::ScalarType type = parameter.keep_float32 ? wide_type() : compute_type_;
    parameters_.push_back(
        {parameter, at::zeros(parameter.shape, at::TensorOptions().device(device).dtype(type))});
  }
  const checkpoint::AttentionConfig& attention = config_.attention;
  if (config_.HasMixer(MixerKind::kAttention)) {
    if (attention.rope.scaling == checkpoint::RopeScalingKind::kDynamic) {
      if (device.is_cuda())
        throw std::runtime_error("rope_type dynamic on CUDA: not implemented; the CPU has it");
      growth_ = {attention.rope.original_context, attention.rope.factor};
    }
    inverse_frequencies_ = Frequencies(attention.rope, attention.head_width, device);
    fused_inverse_frequencies_ = Frequencies(attention.fused_rope, attention.head_width, device);
  }
}

at::ScalarType LanguageModel::wide_type() const { return WideType(compute_type_); }

Tensor LanguageModel::Find(Role role, int layer) const {
  const auto found = places_.find({role, layer});
  return found == places_.end() ? Tensor() : parameters_[found->second].value;
}

int64_t LanguageModel::ParameterCount() const {
  int64_t count = 0;
  for (const ModelParameter& parameter : parameters_) count += parameter.value.numel();
  return count;
}

void LanguageModel::SetTrained(const std::function<bool(const Parameter&)>& trained) {
  for (ModelParameter& parameter : parameters_) {
    const bool wanted = trained(parameter.description);
    parameter.value.set_requires_grad(wanted);
    if (!wanted) parameter.value.mutable_grad() = Tensor();
  }
}

// ---- embedding and head ------------------------------------------------------------------------

void LanguageModel::FactoriseEmbedding(const Tensor& base, uint64_t seed) {
  if (base.dim() != 2 || base.size(0) != config_.padded_vocabulary) {
    throw std::runtime_error(absl::StrFormat(
        "an embedding of %d rows to start from, %d expected: the vocabularies differ", base.size(0),
        config_.padded_vocabulary));
  }
  embedding_base_ = base.detach().to(device_, compute_type_);
  // Entries of a row's product with N(0, deviation) columns: deviation * |row|.
  const double row_length =
      std::sqrt(embedding_base_.to(at::kDouble).square().sum(1).mean().item<double>());
  const Parameter description = {
      Role::kEmbedding, -1, kProjectionName, {base.size(1), config_.width}, false, false};
  const Tensor values =
      NormalValues(description.shape, kEmbeddingDeviation / row_length, seed, kProjectionName);
  parameters_[places_.at({Role::kEmbedding, -1})] = {description,
                                                     values.to(device_, compute_type_)};
}

Tensor LanguageModel::Embedding() const {
  at::NoGradGuard no_grad;
  const Tensor own = Find(Role::kEmbedding, -1);
  if (!embedding_base_.defined()) return own;
  return at::mm(embedding_base_.to(wide_type()), own.to(wide_type())).to(compute_type_);
}

Tensor LanguageModel::Embed(const Tensor& token_ids) const {
  const Tensor own = Find(Role::kEmbedding, -1);
  if (!embedding_base_.defined()) return at::embedding(own, token_ids);
  return at::mm(at::embedding(embedding_base_, token_ids), own);
}

Tensor LanguageModel::Head() const {
  const Tensor own = Find(config_.tied_head ? Role::kEmbedding : Role::kHead, -1);
  const bool factorised = config_.tied_head && embedding_base_.defined();
  const int64_t vocabulary = config_.vocabulary;
  if (factorised) return at::mm(embedding_base_.narrow(0, 0, vocabulary), own);
  return vocabulary == own.size(0) ? own : own.narrow(0, 0, vocabulary);
}

// ---- the pass ----------------------------------------------------------------------------------

namespace {

BlockContext MakeContext(const TokenBatch& batch, const Tensor& frequencies,
                         const RotationGrowth& growth, const Tensor& fused_frequencies,
                         at::ScalarType type) {
  BlockContext context;
  context.batch = batch;
  if (frequencies.defined()) {
    context.rotation = MakeRotation(batch.positions, frequencies, type, growth);
    context.fused_rotation = MakeRotation(batch.positions, fused_frequencies, type);
  }
  return context;
}

// The layer's block with its own mixer, seen by `observer` where there is one.
BlockStream RunOwnBlock(const LanguageModel& model, int layer, const BlockStream& input,
                        const BlockContext& context, const MixerObserver& observer) {
  return RunBlock(model, layer, input, [&](const Tensor& normed) {
    Tensor mixed = RunMixer(model, layer, normed, context);
    if (observer) {
      const std::vector<int64_t> shape = {context.batch.rows(), context.batch.row_tokens(),
                                          normed.size(1)};
      observer(layer, normed.view(shape), mixed.view(shape));
    }
    return mixed;
  });
}

std::vector<Tensor> TrainedOf(const LanguageModel& model, int layer) {
  std::vector<Tensor> trained;
  for (const ModelParameter& parameter : model.parameters()) {
    if (parameter.description.layer == layer && parameter.value.requires_grad()) {
      trained.push_back(parameter.value);
    }
  }
  return trained;
}

}  // namespace

Tensor LanguageModel::Hidden(const TokenBatch& batch, const MixerObserver& observer) const {
  const bool recompute = recompute_ && at::GradMode::is_enabled();
  TORCH_CHECK(!recompute || !observer, "mixers cannot be observed while blocks run twice");
  const auto context = std::make_shared<const BlockContext>(
      MakeContext(batch, inverse_frequencies_, growth_, fused_inverse_frequencies_, compute_type_));
  BlockStream stream;
  stream.residual = Embed(batch.token_ids.flatten()).to(wide_type());
  for (int layer = 0; layer < config_.layers; ++layer) {
    if (recompute) {
      const auto run = [this, layer, context](const BlockStream& input) {
        return RunOwnBlock(*this, layer, input, *context, nullptr);
      };
      stream = Recomputed(run, stream, TrainedOf(*this, layer));
    } else {
      stream = RunOwnBlock(*this, layer, stream, *context, observer);
    }
  }
  const NormedSum last = AddAndNorm(stream.residual, stream.delta, Find(Role::kFinalNorm, -1),
                                    config_.norm_epsilon, compute_type_);
  return last.normed.view({batch.rows(), batch.row_tokens(), config_.width});
}

Tensor LanguageModel::Mixer(int layer, const Tensor& input, const TokenBatch& batch) const {
  TORCH_CHECK(layer >= 0 && layer < config_.layers, "layer ", layer, " of ", config_.layers);
  const bool attention = config_.mixers[layer] == MixerKind::kAttention;
  const BlockContext context = MakeContext(batch, attention ? inverse_frequencies_ : Tensor(),
                                           growth_, fused_inverse_frequencies_, compute_type_);
  return RunMixer(*this, layer, input.reshape({-1, config_.width}).to(compute_type_), context)
      .view(input.sizes());
}

}  // namespace mambad::trainer
