#include "engine/text/jinja/protocols.h"

#include <algorithm>
#include <cmath>

#include "engine/text/jinja/message.h"
#include "engine/text/jinja/unicode.h"

namespace mambad::text::jinja {

bool IsTrue(const Value& value) {
  if (value.is_undefined() || value.is_none()) return false;
  if (value.is_number()) return value.number() != 0;
  if (value.is_string()) return !value.string().empty();
  if (const List* list = value.list()) {
    return list->kind == List::Kind::kIterator || !list->items.empty();
  }
  if (const Dict* dict = value.dict()) return !dict->entries.empty();
  return true;
}

namespace {

// Compares integers as integers: beyond 2^53 they do not fit a double.
int CompareNumbers(const Value& left, const Value& right) {
  if (left.is_integral() && right.is_integral()) {
    return left.integral() < right.integral() ? -1 : left.integral() > right.integral() ? 1 : 0;
  }
  return left.number() < right.number() ? -1 : left.number() > right.number() ? 1 : 0;
}

bool AreListsEqual(Runtime& runtime, const List& left, const List& right) {
  if (&left == &right) return true;
  if (left.is_tuple() ? !right.is_tuple() : left.kind != right.kind) return false;
  if (left.items.size() != right.items.size()) return false;
  if (left.kind == List::Kind::kIterator || left.kind == List::Kind::kValues) return false;
  for (size_t i = 0; i < left.items.size(); ++i) {
    if (!AreEqual(runtime, left.items[i], right.items[i])) return false;
  }
  return true;
}

bool AreDictsEqual(Runtime& runtime, const Dict& left, const Dict& right) {
  if (&left == &right) return true;
  if (left.entries.size() != right.entries.size()) return false;
  for (const auto& [key, value] : left.entries) {
    const Value* other = FindKey(runtime, right, key);
    if (other == nullptr || !AreEqual(runtime, value, *other)) return false;
  }
  return true;
}

}  // namespace

bool AreEqual(Runtime& runtime, const Value& left, const Value& right) {
  if (!runtime.SpendSteps(1)) return false;
  if (left.is_number() && right.is_number()) {
    if (std::isnan(left.number()) || std::isnan(right.number())) return false;
    return CompareNumbers(left, right) == 0;
  }
  if (left.is_string() && right.is_string()) {
    runtime.SpendBytes(std::min(left.string().size(), right.string().size()));
    return left.string() == right.string();
  }
  if (left.is_undefined() || left.is_none()) {
    return left.is_undefined() ? right.is_undefined() : right.is_none();
  }
  if (left.list() != nullptr && right.list() != nullptr) {
    return AreListsEqual(runtime, *left.list(), *right.list());
  }
  if (left.dict() != nullptr && right.dict() != nullptr) {
    return AreDictsEqual(runtime, *left.dict(), *right.dict());
  }
  return left.IsSame(right);
}

bool IsLess(Runtime& runtime, const Value& left, const Value& right, bool or_equal) {
  if (!runtime.SpendSteps(1)) return false;
  if (left.is_number() && right.is_number()) {
    if (std::isnan(left.number()) || std::isnan(right.number())) return false;
    const int order = CompareNumbers(left, right);
    return or_equal ? order <= 0 : order < 0;
  }
  if (left.is_string() && right.is_string()) {
    runtime.SpendBytes(std::min(left.string().size(), right.string().size()));
    const int order = left.string().compare(right.string());  // bytes order as code points do
    return or_equal ? order <= 0 : order < 0;
  }
  const List* left_list = left.list();
  const List* right_list = right.list();
  if (left_list != nullptr && right_list != nullptr && left_list->is_sequence() &&
      right_list->is_sequence() && left_list->is_tuple() == right_list->is_tuple()) {
    const size_t shared = std::min(left_list->items.size(), right_list->items.size());
    for (size_t i = 0; i < shared; ++i) {
      if (!AreEqual(runtime, left_list->items[i], right_list->items[i])) {
        return IsLess(runtime, left_list->items[i], right_list->items[i], or_equal);
      }
    }
    return or_equal ? left_list->items.size() <= right_list->items.size()
                    : left_list->items.size() < right_list->items.size();
  }
  if (left.is_undefined()) runtime.FailUndefined(left);
  if (right.is_undefined()) runtime.FailUndefined(right);
  runtime.Fail(Message("no order between ", left.KindName(), " and ", right.KindName()));
  return false;
}

bool IsHashable(const Value& value) {
  if (value.dict() != nullptr) return false;
  const List* list = value.list();
  if (list == nullptr) return true;
  switch (list->kind) {
    case List::Kind::kList:
    case List::Kind::kKeys:
    case List::Kind::kItems:
      return false;
    case List::Kind::kRange:
    case List::Kind::kValues:
    case List::Kind::kIterator:
      return true;  // without a look at the elements
    case List::Kind::kTuple:
    case List::Kind::kGroup:
      break;
  }
  return std::all_of(list->items.begin(), list->items.end(), IsHashable);
}

const Value* FindKey(Runtime& runtime, const Dict& dict, const Value& key) {
  for (const auto& [candidate, value] : dict.entries) {
    if (AreEqual(runtime, candidate, key)) return &value;
  }
  return nullptr;
}

bool Contains(Runtime& runtime, const Value& container, const Value& element) {
  if (container.is_string()) {
    if (element.is_undefined()) {
      runtime.FailUndefined(element);
      return false;
    }
    if (!element.is_string()) {
      runtime.Fail(Message("'in' a string needs a string, not ", element.KindName()));
      return false;
    }
    runtime.SpendBytes(container.string().size() + element.string().size());
    return Find(container.string(), element.string(), 0) != std::string_view::npos;
  }
  if (container.dict() != nullptr) {
    if (!IsHashable(element)) {
      runtime.Fail(Message("a ", element.KindName(), " is no key of a dict"));
      return false;
    }
    return FindKey(runtime, *container.dict(), element) != nullptr;
  }
  const List* list = container.list();
  const size_t taken = list == nullptr ? 0 : list->taken;
  const Values elements = Elements(runtime, container);
  for (size_t i = 0; i < elements.size(); ++i) {
    if (!AreEqual(runtime, elements[i], element)) continue;
    if (list != nullptr && list->kind == List::Kind::kIterator) {
      list->taken = taken + i + 1;  // the others can still be gone through
    }
    return true;
  }
  return false;
}

std::optional<int64_t> Length(Runtime& runtime, const Value& value) {
  if (value.is_undefined()) return 0;
  if (value.is_string()) {
    runtime.SpendBytes(value.string().size());
    return CountCharacters(value.string());
  }
  if (const List* list = value.list(); list != nullptr && list->kind != List::Kind::kIterator) {
    return list->items.size();
  }
  if (value.dict() != nullptr) return value.dict()->entries.size();
  return std::nullopt;
}

Values Elements(Runtime& runtime, const Value& value) {
  Values elements;
  if (value.is_undefined()) return elements;
  if (value.is_string()) {
    // Each character becomes a value of its own, far larger than the character.
    if (!runtime.SpendBytes(value.string().size()) ||
        !runtime.SpendSteps(CountCharacters(value.string()))) {
      return elements;
    }
    for (std::string_view character : SplitCharacters(value.string())) {
      elements.push_back(Value::String(std::string(character)));
    }
  } else if (const List* list = value.list()) {
    const size_t taken = list->kind == List::Kind::kIterator ? list->taken : 0;
    if (!runtime.SpendSteps(list->items.size() - taken)) return elements;
    elements.assign(list->items.begin() + taken, list->items.end());
    if (list->kind == List::Kind::kIterator) list->taken = list->items.size();
  } else if (const Dict* dict = value.dict()) {
    if (!runtime.SpendSteps(dict->entries.size())) return elements;
    for (const auto& [key, unused] : dict->entries) elements.push_back(key);
  } else if (value.loop() != nullptr) {
    runtime.FailUnimplemented("going through 'loop'");
  } else {
    runtime.Fail(Message("a ", value.KindName(), " cannot be gone through"));
  }
  return elements;
}

void SortByKeys(Runtime& runtime, const Values& keys, bool reverse, Values* values) {
  // A merge sort of our own: the order may be inconsistent (nan) or end in an error half-way, which
  // std::stable_sort does not stand.
  std::vector<size_t> order(values->size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = reverse ? order.size() - 1 - i : i;
  std::vector<size_t> merged(order.size());
  for (size_t width = 1; width < order.size(); width *= 2) {
    for (size_t begin = 0; begin < order.size(); begin += 2 * width) {
      const size_t middle = std::min(begin + width, order.size());
      const size_t end = std::min(begin + 2 * width, order.size());
      size_t left = begin;
      size_t right = middle;
      for (size_t at = begin; at < end; ++at) {
        const bool take_right =
            left == middle ||
            (right < end && IsLess(runtime, keys[order[right]], keys[order[left]], false));
        merged[at] = take_right ? order[right++] : order[left++];
        if (!runtime.ok()) return;
      }
    }
    order.swap(merged);
  }
  if (reverse) std::reverse(order.begin(), order.end());
  Values sorted;
  sorted.reserve(order.size());
  for (size_t index : order) sorted.push_back((*values)[index]);
  *values = std::move(sorted);
}

}  // namespace mambad::text::jinja
