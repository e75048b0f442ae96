// tokenizer.json, tokenizer_config.json and tokenizer.model may hold anything: reading them gives a
// tokenizer or an error, and a tokenizer that was made encodes and decodes without fault.
//
// The first byte chooses: 's' the rest is a tokenizer.model, 'c' a tokenizer_config.json and 'a' an
// added_tokens.json beside a small sound tokenizer of a model with six rows, 'r' a regular
// expression; anything else: the whole input is a tokenizer.json.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <vector>

#include "engine/text/detokenizer.h"
#include "engine/text/regex.h"
#include "engine/text/tokenizer.h"
#include "engine/text/utf8.h"

namespace {

using mambad::text::CheckUtf8;
using mambad::text::Detokenizer;
using mambad::text::Match;
using mambad::text::Regex;
using mambad::text::TokenizerFiles;

constexpr char kSoundTokenizer[] = R"({"added_tokens": [], "decoder": {"type": "ByteLevel"},
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
  "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<s>": 3}, "merges": ["a b"]}})";

constexpr const char* kTexts[] = {
    "", "ab aab  b\n\n<s>a</s>12 It's \u00E9e\u0301 \u8A9E\U0001F600\t|<|endoftext|>",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!"};

// An abort is what a fuzzer sees.
void Require(bool condition) {
  if (!condition) std::abort();
}

// Matches lie in order inside of the text and at its characters.
void TryRegex(const std::string& pattern) {
  const auto regex = Regex::Compile(pattern);
  if (!regex.ok()) return;
  for (const std::string text : kTexts) {
    std::vector<Match> matches;
    if (!regex->FindAll(text, &matches).ok()) continue;
    size_t at = 0;
    for (const Match& match : matches) {
      Require(at <= match.begin && match.begin <= match.end && match.end <= text.size());
      Require(CheckUtf8(text.substr(match.begin, match.end - match.begin)).ok());
      at = match.end;
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  TokenizerFiles files;
  files.source_name = "fuzz";
  const char kind = input.empty() ? '\0' : input[0];
  if (kind == 'r') {
    TryRegex(input.substr(1));
    return 0;
  }
  if (kind == 's') {
    files.sentencepiece_model = input.substr(1);
  } else if (kind == 'c' || kind == 'a') {
    files.tokenizer_json = kSoundTokenizer;
    files.model_vocabulary = 6;
    (kind == 'c' ? files.tokenizer_config_json : files.added_tokens_json) = input.substr(1);
  } else {
    files.tokenizer_json = input;
  }
  const auto tokenizer = mambad::text::CreateTokenizer(files);
  if (!tokenizer.ok()) return 0;
  for (const char* text : kTexts) {
    const auto ids = (*tokenizer)->Encode(text, {});
    if (!ids.ok()) continue;
    for (const auto id : *ids) Require((*tokenizer)->TokenToId((*tokenizer)->IdToToken(id)) == id);
    Require((*tokenizer)->EncodeConversation(text).ok());
    auto detokenizer = Detokenizer::Create(tokenizer->get(), {});
    Require(detokenizer.ok());
    std::string joined;
    for (const auto& id : *ids) joined += detokenizer->Push({&id, 1}).text;
    joined += detokenizer->Finish().text;
    Require(joined == (*tokenizer)->Decode(*ids, true));
    auto stopping = Detokenizer::Create(
        tokenizer->get(), {.stop_strings = {"b<s>", "<s>a"}, .include_stop = ids->size() % 2 == 0});
    Require(stopping.ok());
    size_t kept = 0;
    for (const auto& id : *ids) kept += stopping->Push({&id, 1}).kept_tokens;
    stopping->Finish();
    Require(kept <= ids->size());
  }
  return 0;
}
