// The normalizer of tokenizer.json: what happens to text before it is cut into pieces.
#ifndef MAMBAD_ENGINE_TEXT_NORMALIZER_H_
#define MAMBAD_ENGINE_TEXT_NORMALIZER_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/text/regex.h"

namespace mambad::text {

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

// `text` (valid UTF-8) in a Unicode normal form (UAX 15). Time is near-linear also for long runs of
// combining marks.
std::string NormalizeUnicode(std::string_view text, UnicodeForm form);

struct NormalizerStep {
  enum class Kind {
    kUnicode,       // `form`
    kPrepend,       // `content` before any text that is not empty
    kReplace,       // every `pattern` becomes `content`
    kReplaceRegex,  // every match of `regex` becomes `content`
    kLowercase,     // character by character
    kStripAccents,  // without its combining marks
    kStrip,         // without white space at its ends: `left`, `right`
  };
  Kind kind = Kind::kUnicode;
  UnicodeForm form = UnicodeForm::kNfc;
  std::string pattern;
  std::string content;
  std::shared_ptr<const Regex> regex = nullptr;  // kReplaceRegex
  bool left = false, right = false;
};

// Immutable; safe from any thread.
class Normalizer {
 public:
  explicit Normalizer(std::vector<NormalizerStep> steps) : steps_(std::move(steps)) {}

  bool changes_nothing() const { return steps_.empty(); }
  const std::vector<NormalizerStep>& steps() const { return steps_; }

  // `goes_on`: the text goes on from another one, so that nothing is prepended.
  // RESOURCE_EXHAUSTED when the steps make the text more than 64 times (plus 64 KiB) longer, or an
  // expression goes beyond its limit.
  absl::StatusOr<std::string> Normalize(std::string_view text, bool goes_on = false) const;

 private:
  std::vector<NormalizerStep> steps_;
};

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_NORMALIZER_H_
