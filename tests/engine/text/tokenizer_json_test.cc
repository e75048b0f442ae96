// tokenizer.json: what is read, what is refused, and by which name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/text/byte_level.h"
#include "engine/text/tokenizer.h"
#include "tests/engine/text/shared_data.h"

namespace mambad::text {
namespace {

using Json = nlohmann::json;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

Json AddedToken(int id, const std::string& content, bool special) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

// Ids 0..255 are the bytes, then "ab" 256, "abc" 257, " a" 258, and the specials 259, 260.
Json ByteLevelDocument() {
  Json vocabulary = Json::object();
  for (int byte = 0; byte < 256; ++byte) vocabulary[ByteLevelCharacter(byte)] = byte;
  vocabulary["ab"] = 256;
  vocabulary["abc"] = 257;
  vocabulary["Ġa"] = 258;
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens", {AddedToken(259, "<s>", true), AddedToken(260, "<e>", true)}},
          {"normalizer", nullptr},
          {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
          {"post_processor", nullptr},
          {"decoder", {{"type", "ByteLevel"}}},
          {"model",
           {{"type", "BPE"},
            {"vocab", vocabulary},
            {"merges", {"a b", Json::array({"ab", "c"}), "Ġ a"}}}}};
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> TryCreate(const Json& document,
                                                           const std::string& config = "") {
  TokenizerFiles files;
  files.source_name = "model";
  files.tokenizer_json = document.dump();
  files.tokenizer_config_json = config;
  return CreateTokenizer(files);
}

std::unique_ptr<const Tokenizer> Create(const Json& document, const std::string& config = "") {
  auto tokenizer = TryCreate(document, config);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  return *std::move(tokenizer);
}

std::vector<TokenId> Encode(const Tokenizer& tokenizer, std::string_view text,
                            const Tokenizer::EncodeOptions& options = {}) {
  const auto ids = tokenizer.Encode(text, options);
  EXPECT_TRUE(ids.ok()) << ids.status().ToString();
  return *ids;
}

TEST(TokenizerJson, MergesByRank) {
  const auto tokenizer = Create(ByteLevelDocument());
  EXPECT_EQ(tokenizer->vocabulary_size(), 261);
  EXPECT_THAT(Encode(*tokenizer, "abc abc"), ElementsAre(257, ' ', 257));
  EXPECT_THAT(Encode(*tokenizer, " ac"), ElementsAre(258, 'c'));
  EXPECT_THAT(Encode(*tokenizer, ""), IsEmpty());
  EXPECT_THAT(Encode(*tokenizer, "é"), ElementsAre(0xC3, 0xA9));
  EXPECT_EQ(tokenizer->TokenBytes(258), " a");
  EXPECT_EQ(tokenizer->IdToToken(258), "Ġa");
  EXPECT_EQ(tokenizer->TokenToId("Ġa"), 258);
  EXPECT_EQ(tokenizer->TokenToId(" a"), std::nullopt);
  EXPECT_EQ(tokenizer->TokenBytes(-1), "");
  EXPECT_EQ(tokenizer->TokenBytes(100000), "");
  EXPECT_EQ(tokenizer->Decode({257, 0xC3, 260}, true), "abc\uFFFD");
}

TEST(TokenizerJson, SpecialTokensInText) {
  const auto tokenizer = Create(ByteLevelDocument());
  EXPECT_THAT(Encode(*tokenizer, "ab<s>c"), ElementsAre(256, 259, 'c'));
  EXPECT_THAT(Encode(*tokenizer, "<s>", {.parse_special = false}), ElementsAre('<', 's', '>'));
  EXPECT_TRUE(tokenizer->IsSpecial(259));
  EXPECT_FALSE(tokenizer->IsSpecial(257));
  EXPECT_EQ(tokenizer->Decode({259, 'a'}, true), "a");
  EXPECT_EQ(tokenizer->Decode({259, 'a'}, false), "<s>a");
}

TEST(TokenizerJson, AddedTokenFlags) {
  Json document = ByteLevelDocument();
  Json strip = AddedToken(261, "<m>", true);
  strip["lstrip"] = strip["rstrip"] = true;
  Json word = AddedToken(262, "cat", false);
  word["single_word"] = true;
  document["added_tokens"].push_back(strip);
  document["added_tokens"].push_back(word);
  document["added_tokens"].push_back(AddedToken(263, "<m><m>", false));
  const auto tokenizer = Create(document);
  EXPECT_THAT(Encode(*tokenizer, "a \n<m>\u3000 b"), ElementsAre('a', 261, 'b'));
  EXPECT_THAT(Encode(*tokenizer, "cat"), ElementsAre(262));
  EXPECT_THAT(Encode(*tokenizer, "cats"), ElementsAre('c', 'a', 't', 's'));
  EXPECT_THAT(Encode(*tokenizer, "é cat-"), ElementsAre(0xC3, 0xA9, ' ', 262, '-'));
  for (const char* word : {"cat\u200D", "\u2167cat", "cat\u24B6", "\u0301cat", "cat_", "\u0661cat",
                           "\U0002EBF0cat", "cat\U00010D50", "cat\u0897"}) {
    EXPECT_THAT(Encode(*tokenizer, word), Not(Contains(262))) << word;
  }
  EXPECT_THAT(Encode(*tokenizer, "\u00BDcat"), Contains(262));
  EXPECT_THAT(Encode(*tokenizer, "<m><m>x"), ElementsAre(263, 'x')) << "the longest wins";
}

TEST(TokenizerJson, OfManyWarningsTheFirstAreKept) {
  TokenizerFiles files;
  files.source_name = "model";
  files.model_vocabulary = 261;
  Json document = ByteLevelDocument();
  for (int i = 0; i < 1000; ++i) {
    document["added_tokens"].push_back(AddedToken(261 + i, "<pad" + std::to_string(i) + ">", true));
  }
  files.tokenizer_json = document.dump();
  const auto tokenizer = CreateTokenizer(files);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
  const std::vector<std::string> warnings = (*tokenizer)->warnings();
  ASSERT_EQ(warnings.size(), 21);
  EXPECT_THAT(warnings[0], HasSubstr("\"<pad0>\" has the id 261"));
  EXPECT_EQ(warnings[20], "model: 980 more warnings of its text files");
}

// As tokenizers 0.23 gives them.
TEST(TokenizerJson, AddedTokensAreNumberedAsTheLibraryDoesIt) {
  Json document = ByteLevelDocument();
  document["added_tokens"] = {AddedToken(259, "<s>", true), AddedToken(290, "<e>", true),
                              AddedToken(259, "<m>", true), AddedToken(261, "<s>", true),
                              AddedToken(7, "abc", false)};
  const auto tokenizer = Create(document);
  EXPECT_THAT(Encode(*tokenizer, "<s><e><m>abc"), ElementsAre(259, 260, 261, 257));
  EXPECT_THAT(tokenizer->warnings(),
              ElementsAre(HasSubstr("\"<e>\" has the id 290, the library that reads such files "
                                    "gives it 260, which counts"),
                          HasSubstr("added_tokens[3]: token \"<s>\" is there twice")));
}

TEST(TokenizerJson, OfAVocabularyWithGapsTheFilesNumbersCount) {
  Json document = ByteLevelDocument();
  document["model"]["vocab"].erase("Ġa");
  document["model"]["merges"].erase(2);
  document["model"]["vocab"]["abc"] = 270;
  document["added_tokens"] = {AddedToken(280, "<s>", true)};
  const auto tokenizer = Create(document);
  EXPECT_THAT(Encode(*tokenizer, "<s>abc"), ElementsAre(280, 270));
  EXPECT_THAT(tokenizer->warnings(), IsEmpty());
}

TEST(TokenizerJson, AnUnknownTokenThatIsNotThereIsLeftOutWhereNothingIsUnknown) {
  Json document = ByteLevelDocument();
  document["model"]["unk_token"] = "<unk>";
  const auto tokenizer = Create(document);
  EXPECT_THAT(Encode(*tokenizer, "aé"), ElementsAre('a', 0xC3, 0xA9));
  EXPECT_THAT(tokenizer->warnings(), ElementsAre(HasSubstr("model.unk_token: expected a token")));
  document["pre_tokenizer"] = {{"type", "Metaspace"}};
  document["decoder"] = {{"type", "Metaspace"}};
  EXPECT_THAT(TryCreate(document).status().message(), HasSubstr("model.unk_token: expected"));
}

TEST(TokenizerJson, TokensInWhiteSpaceThatAnotherTakesCountNevertheless) {
  Json document = ByteLevelDocument();
  Json strip = AddedToken(261, "<m>", true);
  strip["rstrip"] = true;
  document["added_tokens"].push_back(strip);
  document["added_tokens"].push_back(AddedToken(262, "\n", false));
  const auto tokenizer = Create(document);
  EXPECT_THAT(Encode(*tokenizer, "<m>  b"), ElementsAre(261, 'b'));
  EXPECT_THAT(Encode(*tokenizer, "<m> \n b"), ElementsAre(261, 262, ' ', 'b'));
}

// The decoder of a vocabulary with SentencePiece's spelling.
Json SpacesDecoder() {
  return {{"type", "Sequence"},
          {"decoders",
           {{{"type", "Replace"}, {"pattern", {{"String", "▁"}}}, {"content", " "}},
            {{"type", "ByteFallback"}},
            {{"type", "Fuse"}},
            {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}};
}

TEST(TokenizerJson, AddedTokensGoThroughTheDecoder) {
  Json document = ByteLevelDocument();
  document["added_tokens"].push_back(AddedToken(261, "▁▁", false));
  document["added_tokens"].push_back(AddedToken(262, "né", false));
  EXPECT_EQ(Create(document)->TokenBytes(262), "né") << "not the byte of that letter";
  document["pre_tokenizer"] = nullptr;
  document["decoder"] = SpacesDecoder();
  const auto tokenizer = Create(document);
  EXPECT_EQ(tokenizer->TokenBytes(261), "  ");
  EXPECT_EQ(tokenizer->Decode({'a', 261, 'b'}, true), "a  b");
}

TEST(TokenizerJson, DecodersInAnotherOrderAreRefused) {
  Json document = ByteLevelDocument();
  document["pre_tokenizer"] = nullptr;
  const Json sound = SpacesDecoder();
  const std::pair<std::vector<int>, const char*> orders[] = {
      {{0, 1, 3}, "decoder.decoders[2]: expected Strip after Fuse"},
      {{1, 0, 2}, "decoder.decoders[1]: expected Replace before"},
      {{1, 2, 0}, "decoder.decoders[2]: expected Replace before"}};
  for (const auto& [order, message] : orders) {
    Json decoders = Json::array();
    for (const int index : order) decoders.push_back(sound["decoders"][index]);
    document["decoder"] = {{"type", "Sequence"}, {"decoders", decoders}};
    EXPECT_THAT(std::string(TryCreate(document).status().message()), HasSubstr(message));
  }
  document = ByteLevelDocument();
  document["decoder"] = {{"type", "Sequence"},
                         {"decoders", {sound["decoders"][0], document["decoder"]}}};
  EXPECT_THAT(std::string(TryCreate(document).status().message()),
              HasSubstr("expected ByteLevel without Replace"));
}

TEST(TokenizerJson, NormalizedAddedTokensAreFoundInNormalizedText) {
  Json document = ByteLevelDocument();
  document["normalizer"] = {{"type", "NFC"}};
  Json token = AddedToken(261, "e\u0301", false);
  token["normalized"] = true;
  document["added_tokens"].push_back(token);
  document["added_tokens"].push_back(AddedToken(262, "A\u030A", false));
  const auto tokenizer = Create(document);
  EXPECT_THAT(Encode(*tokenizer, "\u00E9"), ElementsAre(261));
  EXPECT_THAT(Encode(*tokenizer, "e\u0301"), ElementsAre(261));
  EXPECT_THAT(Encode(*tokenizer, "A\u030A"), ElementsAre(262));
  EXPECT_THAT(Encode(*tokenizer, "\u00C5"), ElementsAre(0xC3, 0x85));
}

TEST(TokenizerJson, WholePiecesWithoutMerging) {
  Json document = ByteLevelDocument();
  document["model"]["vocab"]["cba"] = 261;
  EXPECT_THAT(Encode(*Create(document), "cba"), ElementsAre('c', 'b', 'a'));
  document["model"]["ignore_merges"] = true;
  EXPECT_THAT(Encode(*Create(document), "cba cbab"), ElementsAre(261, ' ', 'c', 'b', 256));
}

TEST(TokenizerJson, BeginAndEndOfText) {
  Json document = ByteLevelDocument();
  const Json special = {{"<s>", {{"id", "<s>"}, {"ids", {259}}, {"tokens", {"<s>"}}}}};
  const Json single = {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}},
                       {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}};
  document["post_processor"] = {{"type", "Sequence"},
                                {"processors",
                                 {{{"type", "ByteLevel"}},
                                  {{"type", "TemplateProcessing"},
                                   {"single", single},
                                   {"pair", Json::array()},
                                   {"special_tokens", special}}}}};
  EXPECT_THAT(Encode(*Create(document), "c"), ElementsAre(259, 'c'));
  EXPECT_THAT(Encode(*Create(document), "c", {.add_special_tokens = false}), ElementsAre('c'));
  const auto both = Create(document, R"({"bos_token": "<s>", "eos_token": {"content": "<e>"},
                                         "add_bos_token": true, "add_eos_token": true})");
  EXPECT_THAT(Encode(*both, "c"), ElementsAre(259, 'c', 260));
  EXPECT_EQ(both->bos_id(), 259);
  EXPECT_EQ(both->eos_id(), 260);
  const auto none = Create(document, R"({"bos_token": "<s>", "add_bos_token": false})");
  EXPECT_THAT(Encode(*none, "c"), ElementsAre('c'));
}

// Right values: transformers.
TEST(TokenizerJson, TheConfigurationsFlagsWin) {
  Json document = ByteLevelDocument();
  document["added_tokens"].push_back(AddedToken(261, "<x>", false));
  Json strip = AddedToken(262, "<m>", true);
  strip["lstrip"] = true;
  document["added_tokens"].push_back(strip);
  const auto tokenizer = Create(document, R"({"added_tokens_decoder": {
      "261": {"content": "<x>", "special": true, "rstrip": true},
      "262": {"content": "<m>", "special": false, "single_word": true},
      "256": {"content": "ab", "special": false},
      "263": {"content": "<new>", "special": true},
      "900": {"content": "<far>", "special": true}}})");
  EXPECT_THAT(Encode(*tokenizer, "c<x>  b"), ElementsAre('c', 261, 'b'));
  EXPECT_EQ(tokenizer->Decode({'c', 261, 'b'}, true), "cb");
  EXPECT_THAT(Encode(*tokenizer, "! <m>!"), ElementsAre('!', ' ', 262, '!'));
  EXPECT_THAT(Encode(*tokenizer, "<m>s"), Not(Contains(262)));
  EXPECT_TRUE(tokenizer->IsSpecial(262)) << "special once, special always";
  EXPECT_THAT(Encode(*tokenizer, "cab"), ElementsAre('c', 256)) << "found before merging";
  EXPECT_THAT(Encode(*tokenizer, "<new><far>"), ElementsAre(263, 264)) << "ids are given in order";
}

