#include "engine/text/jinja/functions.h"

#include <chrono>
#include <string_view>

#include "engine/text/jinja/arguments.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/protocols.h"

namespace mambad::text::jinja {
namespace {

constexpr int64_t kMaximumRange = 100'000;  // as the reference's sandbox
constexpr size_t kMaximumAttributes = 1'000;
constexpr size_t kMaximumTimeBytes = 4096;  // of what strftime_now makes

Value CallRange(Runtime& runtime, const Arguments& arguments) {
  if (!CheckArguments(runtime, "range", arguments, {"", "", ""}, 1)) return Value();
  int64_t bounds[3] = {0, 0, 1};
  const size_t count = arguments.positional.size();
  for (size_t i = 0; i < count; ++i) {
    bounds[count == 1 ? 1 : i] = IntegerArgument(runtime, &arguments.positional[i], 0);
  }
  const auto [start, stop, step] = bounds;
  if (!runtime.ok()) return Value();
  if (step == 0) return runtime.Fail("range with a step of zero");
  auto range = std::make_shared<List>();
  range->kind = List::Kind::kRange;
  range->start = start;
  range->stop = stop;
  range->step = step;
  // In 128 bits, because the next number may not fit 64.
  for (__int128 at = start; step > 0 ? at < stop : at > stop; at += step) {
    if (static_cast<int64_t>(range->items.size()) == kMaximumRange) {
      return runtime.Fail(Message("range of more than ", kMaximumRange, " numbers"));
    }
    range->items.push_back(Value::Integer(static_cast<int64_t>(at)));
  }
  if (!runtime.SpendSteps(range->items.size())) return Value();
  return Value::Of(std::shared_ptr<const List>(std::move(range)));
}

using Entries = std::vector<std::pair<Value, Value>>;

// The entries of a dict, or those that a list of pairs makes.
Entries EntriesOf(Runtime& runtime, const Value& source) {
  Entries entries;
  if (const Dict* dict = source.dict()) {
    if (runtime.SpendSteps(dict->entries.size())) entries = dict->entries;
    return entries;
  }
  if (const Namespace* name_space = source.name_space()) {
    for (const auto& [name, value] : name_space->attributes) {
      entries.emplace_back(Value::String(name), value);
    }
    return entries;
  }
  for (const Value& pair : Elements(runtime, source)) {
    const Values parts = Elements(runtime, pair);
    if (runtime.ok() && parts.size() != 2) {
      runtime.Fail(Message("a dict is made of pairs, found ", parts.size(), " values"));
    }
    if (!runtime.ok()) break;
    entries.emplace_back(parts[0], parts[1]);
  }
  return entries;
}

Value CallDictOrNamespace(Runtime& runtime, Function function, const Arguments& arguments) {
  if (arguments.positional.size() > 1) return runtime.Fail("more than one dict as argument");
  Entries entries;
  if (!arguments.positional.empty()) entries = EntriesOf(runtime, arguments.positional[0]);
  if (!runtime.ok()) return Value();
  if (function == Function::kDict) {
    for (const auto& [name, value] : arguments.named) {
      entries.emplace_back(Value::String(name), value);
    }
    return runtime.MakeDict(std::move(entries));
  }
  auto name_space = std::make_shared<Namespace>();
  for (const auto& [key, value] : entries) {
    if (!key.is_string()) return runtime.Fail("an attribute's name is no string");
    SetNamespaceAttribute(runtime, name_space.get(), key.string(), value);
  }
  for (const auto& [name, value] : arguments.named) {
    SetNamespaceAttribute(runtime, name_space.get(), name, value);
  }
  return Value::Of(std::move(name_space));
}

// One conversion of C's strftime, "%" to its letter.
bool AppendTime(const std::string& conversion, const std::tm& time, std::string* text) {
  char buffer[1024];
  // The space tells an empty result, of %p in some places, from one that does not fit.
  const size_t size = std::strftime(buffer, sizeof(buffer), (conversion + " ").c_str(), &time);
  if (size == 0) return false;
  text->append(buffer, size - 1);
  return text->size() <= kMaximumTimeBytes;
}

// As Python's datetime.now().strftime: C's conversions, and %f; a time without a zone has an empty
// %z and %Z. What C does not know stands as it is.
Value CallStrftimeNow(Runtime& runtime, const Arguments& arguments, const LocalTime& now) {
  if (!CheckArguments(runtime, "strftime_now", arguments, {"format"}, 1)) return Value();
  const Value& argument = *FindArgument(arguments, 0, "format");
  if (!argument.is_string()) {
    return runtime.Fail(Message("'strftime_now' needs a string, found ", argument.KindName()));
  }
  const std::string& format = argument.string();
  if (format.find('\0') != std::string::npos) {
    return runtime.Fail("'strftime_now' with a null character in its format");
  }
  std::string text;
  size_t at = 0;
  while (at < format.size()) {
    if (format[at] != '%') {
      text.push_back(format[at++]);
    } else if (const size_t end = format.find_first_not_of("_-0^#+123456789EO", at + 1);
               end == std::string::npos) {
      text.append(format.substr(at));
      at = format.size();
    } else {
      const char letter = format[end];
      if (letter == 'f' && end == at + 1) {
        const std::string digits = std::to_string(1'000'000 + now.microseconds);
        text.append(digits.substr(1));
      } else if (static_cast<unsigned char>(letter) >= 0x80 || letter == ' ') {
        text.append(format, at, end + 1 - at);
      } else if (!((letter == 'z' || letter == 'Z') && end == at + 1) &&
                 !AppendTime(format.substr(at, end + 1 - at), now.calendar, &text)) {
        return runtime.Fail("'strftime_now' with a format that is too long");
      }
      at = end + 1;
    }
    if (text.size() > kMaximumTimeBytes) {
      return runtime.Fail("'strftime_now' with a format that is too long");
    }
  }
  return runtime.MakeString(std::move(text));
}

Value MakeCounter(Runtime& runtime, Function function, const Arguments& arguments) {
  auto counter = std::make_shared<Counter>();
  counter->is_joiner = function == Function::kJoiner;
  if (counter->is_joiner) {
    if (!CheckArguments(runtime, "joiner", arguments, {"sep"}, 0)) return Value();
    const Value* separator = FindArgument(arguments, 0, "sep");
    counter->items.push_back(separator == nullptr ? Value::String(", ") : *separator);
  } else {
    if (arguments.positional.empty() || !arguments.named.empty()) {
      return runtime.Fail("'cycler' needs items, and no named ones");
    }
    counter->items = arguments.positional;
  }
  for (const Value& item : counter->items) {
    if (!item.is_plain()) return runtime.FailUnimplemented("such an item of a cycler or joiner");
  }
  return Value::Of(std::move(counter));
}

}  // namespace

LocalTime LocalTimeNow() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  const int64_t microseconds = std::chrono::duration_cast<std::chrono::microseconds>(now).count();
  const std::time_t seconds = microseconds / 1'000'000;
  LocalTime time;
  localtime_r(&seconds, &time.calendar);
  time.microseconds = static_cast<int>(microseconds % 1'000'000);
  return time;
}

