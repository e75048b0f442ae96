#include "trainer/modules/block.h"

#include <ATen/ATen.h>

#include "trainer/modules/block_functions.h"

namespace mambad::trainer {

using at::Tensor;
using checkpoint::Role;

BlockStream RunBlock(const LanguageModel& model, int layer, const BlockStream& input,
                     const MixerCall& mixer) {
  const checkpoint::ModelConfig& config = model.config();
  const auto normed = [&](const Tensor& residual, const Tensor& delta, Role role) {
    return AddAndNorm(residual, delta, model.Find(role, layer), config.norm_epsilon,
                      model.compute_type());
  };
  const NormedSum first = normed(input.residual, input.delta, Role::kMixerNorm);
  const Tensor mixed = mixer(first.normed);
  if (config.mlp_width == 0) return {first.sum, mixed};
  const NormedSum second = normed(first.sum, mixed, Role::kMlpNorm);
  Tensor gates = FusedProduct(second.normed,
                              {model.Find(Role::kMlpGate, layer), model.Find(Role::kMlpUp, layer)});
  if (config.mlp_bias) {
    gates = AddBiases(gates,
                      {model.Find(Role::kMlpGateBias, layer), model.Find(Role::kMlpUpBias, layer)});
  }
  const Tensor product = GatedProduct(gates, config.mlp_width);
  const Tensor down = at::mm(product, model.Find(Role::kMlpDown, layer).t());
  if (!config.mlp_bias) return {second.sum, down};
  return {second.sum, AddBiases(down, {model.Find(Role::kMlpDownBias, layer)})};
}

}  // namespace mambad::trainer
