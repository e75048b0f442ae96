// Ids of real vocabularies against those that another implementation wrote down.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <sstream>
#include <string>
#include <vector>

#include "engine/text/sentencepiece_library.h"
#include "engine/text/tokenizer.h"
#include "tests/engine/text/shared_data.h"

namespace mambad::text {
namespace {

using Json = nlohmann::json;

struct Case {
  std::string text;
  std::vector<TokenId> ids;
};

std::vector<Case> ReadCases(const std::string& name) {
  const std::string texts = ReadSharedData("cases/ggml-vocab-" + name + ".gguf.inp");
  std::istringstream ids(ReadSharedData("cases/ggml-vocab-" + name + ".gguf.out"));
  const std::string separator = "\n__ggml_vocab_test__\n";
  std::vector<Case> cases;
  size_t from = 0;
  while (!texts.empty() && from <= texts.size()) {
    size_t end = texts.find(separator, from);
    const bool last = end == std::string::npos;
    if (last) end = texts.size();
    Case one;
    one.text = texts.substr(from, end - from);
    from = last ? texts.size() + 1 : end + separator.size();
    std::string line;
    std::getline(ids, line);
    std::istringstream numbers(line);
    for (TokenId id; numbers >> id;) one.ids.push_back(id);
    cases.push_back(std::move(one));
  }
  return cases;
}

void ExpectCases(const Tokenizer& tokenizer, const std::string& name) {
  const std::vector<Case> cases = ReadCases(name);
  EXPECT_EQ(cases.size(), 47u);
  for (const Case& one : cases) {
    const auto ids =
        tokenizer.Encode(one.text, {.add_special_tokens = false, .parse_special = false});
    ASSERT_TRUE(ids.ok()) << ids.status().ToString();
    EXPECT_EQ(*ids, one.ids) << "text: \"" << one.text << "\"";
    EXPECT_EQ(tokenizer.Decode(*ids, false), one.text);
  }
}

std::unique_ptr<const Tokenizer> Create(const TokenizerFiles& files) {
  auto tokenizer = CreateTokenizer(files);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

std::unique_ptr<const Tokenizer> Create(BpeVocabulary vocabulary) {
  auto tokenizer = CreateTokenizerFromVocabulary(std::move(vocabulary));
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  return tokenizer.ok() ? *std::move(tokenizer) : nullptr;
}

// The file holds white-space tokens that a descendant of GPT-2 added; GPT-2 itself has none.
std::string Gpt2TokenizerJson() {
  const std::string contents = ReadSharedData("gpt2/tokenizer.json");
  if (contents.empty()) return contents;
  Json document = Json::parse(contents);
  Json kept = Json::array();
  for (const Json& token : document["added_tokens"]) {
    if (token["special"].get<bool>()) kept.push_back(token);
  }
  document["added_tokens"] = kept;
  return document.dump();
}

BpeVocabulary Gpt2Vocabulary() {
  BpeVocabulary vocabulary;
  vocabulary.pre_tokenizer = "gpt-2";
  const Json pieces = Json::parse(ReadSharedData("gpt2/vocab.json"), nullptr, false);
  if (!pieces.is_object()) return vocabulary;
  vocabulary.pieces.resize(pieces.size());
  for (const auto& [piece, id] : pieces.items()) vocabulary.pieces.at(id.get<size_t>()) = piece;
  std::istringstream merges(ReadSharedData("gpt2/merges.txt"));
  for (std::string line; std::getline(merges, line);) {
    if (line.empty() || line.rfind("#version", 0) == 0) continue;
    const size_t space = line.find(' ');
    vocabulary.merges.emplace_back(line.substr(0, space), line.substr(space + 1));
  }
  return vocabulary;
}

TEST(TokenizerCases, Gpt2TokenizerJson) {
  TokenizerFiles files;
  files.source_name = "gpt2";
  files.tokenizer_json = Gpt2TokenizerJson();
  MAMBAD_SKIP_WITHOUT(files.tokenizer_json);
  const auto tokenizer = Create(files);
  ASSERT_NE(tokenizer, nullptr);
  ExpectCases(*tokenizer, "gpt-2");
}

TEST(TokenizerCases, Gpt2Vocabulary) {
  BpeVocabulary vocabulary = Gpt2Vocabulary();
  MAMBAD_SKIP_WITHOUT(vocabulary.merges);
  const auto tokenizer = Create(std::move(vocabulary));
  ASSERT_NE(tokenizer, nullptr);
  ExpectCases(*tokenizer, "gpt-2");
}

TEST(TokenizerCases, GptNeoxTokenizerJson) {
  TokenizerFiles files;
  files.source_name = "gpt-neox-20b";
  files.tokenizer_json = ReadSharedData("gpt-neox-20b/tokenizer.json");
  MAMBAD_SKIP_WITHOUT(files.tokenizer_json);
  const auto tokenizer = Create(files);
  ASSERT_NE(tokenizer, nullptr);
  ExpectCases(*tokenizer, "mpt");
}

TEST(TokenizerCases, Llama2TokenizerModel) {
  TokenizerFiles files;
  files.source_name = "llama2";
  files.sentencepiece_model = ReadSharedData("llama2/tokenizer.model");
  MAMBAD_SKIP_WITHOUT(files.sentencepiece_model);
  const auto tokenizer = Create(files);
  ASSERT_NE(tokenizer, nullptr);
  ExpectCases(*tokenizer, "llama-spm");
  const auto with_bos = tokenizer->Encode("Hello world", {});
  ASSERT_TRUE(with_bos.ok());
  EXPECT_THAT(*with_bos, testing::ElementsAre(1, 15043, 3186));
}

// Pieces of Llama-2's model with scores as a GGUF file holds them.
BpeVocabulary Llama2Vocabulary() {
  BpeVocabulary vocabulary;
  vocabulary.kind = BpeVocabulary::Kind::kSentencePiece;
  std::string error;
  const auto library = SentencePieceLibrary::Load(ReadSharedData("llama2/tokenizer.model"), &error);
  if (library == nullptr || library->size() == 0) return vocabulary;
  for (int id = 0; id < library->size(); ++id) {
    vocabulary.pieces.push_back(library->Piece(id));
    vocabulary.scores.push_back(library->Score(id));
    const SentencePieceLibrary::Type type = library->TypeOf(id);
    vocabulary.types.push_back(
        type == SentencePieceLibrary::Type::kByte      ? BpeVocabulary::Type::kByte
        : type == SentencePieceLibrary::Type::kControl ? BpeVocabulary::Type::kControl
        : type == SentencePieceLibrary::Type::kUnknown ? BpeVocabulary::Type::kUnknown
                                                       : BpeVocabulary::Type::kNormal);
  }
  vocabulary.bos_id = 1;
  vocabulary.eos_id = 2;
  vocabulary.unknown_id = 0;
  return vocabulary;
}

TEST(TokenizerCases, Llama2Vocabulary) {
  BpeVocabulary vocabulary = Llama2Vocabulary();
  MAMBAD_SKIP_WITHOUT(vocabulary.pieces);
  const auto tokenizer = Create(std::move(vocabulary));
  ASSERT_NE(tokenizer, nullptr);
  ExpectCases(*tokenizer, "llama-spm");
}

// A tokenizer.json made of Llama-2's pieces as the usual conversion does it: every way to cut a
// piece in two pieces is a merge; merges go by the score of their result, then by the ids of all
// three.
std::string Llama2TokenizerJson(bool metaspace) {
  const BpeVocabulary vocabulary = Llama2Vocabulary();
  if (vocabulary.pieces.empty()) return "";
  Json pieces = Json::object();
  std::map<std::string, int> ids;
  for (size_t id = 0; id < vocabulary.pieces.size(); ++id) {
    pieces[vocabulary.pieces[id]] = id;
    ids[vocabulary.pieces[id]] = static_cast<int>(id);
  }
  Json merges = Json::array();
  std::vector<size_t> order(vocabulary.pieces.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return vocabulary.scores[a] > vocabulary.scores[b]; });
  for (const size_t id : order) {
    if (id < 259) continue;
    const std::string& piece = vocabulary.pieces[id];
    std::vector<std::pair<int, int>> cuts;
    for (size_t cut = 1; cut < piece.size(); ++cut) {
      const auto left = ids.find(piece.substr(0, cut));
      const auto right = ids.find(piece.substr(cut));
      if (left != ids.end() && right != ids.end()) cuts.emplace_back(left->second, right->second);
    }
    std::sort(cuts.begin(), cuts.end());
    for (const auto& [left, right] : cuts) {
      merges.push_back(Json::array({vocabulary.pieces[left], vocabulary.pieces[right]}));
    }
  }
  const std::string marker = "\xE2\x96\x81";
  Json document = {{"version", "1.0"},
                   {"added_tokens", Json::array()},
                   {"decoder",
                    {{"type", "Sequence"},
                     {"decoders",
                      {{{"type", "Replace"}, {"pattern", {{"String", marker}}}, {"content", " "}},
                       {{"type", "ByteFallback"}},
                       {{"type", "Fuse"}},
                       {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}},
                   {"model",
                    {{"type", "BPE"},
                     {"unk_token", "<unk>"},
                     {"fuse_unk", true},
                     {"byte_fallback", true},
                     {"vocab", pieces},
                     {"merges", merges}}}};
  if (metaspace) {
    document["pre_tokenizer"] = {{"type", "Metaspace"},
                                 {"replacement", marker},
                                 {"prepend_scheme", "first"},
                                 {"split", false}};
  } else {
    document["normalizer"] = {
        {"type", "Sequence"},
        {"normalizers",
         {{{"type", "Prepend"}, {"prepend", marker}},
          {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", marker}}}}};
  }
  for (int id = 0; id < 3; ++id) {
    document["added_tokens"].push_back({{"id", id},
                                        {"content", vocabulary.pieces[id]},
                                        {"single_word", false},
                                        {"lstrip", false},
                                        {"rstrip", false},
                                        {"normalized", false},
                                        {"special", true}});
  }
  return document.dump();
}

TEST(TokenizerCases, Llama2TokenizerJson) {
  TokenizerFiles files;
  files.source_name = "llama2";
  files.tokenizer_json = Llama2TokenizerJson(false);
  MAMBAD_SKIP_WITHOUT(files.tokenizer_json);
  const auto tokenizer = Create(files);
  ASSERT_NE(tokenizer, nullptr);
  ExpectCases(*tokenizer, "llama-spm");
}

TEST(TokenizerCases, Llama2TokenizerJsonMetaspace) {
  TokenizerFiles files;
  files.source_name = "llama2";
  files.tokenizer_json = Llama2TokenizerJson(true);
  MAMBAD_SKIP_WITHOUT(files.tokenizer_json);
  const auto tokenizer = Create(files);
  ASSERT_NE(tokenizer, nullptr);
  const std::vector<Case> cases = ReadCases("llama-spm");
  for (const Case& one : cases) {
    // This form puts no second marker before a text that begins with a space.
    if (!one.text.empty() && one.text[0] == ' ') continue;
    const auto ids = tokenizer->Encode(one.text, {});
    ASSERT_TRUE(ids.ok());
    EXPECT_EQ(*ids, one.ids) << one.text;
  }
  // Only the very start of the text gets the marker.
  const auto ids = tokenizer->Encode("Hello</s>Hello", {});
  ASSERT_TRUE(ids.ok());
  EXPECT_THAT(*ids, testing::ElementsAre(15043, 2, 10994));
}

}  // namespace
}  // namespace mambad::text
