#include "engine/text/sentencepiece_tokenizer.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/text/added_tokens.h"
#include "engine/text/sentencepiece_cuts.h"
#include "engine/text/sentencepiece_library.h"
#include "engine/text/sentencepiece_model.h"
#include "engine/text/token_table.h"
#include "engine/text/tokenizer_components.h"
#include "engine/text/tokenizer_config.h"
#include "engine/text/utf8.h"

namespace mambad::text {
namespace {

class SentencePieceTokenizer final : public TableTokenizer {
 public:
  SentencePieceTokenizer(std::unique_ptr<const SentencePieceLibrary> library,
                         const SentencePieceFacts& facts, TokenTable table,
                         TextBoundaries boundaries, AddedTokenMatcher added_tokens)
      : TableTokenizer(std::move(table), std::move(boundaries), facts.add_dummy_prefix),
        library_(std::move(library)),
        cuts_(*library_, facts),
        added_tokens_(std::move(added_tokens)) {}

  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text,
                                              const EncodeOptions& options) const override {
    if (absl::Status status = CheckUtf8(text); !status.ok()) return status;
    std::vector<TokenId> ids;
    if (options.add_special_tokens) ids = boundaries().prefix;
    std::vector<AddedTokenMatcher::Segment> segments;
    added_tokens_.Split(text, options.parse_special, &segments);
    for (const auto& segment : segments) {
      if (segment.id != AddedTokenMatcher::kPlainText) {
        ids.push_back(segment.id);
        continue;
      }
      const absl::Status status =
          EncodePlain(text.substr(segment.begin, segment.end - segment.begin), options.over, &ids);
      if (!status.ok()) return status;
    }
    if (options.add_special_tokens) {
      ids.insert(ids.end(), boundaries().suffix.begin(), boundaries().suffix.end());
    }
    return ids;
  }

 private:
  // Long texts a part after the other.
  absl::Status EncodePlain(std::string_view plain, const std::atomic<bool>* over,
                           std::vector<TokenId>* ids) const {
    std::vector<int> part_ids;
    std::string error, guarded;
    char guard = 0;
    size_t dropped = 0;  // ids of the guard
    for (size_t begin = 0; begin < plain.size();) {
      if (over != nullptr && over->load()) return absl::CancelledError("not wanted any more");
      const SentencePieceCuts::Part part = cuts_.Next(plain, begin, kPartBytes);
      std::string_view text = plain.substr(begin, part.end - begin);
      if (text.size() > kLongestPart && cuts_.reliable()) {
        return absl::InvalidArgumentError(
            absl::StrCat(text.size(), " bytes in which any token may reach into the next, allowed ",
                         "at most ", kLongestPart));
      }
      if (guard != 0) {
        guarded.assign(1, guard);
        if (!library_->Encode(guarded, &part_ids, &error)) return Failed(error);
        dropped = part_ids.size();
        guarded.append(text);
        text = guarded;
      }
      if (!library_->Encode(text, &part_ids, &error)) return Failed(error);
      auto first = part_ids.begin() + static_cast<int64_t>(dropped);
      // The library joins unknown characters that stand side by side.
      const bool joined = begin > 0 && first != part_ids.end() && !ids->empty() &&
                          ids->back() == *first &&
                          library_->TypeOf(*first) == SentencePieceLibrary::Type::kUnknown;
      if (joined) ++first;
      ids->insert(ids->end(), first, part_ids.end());
      begin = part.end;
      guard = part.guard;
    }
    return absl::OkStatus();
  }

  static absl::Status Failed(const std::string& error) {
    return absl::InternalError(absl::StrCat("SentencePiece: ", error));
  }

  static constexpr size_t kPartBytes = 16 << 10;
  static constexpr size_t kLongestPart = 256 << 10;  // some 32 MB while the library is at work

  std::unique_ptr<const SentencePieceLibrary> library_;
  const SentencePieceCuts cuts_;
  AddedTokenMatcher added_tokens_;
};

bool IsSpecialPiece(const SentencePieceLibrary& library, int id) {
  const SentencePieceLibrary::Type type = library.TypeOf(id);
  return type == SentencePieceLibrary::Type::kControl ||
         type == SentencePieceLibrary::Type::kUnknown;
}

std::string PieceBytes(const SentencePieceLibrary& library, int id) {
  const std::string& piece = library.Piece(id);
  if (IsSpecialPiece(library, id)) return piece;
  const bool is_byte = library.TypeOf(id) == SentencePieceLibrary::Type::kByte;
  const int byte = is_byte ? ByteFallbackValue(piece) : -1;
  if (byte >= 0) return std::string(1, static_cast<char>(byte));
  return absl::StrReplaceAll(piece, {{"\xE2\x96\x81", " "}});
}

// Pieces of the model, then what the configuration adds or says otherwise.
absl::Status BuildTable(const SentencePieceLibrary& library, const TokenizerConfig& config,
                        TokenTable* table, std::vector<AddedToken>* added_tokens) {
  *added_tokens = config.added_tokens;
  std::vector<bool> listed(library.size());
  for (const AddedToken& token : *added_tokens) {
    if (token.id < library.size()) listed[token.id] = true;
  }
  for (int id = 0; id < library.size(); ++id) {
    const bool special = IsSpecialPiece(library, id);
    const std::string& piece = library.Piece(id);
    absl::Status status = table->Add(id, piece, PieceBytes(library, id), special);
    if (!status.ok()) return status;
    if (!special || listed[id] || piece.empty() || piece.size() > kLongestAddedToken) continue;
    AddedToken token;
    token.id = id;
    token.content = piece;
    token.special = true;
    added_tokens->push_back(std::move(token));
  }
  for (const AddedToken& token : config.added_tokens) {
    const bool is_piece = token.id < library.size() && !token.special;
    absl::Status status =
        table->Add(token.id, token.content,
                   is_piece ? PieceBytes(library, token.id) : token.content, token.special);
    if (!status.ok()) return status;
  }
  return table->BuildIndex();
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateFromSentencePieceModel(
    const TokenizerFiles& files) {
  const std::string source = absl::StrCat(files.source_name, "/tokenizer.model");
  absl::StatusOr<SentencePieceFacts> facts =
      InspectSentencePieceModel(files.sentencepiece_model, source);
  if (!facts.ok()) return facts.status();
  absl::StatusOr<TokenizerConfig> config = ReadTokenizerConfig(files);
  if (!config.ok()) return config.status();

  std::string error;
  std::unique_ptr<const SentencePieceLibrary> library =
      SentencePieceLibrary::Load(files.sentencepiece_model, &error);
  if (library == nullptr) return absl::InvalidArgumentError(absl::StrCat(source, ": ", error));
  TokenTable table(library->size() + config->added_tokens.size());
  std::vector<AddedToken> added_tokens;
  if (absl::Status status = BuildTable(*library, *config, &table, &added_tokens); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", status.message()));
  }
  TextBoundaries boundaries;
  if (library->bos_id() >= 0) boundaries.bos_id = library->bos_id();
  if (library->eos_id() >= 0) boundaries.eos_id = library->eos_id();
  if (!config->add_bos_token.has_value() && (boundaries.bos_id || config->bos_token)) {
    config->add_bos_token = true;
  }
  absl::Status status = ApplyBoundaries(*config, table, files.source_name, &boundaries);
  if (!status.ok()) return status;
  return std::make_unique<const SentencePieceTokenizer>(
      std::move(library), *facts, std::move(table), std::move(boundaries),
      AddedTokenMatcher(std::move(added_tokens)));
}

}  // namespace mambad::text
