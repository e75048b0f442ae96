#include "tests/support/checkpoint_writer.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/dequantise.h"
#include "engine/checkpoint/safetensors.h"

namespace mambad::support {
namespace {

using checkpoint::Family;
using checkpoint::Layout;
using checkpoint::MixerKind;
using checkpoint::RopeScalingKind;
using checkpoint::StorageType;

absl::Status WriteText(const std::string& path, const std::string& text) {
  if (text.empty()) return absl::OkStatus();
  std::ofstream file(path, std::ios::binary);
  file << text;
  return file.flush() ? absl::OkStatus()
                      : absl::InternalError(absl::StrCat(path, ": cannot be written"));
}

std::vector<std::byte> Stored(const std::vector<float>& values, StorageType type) {
  if (type == StorageType::kFloat32) {
    std::vector<std::byte> bytes(values.size() * sizeof(float));
    std::memcpy(bytes.data(), values.data(), bytes.size());
    return bytes;
  }
  std::vector<std::byte> bytes(values.size() * 2);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t word = type == StorageType::kFloat16 ? RoundToFloat16(values[i])
                                                        : checkpoint::RoundToBFloat16(values[i]);
    std::memcpy(bytes.data() + 2 * i, &word, 2);
  }
  return bytes;
}

// The character that stands for a byte in byte-level vocabularies: printable Latin-1 is itself, the
// others follow U+0100.
std::string ByteCharacter(int byte) {
  const auto printable = [](int b) {
    return (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
  };
  int code = byte;
  if (!printable(byte)) {
    code = 256;
    for (int b = 0; b < byte; ++b) code += printable(b) ? 0 : 1;
  }
  if (code < 128) return std::string(1, static_cast<char>(code));
  return {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 63))};
}

}  // namespace

absl::Status SaveRandomCheckpoint(const std::string& directory, const RandomModelOptions& options) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return absl::InternalError(absl::StrCat(directory, ": ", error.message()));
  const ConfigTexts texts = WriteConfigTexts(options);
  absl::Status status = WriteText(directory + "/config.json", texts.config);
  status.Update(WriteText(directory + "/mamba_config.json", texts.mamba_config));
  status.Update(WriteText(directory + "/generation_config.json", texts.generation_config));
  if (!status.ok()) return status;

  const std::vector<NamedTensor> tensors = DrawTensors(options);
  std::vector<std::vector<std::byte>> stored;
  std::vector<checkpoint::TensorToWrite> to_write;
  int64_t total = 0;
  for (const NamedTensor& tensor : tensors) {
    stored.push_back(Stored(tensor.values, options.type));
    total += static_cast<int64_t>(stored.back().size());
  }
  for (size_t i = 0; i < tensors.size(); ++i) {
    to_write.push_back({tensors[i].name, options.type, tensors[i].shape, stored[i]});
  }
  const int64_t shard_bytes =
      options.shards > 1 ? (total + options.shards - 1) / options.shards : 0;
  return checkpoint::WriteShardedSafetensors(directory, to_write, shard_bytes);
}

