// The smallest Llama that a GGUF file can hold, with single values of its metadata left out so that
// a test may write them otherwise.

#ifndef MAMBAD_TESTS_ENGINE_CHECKPOINT_SMALL_GGUF_H_
#define MAMBAD_TESTS_ENGINE_CHECKPOINT_SMALL_GGUF_H_

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "tests/engine/checkpoint/gguf_writer.h"

namespace mambad::checkpoint {

inline constexpr int kSmallGgufWidth = 16, kSmallGgufVocabulary = 6;

// Metadata of a Llama of one layer, without the keys `without`.
inline void WriteSmallGgufMetadata(GgufWriter& writer, const std::set<std::string>& without = {}) {
  const auto number = [&](const std::string& key, uint32_t value) {
    if (!without.contains(key)) writer.Number(key, value);
  };
  if (!without.contains("general.architecture")) writer.Text("general.architecture", "llama");
  number("llama.block_count", 1);
  number("llama.context_length", 64);
  number("llama.embedding_length", kSmallGgufWidth);
  number("llama.feed_forward_length", 32);
  number("llama.attention.head_count", 2);
  number("llama.attention.head_count_kv", 1);
  if (!without.contains("llama.attention.layer_norm_rms_epsilon")) {
    writer.Float("llama.attention.layer_norm_rms_epsilon", 1e-5f);
  }
  if (!without.contains("llama.rope.freq_base")) writer.Float("llama.rope.freq_base", 10000);
  if (!without.contains("tokenizer.ggml.model")) writer.Text("tokenizer.ggml.model", "llama");
  if (!without.contains("tokenizer.ggml.tokens")) {
    writer.Texts("tokenizer.ggml.tokens", {"<unk>", "<s>", "</s>", "a", "b", "c"});
  }
}

// Its tensors, as name and dimensions (fastest first).
inline std::vector<std::pair<std::string, std::vector<uint64_t>>> SmallGgufTensors() {
  constexpr uint64_t d = kSmallGgufWidth, v = kSmallGgufVocabulary;
  return {{"token_embd.weight", {d, v}},         {"output_norm.weight", {d}},
          {"blk.0.attn_norm.weight", {d}},       {"blk.0.ffn_norm.weight", {d}},
          {"blk.0.attn_q.weight", {d, d}},       {"blk.0.attn_k.weight", {d, d / 2}},
          {"blk.0.attn_v.weight", {d, d / 2}},   {"blk.0.attn_output.weight", {d, d}},
          {"blk.0.ffn_gate.weight", {d, 2 * d}}, {"blk.0.ffn_up.weight", {d, 2 * d}},
          {"blk.0.ffn_down.weight", {2 * d, d}}};
}

// Tensors [begin, end) of that list, with numbers that tell them apart.
inline void WriteSmallGgufTensors(GgufWriter& writer, size_t begin = 0, size_t end = 11) {
  const auto tensors = SmallGgufTensors();
  for (size_t i = begin; i < end; ++i) {
    const auto& [name, dimensions] = tensors[i];
    uint64_t count = 1;
    for (const uint64_t size : dimensions) count *= size;
    std::vector<float> values(count);
    for (uint64_t k = 0; k < count; ++k) values[k] = static_cast<float>(k % 97 + i) / 64;
    writer.Float32(name, dimensions, values);
  }
}

inline std::string SmallGguf() {
  GgufWriter writer;
  WriteSmallGgufMetadata(writer);
  WriteSmallGgufTensors(writer);
  return writer.Finish();
}

}  // namespace mambad::checkpoint

#endif  // MAMBAD_TESTS_ENGINE_CHECKPOINT_SMALL_GGUF_H_
