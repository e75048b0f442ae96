#include "trainer/formats/vocabulary_files.h"

#include <algorithm>
#include <initializer_list>
#include <stdexcept>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "engine/checkpoint/error_text.h"
#include "nlohmann/json.hpp"
#include "trainer/formats/sentencepiece_file.h"

namespace mambad::trainer {
namespace {

using Json = nlohmann::ordered_json;
using checkpoint::Quoted;
using checkpoint::TextFiles;
using PieceType = SentencePieceFile::Type;

constexpr const char* kLlama3Pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
constexpr const char* kQwen2Pattern =
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|"
    " ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

[[noreturn]] void Fail(const std::string& source, const std::string& what) {
  throw std::runtime_error(absl::StrCat(source, ": tokenizer: ", what));
}

PieceType TypeOf(const TextFiles& text, size_t id) {
  return text.piece_types.empty() ? PieceType::kNormal
                                  : static_cast<PieceType>(text.piece_types[id]);
}

Json ByteLevel(bool use_pattern) {
  return {{"type", "ByteLevel"},
          {"add_prefix_space", false},
          {"trim_offsets", true},
          {"use_regex", use_pattern}};
}
Json Split(const char* pattern) {
  return {{"type", "Split"},
          {"pattern", {{"Regex", pattern}}},
          {"behavior", "Isolated"},
          {"invert", false}};
}
Json Sequence(Json steps) { return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}}; }

struct ByteLevelRule {
  Json pre_tokenizer;
  bool nfc = false;
  bool ignore_merges = false;
  bool add_bos = false;  // where the file does not say
};

