// Tokens that end a text or a turn, known by their spelling: GGUF files name one or two of them by
// id, and many that end their turns with another piece do not name it at all.

#ifndef MAMBAD_ENGINE_CHECKPOINT_END_OF_TURN_H_
#define MAMBAD_ENGINE_CHECKPOINT_END_OF_TURN_H_

#include <cstdint>
#include <string>
#include <vector>

namespace mambad::checkpoint {

// Ascending ids of the pieces that end what a model says, as llama.cpp knows them. `types` are the
// numbers of tokenizer.ggml.token_type, one a piece, or empty. Pieces between bars ("<|im_end|>")
// count whatever their type, for no text merges into them; others ("</s>", "<eos>") only as control
// or user-defined pieces, or where no types are given. Where a piece ends a message but not the
// turn ("<|end|>" beside "<|return|>" and "<|call|>"), it is none.
std::vector<int32_t> EndsBySpelling(const std::vector<std::string>& pieces,
                                    const std::vector<int32_t>& types);

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_END_OF_TURN_H_
