#include <algorithm>
#include <array>

#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/filters.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/operators.h"
#include "engine/text/jinja/protocols.h"
#include "engine/text/jinja/unicode.h"

// Filters of lists, dicts and other sequences.
namespace mambad::text::jinja {
namespace {

Value LengthOf(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "length", arguments, {}, 0)) return Value();
  const std::optional<int64_t> length = Length(runtime, subject);
  if (!length.has_value()) {
    return runtime.Fail(Message("a ", subject.KindName(), " has no length"));
  }
  return Value::Integer(*length);
}

Value First(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "first", arguments, {}, 0)) return Value();
  const List* list = subject.list();
  if (list != nullptr && list->kind == List::Kind::kIterator) {
    if (list->taken < list->items.size()) return list->items[list->taken++];
    return Value::Undefined("first item of nothing");
  }
  Values elements = Elements(runtime, subject);
  return elements.empty() ? Value::Undefined("first item of nothing") : elements.front();
}

Value Last(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "last", arguments, {}, 0)) return Value();
  if (subject.list() != nullptr && subject.list()->kind == List::Kind::kIterator) {
    return runtime.Fail("'last' of the result of a filter needs '|list' before it");
  }
  Values elements = Elements(runtime, subject);
  return elements.empty() ? Value::Undefined("last item of nothing") : elements.back();
}

Value ToList(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "list", arguments, {}, 0)) return Value();
  return runtime.MakeList(Elements(runtime, subject));
}

Value Reverse(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "reverse", arguments, {}, 0)) return Value();
  if (subject.is_string()) {
    runtime.SpendBytes(subject.string().size());
    std::string text;
    const std::vector<std::string_view> characters = SplitCharacters(subject.string());
    for (auto at = characters.rbegin(); at != characters.rend(); ++at) text.append(*at);
    return runtime.MakeString(std::move(text));
  }
  const bool is_iterator =
      subject.list() != nullptr && subject.list()->kind == List::Kind::kIterator;
  Values elements = Elements(runtime, subject);
  std::reverse(elements.begin(), elements.end());
  return runtime.MakeList(std::move(elements),
                          is_iterator ? List::Kind::kList : List::Kind::kIterator);
}

Value Items(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "items", arguments, {}, 0)) return Value();
  Values items;
  if (subject.dict() != nullptr) {
    for (const auto& [key, value] : subject.dict()->entries) {
      items.push_back(runtime.MakeList({key, value}, List::Kind::kTuple));
    }
  } else if (!subject.is_undefined()) {
    return runtime.Fail(Message("'items' of a ", subject.KindName()));
  }
  return runtime.MakeList(std::move(items), List::Kind::kIterator);
}

Value Join(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "join", arguments, {"d", "attribute"}, 0)) return Value();
  const Value* separator = FindArgument(arguments, 0, "d");
  const std::string between = separator == nullptr ? "" : ToText(runtime, *separator);
  const Value* attribute = FindArgument(arguments, 1, "attribute");
  std::string text;
  bool first = true;
  for (const Value& element : Elements(runtime, subject)) {
    if (!first) text += between;
    first = false;
    text += ToText(runtime, attribute == nullptr || attribute->is_none()
                                ? element
                                : FollowPath(runtime, element, *attribute, nullptr));
    if (text.size() > Runtime::kMaximumTextBytes || !runtime.ok()) break;
  }
  return runtime.MakeString(std::move(text));
}

// --- Order ---

Value Sort(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "sort", arguments, {"reverse", "case_sensitive", "attribute"}, 0)) {
    return Value();
  }
  const bool reverse = FlagArgument(FindArgument(arguments, 0, "reverse"), false);
  const bool case_sensitive = FlagArgument(FindArgument(arguments, 1, "case_sensitive"), false);
  const Value* attribute = FindArgument(arguments, 2, "attribute");
  Values items = Elements(runtime, subject);
  Values keys;
  for (const Value& item : items) {
    if (!runtime.ok()) return Value();
    if (attribute == nullptr || !attribute->is_string()) {
      keys.push_back(KeyOf(runtime, item, attribute, case_sensitive));
      continue;
    }
    Values parts;
    for (std::string_view part : Split(attribute->string(), ",", -1)) {
      const Value path = Value::String(std::string(part));
      parts.push_back(KeyOf(runtime, item, &path, case_sensitive));
    }
    keys.push_back(runtime.MakeList(std::move(parts)));
  }
  SortByKeys(runtime, keys, reverse, &items);
  return runtime.MakeList(std::move(items));
}

