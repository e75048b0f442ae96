// The parts of the table of filters: builtins.h is what others see of them.
#ifndef MAMBAD_ENGINE_TEXT_JINJA_FILTERS_H_
#define MAMBAD_ENGINE_TEXT_JINJA_FILTERS_H_

#include <string>
#include <string_view>

#include "engine/text/jinja/runtime.h"
#include "engine/text/jinja/value.h"

namespace mambad::text::jinja {

using Filter = Value (*)(Runtime&, const Value& subject, const Arguments& arguments);

struct FilterEntry {
  std::string_view name;
  Filter filter;
};

// Each: null when there is none of that name.
Filter FindTextFilter(std::string_view name);
Filter FindValueFilter(std::string_view name);
Filter FindSequenceFilter(std::string_view name);

template <typename Table>
Filter FindIn(const Table& table, std::string_view name) {
  for (const FilterEntry& entry : table) {
    if (entry.name == name) return entry.filter;
  }
  return nullptr;
}

// The part of `item` that a path of names and numbers such as "function.name" leads to; `fallback`,
// which may be null, stands for what is undefined on the way.
Value FollowPath(Runtime& runtime, Value item, const Value& path, const Value* fallback);

// What sorting and comparing go by: the part under `attribute`, which may be null for the whole,
// with strings in small letters unless `case_sensitive`.
Value KeyOf(Runtime& runtime, const Value& item, const Value* attribute, bool case_sensitive);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_FILTERS_H_
