// The loaded half of sentencepiece_library.h: the only file that knows the SentencePiece library.

#include "engine/text/sentencepiece_module.h"

#include <sentencepiece_processor.h>

#include <exception>

namespace mambad::text {
namespace {

class Library final : public SentencePieceLibrary {
 public:
  bool Load(std::string_view model, std::string* error) {
    try {  // the trie inside throws at keys that it cannot hold
      const auto status = processor_.LoadFromSerializedProto(model);
      if (!status.ok()) *error = status.message();
      return status.ok();
    } catch (const std::exception& exception) {
      *error = exception.what();
      return false;
    }
  }

  bool Encode(std::string_view text, std::vector<int>* ids, std::string* error) const override {
    ids->clear();
    const auto status = processor_.Encode(text, ids);
    if (!status.ok()) *error = status.message();
    return status.ok();
  }

  int size() const override { return processor_.GetPieceSize(); }
  const std::string& Piece(int id) const override { return processor_.IdToPiece(id); }
  Type TypeOf(int id) const override {
    if (processor_.IsUnknown(id)) return Type::kUnknown;
    if (processor_.IsControl(id)) return Type::kControl;
    return processor_.IsByte(id) ? Type::kByte : Type::kText;
  }
  float Score(int id) const override { return processor_.GetScore(id); }
  int bos_id() const override { return processor_.bos_id(); }
  int eos_id() const override { return processor_.eos_id(); }

 private:
  sentencepiece::SentencePieceProcessor processor_;
};

}  // namespace

}  // namespace mambad::text

const mambad::text::SentencePieceLibrary* MambadLoadSentencePiece(std::string_view model,
                                                                  std::string* error) {
  auto library = std::make_unique<mambad::text::Library>();
  if (!library->Load(model, error)) return nullptr;
  return library.release();
}