Value SortDict(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "dictsort", arguments, {"case_sensitive", "by", "reverse"}, 0)) {
    return Value();
  }
  const bool case_sensitive = FlagArgument(FindArgument(arguments, 0, "case_sensitive"), false);
  const Value* given = FindArgument(arguments, 1, "by");
  const std::string by = given == nullptr ? "key" : ToText(runtime, *given);
  const bool reverse = FlagArgument(FindArgument(arguments, 2, "reverse"), false);
  if (by != "key" && by != "value") return runtime.Fail("'dictsort' goes by key or value");
  if (subject.is_undefined()) return runtime.FailUndefined(subject);
  if (subject.dict() == nullptr) {
    return runtime.Fail(Message("'dictsort' of a ", subject.KindName()));
  }
  Values items;
  Values keys;
  for (const auto& [key, value] : subject.dict()->entries) {
    items.push_back(runtime.MakeList({key, value}, List::Kind::kTuple));
    keys.push_back(KeyOf(runtime, by == "key" ? key : value, nullptr, case_sensitive));
    if (!runtime.ok()) return Value();
  }
  SortByKeys(runtime, keys, reverse, &items);
  return runtime.MakeList(std::move(items));
}

template <bool kLargest>
Value Extreme(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, kLargest ? "max" : "min", arguments, {"case_sensitive", "attribute"},
                      0)) {
    return Value();
  }
  const bool case_sensitive = FlagArgument(FindArgument(arguments, 0, "case_sensitive"), false);
  const Value* attribute = FindArgument(arguments, 1, "attribute");
  const Values items = Elements(runtime, subject);
  if (items.empty()) return Value::Undefined("the extreme of nothing");
  size_t best = 0;
  Value best_key = KeyOf(runtime, items[0], attribute, case_sensitive);
  for (size_t i = 1; i < items.size() && runtime.ok(); ++i) {
    Value key = KeyOf(runtime, items[i], attribute, case_sensitive);
    const bool better =
        kLargest ? IsLess(runtime, best_key, key, false) : IsLess(runtime, key, best_key, false);
    if (!better) continue;
    best = i;
    best_key = std::move(key);
  }
  return items[best];
}

Value Unique(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "unique", arguments, {"case_sensitive", "attribute"}, 0)) {
    return Value();
  }
  const bool case_sensitive = FlagArgument(FindArgument(arguments, 0, "case_sensitive"), false);
  const Value* attribute = FindArgument(arguments, 1, "attribute");
  Values seen;
  Values kept;
  for (const Value& item : Elements(runtime, subject)) {
    Value key = KeyOf(runtime, item, attribute, case_sensitive);
    if (!IsHashable(key)) return runtime.Fail(Message("'unique' of a ", key.KindName()));
    const bool known = std::any_of(seen.begin(), seen.end(), [&](const Value& earlier) {
      return AreEqual(runtime, earlier, key);
    });
    if (!runtime.ok()) return Value();
    if (known) continue;
    seen.push_back(std::move(key));
    kept.push_back(item);
  }
  return runtime.MakeList(std::move(kept), List::Kind::kIterator);
}

Value GroupBy(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "groupby", arguments, {"attribute", "default", "case_sensitive"},
                      1)) {
    return Value();
  }
  const Value* attribute = FindArgument(arguments, 0, "attribute");
  const Value* fallback = FindArgument(arguments, 1, "default");
  const bool case_sensitive = FlagArgument(FindArgument(arguments, 2, "case_sensitive"), false);
  Values items = Elements(runtime, subject);
  Values positions;
  Values keys;
  for (size_t i = 0; i < items.size(); ++i) {
    const Value part = FollowPath(runtime, items[i], *attribute, fallback);
    keys.push_back(KeyOf(runtime, part, nullptr, case_sensitive));
    positions.push_back(Value::Integer(static_cast<int64_t>(i)));
    if (!runtime.ok()) return Value();
  }
  SortByKeys(runtime, keys, false, &positions);
  Values groups;
  for (size_t begin = 0; begin < positions.size() && runtime.ok();) {
    const Value& key = keys[positions[begin].integral()];
    Values members;
    size_t end = begin;
    for (; end < positions.size() && AreEqual(runtime, key, keys[positions[end].integral()]);
         ++end) {
      members.push_back(items[positions[end].integral()]);
    }
    if (members.empty()) break;
    // The name of a group is as its first member spells it.
    const Value name = FollowPath(runtime, members[0], *attribute, fallback);
    groups.push_back(
        runtime.MakeList({name, runtime.MakeList(std::move(members))}, List::Kind::kGroup));
    begin = end;
  }
  return runtime.MakeList(std::move(groups));
}

