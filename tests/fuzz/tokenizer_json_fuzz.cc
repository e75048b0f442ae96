// tokenizer.json, tokenizer_config.json and tokenizer.model may hold anything: reading them gives a
// tokenizer or an error, and a tokenizer that was made encodes and decodes without fault.
//
// The first byte chooses: 's' the rest is a tokenizer.model, 'c' a tokenizer_config.json beside a
// small sound tokenizer, anything else: the whole input is a tokenizer.json.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "engine/text/detokenizer.h"
#include "engine/text/tokenizer.h"

namespace {

using mambad::text::Detokenizer;
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

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string input(reinterpret_cast<const char*>(data), size);
  TokenizerFiles files;
  files.source_name = "fuzz";
  if (!input.empty() && input[0] == 's') {
    files.sentencepiece_model = input.substr(1);
  } else if (!input.empty() && input[0] == 'c') {
    files.tokenizer_json = kSoundTokenizer;
    files.tokenizer_config_json = input.substr(1);
  } else {
    files.tokenizer_json = input;
  }
  const auto tokenizer = mambad::text::CreateTokenizer(files);
  if (!tokenizer.ok()) return 0;
  for (const char* text : kTexts) {
    const auto ids = (*tokenizer)->Encode(text, {});
    if (!ids.ok()) continue;
    for (const auto id : *ids) Require((*tokenizer)->TokenToId((*tokenizer)->IdToToken(id)) == id);
    auto detokenizer = Detokenizer::Create(tokenizer->get(), {});
    Require(detokenizer.ok());
    std::string joined;
    for (const auto& id : *ids) joined += detokenizer->Push({&id, 1}).text;
    joined += detokenizer->Finish().text;
    Require(joined == (*tokenizer)->Decode(*ids, true));
  }
  return 0;
}
