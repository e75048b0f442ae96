// Random models in the released layouts, for tests of everything that reads one. Names, shapes, row
// orders and the spelling of configuration files are written down here from the published layouts,
// on purpose without the engine's parameter table: a wrong name there shows as a file that does not
// open.

#ifndef MAMBAD_TESTS_SUPPORT_CHECKPOINT_WRITER_H_
#define MAMBAD_TESTS_SUPPORT_CHECKPOINT_WRITER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "engine/checkpoint/checkpoint.h"
#include "nlohmann/json.hpp"

namespace mambad::support {

struct RandomModelOptions {
  checkpoint::Family family = checkpoint::Family::kLlama;
  // kHuggingFace or kStateSpaces for pure Mamba and Mamba-2. Llama is always kHuggingFace, a hybrid
  // always kMambaInLlama.
  checkpoint::Layout layout = checkpoint::Layout::kHuggingFace;
  // A hybrid's layers without attention: kMamba or kMamba2.
  checkpoint::MixerKind hybrid_mixer = checkpoint::MixerKind::kMamba;

  int width = 64;
  int layers = 3;
  int vocabulary = 101;
  int pad_vocabulary_multiple = 16;  // state-spaces: rows are padded to a multiple of it
  int mlp_width = 96;                // Llama and hybrids
  bool tied_head = false;
  bool store_tied_head =
      false;  // write lm_head.weight although it is tied (state-spaces always does)
  double norm_epsilon = 1e-5;  // state-spaces has 1e-5, whatever this says
  int context_length = 4096;

  // Attention
  int query_heads = 4;
  int key_value_heads = 2;
  int head_width = 16;
  // "qwen2" or "qwen3"; empty: a Llama, or with a sliding window a Mistral.
  std::string model_type;
  int sliding_window = 0;  // Qwen: of the layers from `first_windowed` on
  int first_windowed = 1;
  bool attention_bias = false;  // Llama and Qwen3: of all four projections
  bool mlp_bias = false;        // Llama
  double rope_theta = 10000.0;
  checkpoint::RopeScalingKind rope_scaling = checkpoint::RopeScalingKind::kNone;
  double rope_factor = 8.0;
  int rope_original_context = 64;  // llama3 and yarn
  bool new_spelling =
      false;  // rope_parameters and dtype instead of rope_theta, rope_scaling, torch_dtype

  // Hybrids
  std::vector<int> attention_layers = {1};
  bool fused_attention = false;           // mha.in_proj, mha.out_proj
  bool fused_mamba = false;               // Mamba-1: one mamba.in_proj
  bool repeat_before_convolution = true;  // Mamba-1 is released with true, Mamba-2 with false
  int source_width = 32;                  // d_xb
  bool dt_bias_applied_once =
      false;  // write "dt_bias_applied": 1; otherwise the released meaning, twice

  // Both Mambas. 0: the layout's default.
  int inner_width = 0;  // twice `width`; in hybrids query_heads x head_width
  int state_size = 16;
  int dt_rank = 0;  // ceil(width / 16)
  int convolution_width = 4;
  bool convolution_bias = true;
  bool projection_bias = false;  // Hugging Face: use_bias
  bool falcon = false;           // Mamba: falcon_mamba
  // Mamba-2
  int mamba2_head_width = 16;                         // in hybrids `state_size`
  int groups = 1;                                     // in hybrids the number of heads
  std::optional<std::pair<double, double>> dt_limit;  // the upper one may be infinite

  checkpoint::StorageType type = checkpoint::StorageType::kFloat32;  // or kFloat16, kBFloat16
  uint64_t seed = 1;
  int shards = 1;  // about so many files
  std::vector<int> eos_ids = {2};

  // Draws how large the logits come out: about normal with this standard deviation.
  double logit_deviation = 2.0;
};

// Creates `directory` and writes config.json, generation_config.json, mamba_config.json (hybrids)
// and the tensors. The same options give the same bytes. Weights are such that every layer has a
// say: logits spread by `logit_deviation`, time steps between 0.001 and 0.1 before the input has
// its say, A between -1 and -16.
absl::Status SaveRandomCheckpoint(const std::string& directory, const RandomModelOptions& options);

// The tensors alone, float32, in the order they are written; `type` has no effect.
struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};
std::vector<NamedTensor> DrawTensors(const RandomModelOptions& options);

// config.json and mamba_config.json (null unless hybrid) as text; Infinity is written as Python
// does.
struct ConfigTexts {
  std::string config, mamba_config, generation_config;
};
ConfigTexts WriteConfigTexts(const RandomModelOptions& options);

// One of every family, layout and variant that is released: for loops over all of them. Names are
// short and fit for test parameters.
std::vector<std::pair<std::string, RandomModelOptions>> AllVariants();

// A tokenizer.json in `directory` whose tokens are the 256 bytes, ids 3 to 258, after <unk>, <s>
// and </s>: needs a vocabulary of at least 259.
absl::Status SaveByteTokenizer(const std::string& directory);

// To nearest even; overflow becomes infinity.
uint16_t RoundToFloat16(float value);

}  // namespace mambad::support

#endif  // MAMBAD_TESTS_SUPPORT_CHECKPOINT_WRITER_H_
