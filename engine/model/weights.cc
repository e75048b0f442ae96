#include "engine/model/weights.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/checkpoint/rope_frequencies.h"
#include "engine/weight_type.h"

namespace mambad {

using checkpoint::Checkpoint;
using checkpoint::MixerKind;
using checkpoint::ModelConfig;
using checkpoint::Parameter;
using checkpoint::Role;
using kernels::ElementType;

namespace {

// Rows [begin, end) of a parameter: a piece of a matrix that is assembled from several.
struct RowPart {
  const Parameter* parameter;
  int64_t begin, end;
};

int64_t Columns(const Parameter& parameter) {
  int64_t columns = 1;
  for (size_t i = 1; i < parameter.shape.size(); ++i) columns *= parameter.shape[i];
  return columns;
}

// Given rows of a parameter, ascending: a part for each run of neighbours.
std::vector<RowPart> RowsOf(const Parameter* parameter, absl::Span<const int32_t> rows) {
  std::vector<RowPart> parts;
  for (const int32_t row : rows) {
    if (!parts.empty() && parts.back().end == row) {
      ++parts.back().end;
    } else {
      parts.push_back({parameter, row, row + 1});
    }
  }
  return parts;
}

// Calls read(parameter, begin, end, out) for the pieces of `parts` that make up rows [begin, end)
// of their concatenation.
template <typename T, typename Read>
void ReadParts(const std::vector<RowPart>& parts, int64_t begin, int64_t end, T* out,
               const Read& read) {
  int64_t first = 0;  // row of the concatenation where the part begins
  for (const RowPart& part : parts) {
    const int64_t rows = part.end - part.begin;
    const int64_t from = std::max(begin, first), to = std::min(end, first + rows);
    if (from < to) {
      const int64_t columns = Columns(*part.parameter);
      read(*part.parameter, part.begin + from - first, part.begin + to - first,
           absl::MakeSpan(out + (from - begin) * columns, (to - from) * columns));
    }
    first += rows;
  }
}

}  // namespace

// Fills a Weights from a checkpoint; lives for one Load.
class WeightsLoader {
 public:
  WeightsLoader(const Checkpoint& checkpoint, kernels::Backend& backend, Weights& weights)
      : checkpoint_(checkpoint),
        config_(checkpoint.config()),
        backend_(backend),
        weights_(weights) {}

  void Load(absl::Span<const int32_t> proposed_tokens) {
    weights_.embedding_ = Matrix({Whole(Role::kEmbedding, -1)});
    LoadHead(proposed_tokens);
    weights_.final_norm_ = Norm(Role::kFinalNorm, -1);
    for (int layer = 0; layer < config_.layers; ++layer)
      weights_.blocks_.push_back(LoadBlock(layer));
  }

 private:
  void LoadHead(absl::Span<const int32_t> proposed_tokens) {
    const Parameter* head = checkpoint_.table().Find(Role::kHead, -1);
    const bool separate = !config_.tied_head && head != nullptr && checkpoint_.Has(*head);
    const RowPart whole = Whole(separate ? Role::kHead : Role::kEmbedding, -1);
    if (proposed_tokens.empty()) {
      weights_.head_ = separate ? Matrix({whole}) : weights_.embedding_;
      return;
    }
    const int64_t parameters = weights_.parameters_;
    weights_.head_ = Matrix(RowsOf(whole.parameter, proposed_tokens));
    if (!separate) weights_.parameters_ = parameters;
    const size_t bytes = proposed_tokens.size() * sizeof(int32_t);
    weights_.head_tokens_ = backend_.Allocate(bytes);
    backend_.Write(weights_.head_tokens_.data(), proposed_tokens.data(), bytes);
    backend_.Synchronize();  // the caller's list may go away
    weights_.bytes_ += static_cast<int64_t>(bytes);
  }

