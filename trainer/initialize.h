// A hybrid from a Transformer: attention matrices become Mamba matrices (MambaInLlama; Wang,
// Paliotta, May, Rush, Dao 2024). value -> x, key -> B, query -> C, output -> out, everything
// outside the mixers copied.
//
// What attention has and a mixer of this layout has not:
// - Norms of query and key heads (Qwen3) become numbers: each head's rows are divided by the length
//   that it has on average over normed inputs, and multiplied by the norm's weight. B and C then
//   begin as large as the normed keys and queries were.
// - Biases of query, key and value (Qwen2) become the bias of the convolution where that passes
//   over what they were added to: x, B and C in Mamba-2, x alone in Mamba-1, whose B and C begin
//   without. The output projection's bias is left out. With `published_rest` all are.
// - The rotation is left out, as published.

#ifndef MAMBAD_TRAINER_INITIALIZE_H_
#define MAMBAD_TRAINER_INITIALIZE_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "engine/checkpoint/model_config.h"
#include "trainer/modules/language_model.h"

namespace mambad::trainer {

struct InitializeOptions {
  // Layers that are recurrent in the result, in any order. Those of the source that are already
  // keep their weights (progressive replacement) and must be among them.
  std::vector<int> recurrent_layers;
  checkpoint::MixerKind mixer = checkpoint::MixerKind::kMamba2;  // or kMamba

  // The projections: from attention, or N(0, 0.02), for comparison.
  bool from_attention = true;
  // What attention has no counterpart for. Ours: identity convolution (last tap 1, bias 0), gate
  // and time step projections N(0, 0.02). Published: convolution U(+-1/2), both projections as a
  // LibTorch linear layer starts, U(+-1/sqrt(columns)) (Mamba-1's dt_proj U(+-1/sqrt(rank))).
  bool published_rest = false;
  // Mamba-1: query rows and output columns reordered so that every group of channels meets the
  // key/value head that it had in attention. The published order does not.
  bool corrected_head_order = true;
  // N. 0: 16 for Mamba-1; Mamba-2 has the head width and no other.
  int state_size = 0;
  int convolution_width = 4;
  // Where new mixers come from that were trained already, instead of attention: a hybrid whose
  // layers of the same number are recurrent and of the same shape. Null: none. Not owned.
  const LanguageModel* trained_mixers = nullptr;
  uint64_t seed = 1;  // of every draw; a layer's draws depend on seed and layer alone
};

// What InitializeHybrid makes of a model of configuration `source`, and the same errors (but those
// of trained mixers).
checkpoint::ModelConfig HybridConfiguration(const checkpoint::ModelConfig& source,
                                            const InitializeOptions& options);

// Throws std::runtime_error unless a model of configuration `trained` has every mixer that
// `result`, made of `source`, does not have from there.
void RequireTrainedMixers(const checkpoint::ModelConfig& trained,
                          const checkpoint::ModelConfig& source,
                          const checkpoint::ModelConfig& result);

// `source`: a Llama or a hybrid; its device and compute type are the result's. Parameters are
// copies. Throws std::runtime_error: another family, layers outside the model or repeated, a
// recurrent layer of the source left out or of the other kind, head counts that the layout cannot
// hold.
std::unique_ptr<LanguageModel> InitializeHybrid(const LanguageModel& source,
                                                const InitializeOptions& options);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_INITIALIZE_H_
