// The architecture of a model, read once from its directory (config.json, mamba_config.json,
// generation_config.json) or from a GGUF file's metadata, range-checked, and immutable afterwards.
// All families of a checkpoint reduce to one sequence of blocks: each block has one mixer
// (attention, Mamba-1 or Mamba-2) and, in Llama-like models, an MLP.

#ifndef MAMBAD_ENGINE_CHECKPOINT_MODEL_CONFIG_H_
#define MAMBAD_ENGINE_CHECKPOINT_MODEL_CONFIG_H_

#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

namespace mambad::checkpoint {

enum class Family { kLlama, kMamba, kMamba2, kHybrid };
enum class MixerKind { kAttention, kMamba, kMamba2 };

// Whose names and row orders the file uses. One family may come in several layouts.
enum class Layout {
  kHuggingFace,   // LlamaForCausalLM, MambaForCausalLM, Mamba2ForCausalLM
  kStateSpaces,   // state-spaces/mamba, mamba2 releases: backbone.embedding.weight, lm_head always
                  // stored
  kMambaInLlama,  // Llama or Mistral config.json + mamba_config.json
  kGguf,          // llama.cpp's names; same matrices
};

enum class RopeScalingKind { kNone, kLinear, kLlama3, kDynamic, kYarn };

// Rotary position embedding in the rotate-half form: angle = position * theta^(-2i/head_width),
// then scaled.
struct RopeConfig {
  double theta = 10000.0;
  RopeScalingKind scaling = RopeScalingKind::kNone;
  double factor = 1.0;                   // of every scaling
  double low_frequency_factor = 1.0;     // llama3
  double high_frequency_factor = 4.0;    // llama3
  int64_t original_context = 8192;       // llama3, dynamic and yarn, tokens
  double beta_fast = 32, beta_slow = 1;  // yarn: rotations within the original context
  bool truncate = true;                  // yarn: the bounds are whole dimensions
  double attention_factor = 1.0;         // yarn: cosine and sine are multiplied by it
};

struct AttentionConfig {
  int query_heads = 0;
  int key_value_heads = 0;   // divides query_heads
  int head_width = 0;        // may differ from width / query_heads
  int sliding_window = 0;    // tokens, the current one counted; 0: none
  bool bias = false;         // of the query, key and value projections
  bool output_bias = false;  // of the output projection
  bool head_norm = false;    // RMSNorm of each query and key head before the rotation (Qwen3)
  // The file's query and key rows are in the order in which rows 2i and 2i + 1 of a head rotate
  // together (llama.cpp's Llama); readers see them in ours.
  bool interleaved_rows = false;
  RopeConfig rope;        // of self_attn.* layers
  RopeConfig fused_rope;  // of mha.in_proj layers (MambaInLlama): theta only, never scaled
};

// Mamba-1. `groups` is the number of distinct (B, C) pairs after any repeat: 1 in standard Mamba
// (all channels share one), inner_width / state_size in MambaInLlama (channel c belongs to group c
// / state_size).
struct MambaConfig {
  int inner_width = 0;        // d_inner, channels
  int state_size = 0;         // N
  int dt_rank = 0;            // r
  int convolution_width = 4;  // W, taps
  int groups = 1;
  int source_width = 0;  // d_xb: width of x and B before the repeat; 0 in standard Mamba
  bool repeat_before_convolution = true;  // MambaInLlama only
  bool dt_bias_applied_twice = false;  // released MambaInLlama layout: dt = softplus(W_dt(.) + 2 b)
  bool convolution_bias = true;
  bool projection_bias = false;  // of in_proj and out_proj; standard Mamba only
  // Falcon Mamba: RMSNorm without weight of dt_low, B and C between x_proj and dt_proj.
  bool selection_norm = false;
  double selection_norm_epsilon = 1e-6;
};

// Mamba-2. Heads of width P = inner_width / heads; state P x N per head; `groups` heads of B and C.
struct Mamba2Config {
  int inner_width = 0;
  int state_size = 0;
  int heads = 0;
  int groups = 1;
  int convolution_width = 4;
  int source_width =
      0;  // d_xb, MambaInLlama only: x and B are repeated from source_width to inner_width
  bool repeat_before_convolution =
      true;                    // MambaInLlama only; decides how many channels the convolution has
  double norm_epsilon = 1e-5;  // of the gated norm; 1e-5 fixed outside HF files
  double dt_minimum = 0.0;     // limits after softplus
  double dt_maximum = std::numeric_limits<double>::infinity();
  bool convolution_bias = true;
  bool projection_bias = false;  // of in_proj and out_proj; standard Mamba-2 only
};

struct ModelConfig {
  Family family = Family::kLlama;
  Layout layout = Layout::kHuggingFace;

  int width = 0;  // d, the residual stream
  int layers = 0;
  int vocabulary = 0;          // ids that may be sampled, as the model's files count them
  int padded_vocabulary = 0;   // rows of the embedding; ids in [vocabulary, padded_vocabulary) are
                               // never sampled and do not count in log-probabilities
  int mlp_width = 0;           // 0: blocks have no MLP
  bool mlp_bias = false;       // of its three projections
  double norm_epsilon = 1e-5;  // of the layer norms and the final norm
  bool tied_head = false;      // lm_head is the embedding
  int64_t context_length =
      0;  // positions the attention layers were made for; 0: unbounded (pure recurrent models)

  std::vector<MixerKind> mixers;  // one per layer
  std::vector<bool>
      fused_attention;  // one per layer: mha.in_proj / mha.out_proj instead of self_attn.*
  std::vector<bool> fused_mamba;  // one per layer: Mamba-1 mamba.in_proj instead of its five parts
  std::vector<bool>
      windowed;  // one per layer: attention keeps to the sliding window; empty: all do

  AttentionConfig attention;
  MambaConfig mamba;
  Mamba2Config mamba2;

  // Every id that config.json, generation_config.json or a GGUF file calls an end, in their order.
  // The tokenizer's own end comes to them where it is opened.
  std::vector<int32_t> eos_ids;
  std::optional<int32_t> bos_id;
  struct SamplingDefaults {  // what generation_config.json says; absent fields stay unset
    std::optional<bool> do_sample;
    std::optional<double> temperature, top_p, min_p, repetition_penalty;
    std::optional<int> top_k;
  } sampling_defaults;

  // Lines for the operator: settings of the files that were left out or taken differently, each
  // with the file's name. Reading them is no error.
  std::vector<std::string> warnings;

  // Of one layer's attention; 0: none.
  int SlidingWindow(int layer) const {
    return windowed.empty() || windowed[layer] ? attention.sliding_window : 0;
  }
  bool HasMixer(MixerKind kind) const {
    for (MixerKind mixer : mixers) {
      if (mixer == kind) return true;
    }
    return false;
  }
};

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_MODEL_CONFIG_H_