  Block LoadBlock(int layer) {
    Block block;
    block.mixer = config_.mixers[layer];
    switch (block.mixer) {
      case MixerKind::kAttention:
        block.attention = LoadAttention(layer);
        break;
      case MixerKind::kMamba:
        block.mamba = LoadMamba(layer);
        break;
      case MixerKind::kMamba2:
        block.mamba2 = LoadMamba2(layer);
        break;
    }
    block.has_mlp = config_.mlp_width > 0;
    if (block.has_mlp) block.mlp = LoadMlp(layer);
    return block;
  }

  kernels::AttentionLayer LoadAttention(int layer) {
    const checkpoint::AttentionConfig& attention = config_.attention;
    kernels::AttentionLayer out;
    out.query_heads = attention.query_heads;
    out.key_value_heads = attention.key_value_heads;
    out.head_width = attention.head_width;
    out.sliding_window = config_.SlidingWindow(layer);
    out.norm = Norm(Role::kMixerNorm, layer);
    const bool fused = config_.fused_attention[layer];
    out.in = fused ? Matrix({Whole(Role::kAttentionFused, layer)})
                   : Matrix({Whole(Role::kAttentionQuery, layer), Whole(Role::kAttentionKey, layer),
                             Whole(Role::kAttentionValue, layer)});
    out.out = Matrix({Whole(Role::kAttentionOutput, layer)});
    if (attention.bias) {
      out.in_bias = Vectors(
          {Role::kAttentionQueryBias, Role::kAttentionKeyBias, Role::kAttentionValueBias}, layer);
    }
    if (attention.output_bias) out.out_bias = Vector(Role::kAttentionOutputBias, layer);
    if (attention.head_norm) {
      out.query_norm = Norm(Role::kAttentionQueryNorm, layer);
      out.key_norm = Norm(Role::kAttentionKeyNorm, layer);
    }
    const checkpoint::RopeConfig& rope = fused ? attention.fused_rope : attention.rope;
    out.score_factor = static_cast<float>(rope.attention_factor * rope.attention_factor);
    if (rope.scaling == checkpoint::RopeScalingKind::kDynamic)
      out.growth = {rope.original_context, rope.factor};
    const float*& frequencies = fused ? fused_frequencies_ : frequencies_;
    if (frequencies == nullptr) {
      frequencies = Upload(checkpoint::InverseFrequencies(rope, attention.head_width));
    }
    out.inverse_frequency = frequencies;
    return out;
  }

  kernels::MambaLayer LoadMamba(int layer) {
    const checkpoint::MambaConfig& mamba = config_.mamba;
    kernels::MambaLayer out;
    out.inner_width = mamba.inner_width;
    out.state_size = mamba.state_size;
    out.dt_rank = mamba.dt_rank;
    out.convolution_width = mamba.convolution_width;
    out.groups = mamba.groups;
    out.source_width = mamba.source_width;
    out.repeat_before_convolution = mamba.repeat_before_convolution;
    out.selection_norm = mamba.selection_norm;
    out.selection_norm_epsilon = static_cast<float>(mamba.selection_norm_epsilon);
    out.norm = Norm(Role::kMixerNorm, layer);
    out.in = MambaInMatrix(layer);
    if (mamba.projection_bias) {
      out.in_bias = Vector(Role::kMambaInBias, layer);
      out.out_bias = Vector(Role::kMambaOutBias, layer);
    }
    if (mamba.source_width == 0) out.select = Matrix({Whole(Role::kMambaSelect, layer)});
    out.dt = Matrix({Whole(Role::kMambaDt, layer)});
    out.out = Matrix({Whole(Role::kMambaOut, layer)});
    out.convolution = Vector(Role::kConvolution, layer);
    if (mamba.convolution_bias) out.convolution_bias = Vector(Role::kConvolutionBias, layer);
    std::vector<float> bias = Values(Role::kMambaDtBias, layer);
    if (mamba.dt_bias_applied_twice) {
      for (float& b : bias) b *= 2;
    }
    out.dt_bias = Upload(bias);
    out.a = Upload(InBlocks(NegativeExponential(layer), mamba.inner_width, mamba.state_size));
    out.skip = Vector(Role::kMambaD, layer);
    return out;
  }

