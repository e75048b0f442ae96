// When one that was refused for a full queue should come back, as a status carries it from the
// engine to the wire.

#ifndef MAMBAD_ENGINE_RETRY_DELAY_H_
#define MAMBAD_ENGINE_RETRY_DELAY_H_

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/cord.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"

namespace mambad {

// Of a status's payload: microseconds, as text.
inline constexpr char kRetryDelay[] = "mambad/retry_delay";

inline absl::Status WithRetryDelay(absl::Status refused, absl::Duration delay) {
  refused.SetPayload(kRetryDelay, absl::Cord(absl::StrCat(absl::ToInt64Microseconds(delay))));
  return refused;
}

// 1 s of a status that does not say.
inline absl::Duration RetryDelayOf(const absl::Status& refused) {
  int64_t microseconds = 0;
  const absl::optional<absl::Cord> told = refused.GetPayload(kRetryDelay);
  if (!told.has_value() || !absl::SimpleAtoi(std::string(*told), &microseconds))
    return absl::Seconds(1);
  return absl::Microseconds(microseconds);
}

}  // namespace mambad

#endif  // MAMBAD_ENGINE_RETRY_DELAY_H_
