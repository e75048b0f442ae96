// Writes a SentencePiece model file (tokenizer.model) from pieces and scores.

#ifndef MAMBAD_TRAINER_FORMATS_SENTENCEPIECE_FILE_H_
#define MAMBAD_TRAINER_FORMATS_SENTENCEPIECE_FILE_H_

#include <cstdint>
#include <string>
#include <vector>

namespace mambad::trainer {

// What stands for a space in pieces: U+2581.
inline constexpr char kSpaceMarker[] = "\xE2\x96\x81";

// A BPE model with byte fallback and without normalisation, as Llama's tokenizers are.
struct SentencePieceFile {
  enum Type : int32_t {
    kNormal = 1,
    kUnknown = 2,
    kControl = 3,
    kUserDefined = 4,
    kUnused = 5,
    kByte = 6
  };
  struct Piece {
    std::string text;
    float score = 0;
    Type type = kNormal;
  };
  std::vector<Piece> pieces;                          // by id
  int32_t unknown_id = -1, bos_id = -1, eos_id = -1;  // -1: none
  bool add_space_prefix = true;

  // The bytes of the file (sentencepiece_model.proto's ModelProto).
  std::string Serialize() const;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_FORMATS_SENTENCEPIECE_FILE_H_
