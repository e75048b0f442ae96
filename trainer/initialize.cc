#include "trainer/initialize.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <stdexcept>
#include <string>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "trainer/modules/random_values.h"

namespace mambad::trainer {

using at::Tensor;
using checkpoint::AttentionConfig;
using checkpoint::Family;
using checkpoint::MixerKind;
using checkpoint::ModelConfig;
using checkpoint::Parameter;
using checkpoint::Role;

namespace {

const char* KindName(MixerKind kind) {
  if (kind == MixerKind::kAttention) return "attention";
  return kind == MixerKind::kMamba ? "Mamba" : "Mamba-2";
}

// ---- what the result looks like ----------------------------------------------------------------

std::set<int> CheckedLayers(const ModelConfig& source, const InitializeOptions& options) {
  if (source.family != Family::kLlama && source.family != Family::kHybrid) {
    throw std::runtime_error("a Llama or a hybrid expected to make a hybrid of");
  }
  if (options.mixer == MixerKind::kAttention) {
    throw std::runtime_error("the new mixer: Mamba or Mamba-2 expected");
  }
  std::set<int> layers;
  for (const int layer : options.recurrent_layers) {
    if (layer < 0 || layer >= source.layers || !layers.insert(layer).second) {
      throw std::runtime_error(
          absl::StrFormat("recurrent layers: %d found, different numbers from 0 to %d expected",
                          layer, source.layers - 1));
    }
  }
  if (layers.empty()) throw std::runtime_error("recurrent layers: none given, one expected");
  for (int layer = 0; layer < source.layers; ++layer) {
    const MixerKind kind = source.mixers[layer];
    if (kind == MixerKind::kAttention) continue;
    if (kind != options.mixer || !layers.contains(layer)) {
      throw std::runtime_error(absl::StrFormat(
          "layer %d is %s already and stays so: it has to be among the recurrent layers, and the "
          "new ones of its kind",
          layer, KindName(kind)));
    }
  }
  return layers;
}

void DescribeMamba(const InitializeOptions& options, ModelConfig* config) {
  const AttentionConfig& attention = config->attention;
  const int state = options.state_size > 0 ? options.state_size : 16;
  if (attention.head_width % state != 0) {
    throw std::runtime_error(
        absl::StrFormat("Mamba's state size: %d found, a divisor of the head width %d expected",
                        state, attention.head_width));
  }
  checkpoint::MambaConfig& mamba = config->mamba;
  mamba = {};
  mamba.inner_width = attention.query_heads * attention.head_width;
  mamba.state_size = state;
  mamba.dt_rank = (config->width + 15) / 16;
  mamba.convolution_width = options.convolution_width;
  mamba.groups = mamba.inner_width / state;
  mamba.source_width = attention.key_value_heads * attention.head_width;
  mamba.repeat_before_convolution = true;  // as released
}

void DescribeMamba2(const InitializeOptions& options, ModelConfig* config) {
  const AttentionConfig& attention = config->attention;
  if (options.state_size != 0 && options.state_size != attention.head_width) {
    throw std::runtime_error(
        absl::StrFormat("Mamba-2's state size: %d found, the head width %d expected",
                        options.state_size, attention.head_width));
  }
  checkpoint::Mamba2Config& mamba = config->mamba2;
  mamba = {};
  mamba.inner_width = attention.query_heads * attention.head_width;
  mamba.state_size = attention.head_width;
  mamba.heads = mamba.groups = attention.query_heads;
  mamba.convolution_width = options.convolution_width;
  mamba.source_width = attention.key_value_heads * attention.head_width;
  mamba.repeat_before_convolution = false;  // as released
}

ModelConfig HybridConfig(const ModelConfig& source, const std::set<int>& layers,
                         const InitializeOptions& options) {
  ModelConfig config = source;
  config.family = Family::kHybrid;
  config.layout = checkpoint::Layout::kMambaInLlama;
  if (!source.HasMixer(options.mixer)) {
    if (options.mixer == MixerKind::kMamba)
      DescribeMamba(options, &config);
    else
      DescribeMamba2(options, &config);
  }
  for (const int layer : layers) {
    if (source.mixers[layer] == MixerKind::kAttention) config.fused_mamba[layer] = false;
    config.mixers[layer] = options.mixer;
    config.fused_attention[layer] = false;
  }
  if (!config.HasMixer(MixerKind::kAttention)) config.context_length = 0;
  return config;
}

// ---- one new mixer -----------------------------------------------------------------------------

// Fills the mixer of a layer that had attention in `source`.
class MixerStart {
 public:
  MixerStart(const LanguageModel& source, const LanguageModel& result, int layer,
             const InitializeOptions& options)
      : source_(source), result_(result), layer_(layer), options_(options) {}

