#include "trainer/formats/sentencepiece_file.h"

namespace mambad::trainer {
namespace {

// One protocol buffer message, field by field.
class Message {
 public:
  void Number(int field, int64_t value) {
    Varint(static_cast<uint64_t>(field) << 3);
    Varint(static_cast<uint64_t>(value));
  }
  void Bytes(int field, const std::string& value) {
    Varint(static_cast<uint64_t>(field) << 3 | 2);
    Varint(value.size());
    bytes_ += value;
  }
  void Float(int field, float value) {
    Varint(static_cast<uint64_t>(field) << 3 | 5);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  const std::string& bytes() const { return bytes_; }

 private:
  void Varint(uint64_t value) {
    for (; value >= 128; value >>= 7) bytes_.push_back(static_cast<char>(value | 128));
    bytes_.push_back(static_cast<char>(value));
  }
  std::string bytes_;
};

}  // namespace

// Field numbers are those of sentencepiece_model.proto.
std::string SentencePieceFile::Serialize() const {
  constexpr int kBpe = 2;
  Message model;
  for (const Piece& piece : pieces) {
    Message message;
    message.Bytes(1, piece.text);
    message.Float(2, piece.score);
    message.Number(3, piece.type);
    model.Bytes(1, message.bytes());
  }
  Message trainer;
  trainer.Number(3, kBpe);  // model_type
  trainer.Number(4, static_cast<int64_t>(pieces.size()));
  trainer.Number(35, 1);  // byte_fallback
  trainer.Number(40, unknown_id);
  trainer.Number(41, bos_id);
  trainer.Number(42, eos_id);
  trainer.Number(43, -1);  // pad_id
  model.Bytes(2, trainer.bytes());
  Message normalizer;
  normalizer.Bytes(1, "identity");
  normalizer.Number(3, add_space_prefix ? 1 : 0);  // add_dummy_prefix
  normalizer.Number(4, 0);                         // remove_extra_whitespaces
  normalizer.Number(5, 1);                         // escape_whitespaces
  model.Bytes(3, normalizer.bytes());
  return model.bytes();
}

}  // namespace mambad::trainer
