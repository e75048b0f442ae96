// LanguageModel::Create: parameters before training.

#include <ATen/ATen.h>

#include <cmath>

#include "trainer/modules/language_model.h"
#include "trainer/modules/random_values.h"

namespace mambad::trainer {

using at::Tensor;
using checkpoint::MixerKind;
using checkpoint::Parameter;
using checkpoint::Role;

namespace {

Tensor StartValues(const checkpoint::ModelConfig& config, const Parameter& parameter,
                   uint64_t seed) {
  const std::vector<int64_t>& shape = parameter.shape;
  const std::string& name = parameter.name;
  const int branches = config.layers * (config.mlp_width > 0 ? 2 : 1);
  switch (parameter.role) {
    case Role::kFinalNorm:
    case Role::kMixerNorm:
    case Role::kMlpNorm:
    case Role::kMamba2Norm:
    case Role::kMambaD:
    case Role::kAttentionQueryNorm:
    case Role::kAttentionKeyNorm:
      return at::ones(shape, at::kFloat);
    case Role::kAttentionQueryBias:
    case Role::kAttentionKeyBias:
    case Role::kAttentionValueBias:
    case Role::kAttentionOutputBias:
    case Role::kMlpGateBias:
    case Role::kMlpUpBias:
    case Role::kMlpDownBias:
    case Role::kMambaInBias:
    case Role::kMambaOutBias:
      return at::zeros(shape, at::kFloat);
    case Role::kMambaALog:
      return shape.size() == 2 ? CountingDecay(shape[0], shape[1])
                               : UniformDecay(shape[0], seed, name);
    case Role::kMambaDtBias:
    case Role::kMamba2DtBias:
      return TimeStepBias(shape[0], seed, name);
    case Role::kMambaDt: {
      const double bound = 1.0 / std::sqrt(static_cast<double>(shape[1]));
      return UniformValues(shape, -bound, bound, seed, name);
    }
    case Role::kConvolution:
    case Role::kConvolutionBias: {
      const int taps = config.mixers[parameter.layer] == MixerKind::kMamba
                           ? config.mamba.convolution_width
                           : config.mamba2.convolution_width;
      const double bound = 1.0 / std::sqrt(static_cast<double>(taps));
      return UniformValues(shape, -bound, bound, seed, name);
    }
    case Role::kAttentionOutput:
    case Role::kMlpDown:
    case Role::kMambaOut:
      return NormalValues(shape, kEmbeddingDeviation / std::sqrt(branches), seed, name);
    default:
      return NormalValues(shape, kEmbeddingDeviation, seed, name);
  }
}

}  // namespace

std::unique_ptr<LanguageModel> LanguageModel::Create(const checkpoint::ModelConfig& config,
                                                     uint64_t seed, at::Device device,
                                                     at::ScalarType compute_type) {
  auto model = std::make_unique<LanguageModel>(config, device, compute_type);
  for (const ModelParameter& parameter : model->parameters()) {
    Tensor(parameter.value).copy_(StartValues(config, parameter.description, seed));
  }
  return model;
}

}  // namespace mambad::trainer