  void Fill() {
    ReadAttention();
    if (options_.mixer == MixerKind::kMamba)
      FillMamba();
    else
      FillMamba2();
    FillConvolution();
    Set(Role::kMambaD, at::ones(Shape(Role::kMambaD)));
    Set(Role::kMambaOut, output_);
  }

 private:
  // value, key, query and output as fp32 (or fp64) copies, or draws in their place.
  void ReadAttention() {
    const AttentionConfig& attention = source_.config().attention;
    const int64_t query = int64_t{attention.query_heads} * attention.head_width;
    const int64_t key = int64_t{attention.key_value_heads} * attention.head_width;
    const int64_t width = source_.config().width;
    if (!options_.from_attention) {
      value_ = Normal({key, width}, "value");
      key_ = Normal({key, width}, "key");
      query_ = Normal({query, width}, "query");
      output_ = Normal({width, query}, "output");
      value_bias_ = key_bias_ = at::zeros({key}, output_.options());
      query_bias_ = at::zeros({query}, output_.options());
      return;
    }
    output_ = Wide(source_.Find(Role::kAttentionOutput, layer_));
    if (source_.config().fused_attention[layer_]) {
      const Tensor fused = Wide(source_.Find(Role::kAttentionFused, layer_));
      query_ = fused.narrow(0, 0, query);
      key_ = fused.narrow(0, query, key);
      value_ = fused.narrow(0, query + key, key);
    } else {
      query_ = Wide(source_.Find(Role::kAttentionQuery, layer_));
      key_ = Wide(source_.Find(Role::kAttentionKey, layer_));
      value_ = Wide(source_.Find(Role::kAttentionValue, layer_));
    }
    query_bias_ = BiasOrZeros(Role::kAttentionQueryBias, query);
    key_bias_ = BiasOrZeros(Role::kAttentionKeyBias, key);
    value_bias_ = BiasOrZeros(Role::kAttentionValueBias, key);
    if (attention.head_norm) {
      FoldNorm(Role::kAttentionQueryNorm, query_, query_bias_);
      FoldNorm(Role::kAttentionKeyNorm, key_, key_bias_);
    }
  }

  Tensor BiasOrZeros(Role role, int64_t count) const {
    const Tensor bias = source_.Find(role, layer_);
    return bias.defined() ? Wide(bias) : at::zeros({count}, output_.options());
  }

  // A norm of heads as what it does on average. The input's numbers are as large as the weight of
  // the norm before it, and count as independent of each other.
  void FoldNorm(Role role, Tensor& rows, Tensor& bias) const {
    const Tensor weight = Wide(source_.Find(role, layer_));
    const Tensor input = Wide(source_.Find(Role::kMixerNorm, layer_));
    const Tensor squares = (rows * input).square().sum(1) + bias.square();
    const Tensor mean = squares.view({-1, weight.size(0)}).mean(1, /*keepdim=*/true);
    const Tensor scale = ((mean + source_.config().norm_epsilon).rsqrt() * weight).flatten();
    rows = rows * scale.unsqueeze(1);
    bias = bias * scale;
  }

