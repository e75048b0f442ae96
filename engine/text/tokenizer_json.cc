#include "engine/text/tokenizer_json.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/json/json_text.h"
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
  size_t vocabulary_left_out = 0;  // tokens of model.vocab that the model has no rows for
  std::vector<std::string> warnings;
};

// Settings of the model that change what encoding does, where it may not be done in silence.
absl::Status CheckModelSettings(const JsonReader& model) {
  absl::StatusOr<std::string> type = model.Member("type").StringOr("BPE");
  if (!type.ok()) return type.status();
  // Files from before models had a type: those of BPE have merges.
  const bool typed = !model.Member("type").IsNull() || !model.Member("merges").IsNull();
  if (*type != "BPE" || !typed) {
    return model.Member("type").Unsupported(typed ? *type : "null",
                                            "BPE (Unigram where tokenizer.model lies beside)");
  }
  const JsonReader dropout = model.Member("dropout");
  const bool drops =
      dropout.value().is_number() ? dropout.value().get<double>() != 0.0 : !dropout.IsNull();
  if (drops) return dropout.Unexpected("null or 0");
  for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    absl::StatusOr<std::string> affix = model.Member(name).StringOr("");
    if (!affix.ok()) return affix.status();
    if (!affix->empty()) return model.Member(name).Unexpected("null or \"\"");
  }
  return absl::OkStatus();
}

// The added tokens of the file, in its order, those that the configuration lists otherwise or
// besides, and those that it names. Tokens are the same when their content is: then the
// configuration's flags count, but what is special once stays so.
class AddedTokenList {
 public:
  // `vocabulary`: model.vocab.
  AddedTokenList(const TokenizerFiles& files, const JsonReader& vocabulary, TokenizerConfig* config)
      : files_(files), vocabulary_(vocabulary), config_(*config) {}

  absl::Status Read(const JsonReader& list) {
    for (const auto& [spelling, value] : vocabulary_.value().items()) {
      if (value.is_number_integer()) Count(value.get<int64_t>());
    }
    numbers_anew_ = next_id_ == static_cast<int64_t>(vocabulary_.value().size());
    if (!list.IsNull()) {
      if (absl::Status status = list.ExpectArray(); !status.ok()) return status;
      for (size_t i = 0; i < list.value().size(); ++i) {
        absl::StatusOr<AddedToken> token = ReadAddedToken(list.Element(i), std::nullopt);
        if (!token.ok()) return token.status();
        AppendListed(list.Element(i), *std::move(token));
      }
    }
    for (const AddedToken& token : config_.added_tokens) Merge(token);
    // New rows are only there where it is known how many the model has.
    for (const AddedToken& token : config_.named_tokens) {
      const bool known = by_content_.contains(token.content);
      if (!known && (files_.model_vocabulary > 0 || IdInVocabulary(token.content))) Merge(token);
    }
    return absl::OkStatus();
  }

  std::vector<AddedToken> tokens;
  std::vector<std::string> warnings;

 private:
  // What is no id is refused later.
  void Count(int64_t id) {
    next_id_ = std::max(next_id_, std::min<int64_t>(id, kLargestTokenId) + 1);
  }

  std::optional<TokenId> IdInVocabulary(const std::string& content) const {
    absl::StatusOr<int32_t> id = vocabulary_.Member(content).NonNegativeInt();
    return id.ok() ? std::optional<TokenId>(*id) : std::nullopt;
  }

  // As the tokenizers library numbers them, whatever the file says: by the vocabulary, else behind
  // it and those before. The first of a spelling counts.
  void AppendListed(const JsonReader& entry, AddedToken token) {
    if (by_content_.contains(token.content)) {
      warnings.push_back(absl::StrCat(entry.path(), ": token \"", absl::CHexEscape(token.content),
                                      "\" is there twice: the second is left out"));
      return;
    }
    const TokenId behind = static_cast<TokenId>(std::min<int64_t>(next_id_, kLargestTokenId));
    const TokenId id = IdInVocabulary(token.content).value_or(numbers_anew_ ? behind : token.id);
    if (id != token.id && !renumbered_) {
      renumbered_ = true;
      warnings.push_back(absl::StrCat(
          entry.path(), ": token \"", absl::CHexEscape(token.content), "\" has the id ", token.id,
          ", the library that reads such files gives it ", id, ", which counts, here and below"));
    }
    token.id = id;
    Append(std::move(token));
  }

