// One layer of a model as the kernels see it. Its pointers go into the weights that loaded it.

#ifndef MAMBAD_ENGINE_MODEL_BLOCK_H_
#define MAMBAD_ENGINE_MODEL_BLOCK_H_

#include "engine/checkpoint/model_config.h"
#include "kernels/backend.h"

namespace mambad {

// One block: a mixer and, in Llama-like models, an MLP. Exactly the layer named by `mixer` is
// filled.
struct Block {
  checkpoint::MixerKind mixer = checkpoint::MixerKind::kAttention;
  kernels::AttentionLayer attention;
  kernels::MambaLayer mamba;
  kernels::Mamba2Layer mamba2;
  bool has_mlp = false;
  kernels::MlpLayer mlp;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_MODEL_BLOCK_H_