  void FillMamba() {
    const checkpoint::MambaConfig& mamba = result_.config().mamba;
    if (options_.corrected_head_order) {
      const Tensor order = ChannelOrder();
      query_ = query_.index_select(0, order);
      output_ = output_.index_select(1, order);
    }
    Set(Role::kMambaInZ, Projection(Shape(Role::kMambaInZ), "gate"));
    Set(Role::kMambaInX, value_);
    Set(Role::kMambaInB, key_);
    Set(Role::kMambaInC, query_);
    Set(Role::kMambaInDt, Projection(Shape(Role::kMambaInDt), "time_step_down"));
    Set(Role::kMambaDt, Projection(Shape(Role::kMambaDt), "time_step"));
    Set(Role::kMambaDtBias, TimeStepBias(mamba.inner_width, options_.seed, Stream("bias")));
    Set(Role::kMambaALog, CountingDecay(mamba.inner_width, mamba.state_size));
  }

  void FillMamba2() {
    const checkpoint::Mamba2Config& mamba = result_.config().mamba2;
    const int64_t width = result_.config().width;
    Set(Role::kMamba2In,
        at::cat({Wide(Projection({mamba.inner_width, width}, "gate")), value_, key_, query_,
                 Wide(Projection({mamba.heads, width}, "time_step"))}));
    Set(Role::kMamba2DtBias, TimeStepBias(mamba.heads, options_.seed, Stream("bias")));
    Set(Role::kMambaALog, UniformDecay(mamba.heads, options_.seed, Stream("decay")));
    Set(Role::kMamba2Norm, at::ones(Shape(Role::kMamba2Norm)));
  }

  void FillConvolution() {
    const std::vector<int64_t> shape = Shape(Role::kConvolution);
    if (options_.published_rest) {
      Set(Role::kConvolution, UniformValues(shape, -0.5, 0.5, options_.seed, Stream("taps")));
      Set(Role::kConvolutionBias, UniformValues(Shape(Role::kConvolutionBias), -0.5, 0.5,
                                                options_.seed, Stream("convolution_bias")));
      return;
    }
    Tensor taps = at::zeros(shape);
    taps.select(2, shape[2] - 1).fill_(1);
    Set(Role::kConvolution, taps);
    Set(Role::kConvolutionBias, ConvolutionBias());
  }

  // The projections' biases, in the order of the convolution's channels.
  Tensor ConvolutionBias() const {
    const checkpoint::ModelConfig& config = result_.config();
    const bool first = options_.mixer == MixerKind::kMamba;
    const int64_t numbers = first ? config.mamba.state_size : config.mamba2.state_size;
    const bool repeats =
        first ? config.mamba.repeat_before_convolution : config.mamba2.repeat_before_convolution;
    const int64_t times = query_bias_.size(0) / value_bias_.size(0);
    const auto repeated = [&](const Tensor& bias) {
      return repeats ? bias.view({-1, numbers}).repeat_interleave(times, 0).flatten() : bias;
    };
    if (first) return repeated(value_bias_);
    return at::cat({repeated(value_bias_), repeated(key_bias_), query_bias_});
  }

  // Old row of each new channel. N numbers make a group; a key/value head has S = head width / N of
  // them. Repeating source groups puts channel group g = (head S + s) rep + r beside part s of
  // key/value head `head`, where the published order puts group g of the query rows, that is part g
  // mod S of query head g / S.
  Tensor ChannelOrder() const {
    const AttentionConfig& attention = source_.config().attention;
    const int64_t numbers = result_.config().mamba.state_size;
    const int64_t parts = attention.head_width / numbers;
    const int64_t repeats = attention.query_heads / attention.key_value_heads;
    const Tensor old = at::arange(int64_t{attention.query_heads} * attention.head_width,
                                  at::TensorOptions().dtype(at::kLong).device(source_.device()));
    return old.view({attention.key_value_heads, repeats, parts, numbers}).transpose(1, 2).flatten();
  }