TEST(TokenizerJson, NamedTokensAreSpecial) {
  const auto tokenizer =
      Create(ByteLevelDocument(),
             R"({"pad_token": {"content": "ab", "lstrip": true, "__type": "AddedToken"},
          "additional_special_tokens": ["abc"], "extra_special_tokens": {"image_token": "c"}})");
  EXPECT_THAT(Encode(*tokenizer, "x  ab"), ElementsAre('x', 256));
  EXPECT_EQ(tokenizer->Decode({256, 257, 'c', 'x'}, true), "x");
}

TEST(TokenizerJson, PrefixSpaceOfTheConfigurationWinsWhereTheClassMakesItsPreTokenizer) {
  for (const char* name : {"GPTNeoXTokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast"}) {
    for (const bool in_file : {false, true}) {
      for (const char* in_config : {"null", "false", "true"}) {
        Json document = ByteLevelDocument();
        document["pre_tokenizer"]["add_prefix_space"] = in_file;
        Json config = {{"tokenizer_class", name}, {"add_prefix_space", Json::parse(in_config)}};
        const bool own = std::string(name) != "PreTrainedTokenizerFast";
        const bool wanted = own ? std::string(in_config) == "true" : in_file;
        const auto tokenizer = Create(document, config.dump());
        EXPECT_EQ(Encode(*tokenizer, "a").front(), wanted ? 258 : 'a')
            << name << " " << in_file << " " << in_config;
        EXPECT_EQ(Encode(*tokenizer, "a", {.goes_on = true}).front(), 'a');
      }
    }
  }
}

