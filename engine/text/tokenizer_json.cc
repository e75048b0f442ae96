#include "engine/text/tokenizer_json.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/text/bpe_tokenizer.h"
#include "engine/text/byte_level.h"
#include "engine/text/json_reader.h"
#include "engine/text/tokenizer_components.h"
#include "engine/text/tokenizer_config.h"
#include "engine/text/utf8.h"

namespace mambad::text {
namespace {

// Everything of the document that is needed to build the parts.
struct Document {
  JsonReader model;
  std::vector<AddedToken> added_tokens;
  PreTokenizerRule pre_tokenizer;
  DecoderRule decoder;
};

// Settings of the model that change what encoding does, where it may not be done in silence.
absl::Status CheckModelSettings(const JsonReader& model) {
  absl::Status status = model.ExpectMembers(
      {"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix",
       "fuse_unk", "byte_fallback", "ignore_merges", "vocab", "merges"});
  // A model of another type has other members; name its type first.
  absl::StatusOr<std::string> type = model.Member("type").StringOr("BPE");
  if (!type.ok()) return type.status();
  if (*type != "BPE") return model.Member("type").Unexpected("\"BPE\"");
  if (!status.ok()) return status;
  const Json& dropout = model.Member("dropout").value();
  const bool drops = dropout.is_number() ? dropout.get<double>() != 0.0 : !dropout.is_null();
  if (drops) return model.Member("dropout").Unexpected("null or 0");
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    absl::StatusOr<std::string> affix = model.Member(name).StringOr("");
    if (!affix.ok()) return affix.status();
    if (!affix->empty()) return model.Member(name).Unexpected("null or \"\"");
  }
  return absl::OkStatus();
}

absl::Status ReadAddedTokens(const JsonReader& list, const TokenizerConfig& config,
                             std::vector<AddedToken>* tokens) {
  if (!list.IsNull()) {
    if (absl::Status status = list.ExpectArray(); !status.ok()) return status;
    for (size_t i = 0; i < list.value().size(); ++i) {
      absl::StatusOr<AddedToken> token = ReadAddedToken(list.Element(i), std::nullopt);
      if (!token.ok()) return token.status();
      tokens->push_back(*std::move(token));
    }
  }
  absl::flat_hash_map<TokenId, std::string> known;
  for (const AddedToken& token : *tokens) known.emplace(token.id, token.content);
  for (const AddedToken& token : config.added_tokens) {
    if (!known.contains(token.id)) tokens->push_back(token);
  }
  return absl::OkStatus();
}

absl::StatusOr<TokenTable> BuildTable(const Document& document) {
  const JsonReader vocabulary = document.model.Member("vocab");
  if (absl::Status status = vocabulary.ExpectObject(); !status.ok()) return status;
  TokenTable table(vocabulary.value().size() + document.added_tokens.size());
  for (const auto& [spelling, value] : vocabulary.value().items()) {
    if (!value.is_number_integer()) {
      return JsonReader(value,
                        absl::StrCat(vocabulary.path(), "[\"", spelling.substr(0, 80), "\"]"))
          .Unexpected("a token id");
    }
    absl::StatusOr<int32_t> id = JsonReader(value, vocabulary.path()).NonNegativeInt();
    if (!id.ok()) return id.status();
    absl::Status status =
        table.Add(*id, spelling, DecodeSpelling(document.decoder, spelling), false);
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(vocabulary.path(), ": ", status.message()));
    }
  }
  for (const AddedToken& token : document.added_tokens) {
    // The decoder sees added tokens as well. Only its byte alphabet is not for them: their content
    // is text, and some letters in it would come out as bytes.
    const DecoderRule& rule = document.decoder;
    absl::Status status = table.Add(
        token.id, token.content,
        rule.byte_level ? token.content : DecodeSpelling(rule, token.content), token.special);
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("added token: ", status.message()));
    }
  }
  if (absl::Status status = table.BuildIndex(); !status.ok()) return status;
  return table;
}

