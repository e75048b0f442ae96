#include "tests/support/oracle.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "tests/support/oracle_files.h"
#include "tests/support/oracle_mixers.h"

namespace mambad::oracle {
namespace {

using nlohmann::json;

// h += mixer(norm(h)), then in Llama-like models h += W_down(SiLU(W_gate u) W_up u), u = norm(h).
struct Block {
  RmsNorm mixer_norm;
  std::unique_ptr<Mixer> mixer;
  bool has_mlp = false;
  RmsNorm mlp_norm;
  Product gate, up, down;
};

class WholeModel final : public Oracle {
 public:
  std::vector<std::vector<double>> Logits(absl::Span<const int32_t> tokens) const override {
    Rows residual;
    for (const int32_t token : tokens) residual.push_back(embedding.WeightRow(token));
    for (const Block& block : blocks) {
      Rows normed;
      for (const Row& row : residual) normed.push_back(block.mixer_norm(row));
      const Rows mixed = (*block.mixer)(normed);
      for (size_t t = 0; t < residual.size(); ++t) {
        Add(residual[t], mixed[t]);
        if (block.has_mlp) Add(residual[t], Mlp(block, block.mlp_norm(residual[t])));
      }
    }
    Rows logits;
    for (const Row& row : residual) logits.push_back(head(final_norm(row)));
    return logits;
  }

  Product embedding, head;
  std::vector<Block> blocks;
  RmsNorm final_norm;

 private:
  static void Add(Row& to, const Row& from) {
    for (size_t i = 0; i < to.size(); ++i) to[i] += from[i];
  }
  static Row Mlp(const Block& block, const Row& u) {
    Row hidden = block.gate(u);
    const Row up = block.up(u);
    for (size_t i = 0; i < hidden.size(); ++i) hidden[i] = Silu(hidden[i]) * up[i];
    return block.down(hidden);
  }
};

template <typename T>
T Get(const json& object, const char* key, T otherwise) {
  return object.contains(key) && !object[key].is_null() ? object[key].get<T>() : otherwise;
}

// Lower and upper limit of dt. Newer files write an infinite one as {"__float__": "Infinity"}.
void ReadLimits(const json& numbers, const char* key, Mamba2& mamba) {
  if (!numbers.contains(key)) return;
  mamba.dt_minimum = numbers[key][0];
  mamba.dt_maximum = numbers[key][1].is_object() ? 1e308 : numbers[key][1].get<double>();
}

// Reads a directory; the first error is kept and later steps become harmless.
class Reader {
 public:
  Reader(TensorFiles files, json config, json hybrid, const OracleOptions& options)
      : files_(std::move(files)),
        config_(std::move(config)),
        hybrid_(std::move(hybrid)),
        options_(options) {}

  absl::StatusOr<std::unique_ptr<const Oracle>> Read();

 private:
  void ReadLlama();
  void ReadStandard(bool hugging_face, bool second);
  std::unique_ptr<Attention> ReadAttention(int layer, const std::string& prefix, bool fused);
  std::unique_ptr<Mixer> ReadHybridMamba(const std::string& prefix);
  std::unique_ptr<Mixer> ReadHybridMamba2(const std::string& prefix);
  std::unique_ptr<Mixer> ReadMamba(const std::string& prefix, const json& numbers,
                                   bool hugging_face);
  std::unique_ptr<Mixer> ReadMamba2(const std::string& prefix, const json& numbers,
                                    bool hugging_face);
  void ReadRotation(bool scaled, Attention& attention);
  void ReadBiases(const std::string& prefix, Attention& attention);
  int64_t Window(int layer) const;

