#include "trainer/modules/decode_state.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <stdexcept>

#include "absl/strings/str_format.h"
#include "trainer/modules/block.h"
#include "trainer/modules/block_functions.h"
#include "trainer/modules/mixers.h"

namespace mambad::trainer {

using at::Tensor;
using checkpoint::AttentionConfig;
using checkpoint::Mamba2Config;
using checkpoint::MambaConfig;
using checkpoint::MixerKind;
using checkpoint::Role;

DecodeState::DecodeState(const LanguageModel* model, int64_t sequences, int64_t capacity)
    : model_(model), capacity_(capacity), lengths_(sequences, 0) {
  if (sequences < 1 || capacity < 1) {
    throw std::runtime_error("decoding: sequences and capacity of 1 or more expected");
  }
  const checkpoint::ModelConfig& config = model->config();
  const auto options = at::TensorOptions().device(model->device()).dtype(model->compute_type());
  const auto wide = options.dtype(model->wide_type());
  for (int layer = 0; layer < config.layers; ++layer) {
    LayerState state;
    if (config.mixers[layer] == MixerKind::kAttention) {
      // One more column: where resting places write.
      const AttentionConfig& attention = config.attention;
      state.keys = at::zeros(
          {sequences, attention.key_value_heads, capacity + 1, attention.head_width}, options);
      state.values = at::zeros_like(state.keys);
    } else {
      const Tensor taps = model->Find(Role::kConvolution, layer);
      state.window = at::zeros({sequences, taps.size(0), taps.size(2) - 1}, wide);
      const MambaConfig& mamba = config.mamba;
      const Mamba2Config& mamba2 = config.mamba2;
      state.state = config.mixers[layer] == MixerKind::kMamba
                        ? at::zeros({sequences, mamba.inner_width, mamba.state_size}, wide)
                        : at::zeros({sequences, mamba2.heads, mamba2.inner_width / mamba2.heads,
                                     mamba2.state_size},
                                    wide);
    }
    layers_.push_back(state);
  }
}

void DecodeState::Reset(int64_t place) {
  at::NoGradGuard no_grad;
  lengths_.at(place) = 0;
  for (LayerState& layer : layers_) {
    if (!layer.state.defined()) continue;
    layer.window.select(0, place).zero_();
    layer.state.select(0, place).zero_();
  }
}

// ---- saved and restored ------------------------------------------------------------------------

std::map<std::string, Tensor> DecodeState::Tensors() const {
  Tensor lengths = at::empty({sequences()}, at::kFloat);
  int64_t longest = 0;
  for (int64_t place = 0; place < sequences(); ++place) {
    lengths.data_ptr<float>()[place] = static_cast<float>(lengths_[place]);
    longest = std::max(longest, lengths_[place]);
  }
  std::map<std::string, Tensor> tensors = {{"lengths", lengths}};
  const auto add = [&](size_t layer, const char* name, const Tensor& tensor) {
    tensors[absl::StrFormat("layers.%d.%s", layer, name)] =
        tensor.to(at::kCPU).to(at::kFloat).contiguous();
  };
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    const LayerState& state = layers_[layer];
    if (state.keys.defined()) {
      add(layer, "keys", state.keys.narrow(2, 0, longest));
      add(layer, "values", state.values.narrow(2, 0, longest));
    } else {
      add(layer, "window", state.window);
      add(layer, "state", state.state);
    }
  }
  return tensors;
}

void DecodeState::Restore(const std::map<std::string, Tensor>& tensors) {
  const auto find = [&](const std::string& name, int64_t numbers) {
    const auto found = tensors.find(name);
    if (numbers == 0) return at::empty({0}, at::kFloat);  // nothing had been fed yet
    if (found == tensors.end() || found->second.numel() != numbers) {
      throw std::runtime_error(absl::StrFormat(
          "decoding: \"%s\" of %d numbers expected in the saved state", name, numbers));
    }
    return found->second;
  };
  const Tensor lengths = find("lengths", sequences());
  int64_t longest = 0;
  for (int64_t place = 0; place < sequences(); ++place) {
    const float length = lengths.data_ptr<float>()[place];
    if (!(length >= 0) || length > static_cast<float>(capacity_)) {
      throw std::runtime_error("decoding: a length in the saved state is none");
    }
    lengths_[place] = static_cast<int64_t>(length);
    longest = std::max(longest, lengths_[place]);
  }
  const auto restore = [&](size_t layer, const char* name, Tensor into) {
    const Tensor saved = find(absl::StrFormat("layers.%d.%s", layer, name), into.numel());
    into.copy_(saved.view(into.sizes()));
  };
  for (size_t layer = 0; layer < layers_.size(); ++layer) {
    LayerState& state = layers_[layer];
    if (state.keys.defined()) {
      restore(layer, "keys", state.keys.narrow(2, 0, longest));
      restore(layer, "values", state.values.narrow(2, 0, longest));
    } else {
      restore(layer, "window", state.window);
      restore(layer, "state", state.state);
    }
  }
}