std::vector<std::pair<std::string, RandomModelOptions>> AllVariants() {
  std::vector<std::pair<std::string, RandomModelOptions>> variants;
  const auto add = [&](const char* name, auto change) {
    RandomModelOptions options;
    options.seed = 100 + variants.size();
    change(options);
    variants.emplace_back(name, options);
  };
  const auto hybrid = [](RandomModelOptions& o) {
    o.family = Family::kHybrid;
    o.layout = Layout::kMambaInLlama;
  };
  const auto hybrid2 = [&](RandomModelOptions& o) {
    hybrid(o);
    o.hybrid_mixer = MixerKind::kMamba2;
    o.repeat_before_convolution = false;
  };
  const auto pure = [](Family family, Layout layout) {
    return [=](RandomModelOptions& o) {
      o.family = family;
      o.layout = layout;
      o.tied_head = family == Family::kMamba || layout == Layout::kStateSpaces;
    };
  };
  add("Llama", [](RandomModelOptions&) {});
  add("LlamaTied", [](RandomModelOptions& o) { o.tied_head = true; });
  add("LlamaTiedAndStored", [](RandomModelOptions& o) { o.tied_head = o.store_tied_head = true; });
  add("LlamaWideHeads", [](RandomModelOptions& o) { o.head_width = 32; });
  add("LlamaScaledLlama3",
      [](RandomModelOptions& o) { o.rope_scaling = RopeScalingKind::kLlama3; });
  add("LlamaScaledLinearNewSpelling", [](RandomModelOptions& o) {
    o.rope_scaling = RopeScalingKind::kLinear;
    o.rope_factor = 2;
    o.new_spelling = true;
  });
  add("Mistral", [](RandomModelOptions& o) { o.sliding_window = 24; });
  add("LlamaBiases", [](RandomModelOptions& o) { o.attention_bias = o.mlp_bias = true; });
  add("LlamaScaledDynamic", [](RandomModelOptions& o) {
    o.rope_scaling = RopeScalingKind::kDynamic;
    o.context_length = 32;
  });
  add("Qwen2", [](RandomModelOptions& o) {
    o.model_type = "qwen2";
    o.sliding_window = 24;
    o.tied_head = true;
  });
  add("Qwen3", [](RandomModelOptions& o) {
    o.model_type = "qwen3";
    o.head_width = 32;
    o.rope_scaling = RopeScalingKind::kYarn;
    o.new_spelling = true;
  });
  add("Qwen3BiasesWindow", [](RandomModelOptions& o) {
    o.model_type = "qwen3";
    o.attention_bias = true;
    o.sliding_window = 24;
  });
  add("FalconMamba", [&](RandomModelOptions& o) {
    pure(Family::kMamba, Layout::kHuggingFace)(o);
    o.falcon = true;
    o.tied_head = false;
    o.projection_bias = true;
  });
  add("Mamba2Biases", [&](RandomModelOptions& o) {
    pure(Family::kMamba2, Layout::kHuggingFace)(o);
    o.projection_bias = true;
  });
  add("HybridQwen3Mamba2", [&](RandomModelOptions& o) {
    hybrid2(o);
    o.model_type = "qwen3";
  });
  add("HybridQwen2Mamba", [&](RandomModelOptions& o) {
    hybrid(o);
    o.model_type = "qwen2";
  });
  add("Mamba", pure(Family::kMamba, Layout::kHuggingFace));
  add("MambaUntied", [&](RandomModelOptions& o) {
    pure(Family::kMamba, Layout::kHuggingFace)(o);
    o.tied_head = false;
    o.dt_rank = 6;
    o.convolution_bias = false;
  });
  add("MambaStateSpaces", pure(Family::kMamba, Layout::kStateSpaces));
  add("Mamba2", pure(Family::kMamba2, Layout::kHuggingFace));
  add("Mamba2GroupsLimited", [&](RandomModelOptions& o) {
    pure(Family::kMamba2, Layout::kHuggingFace)(o);
    o.groups = 4;
    o.state_size = 32;
    o.norm_epsilon = 1e-3;
    o.dt_limit = {0.004, 0.05};
  });
  add("Mamba2StateSpaces", pure(Family::kMamba2, Layout::kStateSpaces));
  add("Mamba2StateSpacesGroups", [&](RandomModelOptions& o) {
    pure(Family::kMamba2, Layout::kStateSpaces)(o);
    o.groups = 2;
    o.state_size = 32;
    o.tied_head = false;
  });
  add("HybridMamba", hybrid);
  add("HybridMambaFused", [&](RandomModelOptions& o) {
    hybrid(o);
    o.fused_mamba = o.fused_attention = true;
    o.rope_scaling = RopeScalingKind::kLlama3;
  });
  add("HybridMambaRepeatAfterConvolution", [&](RandomModelOptions& o) {
    hybrid(o);
    o.repeat_before_convolution = false;
    o.dt_bias_applied_once = true;
  });
  add("HybridMambaTiedWide", [&](RandomModelOptions& o) {
    hybrid(o);
    o.head_width = 32;  // d_inner apart from the width
    o.source_width = 64;
    o.tied_head = true;
    o.attention_layers = {};
  });
  add("HybridMamba2", hybrid2);
  add("HybridMamba2Fused", [&](RandomModelOptions& o) {
    hybrid2(o);
    o.fused_attention = true;
    o.dt_limit = {0.002, HUGE_VAL};
  });
  add("HybridMamba2RepeatBeforeConvolution", [&](RandomModelOptions& o) {
    hybrid2(o);
    o.repeat_before_convolution = true;
    o.sliding_window = 24;
    o.attention_layers = {0, 2};
  });
  return variants;
}

absl::Status SaveByteTokenizer(const std::string& directory) {
  nlohmann::ordered_json vocabulary;
  const char* specials[] = {"<unk>", "<s>", "</s>"};
  nlohmann::ordered_json added = nlohmann::ordered_json::array();
  for (int id = 0; id < 3; ++id) {
    vocabulary[specials[id]] = id;
    added.push_back({{"id", id},
                     {"content", specials[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", true}});
  }
  for (int byte = 0; byte < 256; ++byte) vocabulary[ByteCharacter(byte)] = byte + 3;
  nlohmann::ordered_json tokenizer;
  tokenizer["version"] = "1.0";
  tokenizer["added_tokens"] = added;
  tokenizer["normalizer"] = nullptr;
  tokenizer["pre_tokenizer"] = {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", true}};
  tokenizer["decoder"] = {{"type", "ByteLevel"}};
  tokenizer["model"] = {
      {"type", "BPE"}, {"vocab", vocabulary}, {"merges", nlohmann::ordered_json::array()}};
  nlohmann::ordered_json config = {
      {"bos_token", "<s>"}, {"eos_token", "</s>"}, {"add_bos_token", false}};
  absl::Status status = WriteText(directory + "/tokenizer.json", tokenizer.dump() + "\n");
  status.Update(WriteText(directory + "/tokenizer_config.json", config.dump() + "\n"));
  return status;
}

}  // namespace mambad::support
