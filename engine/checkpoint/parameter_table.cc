#include "engine/checkpoint/parameter_table.h"

#include <utility>

namespace mambad::checkpoint {
namespace {

// Builds the list for one configuration; one method a kind of block.
class TableBuilder {
 public:
  TableBuilder(const ModelConfig& config, std::vector<Parameter>* parameters)
      : config_(config), parameters_(*parameters) {}

  void Build() {
    const int64_t d = config_.width, v = config_.padded_vocabulary;
    Add(Role::kEmbedding, -1, EmbeddingName(), {v, d});
    for (int layer = 0; layer < config_.layers; ++layer) Block(layer);
    Add(Role::kFinalNorm, -1, FinalNormName(), {d}, /*keep_float32=*/true);
    const std::string head = config_.layout == Layout::kGguf ? "output.weight" : "lm_head.weight";
    Add(Role::kHead, -1, head, {v, d}, /*keep_float32=*/false, /*optional=*/config_.tied_head);
  }

 private:
  bool llama_like() const {
    return config_.family == Family::kLlama || config_.family == Family::kHybrid;
  }

  std::string EmbeddingName() const {
    if (config_.layout == Layout::kGguf) return "token_embd.weight";
    if (llama_like()) return "model.embed_tokens.weight";
    return config_.layout == Layout::kStateSpaces ? "backbone.embedding.weight"
                                                  : "backbone.embeddings.weight";
  }
  std::string FinalNormName() const {
    if (config_.layout == Layout::kGguf) return "output_norm.weight";
    return llama_like() ? "model.norm.weight" : "backbone.norm_f.weight";
  }
  std::string Prefix(int layer) const {
    const std::string number = std::to_string(layer) + ".";
    if (config_.layout == Layout::kGguf) return "blk." + number;
    return (llama_like() ? "model.layers." : "backbone.layers.") + number;
  }

  void Block(int layer) {
    const std::string prefix = Prefix(layer);
    const int64_t d = config_.width, f = config_.mlp_width;
    const bool gguf = config_.layout == Layout::kGguf;
    Add(Role::kMixerNorm, layer,
        prefix + (gguf           ? "attn_norm.weight"
                  : llama_like() ? "input_layernorm.weight"
                                 : "norm.weight"),
        {d}, true);
    switch (config_.mixers[layer]) {
      case MixerKind::kAttention:
        Attention(layer, prefix);
        break;
      case MixerKind::kMamba:
        Mamba(layer, prefix);
        break;
      case MixerKind::kMamba2:
        Mamba2(layer, prefix);
        break;
    }
    if (f == 0) return;
    Add(Role::kMlpNorm, layer,
        prefix + (gguf ? "ffn_norm.weight" : "post_attention_layernorm.weight"), {d}, true);
    Add(Role::kMlpGate, layer, prefix + (gguf ? "ffn_gate.weight" : "mlp.gate_proj.weight"),
        {f, d});
    Add(Role::kMlpUp, layer, prefix + (gguf ? "ffn_up.weight" : "mlp.up_proj.weight"), {f, d});
    Add(Role::kMlpDown, layer, prefix + (gguf ? "ffn_down.weight" : "mlp.down_proj.weight"),
        {d, f});
    if (!config_.mlp_bias) return;
    Add(Role::kMlpGateBias, layer, prefix + (gguf ? "ffn_gate.bias" : "mlp.gate_proj.bias"), {f},
        true);
    Add(Role::kMlpUpBias, layer, prefix + (gguf ? "ffn_up.bias" : "mlp.up_proj.bias"), {f}, true);
    Add(Role::kMlpDownBias, layer, prefix + (gguf ? "ffn_down.bias" : "mlp.down_proj.bias"), {d},
        true);
  }

  void Attention(int layer, const std::string& prefix) {
    const AttentionConfig& attention = config_.attention;
    const int64_t d = config_.width, query = int64_t{attention.query_heads} * attention.head_width;
    const int64_t key = int64_t{attention.key_value_heads} * attention.head_width;
    if (config_.fused_attention[layer]) {
      Add(Role::kAttentionFused, layer, prefix + "mha.in_proj.weight", {query + 2 * key, d});
      Add(Role::kAttentionOutput, layer, prefix + "mha.out_proj.weight", {d, query});
      return;
    }
    const bool gguf = config_.layout == Layout::kGguf;
    const auto name = [&](const char* hf, const char* short_name, const char* what = ".weight") {
      return prefix + (gguf ? std::string(short_name) : "self_attn." + std::string(hf)) + what;
    };
    Add(Role::kAttentionQuery, layer, name("q_proj", "attn_q"), {query, d});
    Add(Role::kAttentionKey, layer, name("k_proj", "attn_k"), {key, d});
    Add(Role::kAttentionValue, layer, name("v_proj", "attn_v"), {key, d});
    Add(Role::kAttentionOutput, layer, name("o_proj", "attn_output"), {d, query});
    if (attention.bias) {
      Add(Role::kAttentionQueryBias, layer, name("q_proj", "attn_q", ".bias"), {query}, true);
      Add(Role::kAttentionKeyBias, layer, name("k_proj", "attn_k", ".bias"), {key}, true);
      Add(Role::kAttentionValueBias, layer, name("v_proj", "attn_v", ".bias"), {key}, true);
    }
    if (attention.output_bias)
      Add(Role::kAttentionOutputBias, layer, name("o_proj", "attn_output", ".bias"), {d}, true);
    if (attention.head_norm) {
      const int64_t width = attention.head_width;
      Add(Role::kAttentionQueryNorm, layer, name("q_norm", "attn_q_norm"), {width}, true);
      Add(Role::kAttentionKeyNorm, layer, name("k_norm", "attn_k_norm"), {width}, true);
    }
  }