// ---- one step ----------------------------------------------------------------------------------

Tensor DecodeState::Step(const std::vector<int64_t>& tokens) {
  at::NoGradGuard no_grad;
  const Tensor ids = BeginStep(tokens);
  const checkpoint::ModelConfig& config = model_->config();
  BlockStream stream;
  stream.residual = model_->Embed(ids).to(model_->wide_type());
  for (int layer = 0; layer < config.layers; ++layer) {
    stream = RunBlock(*model_, layer, stream, [&](const Tensor& input) {
      switch (config.mixers[layer]) {
        case MixerKind::kAttention:
          return Attention(layer, input);
        case MixerKind::kMamba:
          return Mamba(layer, input);
        default:
          return Mamba2(layer, input);
      }
    });
  }
  const NormedSum last =
      AddAndNorm(stream.residual, stream.delta, model_->Find(Role::kFinalNorm, -1),
                 config.norm_epsilon, model_->compute_type());
  for (size_t place = 0; place < tokens.size(); ++place) lengths_[place] += tokens[place] >= 0;
  return at::mm(last.normed, model_->Head().t()).to(at::kFloat);
}

// Checks, and moves what the layers need to the device in one copy. Returns the ids [sequences].
Tensor DecodeState::BeginStep(const std::vector<int64_t>& tokens) {
  const int64_t places = sequences();
  if (static_cast<int64_t>(tokens.size()) != places) {
    throw std::runtime_error(
        absl::StrFormat("decoding: %d tokens for %d places", tokens.size(), places));
  }
  const at::Device device = model_->device();
  Tensor host =
      at::empty({4, places}, at::TensorOptions().dtype(at::kLong).pinned_memory(device.is_cuda()));
  int64_t* numbers = host.data_ptr<int64_t>();
  step_.longest = 1;
  step_.any_rests = false;
  for (int64_t place = 0; place < places; ++place) {
    const bool rests = tokens[place] < 0;
    const int64_t length = lengths_[place];
    if (!rests && (length >= capacity_ || tokens[place] >= model_->config().vocabulary)) {
      throw std::runtime_error(absl::StrFormat(
          "decoding: token %d at position %d; %d positions and ids below %d expected",
          tokens[place], length, capacity_, model_->config().vocabulary));
    }
    numbers[place] = rests ? 0 : tokens[place];
    numbers[places + place] = length;
    numbers[2 * places + place] = rests ? capacity_ : length;
    numbers[3 * places + place] = rests ? 0 : 1;
    if (!rests) step_.longest = std::max(step_.longest, length + 1);
    step_.any_rests = step_.any_rests || rests;
  }
  const Tensor moved = host.to(device, /*non_blocking=*/true);
  step_.positions = moved.select(0, 1).contiguous();
  step_.columns = moved.select(0, 2);
  step_.active = moved.select(0, 3).to(at::kBool);
  PrepareAttention();
  return moved.select(0, 0);
}

void DecodeState::PrepareAttention() {
  const checkpoint::ModelConfig& config = model_->config();
  if (!config.HasMixer(MixerKind::kAttention)) return;
  step_.rotation = MakeRotation(step_.positions, model_->inverse_frequencies_,
                                model_->compute_type(), model_->growth_);
  step_.fused_rotation =
      MakeRotation(step_.positions, model_->fused_inverse_frequencies_, model_->compute_type());
  const Tensor columns = at::arange(step_.longest, step_.positions.options());
  const Tensor own = step_.positions.unsqueeze(1);
  const std::vector<int64_t> shape = {sequences(), 1, 1, step_.longest};
  const Tensor mask = columns <= own;
  step_.mask = mask.view(shape);
  const int window = config.attention.sliding_window;
  if (window > 0) step_.windowed_mask = mask.logical_and(columns > own - window).view(shape);
}

Tensor DecodeState::Attention(int layer, const Tensor& input) {
  const AttentionConfig& attention = model_->config().attention;
  const int64_t places = sequences(), heads = attention.key_value_heads,
                width = attention.head_width;
  const bool fused = model_->config().fused_attention[layer];
  const AttentionParts parts = ProjectAttention(*model_, layer, input);
  const auto [query, key] =
      Rotate(parts.query, parts.key, fused ? step_.fused_rotation : step_.rotation);
  LayerState& state = layers_[layer];
  const Tensor index = step_.columns.view({places, 1, 1, 1}).expand({places, heads, 1, width});
  state.keys.scatter_(2, index, key.unsqueeze(2));
  state.values.scatter_(2, index, parts.value.reshape({places, heads, 1, width}));
  // The query heads that share a key head stand where other attentions have positions.
  const Tensor mixed = at::scaled_dot_product_attention(
      query.reshape({places, heads, -1, width}), state.keys.narrow(2, 0, step_.longest),
      state.values.narrow(2, 0, step_.longest),
      model_->config().SlidingWindow(layer) > 0 ? step_.windowed_mask : step_.mask);
  return AttentionOutput(*model_, layer, mixed.reshape({places, -1}));
}

