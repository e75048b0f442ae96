#include "engine/text/tokenizer_export.h"

#include <algorithm>
#include <tuple>

#include "absl/strings/escaping.h"
#include "engine/text/absl_view.h"
#include "engine/text/string_map.h"
#include "engine/text/utf8.h"
#include "nlohmann/json.hpp"

namespace mambad::text {
namespace {

using Json = nlohmann::json;

constexpr char kSpaceMarker[] = "\xE2\x96\x81";
constexpr size_t kLongestScoredPiece = 256;

const std::string& SpellingOf(const TokenTable& table, TokenId id) {
  static const std::string& nothing = *new std::string();
  const TokenEntry* entry = table.Find(id);
  return entry == nullptr ? nothing : entry->spelling;
}

const char* FormName(UnicodeForm form) {
  switch (form) {
    case UnicodeForm::kNfc:
      return "NFC";
    case UnicodeForm::kNfd:
      return "NFD";
    case UnicodeForm::kNfkc:
      return "NFKC";
    case UnicodeForm::kNfkd:
      return "NFKD";
  }
  return "NFC";
}

Json Replace(const char* kind, std::string_view pattern, std::string_view content) {
  return {{"type", "Replace"}, {"pattern", {{kind, pattern}}}, {"content", content}};
}

// Several steps as one, none as null.
Json Sequence(Json steps, const char* list) {
  if (steps.empty()) return nullptr;
  if (steps.size() == 1) return std::move(steps[0]);
  return {{"type", "Sequence"}, {list, std::move(steps)}};
}

Json NormalizerJson(const ExportedTokenizer& tokenizer) {
  Json steps = Json::array();
  if (!tokenizer.character_map.empty()) {
    steps.push_back(
        {{"type", "Precompiled"},
         {"precompiled_charsmap", absl::Base64Escape(AbslView(tokenizer.character_map))}});
  }
  if (tokenizer.removes_extra_spaces) {
    steps.push_back({{"type", "Strip"}, {"strip_left", true}, {"strip_right", true}});
    steps.push_back(Replace("Regex", " {2,}", " "));
  }
  for (const NormalizerStep& step : tokenizer.normalizer) {
    if (step.kind == NormalizerStep::Kind::kUnicode) {
      steps.push_back({{"type", FormName(step.form)}});
    } else if (step.kind == NormalizerStep::Kind::kPrepend) {
      steps.push_back({{"type", "Prepend"}, {"prepend", step.content}});
    } else {
      steps.push_back(Replace("String", step.pattern, step.content));
    }
  }
  return Sequence(std::move(steps), "normalizers");
}

Json PreTokenizerJson(const ExportedTokenizer& tokenizer) {
  Json steps = Json::array();
  if (!tokenizer.first_marker.empty()) {
    steps.push_back({{"type", "Metaspace"},
                     {"replacement", tokenizer.first_marker},
                     {"prepend_scheme", "first"},
                     {"split", false}});
  }
  for (const std::string& pattern : tokenizer.split_patterns) {
    steps.push_back({{"type", "Split"},
                     {"pattern", {{"Regex", pattern}}},
                     {"behavior", "Isolated"},
                     {"invert", false}});
  }
  if (tokenizer.byte_level) {
    steps.push_back({{"type", "ByteLevel"},
                     {"add_prefix_space", false},
                     {"trim_offsets", true},
                     {"use_regex", false}});
  }
  return Sequence(std::move(steps), "pretokenizers");
}

// What is put around a text.
Json PostProcessorJson(const ExportedTokenizer& tokenizer) {
  const TextBoundaries& boundaries = tokenizer.boundaries;
  if (boundaries.prefix.empty() && boundaries.suffix.empty()) return nullptr;
  Json single = Json::array(), pair = Json::array(), tokens = Json::object();
  const auto add_ids = [&](const std::vector<TokenId>& ids, int type, Json* sequence) {
    for (const TokenId id : ids) {
      const std::string& name = SpellingOf(tokenizer.table, id);
      sequence->push_back({{"SpecialToken", {{"id", name}, {"type_id", type}}}});
      tokens[name] = {{"id", name}, {"ids", {id}}, {"tokens", {name}}};
    }
  };
  const auto add_text = [&](const char* name, int type, Json* sequence) {
    add_ids(boundaries.prefix, type, sequence);
    sequence->push_back({{"Sequence", {{"id", name}, {"type_id", type}}}});
    add_ids(boundaries.suffix, type, sequence);
  };
  add_text("A", 0, &single);
  add_text("A", 0, &pair);
  add_text("B", 1, &pair);
  return {{"type", "TemplateProcessing"},
          {"single", std::move(single)},
          {"pair", std::move(pair)},
          {"special_tokens", std::move(tokens)}};
}

Json DecoderJson(const ExportedTokenizer& tokenizer) {
  if (tokenizer.byte_level) {
    return {{"type", "ByteLevel"},
            {"add_prefix_space", true},
            {"trim_offsets", true},
            {"use_regex", true}};
  }
  Json steps = Json::array();
  steps.push_back(Replace("String", kSpaceMarker, " "));
  steps.push_back({{"type", "ByteFallback"}});
  steps.push_back({{"type", "Fuse"}});
  if (tokenizer.strips_leading_space)
    steps.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  return {{"type", "Sequence"}, {"decoders", std::move(steps)}};
}

Json AddedTokensJson(std::vector<AddedToken> tokens) {
  std::sort(tokens.begin(), tokens.end(),
            [](const AddedToken& a, const AddedToken& b) { return a.id < b.id; });
  Json list = Json::array();
  for (const AddedToken& token : tokens) {
    list.push_back({{"id", token.id},
                    {"content", token.content},
                    {"single_word", token.single_word},
                    {"lstrip", token.lstrip},
                    {"rstrip", token.rstrip},
                    {"normalized", token.normalized},
                    {"special", token.special}});
  }
  return list;
}

}  // namespace

Json BpeModelJson(const ExportedBpe& model) {
  Json vocabulary = Json::object(), merges = Json::array();
  for (TokenId id = 0; id < model.table.size(); ++id) {
    // Of repeated spellings the first counts; rows without one are no token.
    const std::string& spelling = SpellingOf(model.table, id);
    if (!spelling.empty() && model.table.IdOf(spelling) == id) vocabulary[spelling] = id;
  }
  for (const auto& [left, right] : model.merges)
    merges.push_back({SpellingOf(model.table, left), SpellingOf(model.table, right)});
  Json unknown = nullptr;
  if (model.unknown.has_value()) unknown = SpellingOf(model.table, *model.unknown);
  return {{"type", "BPE"},
          {"dropout", nullptr},
          {"unk_token", std::move(unknown)},
          {"continuing_subword_prefix", nullptr},
          {"end_of_word_suffix", nullptr},
          {"fuse_unk", model.fuse_unknown},
          {"byte_fallback", model.byte_fallback},
          {"ignore_merges", model.ignore_merges},
          {"vocab", std::move(vocabulary)},
          {"merges", std::move(merges)}};
}

std::vector<std::pair<TokenId, TokenId>> ScoredMerges(const std::vector<std::string>& pieces,
                                                      const std::vector<float>& scores,
                                                      const std::vector<bool>& is_plain) {
  StringMap<std::string_view, TokenId> ids;
  for (size_t id = 0; id < pieces.size(); ++id)
    if (is_plain[id]) ids.emplace(pieces[id], static_cast<TokenId>(id));
  std::vector<std::tuple<float, TokenId, TokenId>> found;  // by score, the best first
  for (size_t id = 0; id < pieces.size(); ++id) {
    const std::string_view piece = pieces[id];
    if (!is_plain[id] || piece.size() > kLongestScoredPiece) continue;
    for (size_t cut = Utf8Length(piece); cut < piece.size(); cut += Utf8Length(piece.substr(cut))) {
      const auto left = ids.find(piece.substr(0, cut));
      const auto right = ids.find(piece.substr(cut));
      if (left != ids.end() && right != ids.end())
        found.emplace_back(-scores[id], left->second, right->second);
    }
  }
  std::sort(found.begin(), found.end());
  std::vector<std::pair<TokenId, TokenId>> merges;
  merges.reserve(found.size());
  for (const auto& [score, left, right] : found) merges.emplace_back(left, right);
  return merges;
}

Json UnigramModelJson(const std::vector<std::string>& pieces, const std::vector<float>& scores,
                      TokenId unknown, bool byte_fallback) {
  Json vocabulary = Json::array();
  for (size_t id = 0; id < pieces.size(); ++id) vocabulary.push_back({pieces[id], scores[id]});
  return {{"type", "Unigram"},
          {"unk_id", unknown},
          {"vocab", std::move(vocabulary)},
          {"byte_fallback", byte_fallback}};
}

std::string TokenizerJson(const ExportedTokenizer& tokenizer, Json model) {
  const Json json = {{"version", "1.0"},
                     {"truncation", nullptr},
                     {"padding", nullptr},
                     {"added_tokens", AddedTokensJson(tokenizer.added_tokens)},
                     {"normalizer", NormalizerJson(tokenizer)},
                     {"pre_tokenizer", PreTokenizerJson(tokenizer)},
                     {"post_processor", PostProcessorJson(tokenizer)},
                     {"decoder", DecoderJson(tokenizer)},
                     {"model", std::move(model)}};
  return json.dump();
}

}  // namespace mambad::text
