// Tokenizers from the vocabulary inside a GGUF file.
#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/text/bpe_tokenizer.h"
#include "engine/text/byte_level.h"
#include "engine/text/pre_tokenizer_names.h"
#include "engine/text/tokenizer_components.h"
#include "engine/text/utf8.h"

namespace mambad::text {
namespace {

using Kind = BpeVocabulary::Kind;
using Type = BpeVocabulary::Type;

// Splitting a piece in all its places is quadratic in its length; real ones have at most 48 bytes.
constexpr size_t kLongestScoredPiece = 256;
constexpr char kSpaceMarker[] = "\xE2\x96\x81";

absl::Status Fault(const BpeVocabulary& vocabulary, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(vocabulary.source_name, ": tokenizer: ", what));
}

Type TypeOf(const BpeVocabulary& vocabulary, size_t id) {
  return vocabulary.types.empty() ? Type::kNormal : vocabulary.types[id];
}

absl::StatusOr<ByteLevelRule> RuleFor(const BpeVocabulary& vocabulary) {
  std::optional<ByteLevelRule> rule = FindByteLevelRule(vocabulary.pre_tokenizer);
  if (rule.has_value()) return *std::move(rule);
  return absl::UnimplementedError(
      absl::StrCat(vocabulary.source_name, ": tokenizer.ggml.pre: pre-tokenizer \"",
                   absl::CHexEscape(vocabulary.pre_tokenizer.substr(0, 80)),
                   "\" is not supported; these are: ", KnownByteLevelRules()));
}

absl::Status CheckVocabulary(const BpeVocabulary& vocabulary) {
  const size_t count = vocabulary.pieces.size();
  if (count == 0) return Fault(vocabulary, "expected pieces, found none");
  if (!vocabulary.types.empty() && vocabulary.types.size() != count) {
    return Fault(vocabulary,
                 absl::StrCat("expected ", count, " token types, found ", vocabulary.types.size()));
  }
  const bool scored = vocabulary.kind == Kind::kSentencePiece;
  if (scored && !vocabulary.scores.empty() && vocabulary.scores.size() != count) {
    return Fault(vocabulary,
                 absl::StrCat("expected ", count, " scores, found ", vocabulary.scores.size()));
  }
  for (size_t id = 0; id < count; ++id) {
    if (!CheckUtf8(vocabulary.pieces[id]).ok()) {
      return Fault(vocabulary, absl::StrCat("piece ", id, " is not valid UTF-8"));
    }
    if (scored && !vocabulary.scores.empty() && !std::isfinite(vocabulary.scores[id])) {
      return Fault(vocabulary, absl::StrCat("score ", id, " is not finite"));
    }
  }
  for (const auto& id : {vocabulary.bos_id, vocabulary.eos_id, vocabulary.unknown_id}) {
    if (id.has_value() && (*id < 0 || static_cast<size_t>(*id) >= count)) {
      return Fault(vocabulary, absl::StrCat("expected special ids below ", count, ", found ", *id));
    }
  }
  return absl::OkStatus();
}

std::string BytesOf(const BpeVocabulary& vocabulary, size_t id) {
  const std::string& piece = vocabulary.pieces[id];
  const Type type = TypeOf(vocabulary, id);
  if (type == Type::kControl || type == Type::kUnknown) return piece;
  if (vocabulary.kind == Kind::kByteLevel) {
    if (type == Type::kUserDefined) return piece;
    auto bytes = ByteLevelDecode(piece);
    return bytes.has_value() ? *std::move(bytes) : piece;
  }
  const int byte = type == Type::kByte ? ByteFallbackValue(piece) : -1;
  if (byte >= 0) return std::string(1, static_cast<char>(byte));
  return absl::StrReplaceAll(piece, {{kSpaceMarker, " "}});
}

// Table and added tokens. Pieces may repeat in such files: the first id keeps the spelling.
absl::Status BuildTable(const BpeVocabulary& vocabulary, BpeParts* parts) {
  parts->table = TokenTable(vocabulary.pieces.size());
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    const Type type = TypeOf(vocabulary, id);
    const bool special = type == Type::kControl || type == Type::kUnknown;
    const std::string& piece = vocabulary.pieces[id];
    absl::Status status =
        parts->table.Add(static_cast<TokenId>(id), piece, BytesOf(vocabulary, id), special);
    if (!status.ok()) return Fault(vocabulary, status.message());
    if (!special && type != Type::kUserDefined) continue;
    if (piece.empty()) continue;  // no text can spell it
    if (piece.size() > kLongestAddedToken) {
      return Fault(vocabulary, absl::StrCat("special piece ", id, ": expected at most ",
                                            kLongestAddedToken, " bytes, found ", piece.size()));
    }
    AddedToken token;
    token.id = static_cast<TokenId>(id);
    token.content = piece;
    token.special = special;
    parts->added_tokens.push_back(std::move(token));
  }
  return parts->table.BuildIndex(TokenTable::Repeats::kFirstCounts);
}

