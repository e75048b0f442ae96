#include "engine/text/pre_tokenizer_names.h"

#include <algorithm>

#include "absl/strings/str_join.h"
#include "absl/types/span.h"
#include "engine/text/pre_tokenizer.h"

namespace mambad::text {
namespace {

// Patterns are those of the families' own tokenizer.json, in the syntax of Regex.

#define MAMBAD_CONTRACTION R"((?i:'s|'t|'re|'ve|'m|'ll|'d))"
#define MAMBAD_TAIL R"( ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
#define MAMBAD_WORD R"([^\r\n\p{L}\p{N}]?\p{L}+|)"
#define MAMBAD_UPPER R"([\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}])"
#define MAMBAD_LOWER R"([\p{Ll}\p{Lm}\p{Lo}\p{M}])"
#define MAMBAD_CASED(upper, lower, ending)                                                    \
  R"([^\r\n\p{L}\p{N}]?)" upper "*" lower "+" ending R"(|[^\r\n\p{L}\p{N}]?)" upper "+" lower \
  "*" ending "|"
#define MAMBAD_CASED_TAIL R"( ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"
#define MAMBAD_NOT_HAN R"((?:(?!\p{Han}))"

constexpr std::string_view kLlama3 =
    MAMBAD_CONTRACTION "|" MAMBAD_WORD R"(\p{N}{1,3}|)" MAMBAD_TAIL;
constexpr std::string_view kQwen2 = MAMBAD_CONTRACTION "|" MAMBAD_WORD R"(\p{N}|)" MAMBAD_TAIL;
constexpr std::string_view kQwen35 = MAMBAD_CONTRACTION
    R"(|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kWithoutContractions = MAMBAD_WORD R"(\p{N}|)" MAMBAD_TAIL;
constexpr std::string_view kO200k = MAMBAD_CASED(
    MAMBAD_UPPER, MAMBAD_LOWER, MAMBAD_CONTRACTION "?") R"(\p{N}{1,3}|)" MAMBAD_CASED_TAIL;
constexpr std::string_view kTekken =
    MAMBAD_CASED(MAMBAD_UPPER, MAMBAD_LOWER, "") R"(\p{N}|)" MAMBAD_CASED_TAIL;
constexpr std::string_view kKimi =
    R"(\p{Han}+|)" MAMBAD_CASED(MAMBAD_NOT_HAN MAMBAD_UPPER ")", MAMBAD_NOT_HAN MAMBAD_LOWER ")",
                                MAMBAD_CONTRACTION "?") R"(\p{N}{1,3}|)" MAMBAD_TAIL;
constexpr std::string_view kSeedCoder = MAMBAD_CONTRACTION
    "|" MAMBAD_WORD R"(\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kBailing =
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|)"
    R"(\s+(?!\S)|\s+)";
constexpr std::string_view kExaoneMoe = MAMBAD_CONTRACTION
    R"(|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|)"
    R"(\s*[\r\n]|\s+(?!\S)|\s+)";
constexpr std::string_view kJais2 = MAMBAD_CONTRACTION
    "|" MAMBAD_WORD
    R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|)"
    R"(\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s{1})";
constexpr std::string_view kBloom = R"( ?[^(\s|.,!?…。，、।۔،)]+)";

constexpr std::string_view kDeepSeekHan = R"([一-龥぀-ゟ゠-ヿ]+)";
constexpr std::string_view kDeepSeekOldHan = R"([一-龥ࠀ-一가-퟿]+)";
#define MAMBAD_PUNCTUATED                               \
  R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|)" \
  R"([^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|)"
constexpr std::string_view kDeepSeek3 =
    MAMBAD_PUNCTUATED R"( ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kSpark = MAMBAD_PUNCTUATED R"( ?[\p{P}\p{S}]+|[\r\n]|\s+(?!\S)|\s+)";
// The cased letters of the Unicode version that the family was made with.
constexpr std::string_view kDeepSeekLetters =
    R"(\s?[A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293})"
    R"(\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386})"
    R"(\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F})"
    R"(\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA})"
    R"(\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15})"
    R"(\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B})"
    R"(\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4})"
    R"(\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4})"
    R"(\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124})"
    R"(\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F})"
    R"(\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4})"
    R"(\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F})"
    R"(\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17})"
    R"(\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3})"
    R"(\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF})"
    R"(\x{1E900}-\x{1E943}]+)";
constexpr std::string_view kDeepSeekSigns = R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)";
constexpr std::string_view kYoutuScripts =
    R"([가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+)";
constexpr std::string_view kYoutu =
    MAMBAD_CASED(MAMBAD_UPPER, MAMBAD_LOWER, MAMBAD_CONTRACTION "?") R"(\p{N}|)" MAMBAD_CASED_TAIL;

