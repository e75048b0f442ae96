// What Python does with any value: truth, comparison, membership, length, iteration. Errors go to
// the runtime.
#ifndef MAMBAD_ENGINE_TEXT_JINJA_PROTOCOLS_H_
#define MAMBAD_ENGINE_TEXT_JINJA_PROTOCOLS_H_

#include <cstdint>
#include <optional>

#include "engine/text/jinja/runtime.h"
#include "engine/text/jinja/value.h"

namespace mambad::text::jinja {

bool IsTrue(const Value& value);
bool AreEqual(Runtime& runtime, const Value& left, const Value& right);
// left < right (or <= with or_equal); an error for kinds that have no order.
bool IsLess(Runtime& runtime, const Value& left, const Value& right, bool or_equal);
bool Contains(Runtime& runtime, const Value& container, const Value& element);
// nullopt when the value has no length.
std::optional<int64_t> Length(Runtime& runtime, const Value& value);
// The elements that a loop over the value visits; an error when it cannot be looped over. An
// iterator has none left afterwards.
Values Elements(Runtime& runtime, const Value& value);
// The value under `key`, or null. Keys that cannot be in a dict are not found.
const Value* FindKey(Runtime& runtime, const Dict& dict, const Value& key);
bool IsHashable(const Value& value);

// Sorts by `keys` (as many as values), stable, descending when `reverse`.
void SortByKeys(Runtime& runtime, const Values& keys, bool reverse, Values* values);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_PROTOCOLS_H_
