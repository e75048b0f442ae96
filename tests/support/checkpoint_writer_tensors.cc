// The tensors of random models, layout by layout.

#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "tests/support/checkpoint_writer.h"

namespace mambad::support {
namespace {

using checkpoint::Family;
using checkpoint::Layout;
using checkpoint::MixerKind;

// Numbers of one tensor: they depend on the seed and the tensor's name only.
class Draw {
 public:
  Draw(uint64_t seed, const std::string& name) : state_(seed * 0x9e3779b97f4a7c15ull) {
    for (char c : name) state_ = (state_ ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  }
  double Uniform() {  // in (0, 1)
    state_ += 0x9e3779b97f4a7c15ull;
    uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    z ^= z >> 31;
    return (static_cast<double>(z >> 11) + 0.5) * 0x1p-53;
  }
  double Between(double low, double high) { return low + (high - low) * Uniform(); }
  double Normal() {
    const double radius = std::sqrt(-2 * std::log(Uniform()));
    return radius * std::cos(2 * M_PI * Uniform());
  }

 private:
  uint64_t state_;
};

// softplus^-1 of a time step that is log-uniform between 0.001 and 0.1.
double DrawTimeStepBias(Draw& draw) {
  const double step = std::exp(draw.Between(std::log(1e-3), std::log(1e-1)));
  return step + std::log(-std::expm1(-step));
}

class Drawing {
 public:
  explicit Drawing(const RandomModelOptions& options) : o_(options) {}

  std::vector<NamedTensor> Run() {
    if (o_.family == Family::kLlama || o_.family == Family::kHybrid) {
      Llama();
    } else {
      Pure(o_.family == Family::kMamba2);
    }
    return std::move(tensors_);
  }

 private:
  using Shape = std::vector<int64_t>;

  template <typename Make>
  void Add(const std::string& name, const Shape& shape, const Make& make) {
    Draw draw(o_.seed, name);
    int64_t count = 1;
    for (int64_t size : shape) count *= size;
    NamedTensor tensor{name, shape, std::vector<float>(count)};
    for (int64_t i = 0; i < count; ++i) tensor.values[i] = static_cast<float>(make(draw, i));
    tensors_.push_back(std::move(tensor));
  }
  void Normal(const std::string& name, const Shape& shape, double deviation) {
    Add(name, shape, [&](Draw& draw, int64_t) { return deviation * draw.Normal(); });
  }
  // Outputs as large as inputs.
  void Matrix(const std::string& name, int64_t rows, int64_t columns) {
    Normal(name, {rows, columns}, 1 / std::sqrt(static_cast<double>(columns)));
  }
  void Norm(const std::string& name, int64_t width) {
    Add(name, {width}, [](Draw& draw, int64_t) { return 1 + 0.1 * draw.Normal(); });
  }
  void Biases(const std::string& prefix,
              const std::vector<std::pair<const char*, int64_t>>& sizes) {
    for (const auto& [name, size] : sizes) Normal(prefix + name + ".bias", {size}, 0.2);
  }
  void Skip(const std::string& name, int64_t count) {
    Add(name, {count}, [](Draw& draw, int64_t) { return 1 + 0.2 * draw.Normal(); });
  }
  void TimeStepBias(const std::string& name, int64_t count, double times) {
    Add(name, {count}, [&](Draw& draw, int64_t) { return DrawTimeStepBias(draw) / times; });
  }
  void Convolution(const std::string& prefix, int64_t channels) {
    Normal(prefix + "conv1d.weight", {channels, 1, o_.convolution_width},
           1 / std::sqrt(static_cast<double>(o_.convolution_width)));
    if (o_.convolution_bias) Normal(prefix + "conv1d.bias", {channels}, 0.1);
  }
  void Embedding(const std::string& name, int64_t rows, const std::string& head, bool write_head) {
    const double deviation = o_.logit_deviation / std::sqrt(static_cast<double>(o_.width));
    // A tied head must be the same numbers under its own name.
    Normal(name, {rows, o_.width}, deviation);
    if (!write_head) return;
    if (o_.tied_head) {
      tensors_.push_back({head, tensors_.back().shape, tensors_.back().values});
    } else {
      Normal(head, {rows, o_.width}, deviation);
    }
  }

