#ifndef MAMBAD_ENGINE_TEXT_JINJA_VALUE_H_
#define MAMBAD_ENGINE_TEXT_JINJA_VALUE_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/container/flat_hash_map.h"

namespace mambad::text::jinja {

struct List;
struct Dict;
struct Namespace;
struct Loop;
struct Macro;
struct Method;
struct Counter;
struct Statement;

// The functions that every template can call.
enum class Function {
  kRange,
  kNamespace,
  kDict,
  kCycler,
  kJoiner,
  kLipsum,
  kRaiseException,
  kStrftimeNow
};

// A value of a template while it is rendered: cheap to copy, shares what it holds. Plain values
// (all but namespaces, methods, counters and loops) never change after they were made, and a
// namespace holds no other, so they form no cycles but through the scopes of macros, which the
// rendering takes apart at its end.
class Value {
 public:
  // Undefined; `name` tells error messages what was missing.
  Value() = default;
  static Value Undefined(std::string_view name);
  static Value None() { return Value(NoneType{}); }
  static Value Boolean(bool value) { return Value(value); }
  static Value Integer(int64_t value) { return Value(value); }
  static Value Float(double value) { return Value(value); }
  static Value String(std::string value) {
    return Value(std::make_shared<const std::string>(std::move(value)));
  }
  // A string that counts as HTML: what is joined to it by "+" and its like is escaped.
  static Value Markup(std::string value) {
    return Value(MarkupText{std::make_shared<const std::string>(std::move(value))});
  }
  static Value Of(std::shared_ptr<const List> value) { return Value(std::move(value)); }
  static Value Of(std::shared_ptr<const Dict> value) { return Value(std::move(value)); }
  static Value Of(std::shared_ptr<Namespace> value) { return Value(std::move(value)); }
  static Value Of(std::shared_ptr<const Method> value) { return Value(std::move(value)); }
  static Value Of(std::shared_ptr<Loop> value) { return Value(std::move(value)); }
  static Value Of(std::shared_ptr<const Macro> value) { return Value(std::move(value)); }
  static Value Of(std::shared_ptr<Counter> value) { return Value(std::move(value)); }
  static Value Of(Function function) { return Value(function); }

  bool is_undefined() const { return std::holds_alternative<UndefinedType>(data_); }
  bool is_none() const { return std::holds_alternative<NoneType>(data_); }
  bool is_boolean() const { return std::holds_alternative<bool>(data_); }
  bool is_integer() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_string() const { return std::holds_alternative<Text>(data_) || is_markup(); }
  bool is_markup() const { return std::holds_alternative<MarkupText>(data_); }
  // A boolean counts as the integer 0 or 1 wherever a number is wanted, as in Python.
  bool is_integral() const { return is_integer() || is_boolean(); }
  bool is_number() const { return is_integral() || is_float(); }
  // Undefined, none, number, string, list, dict, macro or function: what never changes.
  bool is_plain() const;
  // A namespace, or a list or dict with one somewhere inside.
  bool holds_namespace() const;

  // Each requires the matching kind.
  const std::string& undefined_name() const;
  bool boolean() const { return std::get<bool>(data_); }
  int64_t integral() const { return is_boolean() ? boolean() : std::get<int64_t>(data_); }
  double number() const {
    return is_float() ? std::get<double>(data_) : static_cast<double>(integral());
  }
  const std::string& string() const {
    return is_markup() ? *std::get<MarkupText>(data_).text : *std::get<Text>(data_);
  }

  // Null when of another kind.
  const List* list() const { return Pointer<std::shared_ptr<const List>>(); }
  const Dict* dict() const { return Pointer<std::shared_ptr<const Dict>>(); }
  Namespace* name_space() const { return Pointer<std::shared_ptr<Namespace>>(); }
  const Method* method() const { return Pointer<std::shared_ptr<const Method>>(); }
  Loop* loop() const { return Pointer<std::shared_ptr<Loop>>(); }
  const Macro* macro() const { return Pointer<std::shared_ptr<const Macro>>(); }
  Counter* counter() const { return Pointer<std::shared_ptr<Counter>>(); }
  const Function* function() const { return std::get_if<Function>(&data_); }

