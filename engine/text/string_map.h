// A hash map from strings that can be asked with views. (Abseil's own defaults cannot where its
// string_view is not the standard one.)
#ifndef MAMBAD_ENGINE_TEXT_STRING_MAP_H_
#define MAMBAD_ENGINE_TEXT_STRING_MAP_H_

#include <functional>
#include <string>
#include <string_view>

#include "absl/container/flat_hash_map.h"

namespace mambad::text {

struct StringViewHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

// Key is std::string, or std::string_view over text that lives longer than the map.
template <typename Key, typename Value>
using StringMap = absl::flat_hash_map<Key, Value, StringViewHash, std::equal_to<>>;

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_STRING_MAP_H_
