// How wide, how exact and in which form a value is written: the part that % and str.format share.
#ifndef MAMBAD_ENGINE_TEXT_JINJA_FORMAT_SPECIFICATION_H_
#define MAMBAD_ENGINE_TEXT_JINJA_FORMAT_SPECIFICATION_H_

#include <cstdint>
#include <string>
#include <string_view>

#include "engine/text/jinja/runtime.h"
#include "engine/text/jinja/value.h"

namespace mambad::text::jinja {

struct FormatSpecification {
  std::string fill = " ";
  char align = '\0';  // one of < > ^ =, or 0: as the kind of value wants it
  char sign = '-';    // or + or space
  bool alternate = false;
  bool zeros = false;  // a 0 before the width, which for text is only what it is filled with
  int64_t width = 0;
  char grouping = '\0';    // , or _ or 0
  int64_t precision = -1;  // -1: none given
  char type = '\0';        // 0: none given
};

// Reads a number of at most six digits at `*at`; -1 when none is there, an error when it is longer.
int64_t ReadFormatNumber(Runtime& runtime, std::string_view text, size_t* at);

// The text, cut to the precision and padded; to the left when it is not said.
std::string FormatText(Runtime& runtime, std::string_view text, const FormatSpecification& how);
// Types b c d o x X n, padded; to the right when it is not said.
std::string FormatInteger(Runtime& runtime, int64_t number, const FormatSpecification& how);
// Types e E f F g G n %, or none.
std::string FormatFloat(Runtime& runtime, double number, const FormatSpecification& how);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_FORMAT_SPECIFICATION_H_
