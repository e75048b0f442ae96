// Ranges of Unicode's code points, as tables of characters list them.

#ifndef MAMBAD_ENGINE_TEXT_CODE_POINT_RANGE_H_
#define MAMBAD_ENGINE_TEXT_CODE_POINT_RANGE_H_

#include <algorithm>
#include <cstdint>
#include <iterator>

namespace mambad::text {

struct CodePointRange {
  uint32_t first, last;  // both belong to it
};

// `ranges`: a list of CodePointRange.
template <typename Ranges>
bool IsWithin(uint32_t code_point, const Ranges& ranges) {
  return std::any_of(std::begin(ranges), std::end(ranges), [&](const CodePointRange& range) {
    return code_point >= range.first && code_point <= range.last;
  });
}

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_CODE_POINT_RANGE_H_