  // ---- Llama and hybrids
  // -----------------------------------------------------------------------------------------

  void Llama() {
    const int64_t d = o_.width, f = o_.mlp_width;
    Embedding("model.embed_tokens.weight", o_.vocabulary, "lm_head.weight",
              !o_.tied_head || o_.store_tied_head);
    for (int layer = 0; layer < o_.layers; ++layer) {
      const std::string prefix = absl::StrCat("model.layers.", layer, ".");
      Norm(prefix + "input_layernorm.weight", d);
      if (o_.family == Family::kLlama || KeepsAttention(layer)) {
        Attention(prefix);
      } else if (o_.hybrid_mixer == MixerKind::kMamba2) {
        HybridMamba2(prefix + "mamba.");
      } else {
        HybridMamba(prefix + "mamba.");
      }
      Norm(prefix + "post_attention_layernorm.weight", d);
      Matrix(prefix + "mlp.gate_proj.weight", f, d);
      Matrix(prefix + "mlp.up_proj.weight", f, d);
      Matrix(prefix + "mlp.down_proj.weight", d, f);
      if (o_.mlp_bias)
        Biases(prefix + "mlp.", {{"gate_proj", f}, {"up_proj", f}, {"down_proj", d}});
    }
    Norm("model.norm.weight", d);
  }

  bool KeepsAttention(int layer) const {
    for (int kept : o_.attention_layers) {
      if (kept == layer) return true;
    }
    return false;
  }

  void Attention(const std::string& prefix) {
    const int64_t d = o_.width, query = o_.query_heads * o_.head_width,
                  key = o_.key_value_heads * o_.head_width;
    if (o_.family == Family::kHybrid && o_.fused_attention) {
      Matrix(prefix + "mha.in_proj.weight", query + 2 * key, d);
      Matrix(prefix + "mha.out_proj.weight", d, query);
      return;
    }
    Matrix(prefix + "self_attn.q_proj.weight", query, d);
    Matrix(prefix + "self_attn.k_proj.weight", key, d);
    Matrix(prefix + "self_attn.v_proj.weight", key, d);
    Matrix(prefix + "self_attn.o_proj.weight", d, query);
    if (o_.attention_bias || o_.model_type == "qwen2")
      Biases(prefix + "self_attn.", {{"q_proj", query}, {"k_proj", key}, {"v_proj", key}});
    if (o_.attention_bias) Biases(prefix + "self_attn.", {{"o_proj", d}});
    if (o_.model_type == "qwen3") {
      Norm(prefix + "self_attn.q_norm.weight", o_.head_width);
      Norm(prefix + "self_attn.k_norm.weight", o_.head_width);
    }
  }

  int64_t HybridInner() const {
    return o_.inner_width > 0 ? o_.inner_width : o_.query_heads * o_.head_width;
  }
  int64_t Rank() const { return o_.dt_rank > 0 ? o_.dt_rank : (o_.width + 15) / 16; }

  void HybridMamba(const std::string& prefix) {
    const int64_t d = o_.width, inner = HybridInner(), source = o_.source_width, rank = Rank();
    if (o_.fused_mamba) {
      Matrix(prefix + "in_proj.weight", 2 * inner + 2 * source + rank, d);
    } else {
      Matrix(prefix + "in_proj_z.weight", inner, d);
      Matrix(prefix + "in_proj_x.weight", source, d);
      Matrix(prefix + "B_proj.weight", source, d);
      Matrix(prefix + "C_proj.weight", inner, d);
      Matrix(prefix + "dt_proj_down.weight", rank, d);
    }
    // Where the bias is meant twice, half of it keeps the time steps where they should be.
    MambaCore(prefix, inner, rank, o_.repeat_before_convolution ? inner : source,
              o_.dt_bias_applied_once ? 1 : 2);
  }

  void MambaCore(const std::string& prefix, int64_t inner, int64_t rank, int64_t channels,
                 double bias_times) {
    const int64_t n = o_.state_size;
    Convolution(prefix, channels);
    const double limit = 1 / std::sqrt(static_cast<double>(rank));
    Add(prefix + "dt_proj.weight", {inner, rank},
        [&](Draw& draw, int64_t) { return draw.Between(-limit, limit); });
    TimeStepBias(prefix + "dt_proj.bias", inner, bias_times);
    // log(1..N) as trained models begin with, a little apart from channel to channel.
    Add(prefix + "A_log", {inner, n}, [&](Draw& draw, int64_t i) {
      return std::log(1.0 + static_cast<double>(i % n)) + 0.1 * draw.Normal();
    });
    Skip(prefix + "D", inner);
    Matrix(prefix + "out_proj.weight", o_.width, inner);
  }

