#include "engine/text/tokenizer_components.h"

#include <memory>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "engine/text/byte_level.h"

namespace mambad::text {
namespace {

constexpr int kDeepest = 8;        // sequences inside sequences
constexpr size_t kMostSteps = 32;  // of one component
constexpr size_t kLongestInsert = 256;
constexpr std::string_view kMarker = "\xE2\x96\x81";

#define MAMBAD_RETURN_IF_ERROR(expression)                               \
  do {                                                                   \
    if (absl::Status status = (expression); !status.ok()) return status; \
  } while (false)

absl::StatusOr<std::string> TypeOf(const JsonReader& component) {
  MAMBAD_RETURN_IF_ERROR(component.ExpectObject());
  return component.Member("type").String();
}

// Calls `read(element)` for every element of the list, `depth` levels down.
template <typename Read>
absl::Status ForEach(const JsonReader& list, int depth, const Read& read) {
  MAMBAD_RETURN_IF_ERROR(list.ExpectArray());
  if (depth >= kDeepest || list.value().size() > kMostSteps) {
    return list.Unexpected(absl::StrCat("at most ", kMostSteps, " elements, ", kDeepest, " deep"));
  }
  for (size_t i = 0; i < list.value().size(); ++i) MAMBAD_RETURN_IF_ERROR(read(list.Element(i)));
  return absl::OkStatus();
}

absl::StatusOr<std::string> ShortString(const JsonReader& reader) {
  absl::StatusOr<std::string> text = reader.String();
  if (text.ok() && text->size() > kLongestInsert) {
    return reader.Unexpected(absl::StrCat("at most ", kLongestInsert, " bytes"));
  }
  return text;
}

// {"String": "..."} of a Replace component.
absl::StatusOr<std::string> ReadLiteralPattern(const JsonReader& pattern) {
  MAMBAD_RETURN_IF_ERROR(pattern.ExpectMembers({"String"}));
  absl::StatusOr<std::string> text = ShortString(pattern.Member("String"));
  if (text.ok() && text->empty()) return pattern.Member("String").Unexpected("some text");
  return text;
}

// By a text or an expression.
absl::Status ReadReplace(const JsonReader& component, NormalizerStep* step) {
  absl::StatusOr<std::string> content = ShortString(component.Member("content"));
  if (!content.ok()) return content.status();
  step->content = *std::move(content);
  const JsonReader pattern = component.Member("pattern");
  const JsonReader expression = pattern.Member("Regex");
  if (expression.IsNull()) {
    absl::StatusOr<std::string> text = ReadLiteralPattern(pattern);
    if (!text.ok()) return text.status();
    step->kind = NormalizerStep::Kind::kReplace;
    step->pattern = *std::move(text);
    return absl::OkStatus();
  }
  MAMBAD_RETURN_IF_ERROR(pattern.ExpectMembers({"Regex"}));
  absl::StatusOr<std::string> text = expression.String();
  if (!text.ok()) return text.status();
  absl::StatusOr<Regex> regex = Regex::Compile(*text);
  if (!regex.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(expression.path(), ": ", regex.status().message()));
  }
  step->kind = NormalizerStep::Kind::kReplaceRegex;
  step->regex = std::make_shared<const Regex>(*std::move(regex));
  return absl::OkStatus();
}

absl::Status AppendNormalizer(const JsonReader& component, int depth,
                              std::vector<NormalizerStep>* steps) {
  absl::StatusOr<std::string> type = TypeOf(component);
  if (!type.ok()) return type.status();
  if (steps->size() >= kMostSteps) return component.Unexpected("fewer normalizers");
  NormalizerStep step;
  if (*type == "Sequence") {
    MAMBAD_RETURN_IF_ERROR(component.ExpectMembers({"type", "normalizers"}));
    return ForEach(component.Member("normalizers"), depth, [&](const JsonReader& element) {
      return AppendNormalizer(element, depth + 1, steps);
    });
  } else if (*type == "NFC" || *type == "NFD" || *type == "NFKC" || *type == "NFKD") {
    MAMBAD_RETURN_IF_ERROR(component.ExpectMembers({"type"}));
    step.kind = NormalizerStep::Kind::kUnicode;
    step.form = *type == "NFC"    ? UnicodeForm::kNfc
                : *type == "NFD"  ? UnicodeForm::kNfd
                : *type == "NFKC" ? UnicodeForm::kNfkc
                                  : UnicodeForm::kNfkd;
  } else if (*type == "Prepend") {
    MAMBAD_RETURN_IF_ERROR(component.ExpectMembers({"type", "prepend"}));
    absl::StatusOr<std::string> content = ShortString(component.Member("prepend"));
    if (!content.ok()) return content.status();
    step.kind = NormalizerStep::Kind::kPrepend;
    step.content = *std::move(content);
  } else if (*type == "Replace") {
    MAMBAD_RETURN_IF_ERROR(component.ExpectMembers({"type", "pattern", "content"}));
    MAMBAD_RETURN_IF_ERROR(ReadReplace(component, &step));
  } else if (*type == "Lowercase" || *type == "StripAccents") {
    MAMBAD_RETURN_IF_ERROR(component.ExpectMembers({"type"}));
    step.kind = *type == "Lowercase" ? NormalizerStep::Kind::kLowercase
                                     : NormalizerStep::Kind::kStripAccents;
  } else if (*type == "Strip") {
    MAMBAD_RETURN_IF_ERROR(component.ExpectMembers({"type", "strip_left", "strip_right"}));
    absl::StatusOr<bool> left = component.Member("strip_left").BoolOr(true);
    absl::StatusOr<bool> right = component.Member("strip_right").BoolOr(true);
    if (!left.ok()) return left.status();
    if (!right.ok()) return right.status();
    step.kind = NormalizerStep::Kind::kStrip;
    step.left = *left;
    step.right = *right;
  } else {
    return component.Unsupported(*type,
                                 "Lowercase, NFC, NFD, NFKC, NFKD, Prepend, Replace, Sequence, "
                                 "Strip, StripAccents");
  }
  steps->push_back(std::move(step));
  return absl::OkStatus();
}

absl::StatusOr<SplitBehavior> ReadBehavior(const JsonReader& reader) {
  absl::StatusOr<std::string> name = reader.String();
  if (!name.ok()) return name.status();
  if (*name == "Removed") return SplitBehavior::kRemoved;
  if (*name == "Isolated") return SplitBehavior::kIsolated;
  if (*name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (*name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (*name == "Contiguous") return SplitBehavior::kContiguous;
  return reader.Unexpected("Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous");
}

// A pattern that matches just `text`: every character by its number.
std::string LiteralPattern(std::string_view text) {
  std::string pattern;
  for (const char c : text) {
    if (static_cast<unsigned char>(c) < 0x80) {
      absl::StrAppend(&pattern, "\\x{", absl::Hex(static_cast<unsigned char>(c)), "}");
    } else {
      pattern.push_back(c);
    }
  }
  return pattern;
}

absl::Status AppendSplit(const JsonReader& component, std::vector<PreTokenizerStep>* steps) {
  MAMBAD_RETURN_IF_ERROR(component.ExpectMembers({"type", "pattern", "behavior", "invert"}));
  const JsonReader pattern = component.Member("pattern");
  MAMBAD_RETURN_IF_ERROR(pattern.ExpectMembers({"Regex", "String"}));
  const bool literal = pattern.Member("Regex").IsNull();
  absl::StatusOr<std::string> text =
      literal ? ReadLiteralPattern(pattern) : pattern.Member("Regex").String();
  if (!text.ok()) return text.status();
  absl::StatusOr<PreTokenizerStep> step = IsolateMatches(literal ? LiteralPattern(*text) : *text);
  if (!step.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(pattern.path(), ": ", step.status().message()));
  }
  absl::StatusOr<SplitBehavior> behavior = ReadBehavior(component.Member("behavior"));
  if (!behavior.ok()) return behavior.status();
  absl::StatusOr<bool> invert = component.Member("invert").BoolOr(false);
  if (!invert.ok()) return invert.status();
  step->split.front().behavior = *behavior;
  step->split.front().invert = *invert;
  steps->push_back(*std::move(step));
  return absl::OkStatus();
}

// ASCII's signs and Unicode's punctuation, less what has become such since Unicode 8, which the
// tokenizers library goes by here, and with what was such then.
constexpr std::string_view kPunctuation =
    R"([\p{P}$+<=>^`|~\x{166D}\x{111C9}&&[^)"
    R"(\x{61D}\x{9FD}\x{A76}\x{C77}\x{C84}\x{1B4E}-\x{1B4F}\x{1B7D}-\x{1B7F})"
    R"(\x{2E43}-\x{2E4F}\x{2E52}-\x{2E5D}\x{10D6E}\x{10EAD}\x{10F55}-\x{10F59})"
    R"(\x{10F86}-\x{10F89}\x{113D4}-\x{113D5}\x{113D7}-\x{113D8}\x{1144B}-\x{1144F})"
    R"(\x{1145A}-\x{1145B}\x{1145D}\x{11660}-\x{1166C}\x{116B9}\x{1183B})"
    R"(\x{11944}-\x{11946}\x{119E2}\x{11A3F}-\x{11A46}\x{11A9A}-\x{11A9C})"
    R"(\x{11A9E}-\x{11AA2}\x{11B00}-\x{11B09}\x{11BE1}\x{11C41}-\x{11C45})"
    R"(\x{11C70}-\x{11C71}\x{11EF7}-\x{11EF8}\x{11F43}-\x{11F4F}\x{11FFF})"
    R"(\x{12FF1}-\x{12FF2}\x{16D6D}-\x{16D6F}\x{16E97}-\x{16E9A}\x{16FE2}\x{1E5FF})"
    R"(\x{1E95E}-\x{1E95F})"
    "]]";
// Unicode's numbers, those of 17 among them.
constexpr std::string_view kNumber = R"([\p{N}\x{11DE0}-\x{11DE9}\x{16FF4}-\x{16FF6}])";

// A step that cuts at every match of `pattern`, which is known to be sound.
absl::Status AppendPattern(std::string_view pattern, SplitBehavior behavior, bool invert,
                           std::vector<PreTokenizerStep>* steps) {
  absl::StatusOr<PreTokenizerStep> step = IsolateMatches(pattern);
  if (!step.ok()) return step.status();
  step->split.front().behavior = behavior;
  step->split.front().invert = invert;
  steps->push_back(*std::move(step));
  return absl::OkStatus();
}

// Kinds that are a pattern under a name. False in `known`: it is none of them.
absl::Status AppendNamedPattern(const JsonReader& component, const std::string& type, bool* known,
                                std::vector<PreTokenizerStep>* steps) {
  *known = true;
  if (type == "WhitespaceSplit") {
    return AppendPattern("\\s", SplitBehavior::kRemoved, false, steps);
  }
  if (type == "Whitespace") {
    return AppendPattern(R"([\w\x{200C}\x{200D}]+|[^\w\s\x{200C}\x{200D}]+)",
                         SplitBehavior::kRemoved, true, steps);
  }
  if (type == "BertPreTokenizer") {
    MAMBAD_RETURN_IF_ERROR(AppendPattern("\\s", SplitBehavior::kRemoved, false, steps));
    return AppendPattern(kPunctuation, SplitBehavior::kIsolated, false, steps);
  }
  if (type == "Punctuation") {
    MAMBAD_RETURN_IF_ERROR(component.ExpectMembers({"type", "behavior"}));
    const JsonReader named = component.Member("behavior");
    absl::StatusOr<SplitBehavior> behavior = SplitBehavior::kIsolated;
    if (!named.IsNull()) behavior = ReadBehavior(named);
    if (!behavior.ok()) return behavior.status();
    return AppendPattern(kPunctuation, *behavior, false, steps);
  }
  if (type == "CharDelimiterSplit") {
    MAMBAD_RETURN_IF_ERROR(component.ExpectMembers({"type", "delimiter"}));
    absl::StatusOr<std::string> delimiter = ShortString(component.Member("delimiter"));
    if (!delimiter.ok()) return delimiter.status();
    if (delimiter->empty()) return component.Member("delimiter").Unexpected("one character");
    return AppendPattern(LiteralPattern(*delimiter), SplitBehavior::kRemoved, false, steps);
  }
  *known = false;
  return absl::OkStatus();
}

absl::Status AppendDigits(const JsonReader& component, std::vector<PreTokenizerStep>* steps) {
  MAMBAD_RETURN_IF_ERROR(component.ExpectMembers({"type", "individual_digits"}));
  absl::StatusOr<bool> individual = component.Member("individual_digits").BoolOr(false);
  if (!individual.ok()) return individual.status();
  absl::StatusOr<PreTokenizerStep> step = IsolateMatches(kNumber);
  if (!step.ok()) return step.status();
  if (!*individual) step->split.front().behavior = SplitBehavior::kContiguous;
  steps->push_back(*std::move(step));
  return absl::OkStatus();
}

absl::Status AppendByteLevel(const JsonReader& component, std::optional<bool> prefix_space,
                             PreTokenizerRule* rule) {
  MAMBAD_RETURN_IF_ERROR(
      component.ExpectMembers({"type", "add_prefix_space", "trim_offsets", "use_regex"}));
  absl::StatusOr<bool> prefix = component.Member("add_prefix_space").BoolOr(true);
  absl::StatusOr<bool> use_regex = component.Member("use_regex").BoolOr(true);
  if (!prefix.ok()) return prefix.status();
  if (!use_regex.ok()) return use_regex.status();
  if (prefix_space.value_or(*prefix)) {
    PreTokenizerStep step;
    step.kind = PreTokenizerStep::Kind::kPrefixSpace;
    rule->steps.push_back(std::move(step));
  }
  if (*use_regex) {
    absl::StatusOr<PreTokenizerStep> step = IsolateMatches(kGpt2Pattern);
    if (!step.ok()) return step.status();
    rule->steps.push_back(*std::move(step));
  }
  rule->byte_level = true;
  return absl::OkStatus();
}

absl::StatusOr<MetaspaceStep> ReadMetaspace(const JsonReader& component) {
  MAMBAD_RETURN_IF_ERROR(component.ExpectMembers(
      {"type", "replacement", "str_rep", "prepend_scheme", "add_prefix_space", "split"}));
  MetaspaceStep step;
  absl::StatusOr<std::string> marker = component.Member("replacement").StringOr(kMarker);
  if (!marker.ok()) return marker.status();
  if (marker->empty() || marker->size() > 4) {
    return component.Member("replacement").Unexpected("one character");
  }
  step.marker = *std::move(marker);
  absl::StatusOr<bool> add_prefix = component.Member("add_prefix_space").BoolOr(true);
  if (!add_prefix.ok()) return add_prefix.status();
  absl::StatusOr<std::string> scheme =
      component.Member("prepend_scheme").StringOr(*add_prefix ? "always" : "never");
  if (!scheme.ok()) return scheme.status();
  if (*scheme == "always") {
    step.prepend = MetaspaceStep::Prepend::kAlways;
  } else if (*scheme == "first") {
    step.prepend = MetaspaceStep::Prepend::kFirst;
  } else if (*scheme == "never") {
    step.prepend = MetaspaceStep::Prepend::kNever;
  } else {
    return component.Member("prepend_scheme").Unexpected("always, first or never");
  }
  absl::StatusOr<bool> split = component.Member("split").BoolOr(true);
  if (!split.ok()) return split.status();
  step.split = *split;
  return step;
}

absl::Status AppendPreTokenizer(const JsonReader& component, int depth, PreTokenizerRule* rule) {
  absl::StatusOr<std::string> type = TypeOf(component);
  if (!type.ok()) return type.status();
  if (rule->byte_level) return component.Unexpected("ByteLevel to be the last pre-tokenizer");
  if (rule->steps.size() >= kMostSteps) return component.Unexpected("fewer pre-tokenizers");
  if (*type == "Sequence") {
    MAMBAD_RETURN_IF_ERROR(component.ExpectMembers({"type", "pretokenizers"}));
    return ForEach(component.Member("pretokenizers"), depth, [&](const JsonReader& element) {
      return AppendPreTokenizer(element, depth + 1, rule);
    });
  }
  if (*type == "ByteLevel") return AppendByteLevel(component, std::nullopt, rule);
  if (*type == "Split") return AppendSplit(component, &rule->steps);
  if (*type == "Digits") return AppendDigits(component, &rule->steps);
  bool named = false;
  MAMBAD_RETURN_IF_ERROR(AppendNamedPattern(component, *type, &named, &rule->steps));
  if (named) return absl::OkStatus();
  if (*type != "Metaspace") {
    return component.Unsupported(*type,
                                 "BertPreTokenizer, ByteLevel, CharDelimiterSplit, Digits, "
                                 "Metaspace, Punctuation, Sequence, Split, Whitespace, "
                                 "WhitespaceSplit");
  }
  absl::StatusOr<MetaspaceStep> metaspace = ReadMetaspace(component);
  if (!metaspace.ok()) return metaspace.status();
  PreTokenizerStep step;
  step.kind = PreTokenizerStep::Kind::kMetaspace;
  step.metaspace = *std::move(metaspace);
  rule->steps.push_back(std::move(step));
  return absl::OkStatus();
}

// Only the form in use: one space, at the start.
absl::Status ReadStrip(const JsonReader& component, DecoderRule* rule) {
  MAMBAD_RETURN_IF_ERROR(component.ExpectMembers({"type", "content", "start", "stop"}));
  absl::StatusOr<std::string> content = component.Member("content").String();
  absl::StatusOr<int32_t> start = component.Member("start").NonNegativeInt();
  absl::StatusOr<int32_t> stop = component.Member("stop").NonNegativeInt();
  if (!content.ok()) return content.status();
  if (!start.ok()) return start.status();
  if (!stop.ok()) return stop.status();
  if (*content != " " || *start > 1 || *stop != 0) {
    return component.Unexpected("Strip of one space at the start");
  }
  // Before Fuse every token would lose its space.
  if (!rule->joins) return component.Unexpected("Strip after Fuse");
  rule->strips_leading_space = *start == 1;
  return absl::OkStatus();
}

absl::Status AppendDecoder(const JsonReader& component, int depth, DecoderRule* rule) {
  absl::StatusOr<std::string> type = TypeOf(component);
  if (!type.ok()) return type.status();
  if (rule->replacements.size() >= kMostSteps) return component.Unexpected("fewer decoders");
  if (*type == "Sequence") {
    MAMBAD_RETURN_IF_ERROR(component.ExpectMembers({"type", "decoders"}));
    return ForEach(component.Member("decoders"), depth, [&](const JsonReader& element) {
      return AppendDecoder(element, depth + 1, rule);
    });
  }
  const bool replaces = *type == "Replace" || *type == "Metaspace";
  if (replaces && (rule->byte_level || rule->byte_fallback || rule->joins)) {
    return component.Unexpected(absl::StrCat(*type, " before ByteLevel, ByteFallback and Fuse"));
  }
  if (*type == "ByteLevel") {
    if (!rule->replacements.empty()) return component.Unexpected("ByteLevel without Replace");
    rule->byte_level = true;
  } else if (*type == "ByteFallback") {
    rule->byte_fallback = true;
  } else if (*type == "Fuse") {
    rule->joins = true;  // tokens are always joined here
  } else if (*type == "Strip") {
    return ReadStrip(component, rule);
  } else if (*type == "Replace") {
    MAMBAD_RETURN_IF_ERROR(component.ExpectMembers({"type", "pattern", "content"}));
    absl::StatusOr<std::string> pattern = ReadLiteralPattern(component.Member("pattern"));
    absl::StatusOr<std::string> content = ShortString(component.Member("content"));
    if (!pattern.ok()) return pattern.status();
    if (!content.ok()) return content.status();
    rule->replacements.emplace_back(*std::move(pattern), *std::move(content));
  } else if (*type == "Metaspace") {
    absl::StatusOr<MetaspaceStep> step = ReadMetaspace(component);
    if (!step.ok()) return step.status();
    rule->replacements.emplace_back(step->marker, " ");
    rule->strips_leading_space = step->prepend != MetaspaceStep::Prepend::kNever;
  } else {
    return component.Unsupported(
        *type, "ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Sequence, Strip");
  }
  return absl::OkStatus();
}

// Ids of one special token of a template.
absl::StatusOr<std::vector<TokenId>> TemplateIds(const JsonReader& post_processor,
                                                 const std::string& name) {
  const JsonReader ids = post_processor.Member("special_tokens").Member(name).Member("ids");
  MAMBAD_RETURN_IF_ERROR(ids.ExpectArray());
  if (ids.value().size() > kMostSteps) return ids.Unexpected("fewer ids");
  std::vector<TokenId> result;
  for (size_t i = 0; i < ids.value().size(); ++i) {
    absl::StatusOr<int32_t> id = ids.Element(i).NonNegativeInt();
    if (!id.ok()) return id.status();
    result.push_back(*id);
  }
  return result;
}

absl::Status ReadTemplate(const JsonReader& component, PostProcessorRule* rule) {
  MAMBAD_RETURN_IF_ERROR(component.ExpectMembers({"type", "single", "pair", "special_tokens"}));
  std::vector<TokenId> prefix, suffix;
  bool text_seen = false;
  absl::Status status = ForEach(component.Member("single"), 0, [&](const JsonReader& item) {
    absl::Status known = item.ExpectMembers({"SpecialToken", "Sequence"});
    if (!known.ok()) return known;
    if (!item.Member("Sequence").IsNull()) {
      absl::StatusOr<std::string> id = item.Member("Sequence").Member("id").String();
      if (!id.ok()) return id.status();
      if (*id != "A" || text_seen) return item.Unexpected("sequence A once");
      text_seen = true;
      return absl::OkStatus();
    }
    absl::StatusOr<std::string> name = item.Member("SpecialToken").Member("id").String();
    if (!name.ok()) return name.status();
    absl::StatusOr<std::vector<TokenId>> ids = TemplateIds(component, *name);
    if (!ids.ok()) return ids.status();
    std::vector<TokenId>& target = text_seen ? suffix : prefix;
    target.insert(target.end(), ids->begin(), ids->end());
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  if (!text_seen) return component.Member("single").Unexpected("sequence A once");
  rule->prefix.insert(rule->prefix.begin(), prefix.begin(), prefix.end());
  rule->suffix.insert(rule->suffix.end(), suffix.begin(), suffix.end());
  return absl::OkStatus();
}

// ["</s>", 2]
absl::StatusOr<TokenId> ReadNamedId(const JsonReader& pair) {
  MAMBAD_RETURN_IF_ERROR(pair.ExpectArray());
  if (pair.value().size() != 2) return pair.Unexpected("a token and its id");
  return pair.Element(1).NonNegativeInt();
}

absl::Status AppendPostProcessor(const JsonReader& component, int depth, PostProcessorRule* rule) {
  absl::StatusOr<std::string> type = TypeOf(component);
  if (!type.ok()) return type.status();
  if (*type == "Sequence") {
    MAMBAD_RETURN_IF_ERROR(component.ExpectMembers({"type", "processors"}));
    return ForEach(component.Member("processors"), depth, [&](const JsonReader& element) {
      return AppendPostProcessor(element, depth + 1, rule);
    });
  }
  if (*type == "ByteLevel") return absl::OkStatus();  // changes offsets only, no ids
  if (*type == "TemplateProcessing") return ReadTemplate(component, rule);
  if (*type == "RobertaProcessing" || *type == "BertProcessing") {
    absl::StatusOr<TokenId> begin = ReadNamedId(component.Member("cls"));
    absl::StatusOr<TokenId> end = ReadNamedId(component.Member("sep"));
    if (!begin.ok()) return begin.status();
    if (!end.ok()) return end.status();
    rule->prefix.insert(rule->prefix.begin(), *begin);
    rule->suffix.push_back(*end);
    return absl::OkStatus();
  }
  return component.Unsupported(
      *type, "BertProcessing, ByteLevel, RobertaProcessing, Sequence, TemplateProcessing");
}

}  // namespace

absl::StatusOr<std::vector<NormalizerStep>> ReadNormalizer(const JsonReader& normalizer) {
  std::vector<NormalizerStep> steps;
  if (!normalizer.IsNull()) MAMBAD_RETURN_IF_ERROR(AppendNormalizer(normalizer, 0, &steps));
  return steps;
}

absl::StatusOr<PreTokenizerRule> ReadPreTokenizer(const JsonReader& pre_tokenizer,
                                                  std::optional<bool> prefix_space) {
  PreTokenizerRule rule;
  if (pre_tokenizer.IsNull()) return rule;
  if (pre_tokenizer.Member("type").value() == "ByteLevel") {
    MAMBAD_RETURN_IF_ERROR(AppendByteLevel(pre_tokenizer, prefix_space, &rule));
  } else {
    MAMBAD_RETURN_IF_ERROR(AppendPreTokenizer(pre_tokenizer, 0, &rule));
  }
  return rule;
}

absl::StatusOr<DecoderRule> ReadDecoder(const JsonReader& decoder) {
  DecoderRule rule;
  if (decoder.IsNull()) return rule;
  rule.present = true;
  MAMBAD_RETURN_IF_ERROR(AppendDecoder(decoder, 0, &rule));
  return rule;
}

absl::StatusOr<PostProcessorRule> ReadPostProcessor(const JsonReader& post_processor) {
  PostProcessorRule rule;
  if (!post_processor.IsNull()) {
    MAMBAD_RETURN_IF_ERROR(AppendPostProcessor(post_processor, 0, &rule));
  }
  return rule;
}

std::string DecodeSpelling(const DecoderRule& rule, std::string_view spelling) {
  if (rule.byte_level) {
    std::optional<std::string> bytes = ByteLevelDecode(spelling);
    return bytes.has_value() ? *std::move(bytes) : std::string(spelling);
  }
  if (rule.byte_fallback) {
    if (const int byte = ByteFallbackValue(spelling); byte >= 0) {
      return std::string(1, static_cast<char>(byte));
    }
  }
  std::string bytes(spelling);
  for (const auto& [pattern, content] : rule.replacements) {
    bytes = absl::StrReplaceAll(bytes, {{pattern, content}});
  }
  return bytes;
}

int ByteFallbackValue(std::string_view spelling) {
  if (spelling.size() != 6 || spelling.substr(0, 3) != "<0x" || spelling[5] != '>') return -1;
  int value = 0;
  for (const char c : spelling.substr(3, 2)) {
    if (!absl::ascii_isxdigit(static_cast<unsigned char>(c))) return -1;
    value = 16 * value + (absl::ascii_isdigit(static_cast<unsigned char>(c))
                              ? c - '0'
                              : absl::ascii_toupper(static_cast<unsigned char>(c)) - 'A' + 10);
  }
  return value;
}

std::string ByteFallbackSpelling(int byte) {
  constexpr char kDigits[] = "0123456789ABCDEF";
  return {'<', '0', 'x', kDigits[byte >> 4 & 15], kDigits[byte & 15], '>'};
}

absl::StatusOr<PreTokenizerStep> IsolateMatches(std::string_view pattern) {
  absl::StatusOr<Regex> regex = Regex::Compile(pattern);
  if (!regex.ok()) return regex.status();
  PreTokenizerStep step;
  step.kind = PreTokenizerStep::Kind::kSplit;
  step.split.push_back(SplitStep{*std::move(regex), SplitBehavior::kIsolated, false});
  return step;
}

}  // namespace mambad::text
