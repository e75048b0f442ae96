// The truth for whole models: logits in double precision straight from the published equations (the
// table in the design's page on models; each mixer's equation is repeated where it is computed),
// with plain loops, one position after another, every earlier position attended to. Shares no code
// with kernels/ or with the rest of the engine; reads the files itself.
//
// Covers the directory layouts of Llama, Mistral, Qwen2 and Qwen3, HF Mamba, Falcon Mamba and
// Mamba-2, state-spaces Mamba-1 and Mamba-2, MambaInLlama with either. Made for models some hundred
// numbers wide and sequences of some hundred tokens.

#ifndef MAMBAD_TESTS_SUPPORT_ORACLE_H_
#define MAMBAD_TESTS_SUPPORT_ORACLE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace mambad::oracle {

struct OracleOptions {
  // Round the weights of matrix products (embedding and head too) to bf16, to nearest even: what an
  // engine does that loads a float32 file as bf16. Norms, convolutions, biases, A and D stay.
  bool bfloat16_matrices = false;
  // Round the other operand of every such product to bf16 as well: the mode of bf16 activations.
  bool bfloat16_activations = false;
};

class Oracle {
 public:
  // Errors name the tensor or key; a tensor that the equations have no use for is one.
  static absl::StatusOr<std::unique_ptr<const Oracle>> Open(const std::string& directory,
                                                            const OracleOptions& options = {});
  virtual ~Oracle() = default;

  // [tokens][padded vocabulary]: the logits after each token.
  virtual std::vector<std::vector<double>> Logits(absl::Span<const int32_t> tokens) const = 0;

  // The most likely continuation, lowest id on ties; only ids below `vocabulary` are chosen. The
  // smallest gap between the two best logits on the way is returned too: where it is tiny, another
  // order of summation may choose otherwise.
  struct Continuation {
    std::vector<int32_t> tokens;
    double smallest_gap = 0;
  };
  Continuation Greedy(absl::Span<const int32_t> prompt, int count, int vocabulary) const;
};

}  // namespace mambad::oracle

#endif  // MAMBAD_TESTS_SUPPORT_ORACLE_H_