void SetBoundaries(const BpeVocabulary& vocabulary, bool bos_default, BpeParts* parts) {
  TextBoundaries& boundaries = parts->boundaries;
  boundaries.bos_id = vocabulary.bos_id;
  boundaries.eos_id = vocabulary.eos_id;
  // These files leave the begin-of-text of a conversation to whoever runs them.
  boundaries.conversations_begin_with_prefix = true;
  const auto add = [&](bool wanted, std::optional<TokenId> id, absl::string_view name,
                       std::vector<TokenId>* ids) {
    if (!wanted) return;
    if (id.has_value()) {
      ids->push_back(*id);
    } else {
      parts->warnings.push_back(
          absl::StrCat(vocabulary.source_name, ": tokenizer.ggml.add_", name,
                       "_token is true, but no such token is named: none is added"));
    }
  };
  add(vocabulary.add_bos.value_or(bos_default && vocabulary.bos_id.has_value()), vocabulary.bos_id,
      "bos", &boundaries.prefix);
  add(vocabulary.add_eos.value_or(false), vocabulary.eos_id, "eos", &boundaries.suffix);
}

absl::Status AddRankedMerges(const BpeVocabulary& vocabulary, BpeParts* parts) {
  parts->merger.Reserve(vocabulary.merges.size());
  for (size_t i = 0; i < vocabulary.merges.size(); ++i) {
    const auto& [left, right] = vocabulary.merges[i];
    const auto left_id = parts->table.IdOf(left);
    const auto right_id = parts->table.IdOf(right);
    const auto result = parts->table.IdOf(absl::StrCat(left, right));
    if (!left_id || !right_id || !result) {
      return Fault(vocabulary, absl::StrCat("merge ", i, " (\"", absl::CHexEscape(left), "\", \"",
                                            absl::CHexEscape(right),
                                            "\"): expected parts and result among the pieces"));
    }
    parts->merger.AddRule(*left_id, *right_id, static_cast<int32_t>(i), *result);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateByteLevel(const BpeVocabulary& vocabulary) {
  absl::StatusOr<ByteLevelRule> rule = RuleFor(vocabulary);
  if (!rule.ok()) return rule.status();
  BpeParts parts;
  absl::Status status = BuildTable(vocabulary, &parts);
  if (status.ok()) status = AddRankedMerges(vocabulary, &parts);
  if (!status.ok()) return status;
  SetBoundaries(vocabulary, rule->add_bos, &parts);
  parts.split_patterns.emplace();
  for (const std::string_view pattern : rule->patterns) {
    parts.split_patterns->emplace_back(pattern);
    absl::StatusOr<PreTokenizerStep> step = IsolateMatches(pattern);
    if (!step.ok()) return step.status();
    parts.pre_tokenizer.push_back(*std::move(step));
  }
  if (rule->nfc) parts.normalizer.push_back(NormalizerStep{});
  parts.symbols.byte_level = true;
  // No unknown token: files name end-of-text there, which no text may turn into.
  for (int byte = 0; byte < 256; ++byte) {
    const auto id = parts.table.IdOf(ByteLevelCharacter(static_cast<uint8_t>(byte)));
    if (id.has_value()) parts.symbols.of_byte[byte] = *id;
  }
  for (size_t id = 0; rule->ignore_merges && id < vocabulary.pieces.size(); ++id) {
    if (TypeOf(vocabulary, id) != Type::kNormal) continue;
    if (auto bytes = ByteLevelDecode(vocabulary.pieces[id])) {
      parts.whole_pieces.emplace(*std::move(bytes), static_cast<TokenId>(id));
    }
  }
  return BpeTokenizer::Create(std::move(parts));
}

// Pieces that text can become by merging, and the characters they are made of.
class ScoredSymbols {
 public:
  ScoredSymbols(const BpeVocabulary& vocabulary, BpeParts* parts) {
    for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
      const Type type = TypeOf(vocabulary, id);
      if (vocabulary.pieces[id].empty()) continue;
      if (type == Type::kNormal || type == Type::kUserDefined || type == Type::kUnused) {
        symbols_.emplace(vocabulary.pieces[id], static_cast<int32_t>(id));
      }
    }
    AddCharacters(vocabulary, parts);
  }

  int32_t Find(std::string_view text) const {
    const auto found = symbols_.find(text);
    return found == symbols_.end() ? BpeSymbols::kNone : found->second;
  }

 private:
  // A character that is no piece itself can still begin to make one.
  void AddCharacters(const BpeVocabulary& vocabulary, BpeParts* parts) {
    auto next = static_cast<int32_t>(vocabulary.pieces.size());
    for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
      if (Find(vocabulary.pieces[id]) == BpeSymbols::kNone) continue;
      for (std::string_view rest = vocabulary.pieces[id]; !rest.empty();) {
        const std::string_view character = rest.substr(0, Utf8Length(rest));
        rest.remove_prefix(character.size());
        const auto [symbol, is_new] = symbols_.emplace(character, next);
        if (is_new) {
          parts->symbols.tokenless.emplace_back(character);
          ++next;
        }
        parts->symbols.of_character.emplace(character, symbol->second);
      }
    }
  }

  StringMap<std::string_view, int32_t> symbols_;  // keys point into the vocabulary
};

