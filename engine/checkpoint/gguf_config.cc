#include "engine/checkpoint/gguf_config.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/checkpoint/config_sections.h"
#include "engine/checkpoint/dequantise.h"
#include "engine/checkpoint/end_of_turn.h"
#include "engine/checkpoint/error_text.h"
#include "engine/checkpoint/model_config_reader.h"
#include "engine/checkpoint/rope_frequencies.h"

namespace mambad::checkpoint {
namespace {

class Reader {
 public:
  Reader(const std::string& source, const GgufFile& file, ModelConfig& config, TextFiles& text)
      : source_(source), file_(file), config_(config), text_(text) {}

  absl::Status Read() {
    architecture_ = Text("general.architecture").value_or("");
    config_.layout = Layout::kGguf;
    if (absl::Status status = RefuseWhatIsNoModel(); !status.ok()) return status;
    ReadTokenizer();
    if (architecture_ == "llama" || architecture_ == "qwen2" || architecture_ == "qwen3") {
      ReadLlama();
    } else if (architecture_ == "mamba") {
      ReadMamba();
    } else if (architecture_ == "mamba2") {
      ReadMamba2();
    } else if (status_.ok()) {
      return absl::UnimplementedError(
          absl::StrCat(source_, ": general.architecture ", Quoted(architecture_),
                       " is not implemented; llama, qwen2, qwen3, mamba and mamba2 are"));
    }
    config_.tied_head = !file_.tensors.contains("output.weight");
    if (!status_.ok()) return status_;
    return CheckModelConfig(source_, config_);
  }

 private:
  // Files that go with a model, or into one.
  absl::Status RefuseWhatIsNoModel() {
    std::string what;
    if (architecture_.empty()) {
      what = "general.architecture: missing: no language model";
    } else if (architecture_ == "mambad-parts") {
      what =
          "parts of a model found, which its teacher completes: make a model of them with "
          "mambad-models assemble --teacher FILE --parts FILE --output DIRECTORY, or with "
          "deploy/quickstart.sh --chat";
    } else if (architecture_ == "clip" || architecture_ == "mmproj") {
      what = "a projector of images (mmproj) found: name the language model that it goes with";
    } else if (Text("general.type").value_or("") == "adapter") {
      what = "an adapter (LoRA) found: merge it into its base model first (llama-export-lora)";
    }
    if (what.empty() || !status_.ok()) return status_;
    return absl::InvalidArgumentError(absl::StrCat(source_, ": ", what));
  }
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
    const bool llama = architecture_ == "llama";
    if (llama) {  // the others' windows mean nothing to the file's own runtime
      attention.sliding_window =
          static_cast<int>(Optional("attention.sliding_window", 0, 1 << 30).value_or(0));
    }
    attention.interleaved_rows = llama;
    attention.head_norm = architecture_ == "qwen3";
    attention.bias = HasTensor("blk.0.attn_q.bias");
    attention.output_bias = HasTensor("blk.0.attn_output.bias");
    config_.mlp_bias = HasTensor("blk.0.ffn_gate.bias");
    attention.rope.theta = Number("rope.freq_base", 1, kMaxTheta, 10000.0);
    ReadScaling();
    if (Optional("attention.value_length", 1, 1 << 16).value_or(attention.head_width) !=
        attention.head_width) {
      Refuse("attention.value_length other than key_length");
    }
    if (Number("rope.scale_linear", 0, 1e9, 1) != 1) Refuse("rope.scale_linear");
    ReadRopeFactors();
  }

  bool HasTensor(const char* name) const { return file_.tensors.contains(name); }

