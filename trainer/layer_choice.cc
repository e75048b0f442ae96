#include "trainer/layer_choice.h"

#include <set>
#include <stdexcept>
#include <string>
#include <utility>

#include "absl/strings/str_format.h"

namespace mambad::trainer {
namespace {

// True where a layer keeps attention.
bool Keeps(double percent, int layer) {
  if (percent == 100) return true;
  if (percent == 75) return layer % 4 != 0;
  if (percent == 50) return layer % 2 == 1;
  if (percent == 25) return layer % 4 == 3;
  if (percent == 12.5) return layer % 8 == 7;
  if (percent == 0) return false;
  throw std::runtime_error(
      absl::StrFormat("attention_percent: expected 100, 75, 50, 25, 12.5 or 0 (or layers in "
                      "\"replaced\"), found %g",
                      percent));
}

}  // namespace

std::vector<int> RecurrentLayers(const LayerChoiceConfig& choice, int layers) {
  std::set<int> chosen;
  for (const int64_t layer : choice.replaced) {
    if (layer < 0 || layer >= layers) {
      throw std::runtime_error(
          absl::StrFormat("replaced: expected layers from 0 to %d, found %d", layers - 1, layer));
    }
    if (!chosen.insert(static_cast<int>(layer)).second) {
      throw std::runtime_error(absl::StrFormat("replaced: layer %d is named twice", layer));
    }
  }
  for (int layer = 0; choice.replaced.empty() && layer < layers; ++layer) {
    if (!Keeps(choice.attention_percent, layer)) chosen.insert(layer);
  }
  return {chosen.begin(), chosen.end()};
}

std::vector<int> RecurrentLayersOf(const checkpoint::ModelConfig& config) {
  std::vector<int> layers;
  for (int layer = 0; layer < config.layers; ++layer) {
    if (config.mixers[layer] != checkpoint::MixerKind::kAttention) layers.push_back(layer);
  }
  return layers;
}

InitializeOptions OptionsFrom(const MixerStartConfig& start, std::vector<int> recurrent_layers,
                              int64_t seed) {
  InitializeOptions options;
  options.recurrent_layers = std::move(recurrent_layers);
  options.mixer = start.mixer == MixerChoice::kMamba ? checkpoint::MixerKind::kMamba
                                                     : checkpoint::MixerKind::kMamba2;
  options.from_attention = start.from_attention;
  options.published_rest = !start.identity_start;
  options.corrected_head_order = start.corrected_head_order;
  options.state_size = static_cast<int>(start.state_size);
  options.seed = static_cast<uint64_t>(seed);
  return options;
}

}  // namespace mambad::trainer
