// Which trace of the caller's a call belongs to: W3C Trace Context, level 1 (header `traceparent`).

#ifndef MAMBAD_SERVER_TRACE_CONTEXT_H_
#define MAMBAD_SERVER_TRACE_CONTEXT_H_

#include <string>

#include "absl/strings/string_view.h"

namespace mambad::server {

// Lower-case hexadecimal digits; both empty: the call belongs to none.
struct TraceContext {
  std::string trace_id;  // 32 digits
  std::string span_id;   // 16 digits: of the caller's span
};

// Of the header's value "00-TRACE-SPAN-FLAGS"; of later versions what they begin with. A value that
// is none names no trace.
TraceContext ParseTraceparent(absl::string_view value);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_TRACE_CONTEXT_H_
