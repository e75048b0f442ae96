#include "server/trace_context.h"

#include <algorithm>

namespace mambad::server {
namespace {

constexpr size_t kVersion = 2, kTrace = 32, kSpan = 16, kFlags = 2;  // digits
constexpr size_t kLength = kVersion + 1 + kTrace + 1 + kSpan + 1 + kFlags;

bool IsDigits(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

bool IsZero(absl::string_view digits) {
  return std::all_of(digits.begin(), digits.end(), [](char c) { return c == '0'; });
}

}  // namespace

TraceContext ParseTraceparent(absl::string_view value) {
  if (value.size() < kLength) return {};
  const absl::string_view version = value.substr(0, kVersion);
  const absl::string_view trace = value.substr(kVersion + 1, kTrace);
  const absl::string_view span = value.substr(kVersion + 1 + kTrace + 1, kSpan);
  const absl::string_view flags = value.substr(kLength - kFlags, kFlags);
  for (const size_t dash : {kVersion, kVersion + 1 + kTrace, kLength - kFlags - 1})
    if (value[dash] != '-') return {};
  for (const absl::string_view digits : {version, trace, span, flags})
    if (!IsDigits(digits)) return {};
  if (version == "ff" || IsZero(trace) || IsZero(span)) return {};
  if (value.size() > kLength && (version == "00" || value[kLength] != '-')) return {};
  return {std::string(trace), std::string(span)};
}

}  // namespace mambad::server