  std::vector<double> Values(const std::string& name, const std::vector<int64_t>& shape) {
    auto tensor = files_.Take(name, shape);
    if (tensor.ok()) return std::move(tensor->values);
    status_.Update(tensor.status());
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    return std::vector<double>(count, 0);
  }
  Product Biased(const std::string& name, int64_t rows, int64_t columns, bool biased) {
    Product product = Matrix(name + ".weight", rows, columns);
    if (biased) product.SetBias(Values(name + ".bias", {rows}));
    return product;
  }
  Product Matrix(const std::string& name, int64_t rows, int64_t columns) {
    return Product(Tensor{{rows, columns}, Values(name, {rows, columns})}, options_);
  }
  RmsNorm Norm(const std::string& name, int64_t width, double epsilon) {
    return {Values(name, {width}), epsilon};
  }
  Convolution ReadConvolution(const std::string& prefix, int channels, int taps, bool biased) {
    Convolution convolution{
        channels, taps, Values(prefix + "conv1d.weight", {channels, 1, taps}), {}};
    if (biased) convolution.bias = Values(prefix + "conv1d.bias", {channels});
    return convolution;
  }
  void ReadHead(int vocabulary, int width, const std::string& embedding, bool tied) {
    model_->embedding = Matrix(embedding, vocabulary, width);
    model_->head = tied ? model_->embedding : Matrix("lm_head.weight", vocabulary, width);
    if (tied) files_.Ignore("lm_head.weight");
  }

