#include "engine/text/sentencepiece_tokenizer.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/text/added_tokens.h"
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
  SentencePieceTokenizer(std::unique_ptr<const SentencePieceLibrary> library, TokenTable table,
                         TextBoundaries boundaries, bool strips_leading_space,
                         AddedTokenMatcher added_tokens)
      : TableTokenizer(std::move(table), std::move(boundaries), strips_leading_space),
        library_(std::move(library)),
        added_tokens_(std::move(added_tokens)) {}

  absl::StatusOr<std::vector<TokenId>> Encode(std::string_view text,
                                              const EncodeOptions& options) const override {
    if (absl::Status status = CheckUtf8(text); !status.ok()) return status;
    std::vector<TokenId> ids;
    if (options.add_special_tokens) ids = boundaries().prefix;
    std::vector<AddedTokenMatcher::Segment> segments;
    added_tokens_.Split(text, options.parse_special, &segments);
    std::vector<int> part;
    std::string error;
    for (const auto& segment : segments) {
      if (segment.id != AddedTokenMatcher::kPlainText) {
        ids.push_back(segment.id);
        continue;
      }
      const std::string_view plain = text.substr(segment.begin, segment.end - segment.begin);
      if (!library_->Encode(plain, &part, &error)) {
        return absl::InternalError(absl::StrCat("SentencePiece: ", error));
      }
      ids.insert(ids.end(), part.begin(), part.end());
    }
    if (options.add_special_tokens) {
      ids.insert(ids.end(), boundaries().suffix.begin(), boundaries().suffix.end());
    }
    return ids;
  }

 private:
  std::unique_ptr<const SentencePieceLibrary> library_;
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
      std::move(library), std::move(table), std::move(boundaries), facts->add_dummy_prefix,
      AddedTokenMatcher(std::move(added_tokens)));
}

}  // namespace mambad::text