// What llama.cpp's names of pre-tokenizers mean, in the words of tokenizer.json.
ByteLevelRule RuleOf(const std::string& source, const std::string& name) {
  const auto is_any_of = [&](std::initializer_list<std::string_view> names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  ByteLevelRule rule;
  if (is_any_of({"smollm", "starcoder", "refact", "command-r", "codeshell"})) {
    rule.pre_tokenizer =
        Sequence(Json::array({{{"type", "Digits"}, {"individual_digits", true}}, ByteLevel(true)}));
  } else if (is_any_of({"gpt-2", "gpt2", "phi-2", "jais"})) {
    rule.pre_tokenizer = ByteLevel(true);
  } else if (is_any_of({"gpt-neox", "mpt", "olmo", "dolly-v2"})) {
    rule.pre_tokenizer = ByteLevel(true);
    rule.nfc = true;
  } else if (is_any_of({"llama-bpe", "llama3", "llama-v3"})) {
    rule.pre_tokenizer = Sequence(Json::array({Split(kLlama3Pattern), ByteLevel(false)}));
    rule.ignore_merges = true;
    rule.add_bos = true;
  } else if (name == "qwen2") {
    rule.pre_tokenizer = Sequence(Json::array({Split(kQwen2Pattern), ByteLevel(false)}));
    rule.nfc = true;
  } else {
    Fail(source, absl::StrCat("pre-tokenizer ", Quoted(name), " has no counterpart here"));
  }
  return rule;
}

Json AddedTokens(const TextFiles& text) {
  Json tokens = Json::array();
  for (size_t id = 0; id < text.pieces.size(); ++id) {
    const PieceType type = TypeOf(text, id);
    const bool special = type == PieceType::kControl || type == PieceType::kUnknown;
    if (!special && type != PieceType::kUserDefined) continue;
    tokens.push_back({{"id", id},
                      {"content", text.pieces[id]},
                      {"single_word", false},
                      {"lstrip", false},
                      {"rstrip", false},
                      {"normalized", false},
                      {"special", special}});
  }
  return tokens;
}

// Ids before and after every text.
Json Boundaries(const TextFiles& text, bool add_bos, bool add_eos) {
  if (!add_bos && !add_eos) return nullptr;
  Json single = Json::array(), tokens = Json::object();
  const auto add = [&](int32_t id) {
    const std::string& piece = text.pieces[id];
    single.push_back({{"SpecialToken", {{"id", piece}, {"type_id", 0}}}});
    tokens[piece] = {{"id", piece}, {"ids", {id}}, {"tokens", {piece}}};
  };
  if (add_bos) add(text.bos_id);
  single.push_back({{"Sequence", {{"id", "A"}, {"type_id", 0}}}});
  if (add_eos) add(text.eos_id);
  return {{"type", "TemplateProcessing"},
          {"single", single},
          {"pair", Json::array()},
          {"special_tokens", tokens}};
}

std::string TokenizerJson(const std::string& source, const TextFiles& text, bool add_bos,
                          bool add_eos) {
  const ByteLevelRule rule = RuleOf(source, text.pre_tokenizer);
  // The sorted kind of JSON finds repeated pieces fast.
  nlohmann::json vocabulary = nlohmann::json::object();
  for (size_t id = 0; id < text.pieces.size(); ++id) {
    if (!vocabulary.emplace(text.pieces[id], id).second) {
      Fail(source, absl::StrCat("piece ", Quoted(text.pieces[id]), " stands twice"));
    }
  }
  Json document;
  document["version"] = "1.0";
  document["truncation"] = nullptr;
  document["padding"] = nullptr;
  document["added_tokens"] = AddedTokens(text);
  document["normalizer"] = rule.nfc ? Json{{"type", "NFC"}} : Json(nullptr);
  document["pre_tokenizer"] = rule.pre_tokenizer;
  document["post_processor"] = Boundaries(text, add_bos, add_eos);
  document["decoder"] = ByteLevel(true);
  Json model;
  model["type"] = "BPE";
  model["dropout"] = nullptr;
  model["unk_token"] = nullptr;
  model["continuing_subword_prefix"] = nullptr;
  model["end_of_word_suffix"] = nullptr;
  model["fuse_unk"] = false;
  model["byte_fallback"] = false;
  model["ignore_merges"] = rule.ignore_merges;
  model["vocab"] = vocabulary;
  model["merges"] = text.merges;
  document["model"] = std::move(model);
  return document.dump(1) + "\n";
}

std::string TokenizerModel(const std::string& source, const TextFiles& text) {
  if (text.scores.size() != text.pieces.size()) {
    Fail(source,
         absl::StrCat(text.scores.size(), " scores found, ", text.pieces.size(), " expected"));
  }
  SentencePieceFile file;
  for (size_t id = 0; id < text.pieces.size(); ++id) {
    file.pieces.push_back({text.pieces[id], text.scores[id], TypeOf(text, id)});
    const bool unknown = TypeOf(text, id) == PieceType::kUnknown;
    if (unknown && file.unknown_id < 0) file.unknown_id = static_cast<int32_t>(id);
  }
  file.bos_id = text.bos_id;
  file.eos_id = text.eos_id;
  file.add_space_prefix = text.add_space_prefix.value_or(true);
  return file.Serialize();
}

std::string TokenizerConfig(const TextFiles& text, bool byte_level, bool add_bos, bool add_eos) {
  const auto piece = [&](int32_t id) { return id < 0 ? Json(nullptr) : Json(text.pieces[id]); };
  Json config;
  config["tokenizer_class"] = byte_level ? "PreTrainedTokenizerFast" : "LlamaTokenizer";
  config["add_bos_token"] = add_bos;
  config["add_eos_token"] = add_eos;
  config["bos_token"] = piece(text.bos_id);
  config["eos_token"] = piece(text.eos_id);
  config["unk_token"] = piece(text.unknown_id);
  config["clean_up_tokenization_spaces"] = false;
  if (!text.chat_template.empty()) config["chat_template"] = text.chat_template;
  return config.dump(2) + "\n";
}

}  // namespace

std::map<std::string, std::string> VocabularyFiles(const std::string& source,
                                                   const checkpoint::TextFiles& text) {
  if (text.pieces.empty()) Fail(source, "none in the file");
  if (!text.piece_types.empty() && text.piece_types.size() != text.pieces.size()) {
    Fail(source, absl::StrCat(text.piece_types.size(), " token types found, ", text.pieces.size(),
                              " expected"));
  }
  const bool byte_level = text.tokenizer_model == "gpt2";
  if (!byte_level && text.tokenizer_model != "llama") {
    Fail(source,
         absl::StrCat(Quoted(text.tokenizer_model), " found, \"gpt2\" or \"llama\" expected"));
  }
  const bool usual = byte_level ? RuleOf(source, text.pre_tokenizer).add_bos : true;
  const bool add_bos = text.add_bos.value_or(usual && text.bos_id >= 0);
  const bool add_eos = text.add_eos.value_or(false);
  if ((add_bos && text.bos_id < 0) || (add_eos && text.eos_id < 0)) {
    Fail(source, "begin- or end-of-text is to be added and not named");
  }
  std::map<std::string, std::string> files;
  if (byte_level) {
    files["tokenizer.json"] = TokenizerJson(source, text, add_bos, add_eos);
  } else {
    files["tokenizer.model"] = TokenizerModel(source, text);
  }
  files["tokenizer_config.json"] = TokenizerConfig(text, byte_level, add_bos, add_eos);
  return files;
}

}  // namespace mambad::trainer
