// Names under which the ecosystem's own loaders find a model's tensors, besides its layout's.

#ifndef MAMBAD_ENGINE_CHECKPOINT_TENSOR_NAMES_H_
#define MAMBAD_ENGINE_CHECKPOINT_TENSOR_NAMES_H_

#include <map>
#include <set>
#include <string>

#include "nlohmann/json.hpp"

namespace mambad::checkpoint {

// For every name in `names` that a layout calls otherwise, its name there; `config` is config.json.
// - Wrappers around the whole model ("module.", "_orig_mod.") are taken off.
// - A base model saved without its head lacks "model." (Llama-like) or "backbone." (Mamba).
// - The embedding of Mamba models is "embeddings" in the Hugging Face layout and "embedding" in the
//   state-spaces one; either is taken for the other.
// - A tied head and its embedding are one tensor, which some writers store under the head's name.
// No two names become the same, and none becomes one that is there already.
std::map<std::string, std::string> LayoutNames(const std::set<std::string>& names,
                                               const nlohmann::json& config);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_TENSOR_NAMES_H_
