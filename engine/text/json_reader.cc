#include "engine/text/json_reader.h"

#include <algorithm>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "engine/text/absl_view.h"

namespace mambad::text {
namespace {

const Json& Null() {
  static const Json& null = *new Json();
  return null;
}

// Short on purpose: values can be whole vocabularies.
std::string Describe(const Json& value) {
  if (value.is_string()) {
    const std::string& text = value.get_ref<const std::string&>();
    return absl::StrCat("\"", absl::CHexEscape(text.substr(0, 80)), "\"");
  }
  if (value.is_structured()) {
    return absl::StrCat(value.is_array() ? "an array" : "an object", " of ", value.size());
  }
  return value.dump();
}

}  // namespace

absl::Status JsonReader::Unexpected(std::string_view expected) const {
  return absl::InvalidArgumentError(
      absl::StrCat(path_, ": expected ", AbslView(expected), ", found ", Describe(*value_)));
}

JsonReader JsonReader::Member(std::string_view key) const {
  std::string path =
      absl::StrCat(path_, path_.empty() || path_.back() == ' ' ? "" : ".", AbslView(key));
  if (!value_->is_object()) return JsonReader(Null(), std::move(path));
  const auto found = value_->find(std::string(key));
  return JsonReader(found == value_->end() ? Null() : *found, std::move(path));
}

JsonReader JsonReader::Element(size_t index) const {
  return JsonReader((*value_)[index], absl::StrCat(path_, "[", index, "]"));
}

absl::StatusOr<std::string> JsonReader::String() const {
  if (!value_->is_string()) return Unexpected("a string");
  return value_->get<std::string>();
}

absl::StatusOr<std::string> JsonReader::StringOr(std::string_view fallback) const {
  if (IsNull()) return std::string(fallback);
  return String();
}

absl::StatusOr<bool> JsonReader::BoolOr(bool fallback) const {
  if (IsNull()) return fallback;
  if (!value_->is_boolean()) return Unexpected("true or false");
  return value_->get<bool>();
}

absl::StatusOr<int32_t> JsonReader::NonNegativeInt() const {
  constexpr int64_t kLargest = std::numeric_limits<int32_t>::max();
  if (!value_->is_number_integer()) return Unexpected("a whole number");
  const bool too_large =
      value_->is_number_unsigned() && value_->get<uint64_t>() > uint64_t{kLargest};
  if (too_large || value_->get<int64_t>() < 0) return Unexpected("a number from 0 to 2147483647");
  return static_cast<int32_t>(value_->get<int64_t>());
}

absl::Status JsonReader::ExpectObject() const {
  return value_->is_object() ? absl::OkStatus() : Unexpected("an object");
}

absl::Status JsonReader::ExpectArray() const {
  return value_->is_array() ? absl::OkStatus() : Unexpected("an array");
}

absl::Status JsonReader::ExpectMembers(std::initializer_list<std::string_view> known) const {
  if (absl::Status status = ExpectObject(); !status.ok()) return status;
  for (const auto& member : value_->items()) {
    if (std::find(known.begin(), known.end(), member.key()) == known.end()) {
      return absl::InvalidArgumentError(absl::StrCat(
          path_, ": member \"", absl::CHexEscape(member.key().substr(0, 80)), "\" is not known"));
    }
  }
  return absl::OkStatus();
}

absl::Status JsonReader::Unsupported(std::string_view type, std::string_view supported) const {
  return absl::UnimplementedError(
      absl::StrCat(path_, ": type \"", absl::CHexEscape(AbslView(type.substr(0, 80))),
                   "\" is not supported; these are: ", AbslView(supported)));
}

}  // namespace mambad::text
