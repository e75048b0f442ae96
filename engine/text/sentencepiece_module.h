// The door of the loaded library that holds SentencePiece.

#ifndef MAMBAD_ENGINE_TEXT_SENTENCEPIECE_MODULE_H_
#define MAMBAD_ENGINE_TEXT_SENTENCEPIECE_MODULE_H_

#include <string>
#include <string_view>

#include "engine/text/sentencepiece_library.h"

// The caller owns the result; null with `error` set when the library refuses the model.
extern "C" __attribute__((visibility("default"))) const mambad::text::SentencePieceLibrary*
MambadLoadSentencePiece(std::string_view model, std::string* error);

#endif  // MAMBAD_ENGINE_TEXT_SENTENCEPIECE_MODULE_H_
