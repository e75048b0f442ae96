// From statuses, as the engine's libraries report faults, to exceptions, as the trainer does.

#ifndef MAMBAD_TRAINER_FORMATS_STATUS_EXCEPTION_H_
#define MAMBAD_TRAINER_FORMATS_STATUS_EXCEPTION_H_

#include <stdexcept>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mambad::trainer {

// std::runtime_error with the status' message.
inline void ThrowUnlessOk(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(std::string(status.message()));
}

template <typename T>
T ValueOf(absl::StatusOr<T> value) {
  ThrowUnlessOk(value.status());
  return *std::move(value);
}

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_FORMATS_STATUS_EXCEPTION_H_
