#include "engine/text/jinja/runtime.h"

#include <algorithm>

#include "engine/text/jinja/message.h"
#include "engine/text/jinja/protocols.h"

namespace mambad::text::jinja {

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

Value Runtime::FailTooLong() {
  return Fail(Message("makes a text of more than ", kMaximumTextBytes, " bytes"));
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
  if (text.size() > kMaximumTextBytes) return FailTooLong();
  if (!SpendBytes(text.size())) return Value();
  return Value::String(std::move(text));
}

Value Runtime::MakeMarkup(std::string text) {
  if (text.size() > kMaximumTextBytes) return FailTooLong();
  if (!SpendBytes(text.size())) return Value();
  return Value::Markup(std::move(text));
}

Value Runtime::MakeStringLike(const Value& like, std::string text) {
  return like.is_markup() ? MakeMarkup(std::move(text)) : MakeString(std::move(text));
}

namespace {

// Depth of a container around `value`; 0 after an error.
int DepthAround(Runtime& runtime, const Value& value) {
  if (!value.is_plain() && value.name_space() == nullptr) {
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
  for (const Value& item : items) {
    list->depth = std::max(list->depth, DepthAround(*this, item));
    list->holds_namespace |= item.holds_namespace();
  }
  if (!ok()) return Value();
  list->items = std::move(items);
  return Value::Of(std::shared_ptr<const List>(std::move(list)));
}

Value Runtime::MakeDict(std::vector<std::pair<Value, Value>> entries) {
  auto dict = std::make_shared<Dict>();
  for (auto& [key, value] : entries) {
    if (!IsHashable(key)) return Fail(Message("a ", key.KindName(), " as a dict's key"));
    dict->depth = std::max({dict->depth, DepthAround(*this, key), DepthAround(*this, value)});
    dict->holds_namespace |= key.holds_namespace() || value.holds_namespace();
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

}  // namespace mambad::text::jinja
