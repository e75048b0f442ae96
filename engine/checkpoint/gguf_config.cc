#include "engine/checkpoint/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/config_sections.h"
#include "engine/checkpoint/dequantise.h"
#include "engine/checkpoint/error_text.h"
#include "engine/checkpoint/model_config_reader.h"

namespace mambad::checkpoint {
namespace {

class Reader {
 public:
  Reader(const std::string& source, const GgufFile& file, ModelConfig& config, TextFiles& text)
      : source_(source), file_(file), config_(config), text_(text) {}

  absl::Status Read() {
    architecture_ = Text("general.architecture").value_or("");
    config_.layout = Layout::kGguf;
    ReadTokenizer();
    if (architecture_ == "llama") {
      ReadLlama();
    } else if (architecture_ == "mamba") {
      ReadMamba();
    } else if (architecture_ == "mamba2") {
      ReadMamba2();
    } else if (status_.ok()) {
      return absl::UnimplementedError(
          absl::StrCat(source_, ": general.architecture ", Quoted(architecture_),
                       " is not implemented; llama, mamba and mamba2 are"));
    }
    config_.tied_head = !file_.tensors.contains("output.weight");
    if (!status_.ok()) return status_;
    return CheckModelConfig(source_, config_);
  }

 private:
  const GgufValue* Find(const std::string& key) const {
    const auto it = file_.metadata.find(key);
    return it == file_.metadata.end() ? nullptr : &it->second;
  }
  void FailType(const std::string& key, const char* expected) {
    Fail(absl::StrCat(key, ": ", GgufValueKind(*Find(key)), " found, ", expected, " expected"));
  }
  std::optional<std::string> Text(const std::string& key) {
    const GgufValue* value = Find(key);
    if (value == nullptr) return std::nullopt;
    if (const auto* text = std::get_if<std::string>(value)) return *text;
    FailType(key, "a text");
    return std::nullopt;
  }
  std::vector<std::string> Texts(const std::string& key) {
    const GgufValue* value = Find(key);
    if (value == nullptr) return {};
    if (const auto* texts = std::get_if<std::vector<std::string>>(value)) return *texts;
    const auto numbers = GgufNumbers(*value);  // an empty list has some type or other
    if (!numbers.has_value() || !numbers->empty()) FailType(key, "a list of texts");
    return {};
  }
  std::vector<double> Numbers(const std::string& key) {
    const GgufValue* value = Find(key);
    if (value == nullptr) return {};
    std::optional<std::vector<double>> numbers = GgufNumbers(*value);
    if (!numbers.has_value()) FailType(key, "a list of numbers");
    return std::move(numbers).value_or(std::vector<double>());
  }
  // Writers keep a number in whatever type they please, and one for all layers as a list of equal
  // ones.
  std::optional<double> AnyNumber(const std::string& key) {
    const GgufValue* value = Find(key);
    if (value == nullptr) return std::nullopt;
    if (const std::optional<double> number = GgufNumber(*value)) return number;
    const std::optional<std::vector<double>> list = GgufNumbers(*value);
    if (!list.has_value() || list->empty()) {
      FailType(key, "a number");
      return std::nullopt;
    }
    if (std::any_of(list->begin(), list->end(), [&](double n) { return n != list->front(); })) {
      Refuse(absl::StrCat(key, ": other numbers for other layers"));
      return std::nullopt;
    }
    return list->front();
  }
  std::optional<int64_t> Integer(const std::string& key, int64_t low, int64_t high) {
    const std::optional<double> value = AnyNumber(key);
    if (!value.has_value()) return std::nullopt;
    if (!(*value >= static_cast<double>(low) && *value <= static_cast<double>(high)) ||
        std::floor(*value) != *value) {
      Fail(absl::StrCat(key, ": ", *value, " found, a whole number from ", low, " to ", high,
                        " expected"));
      return std::nullopt;
    }
    return static_cast<int64_t>(*value);
  }
  int64_t Required(const std::string& suffix, int64_t low, int64_t high) {
    const std::string key = absl::StrCat(architecture_, ".", suffix);
    if (!file_.metadata.contains(key)) Fail(absl::StrCat(key, ": missing"));
    return Integer(key, low, high).value_or(low);
  }
  std::optional<int64_t> Optional(const std::string& suffix, int64_t low, int64_t high) {
    return Integer(absl::StrCat(architecture_, ".", suffix), low, high);
  }
  double Number(const std::string& suffix, double low, double high, double absent) {
    const std::string key = absl::StrCat(architecture_, ".", suffix);
    const std::optional<double> value = AnyNumber(key);
    if (!value.has_value()) return absent;
    if (!(*value >= low && *value <= high))
      Fail(absl::StrCat(key, ": ", *value, " found, ", low, " to ", high, " expected"));
    return *value;
  }
  void Fail(const std::string& message) {
    if (status_.ok()) status_ = absl::InvalidArgumentError(absl::StrCat(source_, ": ", message));
  }
  void Refuse(const std::string& message) {
    if (status_.ok())
      status_ =
          absl::UnimplementedError(absl::StrCat(source_, ": ", message, " is not implemented"));
  }