TEST(TokenizerJson, WhatTheModelHasNoRowsForIsLeftOut) {
  TokenizerFiles files;
  files.source_name = "model";
  Json document = ByteLevelDocument();
  document["added_tokens"].push_back(AddedToken(261, "[PAD]", true));
  document["model"]["vocab"]["abcc"] = 300;
  document["model"]["merges"].push_back("abc c");
  document["unheard_of"] = 1;
  files.tokenizer_json = document.dump();
  files.tokenizer_config_json =
      R"({"pad_token": "[PAD]", "unk_token": "<unk>", "eos_token": "<e>", "add_bos_token": true})";
  files.model_vocabulary = 261;
  const auto tokenizer = CreateTokenizer(files);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  EXPECT_EQ((*tokenizer)->vocabulary_size(), 261);
  EXPECT_THAT(Encode(**tokenizer, "abcc"), ElementsAre(257, 'c'));
  EXPECT_THAT(Encode(**tokenizer, "[PAD]"), testing::SizeIs(5));
  EXPECT_THAT((*tokenizer)->warnings(),
              testing::UnorderedElementsAre(
                  HasSubstr("token \"[PAD]\" has the id 261, the model has ids from 0 to 260"),
                  HasSubstr("\"<unk>\""), HasSubstr("model.vocab: 1 tokens"),
                  HasSubstr("add_bos_token is true")));
}

