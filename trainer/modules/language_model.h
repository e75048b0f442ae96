// Every model family of the checkpoint format as one differentiable function from tokens to hidden
// states: Llama, Mistral, Qwen2 and Qwen3, Mamba, Falcon Mamba, Mamba-2, hybrids of attention with
// either. Equations: the header of engine/checkpoint/parameter_table.h names the matrices,
// kernels/training_scan.h the recurrences. Agrees with the engine's logits within its tolerances.

#ifndef MAMBAD_TRAINER_MODULES_LANGUAGE_MODEL_H_
#define MAMBAD_TRAINER_MODULES_LANGUAGE_MODEL_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/model_config.h"
#include "engine/checkpoint/parameter_table.h"
#include "trainer/modules/block_functions.h"
#include "trainer/token_batch.h"

namespace mambad::trainer {

// A parameter as the table describes it, and its numbers: a leaf of the graph. Whoever keeps the
// tensor keeps a handle; an Optimizer may move its storage.
struct ModelParameter {
  checkpoint::Parameter description;
  at::Tensor value;
};

// A projection, convolution, bias or norm that belongs to a recurrent (Mamba-1 or Mamba-2) mixer;
// the layer norm before the mixer does not.
bool IsRecurrentMixerRole(checkpoint::Role role);
// Likewise of an attention layer.
bool IsAttentionRole(checkpoint::Role role);

// What a layer's mixer read, normed, and gave, before it is added to the residual stream; both [B,
// T, width]. Called in the order of layers, inside Hidden.
using MixerObserver =
    std::function<void(int layer, const at::Tensor& input, const at::Tensor& output)>;

// One thread at a time. Nothing waits for the device, except Load, Save and the constructors.
//
// Parameters are in the compute type (fp32 or fp64 on the CPU; bf16 or fp32 on CUDA), those that
// the table keeps in fp32 (norms, A_log, D, dt biases, convolutions) in fp32 (fp64 when that is the
// compute type). The residual stream is fp32 (fp64), products accumulate in fp32. Nothing is
// trained (requires a gradient) before SetTrained.
class LanguageModel {
 public:
  // A directory in one of the released layouts, or a .gguf file (whose tensors get the Hugging Face
  // layout's names). Matrices of a quantised file are rounded to bf16, whatever is computed in:
  // that is the model which the engine serves. A released hybrid's dt bias, which counts twice, is
  // doubled once and for all: config().mamba.dt_bias_applied_twice is false afterwards. Throws
  // std::runtime_error with file, tensor, expected and found.
  static std::unique_ptr<LanguageModel> Load(const std::string& path, at::Device device,
                                             at::ScalarType compute_type);

  // Random: N(0, 0.02) for matrices and the embedding, those that write to the residual stream (o,
  // down, out) divided by sqrt(residual branches); norms and D 1; A and the time steps as published
  // for Mamba (A_log = log(1..N), log U(1, 16) for Mamba-2; dt bias = softplus^-1 of a log-uniform
  // draw in [1e-3, 1e-1]), convolutions U(+-1/sqrt(W)). The same seed gives the same numbers on
  // every device, rounded to the compute type. Throws std::runtime_error for a configuration that
  // is none.
  static std::unique_ptr<LanguageModel> Create(const checkpoint::ModelConfig& config, uint64_t seed,
                                               at::Device device, at::ScalarType compute_type);

  // Parameters hold zeros. For whoever fills them.
  LanguageModel(const checkpoint::ModelConfig& config, at::Device device,
                at::ScalarType compute_type);
  LanguageModel(const LanguageModel&) = delete;
  LanguageModel& operator=(const LanguageModel&) = delete;

  // Writes a model directory (made where it is missing) that mambad and Load read: matrices in
  // `type` (kFloat32 or kBFloat16), the rest in fp32, configuration, the proposed tokens, and the
  // tokenizer and chat template files of the directory `text_source` (empty: none). A factorised
  // embedding is written multiplied out. `masters` (fp32, by parameter name) stand in the place of
  // the parameters' own numbers. Throws std::runtime_error; config.json is written last.
  void Save(const std::string& directory, checkpoint::StorageType type,
            const std::string& text_source,
            const std::map<std::string, at::Tensor>& masters = {}) const;