// One merge: "left right" or ["left", "right"].
absl::Status SplitMerge(const JsonReader& merge, std::string_view* left, std::string_view* right) {
  const Json& value = merge.value();
  if (value.is_string()) {
    const std::string_view text = value.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
      return merge.Unexpected("two tokens around one space");
    }
    *left = text.substr(0, space);
    *right = text.substr(space + 1);
    return absl::OkStatus();
  }
  if (!value.is_array() || value.size() != 2 || !value[0].is_string() || !value[1].is_string()) {
    return merge.Unexpected("two tokens");
  }
  *left = value[0].get_ref<const std::string&>();
  *right = value[1].get_ref<const std::string&>();
  return absl::OkStatus();
}

absl::Status ReadMerges(const JsonReader& merges, const TokenTable& table, BpeMerger* merger) {
  if (absl::Status status = merges.ExpectArray(); !status.ok()) return status;
  merger->Reserve(merges.value().size());
  for (size_t i = 0; i < merges.value().size(); ++i) {
    const JsonReader merge = merges.Element(i);
    std::string_view left, right;
    if (absl::Status status = SplitMerge(merge, &left, &right); !status.ok()) return status;
    const auto left_id = table.IdOf(left);
    const auto right_id = table.IdOf(right);
    const auto result = table.IdOf(std::string(left).append(right));
    if (!left_id || !right_id || !result)
      return merge.Unexpected("parts and result in model.vocab");
    merger->AddRule(*left_id, *right_id, static_cast<int32_t>(i), *result);
  }
  return absl::OkStatus();
}

absl::Status ReadSymbols(const Document& document, const TokenTable& table, BpeSymbols* symbols) {
  const JsonReader& model = document.model;
  absl::StatusOr<bool> byte_fallback = model.Member("byte_fallback").BoolOr(false);
  absl::StatusOr<bool> fuse = model.Member("fuse_unk").BoolOr(false);
  absl::StatusOr<std::string> unknown = model.Member("unk_token").StringOr("");
  if (!byte_fallback.ok()) return byte_fallback.status();
  if (!fuse.ok()) return fuse.status();
  if (!unknown.ok()) return unknown.status();
  symbols->byte_level = document.pre_tokenizer.byte_level;
  symbols->byte_fallback = *byte_fallback;
  symbols->fuse_unknown = *fuse;
  if (!unknown->empty()) {
    symbols->unknown = table.IdOf(*unknown);
    if (!symbols->unknown) return model.Member("unk_token").Unexpected("a token of model.vocab");
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (const auto id = table.IdOf(ByteLevelCharacter(byte))) symbols->of_byte[byte] = *id;
    if (const auto id = table.IdOf(ByteFallbackSpelling(byte))) symbols->byte_tokens[byte] = *id;
  }
  if (symbols->byte_level) return absl::OkStatus();
  for (const auto& [spelling, value] : model.Member("vocab").value().items()) {
    if (!spelling.empty() && Utf8Length(spelling) == spelling.size()) {
      symbols->of_character.emplace(spelling, value.get<int32_t>());
    }
  }
  return absl::OkStatus();
}

absl::Status ReadWholePieces(const Document& document, const TokenTable& table,
                             StringMap<std::string, TokenId>* pieces) {
  absl::StatusOr<bool> wanted = document.model.Member("ignore_merges").BoolOr(false);
  if (!wanted.ok()) return wanted.status();
  if (!*wanted) return absl::OkStatus();
  for (const auto& [spelling, value] : document.model.Member("vocab").value().items()) {
    if (!document.pre_tokenizer.byte_level) {
      pieces->emplace(spelling, *table.IdOf(spelling));
    } else if (auto bytes = ByteLevelDecode(spelling)) {
      pieces->emplace(*std::move(bytes), *table.IdOf(spelling));
    }
  }
  return absl::OkStatus();
}

// Names in the configuration are tokens of text even where the list of added tokens leaves them
// out.
void AddNamedTokens(const TokenizerConfig& config, const JsonReader& vocabulary,
                    std::vector<AddedToken>* tokens) {
  for (const auto& name : {config.bos_token, config.eos_token}) {
    if (!name.has_value() || name->empty() || name->size() > kLongestAddedToken) continue;
    const JsonReader id = vocabulary.Member(*name);
    const bool listed = std::any_of(tokens->begin(), tokens->end(), [&](const AddedToken& token) {
      return token.content == *name;
    });
    absl::StatusOr<int32_t> value = id.NonNegativeInt();
    if (listed || !value.ok()) continue;
    AddedToken token;
    token.id = *value;
    token.content = *name;
    token.special = true;
    tokens->push_back(std::move(token));
  }
}