struct Family {
  ByteLevelRule rule;
  std::vector<std::string_view> names;
};

// Made once, never destroyed.
const std::vector<Family>& Families() {
  static const auto& families = *new std::vector<Family>{
      {{{R"([\p{P}\$\+<=>\^~\|]+)", kGpt2Pattern, R"(\p{N}+)", "[0-9][0-9][0-9]"}}, {"default"}},
      {{{kGpt2Pattern}},
       {"gpt-2", "gpt2", "phi-2", "jais", "trillion", "granite-docling", "exaone4", "gigachat",
        "a.x-4.0", "mellum", "modern-bert", "jina-es", "jina-de", "jina-v1-en", "jina-v2-es",
        "jina-v2-de", "jina-v2-code", "roberta-bpe"}},
      {{{kGpt2Pattern}, /*nfc=*/true}, {"gpt-neox", "mpt", "olmo", "dolly-v2"}},
      {{{kLlama3}, false, /*ignore_merges=*/true, /*add_bos=*/true},
       {"llama-bpe", "llama3", "llama-v3"}},
      {{{kLlama3}, false, /*ignore_merges=*/true},
       {"falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"}},
      {{{kLlama3}}, {"smaug-bpe", "dbrx", "chatglm-bpe", "glm4"}},
      {{{kTekken}, false, /*ignore_merges=*/true}, {"tekken"}},
      {{{kQwen2}, /*nfc=*/true}, {"qwen2"}},
      {{{kQwen35}, /*nfc=*/true}, {"qwen35"}},
      {{{kQwen2}},
       {"stablelm2", "hunyuan", "solar-open", "grok-2", "megrez", "deepseek-r1-qwen", "kormo",
        "f2llmv2"}},
      {{{R"([^\n]+|[\n]+)", kQwen2}}, {"laguna"}},
      {{{kWithoutContractions}}, {"ufakzeka"}},
      {{{R"(\p{N})", kGpt2Pattern}},
       {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b",
        "mellum2"}},
      {{{kO200k}}, {"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"}},
      {{{R"(\d{1,3}(?=(?:\d{3})*\b))", kO200k}}, {"tiny_aya", "cohere2moe"}},
      {{{R"([\r\n])", kDeepSeekLetters, kDeepSeekSigns, R"(\s+$)", kDeepSeekOldHan, R"(\p{N})"}},
       {"deepseek-llm"}},
      {{{R"([\r\n])", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kDeepSeekOldHan, R"(\p{N})"}},
       {"deepseek-coder"}},
      {{{R"(\p{N}{1,3})", kDeepSeekHan, kDeepSeek3}},
       {"deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"}},
      {{{R"(\p{N}{1,3})", kDeepSeekHan, kSpark, R"(\p{N})"}}, {"spark2_5"}},
      {{{kYoutuScripts, kYoutu}, false, /*ignore_merges=*/true}, {"youtu"}},
      {{{R"([\p{P}\$\+<=>\^~\|`]+)", kGpt2Pattern, "[0-9][0-9][0-9]"}}, {"falcon"}},
      {{{kBloom}}, {"bloom", "poro-chat", "gpt3-finnish"}},
      {{{kBloom, R"(\p{N})"}}, {"viking"}},
      {{{"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", R"(([\t\n]|    |  ))",
         R"(\p{N})", R"([\p{P}!-/:-@\[-`{-~])", kGpt2Pattern},
        false,
        false,
        /*add_bos=*/true},
       {"chameleon"}},
      {{{kJais2}}, {"jais-2"}},
      {{{kKimi}}, {"kimi-k2"}},
      {{{R"(\p{N}+)", R"((?=(\d{3})+(?!\d)))"}}, {"superbpe"}},
      {{{kBailing}}, {"bailingmoe", "bailingmoe2", "llada-moe"}},
      {{{kSeedCoder}}, {"seed-coder"}},
      {{{kExaoneMoe}}, {"exaone-moe"}},
  };
  return families;
}

}  // namespace

std::optional<ByteLevelRule> FindByteLevelRule(std::string_view name) {
  if (name.empty()) name = "default";
  for (const Family& family : Families()) {
    if (std::find(family.names.begin(), family.names.end(), name) != family.names.end()) {
      return family.rule;
    }
  }
  return std::nullopt;
}

std::string KnownByteLevelRules() {
  std::vector<std::string> names;
  for (const Family& family : Families()) {
    names.insert(names.end(), family.names.begin(), family.names.end());
  }
  std::sort(names.begin(), names.end());
  return absl::StrJoin(names, ", ");
}

}  // namespace mambad::text