  void Append(AddedToken token) {
    Count(token.id);
    by_content_.emplace(token.content, tokens.size());
    tokens.push_back(std::move(token));
  }

  void Merge(AddedToken token) {
    const auto known = by_content_.find(token.content);
    if (known != by_content_.end()) {
      AddedToken& listed = tokens[known->second];
      token.id = listed.id;
      token.special = token.special || listed.special;
      listed = std::move(token);
      return;
    }
    const std::optional<TokenId> id = IdInVocabulary(token.content);
    token.id = id.value_or(static_cast<TokenId>(std::min<int64_t>(next_id_, kLargestTokenId)));
    Append(std::move(token));
  }

  const TokenizerFiles& files_;
  const JsonReader& vocabulary_;
  TokenizerConfig& config_;
  absl::flat_hash_map<std::string, size_t> by_content_;
  int64_t next_id_ = 0;
  bool numbers_anew_ = false;  // the vocabulary has no gaps
  bool renumbered_ = false;    // a token got another id than the file gives it
};

bool Fits(const TokenizerFiles& files, int64_t id) {
  return files.model_vocabulary == 0 || id < files.model_vocabulary;
}

absl::Status Fault(const TokenizerFiles& files, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(files.source_name, "/tokenizer.json: ", what));
}

absl::StatusOr<TokenTable> BuildTable(const TokenizerFiles& files, Document* document) {
  const JsonReader vocabulary = document->model.Member("vocab");
  if (absl::Status status = vocabulary.ExpectObject(); !status.ok()) return status;
  TokenTable table(vocabulary.value().size() + document->added_tokens.size());
  for (const auto& [spelling, value] : vocabulary.value().items()) {
    absl::StatusOr<int32_t> id =
        JsonReader(value, absl::StrCat(vocabulary.path(), "[\"", spelling.substr(0, 80), "\"]"))
            .NonNegativeInt();
    if (!id.ok()) return id.status();
    if (!Fits(files, *id)) {
      ++document->vocabulary_left_out;
      continue;
    }
    absl::Status status =
        table.Add(*id, spelling, DecodeSpelling(document->decoder, spelling), false);
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(vocabulary.path(), ": ", status.message()));
    }
  }
  std::vector<AddedToken> kept;
  for (AddedToken& token : document->added_tokens) {
    if (!Fits(files, token.id)) {
      document->warnings.push_back(LeftOutText(files, token));
      continue;
    }
    // The decoder sees added tokens as well. Only its byte alphabet is not for them: their content
    // is text, and some letters in it would come out as bytes.
    const DecoderRule& rule = document->decoder;
    absl::Status status = table.Add(
        token.id, token.content,
        rule.byte_level ? token.content : DecodeSpelling(rule, token.content), token.special);
    if (!status.ok()) {
      return Fault(files, absl::StrCat("added token: ", status.message()));
    }
    kept.push_back(std::move(token));
  }
  document->added_tokens = std::move(kept);
  if (document->vocabulary_left_out > 0) {
    document->warnings.push_back(absl::StrCat(
        vocabulary.path(), ": ", document->vocabulary_left_out,
        " tokens have ids beyond the model's ", files.model_vocabulary, ": they are left out"));
  }
  if (absl::Status status = table.BuildIndex(); !status.ok()) return Fault(files, status.message());
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

