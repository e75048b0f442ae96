#include "engine/text/sentencepiece_model.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/text/utf8.h"

namespace mambad::text {
namespace {

// One field of a protocol buffer message.
struct Field {
  uint32_t number;
  uint32_t wire_type;      // 0: varint, 1: 8 bytes, 2: length-delimited, 5: 4 bytes
  uint64_t value;          // of types 0 and 5
  std::string_view bytes;  // of type 2
};

bool ReadVarint(std::string_view* input, uint64_t* value) {
  *value = 0;
  for (int shift = 0; shift < 64 && !input->empty(); shift += 7) {
    const auto byte = static_cast<uint8_t>(input->front());
    input->remove_prefix(1);
    *value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if ((byte & 0x80) == 0) return true;
  }
  return false;
}

bool ReadField(std::string_view* input, Field* field) {
  uint64_t tag = 0;
  if (!ReadVarint(input, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1FFFFFFF) return false;
  field->number = static_cast<uint32_t>(tag >> 3);
  field->wire_type = static_cast<uint32_t>(tag & 7);
  size_t length = 0;
  switch (field->wire_type) {
    case 0:
      return ReadVarint(input, &field->value);
    case 1:
      length = 8;
      break;
    case 2: {
      uint64_t announced = 0;
      if (!ReadVarint(input, &announced) || announced > input->size()) return false;
      length = static_cast<size_t>(announced);
      break;
    }
    case 5:
      length = 4;
      break;
    default:
      return false;
  }
  if (length > input->size()) return false;
  field->bytes = input->substr(0, length);
  if (field->wire_type == 5) {
    uint32_t value = 0;
    std::memcpy(&value, field->bytes.data(), sizeof(value));
    field->value = value;
  }
  input->remove_prefix(length);
  return true;
}

// Calls `use(field)`, which returns false to stop, for every field.
template <typename Use>
bool ForEachField(std::string_view message, const Use& use) {
  Field field{};
  while (!message.empty()) {
    if (!ReadField(&message, &field) || !use(field)) return false;
  }
  return true;
}

bool IsSoundPiece(std::string_view piece, SentencePieceFacts* facts) {
  constexpr uint64_t kUserDefined = 4;
  return ForEachField(piece, [facts](const Field& field) {
    if (field.number == 3 && field.wire_type == 0 && field.value == kUserDefined)
      facts->has_user_pieces = true;
    if (field.number == 1 && field.wire_type == 2) {
      // The library reads pieces up to the first NUL and throws at what remains.
      const bool has_nul = field.bytes.find('\0') != std::string_view::npos;
      return !has_nul && CheckUtf8(field.bytes).ok();
    }
    if (field.number == 2 && field.wire_type == 5) {
      float score = 0;
      const auto bits = static_cast<uint32_t>(field.value);
      std::memcpy(&score, &bits, sizeof(score));
      return static_cast<bool>(std::isfinite(score));
    }
    return true;
  });
}

// A node of the double array in which the map keeps its keys (Darts): bit 31 marks a value.
struct TrieUnit {
  uint32_t bits;
  bool has_leaf() const { return (bits >> 8 & 1) != 0; }
  uint32_t label() const { return bits & (0x80000000u | 0xFF); }
  uint32_t offset() const { return bits >> 10 << ((bits & (1u << 9)) >> 6); }
  uint32_t value() const { return bits & 0x7FFFFFFFu; }
};

// Every step that a text can cause stays inside the array, every value inside the texts.
bool IsSoundTrie(const std::vector<TrieUnit>& units, size_t texts_size) {
  if (units.empty()) return false;
  std::vector<bool> seen(units.size());
  std::vector<uint32_t> pending = {0};
  seen[0] = true;
  while (!pending.empty()) {
    const uint32_t node = pending.back();
    pending.pop_back();
    const uint32_t base = node ^ units[node].offset();
    // Children stand at base ^ label; a lookup reads there before it knows whether one does.
    if ((base | 0xFF) >= units.size()) return false;
    if (units[node].has_leaf() && units[base].value() >= texts_size) return false;
    for (uint32_t label = 1; label < 256; ++label) {
      const uint32_t child = base ^ label;
      if (units[child].label() != label || seen[child]) continue;
      seen[child] = true;
      pending.push_back(child);
    }
  }
  return true;
}

// uint32 size of the trie in bytes, trie, texts that end with NUL each.
bool IsSoundCharacterMap(std::string_view map) {
  if (map.empty()) return true;
  uint32_t trie_bytes = 0;
  if (map.size() <= sizeof(trie_bytes)) return false;
  std::memcpy(&trie_bytes, map.data(), sizeof(trie_bytes));
  map.remove_prefix(sizeof(trie_bytes));
  if (trie_bytes >= map.size() || trie_bytes % sizeof(TrieUnit) != 0) return false;
  std::vector<TrieUnit> units(trie_bytes / sizeof(TrieUnit));
  if (!units.empty()) std::memcpy(units.data(), map.data(), trie_bytes);
  const std::string_view texts = map.substr(trie_bytes);
  return texts.back() == '\0' && CheckUtf8(texts).ok() && IsSoundTrie(units, texts.size());
}

absl::Status ReadTrainerSpec(std::string_view spec, const std::string& source,
                             SentencePieceFacts* facts) {
  bool space_is_suffix = false;
  const bool sound = ForEachField(spec, [&](const Field& field) {
    if (field.number == 3 && field.wire_type == 0) {
      facts->model_type = static_cast<int>(field.value & 0xFFFF);
    }
    if (field.number == 24 && field.wire_type == 0) space_is_suffix = field.value != 0;
    return true;
  });
  if (!sound) return absl::InvalidArgumentError(absl::StrCat(source, ": trainer_spec is broken"));
  if (facts->model_type != SentencePieceFacts::kUnigram &&
      facts->model_type != SentencePieceFacts::kBpe) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": trainer_spec.model_type: expected 1 (unigram) or 2 (BPE), found ",
                     facts->model_type));
  }
  if (space_is_suffix) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": trainer_spec.treat_whitespace_as_suffix is not supported"));
  }
  return absl::OkStatus();
}

