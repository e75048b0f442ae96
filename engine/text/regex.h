// Regular expressions of tokenizer files, compiled with PCRE2 (JIT where the processor has it).
// Those files are written for Oniguruma: regex_syntax.h says how its meaning is kept.
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
  size_t begin, end;  // bytes, end not included; the same for an empty match
};

// Immutable; safe from any thread.
class Regex {
 public:
  // INVALID_ARGUMENT naming the construct that is not understood. Patterns of up to 64 KiB.
  static absl::StatusOr<Regex> Compile(std::string_view pattern);

  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;
  ~Regex();

  // All leftmost matches in `text` (valid UTF-8), in order, at the end of `matches`. They do not
  // overlap; an empty one does not touch the end of the one before it. RESOURCE_EXHAUSTED when the
  // pattern backtracks beyond its limit.
  absl::Status FindAll(std::string_view text, std::vector<Match>* matches) const;

 private:
  struct Compiled;
  explicit Regex(std::unique_ptr<const Compiled> compiled);
  std::unique_ptr<const Compiled> compiled_;
};

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_REGEX_H_