  void ReadTrunk(MixerKind kind) {
    config_.width = static_cast<int>(Required("embedding_length", 1, kMaxWidth));
    config_.layers = static_cast<int>(Required("block_count", 1, kMaxLayers));
    config_.mixers.assign(config_.layers, kind);
    config_.fused_attention.assign(config_.layers, false);
    config_.fused_mamba.assign(config_.layers, false);
    config_.norm_epsilon = Number("attention.layer_norm_rms_epsilon", 0, 1, 1e-5);
    const auto embedding = file_.tensors.find("token_embd.weight");
    const int64_t rows = embedding == file_.tensors.end() || embedding->second.shape.empty()
                             ? 0
                             : embedding->second.shape[0];
    config_.padded_vocabulary = static_cast<int>(std::min(rows, kMaxVocabulary + 1));
    // Rows beyond the tokens are padding.
    config_.vocabulary = text_.pieces.empty()
                             ? config_.padded_vocabulary
                             : static_cast<int>(std::min<int64_t>(rows, text_.pieces.size()));
    if (rows == 0) Fail("tensor \"token_embd.weight\": missing");
    if (!text_.pieces.empty() && static_cast<int64_t>(text_.pieces.size()) > rows) {
      Fail(absl::StrCat("tokenizer.ggml.tokens: ", text_.pieces.size(),
                        " tokens found, the embedding has ", rows, " rows"));
    }
  }

  void ReadLlama() {
    config_.family = Family::kLlama;
    ReadTrunk(MixerKind::kAttention);
    config_.mlp_width = static_cast<int>(Required("feed_forward_length", 1, kMaxWidth));
    config_.context_length = Required("context_length", 1, kMaxContext);
    AttentionConfig& attention = config_.attention;
    attention.query_heads = static_cast<int>(Required("attention.head_count", 1, kMaxHeads));
    attention.key_value_heads = static_cast<int>(
        Optional("attention.head_count_kv", 1, kMaxHeads).value_or(attention.query_heads));
    attention.head_width =
        static_cast<int>(Optional("attention.key_length", 2, kMaxHeadWidth)
                             .value_or(config_.width / std::max(1, attention.query_heads)));
    if (Optional("rope.dimension_count", 1, 1 << 16).value_or(attention.head_width) !=
        attention.head_width) {
      Refuse("rotary embedding of a part of the head (rope.dimension_count)");
    }
    if (Optional("expert_count", 0, 1 << 16).value_or(0) > 0)
      Refuse("mixture of experts (expert_count)");
    attention.sliding_window =
        static_cast<int>(Optional("attention.sliding_window", 0, 1 << 30).value_or(0));
    attention.rope.theta = Number("rope.freq_base", 1, kMaxTheta, 10000.0);
    const std::string scaling =
        Text(absl::StrCat(architecture_, ".rope.scaling.type")).value_or("none");
    if (scaling == "linear") {
      attention.rope.scaling = RopeScalingKind::kLinear;
      attention.rope.factor = Number("rope.scaling.factor", 1, 1e6, 1.0);
    } else if (scaling != "none") {
      Refuse(absl::StrCat("rope.scaling.type ", Quoted(scaling)));
    }
    if (Optional("attention.value_length", 1, 1 << 16).value_or(attention.head_width) !=
        attention.head_width) {
      Refuse("attention.value_length other than key_length");
    }
    if (Number("rope.scale_linear", 0, 1e9, 1) != 1) Refuse("rope.scale_linear");
    ReadRopeFactors();
  }

  // Scaled Llama 3 files carry no numbers of the scaling, only the factor that each frequency is
  // divided by. With the bounds that all of them were made with (low 1, high 4, context 8192) the
  // factors tell the one number that is left; where they do not come out the same, it is another
  // scaling.
  void ReadRopeFactors() {
    const auto it = file_.tensors.find("rope_freqs.weight");
    if (it == file_.tensors.end() || !status_.ok()) return;
    RopeConfig rope = config_.attention.rope;
    rope.low_frequency_factor = 1;
    rope.high_frequency_factor = 4;
    rope.original_context = 8192;
    const int64_t count = config_.attention.head_width / 2;
    const StoredTensor& tensor = it->second;
    std::vector<float> factors(count);
    bool same = count > 0 && tensor.type == StorageType::kFloat32 &&
                rope.scaling == RopeScalingKind::kNone &&
                static_cast<int64_t>(tensor.data.size()) == count * 4;
    if (same) {
      Dequantise(tensor.type, tensor.data.data(), count, factors.data());
      rope.factor = factors.back();  // the lowest frequency is divided by all of it
      same = rope.factor >= 1 && rope.factor <= 1e6;
    }
    for (int64_t i = 0; same && i < count; ++i) {
      const double frequency =
          std::pow(rope.theta, -static_cast<double>(i) / static_cast<double>(count));
      const double turns = static_cast<double>(rope.original_context) * frequency / (2 * M_PI);
      const double kept = std::clamp((turns - 1) / 3, 0.0, 1.0);
      same = std::fabs(factors[i] * ((1 - kept) / rope.factor + kept) - 1) < 1e-4;
    }
    if (!same) return Refuse("tensor \"rope_freqs.weight\" of another scaling than Llama 3's");
    rope.scaling = RopeScalingKind::kLlama3;
    config_.attention.rope = rope;
  }

