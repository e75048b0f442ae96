// Reading one JSON object's members with type and range checks. The first error sticks; the rest of the reading then gives
// defaults, so that a reader reads as a list of members.

#ifndef MAMBAD_ENGINE_CHECKPOINT_JSON_FIELDS_H_
#define MAMBAD_ENGINE_CHECKPOINT_JSON_FIELDS_H_

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"

namespace mambad::checkpoint {

class JsonFields {
 public:
  // `object` may be null: then every member is absent.
  JsonFields(std::string source, const nlohmann::json& object, absl::Status* status)
      : source_(std::move(source)), object_(object), status_(status) {}

  const nlohmann::json* Find(const char* key) const {
    if (!object_.is_object()) return nullptr;
    const auto it = object_.find(key);
    return it == object_.end() || it->is_null() ? nullptr : &*it;
  }
  bool Has(const char* key) const { return Find(key) != nullptr; }

  std::optional<int64_t> Integer(const char* key, int64_t low, int64_t high) const {
    const nlohmann::json* value = Find(key);
    if (value == nullptr) return std::nullopt;
    // Some writers say 8.0.
    const bool whole = value->is_number_integer() ||
                       (value->is_number_float() && std::floor(value->get<double>()) == value->get<double>());
    if (!whole || value->get<double>() < static_cast<double>(low) || value->get<double>() > static_cast<double>(high)) {
      Fail(absl::StrCat(key, ": ", Shown(*value), " found, a whole number from ", low, " to ", high, " expected"));
      return std::nullopt;
    }
    return value->is_number_float() ? static_cast<int64_t>(value->get<double>()) : value->get<int64_t>();
  }
  int64_t Integer(const char* key, int64_t low, int64_t high, int64_t absent) const {
    return Integer(key, low, high).value_or(absent);
  }
  int64_t Required(const char* key, int64_t low, int64_t high) const {
    if (!Has(key)) Fail(absl::StrCat(key, ": missing"));
    return Integer(key, low, high).value_or(low);
  }
  std::optional<double> Number(const char* key, double low, double high) const {
    const nlohmann::json* value = Find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number() || !(value->get<double>() >= low && value->get<double>() <= high)) {
      Fail(absl::StrCat(key, ": ", Shown(*value), " found, a number from ", low, " to ", high, " expected"));
      return std::nullopt;
    }
    return value->get<double>();
  }
  std::optional<bool> Flag(const char* key) const {
    const nlohmann::json* value = Find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_boolean() && !value->is_number_integer()) {
      Fail(absl::StrCat(key, ": ", Shown(*value), " found, true or false expected"));
      return std::nullopt;
    }
    return value->is_boolean() ? value->get<bool>() : value->get<int64_t>() != 0;
  }
  std::optional<std::string> Text(const char* key) const {
    const nlohmann::json* value = Find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_string()) {
      Fail(absl::StrCat(key, ": ", Shown(*value), " found, a text expected"));
      return std::nullopt;
    }
    return value->get<std::string>();
  }

  void Fail(const std::string& message) const {
    if (status_->ok()) *status_ = absl::InvalidArgumentError(absl::StrCat(source_, ": ", message));
  }
  void Refuse(const std::string& message) const {
    if (status_->ok()) *status_ = absl::UnimplementedError(absl::StrCat(source_, ": ", message, " is not implemented"));
  }

 private:
  // A hostile file's value may be large: its beginning is enough.
  static std::string Shown(const nlohmann::json& value) {
    std::string text = value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
    if (text.size() > 60) text = text.substr(0, 60) + "...";
    return text;
  }

  std::string source_;
  const nlohmann::json& object_;
  absl::Status* status_;
};

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_JSON_FIELDS_H_
