// The one truth about a checkpoint's parameters: for a configuration, every tensor's name, shape
// and what it is for. Loading, training and exporting all go by it.

#ifndef MAMBAD_ENGINE_CHECKPOINT_PARAMETER_TABLE_H_
#define MAMBAD_ENGINE_CHECKPOINT_PARAMETER_TABLE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/checkpoint/model_config.h"

namespace mambad::checkpoint {

// What a tensor is for. Shapes are [rows, columns] of y = W x; symbols as in the model families'
// equations: d width, H query heads, K key/value heads, hd head width, I inner_width, N state_size,
// G groups, r dt_rank, W taps, F mlp_width.
enum class Role {
  kEmbedding,  // [padded V, d]
  kFinalNorm,  // [d]
  kHead,       // [padded V, d]; listed only when stored apart from the embedding
  kMixerNorm,  // [d], before the mixer
  kMlpNorm,    // [d], before the MLP
  kMlpGate,
  kMlpUp,    // [F, d]
  kMlpDown,  // [d, F]
  kMlpGateBias,
  kMlpUpBias,       // [F]
  kMlpDownBias,     // [d]
  kAttentionQuery,  // [H hd, d]
  kAttentionKey,
  kAttentionValue,  // [K hd, d]
  kAttentionFused,  // [(H + 2K) hd, d]: rows query, key, value
  kAttentionQueryBias,
  kAttentionKeyBias,
  kAttentionValueBias,  // as many numbers as their matrix has rows
  kAttentionOutputBias,
  kAttentionQueryNorm,
  kAttentionKeyNorm,  // [hd], the same for every head
  kAttentionOutput,   // [d, H hd]
  // Mamba-1
  kMambaIn,  // standard [2 I, d]: rows x, z. MambaInLlama fused [2 I + 2 d_xb + r, d]: rows z, x,
             // B, C, dt
  kMambaInZ,
  kMambaInX,
  kMambaInB,
  kMambaInC,
  kMambaInDt,        // MambaInLlama, apart
  kMambaSelect,      // x_proj, standard only [r + 2 N, I]: rows dt, B, C
  kMambaDt,          // dt_proj [I, r]
  kMambaDtBias,      // [I]
  kMambaALog,        // [I, N]; Mamba-2: [heads]
  kMambaD,           // [I]; Mamba-2: [heads]
  kConvolution,      // [channels, 1, W]
  kConvolutionBias,  // [channels]
  kMambaOut,         // [d, I]
  // Mamba-2 only
  kMamba2In,      // rows z, x, B, C, dt
  kMamba2DtBias,  // [heads]
  kMamba2Norm,    // [I]
  // Both, standard only
  kMambaInBias,
  kMambaOutBias,  // as many numbers as their matrix has rows
};

struct Parameter {
  Role role;
  int layer;                   // -1 outside the blocks
  std::string name;            // in the layout's own spelling
  std::vector<int64_t> shape;  // the role's; a file's may have more or fewer ones in it
  bool keep_float32;  // A_log, D, dt bias, norms, convolution: never rounded to the compute type by
                      // the engine
  bool optional;      // may be absent (a tied head that some writers store all the same)
};

class ParameterTable {
 public:
  explicit ParameterTable(const ModelConfig& config);

  const std::vector<Parameter>& parameters() const { return parameters_; }
  // nullptr when the configuration has no such parameter.
  const Parameter* Find(Role role, int layer) const;
  const Parameter* Find(const std::string& name) const;

 private:
  std::vector<Parameter> parameters_;
};

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_PARAMETER_TABLE_H_
