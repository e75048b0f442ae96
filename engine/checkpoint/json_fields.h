// Reading one JSON object's members with type and range checks. The first error sticks; the rest of
// the reading then gives defaults, so that a reader reads as a list of members.

#ifndef MAMBAD_ENGINE_CHECKPOINT_JSON_FIELDS_H_
#define MAMBAD_ENGINE_CHECKPOINT_JSON_FIELDS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace mambad::checkpoint {

class JsonFields {
 public:
  // `object` and `status` outlive this. `object` may be null: then every member is absent. `source`
  // begins messages.
  JsonFields(std::string source, const nlohmann::json& object, absl::Status* status)
      : source_(std::move(source)), object_(object), status_(status) {}

  // nullptr when absent or null.
  const nlohmann::json* Find(const char* key) const;
  bool Has(const char* key) const { return Find(key) != nullptr; }
  // Null, which means none where an absent member means a default.
  bool IsNull(const char* key) const;
  // A member object; one without members when absent.
  JsonFields Object(const char* key) const;

  // Within [low, high]; 8.0 is a whole number too. Nothing when absent or, with the error kept,
  // wrong.
  std::optional<int64_t> Integer(const char* key, int64_t low, int64_t high) const;
  int64_t Integer(const char* key, int64_t low, int64_t high, int64_t absent) const;
  int64_t Required(const char* key, int64_t low, int64_t high) const;
  std::optional<double> Number(const char* key, double low, double high) const;
  double RequiredNumber(const char* key, double low, double high) const;
  std::optional<bool> Flag(const char* key) const;
  std::optional<std::string> Text(const char* key) const;

  void Fail(const std::string& message) const;    // INVALID_ARGUMENT
  void Refuse(const std::string& message) const;  // UNIMPLEMENTED
  // "key: value found, `expected` expected".
  void FailValue(const char* key, const std::string& expected) const;
  bool ok() const { return status_->ok(); }

 private:
  std::string source_;
  const nlohmann::json& object_;
  absl::Status* status_;
};

}  // namespace mambad::checkpoint

#endif  // MAMBAD_ENGINE_CHECKPOINT_JSON_FIELDS_H_
