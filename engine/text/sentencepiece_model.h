// What must be known of a SentencePiece file before the library may load it: the library trusts the
// file in places where a hostile one would make it read out of bounds.
#ifndef MAMBAD_ENGINE_TEXT_SENTENCEPIECE_MODEL_H_
#define MAMBAD_ENGINE_TEXT_SENTENCEPIECE_MODEL_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mambad::text {

struct SentencePieceFacts {
  enum ModelType { kUnigram = 1, kBpe = 2 };
  int model_type = kUnigram;
  int64_t pieces = 0;
  bool add_dummy_prefix = true;
  bool removes_extra_spaces = true;
  std::string character_map;     // of the normalization, serialized; empty: none
  bool has_user_pieces = false;  // pieces that every text that spells them becomes
};

// Field numbers are those of sentencepiece_model.proto. INVALID_ARGUMENT for a broken file, model
// types other than unigram and BPE, white space as suffix, and normalization maps that lead outside
// of themselves.
absl::StatusOr<SentencePieceFacts> InspectSentencePieceModel(std::string_view model,
                                                             const std::string& source);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_SENTENCEPIECE_MODEL_H_