  void ReadScaling() {
    RopeConfig& rope = config_.attention.rope;
    const std::string scaling =
        Text(absl::StrCat(architecture_, ".rope.scaling.type")).value_or("none");
    if (scaling == "none") return;
    if (scaling != "linear" && scaling != "yarn") {
      return Refuse(absl::StrCat("rope.scaling.type ", Quoted(scaling)));
    }
    rope.factor = Number("rope.scaling.factor", 1, 1e6, 1.0);
    rope.scaling = RopeScalingKind::kLinear;
    if (scaling == "linear") return;
    rope.scaling = RopeScalingKind::kYarn;
    rope.original_context = Optional("rope.scaling.original_context_length", 1, kMaxContext)
                                .value_or(config_.context_length);
    rope.beta_fast = Number("rope.scaling.yarn_beta_fast", 1e-3, 1e6, 32);
    rope.beta_slow = Number("rope.scaling.yarn_beta_slow", 1e-3, 1e6, 1);
    if (rope.beta_fast < rope.beta_slow)
      Fail("rope.scaling.yarn_beta_fast: a number not below yarn_beta_slow expected");
    if (Number("rope.scaling.yarn_ext_factor", -1, 1, 1) != 1 &&
        Number("rope.scaling.yarn_ext_factor", -1, 1, 1) != -1) {
      Refuse("rope.scaling.yarn_ext_factor other than 1");
    }
    const double reached = std::floor(rope.factor * static_cast<double>(rope.original_context));
    config_.context_length =
        std::max(config_.context_length,
                 static_cast<int64_t>(std::min(reached, static_cast<double>(kMaxContext))));
    // The file's number comes on top of YaRN's own.
    rope.attention_factor = YarnAttentionFactor(rope.factor, 1) *
                            Number("rope.scaling.attn_factor", 1e-3, 1e3,
                                   Number("rope.scaling.yarn_attn_factor", 1e-3, 1e3, 1));
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
    MambaConfig& mamba = config_.mamba;
    mamba.selection_norm = Integer("mamba.ssm.dt_b_c_rms", 0, 1).value_or(0) != 0;
    mamba.selection_norm_epsilon = config_.norm_epsilon;
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
    for (const double score : OneAPiece("tokenizer.ggml.scores")) {
      text_.scores.push_back(static_cast<float>(score));
    }
    for (const double type : OneAPiece("tokenizer.ggml.token_type")) {
      constexpr int32_t kNormal = 1, kLast = 6;
      const bool known = type >= kNormal && type <= kLast;  // others, 0 among them, say nothing
      text_.piece_types.push_back(known ? static_cast<int32_t>(type) : kNormal);
    }
    // Files with scored pieces leave out what they have in common.
    const bool scored = text_.tokenizer_model == "llama";
    text_.bos_id = SpecialId("bos_token_id", scored ? 1 : -1);
    text_.eos_id = SpecialId("eos_token_id", scored ? 2 : -1);
    text_.unknown_id = SpecialId("unknown_token_id", -1);
    text_.padding_id = SpecialId("padding_token_id", -1);
    text_.separator_id = SpecialId("seperator_token_id", -1);  // the key is spelled so
    text_.classification_id = SpecialId("cls_token_id", -1);
    text_.mask_id = SpecialId("mask_token_id", -1);
    text_.add_bos = Flag("tokenizer.ggml.add_bos_token");
    text_.add_eos = Flag("tokenizer.ggml.add_eos_token");
    text_.add_space_prefix = Flag("tokenizer.ggml.add_space_prefix");
    AddEnd(text_.eos_id);
    AddEnd(SpecialId("eot_token_id", -1));
    AddEnd(SpecialId("eom_token_id", -1));
    for (const int32_t end : EndsBySpelling(text_.pieces, text_.piece_types)) AddEnd(end);
    if (text_.bos_id >= 0) config_.bos_id = text_.bos_id;
  }

  void AddEnd(int32_t end) {
    auto& ends = config_.eos_ids;
    if (end >= 0 && std::find(ends.begin(), ends.end(), end) == ends.end()) ends.push_back(end);
  }

  // The piece that the file names, or, when it names none, `absent` where that is a control piece;
  // -1: none. Ids beyond the pieces (some files write -1) are left out.
  int32_t SpecialId(const char* name, int32_t absent) {
    const std::string key = absl::StrCat("tokenizer.ggml.", name);
    const auto count = static_cast<int64_t>(text_.pieces.size());
    if (!file_.metadata.contains(key)) {
      constexpr int32_t kControl = 3;
      const bool known = absent >= 0 && absent < count && !text_.piece_types.empty() &&
                         text_.piece_types[absent] == kControl;
      return known ? absent : -1;
    }
    const std::optional<double> id = AnyNumber(key);
    if (!id.has_value()) return -1;
    if (*id >= 0 && *id < static_cast<double>(count) && std::floor(*id) == *id) {
      return static_cast<int32_t>(*id);
    }
    config_.warnings.push_back(absl::StrCat(source_, ": ", key, ": ", absl::StrFormat("%.0f", *id),
                                            " is left out: the file has ", count, " pieces"));
    return -1;
  }

  // Numbers that belong to the pieces. What stands behind the last piece belongs to none.
  std::vector<double> OneAPiece(const std::string& key) {
    std::vector<double> numbers = Numbers(key);
    const size_t count = text_.pieces.size();
    if (numbers.size() > count) numbers.resize(count);
    if (numbers.size() < count && !numbers.empty()) {
      Fail(absl::StrCat(key, ": ", numbers.size(), " found, ", count, " expected: one a piece"));
      numbers.clear();
    }
    return numbers;
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
