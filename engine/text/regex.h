// Regular expressions of tokenizer files, compiled with PCRE2 (JIT where the processor has it).
//
// Those files are written for Oniguruma; the classes \s \S \w \W \d \D are rewritten so that they
// mean the same Unicode properties there and here, and constructs whose meaning differs are
// refused.
#ifndef MAMBAD_ENGINE_TEXT_REGEX_H_
#define MAMBAD_ENGINE_TEXT_REGEX_H_

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mambad::text {

struct Match {
  size_t begin, end;  // bytes, end not included; never empty
};

// Immutable; safe from any thread.
class Regex {
 public:
  // INVALID_ARGUMENT naming the construct that is not understood. Patterns of up to 64 KiB.
  static absl::StatusOr<Regex> Compile(std::string_view pattern);

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // All leftmost matches in `text` (valid UTF-8), in order, empty ones left out, at the end of
  // `matches`. RESOURCE_EXHAUSTED when the pattern backtracks beyond its limit.
  absl::Status FindAll(std::string_view text, std::vector<Match>* matches) const;

 private:
  struct Compiled;
  explicit Regex(std::unique_ptr<const Compiled> compiled);
  std::unique_ptr<const Compiled> compiled_;
};

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_REGEX_H_
