#include "engine/text/sentencepiece_tokenizer.h"

#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/text/absl_view.h"
#include "engine/text/added_tokens.h"
#include "engine/text/sentencepiece_cuts.h"
#include "engine/text/sentencepiece_library.h"
#include "engine/text/sentencepiece_model.h"
#include "engine/text/token_table.h"
#include "engine/text/tokenizer_components.h"
#include "engine/text/tokenizer_config.h"
#include "engine/text/tokenizer_export.h"
#include "engine/text/utf8.h"
#include "nlohmann/json.hpp"

namespace mambad::text {
namespace {

constexpr std::string_view kMarker = "\xE2\x96\x81";

// Sets normalizer_spec.add_dummy_prefix: what comes last in a serialized model counts.
constexpr std::string_view kWithPrefix("\x1A\x02\x18\x01", 4);
constexpr std::string_view kWithoutPrefix("\x1A\x02\x18\x00", 4);

// One way of reading text.
struct Reader {
  std::unique_ptr<const SentencePieceLibrary> library;
  std::unique_ptr<const SentencePieceCuts> cuts;
};

// How the beginning of a stretch of plain text is read.
struct Readers {
  Reader first;
  Reader bare;  // without the dummy prefix; no library: `first` has none either
  // Text after a special token, and text that begins with a space, has no dummy prefix.
  bool only_at_start = false;

  // `goes_on`: the stretch goes on where another text ended.
  const Reader& Choose(std::string_view plain, bool at_start, bool goes_on) const {
    const bool prefixed = plain.front() == ' ' || plain.substr(0, kMarker.size()) == kMarker;
    const bool wants_bare = goes_on || (only_at_start && (!at_start || prefixed));
    return wants_bare && bare.library != nullptr ? bare : first;
  }
};

class SentencePieceTokenizer final : public TableTokenizer {
 public:
  // `strips_leading_space`: there is a dummy prefix.
  SentencePieceTokenizer(SentencePieceFacts facts, Readers readers, TokenTable table,
                         TextBoundaries boundaries, bool strips_leading_space,
                         std::vector<std::string> warnings, AddedTokenMatcher added_tokens)
      : TableTokenizer(std::move(table), std::move(boundaries), strips_leading_space,
                       std::move(warnings)),
        facts_(std::move(facts)),
        readers_(std::move(readers)),
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
      const std::string_view plain = text.substr(segment.begin, segment.end - segment.begin);
      const bool at_start = segment.begin == 0;
      const absl::Status status = EncodePlain(
          readers_.Choose(plain, at_start, at_start && options.goes_on), plain, options.over, &ids);
      if (!status.ok()) return status;
    }
    if (options.add_special_tokens) {
      ids.insert(ids.end(), boundaries().suffix.begin(), boundaries().suffix.end());
    }
    return ids;
  }

  absl::StatusOr<std::string> ToJson() const override {
    if (facts_.has_user_pieces) {
      return absl::UnimplementedError(
          "tokenizer.model has pieces of the user's own, which tokenizer.json cannot say");
    }
    ExportedTokenizer exported{table(), boundaries()};
    exported.added_tokens = added_tokens_.tokens();
    exported.character_map = facts_.character_map;
    exported.removes_extra_spaces = facts_.removes_extra_spaces;
    exported.strips_leading_space = strips_leading_space();
    if (strips_leading_space() && readers_.only_at_start) {
      exported.first_marker = kMarker;
    } else {
      if (strips_leading_space()) exported.normalizer.push_back(MarkerStep(true));
      exported.normalizer.push_back(MarkerStep(false));
    }
    return TokenizerJson(exported, ModelJson());
  }

 private:
  // A marker before the text, or one for each space.
  static NormalizerStep MarkerStep(bool prepend) {
    NormalizerStep step;
    step.kind = prepend ? NormalizerStep::Kind::kPrepend : NormalizerStep::Kind::kReplace;
    if (!prepend) step.pattern = " ";
    step.content = kMarker;
    return step;
  }

