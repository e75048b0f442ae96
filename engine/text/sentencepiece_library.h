// The SentencePiece library behind standard types only: its header declares names of Abseil's
// namespace that clash with Abseil's own headers. And behind a library of its own, loaded when the
// first model asks for it (libmambad_sentencepiece.so, looked for beside the program): it exports
// the protobuf of its day, which must not meet the one of the program.

#ifndef MAMBAD_ENGINE_TEXT_SENTENCEPIECE_LIBRARY_H_
#define MAMBAD_ENGINE_TEXT_SENTENCEPIECE_LIBRARY_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace mambad::text {

// Immutable; safe from any thread.
class SentencePieceLibrary {
 public:
  // nullptr with `error` set when the library cannot be loaded or refuses the model, which must
  // have passed InspectSentencePieceModel.
  static std::unique_ptr<const SentencePieceLibrary> Load(std::string_view model,
                                                          std::string* error);
  virtual ~SentencePieceLibrary() = default;

  // Ids of valid UTF-8 in place of `ids`. False with `error` set when the library fails.
  virtual bool Encode(std::string_view text, std::vector<int>* ids, std::string* error) const = 0;

  enum class Type { kText, kUnknown, kControl, kByte };
  virtual int size() const = 0;
  // For 0 <= id < size().
  virtual const std::string& Piece(int id) const = 0;
  virtual Type TypeOf(int id) const = 0;
  // Higher is merged earlier (BPE) or likelier (unigram).
  virtual float Score(int id) const = 0;
  // Negative when the model has none.
  virtual int bos_id() const = 0;
  virtual int eos_id() const = 0;
};

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_SENTENCEPIECE_LIBRARY_H_
