// Whole models in GGUF files: llama.cpp's names, orders and signs against the same model in a
// directory.

#include "engine/checkpoint/gguf_checkpoint.h"

#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/dequantise.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/checkpoint/gguf_writer.h"
#include "tests/engine/checkpoint/test_directory.h"
#include "tests/support/checkpoint_writer.h"

namespace mambad::checkpoint {
namespace {

using support::NamedTensor;
using support::RandomModelOptions;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// What the published converter makes of a Hugging Face tensor.
struct Converted {
  std::string name;
  std::vector<uint64_t> dimensions;
  std::vector<float> values;
};

// Rows of each head from (first half, second half) to pairs.
std::vector<float> Interleave(const NamedTensor& tensor, int heads) {
  const int64_t rows = tensor.shape[0], width = rows / heads;
  const int64_t columns = tensor.shape.size() == 1 ? 1 : tensor.shape[1];
  std::vector<float> out;
  for (int64_t head = 0; head < heads; ++head) {
    for (int64_t pair = 0; pair < width / 2; ++pair) {
      for (int64_t half = 0; half < 2; ++half) {
        const auto row = tensor.values.begin() + (head * width + half * width / 2 + pair) * columns;
        out.insert(out.end(), row, row + columns);
      }
    }
  }
  return out;
}

const std::map<std::string, std::string>& LlamaNames() {
  static const auto& names = *new std::map<std::string, std::string>{
      {"self_attn.q_proj.weight", "attn_q.weight"},
      {"self_attn.k_proj.weight", "attn_k.weight"},
      {"self_attn.v_proj.weight", "attn_v.weight"},
      {"self_attn.o_proj.weight", "attn_output.weight"},
      {"self_attn.q_proj.bias", "attn_q.bias"},
      {"self_attn.k_proj.bias", "attn_k.bias"},
      {"self_attn.v_proj.bias", "attn_v.bias"},
      {"self_attn.o_proj.bias", "attn_output.bias"},
      {"self_attn.q_norm.weight", "attn_q_norm.weight"},
      {"self_attn.k_norm.weight", "attn_k_norm.weight"},
      {"mlp.gate_proj.bias", "ffn_gate.bias"},
      {"mlp.up_proj.bias", "ffn_up.bias"},
      {"mlp.down_proj.bias", "ffn_down.bias"},
      {"mlp.gate_proj.weight", "ffn_gate.weight"},
      {"mlp.up_proj.weight", "ffn_up.weight"},
      {"mlp.down_proj.weight", "ffn_down.weight"},
      {"input_layernorm.weight", "attn_norm.weight"},
      {"post_attention_layernorm.weight", "ffn_norm.weight"},
      {"norm.weight", "attn_norm.weight"},
      {"mixer.in_proj.weight", "ssm_in.weight"},
      {"mixer.conv1d.weight", "ssm_conv1d.weight"},
      {"mixer.conv1d.bias", "ssm_conv1d.bias"},
      {"mixer.x_proj.weight", "ssm_x.weight"},
      {"mixer.dt_proj.weight", "ssm_dt.weight"},
      {"mixer.dt_proj.bias", "ssm_dt.bias"},
      {"mixer.dt_bias", "ssm_dt.bias"},
      {"mixer.A_log", "ssm_a"},
      {"mixer.D", "ssm_d"},
      {"mixer.norm.weight", "ssm_norm.weight"},
      {"mixer.out_proj.weight", "ssm_out.weight"}};
  return names;
}

std::string GgufName(const std::string& name) {
  static const std::map<std::string, std::string> whole = {
      {"model.embed_tokens.weight", "token_embd.weight"},
      {"backbone.embeddings.weight", "token_embd.weight"},
      {"model.norm.weight", "output_norm.weight"},
      {"backbone.norm_f.weight", "output_norm.weight"},
      {"lm_head.weight", "output.weight"}};
  if (const auto it = whole.find(name); it != whole.end()) return it->second;
  const size_t number = name.find("layers.") + 7, dot = name.find('.', number);
  return absl::StrCat("blk.", name.substr(number, dot - number), ".",
                      LlamaNames().at(name.substr(dot + 1)));
}

std::vector<Converted> Convert(const RandomModelOptions& options) {
  std::vector<Converted> out;
  for (const NamedTensor& tensor : support::DrawTensors(options)) {
    Converted converted{GgufName(tensor.name), {}, tensor.values};
    std::vector<int64_t> shape = tensor.shape;
    const auto ends = [&](const char* ending) { return tensor.name.ends_with(ending); };
    // Of Llama alone: Qwen's rows stay as they are.
    const bool llama = options.model_type.empty();
    if (llama && (ends("q_proj.weight") || ends("q_proj.bias")))
      converted.values = Interleave(tensor, options.query_heads);
    if (llama && (ends("k_proj.weight") || ends("k_proj.bias")))
      converted.values = Interleave(tensor, options.key_value_heads);
    if (ends("A_log")) {
      for (float& value : converted.values) value = -std::exp(value);
    }
    if (ends("conv1d.weight")) shape = {shape[0], shape[2]};
    if (options.family == Family::kMamba2) {
      if (ends("A_log") || ends("mixer.D")) shape.push_back(1);
      if (ends("mixer.norm.weight")) shape = {options.groups, shape[0] / options.groups};
    }
    converted.dimensions.assign(shape.rbegin(), shape.rend());
    out.push_back(converted);
  }
  return out;
}

std::vector<std::string> Pieces(int count) {
  std::vector<std::string> pieces;
  for (int i = 0; i < count; ++i) pieces.push_back(absl::StrCat("t", i));
  return pieces;
}

GgufWriter Metadata(const RandomModelOptions& options) {
  GgufWriter writer;
  const auto number = [&](const std::string& key, int value) { writer.Number(key, value); };
  if (options.family == Family::kLlama) {
    const std::string architecture = options.model_type.empty() ? "llama" : options.model_type;
    writer.Text("general.architecture", architecture);
    number(architecture + ".block_count", options.layers);
    number(architecture + ".context_length", options.context_length);
    number(architecture + ".embedding_length", options.width);
    number(architecture + ".feed_forward_length", options.mlp_width);
    number(architecture + ".attention.head_count", options.query_heads);
    number(architecture + ".attention.head_count_kv", options.key_value_heads);
    if (architecture == "llama") {
      number("llama.rope.dimension_count", options.head_width);
    } else if (architecture == "qwen3") {
      number("qwen3.attention.key_length", options.head_width);
      number("qwen3.attention.value_length", options.head_width);
    }
    writer.Float(architecture + ".attention.layer_norm_rms_epsilon", 1e-5f);
    writer.Float(architecture + ".rope.freq_base", 50000);
  } else {
    const bool second = options.family == Family::kMamba2;
    const std::string architecture = second ? "mamba2" : "mamba";
    writer.Text("general.architecture", architecture);
    number(architecture + ".block_count", options.layers);
    number(architecture + ".context_length", 1 << 20);
    number(architecture + ".embedding_length", options.width);
    number(architecture + ".feed_forward_length", 0);
    number(architecture + ".attention.head_count", 0);
    number(architecture + ".ssm.conv_kernel", 4);
    number(architecture + ".ssm.inner_size", 2 * options.width);
    number(architecture + ".ssm.state_size", options.state_size);
    number(architecture + ".ssm.time_step_rank",
           second ? 2 * options.width / options.mamba2_head_width : (options.width + 15) / 16);
    if (second) number(architecture + ".ssm.group_count", options.groups);
    if (!second) writer.Flag("mamba.ssm.dt_b_c_rms", options.falcon);
    writer.Float(architecture + ".attention.layer_norm_rms_epsilon", 1e-5f);
  }
  writer.Text("tokenizer.ggml.model", "gpt2");
  writer.Texts("tokenizer.ggml.tokens", Pieces(options.vocabulary));
  return writer;
}

class GgufCheckpoint : public ::testing::Test {
 protected:
  absl::StatusOr<std::unique_ptr<const Checkpoint>> Open(const GgufWriter& writer) {
    directory_.Write("model.gguf", writer.Finish());
    return Checkpoint::Open(directory_ / "model.gguf");
  }
  void OpenAndCompare(const RandomModelOptions& options, std::unique_ptr<const Checkpoint>* opened);
  std::string Error(const GgufWriter& writer,
                    absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    const auto opened = Open(writer);
    EXPECT_EQ(opened.status().code(), code) << opened.status();
    EXPECT_THAT(std::string(opened.status().message()), HasSubstr("model.gguf"));
    return std::string(opened.status().message());
  }
  static GgufWriter WithTensors(GgufWriter writer, const RandomModelOptions& options) {
    for (const Converted& tensor : Convert(options)) {
      writer.Float32(tensor.name, tensor.dimensions, tensor.values);
    }
    return writer;
  }
  static GgufWriter Model(const RandomModelOptions& options) {
    return WithTensors(Metadata(options), options);
  }
  // The model with one tensor replaced by `change`.
  template <typename Change>
  static GgufWriter ModelWith(const RandomModelOptions& options, const std::string& name,
                              const Change& change) {
    GgufWriter writer = Metadata(options);
    for (Converted& tensor : Convert(options)) {
      if (tensor.name == name) {
        change(writer, tensor);
      } else {
        writer.Float32(tensor.name, tensor.dimensions, tensor.values);
      }
    }
    return writer;
  }