  nlohmann::json ModelJson() const {
    using Type = SentencePieceLibrary::Type;
    const SentencePieceLibrary& library = *readers_.first.library;
    std::vector<std::string> pieces;
    std::vector<float> scores;
    std::vector<bool> is_plain;
    TokenId unknown = 0;
    bool has_bytes = false;
    for (int id = 0; id < library.size(); ++id) {
      const Type type = library.TypeOf(id);
      pieces.push_back(library.Piece(id));
      scores.push_back(library.Score(id));
      is_plain.push_back(type == Type::kText);
      if (type == Type::kUnknown) unknown = id;
      has_bytes = has_bytes || type == Type::kByte;
    }
    if (facts_.model_type == SentencePieceFacts::kUnigram)
      return UnigramModelJson(pieces, scores, unknown, has_bytes);
    ExportedBpe model{table()};
    model.merges = ScoredMerges(pieces, scores, is_plain);
    model.unknown = unknown;
    model.fuse_unknown = true;
    model.byte_fallback = has_bytes;
    return BpeModelJson(model);
  }

  // Long texts a part after the other.
  static absl::Status EncodePlain(const Reader& reader, std::string_view plain,
                                  const std::atomic<bool>* over, std::vector<TokenId>* ids) {
    const SentencePieceLibrary& library = *reader.library;
    std::vector<int> part_ids;
    std::string error, guarded;
    char guard = 0;
    for (size_t begin = 0; begin < plain.size();) {
      if (over != nullptr && over->load()) return absl::CancelledError("not wanted any more");
      const SentencePieceCuts::Part part = reader.cuts->Next(plain, begin, kPartBytes);
      std::string_view text = plain.substr(begin, part.end - begin);
      if (text.size() > kLongestPart && reader.cuts->reliable()) {
        return absl::InvalidArgumentError(absl::StrCat(
            text.size(), " bytes in which any token may reach into the next, allowed ", "at most ",
            kLongestPart, ": put spaces or line ends among them, or give token ids"));
      }
      size_t dropped = 0;  // ids of the guard
      if (guard != 0) {
        guarded.assign(1, guard);
        if (!library.Encode(guarded, &part_ids, &error)) return Failed(error);
        dropped = part_ids.size();
        guarded.append(text);
        text = guarded;
      }
      if (!library.Encode(text, &part_ids, &error)) return Failed(error);
      auto first = part_ids.begin() + static_cast<int64_t>(dropped);
      // The library joins unknown characters that stand side by side.
      const bool joined = begin > 0 && first != part_ids.end() && !ids->empty() &&
                          ids->back() == *first &&
                          library.TypeOf(*first) == SentencePieceLibrary::Type::kUnknown;
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

  const SentencePieceFacts facts_;
  const Readers readers_;
  const AddedTokenMatcher added_tokens_;
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
class TableBuilder {
 public:
  TableBuilder(const SentencePieceLibrary& library, const TokenizerFiles& files,
               TokenizerConfig* config)
      : library_(library),
        files_(files),
        config_(*config),
        table(library.size() + config->added_tokens.size()) {}

  absl::Status Build() {
    for (int id = 0; id < library_.size(); ++id) {
      absl::Status status =
          table.Add(id, library_.Piece(id), PieceBytes(library_, id), IsSpecialPiece(library_, id));
      if (!status.ok()) return status;
    }
    if (absl::Status status = table.BuildIndex(); !status.ok()) return status;
    for (const AddedToken& token : config_.added_tokens) {
      if (absl::Status status = AddListed(token); !status.ok()) return status;
    }
    if (absl::Status status = table.BuildIndex(TokenTable::Repeats::kFirstCounts); !status.ok())
      return status;
    AddControls();
    next_row_ = table.different_tokens();
    for (const AddedToken& token : config_.named_tokens) {
      if (absl::Status status = AddNamed(token); !status.ok()) return status;
    }
    return table.BuildIndex(TokenTable::Repeats::kFirstCounts);
  }

 private:
  absl::Status AddListed(const AddedToken& token) {
    if (files_.model_vocabulary > 0 && token.id >= files_.model_vocabulary) {
      config_.warnings.push_back(LeftOutText(files_, token));
      return absl::OkStatus();
    }
    listed_.insert(token.id);
    added_tokens.push_back(token);
    const bool same = token.id < library_.size() && library_.Piece(token.id) == token.content;
    if (same && !token.special) {
      return table.Add(token.id, token.content, PieceBytes(library_, token.id), false);
    }
    // A reserved piece may get another name.
    return table.Replace(token.id, token.content, token.content, token.special);
  }

  // Control pieces are found in text though nobody lists them.
  void AddControls() {
    for (int id = 0; id < library_.size(); ++id) {
      const std::string& piece = library_.Piece(id);
      if (!IsSpecialPiece(library_, id) || listed_.contains(id) || piece.empty() ||
          piece.size() > kLongestAddedToken) {
        continue;
      }
      AddedToken token;
      token.id = id;
      token.content = piece;
      token.special = true;
      added_tokens.push_back(std::move(token));
    }
  }

  // A piece that the configuration names ("pad_token") is a special token; what is no piece gets a
  // row of its own.
  absl::Status AddNamed(AddedToken token) {
    const std::optional<TokenId> id = table.IdOf(token.content);
    if (!id.has_value()) return AddRow(std::move(token));
    if (listed_.contains(*id)) return absl::OkStatus();
    token.id = *id;
    table.SetSpecial(*id);
    if (*id >= library_.size() || !IsSpecialPiece(library_, *id)) {
      added_tokens.push_back(std::move(token));
    }
    return absl::OkStatus();
  }

  // Behind as many rows as there are different tokens. New rows are only there where it is known
  // how many the model has.
  absl::Status AddRow(AddedToken token) {
    if (files_.model_vocabulary == 0) return absl::OkStatus();
    while (table.Find(next_row_) != nullptr) ++next_row_;
    token.id = next_row_++;
    if (token.id >= files_.model_vocabulary) {
      config_.warnings.push_back(LeftOutText(files_, token));
      return absl::OkStatus();
    }
    added_tokens.push_back(token);
    return table.Add(token.id, token.content, token.content, /*special=*/true);
  }

  const SentencePieceLibrary& library_;
  const TokenizerFiles& files_;
  TokenizerConfig& config_;
  absl::flat_hash_set<TokenId> listed_;
  TokenId next_row_ = 0;

 public:
  TokenTable table;
  std::vector<AddedToken> added_tokens;
};

// How the file's dummy prefix is meant: see the header.
absl::StatusOr<Readers> LoadReaders(const std::string& model, const std::string& source,
                                    const SentencePieceFacts& facts, const TokenizerConfig& config,
                                    bool* prefix) {
  std::string error;
  const auto load = [&](std::string_view setting, Reader* reader) {
    reader->library = SentencePieceLibrary::Load(absl::StrCat(model, AbslView(setting)), &error);
    if (reader->library == nullptr) return false;
    reader->cuts = std::make_unique<const SentencePieceCuts>(*reader->library, facts);
    return true;
  };
  Readers readers;
  const bool wanted = config.add_prefix_space.value_or(*prefix);
  bool loaded = load(wanted == *prefix ? ""
                     : wanted          ? kWithPrefix
                                       : kWithoutPrefix,
                     &readers.first);
  *prefix = wanted;
  readers.only_at_start = !config.legacy.value_or(true);
  if (loaded && wanted) loaded = load(kWithoutPrefix, &readers.bare);
  if (!loaded) return absl::InvalidArgumentError(absl::StrCat(source, ": ", error));
  return readers;
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateFromSentencePieceModel(
    const TokenizerFiles& files, std::vector<std::string> warnings) {
  const std::string source = absl::StrCat(files.source_name, "/tokenizer.model");
  absl::StatusOr<SentencePieceFacts> facts =
      InspectSentencePieceModel(files.sentencepiece_model, source);
  if (!facts.ok()) return facts.status();
  absl::StatusOr<TokenizerConfig> config = ReadTokenizerConfig(files);
  if (!config.ok()) return config.status();

  bool prefix = facts->add_dummy_prefix;
  absl::StatusOr<Readers> readers =
      LoadReaders(files.sentencepiece_model, source, *facts, *config, &prefix);
  if (!readers.ok()) return readers.status();
  const SentencePieceLibrary& library = *readers->first.library;
  TableBuilder builder(library, files, &*config);
  if (absl::Status status = builder.Build(); !status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", status.message()));
  }
  TextBoundaries boundaries;
  if (library.bos_id() >= 0) boundaries.bos_id = library.bos_id();
  if (library.eos_id() >= 0) boundaries.eos_id = library.eos_id();
  if (!config->add_bos_token.has_value() && (boundaries.bos_id || config->bos_token)) {
    config->add_bos_token = true;
  }
  ApplyBoundaries(*config, builder.table, files.source_name, &boundaries, &config->warnings);
  warnings.insert(warnings.end(), config->warnings.begin(), config->warnings.end());
  ShortenWarnings(files.source_name, &warnings);
  return std::make_unique<const SentencePieceTokenizer>(
      *std::move(facts), *std::move(readers), std::move(builder.table), std::move(boundaries),
      prefix, std::move(warnings), AddedTokenMatcher(std::move(builder.added_tokens)));
}

}  // namespace mambad::text