absl::Status ReadDocument(const JsonReader& root, const TokenizerConfig& config,
                          Document* document) {
  absl::Status status =
      root.ExpectMembers({"version", "truncation", "padding", "added_tokens", "normalizer",
                          "pre_tokenizer", "post_processor", "decoder", "model"});
  if (status.ok()) status = document->model.ExpectObject();
  if (status.ok()) status = CheckModelSettings(document->model);
  if (status.ok()) {
    status = ReadAddedTokens(root.Member("added_tokens"), config, &document->added_tokens);
  }
  if (!status.ok()) return status;
  AddNamedTokens(config, document->model.Member("vocab"), &document->added_tokens);
  absl::StatusOr<PreTokenizerRule> pre_tokenizer = ReadPreTokenizer(root.Member("pre_tokenizer"));
  if (!pre_tokenizer.ok()) return pre_tokenizer.status();
  absl::StatusOr<DecoderRule> decoder = ReadDecoder(root.Member("decoder"));
  if (!decoder.ok()) return decoder.status();
  document->pre_tokenizer = *std::move(pre_tokenizer);
  document->decoder = *std::move(decoder);
  if (!document->decoder.present && document->pre_tokenizer.byte_level) {
    document->decoder.byte_level = true;  // the only reading that gives text back
  } else if (document->decoder.byte_level != document->pre_tokenizer.byte_level) {
    return root.Member("decoder").Unexpected("ByteLevel just when the pre-tokenizer is ByteLevel");
  }
  if (!document->decoder.present && !document->pre_tokenizer.byte_level) {
    return root.Member("decoder").Unexpected("a decoder");
  }
  return absl::OkStatus();
}

absl::Status CheckTemplateIds(const PostProcessorRule& rule, const TokenTable& table,
                              const JsonReader& post_processor) {
  for (const std::vector<TokenId>* ids : {&rule.prefix, &rule.suffix}) {
    for (const TokenId id : *ids) {
      if (table.Find(id) == nullptr) {
        return post_processor.Unexpected(absl::StrCat("ids of tokens, not ", id));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateFromTokenizerJson(
    const TokenizerFiles& files) {
  const std::string source = absl::StrCat(files.source_name, "/tokenizer.json");
  absl::StatusOr<TokenizerConfig> config = ReadTokenizerConfig(files);
  if (!config.ok()) return config.status();
  absl::StatusOr<Json> json = ParseJson(files.tokenizer_json, source);
  if (!json.ok()) return json.status();
  const JsonReader root(*json, source + ": ");
  Document document{root.Member("model"), {}, {}, {}};
  if (absl::Status status = ReadDocument(root, *config, &document); !status.ok()) return status;

  BpeParts parts;
  absl::StatusOr<TokenTable> table = BuildTable(document);
  if (!table.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": ", table.status().message()));
  }
  parts.table = *std::move(table);
  absl::Status status = ReadMerges(document.model.Member("merges"), parts.table, &parts.merger);
  if (status.ok()) status = ReadSymbols(document, parts.table, &parts.symbols);
  if (status.ok()) status = ReadWholePieces(document, parts.table, &parts.whole_pieces);
  if (!status.ok()) return status;
  absl::StatusOr<std::vector<NormalizerStep>> normalizer =
      ReadNormalizer(root.Member("normalizer"));
  if (!normalizer.ok()) return normalizer.status();
  absl::StatusOr<PostProcessorRule> post = ReadPostProcessor(root.Member("post_processor"));
  if (!post.ok()) return post.status();
  status = CheckTemplateIds(*post, parts.table, root.Member("post_processor"));
  if (!status.ok()) return status;
  parts.boundaries.prefix = std::move(post->prefix);
  parts.boundaries.suffix = std::move(post->suffix);
  status = ApplyBoundaries(*config, parts.table, files.source_name, &parts.boundaries);
  if (!status.ok()) return status;
  parts.strips_leading_space = document.decoder.strips_leading_space;
  parts.added_tokens = std::move(document.added_tokens);
  parts.normalizer = *std::move(normalizer);
  parts.pre_tokenizer = std::move(document.pre_tokenizer.steps);
  return BpeTokenizer::Create(std::move(parts));
}

}  // namespace mambad::text