  void ReadMamba() {
    config_.family = Family::kMamba;
    ReadTrunk(MixerKind::kMamba);
    if (Integer("mamba.ssm.dt_b_c_rms", 0, 1).value_or(0) != 0) Refuse("ssm.dt_b_c_rms");
    MambaConfig& mamba = config_.mamba;
    mamba.inner_width = static_cast<int>(Required("ssm.inner_size", 1, kMaxWidth));
    mamba.state_size = static_cast<int>(Required("ssm.state_size", 1, 256));
    mamba.dt_rank = static_cast<int>(Required("ssm.time_step_rank", 1, kMaxWidth));
    mamba.convolution_width = static_cast<int>(Required("ssm.conv_kernel", 1, kMaxTaps));
  }

  void ReadMamba2() {
    config_.family = Family::kMamba2;
    ReadTrunk(MixerKind::kMamba2);
    Mamba2Config& mamba = config_.mamba2;
    mamba.inner_width = static_cast<int>(Required("ssm.inner_size", 1, kMaxWidth));
    mamba.state_size = static_cast<int>(Required("ssm.state_size", 1, kMaxState));
    mamba.heads = static_cast<int>(
        Required("ssm.time_step_rank", 1, kMaxHeads));  // llama.cpp keeps the heads there
    mamba.groups = static_cast<int>(Optional("ssm.group_count", 1, kMaxHeads).value_or(1));
    mamba.convolution_width = static_cast<int>(Required("ssm.conv_kernel", 1, kMaxTaps));
    mamba.norm_epsilon = config_.norm_epsilon;
  }

  std::optional<bool> Flag(const std::string& key) {
    const std::optional<int64_t> value = Integer(key, 0, 1);
    return value.has_value() ? std::optional<bool>(*value != 0) : std::nullopt;
  }

  void ReadTokenizer() {
    text_.tokenizer_model = Text("tokenizer.ggml.model").value_or("");
    text_.pre_tokenizer = Text("tokenizer.ggml.pre").value_or("");
    text_.chat_template = Text("tokenizer.chat_template").value_or("");
    text_.pieces = Texts("tokenizer.ggml.tokens");
    text_.merges = Texts("tokenizer.ggml.merges");
    for (const double score : Numbers("tokenizer.ggml.scores")) {
      text_.scores.push_back(static_cast<float>(score));
    }
    for (const double type : Numbers("tokenizer.ggml.token_type")) {
      if (!(type >= 1 && type <= 6 && std::floor(type) == type)) {
        return Fail(absl::StrCat("tokenizer.ggml.token_type: ", type, " found, 1 to 6 expected"));
      }
      text_.piece_types.push_back(static_cast<int32_t>(type));
    }
    const int64_t last = static_cast<int64_t>(text_.pieces.size()) - 1;
    const auto id = [&](const char* key) {
      return static_cast<int32_t>(
          Integer(absl::StrCat("tokenizer.ggml.", key), 0, std::max<int64_t>(0, last))
              .value_or(-1));
    };
    text_.bos_id = id("bos_token_id");
    text_.eos_id = id("eos_token_id");
    text_.unknown_id = id("unknown_token_id");
    text_.padding_id = id("padding_token_id");
    text_.separator_id = id("seperator_token_id");  // the key is spelled so
    text_.classification_id = id("cls_token_id");
    text_.mask_id = id("mask_token_id");
    text_.add_bos = Flag("tokenizer.ggml.add_bos_token");
    text_.add_eos = Flag("tokenizer.ggml.add_eos_token");
    text_.add_space_prefix = Flag("tokenizer.ggml.add_space_prefix");
    for (const char* key : {"eos_token_id", "eot_token_id", "eom_token_id"}) {
      const int32_t end = id(key);
      const auto& ends = config_.eos_ids;
      if (end >= 0 && std::find(ends.begin(), ends.end(), end) == ends.end())
        config_.eos_ids.push_back(end);
    }
    if (text_.bos_id >= 0) config_.bos_id = text_.bos_id;
  }

  const std::string& source_;
  const GgufFile& file_;
  ModelConfig& config_;
  TextFiles& text_;
  std::string architecture_;
  absl::Status status_;
};

}  // namespace

absl::Status ReadGgufConfig(const std::string& source, const GgufFile& file, ModelConfig* config,
                            TextFiles* text) {
  return Reader(source, file, *config, *text).Read();
}

}  // namespace mambad::checkpoint