  // For what attention has nothing for.
  Tensor Projection(const std::vector<int64_t>& shape, const std::string& what) const {
    if (!options_.published_rest) return Normal(shape, what);
    const double bound = 1.0 / std::sqrt(static_cast<double>(shape[1]));
    return UniformValues(shape, -bound, bound, options_.seed, Stream(what));
  }

  Tensor Normal(const std::vector<int64_t>& shape, const std::string& what) const {
    return NormalValues(shape, kEmbeddingDeviation, options_.seed, Stream(what));
  }
  std::string Stream(const std::string& what) const {
    return absl::StrFormat("layer %d %s", layer_, what);
  }
  std::vector<int64_t> Shape(Role role) const { return result_.Find(role, layer_).sizes().vec(); }
  Tensor Wide(const Tensor& tensor) const {
    return tensor.to(source_.device(), source_.wide_type());
  }
  void Set(Role role, const Tensor& values) const { result_.Find(role, layer_).copy_(values); }

  const LanguageModel& source_;
  const LanguageModel& result_;
  const int layer_;
  const InitializeOptions& options_;
  Tensor value_, key_, query_, output_;
  Tensor value_bias_, key_bias_, query_bias_;
};

// The mixer of a layer as `trained` has it.
void CopyMixer(const LanguageModel& trained, int layer, const LanguageModel& result) {
  for (const ModelParameter& parameter : result.parameters()) {
    const Parameter& own = parameter.description;
    if (own.layer != layer || !IsRecurrentMixerRole(own.role)) continue;
    Tensor(parameter.value).copy_(trained.Find(own.role, layer));
  }
}

}  // namespace

ModelConfig HybridConfiguration(const ModelConfig& source, const InitializeOptions& options) {
  return HybridConfig(source, CheckedLayers(source, options), options);
}

void RequireTrainedMixers(const ModelConfig& trained, const ModelConfig& source,
                          const ModelConfig& result) {
  const checkpoint::ParameterTable found(trained), wanted(result);
  for (const Parameter& own : wanted.parameters()) {
    if (!IsRecurrentMixerRole(own.role)) continue;
    if (source.mixers[own.layer] != MixerKind::kAttention) continue;
    const Parameter* there = found.Find(own.role, own.layer);
    if (there != nullptr && there->shape == own.shape) continue;
    throw std::runtime_error(absl::StrFormat("trained mixers: layer %d has no %s of %s numbers",
                                             own.layer, own.name, absl::StrJoin(own.shape, " x ")));
  }
}

std::unique_ptr<LanguageModel> InitializeHybrid(const LanguageModel& source,
                                                const InitializeOptions& options) {
  at::NoGradGuard no_grad;
  const std::set<int> layers = CheckedLayers(source.config(), options);
  auto result = std::make_unique<LanguageModel>(HybridConfig(source.config(), layers, options),
                                                source.device(), source.compute_type());
  for (const ModelParameter& parameter : result->parameters()) {
    const Parameter& own = parameter.description;
    const bool mixer = IsRecurrentMixerRole(own.role) || IsAttentionRole(own.role);
    if (mixer && source.config().mixers[own.layer] != result->config().mixers[own.layer]) continue;
    Tensor(parameter.value)
        .copy_(own.role == Role::kEmbedding ? source.Embedding()
                                            : source.Find(own.role, own.layer));
  }
  if (options.trained_mixers != nullptr) {
    RequireTrainedMixers(options.trained_mixers->config(), source.config(), result->config());
  }
  for (const int layer : layers) {
    if (source.config().mixers[layer] != MixerKind::kAttention) continue;
    if (options.trained_mixers != nullptr)
      CopyMixer(*options.trained_mixers, layer, *result);
    else
      MixerStart(source, *result, layer, options).Fill();
  }
  return result;
}

}  // namespace mambad::trainer