// --- Parts ---

Value Batch(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "batch", arguments, {"linecount", "fill_with"}, 1)) return Value();
  const int64_t size = IntegerArgument(runtime, FindArgument(arguments, 0, "linecount"), 1);
  const Value* fill = FindArgument(arguments, 1, "fill_with");
  Values batches;
  Values batch;
  for (const Value& item : Elements(runtime, subject)) {
    if (static_cast<int64_t>(batch.size()) == size) {
      batches.push_back(runtime.MakeList(std::exchange(batch, Values())));
    }
    batch.push_back(item);
  }
  if (!batch.empty()) {
    if (fill != nullptr && !fill->is_none()) {
      const int64_t missing = size - static_cast<int64_t>(batch.size());
      if (missing > 0 && !runtime.SpendSteps(missing)) return Value();
      for (int64_t i = 0; i < missing; ++i) batch.push_back(*fill);
    }
    batches.push_back(runtime.MakeList(std::move(batch)));
  }
  return runtime.MakeList(std::move(batches), List::Kind::kIterator);
}

Value Slice(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "slice", arguments, {"slices", "fill_with"}, 1)) return Value();
  const int64_t count = IntegerArgument(runtime, FindArgument(arguments, 0, "slices"), 1);
  const Value* fill = FindArgument(arguments, 1, "fill_with");
  const Values items = Elements(runtime, subject);
  if (!runtime.ok()) return Value();
  if (count == 0) return runtime.Fail("'slice' into no slices");
  if (count > 0 && !runtime.SpendSteps(count)) return Value();
  const int64_t size = items.size();
  const int64_t longer = count > 0 ? size % count : 0;
  Values slices;
  int64_t at = 0;
  for (int64_t i = 0; i < count && runtime.ok(); ++i) {
    const int64_t end = at + size / count + (i < longer ? 1 : 0);
    Values part(items.begin() + at, items.begin() + end);
    if (fill != nullptr && !fill->is_none() && i >= longer) part.push_back(*fill);
    slices.push_back(runtime.MakeList(std::move(part)));
    at = end;
  }
  return runtime.MakeList(std::move(slices), List::Kind::kIterator);
}

Value Sum(Runtime& runtime, const Value& subject, const Arguments& arguments) {
  if (!CheckArguments(runtime, "sum", arguments, {"attribute", "start"}, 0)) return Value();
  const Value* attribute = FindArgument(arguments, 0, "attribute");
  const Value* start = FindArgument(arguments, 1, "start");
  Value sum = start == nullptr ? Value::Integer(0) : *start;
  if (sum.is_string()) return runtime.Fail("'sum' of strings: use 'join'");
  for (const Value& item : Elements(runtime, subject)) {
    if (!runtime.ok()) return Value();
    sum = ApplyBinary(runtime, "+", sum,
                      attribute == nullptr || attribute->is_none()
                          ? item
                          : FollowPath(runtime, item, *attribute, nullptr));
  }
  return sum;
}

constexpr std::array kFilters = {
    FilterEntry{"batch", Batch},       FilterEntry{"count", LengthOf},
    FilterEntry{"dictsort", SortDict}, FilterEntry{"first", First},
    FilterEntry{"groupby", GroupBy},   FilterEntry{"items", Items},
    FilterEntry{"join", Join},         FilterEntry{"last", Last},
    FilterEntry{"length", LengthOf},   FilterEntry{"list", ToList},
    FilterEntry{"max", Extreme<true>}, FilterEntry{"min", Extreme<false>},
    FilterEntry{"reverse", Reverse},   FilterEntry{"slice", Slice},
    FilterEntry{"sort", Sort},         FilterEntry{"sum", Sum},
    FilterEntry{"unique", Unique},
};

}  // namespace

Filter FindSequenceFilter(std::string_view name) { return FindIn(kFilters, name); }

}  // namespace mambad::text::jinja
