#include "trainer/stages/new_model.h"

#include <stdexcept>

#include "absl/strings/str_format.h"
#include "engine/text/tokenizer.h"

namespace mambad::trainer {
namespace {

using checkpoint::Family;
using checkpoint::MixerKind;

int Or(int64_t value, int64_t otherwise) { return static_cast<int>(value > 0 ? value : otherwise); }

void RequireDivides(const char* part, int64_t divisor, const char* whole, int64_t value) {
  if (divisor > 0 && value % divisor == 0) return;
  throw std::runtime_error(absl::StrFormat("model: %s: expected a divisor of %s = %d, found %d",
                                           part, whole, value, divisor));
}

void SetLlama(const NewModelConfig& model, checkpoint::ModelConfig* config) {
  config->family = Family::kLlama;
  config->mixers.assign(config->layers, MixerKind::kAttention);
  checkpoint::AttentionConfig& attention = config->attention;
  attention.query_heads = Or(model.query_heads, std::max<int64_t>(1, model.width / 64));
  attention.key_value_heads = Or(model.key_value_heads, attention.query_heads);
  RequireDivides("key_value_heads", attention.key_value_heads, "query_heads",
                 attention.query_heads);
  if (model.head_width == 0) {
    RequireDivides("query_heads", attention.query_heads, "width", model.width);
  }
  attention.head_width = Or(model.head_width, model.width / attention.query_heads);
  RequireDivides("a rotary pair", 2, "head_width", attention.head_width);
  attention.rope.theta = attention.fused_rope.theta = model.rope_theta;
  // 8/3 of the width in whole multiples of 16, as Llama's three matrices cost what two of 4 would.
  config->mlp_width = Or(model.mlp_width, (model.width * 8 / 3 + 15) / 16 * 16);
  config->context_length = model.context;
}

void SetMamba(const NewModelConfig& model, checkpoint::ModelConfig* config) {
  config->family = Family::kMamba;
  config->mixers.assign(config->layers, MixerKind::kMamba);
  config->mamba.inner_width = Or(model.inner_width, 2 * model.width);
  config->mamba.state_size = Or(model.state_size, 16);
  config->mamba.dt_rank = static_cast<int>((model.width + 15) / 16);
}

void SetMamba2(const NewModelConfig& model, checkpoint::ModelConfig* config) {
  config->family = Family::kMamba2;
  config->mixers.assign(config->layers, MixerKind::kMamba2);
  checkpoint::Mamba2Config& mamba = config->mamba2;
  mamba.inner_width = Or(model.inner_width, 2 * model.width);
  mamba.state_size = Or(model.state_size, 64);
  mamba.heads = Or(model.heads, std::max(1, mamba.inner_width / 64));
  mamba.groups = static_cast<int>(model.groups);
  mamba.norm_epsilon = model.norm_epsilon;
  RequireDivides("heads", mamba.heads, "inner_width", mamba.inner_width);
  RequireDivides("groups", mamba.groups, "heads", mamba.heads);
}

}  // namespace

checkpoint::ModelConfig NewModelConfiguration(const NewModelConfig& model, int64_t vocabulary,
                                              const std::string& text_source) {
  checkpoint::ModelConfig config;
  config.width = static_cast<int>(model.width);
  config.layers = static_cast<int>(model.layers);
  config.vocabulary = config.padded_vocabulary = static_cast<int>(vocabulary);
  config.norm_epsilon = model.norm_epsilon;
  config.tied_head = model.tied_head;
  config.fused_attention.assign(config.layers, false);
  config.fused_mamba.assign(config.layers, false);
  switch (model.family) {
    case NewModelConfig::Family::kLlama:
      SetLlama(model, &config);
      break;
    case NewModelConfig::Family::kMamba:
      SetMamba(model, &config);
      break;
    case NewModelConfig::Family::kMamba2:
      SetMamba2(model, &config);
      break;
  }
  const auto words = text::OpenTokenizer(text_source);
  if (!words.ok()) throw std::runtime_error(std::string(words.status().message()));
  config.bos_id = (*words)->bos_id();
  if ((*words)->eos_id()) config.eos_ids = {*(*words)->eos_id()};
  return config;
}

}  // namespace mambad::trainer
