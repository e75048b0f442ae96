// Tiny models of every family and layout, weights by a formula: the same numbers on every machine,
// written as the released model directories are. Names, shapes and row orders are spelled out here
// from the published layouts, without engine/checkpoint.

#ifndef MAMBAD_TESTS_SUPPORT_FORMULA_MODELS_H_
#define MAMBAD_TESTS_SUPPORT_FORMULA_MODELS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "tests/support/model_directory.h"

namespace mambad::testing {

struct FormulaModel {
  std::string name;
  std::string family;  // "llama", "mamba", "mamba2", "hybrid"
  int vocabulary = 0;  // ids that may be sampled
  int padded_vocabulary = 0;
  ModelDirectory directory;
};

// Letters and underscores only, fit for test names:
//   llama_tied         head width apart from width / heads, tied head
//   llama_llama3       llama3 RoPE scaling, untied
//   llama_linear       linear RoPE scaling in the newer rope_parameters spelling
//   llama_biases       attention_bias and mlp_bias
//   llama_yarn         YaRN, head width 16
//   llama_dynamic      dynamic NTK scaling past 24 positions
//   mistral_window     sliding window of 7
//   qwen2              q, k and v biases, a window of 9 from layer 1 on, tied
//   qwen3              norms of q and k heads, head width 12, layer_types with a window of 7, YaRN
//   falcon_mamba       Mamba with norms on dt, B and C, biases of in_proj and out_proj
//   mamba2_biases      biases of in_proj and out_proj
//   hybrid_qwen3       Mamba-2 beside a Qwen3 layer
//   mamba              HF layout, tied
//   mamba_rank         HF layout: own dt rank, no convolution bias, untied, keys of state-spaces
//                      left over in config.json
//   mamba_state_spaces padded vocabulary, head stored though tied
//   mamba2             HF layout, one group, untied, unquoted Infinity
//   mamba2_infinity    the same; the infinite time step limit as newer transformers write it
//   mamba2_groups      HF layout, two groups, time step limits, tied
//   mamba2_state_spaces
//   hybrid_mamba       MambaInLlama, Mamba-1, projections apart, self_attn layer with llama3
//                      scaling, dt bias meant twice
//   hybrid_mamba_fused one in_proj, mha layer
//   hybrid_mamba_late  repeat after the convolution
//   hybrid_mamba_once  dt_bias_applied: dt bias meant once
//   hybrid_mamba2      repeat after the convolution (that family's default), Mistral config with a
//                      window
//   hybrid_mamba2_early  repeat before it, time step limits
const std::vector<std::string>& FormulaModelNames();

// `seed` changes the weights, not the shapes: two seeds make a target and a draft with one
// vocabulary. Aborts on an unknown name.
FormulaModel MakeFormulaModel(const std::string& name, uint64_t seed = 0);

// A sequence of ids below `vocabulary`, by a formula.
std::vector<int32_t> FormulaTokens(int count, int vocabulary, uint64_t seed = 0);

}  // namespace mambad::testing

#endif  // MAMBAD_TESTS_SUPPORT_FORMULA_MODELS_H_