  const checkpoint::ModelConfig& config() const { return config_; }
  at::Device device() const { return device_; }
  at::ScalarType compute_type() const { return compute_type_; }
  // fp64 when computing in it, else fp32.
  at::ScalarType wide_type() const;

  // In the order of the table: embedding, layers, final norm, head (absent when tied).
  const std::vector<ModelParameter>& parameters() const { return parameters_; }
  // An undefined tensor when the model has no such parameter.
  at::Tensor Find(checkpoint::Role role, int layer) const;
  int64_t ParameterCount() const;

  // The tokens that a draft proposes when it is served, as the directory's file has them
  // (engine/checkpoint/proposed_tokens.h); empty: all. Head() has all rows in any case.
  const std::vector<int32_t>& proposed_tokens() const { return proposed_tokens_; }
  void SetProposedTokens(std::vector<int32_t> ids) { proposed_tokens_ = std::move(ids); }

  // Which parameters are trained; gradients are made for no others. Ends what was set before.
  void SetTrained(const std::function<bool(const checkpoint::Parameter&)>& trained);
  // Blocks keep only their input in the forward pass and run again in the backward pass: same
  // gradients, bit for bit on the CPU, less memory.
  void SetRecompute(bool recompute) { recompute_ = recompute; }

  // Final normed hidden states [B, T, width] in the compute type. Documents do not see each other:
  // attention stays inside one, positions are the batch's, recurrent state and convolution begin
  // anew. Reads token_ids, positions, document_start and the bounds. Differentiable in the trained
  // parameters. An observer sees every mixer (not with recompute, unless gradients are off).
  at::Tensor Hidden(const TokenBatch& batch, const MixerObserver& observer = nullptr) const;

  // [vocabulary, width], differentiable: logits = hidden head^T. Padded rows are left out. With a
  // factorised embedding a product: take it once per micro-batch.
  at::Tensor Head() const;

  // One layer's mixer alone on given normed input [B, T, width] of any floating type; [B, T, width]
  // in the compute type. Differentiable in input and trained parameters. With Hidden's observer on
  // a teacher: layer-wise alignment.
  at::Tensor Mixer(int layer, const at::Tensor& input, const TokenBatch& batch) const;

  // The embedding, and the head when it is tied, becomes base [padded vocabulary, e] x projection
  // [e, width]; `base` is never trained (it is another model's embedding), the projection is a
  // parameter like the others, of role kEmbedding and named "embedding_projection.weight", and
  // drawn N(0, deviation) with deviation such that rows have about the length that Create gives.
  // Makes Load's or Create's own embedding go away. Throws std::runtime_error when rows differ.
  void FactoriseEmbedding(const at::Tensor& base, uint64_t seed);
  // [padded vocabulary, width], not differentiable: the embedding multiplied out where it is
  // factorised.
  at::Tensor Embedding() const;
  // Undefined unless factorised.
  const at::Tensor& embedding_base() const { return embedding_base_; }

 private:
  friend class DecodeState;
  at::Tensor Embed(const at::Tensor& token_ids) const;

  checkpoint::ModelConfig config_;
  at::Device device_;
  at::ScalarType compute_type_;
  std::vector<ModelParameter> parameters_;
  std::map<std::pair<checkpoint::Role, int>, size_t> places_;  // in parameters_
  std::vector<int32_t> proposed_tokens_;
  at::Tensor embedding_base_;
  at::Tensor inverse_frequencies_, fused_inverse_frequencies_;  // [head_width / 2], wide type
  RotationGrowth growth_;                                       // of the former
  bool recompute_ = false;
};

// Copies the tokenizer's files and the chat template, those that there are, from one directory to
// another. Throws std::runtime_error.
void CopyTextFiles(const std::string& from, const std::string& to);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_MODULES_LANGUAGE_MODEL_H_