  // Rows x, z and, in MambaInLlama, B, C, dt: from one matrix or from five, whichever the file has.
  const kernels::WeightMatrix* MambaInMatrix(int layer) {
    const checkpoint::MambaConfig& mamba = config_.mamba;
    if (mamba.source_width == 0) return Matrix({Whole(Role::kMambaIn, layer)});
    if (!config_.fused_mamba[layer]) {
      return Matrix({Whole(Role::kMambaInX, layer), Whole(Role::kMambaInZ, layer),
                     Whole(Role::kMambaInB, layer), Whole(Role::kMambaInC, layer),
                     Whole(Role::kMambaInDt, layer)});
    }
    const RowPart fused = Whole(Role::kMambaIn, layer);  // rows z, x, B, C, dt
    const int64_t inner = mamba.inner_width, source = mamba.source_width;
    return Matrix({{fused.parameter, inner, inner + source},
                   {fused.parameter, 0, inner},
                   {fused.parameter, inner + source, fused.end}});
  }

  kernels::Mamba2Layer LoadMamba2(int layer) {
    const checkpoint::Mamba2Config& mamba = config_.mamba2;
    kernels::Mamba2Layer out;
    out.inner_width = mamba.inner_width;
    out.state_size = mamba.state_size;
    out.heads = mamba.heads;
    out.groups = mamba.groups;
    out.convolution_width = mamba.convolution_width;
    out.source_width = mamba.source_width;
    out.repeat_before_convolution = mamba.repeat_before_convolution;
    out.dt_minimum = static_cast<float>(mamba.dt_minimum);
    out.dt_maximum = static_cast<float>(mamba.dt_maximum);
    out.norm = Norm(Role::kMixerNorm, layer);
    out.in = Matrix({Whole(Role::kMamba2In, layer)});
    if (mamba.projection_bias) {
      out.in_bias = Vector(Role::kMambaInBias, layer);
      out.out_bias = Vector(Role::kMambaOutBias, layer);
    }
    out.out = Matrix({Whole(Role::kMambaOut, layer)});
    out.convolution = Vector(Role::kConvolution, layer);
    if (mamba.convolution_bias) out.convolution_bias = Vector(Role::kConvolutionBias, layer);
    out.dt_bias = Vector(Role::kMamba2DtBias, layer);
    out.a = Upload(NegativeExponential(layer));
    out.skip = Vector(Role::kMambaD, layer);
    out.gated_norm = {Vector(Role::kMamba2Norm, layer), static_cast<float>(mamba.norm_epsilon)};
    return out;
  }

  kernels::MlpLayer LoadMlp(int layer) {
    kernels::MlpLayer out;
    out.mlp_width = config_.mlp_width;
    out.norm = Norm(Role::kMlpNorm, layer);
    out.in = Matrix({Whole(Role::kMlpGate, layer), Whole(Role::kMlpUp, layer)});
    out.out = Matrix({Whole(Role::kMlpDown, layer)});
    if (config_.mlp_bias) {
      out.in_bias = Vectors({Role::kMlpGateBias, Role::kMlpUpBias}, layer);
      out.out_bias = Vector(Role::kMlpDownBias, layer);
    }
    return out;
  }

  RowPart Whole(Role role, int layer) const {
    const Parameter* parameter = checkpoint_.table().Find(role, layer);
    return {parameter, 0, parameter->shape[0]};
  }

  const kernels::WeightMatrix* Matrix(const std::vector<RowPart>& parts) {
    int64_t rows = 0;
    for (const RowPart& part : parts) rows += part.end - part.begin;
    const int64_t columns = Columns(*parts[0].parameter);
    kernels::MatrixSource source;
    source.float32 = [&](int64_t begin, int64_t end, float* out) {
      ReadParts(parts, begin, end, out,
                [&](const Parameter& p, int64_t b, int64_t e, absl::Span<float> o) {
                  checkpoint_.Read(p, b, e, o);
                });
    };
    source.bfloat16 = [&](int64_t begin, int64_t end, uint16_t* out) {
      ReadParts(parts, begin, end, out,
                [&](const Parameter& p, int64_t b, int64_t e, absl::Span<uint16_t> o) {
                  checkpoint_.ReadBFloat16(p, b, e, o);
                });
    };
    weights_.matrices_.push_back(backend_.Pack(rows, columns, weights_.type_, source));
    weights_.parameters_ += rows * columns;
    weights_.bytes_ += rows * columns * static_cast<int64_t>(kernels::ElementBytes(weights_.type_));
    return &weights_.matrices_.back();
  }

