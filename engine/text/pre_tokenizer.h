// The pre-tokenizer of tokenizer.json: cuts text into the pieces inside which tokens are formed.
#ifndef MAMBAD_ENGINE_TEXT_PRE_TOKENIZER_H_
#define MAMBAD_ENGINE_TEXT_PRE_TOKENIZER_H_

#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "engine/text/regex.h"

namespace mambad::text {

// What becomes of the matches of a Split step and of the text between them.
enum class SplitBehavior {
  kRemoved,             // matches are dropped
  kIsolated,            // each match is a piece of its own
  kMergedWithPrevious,  // a match ends the piece before it
  kMergedWithNext,      // a match begins the piece after it
  kContiguous,          // neighbouring matches are one piece
};

struct SplitStep {
  Regex pattern;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;  // the text between the matches plays their part
};

// Puts `marker` for every space and before the text, then cuts before every marker.
struct MetaspaceStep {
  enum class Prepend { kNever, kFirst, kAlways };  // kFirst: only at the very start of the text
  std::string marker = "\xE2\x96\x81";
  Prepend prepend = Prepend::kAlways;
  bool split = true;
};

struct PreTokenizerStep {
  enum class Kind { kSplit, kMetaspace, kPrefixSpace };
  Kind kind;
  std::vector<SplitStep> split;  // kSplit: exactly one
  MetaspaceStep metaspace;       // kMetaspace
  // kPrefixSpace: a space before every piece that does not begin with one.
};

// Pieces of a text. They point into the text given or into `changed`.
struct Pieces {
  std::vector<std::string_view> pieces;
  std::deque<std::string> changed;
};

// Immutable; safe from any thread.
class PreTokenizer {
 public:
  explicit PreTokenizer(std::vector<PreTokenizerStep> steps) : steps_(std::move(steps)) {}

  // `text` is valid UTF-8 and must outlive `result`, whose former contents are dropped;
  // `at_start`: it is the very start of what is encoded; `goes_on`: it goes on where another text
  // ended, so that nothing is put before it.
  absl::Status Split(std::string_view text, bool at_start, Pieces* result,
                     bool goes_on = false) const;

 private:
  std::vector<PreTokenizerStep> steps_;
};

// Pattern of GPT-2's tokenizer.
extern const std::string_view kGpt2Pattern;

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_PRE_TOKENIZER_H_