  static RandomModelOptions Llama() {
    RandomModelOptions options;
    options.layers = 2;
    options.rope_theta = 50000;
    return options;
  }
  static RandomModelOptions Mamba(Family family) {
    RandomModelOptions options;
    options.layers = 2;
    options.family = family;
    options.tied_head = true;
    return options;
  }

  TestDirectory directory_;
};

// Role by role the same numbers as the Hugging Face directory gives, up to the rounding of A.
void ExpectTheSame(const Checkpoint& gguf, const Checkpoint& directory) {
  size_t compared = 0;
  for (const Parameter& expected : directory.table().parameters()) {
    if (!directory.Has(expected)) continue;
    const Parameter* found = gguf.table().Find(expected.role, expected.layer);
    ASSERT_NE(found, nullptr) << expected.name;
    ASSERT_EQ(found->shape[0], expected.shape[0]) << expected.name;
    EXPECT_EQ(found->keep_float32, expected.keep_float32) << expected.name;
    int64_t columns = 1;
    for (size_t i = 1; i < expected.shape.size(); ++i) columns *= expected.shape[i];
    std::vector<float> a(expected.shape[0] * columns), b = a;
    std::vector<uint16_t> narrow(columns);
    directory.Read(expected, 0, expected.shape[0], absl::MakeSpan(a));
    // Rows one by one and in another order of calls.
    for (int64_t row = expected.shape[0] - 1; row >= 0; --row) {
      gguf.Read(*found, row, row + 1, absl::MakeSpan(b).subspan(row * columns, columns));
      gguf.ReadBFloat16(*found, row, row + 1, absl::MakeSpan(narrow));
      for (int64_t i = 0; i < columns; ++i)
        ASSERT_EQ(narrow[i], RoundToBFloat16(b[row * columns + i]));
    }
    std::vector<float> whole(b.size());
    gguf.Read(*found, 0, expected.shape[0], absl::MakeSpan(whole));
    EXPECT_EQ(whole, b) << expected.name;
    for (size_t i = 0; i < a.size(); ++i) {
      if (expected.role == Role::kMambaALog) {
        ASSERT_NEAR(a[i], b[i], 2e-7 * (1 + std::fabs(a[i]))) << expected.name << " " << i;
      } else {
        ASSERT_EQ(a[i], b[i]) << expected.name << " " << i;
      }
    }
    ++compared;
  }
  EXPECT_GT(compared, 10u);
}

// A model as a GGUF file, the same as in a directory.
void GgufCheckpoint::OpenAndCompare(const RandomModelOptions& options,
                                    std::unique_ptr<const Checkpoint>* opened) {
  auto gguf = Open(Model(options));
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  ASSERT_TRUE(support::SaveRandomCheckpoint(directory_ / "hf", options).ok());
  const auto hf = Checkpoint::Open(directory_ / "hf");
  ASSERT_TRUE(hf.ok()) << hf.status();
  ExpectTheSame(**gguf, **hf);
  *opened = *std::move(gguf);
}

TEST_F(GgufCheckpoint, LlamaIsTheSameModelAsItsDirectory) {
  for (bool tied : {false, true}) {
    RandomModelOptions options = Llama();
    options.tied_head = tied;
    std::unique_ptr<const Checkpoint> gguf;
    ASSERT_NO_FATAL_FAILURE(OpenAndCompare(options, &gguf));
    const ModelConfig& config = gguf->config();
    EXPECT_EQ(config.tied_head, tied);
    EXPECT_EQ(config.layout, Layout::kGguf);
    EXPECT_EQ(config.attention.rope.theta, 50000);
    EXPECT_EQ(config.attention.head_width, 16);
    EXPECT_EQ(config.attention.key_value_heads, 2);
    EXPECT_FLOAT_EQ(config.norm_epsilon, 1e-5);
    EXPECT_EQ(config.context_length, 4096);
    EXPECT_EQ(config.vocabulary, 101);
  }
}

TEST_F(GgufCheckpoint, Qwen2IsTheSameModelAsItsDirectory) {
  RandomModelOptions options = Llama();
  options.model_type = "qwen2";
  std::unique_ptr<const Checkpoint> gguf;
  ASSERT_NO_FATAL_FAILURE(OpenAndCompare(options, &gguf));
  EXPECT_TRUE(gguf->config().attention.bias);
  EXPECT_FALSE(gguf->config().attention.output_bias);
  EXPECT_FALSE(gguf->config().attention.head_norm);
}

TEST_F(GgufCheckpoint, Qwen3IsTheSameModelAsItsDirectory) {
  RandomModelOptions options = Llama();
  options.model_type = "qwen3";
  options.head_width = 24;
  std::unique_ptr<const Checkpoint> gguf;
  ASSERT_NO_FATAL_FAILURE(OpenAndCompare(options, &gguf));
  EXPECT_FALSE(gguf->config().attention.bias);
  EXPECT_TRUE(gguf->config().attention.head_norm);
  EXPECT_EQ(gguf->config().attention.head_width, 24);
}

TEST_F(GgufCheckpoint, LlamaWithBiasesIsTheSameModelAsItsDirectory) {
  RandomModelOptions options = Llama();
  options.attention_bias = options.mlp_bias = true;
  std::unique_ptr<const Checkpoint> gguf;
  ASSERT_NO_FATAL_FAILURE(OpenAndCompare(options, &gguf));
  EXPECT_TRUE(gguf->config().attention.output_bias);
}

TEST_F(GgufCheckpoint, FalconMambaIsTheSameModelAsItsDirectory) {
  RandomModelOptions options = Mamba(Family::kMamba);
  options.falcon = true;
  std::unique_ptr<const Checkpoint> gguf;
  ASSERT_NO_FATAL_FAILURE(OpenAndCompare(options, &gguf));
  EXPECT_TRUE(gguf->config().mamba.selection_norm);
  EXPECT_FLOAT_EQ(gguf->config().mamba.selection_norm_epsilon, 1e-5);
}

TEST_F(GgufCheckpoint, MambaIsTheSameModelAsItsDirectory) {
  const RandomModelOptions options = Mamba(Family::kMamba);
  std::unique_ptr<const Checkpoint> gguf;
  ASSERT_NO_FATAL_FAILURE(OpenAndCompare(options, &gguf));
  EXPECT_EQ(gguf->config().context_length, 0);
  EXPECT_EQ(gguf->config().mlp_width, 0);
  EXPECT_EQ(gguf->config().mamba.groups, 1);
}

TEST_F(GgufCheckpoint, Mamba2IsTheSameModelAsItsDirectory) {
  RandomModelOptions options = Mamba(Family::kMamba2);
  options.groups = 2;
  std::unique_ptr<const Checkpoint> gguf;
  ASSERT_NO_FATAL_FAILURE(OpenAndCompare(options, &gguf));
  EXPECT_EQ(gguf->config().mamba2.heads, 8);
  EXPECT_EQ(gguf->config().mamba2.groups, 2);
}

TEST_F(GgufCheckpoint, VectorsInBlocksAreRefused) {
  RandomModelOptions options = Llama();
  const auto in_blocks = [](GgufWriter& writer, const Converted& tensor) {
    writer.Tensor(tensor.name, tensor.dimensions, 8, std::string(68, '\0'));
  };
  EXPECT_THAT(Error(ModelWith(options, "blk.0.attn_norm.weight", in_blocks)),
              AllOf(HasSubstr("blk.0.attn_norm.weight"), HasSubstr("Q8_0")));
  // A matrix in blocks is fine.
  const auto quantised = Open(
      ModelWith(options, "blk.1.ffn_up.weight", [](GgufWriter& writer, const Converted& tensor) {
        writer.Tensor(tensor.name, tensor.dimensions, 8, std::string(96 * 68, '\0'));
      }));
  ASSERT_TRUE(quantised.ok()) << quantised.status();
  std::vector<float> row(64, 1);
  (*quantised)
      ->Read(*(*quantised)->table().Find("blk.1.ffn_up.weight"), 95, 96, absl::MakeSpan(row));
  EXPECT_EQ(row, std::vector<float>(64, 0));
}

TEST_F(GgufCheckpoint, DecayMustBeNegative) {
  for (float wrong : {0.5f, NAN}) {
    EXPECT_THAT(Error(ModelWith(Mamba(Family::kMamba), "blk.1.ssm_a",
                                [&](GgufWriter& writer, Converted& tensor) {
                                  tensor.values[77] = wrong;
                                  writer.Float32(tensor.name, tensor.dimensions, tensor.values);
                                })),
                AllOf(HasSubstr("blk.1.ssm_a"), HasSubstr("negative")));
  }
}

TEST_F(GgufCheckpoint, MissingExtraAndMisshapenTensors) {
  EXPECT_THAT(
      Error(ModelWith(Llama(), "blk.1.attn_k.weight", [](GgufWriter&, const Converted&) {})),
      AllOf(HasSubstr("blk.1.attn_k.weight"), HasSubstr("none found")));
  EXPECT_THAT(Error(ModelWith(Llama(), "blk.1.attn_k.weight",
                              [](GgufWriter& writer, const Converted& tensor) {
                                writer.Float32(tensor.name, {32, 64}, tensor.values);
                              })),
              AllOf(HasSubstr("[64, 32] found"), HasSubstr("[32, 64] expected")));
  GgufWriter extra = Model(Llama());
  extra.Float32("blk.0.attn_sinks.weight", {64}, std::vector<float>(64));
  EXPECT_THAT(Error(extra), HasSubstr("blk.0.attn_sinks.weight"));
  EXPECT_THAT(Error(ModelWith(Llama(), "token_embd.weight", [](GgufWriter&, const Converted&) {})),
              HasSubstr("token_embd.weight"));
}

// ---- scaled rotary frequencies -----------------------------------------------------------------

std::vector<float> Llama3Factors(double theta, int head_width, double factor, double context) {
  std::vector<float> factors;
  for (int i = 0; i < head_width / 2; ++i) {
    const double wavelength = 2 * M_PI * std::pow(theta, 2.0 * i / head_width);
    if (wavelength < context / 4) {
      factors.push_back(1);
    } else if (wavelength > context) {
      factors.push_back(static_cast<float>(factor));
    } else {
      const double smooth = (context / wavelength - 1) / 3;
      factors.push_back(static_cast<float>(1 / ((1 - smooth) / factor + smooth)));
    }
  }
  return factors;
}

TEST_F(GgufCheckpoint, Llama3ScalingIsReadFromItsFactors) {
  GgufWriter writer = Model(Llama());
  writer.Float32("rope_freqs.weight", {8}, Llama3Factors(50000, 16, 32, 8192));
  const auto opened = Open(writer);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const RopeConfig& rope = (*opened)->config().attention.rope;
  EXPECT_EQ(rope.scaling, RopeScalingKind::kLlama3);
  EXPECT_EQ(rope.factor, 32);
  EXPECT_EQ(rope.low_frequency_factor, 1);
  EXPECT_EQ(rope.high_frequency_factor, 4);
  EXPECT_EQ(rope.original_context, 8192);
}

TEST_F(GgufCheckpoint, OtherFactorsAreRefused) {
  std::vector<std::vector<float>> others = {Llama3Factors(50000, 16, 32, 4096),
                                            std::vector<float>(8, 4),
                                            std::vector<float>(8, 0),
                                            std::vector<float>(8, NAN),
                                            {1, 2}};
  for (const auto& factors : others) {
    GgufWriter writer = Model(Llama());
    writer.Float32("rope_freqs.weight", {factors.size()}, factors);
    EXPECT_THAT(Error(writer, absl::StatusCode::kUnimplemented), HasSubstr("rope_freqs.weight"));
  }
}

// ---- metadata ----------------------------------------------------------------------------------

TEST_F(GgufCheckpoint, LinearScaling) {
  GgufWriter writer = Model(Llama());
  writer.Text("llama.rope.scaling.type", "linear");
  writer.Float("llama.rope.scaling.factor", 4);
  const auto opened = Open(writer);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_EQ((*opened)->config().attention.rope.scaling, RopeScalingKind::kLinear);
  EXPECT_EQ((*opened)->config().attention.rope.factor, 4);
}

TEST_F(GgufCheckpoint, YarnScaling) {
  GgufWriter writer = Model(Llama());
  writer.Text("llama.rope.scaling.type", "yarn");
  writer.Float("llama.rope.scaling.factor", 4);
  writer.Number("llama.rope.scaling.original_context_length", 2048);
  writer.Float("llama.rope.scaling.attn_factor", 2);
  writer.Float("llama.rope.scaling.yarn_beta_fast", 24);
  const auto opened = Open(writer);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const RopeConfig& rope = (*opened)->config().attention.rope;
  EXPECT_EQ(rope.scaling, RopeScalingKind::kYarn);
  EXPECT_EQ(rope.factor, 4);
  EXPECT_EQ(rope.original_context, 2048);
  EXPECT_EQ((*opened)->config().context_length, 8192);
  EXPECT_EQ(rope.beta_fast, 24);
  EXPECT_EQ(rope.beta_slow, 1);
  EXPECT_DOUBLE_EQ(rope.attention_factor, 2 * (0.1 * std::log(4.0) + 1));
}

TEST_F(GgufCheckpoint, RefusesByName) {
  const auto refused = [&](const auto& change) {
    GgufWriter writer = Model(Llama());
    change(writer);
    return Error(writer, absl::StatusCode::kUnimplemented);
  };
  EXPECT_THAT(refused([](GgufWriter& w) { w.Text("llama.rope.scaling.type", "longrope"); }),
              HasSubstr("\"longrope\""));
  EXPECT_THAT(refused([](GgufWriter& w) { w.Float("llama.rope.scale_linear", 2); }),
              HasSubstr("scale_linear"));
  EXPECT_THAT(refused([](GgufWriter& w) { w.Number("llama.expert_count", 8); }),
              HasSubstr("expert_count"));
  EXPECT_THAT(refused([](GgufWriter& w) { w.Number("llama.attention.value_length", 8); }),
              HasSubstr("value_length"));
  GgufWriter other;
  other.Text("general.architecture", "rwkv6");
  EXPECT_THAT(Error(other, absl::StatusCode::kUnimplemented), HasSubstr("rwkv6"));
}

TEST_F(GgufCheckpoint, NumbersOutOfRangeNameTheKey) {
  const auto wrong = [&](const char* key, uint32_t value) {
    GgufWriter writer;
    writer.Text("general.architecture", "llama");
    const std::pair<const char*, uint32_t> numbers[] = {
        {"llama.block_count", 2},          {"llama.context_length", 64},
        {"llama.embedding_length", 64},    {"llama.feed_forward_length", 96},
        {"llama.attention.head_count", 4}, {"llama.attention.head_count_kv", 2}};
    for (const auto& [name, number] : numbers)
      writer.Number(name, std::string(name) == key ? value : number);
    writer.Float32("token_embd.weight", {64, 4}, std::vector<float>(256));
    return Error(writer);
  };
  for (const char* key : {"llama.block_count", "llama.context_length", "llama.embedding_length",
                          "llama.feed_forward_length", "llama.attention.head_count",
                          "llama.attention.head_count_kv"}) {
    EXPECT_THAT(wrong(key, 0), HasSubstr(key));
  }
  EXPECT_THAT(wrong("llama.block_count", 4000000000), HasSubstr("1024"));
  EXPECT_THAT(wrong("llama.attention.head_count_kv", 3), HasSubstr("key/value heads"));
}

TEST_F(GgufCheckpoint, TextSideIsHandedOn) {
  RandomModelOptions options = Llama();
  options.vocabulary = 104;  // rows; the tokens are fewer
  GgufWriter metadata = Metadata(Llama());
  metadata.Text("tokenizer.ggml.pre", "smollm");
  metadata.Texts("tokenizer.ggml.merges", {"a b", "ab c"});
  metadata.Numbers<float>("tokenizer.ggml.scores", kGgufFloat32, std::vector<float>(101, -0.5f));
  std::vector<int32_t> types(101, 1);
  types[100] = 3;
  metadata.Numbers<int32_t>("tokenizer.ggml.token_type", kGgufInt32, types);
  metadata.Number("tokenizer.ggml.bos_token_id", 1);
  metadata.Number("tokenizer.ggml.eos_token_id", 2);
  metadata.Number("tokenizer.ggml.eot_token_id", 100);
  metadata.Number("tokenizer.ggml.eom_token_id", 2);
  metadata.Number("tokenizer.ggml.unknown_token_id", 0);
  metadata.Flag("tokenizer.ggml.add_bos_token", false);
  metadata.Flag("tokenizer.ggml.add_space_prefix", true);
  metadata.Text("tokenizer.chat_template", "{{ messages }}");
  for (const Converted& tensor : Convert(options))
    metadata.Float32(tensor.name, tensor.dimensions, tensor.values);
  const auto opened = Open(metadata);
  ASSERT_TRUE(opened.ok()) << opened.status();
  const TextFiles& text = (*opened)->text();
  EXPECT_EQ(text.directory, "");
  EXPECT_EQ(text.tokenizer_model, "gpt2");
  EXPECT_EQ(text.pre_tokenizer, "smollm");
  EXPECT_EQ(text.pieces, Pieces(101));
  EXPECT_THAT(text.merges, ElementsAre("a b", "ab c"));
  EXPECT_EQ(text.scores, std::vector<float>(101, -0.5f));
  EXPECT_EQ(text.piece_types, types);
  EXPECT_EQ(text.bos_id, 1);
  EXPECT_EQ(text.eos_id, 2);
  EXPECT_EQ(text.unknown_id, 0);
  EXPECT_EQ(text.add_bos, false);
  EXPECT_EQ(text.add_eos, std::nullopt);
  EXPECT_EQ(text.add_space_prefix, true);
  EXPECT_EQ(text.chat_template, "{{ messages }}");
  EXPECT_THAT((*opened)->config().eos_ids, ElementsAre(2, 100));
  EXPECT_EQ((*opened)->config().vocabulary, 101);
  EXPECT_EQ((*opened)->config().padded_vocabulary, 104);
}

TEST_F(GgufCheckpoint, OddTextSidesServe) {
  GgufWriter metadata = Model(Llama());
  metadata.Number("tokenizer.ggml.eos_token_id", 101);
  metadata.Number("tokenizer.ggml.bos_token_id", 0xFFFFFFFF);
  std::vector<uint8_t> types(102, 1);
  types[3] = 0;
  types[4] = 77;
  metadata.Numbers<uint8_t>("tokenizer.ggml.token_type", kGgufUint8, types);
  metadata.Numbers<int32_t>("tokenizer.ggml.scores", kGgufInt32, std::vector<int32_t>(101, -2));
  const auto opened = Open(metadata);
  ASSERT_TRUE(opened.ok()) << opened.status();
  EXPECT_THAT((*opened)->config().eos_ids, ::testing::IsEmpty());
  EXPECT_EQ((*opened)->text().bos_id, -1);
  EXPECT_EQ((*opened)->text().piece_types, std::vector<int32_t>(101, 1));
  EXPECT_EQ((*opened)->text().scores, std::vector<float>(101, -2.0f));
  EXPECT_THAT((*opened)->config().warnings,
              ElementsAre(HasSubstr("tokenizer.ggml.bos_token_id: 4294967295"),
                          HasSubstr("tokenizer.ggml.eos_token_id: 101")));
}

TEST_F(GgufCheckpoint, TextSideIsChecked) {
  const auto wrong = [&](const auto& change) {
    GgufWriter writer = Model(Llama());
    change(writer);
    return Error(writer);
  };
  EXPECT_THAT(wrong([](GgufWriter& w) { w.Text("tokenizer.ggml.bos_token_id", "x"); }),
              HasSubstr("bos_token_id"));
  EXPECT_THAT(wrong([](GgufWriter& w) {
                w.Numbers<int32_t>("tokenizer.ggml.token_type", kGgufInt32, {7});
              }),
              HasSubstr("token_type"));
  EXPECT_THAT(wrong([](GgufWriter& w) { w.Number("tokenizer.ggml.merges", 7); }),
              HasSubstr("merges"));
  RandomModelOptions options = Llama();
  options.vocabulary = 64;
  GgufWriter more = Metadata(Llama());
  for (const Converted& tensor : Convert(options))
    more.Float32(tensor.name, tensor.dimensions, tensor.values);
  EXPECT_THAT(Error(more), AllOf(HasSubstr("101 tokens"), HasSubstr("64 rows")));
}

}  // namespace
}  // namespace mambad::checkpoint