absl::Status ReadNormalizerSpec(std::string_view spec, const std::string& source,
                                SentencePieceFacts* facts) {
  bool escapes_spaces = true;
  bool sound_map = true;
  const bool sound = ForEachField(spec, [&](const Field& field) {
    if (field.number == 2 && field.wire_type == 2) {
      sound_map = IsSoundCharacterMap(field.bytes);
      facts->character_map = std::string(field.bytes);
    }
    if (field.number == 4 && field.wire_type == 0) facts->removes_extra_spaces = field.value != 0;
    if (field.number == 3 && field.wire_type == 0) facts->add_dummy_prefix = field.value != 0;
    if (field.number == 5 && field.wire_type == 0) escapes_spaces = field.value != 0;
    return true;
  });
  if (!sound || !sound_map) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, sound ? ": normalizer_spec.precompiled_charsmap" : ": normalizer_spec",
                     " is broken"));
  }
  if (!escapes_spaces) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": normalizer_spec.escape_whitespaces false is not supported"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SentencePieceFacts> InspectSentencePieceModel(std::string_view model,
                                                             const std::string& source) {
  SentencePieceFacts facts;
  absl::Status status;
  bool denormalizes = false;
  const bool sound = ForEachField(model, [&](const Field& field) {
    if (field.wire_type != 2) return true;
    if (field.number == 1) {
      ++facts.pieces;
      return IsSoundPiece(field.bytes, &facts);
    }
    if (field.number == 2) status = ReadTrainerSpec(field.bytes, source, &facts);
    if (field.number == 3) status = ReadNormalizerSpec(field.bytes, source, &facts);
    if (field.number == 5) {
      denormalizes = !ForEachField(
          field.bytes, [](const Field& inner) { return inner.number != 2 || inner.bytes.empty(); });
    }
    return status.ok();
  });
  if (!status.ok()) return status;
  if (!sound) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": not a sound SentencePiece model"));
  }
  if (denormalizes) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": denormalizer_spec is not supported"));
  }
  if (facts.pieces == 0) return absl::InvalidArgumentError(absl::StrCat(source, ": no pieces"));
  return facts;
}

}  // namespace mambad::text
