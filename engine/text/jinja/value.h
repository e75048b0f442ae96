#ifndef MAMBAD_ENGINE_TEXT_JINJA_VALUE_H_
#define MAMBAD_ENGINE_TEXT_JINJA_VALUE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "engine/text/jinja/lexer.h"

namespace mambad::text::jinja {

struct List;
struct Dict;
struct Namespace;
struct Loop;
struct Method;
struct Statement;

enum class Function { kRange, kNamespace, kDict, kRaiseException, kStrftimeNow };

// A value of a template while it is rendered: cheap to copy, shares what it holds. Plain values
// (all but namespaces, macros, methods, functions and loops) never change after they were made, so
// they form no cycles.
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
  static Value Of(std::shared_ptr<const List> value) { return Value(std::move(value)); }
  static Value Of(std::shared_ptr<const Dict> value) { return Value(std::move(value)); }
  static Value Of(std::shared_ptr<Namespace> value) { return Value(std::move(value)); }
  static Value Of(std::shared_ptr<const Method> value) { return Value(std::move(value)); }
  static Value Of(std::shared_ptr<const Loop> value) { return Value(std::move(value)); }
  static Value Of(const Statement* macro) { return Value(macro); }
  static Value Of(Function function) { return Value(function); }

  bool is_undefined() const { return std::holds_alternative<UndefinedType>(data_); }
  bool is_none() const { return std::holds_alternative<NoneType>(data_); }
  bool is_boolean() const { return std::holds_alternative<bool>(data_); }
  bool is_integer() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_string() const { return std::holds_alternative<Text>(data_); }
  // A boolean counts as the integer 0 or 1 wherever a number is wanted, as in Python.
  bool is_integral() const { return is_integer() || is_boolean(); }
  bool is_number() const { return is_integral() || is_float(); }
  // Undefined, none, number, string, list or dict: what may stand inside other values.
  bool is_plain() const;

  // Each requires the matching kind.
  const std::string& undefined_name() const;
  bool boolean() const { return std::get<bool>(data_); }
  int64_t integral() const { return is_boolean() ? boolean() : std::get<int64_t>(data_); }
  double number() const {
    return is_float() ? std::get<double>(data_) : static_cast<double>(integral());
  }
  const std::string& string() const { return *std::get<Text>(data_); }

  // Null when of another kind.
  const List* list() const { return Pointer<std::shared_ptr<const List>>(); }
  const Dict* dict() const { return Pointer<std::shared_ptr<const Dict>>(); }
  Namespace* name_space() const { return Pointer<std::shared_ptr<Namespace>>(); }
  const Method* method() const { return Pointer<std::shared_ptr<const Method>>(); }
  const Loop* loop() const { return Pointer<std::shared_ptr<const Loop>>(); }
  const Statement* macro() const {
    const auto* macro = std::get_if<const Statement*>(&data_);
    return macro == nullptr ? nullptr : *macro;
  }
  const Function* function() const { return std::get_if<Function>(&data_); }

  // Name of the kind, as Python calls it.
  std::string_view KindName() const;

 private:
  using Text = std::shared_ptr<const std::string>;
  struct UndefinedType {
    Text name;
  };
  struct NoneType {};

  template <typename T>
  explicit Value(T data) : data_(std::move(data)) {}
  template <typename T>
  auto Pointer() const -> decltype(std::declval<T>().get()) {
    const T* shared = std::get_if<T>(&data_);
    return shared == nullptr ? nullptr : shared->get();
  }

  std::variant<UndefinedType, NoneType, bool, int64_t, double, Text, std::shared_ptr<const List>,
               std::shared_ptr<const Dict>, std::shared_ptr<Namespace>,
               std::shared_ptr<const Method>, std::shared_ptr<const Loop>, const Statement*,
               Function>
      data_;
};

using Values = std::vector<Value>;

// Deepest nesting of lists and dicts in each other.
inline constexpr int kMaximumValueDepth = 50;

struct List {
  // kIterator is the result of a filter that the reference computes lazily: always true, without
  // length or index, to be gone through once. kView is what a dict's methods give: a length, but no
  // index.
  enum class Kind { kList, kTuple, kRange, kView, kIterator };
  Kind kind = Kind::kList;
  Values items;
  int depth = 1;
  bool is_indexable() const { return kind != Kind::kView && kind != Kind::kIterator; }
  mutable bool consumed = false;  // of a kIterator; such a list lives in one render, on one thread
};

struct Dict {
  std::vector<std::pair<Value, Value>> entries;  // in order of insertion
  int depth = 1;
};

struct Namespace {
  std::vector<std::pair<std::string, Value>>
      attributes;  // plain values only: a namespace holds no namespace
};

// The variable `loop` inside a loop.
struct Loop {
  std::shared_ptr<const Values> items;
  size_t index = 0;
};

struct Method {
  Value receiver;
  std::string name;
};

struct Arguments {
  Values positional;
  std::vector<std::pair<std::string, Value>> named;
};

// What one render may use, and its first error. Confined to the rendering thread.
// After an error all operations go on with undefined values until the interpreter has returned;
// their result is dropped.
class Runtime {
 public:
  static constexpr uint64_t kMaximumSteps = 4'000'000;  // evaluations and elements visited
  static constexpr uint64_t kMaximumBytes =
      256ull * 1024 * 1024;  // of text read or written on the way
  static constexpr size_t kMaximumTextBytes =
      16 * 1024 * 1024;  // of any one string, the output included

  bool ok() const { return status_.ok(); }
  const absl::Status& status() const { return status_; }

  // Where errors are reported: what is being evaluated.
  void set_position(Position position) { position_ = position; }
  Position position() const { return position_; }

  // Each records the error, unless there is one, and returns undefined.
  Value Fail(std::string_view what);
  Value FailUnimplemented(std::string_view construct);
  Value FailUndefined(const Value& value);
  // The template's own raise_exception: INVALID_ARGUMENT with just that text.
  Value Raise(const std::string& text);

  // False when the allowance is used up, which is an error.
  bool SpendSteps(uint64_t steps);
  bool SpendBytes(uint64_t bytes);

  // New values; an error when they are too long or too deep, or hold what is not plain.
  Value MakeString(std::string text);
  Value MakeList(Values items, List::Kind kind = List::Kind::kList);
  Value MakeDict(std::vector<std::pair<Value, Value>> entries);

 private:
  absl::Status status_;
  Position position_;
  uint64_t steps_ = 0;
  uint64_t bytes_ = 0;
};

// --- Python's protocols. Errors go to the runtime. ---

bool IsTrue(const Value& value);
bool AreEqual(Runtime& runtime, const Value& left, const Value& right);
// left < right (or <= with or_equal); an error for kinds that have no order.
bool IsLess(Runtime& runtime, const Value& left, const Value& right, bool or_equal);
bool Contains(Runtime& runtime, const Value& container, const Value& element);
// nullopt when the value has no length.
std::optional<int64_t> Length(Runtime& runtime, const Value& value);
// The elements that a loop over the value visits; an error when it cannot be looped over.
Values Elements(Runtime& runtime, const Value& value);
// The value under `key`, or null. Keys that cannot be in a dict are not found.
const Value* FindKey(Runtime& runtime, const Dict& dict, const Value& key);
bool IsHashable(const Value& value);

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_VALUE_H_