  // `mixer.` in pure models, `mamba.` in hybrids, `ssm_` in GGUF files.
  std::string MixerName(const std::string& prefix, const char* hf, const char* gguf) const {
    if (config_.layout == Layout::kGguf) return prefix + gguf;
    return prefix + (config_.layout == Layout::kMambaInLlama ? "mamba." : "mixer.") + hf;
  }

  void Convolution(int layer, const std::string& prefix, int64_t channels, int64_t taps,
                   bool bias) {
    Add(Role::kConvolution, layer, MixerName(prefix, "conv1d.weight", "ssm_conv1d.weight"),
        {channels, 1, taps}, true);
    if (bias)
      Add(Role::kConvolutionBias, layer, MixerName(prefix, "conv1d.bias", "ssm_conv1d.bias"),
          {channels}, true);
  }

  void ProjectionBiases(int layer, const std::string& prefix, int64_t rows) {
    Add(Role::kMambaInBias, layer, MixerName(prefix, "in_proj.bias", "ssm_in.bias"), {rows}, true);
    Add(Role::kMambaOutBias, layer, MixerName(prefix, "out_proj.bias", "ssm_out.bias"),
        {config_.width}, true);
  }

  void Mamba(int layer, const std::string& prefix) {
    const MambaConfig& m = config_.mamba;
    const int64_t d = config_.width, inner = m.inner_width, n = m.state_size, r = m.dt_rank,
                  source = m.source_width;
    const auto name = [&](const char* hf, const char* gguf) { return MixerName(prefix, hf, gguf); };
    if (source == 0) {
      Add(Role::kMambaIn, layer, name("in_proj.weight", "ssm_in.weight"), {2 * inner, d});
      Add(Role::kMambaSelect, layer, name("x_proj.weight", "ssm_x.weight"), {r + 2 * n, inner});
    } else if (config_.fused_mamba[layer]) {
      Add(Role::kMambaIn, layer, name("in_proj.weight", ""), {2 * inner + 2 * source + r, d});
    } else {
      Add(Role::kMambaInZ, layer, name("in_proj_z.weight", ""), {inner, d});
      Add(Role::kMambaInX, layer, name("in_proj_x.weight", ""), {source, d});
      Add(Role::kMambaInB, layer, name("B_proj.weight", ""), {source, d});
      Add(Role::kMambaInC, layer, name("C_proj.weight", ""), {inner, d});
      Add(Role::kMambaInDt, layer, name("dt_proj_down.weight", ""), {r, d});
    }
    Convolution(layer, prefix, source > 0 && !m.repeat_before_convolution ? source : inner,
                m.convolution_width, m.convolution_bias);
    Add(Role::kMambaDt, layer, name("dt_proj.weight", "ssm_dt.weight"), {inner, r});
    Add(Role::kMambaDtBias, layer, name("dt_proj.bias", "ssm_dt.bias"), {inner}, true);
    Add(Role::kMambaALog, layer, name("A_log", "ssm_a"), {inner, n}, true);
    Add(Role::kMambaD, layer, name("D", "ssm_d"), {inner}, true);
    Add(Role::kMambaOut, layer, name("out_proj.weight", "ssm_out.weight"), {d, inner});
    if (m.projection_bias) ProjectionBiases(layer, prefix, 2 * inner);
  }

  void Mamba2(int layer, const std::string& prefix) {
    const Mamba2Config& m = config_.mamba2;
    const int64_t d = config_.width, inner = m.inner_width,
                  groups = int64_t{m.groups} * m.state_size;
    const int64_t x = m.source_width > 0 ? m.source_width : inner,
                  b = m.source_width > 0 ? m.source_width : groups;
    const bool repeated = m.source_width > 0 && m.repeat_before_convolution;
    const auto name = [&](const char* hf, const char* gguf) { return MixerName(prefix, hf, gguf); };
    Add(Role::kMamba2In, layer, name("in_proj.weight", "ssm_in.weight"),
        {inner + x + b + groups + m.heads, d});
    Convolution(layer, prefix, repeated ? inner + 2 * groups : x + b + groups, m.convolution_width,
                m.convolution_bias);
    Add(Role::kMamba2DtBias, layer, name("dt_bias", "ssm_dt.bias"), {m.heads}, true);
    Add(Role::kMambaALog, layer, name("A_log", "ssm_a"), {m.heads}, true);
    Add(Role::kMambaD, layer, name("D", "ssm_d"), {m.heads}, true);
    Add(Role::kMamba2Norm, layer, name("norm.weight", "ssm_norm.weight"), {inner}, true);
    Add(Role::kMambaOut, layer, name("out_proj.weight", "ssm_out.weight"), {d, inner});
    if (m.projection_bias) ProjectionBiases(layer, prefix, inner + x + b + groups + m.heads);
  }

  void Add(Role role, int layer, std::string name, std::vector<int64_t> shape,
           bool keep_float32 = false, bool optional = false) {
    parameters_.push_back({role, layer, std::move(name), std::move(shape), keep_float32, optional});
  }

  const ModelConfig& config_;
  std::vector<Parameter>& parameters_;
};

}  // namespace

ParameterTable::ParameterTable(const ModelConfig& config) {
  TableBuilder(config, &parameters_).Build();
}

const Parameter* ParameterTable::Find(Role role, int layer) const {
  for (const Parameter& parameter : parameters_) {
    if (parameter.role == role && parameter.layer == layer) return &parameter;
  }
  return nullptr;
}

const Parameter* ParameterTable::Find(const std::string& name) const {
  for (const Parameter& parameter : parameters_) {
    if (parameter.name == name) return &parameter;
  }
  return nullptr;
}

}  // namespace mambad::checkpoint
