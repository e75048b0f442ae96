#include "engine/checkpoint/json_fields.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace mambad::checkpoint {
namespace {

// The beginning of a value is enough: a hostile one may be large.
std::string Shown(const nlohmann::json& value) {
  constexpr size_t kShown = 60;
  std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
  if (text.size() <= kShown) return text;
  size_t end = kShown;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // whole UTF-8
  return text.substr(0, end) + "...";
}

}  // namespace

const nlohmann::json* JsonFields::Find(const char* key) const {
  if (!object_.is_object()) return nullptr;
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

bool JsonFields::IsNull(const char* key) const {
  if (!object_.is_object()) return false;
  const auto it = object_.find(key);
  return it != object_.end() && it->is_null();
}

JsonFields JsonFields::Object(const char* key) const {
  static const nlohmann::json kNone;
  const nlohmann::json* value = Find(key);
  if (value != nullptr && !value->is_object()) FailValue(key, "an object");
  return JsonFields(absl::StrCat(source_, ": ", key), value == nullptr ? kNone : *value, status_);
}

std::optional<int64_t> JsonFields::Integer(const char* key, int64_t low, int64_t high) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return std::nullopt;
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (!(number >= static_cast<double>(low) && number <= static_cast<double>(high)) ||
      std::floor(number) != number) {
    FailValue(key, absl::StrCat("a whole number from ", low, " to ", high));
    return std::nullopt;
  }
  return static_cast<int64_t>(number);
}

int64_t JsonFields::Integer(const char* key, int64_t low, int64_t high, int64_t absent) const {
  return Integer(key, low, high).value_or(absent);
}

int64_t JsonFields::Required(const char* key, int64_t low, int64_t high) const {
  if (!Has(key)) Fail(absl::StrCat(key, ": missing"));
  return Integer(key, low, high).value_or(low);
}

std::optional<double> JsonFields::Number(const char* key, double low, double high) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return std::nullopt;
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (!(number >= low && number <= high)) {
    FailValue(key, absl::StrCat("a number from ", low, " to ", high));
    return std::nullopt;
  }
  return number;
}

double JsonFields::RequiredNumber(const char* key, double low, double high) const {
  if (!Has(key)) Fail(absl::StrCat(key, ": missing"));
  return Number(key, low, high).value_or(low);
}

std::optional<bool> JsonFields::Flag(const char* key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_number_integer()) return value->get<int64_t>() != 0;
  if (!value->is_boolean()) {
    FailValue(key, "true or false");
    return std::nullopt;
  }
  return value->get<bool>();
}

std::optional<std::string> JsonFields::Text(const char* key) const {
  const nlohmann::json* value = Find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) {
    FailValue(key, "a text");
    return std::nullopt;
  }
  return value->get<std::string>();
}

void JsonFields::Fail(const std::string& message) const {
  if (status_->ok()) *status_ = absl::InvalidArgumentError(absl::StrCat(source_, ": ", message));
}

void JsonFields::Refuse(const std::string& message) const {
  if (!status_->ok()) return;
  *status_ = absl::UnimplementedError(absl::StrCat(source_, ": ", message, " is not implemented"));
}

void JsonFields::FailValue(const char* key, const std::string& expected) const {
  const nlohmann::json* value = Find(key);
  Fail(absl::StrCat(key, ": ", value == nullptr ? "null" : Shown(*value), " found, ", expected,
                    " expected"));
}

}  // namespace mambad::checkpoint