  // Name of the kind, as Python calls it.
  std::string_view KindName() const;
  // Whether both are one and the same object, as Python's "is"; numbers and strings by value.
  bool IsSame(const Value& other) const;

 private:
  using Text = std::shared_ptr<const std::string>;
  struct UndefinedType {
    Text name;
  };
  struct NoneType {};
  struct MarkupText {
    Text text;
  };

  template <typename T>
  explicit Value(T data) : data_(std::move(data)) {}
  template <typename T>
  auto Pointer() const -> decltype(std::declval<T>().get()) {
    const T* shared = std::get_if<T>(&data_);
    return shared == nullptr ? nullptr : shared->get();
  }

  std::variant<UndefinedType, NoneType, bool, int64_t, double, Text, MarkupText,
               std::shared_ptr<const List>, std::shared_ptr<const Dict>, std::shared_ptr<Namespace>,
               std::shared_ptr<const Method>, std::shared_ptr<Loop>, std::shared_ptr<const Macro>,
               std::shared_ptr<Counter>, Function>
      data_;
};

using Values = std::vector<Value>;

// Deepest nesting of lists and dicts in each other.
inline constexpr int kMaximumValueDepth = 50;

struct List {
  // kIterator is the result of a filter that the reference computes lazily: always true, without
  // length or index, to be gone through once. The others but kList and kTuple are ranges and what a
  // dict's methods give: a length, but of these only a range has indices.
  enum class Kind { kList, kTuple, kGroup, kRange, kKeys, kValues, kItems, kIterator };
  Kind kind = Kind::kList;
  Values items;
  int depth = 1;
  bool holds_namespace = false;           // somewhere inside
  int64_t start = 0, stop = 0, step = 1;  // of a kRange
  // Of a kIterator: how many were taken out; such a list lives in one render, on one thread.
  mutable size_t taken = 0;

  // kGroup: a tuple whose parts are called "grouper" and "list".
  bool is_tuple() const { return kind == Kind::kTuple || kind == Kind::kGroup; }
  bool is_sequence() const { return kind == Kind::kList || is_tuple(); }
  bool is_indexable() const { return is_sequence() || kind == Kind::kRange; }
};

struct Dict {
  std::vector<std::pair<Value, Value>> entries;  // in order of insertion
  int depth = 1;
  bool holds_namespace = false;  // somewhere inside
};

struct Namespace {
  // Plain values only, none of which holds a namespace.
  std::vector<std::pair<std::string, Value>> attributes;
};

// The variables of a part of a template. What is not found is looked for in the part around it.
struct Scope {
  std::shared_ptr<Scope> outer;
  absl::flat_hash_map<std::string, Value> variables;
};

// The variable `loop` inside a loop.
struct Loop {
  Values items;      // those fetched so far
  size_t index = 0;  // of the present one
  int depth = 1;     // of the recursion, from 1
  // Fetches one more item; false: there is none. A loop with a condition judges each item when it
  // is wanted, not before.
  std::function<bool()> fetch;
  const Statement* statement = nullptr;  // of a recursive loop
  std::shared_ptr<Scope> around;         // of a recursive loop: where the loop stands
  std::optional<Value> last_changed;     // what loop.changed saw last

  bool Has(size_t at) { return at < items.size() || (fetch != nullptr && fetch()); }
  size_t Length() {
    while (Has(items.size())) continue;
    return items.size();
  }
};

// A {% macro %} or the body of a {% call %}.
struct Macro {
  const Statement* statement;
  std::shared_ptr<Scope> scope;  // where it was defined
};

struct Method {
  Value receiver;
  std::string name;
};

// A cycler, or a joiner (whose only item is its separator).
struct Counter {
  bool is_joiner = false;
  Values items;
  size_t index = 0;
};

struct Arguments {
  Values positional;
  std::vector<std::pair<std::string, Value>> named;
};

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_VALUE_H_