  void HybridMamba2(const std::string& prefix) {
    const int64_t inner = HybridInner(), source = o_.source_width, heads = inner / o_.state_size;
    Matrix(prefix + "in_proj.weight", 2 * inner + 2 * source + heads,
           o_.width);  // rows z, x, B, C, dt
    Mamba2Core(prefix, inner, heads, o_.repeat_before_convolution ? 3 * inner : inner + 2 * source);
  }

  void Mamba2Core(const std::string& prefix, int64_t inner, int64_t heads, int64_t channels) {
    Convolution(prefix, channels);
    TimeStepBias(prefix + "dt_bias", heads, 1);
    Add(prefix + "A_log", {heads},
        [](Draw& draw, int64_t) { return std::log(draw.Between(1, 16)); });
    Skip(prefix + "D", heads);
    Norm(prefix + "norm.weight", inner);
    Matrix(prefix + "out_proj.weight", o_.width, inner);
  }

  // ---- pure Mamba, Mamba-2
  // ---------------------------------------------------------------------------------------

  void Pure(bool second) {
    const bool state_spaces = o_.layout == Layout::kStateSpaces;
    const int64_t d = o_.width, inner = o_.inner_width > 0 ? o_.inner_width : 2 * d,
                  n = o_.state_size;
    int64_t rows = o_.vocabulary;
    if (state_spaces) {
      const int64_t multiple = o_.pad_vocabulary_multiple;
      rows = (rows + multiple - 1) / multiple * multiple;
    }
    Embedding(state_spaces ? "backbone.embedding.weight" : "backbone.embeddings.weight", rows,
              "lm_head.weight", state_spaces || !o_.tied_head || o_.store_tied_head);
    for (int layer = 0; layer < o_.layers; ++layer) {
      const std::string block = absl::StrCat("backbone.layers.", layer, ".");
      const std::string prefix = block + "mixer.";
      Norm(block + "norm.weight", d);
      if (second) {
        const int64_t heads = inner / o_.mamba2_head_width, all_groups = o_.groups * n;
        Matrix(prefix + "in_proj.weight", 2 * inner + 2 * all_groups + heads,
               d);  // rows z, x, B, C, dt
        Mamba2Core(prefix, inner, heads, inner + 2 * all_groups);
        ProjectionBiases(prefix, 2 * inner + 2 * all_groups + heads);
      } else {
        Matrix(prefix + "in_proj.weight", 2 * inner, d);  // rows x, z
        Matrix(prefix + "x_proj.weight", Rank() + 2 * n, inner);
        MambaCore(prefix, inner, Rank(), inner, 1);
        ProjectionBiases(prefix, 2 * inner);
      }
    }
    Norm("backbone.norm_f.weight", d);
  }

  void ProjectionBiases(const std::string& prefix, int64_t in_rows) {
    if (o_.projection_bias && o_.layout == Layout::kHuggingFace)
      Biases(prefix, {{"in_proj", in_rows}, {"out_proj", o_.width}});
  }

  const RandomModelOptions& o_;
  std::vector<NamedTensor> tensors_;
};

}  // namespace

std::vector<NamedTensor> DrawTensors(const RandomModelOptions& options) {
  return Drawing(options).Run();
}

uint16_t RoundToFloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  if (std::isnan(value)) return sign | 0x7e00;
  const double magnitude = std::fabs(static_cast<double>(value));
  if (magnitude >= 65520) return sign | 0x7c00;
  // The spacing of halves around the value; a power of two, so that the division is exact and
  // nearbyint rounds to even.
  const int exponent = magnitude < 0x1p-14 ? -14 : std::ilogb(magnitude);
  const double steps = std::nearbyint(std::ldexp(magnitude, 10 - exponent));
  return static_cast<uint16_t>(sign | ((exponent + 14) * 1024 + static_cast<int>(steps)));
}

}  // namespace mambad::support