absl::Status ReadMerges(const JsonReader& merges, const TokenTable& table, bool some_left_out,
                        BpeMerger* merger) {
  if (absl::Status status = merges.ExpectArray(); !status.ok()) return status;
  merger->Reserve(merges.value().size());
  for (size_t i = 0; i < merges.value().size(); ++i) {
    const JsonReader merge = merges.Element(i);
    std::string_view left, right;
    if (absl::Status status = SplitMerge(merge, &left, &right); !status.ok()) return status;
    const auto left_id = table.IdOf(left);
    const auto right_id = table.IdOf(right);
    const auto result = table.IdOf(std::string(left).append(right));
    if ((!left_id || !right_id || !result) && some_left_out) continue;
    if (!left_id || !right_id || !result)
      return merge.Unexpected("parts and result in model.vocab");
    merger->AddRule(*left_id, *right_id, static_cast<int32_t>(i), *result);
  }
  return absl::OkStatus();
}

absl::Status ReadSymbols(const TokenTable& table, Document* document, BpeSymbols* symbols) {
  const JsonReader& model = document->model;
  absl::StatusOr<bool> byte_fallback = model.Member("byte_fallback").BoolOr(false);
  absl::StatusOr<bool> fuse = model.Member("fuse_unk").BoolOr(false);
  absl::StatusOr<std::string> unknown = model.Member("unk_token").StringOr("");
  if (!byte_fallback.ok()) return byte_fallback.status();
  if (!fuse.ok()) return fuse.status();
  if (!unknown.ok()) return unknown.status();
  symbols->byte_level = document->pre_tokenizer.byte_level;
  symbols->byte_fallback = *byte_fallback;
  symbols->fuse_unknown = *fuse;
  if (!unknown->empty()) {
    symbols->unknown = table.IdOf(*unknown);
    const absl::Status missing = model.Member("unk_token").Unexpected("a token of model.vocab");
    if (!symbols->unknown && !symbols->byte_level) return missing;
    // Every byte has a token there, so that nothing is unknown.
    if (!symbols->unknown) {
      document->warnings.push_back(absl::StrCat(missing.message(), "; it is left out"));
    }
  }
  for (int byte = 0; byte < 256; ++byte) {
    if (const auto id = table.IdOf(ByteLevelCharacter(byte))) symbols->of_byte[byte] = *id;
    if (const auto id = table.IdOf(ByteFallbackSpelling(byte))) symbols->byte_tokens[byte] = *id;
  }
  if (symbols->byte_level) return absl::OkStatus();
  const JsonReader vocabulary = model.Member("vocab");
  for (const auto& [spelling, value] : vocabulary.value().items()) {
    const bool one_character = !spelling.empty() && Utf8Length(spelling) == spelling.size();
    if (one_character && table.Find(value.get<int32_t>()) != nullptr) {
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
  const JsonReader vocabulary = document.model.Member("vocab");
  for (const auto& [spelling, value] : vocabulary.value().items()) {
    const std::optional<TokenId> id = table.IdOf(spelling);
    if (!id.has_value()) continue;
    if (!document.pre_tokenizer.byte_level) {
      pieces->emplace(spelling, *id);
    } else if (auto bytes = ByteLevelDecode(spelling)) {
      pieces->emplace(*std::move(bytes), *id);
    }
  }
  return absl::OkStatus();
}

// Classes that make their own byte-level pre-tokenizer: it has a prefix space when the
// configuration says so, whatever the file says.
bool SetsPrefixSpace(const TokenizerConfig& config) {
  constexpr const char* kClasses[] = {"GPT2Tokenizer",   "GPTNeoXTokenizer",   "CodeGenTokenizer",
                                      "CohereTokenizer", "Qwen2Tokenizer",     "RobertaTokenizer",
                                      "BartTokenizer",   "LongformerTokenizer"};
  return std::find(std::begin(kClasses), std::end(kClasses), config.tokenizer_class) !=
         std::end(kClasses);
}

absl::Status ReadDocument(const JsonReader& root, const TokenizerFiles& files,
                          TokenizerConfig* config, Document* document) {
  absl::Status status = root.ExpectObject();
  if (status.ok()) status = document->model.ExpectObject();
  if (status.ok()) status = CheckModelSettings(document->model);
  if (!status.ok()) return status;
  const JsonReader vocabulary = document->model.Member("vocab");
  AddedTokenList added_tokens(files, vocabulary, config);
  status = added_tokens.Read(root.Member("added_tokens"));
  if (!status.ok()) return status;
  document->added_tokens = std::move(added_tokens.tokens);
  document->warnings = std::move(added_tokens.warnings);
  std::optional<bool> prefix_space;
  if (SetsPrefixSpace(*config)) prefix_space = config->add_prefix_space.value_or(false);
  absl::StatusOr<PreTokenizerRule> pre_tokenizer =
      ReadPreTokenizer(root.Member("pre_tokenizer"), prefix_space);
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

// Ids of templates that are no tokens, or were left out, are put around nothing.
void DropUnknownIds(const TokenTable& table, const JsonReader& post_processor,
                    std::vector<TokenId>* ids, std::vector<std::string>* warnings) {
  std::erase_if(*ids, [&](TokenId id) {
    if (table.Find(id) != nullptr) return false;
    warnings->push_back(
        absl::StrCat(post_processor.path(), ": id ", id, " is no token: it is left out"));
    return true;
  });
}

}  // namespace

absl::StatusOr<std::unique_ptr<const Tokenizer>> CreateFromTokenizerJson(
    const TokenizerFiles& files) {
  const std::string source = absl::StrCat(files.source_name, "/tokenizer.json");
  absl::StatusOr<TokenizerConfig> config = ReadTokenizerConfig(files);
  if (!config.ok()) return config.status();
  absl::StatusOr<Json> json = ParseJson(source, files.tokenizer_json);
  if (!json.ok()) return json.status();
  const JsonReader root(*json, source + ": ");
  Document document{root.Member("model"), {}, {}, {}, 0, {}};
  absl::Status status = ReadDocument(root, files, &*config, &document);
  if (!status.ok()) return status;

  BpeParts parts;
  absl::StatusOr<TokenTable> table = BuildTable(files, &document);
  if (!table.ok()) return table.status();
  parts.table = *std::move(table);
  status = ReadMerges(document.model.Member("merges"), parts.table,
                      document.vocabulary_left_out > 0, &parts.merger);
  if (status.ok()) status = ReadSymbols(parts.table, &document, &parts.symbols);
  if (status.ok()) status = ReadWholePieces(document, parts.table, &parts.whole_pieces);
  if (!status.ok()) return status;
  absl::StatusOr<std::vector<NormalizerStep>> normalizer =
      ReadNormalizer(root.Member("normalizer"));
  if (!normalizer.ok()) return normalizer.status();
  absl::StatusOr<PostProcessorRule> post = ReadPostProcessor(root.Member("post_processor"));
  if (!post.ok()) return post.status();
  for (std::vector<TokenId>* ids : {&post->prefix, &post->suffix}) {
    DropUnknownIds(parts.table, root.Member("post_processor"), ids, &document.warnings);
  }
  parts.boundaries.prefix = std::move(post->prefix);
  parts.boundaries.suffix = std::move(post->suffix);
  ApplyBoundaries(*config, parts.table, files.source_name, &parts.boundaries, &config->warnings);
  parts.warnings = std::move(config->warnings);
  parts.warnings.insert(parts.warnings.end(), document.warnings.begin(), document.warnings.end());
  ShortenWarnings(files.source_name, &parts.warnings);
  parts.strips_leading_space = document.decoder.strips_leading_space;
  parts.added_tokens = std::move(document.added_tokens);
  parts.normalizer = *std::move(normalizer);
  parts.pre_tokenizer = std::move(document.pre_tokenizer.steps);
  return BpeTokenizer::Create(std::move(parts));
}

}  // namespace mambad::text