Value CallFunction(Runtime& runtime, Function function, const Arguments& arguments,
                   const LocalTime& now) {
  switch (function) {
    case Function::kRange:
      return CallRange(runtime, arguments);
    case Function::kNamespace:
    case Function::kDict:
      return CallDictOrNamespace(runtime, function, arguments);
    case Function::kCycler:
    case Function::kJoiner:
      return MakeCounter(runtime, function, arguments);
    case Function::kLipsum:
      return runtime.FailUnimplemented("function 'lipsum'");
    case Function::kRaiseException:
      if (!CheckArguments(runtime, "raise_exception", arguments, {"message"}, 1)) return Value();
      return runtime.Raise(ToText(runtime, *FindArgument(arguments, 0, "message")));
    case Function::kStrftimeNow:
      return CallStrftimeNow(runtime, arguments, now);
  }
  return Value();
}

Value CallJoiner(Runtime& runtime, Counter& joiner, const Arguments& arguments) {
  if (!CheckArguments(runtime, "joiner", arguments, {}, 0)) return Value();
  return joiner.index++ == 0 ? Value::String("") : joiner.items[0];
}

void SetNamespaceAttribute(Runtime& runtime, Namespace* name_space, const std::string& name,
                           const Value& value) {
  if (!value.is_plain() || value.holds_namespace()) {
    const std::string_view kind = value.holds_namespace() ? "namespace" : value.KindName();
    runtime.FailUnimplemented(Message("a ", kind, " in a namespace"));
    return;
  }
  for (auto& [attribute, present] : name_space->attributes) {
    if (!runtime.SpendSteps(1)) return;
    if (attribute == name) {
      present = value;
      return;
    }
  }
  if (name_space->attributes.size() >= kMaximumAttributes) {
    runtime.Fail("too many attributes in a namespace");
    return;
  }
  name_space->attributes.emplace_back(name, value);
}

}  // namespace mambad::text::jinja
