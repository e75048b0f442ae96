// A loaded model, as its callers need to know it.

#ifndef MAMBAD_ENGINE_MODEL_INFO_H_
#define MAMBAD_ENGINE_MODEL_INFO_H_

#include <cstdint>
#include <string>
#include <vector>

#include "engine/options.h"

namespace mambad {

// Immutable.
struct ModelInfo {
  std::string family;  // "llama", "mamba", "mamba2", "hybrid"
  std::string path;
  std::string weight_type;  // "float32", "bfloat16"
  std::string fingerprint;  // of configuration and weights: engine/checkpoint/model_fingerprint.h
  // By what rules it is computed (kernels::Backend::Numerics). With equal fingerprints and numerics
  // equal requests have equal answers, on every machine.
  std::string numerics;
  int64_t parameters = 0;
  int64_t weight_bytes = 0;
  int layers = 0, attention_layers = 0, width = 0, vocabulary = 0;
  int64_t context = 0;                   // tokens of prompt + answer that this engine serves
  int64_t state_bytes_per_sequence = 0;  // recurrent state, without keys and values
  // Every end of text that config.json, generation_config.json, the tokenizer or a GGUF file names.
  // An answer ends at each of them, unless it ignores them all.
  std::vector<TokenId> eos_ids;
  int most_stop_token_ids = 0;  // that a request may add to them
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_MODEL_INFO_H_