  std::vector<float> Values(Role role, int layer) const {
    const Parameter* parameter = checkpoint_.table().Find(role, layer);
    std::vector<float> values(parameter->shape[0] * Columns(*parameter));
    checkpoint_.Read(*parameter, 0, parameter->shape[0], absl::MakeSpan(values));
    return values;
  }

  const float* Upload(const std::vector<float>& values) {
    kernels::Buffer buffer = backend_.Allocate(values.size() * sizeof(float));
    backend_.Write(buffer.data(), values.data(), values.size() * sizeof(float));
    backend_.Synchronize();  // `values` may go away
    weights_.parameters_ += static_cast<int64_t>(values.size());
    weights_.bytes_ += static_cast<int64_t>(values.size() * sizeof(float));
    weights_.vectors_.push_back(std::move(buffer));
    return weights_.vectors_.back().as<float>();
  }

  const float* Vector(Role role, int layer) { return Upload(Values(role, layer)); }

  // One after the other.
  const float* Vectors(std::initializer_list<Role> roles, int layer) {
    std::vector<float> all;
    for (const Role role : roles) {
      const std::vector<float> values = Values(role, layer);
      all.insert(all.end(), values.begin(), values.end());
    }
    return Upload(all);
  }

  kernels::NormWeights Norm(Role role, int layer) {
    return {Vector(role, layer), static_cast<float>(config_.norm_epsilon)};
  }

  std::vector<float> NegativeExponential(int layer) const {  // A = -exp(A_log)
    std::vector<float> values = Values(Role::kMambaALog, layer);
    for (float& value : values) value = static_cast<float>(-std::exp(static_cast<double>(value)));
    return values;
  }

  // [I, N] -> [I padded to 16 / 16][N][16], the order of the state.
  static std::vector<float> InBlocks(const std::vector<float>& values, int inner_width,
                                     int state_size) {
    constexpr int kBlock = 16;
    std::vector<float> blocks((inner_width + kBlock - 1) / kBlock * kBlock * state_size);
    for (int c = 0; c < inner_width; ++c) {
      for (int n = 0; n < state_size; ++n) {
        blocks[(c / kBlock * state_size + n) * kBlock + c % kBlock] = values[c * state_size + n];
      }
    }
    return blocks;
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  kernels::Backend& backend_;
  Weights& weights_;
  const float* frequencies_ = nullptr;
  const float* fused_frequencies_ = nullptr;
};

absl::StatusOr<std::unique_ptr<const Weights>> Weights::Load(
    const Checkpoint& checkpoint, ComputeType type, kernels::Backend& backend,
    absl::Span<const int32_t> proposed_tokens) {
  const ModelConfig& config = checkpoint.config();
  for (int width : {config.mamba.convolution_width, config.mamba2.convolution_width}) {
    if (width < 1 || width > kernels::kMaxConvolutionWidth) {
      return absl::InvalidArgumentError(absl::StrCat(
          "convolution of ", width, " taps; this build runs 1 to ", kernels::kMaxConvolutionWidth));
    }
  }
  if (config.HasMixer(MixerKind::kAttention) && config.attention.head_width % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("attention heads of ", config.attention.head_width,
                     " numbers; rotary embedding needs an even width"));
  }
  auto weights = std::unique_ptr<Weights>(new Weights());
  weights->type_ =
      ComputesInFloat32(checkpoint, type) ? ElementType::kFloat32 : ElementType::kBFloat16;
  WeightsLoader(checkpoint, backend, *weights).Load(proposed_tokens);
  return weights;
}

}  // namespace mambad