  TensorFiles files_;
  json config_, hybrid_;
  OracleOptions options_;
  absl::Status status_;
  std::unique_ptr<WholeModel> model_ = std::make_unique<WholeModel>();
};

// YaRN: what share of its own frequency dimension i keeps. `turns` are counted within the original
// context; beta_fast of them and more keep all, beta_slow of them and fewer nothing.
double YarnShare(const json& rope, double theta, double context, int head_width, int i) {
  const auto place = [&](double turns) {  // context theta^(-2 place / hd) = 2 pi turns
    return head_width / 2.0 * std::log(context / (2 * M_PI * turns)) / std::log(theta);
  };
  double first = place(Get(rope, "beta_fast", 32.0)), last = place(Get(rope, "beta_slow", 1.0));
  if (Get(rope, "truncate", true)) first = std::floor(first), last = std::ceil(last);
  first = std::max(0.0, first), last = std::min(head_width - 1.0, last);
  if (first == last) last += 0.001;
  return std::clamp((last - i) / (last - first), 0.0, 1.0);
}

// theta^(-2i/hd), then the scaling where the layer uses it.
void Reader::ReadRotation(bool scaled, Attention& attention) {
  const int head_width = attention.head_width;
  json rope = config_.contains("rope_parameters") ? config_["rope_parameters"] : json();
  const double theta = rope.is_object() && rope.contains("rope_theta")
                           ? rope["rope_theta"].get<double>()
                           : Get(config_, "rope_theta", 10000.0);
  if (!rope.is_object() && config_.contains("rope_scaling")) rope = config_["rope_scaling"];
  if (!rope.is_object() || !scaled) rope = json::object();
  const std::string type =
      Get<std::string>(rope, "rope_type", Get<std::string>(rope, "type", "default"));
  const double factor = Get(rope, "factor", 1.0), low = Get(rope, "low_freq_factor", 1.0);
  const double high = Get(rope, "high_freq_factor", 4.0),
               context = Get(rope, "original_max_position_embeddings",
                             Get(config_, "max_position_embeddings", 8192.0));
  if (type == "yarn") {
    attention.rotation_scale =
        Get(rope, "attention_factor", factor > 1 ? 0.1 * std::log(factor) + 1 : 1.0);
  } else if (type == "dynamic") {
    attention.original_context = config_["max_position_embeddings"];
    attention.growth_factor = factor;
  }
  for (int i = 0; i < head_width / 2; ++i) {
    double frequency = std::pow(theta, -2.0 * i / head_width);
    if (type == "linear") {
      frequency /= factor;
    } else if (type == "llama3") {
      const double turns = context * frequency / (2 * M_PI);  // within the original context
      const double keep = std::clamp((turns - low) / (high - low), 0.0, 1.0);
      frequency = (1 - keep) * frequency / factor + keep * frequency;
    } else if (type == "yarn") {
      const double share = YarnShare(rope, theta, context, head_width, i);
      frequency *= share + (1 - share) / factor;
    } else if (type != "default" && type != "dynamic") {
      status_.Update(absl::UnimplementedError(absl::StrCat("oracle: rope type ", type)));
    }
    attention.inverse_frequency.push_back(frequency);
  }
}

// Of the layer; 0: none.
int64_t Reader::Window(int layer) const {
  const std::string type = config_["model_type"];
  if (type == "llama") return 0;
  const int64_t window = Get<int64_t>(config_, "sliding_window", 0);
  if (type == "mistral") return window;
  if (!Get(config_, "use_sliding_window", false)) return 0;
  if (config_.contains("layer_types")) {
    return config_["layer_types"][layer] == "sliding_attention" ? window : 0;
  }
  return layer >= Get(config_, "max_window_layers", 28) ? window : 0;
}

// Qwen2 has them on q, k and v, others on all four or none.
void Reader::ReadBiases(const std::string& prefix, Attention& attention) {
  const bool qwen2 = config_["model_type"] == "qwen2", all = Get(config_, "attention_bias", false);
  if (!qwen2 && !all) return;
  attention.query.SetBias(Values(prefix + "q_proj.bias", {attention.query.rows()}));
  attention.key.SetBias(Values(prefix + "k_proj.bias", {attention.key.rows()}));
  attention.value.SetBias(Values(prefix + "v_proj.bias", {attention.value.rows()}));
  if (!qwen2) attention.output.SetBias(Values(prefix + "o_proj.bias", {attention.output.rows()}));
}

std::unique_ptr<Attention> Reader::ReadAttention(int layer, const std::string& prefix, bool fused) {
  auto attention = std::make_unique<Attention>();
  const int width = config_["hidden_size"];
  const int heads = config_["num_attention_heads"],
            sources = Get(config_, "num_key_value_heads", heads);
  const int head_width = Get(config_, "head_dim", width / heads);
  attention->query_heads = heads;
  attention->key_value_heads = sources;
  attention->head_width = head_width;
  attention->window = Window(layer);
  ReadRotation(!fused, *attention);
  attention->fused = fused;
  if (fused) {
    attention->in =
        Matrix(prefix + "mha.in_proj.weight", (heads + 2 * sources) * head_width, width);
    attention->output = Matrix(prefix + "mha.out_proj.weight", width, heads * head_width);
    return attention;
  }
  attention->query = Matrix(prefix + "self_attn.q_proj.weight", heads * head_width, width);
  attention->key = Matrix(prefix + "self_attn.k_proj.weight", sources * head_width, width);
  attention->value = Matrix(prefix + "self_attn.v_proj.weight", sources * head_width, width);
  attention->output = Matrix(prefix + "self_attn.o_proj.weight", width, heads * head_width);
  ReadBiases(prefix + "self_attn.", *attention);
  if (config_["model_type"] == "qwen3") {
    const double epsilon = Get(config_, "rms_norm_eps", 1e-6);
    attention->norms_heads = true;
    attention->query_norm = Norm(prefix + "self_attn.q_norm.weight", head_width, epsilon);
    attention->key_norm = Norm(prefix + "self_attn.k_norm.weight", head_width, epsilon);
  }
  return attention;
}

std::unique_ptr<Mixer> Reader::ReadHybridMamba(const std::string& layer) {
  auto mamba = std::make_unique<Mamba>();
  const json numbers = hybrid_["ssm_cfg"];
  const std::string prefix = layer + "mamba.";
  const int width = config_["hidden_size"], source = hybrid_["d_xb"],
            state = Get(numbers, "d_state", 16);
  const int inner = Get(hybrid_, "d_inner", Get(numbers, "expand", 2) * width);
  const int rank = numbers.contains("dt_rank") && numbers["dt_rank"].is_number()
                       ? numbers["dt_rank"].get<int>()
                       : (width + 15) / 16;
  mamba->inner = inner, mamba->state = state, mamba->rank = rank, mamba->source_width = source;
  mamba->repeat_before_convolution = Get(numbers, "repeat_kv_before_conv", true);
  mamba->fused = files_.Has(prefix + "in_proj.weight");
  if (mamba->fused) {
    mamba->in = Matrix(prefix + "in_proj.weight", 2 * inner + 2 * source + rank, width);
  } else {
    mamba->in_z = Matrix(prefix + "in_proj_z.weight", inner, width);
    mamba->in_x = Matrix(prefix + "in_proj_x.weight", source, width);
    mamba->in_b = Matrix(prefix + "B_proj.weight", source, width);
    mamba->in_c = Matrix(prefix + "C_proj.weight", inner, width);
    mamba->in_dt = Matrix(prefix + "dt_proj_down.weight", rank, width);
  }
  mamba->dt = Matrix(prefix + "dt_proj.weight", inner, rank);
  mamba->dt_bias = Values(prefix + "dt_proj.bias", {inner});
  // The released weights were trained with the bias inside dt_proj and added once more by the scan.
  if (Get(hybrid_, "dt_bias_applied", 0) != 1) {
    for (double& bias : mamba->dt_bias) bias *= 2;
  }
  mamba->convolution = ReadConvolution(prefix, mamba->repeat_before_convolution ? inner : source,
                                       Get(numbers, "d_conv", 4), Get(numbers, "conv_bias", true));
  mamba->a_log = Values(prefix + "A_log", {inner, state});
  mamba->skip = Values(prefix + "D", {inner});
  mamba->out = Matrix(prefix + "out_proj.weight", width, inner);
  return mamba;
}

std::unique_ptr<Mixer> Reader::ReadHybridMamba2(const std::string& layer) {
  auto mamba = std::make_unique<Mamba2>();
  const json numbers = hybrid_["ssm_cfg"];
  const std::string prefix = layer + "mamba.";
  const int width = config_["hidden_size"], source = hybrid_["d_xb"],
            state = Get(numbers, "d_state", 128);
  const int inner = Get(hybrid_, "d_inner", Get(numbers, "expand", 2) * width);
  const int heads = inner / state;
  mamba->inner = inner, mamba->state = state, mamba->heads = heads, mamba->groups = heads;
  mamba->source_width = source;
  mamba->repeat_before_convolution = Get(numbers, "repeat_kv_before_conv", false);
  ReadLimits(numbers, "dt_limit", *mamba);
  mamba->in = Matrix(prefix + "in_proj.weight", 2 * inner + 2 * source + heads, width);
  mamba->convolution =
      ReadConvolution(prefix, mamba->repeat_before_convolution ? 3 * inner : inner + 2 * source,
                      Get(numbers, "d_conv", 4), Get(numbers, "conv_bias", true));
  mamba->dt_bias = Values(prefix + "dt_bias", {heads});
  mamba->a_log = Values(prefix + "A_log", {heads});
  mamba->skip = Values(prefix + "D", {heads});
  mamba->norm = Norm(prefix + "norm.weight", inner, 1e-5);
  mamba->out = Matrix(prefix + "out_proj.weight", width, inner);
  return mamba;
}

void Reader::ReadLlama() {
  const int width = config_["hidden_size"], mlp_width = config_["intermediate_size"],
            layers = config_["num_hidden_layers"];
  const double epsilon = Get(config_, "rms_norm_eps", 1e-6);
  const std::vector<int> attention_layers = Get(hybrid_, "attn_layers", std::vector<int>());
  ReadHead(config_["vocab_size"], width, "model.embed_tokens.weight",
           Get(config_, "tie_word_embeddings", false));
  for (int i = 0; i < layers; ++i) {
    const std::string prefix = absl::StrCat("model.layers.", i, ".");
    const bool recurrent =
        hybrid_.is_object() &&
        std::find(attention_layers.begin(), attention_layers.end(), i) == attention_layers.end();
    Block block;
    const double block_epsilon = recurrent ? Get(hybrid_, "rms_norm_eps", 1e-5) : epsilon;
    block.mixer_norm = Norm(prefix + "input_layernorm.weight", width, block_epsilon);
    if (!recurrent) {
      block.mixer = ReadAttention(i, prefix, files_.Has(prefix + "mha.in_proj.weight"));
    } else if (files_.Has(prefix + "mamba.dt_bias")) {
      block.mixer = ReadHybridMamba2(prefix);
    } else {
      block.mixer = ReadHybridMamba(prefix);
    }
    block.has_mlp = true;
    block.mlp_norm = Norm(prefix + "post_attention_layernorm.weight", width, block_epsilon);
    const bool biased = Get(config_, "mlp_bias", false);
    block.gate = Biased(prefix + "mlp.gate_proj", mlp_width, width, biased);
    block.up = Biased(prefix + "mlp.up_proj", mlp_width, width, biased);
    block.down = Biased(prefix + "mlp.down_proj", width, mlp_width, biased);
    model_->blocks.push_back(std::move(block));
  }
  model_->final_norm = Norm("model.norm.weight", width, epsilon);
}

std::unique_ptr<Mixer> Reader::ReadMamba(const std::string& prefix, const json& numbers,
                                         bool hugging_face) {
  auto mamba = std::make_unique<Mamba>();
  const int width = hugging_face ? numbers["hidden_size"] : config_["d_model"];
  const int inner = Get(numbers, "expand", 2) * width,
            state = Get(numbers, hugging_face ? "state_size" : "d_state", 16);
  const char* rank_key = hugging_face ? "time_step_rank" : "dt_rank";
  const int rank = numbers.contains(rank_key) && numbers[rank_key].is_number()
                       ? numbers[rank_key].get<int>()
                       : (width + 15) / 16;
  mamba->inner = inner, mamba->state = state, mamba->rank = rank;
  const bool biased = hugging_face && Get(numbers, "use_bias", false);
  mamba->norms_selection = Get<std::string>(config_, "model_type", "") == "falcon_mamba";
  mamba->selection_epsilon = Get(config_, "mixer_rms_eps", 1e-6);
  mamba->in = Biased(prefix + "in_proj", 2 * inner, width, biased);
  mamba->select = Matrix(prefix + "x_proj.weight", rank + 2 * state, inner);
  mamba->dt = Matrix(prefix + "dt_proj.weight", inner, rank);
  mamba->dt_bias = Values(prefix + "dt_proj.bias", {inner});
  mamba->convolution =
      ReadConvolution(prefix, inner, Get(numbers, hugging_face ? "conv_kernel" : "d_conv", 4),
                      Get(numbers, hugging_face ? "use_conv_bias" : "conv_bias", true));
  mamba->a_log = Values(prefix + "A_log", {inner, state});
  mamba->skip = Values(prefix + "D", {inner});
  mamba->out = Biased(prefix + "out_proj", width, inner, biased);
  return mamba;
}

std::unique_ptr<Mixer> Reader::ReadMamba2(const std::string& prefix, const json& numbers,
                                          bool hugging_face) {
  auto mamba = std::make_unique<Mamba2>();
  const int width = hugging_face ? numbers["hidden_size"] : config_["d_model"];
  const int inner = Get(numbers, "expand", 2) * width,
            state = Get(numbers, hugging_face ? "state_size" : "d_state", 128);
  const int heads = inner / Get(numbers, hugging_face ? "head_dim" : "headdim", 64);
  const int groups = Get(numbers, hugging_face ? "n_groups" : "ngroups", hugging_face ? 8 : 1);
  mamba->inner = inner, mamba->state = state, mamba->heads = heads, mamba->groups = groups;
  ReadLimits(numbers, hugging_face ? "time_step_limit" : "dt_limit", *mamba);
  const bool biased = hugging_face && Get(numbers, "use_bias", false);
  mamba->in = Biased(prefix + "in_proj", 2 * inner + 2 * groups * state + heads, width, biased);
  mamba->convolution = ReadConvolution(
      prefix, inner + 2 * groups * state, Get(numbers, hugging_face ? "conv_kernel" : "d_conv", 4),
      Get(numbers, hugging_face ? "use_conv_bias" : "conv_bias", true));
  mamba->dt_bias = Values(prefix + "dt_bias", {heads});
  mamba->a_log = Values(prefix + "A_log", {heads});
  mamba->skip = Values(prefix + "D", {heads});
  mamba->norm = Norm(prefix + "norm.weight", inner,
                     hugging_face ? Get(config_, "layer_norm_epsilon", 1e-5) : 1e-5);
  mamba->out = Biased(prefix + "out_proj", width, inner, biased);
  return mamba;
}

void Reader::ReadStandard(bool hugging_face, bool second) {
  const json numbers = hugging_face ? config_ : Get(config_, "ssm_cfg", json::object());
  const int width = config_[hugging_face ? "hidden_size" : "d_model"];
  const int layers = config_[hugging_face ? "num_hidden_layers" : "n_layer"];
  const double epsilon = hugging_face ? Get(config_, "layer_norm_epsilon", 1e-5) : 1e-5;
  int vocabulary = config_["vocab_size"];
  if (!hugging_face) {
    const int multiple = Get(config_, "pad_vocab_size_multiple", 8);
    vocabulary = (vocabulary + multiple - 1) / multiple * multiple;
  }
  const bool tied = hugging_face ? Get(config_, "tie_word_embeddings", !second)
                                 : Get(config_, "tie_embeddings", true);
  ReadHead(vocabulary, width,
           hugging_face ? "backbone.embeddings.weight" : "backbone.embedding.weight", tied);
  for (int i = 0; i < layers; ++i) {
    const std::string prefix = absl::StrCat("backbone.layers.", i, ".");
    Block block;
    block.mixer_norm = Norm(prefix + "norm.weight", width, epsilon);
    block.mixer = second ? ReadMamba2(prefix + "mixer.", numbers, hugging_face)
                         : ReadMamba(prefix + "mixer.", numbers, hugging_face);
    model_->blocks.push_back(std::move(block));
  }
  model_->final_norm = Norm("backbone.norm_f.weight", width, epsilon);
}

absl::StatusOr<std::unique_ptr<const Oracle>> Reader::Read() {
  const std::string type = Get<std::string>(config_, "model_type", "");
  if (type == "llama" || type == "mistral" || type == "qwen2" || type == "qwen3") {
    ReadLlama();
  } else if (type == "mamba" || type == "falcon_mamba" || type == "mamba2") {
    ReadStandard(true, type == "mamba2");
  } else if (config_.contains("d_model") && config_.contains("n_layer")) {
    ReadStandard(false, Get<std::string>(Get(config_, "ssm_cfg", json::object()), "layer",
                                         "Mamba1") == "Mamba2");
  } else {
    return absl::InvalidArgumentError(absl::StrCat("oracle: model_type ", type));
  }
  status_.Update(files_.CheckAllTaken());
  if (!status_.ok()) return status_;
  return std::unique_ptr<const Oracle>(std::move(model_));
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Oracle>> Oracle::Open(const std::string& directory,
                                                           const OracleOptions& options) {
  auto files = TensorFiles::Read(directory);
  if (!files.ok()) return files.status();
  auto config = ReadJsonFile(directory + "/config.json");
  if (!config.ok()) return config.status();
  json hybrid;
  if (FileExists(directory + "/mamba_config.json")) {
    auto read = ReadJsonFile(directory + "/mamba_config.json");
    if (!read.ok()) return read.status();
    hybrid = *std::move(read);
  }
  return Reader(*std::move(files), *std::move(config), std::move(hybrid), options).Read();
}

Oracle::Continuation Oracle::Greedy(absl::Span<const int32_t> prompt, int count,
                                    int vocabulary) const {
  std::vector<int32_t> tokens(prompt.begin(), prompt.end());
  Continuation result;
  result.smallest_gap = INFINITY;
  for (int i = 0; i < count; ++i) {
    const std::vector<double> logits = Logits(tokens).back();
    const auto best = std::max_element(logits.begin(), logits.begin() + vocabulary);
    for (auto other = logits.begin(); other != logits.begin() + vocabulary; ++other) {
      if (other != best) result.smallest_gap = std::min(result.smallest_gap, *best - *other);
    }
    tokens.push_back(static_cast<int32_t>(best - logits.begin()));
    result.tokens.push_back(tokens.back());
  }
  return result;
}

}  // namespace mambad::oracle