// What a place keeps: the new value, or the old one where it rests.
void DecodeState::Keep(Tensor& kept, const Tensor& renewed) const {
  if (!step_.any_rests) {
    kept = renewed;
    return;
  }
  std::vector<int64_t> shape(renewed.dim(), 1);
  shape[0] = renewed.size(0);
  kept = at::where(step_.active.view(shape), renewed, kept);
}

// input [sequences, channels] of the layer's convolution -> SiLU of its result.
Tensor DecodeState::Convolve(int layer, const Tensor& input) {
  LayerState& state = layers_[layer];
  const Tensor whole = at::cat({state.window, input.to(model_->wide_type()).unsqueeze(2)}, 2);
  Tensor sum = (whole * model_->Find(Role::kConvolution, layer).squeeze(1)).sum(2);
  const Tensor bias = model_->Find(Role::kConvolutionBias, layer);
  if (bias.defined()) sum.add_(bias);
  Keep(state.window, whole.narrow(2, 1, whole.size(2) - 1).contiguous());
  return at::silu(sum).to(model_->compute_type());
}

Tensor DecodeState::Mamba(int layer, const Tensor& input) {
  const MambaConfig& mamba = model_->config().mamba;
  const at::ScalarType wide = model_->wide_type();
  const int64_t places = sequences(), channels = mamba.inner_width, numbers = mamba.state_size;
  MambaParts parts = ProjectMamba(*model_, layer, input);
  const Tensor delta = SelectMamba(*model_, layer, Convolve(layer, parts.x), &parts);
  const Tensor dt = at::softplus(delta.to(wide) + model_->Find(Role::kMambaDtBias, layer));
  const Tensor decay = at::exp(dt.unsqueeze(2) * model_->Find(Role::kMambaALog, layer).exp().neg());
  // [sequences, groups x N] -> [sequences, channels, N], each group serving channels in a row.
  const auto spread = [&](const Tensor& tensor) {
    const int64_t groups = tensor.size(1) / numbers;
    return RepeatGroups(tensor.to(wide), numbers, channels / groups)
        .view({places, channels, numbers});
  };
  const Tensor x = parts.x.to(wide);
  LayerState& state = layers_[layer];
  const Tensor renewed = decay * state.state + (dt * x).unsqueeze(2) * spread(parts.b);
  Tensor y = (renewed * spread(parts.c)).sum(2) + model_->Find(Role::kMambaD, layer) * x;
  y.mul_(at::silu(parts.gate.to(wide)));
  Keep(state.state, renewed);
  return RecurrentOutput(*model_, layer, y.to(model_->compute_type()));
}

Tensor DecodeState::Mamba2(int layer, const Tensor& input) {
  const Mamba2Config& mamba = model_->config().mamba2;
  const at::ScalarType wide = model_->wide_type();
  const int64_t places = sequences(), heads = mamba.heads, width = mamba.inner_width / heads,
                numbers = mamba.state_size;
  const Mamba2Parts parts = ProjectMamba2(*model_, layer, input);
  const Mamba2Sources sources = SplitMamba2(*model_, Convolve(layer, parts.convolution_input));
  const auto spread = [&](const Tensor& tensor, int64_t size) {
    return RepeatGroups(tensor.to(wide), size, heads * size / tensor.size(1))
        .view({places, heads, size});
  };
  const Tensor x = spread(sources.x, width);
  const Tensor dt = at::softplus(parts.dt.to(wide) + model_->Find(Role::kMamba2DtBias, layer))
                        .clamp_(mamba.dt_minimum, mamba.dt_maximum);
  const Tensor decay = at::exp(dt * model_->Find(Role::kMambaALog, layer).exp().neg());
  LayerState& state = layers_[layer];
  const Tensor added = (dt.unsqueeze(2) * x).unsqueeze(3) * spread(sources.b, numbers).unsqueeze(2);
  const Tensor renewed = state.state * decay.view({places, heads, 1, 1}) + added;
  const Tensor y = at::matmul(renewed, spread(sources.c, numbers).unsqueeze(3)).squeeze(3) +
                   model_->Find(Role::kMambaD, layer).unsqueeze(1) * x;
  Keep(state.state, renewed);
  const Tensor normed =
      GatedNorm(y.flatten(1).to(model_->compute_type()), parts.gate,
                model_->Find(Role::kMamba2Norm, layer), mamba.groups, mamba.norm_epsilon);
  return RecurrentOutput(*model_, layer, normed);
}

}  // namespace mambad::trainer