TEST(TokenizerJson, OtherComponentsOfReleasedFiles) {
  Json document = ByteLevelDocument();
  document["post_processor"] = {{"type", "RobertaProcessing"},
                                {"cls", {"<s>", 259}},
                                {"sep", {"<e>", 260}},
                                {"trim_offsets", true},
                                {"add_prefix_space", false}};
  document["normalizer"] = {{"type", "Lowercase"}};
  EXPECT_THAT(Encode(*Create(document), "AB"), ElementsAre(259, 256, 260));
  document["post_processor"] = nullptr;
  const auto cut = [&](const Json& component, const std::string& text) {
    document["pre_tokenizer"] = {
        {"type", "Sequence"},
        {"pretokenizers",
         {component, {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
    return Encode(*Create(document), text);
  };
  EXPECT_THAT(cut({{"type", "WhitespaceSplit"}}, " a b"), ElementsAre('a', 'b'));
  EXPECT_THAT(cut({{"type", "BertPreTokenizer"}}, "ab a!"), ElementsAre(256, 'a', '!'));
  // U+2E43 is punctuation since Unicode 9, which is not known there; U+166D was such until 11.
  const Json punctuation = {{"type", "Punctuation"}, {"behavior", "Removed"}};
  EXPECT_THAT(cut(punctuation, "a\u2E43"), ElementsAre('a', 0xE2, 0xB9, 0x83));
  EXPECT_THAT(cut(punctuation, "a\u166D"), ElementsAre('a'));
  EXPECT_THAT(cut({{"type", "Whitespace"}}, "a  +b"), ElementsAre('a', '+', 'b'));
  EXPECT_THAT(cut({{"type", "Punctuation"}, {"behavior", "Removed"}}, "a$a"),
              ElementsAre('a', 'a'));
  EXPECT_THAT(cut({{"type", "CharDelimiterSplit"}, {"delimiter", "b"}}, "abc"),
              ElementsAre('a', 'c'));
}

TEST(TokenizerJson, EmptyMatchesCut) {
  Json document = ByteLevelDocument();
  document["pre_tokenizer"] = {
      {"type", "Sequence"},
      {"pretokenizers",
       {{{"type", "Split"},
         {"pattern", {{"Regex", "(?=b)"}}},
         {"behavior", "Isolated"},
         {"invert", false}},
        {{"type", "ByteLevel"}, {"add_prefix_space", false}, {"use_regex", false}}}}};
  EXPECT_THAT(Encode(*Create(document), "ab"), ElementsAre('a', 'b'));
}

TEST(TokenizerJson, InvalidUtf8NamesTheOffset) {
  const auto ids = Create(ByteLevelDocument())->Encode("abc\xFF", {});
  EXPECT_EQ(ids.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(ids.status().message()), HasSubstr("offset 3"));
}

TEST(TokenizerJson, LongTextsOfOneLetterTakeNearLinearTime) {
  Json document = ByteLevelDocument();
  document["model"]["merges"].push_back("a a");
  document["model"]["vocab"]["aa"] = 261;
  document["model"]["merges"].push_back("aa aa");
  document["model"]["vocab"]["aaaa"] = 262;
  const auto tokenizer = Create(document);
  const auto start = std::chrono::steady_clock::now();
  for (const char c : {'a', ' ', '\n', '!', '1'}) {
    const std::string text(1 << 20, c);
    EXPECT_EQ(tokenizer->Decode(Encode(*tokenizer, text), true), text);
  }
  // Seconds are far from the hours that quadratic time takes.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

struct Fault {
  const char* pointer;  // where the document is changed (JSON pointer)
  Json value;
  const char* message;
};

TEST(TokenizerJson, FaultsAreNamed) {
  const Fault faults[] = {
      {"/model/type", "WordPiece",
       "model.type: type \"WordPiece\" is not supported; these are: BPE"},
      {"/model/dropout", 0.1, "model.dropout: expected null or 0, found 0.1"},
      {"/model/end_of_word_suffix", "</w>", "model.end_of_word_suffix"},
      {"/model/vocab", 3, "model.vocab: expected an object, found 3"},
      {"/model/vocab/ab", "x", "expected a whole number"},
      {"/model/vocab/ab", -4, "expected a number from 0"},
      {"/model/vocab/ab", 1.5, "expected a whole number"},
      {"/model/vocab/ab", 4000000000u, "expected a number from 0"},
      {"/model/vocab/ab", 3000000, "expected an id from 0 to"},
      {"/model/vocab/ab", 97, "id 97 belongs to two tokens"},
      {"/model/merges", {"a"}, "model.merges[0]: expected two tokens"},
      {"/model/merges", {"b c"}, "model.merges[0]: expected parts and result in model.vocab"},
      {"/model/merges", Json::array({Json::array({"a", 1})}),
       "model.merges[0]: expected two tokens"},
      {"/normalizer", {{"type", "Precompiled"}}, "normalizer: type \"Precompiled\""},
      {"/normalizer", "NFC", "normalizer: expected an object"},
      {"/pre_tokenizer", {{"type", "UnicodeScripts"}}, "type \"UnicodeScripts\""},
      {"/pre_tokenizer",
       {{"type", "Split"}, {"pattern", {{"Regex", "\\K"}}}, {"behavior", "Isolated"}},
       "pre_tokenizer.pattern: regular expression construct \"\\K\""},
      {"/pre_tokenizer", nullptr, "decoder: expected ByteLevel just when"},
      {"/decoder", {{"type", "WordPiece"}}, "decoder: type \"WordPiece\""},
      {"/post_processor", {{"type", "RobertaProcessing"}}, "post_processor.cls: expected an array"},
      {"/post_processor", {{"type", "Other"}}, "type \"Other\""},
      {"/added_tokens/0/content", "", "added_tokens[0].content: expected 1 to 1024 bytes"},
      {"/added_tokens/0/id", "x", "added_tokens[0].id: expected a whole number"},
      {"/added_tokens/0/special", 1, "added_tokens[0].special: expected true or false"},
      {"/model", nullptr, "model: expected an object"},
  };
  for (const Fault& fault : faults) {
    Json document = ByteLevelDocument();
    document[Json::json_pointer(fault.pointer)] = fault.value;
    const auto tokenizer = TryCreate(document);
    const std::string message(tokenizer.status().message());
    constexpr size_t npos = std::string::npos;
    const bool unsupported = message.find("is not supported; these are: ") != npos;
    EXPECT_EQ(tokenizer.status().code(),
              unsupported ? absl::StatusCode::kUnimplemented : absl::StatusCode::kInvalidArgument)
        << fault.pointer;
    EXPECT_THAT(message, HasSubstr(fault.message));
    EXPECT_THAT(message, HasSubstr("model/tokenizer.json: "));
    const bool says_way_out = message.find("moved elsewhere the model serves token") != npos;
    EXPECT_EQ(says_way_out, unsupported) << message;
  }
}

TEST(TokenizerJson, HostileDocumentsAreRefused) {
  TokenizerFiles files;
  files.source_name = "model";
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  for (const std::string& text :
       {std::string("{"), std::string("null"), deep, "{\"model\":" + deep + "}",
        std::string("{\"model\":{\"vocab\":{\"\xFF\":1}}}")}) {
    files.tokenizer_json = text;
    EXPECT_EQ(CreateTokenizer(files).status().code(), absl::StatusCode::kInvalidArgument);
  }
  Json document = ByteLevelDocument();
  Json nested = {{"type", "NFC"}};
  for (int i = 0; i < 20; ++i) nested = {{"type", "Sequence"}, {"normalizers", {nested}}};
  document["normalizer"] = nested;
  EXPECT_THAT(std::string(TryCreate(document).status().message()), HasSubstr("8 deep"));
}

TEST(TokenizerJson, RealByteLevelFileKeepsWhiteSpaceTokens) {
  TokenizerFiles files;
  files.source_name = "gpt2";
  files.tokenizer_json = ReadSharedData("gpt2/tokenizer.json");
  MAMBAD_SKIP_WITHOUT(files.tokenizer_json);
  const auto tokenizer = CreateTokenizer(files);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  const std::vector<TokenId> ids = Encode(**tokenizer, "a\t\tb<|endoftext|>");
  EXPECT_THAT(ids, ElementsAre(64, 50294, 65, 50256));
  EXPECT_EQ((*tokenizer)->Decode(ids, true), "a\t\tb");
}

TEST(TokenizerJson, RealQwen2StyleFileGivesTextBack) {
  TokenizerFiles files;
  files.source_name = "small";
  files.tokenizer_json = ReadSharedData("small/tiny_bpe_tokenizer.json");
  MAMBAD_SKIP_WITHOUT(files.tokenizer_json);
  const auto tokenizer = CreateTokenizer(files);
  ASSERT_TRUE(tokenizer.ok()) << tokenizer.status().ToString();
  const std::string text = "<|im_start|>user\nIt's 2024, we  ok!\n\n<|im_end|>";
  const std::vector<TokenId> ids = Encode(**tokenizer, text);
  EXPECT_EQ(ids.front(), 2001);
  EXPECT_EQ(ids.back(), 2002);
  EXPECT_EQ((*tokenizer)->Decode(ids, false), text);
}

}  // namespace
}  // namespace mambad::text
