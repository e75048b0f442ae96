// Typed reading of JSON that nobody has checked: every mistake becomes a message with its path.
#ifndef MAMBAD_ENGINE_TEXT_JSON_READER_H_
#define MAMBAD_ENGINE_TEXT_JSON_READER_H_

#include <initializer_list>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace mambad::text {

using Json = nlohmann::json;

// One value inside a document, with its path ("tokenizer.json: model.vocab") for messages. Views a
// document that must outlive it.
class JsonReader {
 public:
  JsonReader(const Json& value, std::string path) : value_(&value), path_(std::move(path)) {}

  const Json& value() const { return *value_; }
  const std::string& path() const { return path_; }

  // INVALID_ARGUMENT "<path>: expected <expected>, found <start of the value>".
  absl::Status Unexpected(std::string_view expected) const;

  // Null and absent are the same: a reader of null.
  JsonReader Member(std::string_view key) const;
  JsonReader Element(size_t index) const;  // of an array, in range
  bool IsNull() const { return value_->is_null(); }

  absl::StatusOr<std::string> String() const;
  absl::StatusOr<std::string> StringOr(std::string_view fallback) const;  // for null
  absl::StatusOr<bool> BoolOr(bool fallback) const;                       // for null
  absl::StatusOr<int32_t> NonNegativeInt() const;                         // below 2^31

  absl::Status ExpectObject() const;
  absl::Status ExpectArray() const;
  // An object whose members are all among `known`; others are named in the error.
  absl::Status ExpectMembers(std::initializer_list<std::string_view> known) const;
  // UNIMPLEMENTED that names `type` as not supported here, and what is.
  absl::Status Unsupported(std::string_view type, std::string_view supported) const;

 private:
  const Json* value_;
  std::string path_;
};

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_JSON_READER_H_
