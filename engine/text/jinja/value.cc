#include "engine/text/jinja/value.h"

#include <algorithm>
#include <cmath>

#include "engine/text/jinja/message.h"
#include "engine/text/jinja/unicode.h"

namespace mambad::text::jinja {

Value Value::Undefined(std::string_view name) {
  return Value(UndefinedType{std::make_shared<const std::string>(name)});
}

const std::string& Value::undefined_name() const {
  static const std::string* const kUnknown = new std::string("value");
  const Text& name = std::get<UndefinedType>(data_).name;
  return name == nullptr ? *kUnknown : *name;
}

bool Value::is_plain() const {
  return name_space() == nullptr && method() == nullptr && loop() == nullptr &&
         macro() == nullptr && function() == nullptr;
}

std::string_view Value::KindName() const {
  if (is_undefined()) return "undefined";
  if (is_none()) return "none";
  if (is_boolean()) return "bool";
  if (is_integer()) return "int";
  if (is_float()) return "float";
  if (is_string()) return "str";
  if (const List* items = list()) {
    switch (items->kind) {
      case List::Kind::kList:
        return "list";
      case List::Kind::kTuple:
        return "tuple";
      case List::Kind::kRange:
        return "range";
      case List::Kind::kView:
        return "view";
      case List::Kind::kIterator:
        return "iterator";
    }
  }
  if (dict() != nullptr) return "dict";
  if (name_space() != nullptr) return "namespace";
  if (loop() != nullptr) return "loop";
  return macro() != nullptr ? "macro" : "function";
}

// --- Runtime ---

Value Runtime::Fail(std::string_view what) {
  if (ok()) {
    status_ =
        absl::InvalidArgumentError(Message("chat template, ", ToString(position_), ": ", what));
  }
  return Value();
}

Value Runtime::FailUnimplemented(std::string_view construct) {
  if (ok()) {
    status_ = absl::UnimplementedError(
        Message("chat template, ", ToString(position_), ": ", construct, " is not supported"));
  }
  return Value();
}

Value Runtime::FailUndefined(const Value& value) {
  return Fail(Message("'", value.undefined_name(), "' is undefined"));
}

Value Runtime::Raise(const std::string& text) {
  if (ok()) status_ = absl::InvalidArgumentError(text);
  return Value();
}

bool Runtime::SpendSteps(uint64_t steps) {
  steps_ = std::min(steps_ + std::min(steps, kMaximumSteps), kMaximumSteps + 1);
  if (steps_ > kMaximumSteps) Fail(Message("takes more than ", kMaximumSteps, " steps"));
  return ok();
}

bool Runtime::SpendBytes(uint64_t bytes) {
  bytes_ = std::min(bytes_ + std::min(bytes, kMaximumBytes), kMaximumBytes + 1);
  if (bytes_ > kMaximumBytes) {
    Fail(Message("works through more than ", kMaximumBytes, " bytes of text"));
  }
  return ok();
}

Value Runtime::MakeString(std::string text) {
  if (text.size() > kMaximumTextBytes) {
    return Fail(Message("makes a text of more than ", kMaximumTextBytes, " bytes"));
  }
  if (!SpendBytes(text.size())) return Value();
  return Value::String(std::move(text));
}

namespace {

// Depth of a container around `value`; 0 after an error.
int DepthAround(Runtime& runtime, const Value& value) {
  if (!value.is_plain()) {
    runtime.FailUnimplemented(Message("a ", value.KindName(), " inside another value"));
    return 0;
  }
  const int inner = value.list() != nullptr   ? value.list()->depth
                    : value.dict() != nullptr ? value.dict()->depth
                                              : 0;
  if (inner >= kMaximumValueDepth) {
    runtime.Fail("lists nested too deeply");
    return 0;
  }
  return inner + 1;
}

}  // namespace

Value Runtime::MakeList(Values items, List::Kind kind) {
  if (!SpendSteps(items.size())) return Value();
  auto list = std::make_shared<List>();
  list->kind = kind;
  for (const Value& item : items) list->depth = std::max(list->depth, DepthAround(*this, item));
  if (!ok()) return Value();
  list->items = std::move(items);
  return Value::Of(std::shared_ptr<const List>(std::move(list)));
}

Value Runtime::MakeDict(std::vector<std::pair<Value, Value>> entries) {
  auto dict = std::make_shared<Dict>();
  for (auto& [key, value] : entries) {
    if (!IsHashable(key)) return Fail(Message("a ", key.KindName(), " as a dict's key"));
    dict->depth = std::max({dict->depth, DepthAround(*this, key), DepthAround(*this, value)});
    const Value* earlier = FindKey(*this, *dict, key);
    if (!ok()) return Value();
    if (earlier == nullptr) {
      dict->entries.emplace_back(std::move(key), std::move(value));
      continue;
    }
    for (auto& [present, present_value] : dict->entries) {
      if (&present_value == earlier) present_value = std::move(value);
    }
  }
  return Value::Of(std::shared_ptr<const Dict>(std::move(dict)));
}

// --- Protocols ---

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
  if (left.kind != right.kind || left.items.size() != right.items.size()) return false;
  if (left.kind == List::Kind::kIterator) return false;
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
  if (left.function() != nullptr && right.function() != nullptr) {
    return *left.function() == *right.function();
  }
  if (left.macro() != nullptr || left.name_space() != nullptr || left.loop() != nullptr) {
    return left.macro() == right.macro() && left.name_space() == right.name_space() &&
           left.loop() == right.loop();
  }
  return false;
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
  if (left_list != nullptr && right_list != nullptr && left_list->kind == right_list->kind &&
      (left_list->kind == List::Kind::kList || left_list->kind == List::Kind::kTuple)) {
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
  if (list->kind == List::Kind::kList) return false;
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
  for (const Value& candidate : Elements(runtime, container)) {
    if (AreEqual(runtime, candidate, element)) return true;
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
    if (list->consumed) {
      runtime.FailUnimplemented("going twice through the result of a filter without '|list'");
      return elements;
    }
    list->consumed = list->kind == List::Kind::kIterator;
    if (runtime.SpendSteps(list->items.size())) elements = list->items;
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

}  // namespace mambad::text::jinja
