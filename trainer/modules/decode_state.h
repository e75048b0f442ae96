// Decoding one token at a time for many sequences at once: what `generate` runs.

#ifndef MAMBAD_TRAINER_MODULES_DECODE_STATE_H_
#define MAMBAD_TRAINER_MODULES_DECODE_STATE_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "trainer/modules/block_functions.h"
#include "trainer/modules/language_model.h"

namespace mambad::trainer {

// Keys and values, convolution windows and recurrent states of `sequences` places. A prompt is fed
// as tokens like any others, one a step, while other places are already answering: no place waits
// for another's prompt. One thread; no gradients.
//
//   state.Reset(place); then, until the answer ends, one Step a token.
class DecodeState {
 public:
  // `model` outlives this; its parameters may change only between answers. `capacity`: tokens a
  // place can hold (memory of attention layers: sequences * capacity * 2 * key_value_heads *
  // head_width numbers a layer).
  DecodeState(const LanguageModel* model, int64_t sequences, int64_t capacity);

  // Empties a place.
  void Reset(int64_t place);

  // Feeds tokens[i] to place i; negative: place i rests and keeps what it has. Returns logits fp32
  // [sequences, vocabulary] on the device: row i is what follows tokens[i], without meaning where
  // the place rested. Throws std::runtime_error when a place is full or a token is none.
  at::Tensor Step(const std::vector<int64_t>& tokens);

  // All that Step has come to, by name, fp32 on the host: exact for every compute type. Restore
  // takes it back, of a state of the same model, sequences and capacity; throws std::runtime_error
  // for anything else.
  std::map<std::string, at::Tensor> Tensors() const;
  void Restore(const std::map<std::string, at::Tensor>& tensors);

  int64_t sequences() const { return static_cast<int64_t>(lengths_.size()); }
  int64_t capacity() const { return capacity_; }
  int64_t length(int64_t place) const { return lengths_[place]; }  // tokens fed since its Reset

 private:
  struct LayerState {
    at::Tensor keys, values;  // [sequences, key_value_heads, capacity, head_width], compute type
    at::Tensor window;        // [sequences, channels, taps - 1], wide type
    at::Tensor state;  // wide: Mamba-1 [sequences, channels, N], Mamba-2 [sequences, heads, P, N]
  };
  // Of the step being made.
  struct StepInputs {
    at::Tensor positions, columns;   // int64 [sequences]: of the token; where its key is written
    at::Tensor active;               // bool [sequences]
    at::Tensor mask, windowed_mask;  // bool [sequences, 1, 1, longest]: keys that may be seen
    Rotation rotation, fused_rotation;
    int64_t longest = 1;
    bool any_rests = false;
  };

  at::Tensor BeginStep(const std::vector<int64_t>& tokens);
  void PrepareAttention();
  at::Tensor Attention(int layer, const at::Tensor& input);
  at::Tensor Mamba(int layer, const at::Tensor& input);
  at::Tensor Mamba2(int layer, const at::Tensor& input);
  at::Tensor Convolve(int layer, const at::Tensor& input);
  void Keep(at::Tensor& kept, const at::Tensor& renewed) const;

  const LanguageModel* model_;
  int64_t capacity_;
  std::vector<int64_t> lengths_;
  std::vector<LayerState> layers_;
  StepInputs step_;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_MODULES_DECODE_STATE_H_