// SentencePiece merges the neighbours whose joined text is the piece with the highest score.
absl::Status AddScoredMerges(const BpeVocabulary& vocabulary, BpeParts* parts) {
  const ScoredSymbols symbols(vocabulary, parts);
  std::vector<float> order = vocabulary.scores;
  std::sort(order.begin(), order.end(), std::greater<>());
  order.erase(std::unique(order.begin(), order.end()), order.end());
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    const std::string_view piece = vocabulary.pieces[id];
    if (symbols.Find(piece) != static_cast<int32_t>(id)) continue;
    if (piece.size() > kLongestScoredPiece) {
      return Fault(vocabulary, absl::StrCat("piece ", id, ": expected at most ",
                                            kLongestScoredPiece, " bytes, found ", piece.size()));
    }
    const auto rank = static_cast<int32_t>(
        std::lower_bound(order.begin(), order.end(), vocabulary.scores[id], std::greater<>()) -
        order.begin());
    for (size_t cut = Utf8Length(piece); cut < piece.size(); cut += Utf8Length(piece.substr(cut))) {
      const int32_t left = symbols.Find(piece.substr(0, cut));
      const int32_t right = symbols.Find(piece.substr(cut));
      if (left == BpeSymbols::kNone || right == BpeSymbols::kNone) continue;
      parts->merger.AddRule(left, right, rank, static_cast<int32_t>(id));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateScored(const BpeVocabulary& vocabulary) {
  BpeParts parts;
  absl::Status status = BuildTable(vocabulary, &parts);
  if (status.ok()) status = AddScoredMerges(vocabulary, &parts);
  if (!status.ok()) return status;
  SetBoundaries(vocabulary, true, &parts);
  parts.symbols.byte_fallback = true;
  parts.symbols.fuse_unknown = true;
  parts.symbols.unknown = vocabulary.unknown_id;
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    const Type type = TypeOf(vocabulary, id);
    if (!vocabulary.unknown_id && type == Type::kUnknown) parts.symbols.unknown = id;
    const int byte = type == Type::kByte ? ByteFallbackValue(vocabulary.pieces[id]) : -1;
    if (byte >= 0) parts.symbols.byte_tokens[byte] = static_cast<TokenId>(id);
  }
  parts.split_patterns.emplace();
  const std::string marker(kSpaceMarker);
  if (vocabulary.add_space_prefix) {
    parts.normalizer.push_back({NormalizerStep::Kind::kPrepend, UnicodeForm::kNfc, "", marker});
    parts.strips_leading_space = true;
  }
  parts.normalizer.push_back({NormalizerStep::Kind::kReplace, UnicodeForm::kNfc, " ", marker});
  return BpeTokenizer::Create(std::move(parts));
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateTokenizerFromVocabulary(
    BpeVocabulary vocabulary) {
  if (absl::Status status = CheckVocabulary(vocabulary); !status.ok()) return status;
  if (vocabulary.scores.empty()) vocabulary.scores.resize(vocabulary.pieces.size());
  return vocabulary.kind == Kind::kByteLevel ? CreateByteLevel(vocabulary)
                                             : CreateScored(vocabulary);
}

}  // namespace mambad::text
