#include "engine/text/bpe_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/memory/memory.h"
#include "absl/strings/str_cat.h"
#include "engine/text/tokenizer_export.h"
#include "engine/text/utf8.h"
#include "nlohmann/json.hpp"

namespace mambad::text {

struct BpeTokenizer::Work {
  const std::atomic<bool>* over;
  std::vector<TokenId> ids;
  std::vector<AddedTokenMatcher::Segment> segments;
  Pieces pieces;
  std::vector<int32_t> symbols;
  BpeMerger::Scratch scratch;
};

absl::StatusOr<std::unique_ptr<const Tokenizer>> BpeTokenizer::Create(BpeParts parts) {
  const Normalizer normalizer(parts.normalizer);
  std::vector<AddedToken> raw, normalized;
  for (const AddedToken& token : parts.added_tokens) {
    if (!token.normalized) {
      raw.push_back(token);
      continue;
    }
    absl::StatusOr<std::string> content = normalizer.Normalize(token.content);
    if (!content.ok()) return content.status();
    if (content->empty() || content->size() > kLongestAddedToken) {
      return absl::InvalidArgumentError(absl::StrCat("added token ", token.id, ": its normalized ",
                                                     "content has ", content->size(),
                                                     " bytes; expected 1 to ", kLongestAddedToken));
    }
    normalized.push_back(token);
    normalized.back().content = *std::move(content);
  }
  return absl::WrapUnique<const Tokenizer>(
      new BpeTokenizer(std::move(parts), AddedTokenMatcher(std::move(raw)),
                       AddedTokenMatcher(std::move(normalized))));
}

BpeTokenizer::BpeTokenizer(BpeParts parts, AddedTokenMatcher raw, AddedTokenMatcher normalized)
    : TableTokenizer(std::move(parts.table), std::move(parts.boundaries),
                     parts.strips_leading_space, std::move(parts.warnings)),
      raw_tokens_(std::move(raw)),
      normalized_tokens_(std::move(normalized)),
      normalizer_(std::move(parts.normalizer)),
      pre_tokenizer_(std::move(parts.pre_tokenizer)),
      merger_(std::move(parts.merger)),
      symbols_(std::move(parts.symbols)),
      whole_pieces_(std::move(parts.whole_pieces)),
      split_patterns_(std::move(parts.split_patterns)) {
  merger_.Seal();
}

absl::StatusOr<std::vector<TokenId>> BpeTokenizer::Encode(std::string_view text,
                                                          const EncodeOptions& options) const {
  if (absl::Status status = CheckUtf8(text); !status.ok()) return status;
  Work work{};
  work.over = options.over;
  if (options.add_special_tokens) work.ids = boundaries().prefix;
  std::vector<AddedTokenMatcher::Segment> segments;
  raw_tokens_.Split(text, options.parse_special, &segments);
  for (const auto& segment : segments) {
    if (segment.id != AddedTokenMatcher::kPlainText) {
      work.ids.push_back(segment.id);
      continue;
    }
    const absl::Status status = EncodePlain(text.substr(segment.begin, segment.end - segment.begin),
                                            segment.begin == 0, options, &work);
    if (!status.ok()) return status;
  }
  if (options.add_special_tokens) {
    work.ids.insert(work.ids.end(), boundaries().suffix.begin(), boundaries().suffix.end());
  }
  return std::move(work.ids);
}

absl::Status BpeTokenizer::EncodePlain(std::string_view text, bool at_start,
                                       const EncodeOptions& options, Work* work) const {
  const bool goes_on = at_start && options.goes_on;
  std::string changed;
  if (!normalizer_.changes_nothing()) {
    absl::StatusOr<std::string> normalized = normalizer_.Normalize(text, goes_on);
    if (!normalized.ok()) return normalized.status();
    changed = *std::move(normalized);
    text = changed;
  }
  normalized_tokens_.Split(text, options.parse_special, &work->segments);
  for (const auto& segment : work->segments) {
    if (segment.id != AddedTokenMatcher::kPlainText) {
      work->ids.push_back(segment.id);
      continue;
    }
    const bool first = segment.begin == 0;
    const absl::Status status =
        pre_tokenizer_.Split(text.substr(segment.begin, segment.end - segment.begin),
                             at_start && !goes_on && first, &work->pieces, goes_on && first);
    if (!status.ok()) return status;
    for (const std::string_view piece : work->pieces.pieces) {
      if (work->over != nullptr && work->over->load())
        return absl::CancelledError("not wanted any more");
      EncodePiece(piece, work);
    }
  }
  return absl::OkStatus();
}

void BpeTokenizer::EncodePiece(std::string_view piece, Work* work) const {
  if (!whole_pieces_.empty()) {
    if (const auto found = whole_pieces_.find(piece); found != whole_pieces_.end()) {
      work->ids.push_back(found->second);
      return;
    }
  }
  std::vector<int32_t>& symbols = work->symbols;
  symbols.clear();
  if (symbols_.byte_level) {
    for (const char byte : piece) {
      const int32_t symbol = symbols_.of_byte[static_cast<uint8_t>(byte)];
      if (symbol != BpeSymbols::kNone) {
        symbols.push_back(symbol);
      } else {
        AppendUnknown(std::string_view(&byte, 1), &symbols);
      }
    }
  } else {
    while (!piece.empty()) {
      const std::string_view character = piece.substr(0, Utf8Length(piece));
      const auto found = symbols_.of_character.find(character);
      if (found != symbols_.of_character.end()) {
        symbols.push_back(found->second);
      } else {
        AppendUnknown(character, &symbols);
      }
      piece.remove_prefix(character.size());
    }
  }
  merger_.Merge(&symbols, &work->scratch);
  for (const int32_t symbol : symbols) {
    if (symbol < table().size()) {
      work->ids.push_back(symbol);
    } else {
      AppendUnknown(symbols_.tokenless[symbol - table().size()], &work->ids);
    }
  }
}

absl::StatusOr<std::string> BpeTokenizer::ToJson() const {
  if (!split_patterns_.has_value()) return Tokenizer::ToJson();
  ExportedTokenizer exported{table(), boundaries()};
  exported.added_tokens = raw_tokens_.tokens();
  exported.normalizer = normalizer_.steps();
  exported.split_patterns = *split_patterns_;
  exported.byte_level = symbols_.byte_level;
  exported.strips_leading_space = strips_leading_space();
  ExportedBpe model{table()};
  model.unknown = symbols_.unknown;
  model.fuse_unknown = symbols_.fuse_unknown;
  model.byte_fallback = symbols_.byte_fallback;
  model.ignore_merges = !whole_pieces_.empty();
  for (const BpeMerger::Pair& pair : merger_.Pairs()) {
    // Characters without a token cannot be named there.
    if (std::max({pair.left, pair.right, pair.result}) < table().size())
      model.merges.emplace_back(pair.left, pair.right);
  }
  return TokenizerJson(exported, BpeModelJson(model));
}

void BpeTokenizer::AppendUnknown(std::string_view character, std::vector<int32_t>* symbols) const {
  if (symbols_.byte_fallback) {
    bool all = true;
    for (const char byte : character) {
      all = all && symbols_.byte_tokens[static_cast<uint8_t>(byte)] != BpeSymbols::kNone;
    }
    if (all) {
      for (const char byte : character) {
        symbols->push_back(symbols_.byte_tokens[static_cast<uint8_t>(byte)]);
      }
      return;
    }
  }
  if (!symbols_.unknown.has_value()) return;
  const bool after_unknown = !symbols->empty() && symbols->back() == *symbols_.unknown;
  if (!symbols_.fuse_unknown || !after_unknown) symbols->push_back(*symbols_.unknown);
}

}  // namespace mambad::text
