// A call's host-side arguments as names and numbers: two calls are the same where all of them are.

#ifndef MAMBAD_KERNELS_CALL_ARGUMENTS_H_
#define MAMBAD_KERNELS_CALL_ARGUMENTS_H_

#include <cstdint>
#include <vector>

#include "kernels/backend.h"

namespace mambad::kernels {

struct Argument {
  const char* name;
  int64_t value;  // of a pointer: where it points
};
using Arguments = std::vector<Argument>;

// Each by all of its members.
Arguments ArgumentsOf(const Batch& batch);
Arguments ArgumentsOf(const SamplingTables& tables);
Arguments ArgumentsOf(const DraftSampling& request);
Arguments ArgumentsOf(const Acceptance& request);
Arguments ArgumentsOf(const AcceptanceResult& result);
Arguments ArgumentsOf(const RecurrentState& state);
Arguments ArgumentsOf(const KeyValueState& state);
// What the caller keeps where it is, by its place.
Arguments PlaceOf(const char* name, const void* place);

template <typename... More>
Arguments Join(Arguments first, const More&... more) {
  (first.insert(first.end(), more.begin(), more.end()), ...);
  return first;
}

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CALL_ARGUMENTS_H_
