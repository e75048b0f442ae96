#include "server/cli/json_output.h"

#include <google/protobuf/descriptor.h>

#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/cli/terminal_text.h"

namespace mambad::cli {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;
using Json = nlohmann::ordered_json;

Json MessageJson(const Message& message);

Json RealJson(double value, double shortest) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "Infinity" : "-Infinity";
  return shortest;
}

// A float's own shortest digits: 0.1f is 0.1, not 0.10000000149.
Json FloatJson(float value) {
  double shortest = value;
  for (int digits = 6; digits <= 9; ++digits) {
    if (absl::SimpleAtod(absl::StrFormat("%.*g", digits, value), &shortest) &&
        static_cast<float>(shortest) == value)
      break;
  }
  return RealJson(value, shortest);
}

Json BytesJson(const std::string& bytes) {
  if (!FirstInvalidUtf8(bytes)) return bytes;
  Json list = Json::array();
  for (const char c : bytes) list.push_back(static_cast<unsigned char>(c));
  return list;
}

// Entry `index` of a repeated field; -1: of one that is not.
Json ValueJson(const Message& message, const FieldDescriptor* field, int index) {
  const Reflection* all = message.GetReflection();
  const bool one = index < 0;
  switch (field->cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return one ? all->GetInt32(message, field) : all->GetRepeatedInt32(message, field, index);
    case FieldDescriptor::CPPTYPE_INT64:
      return one ? all->GetInt64(message, field) : all->GetRepeatedInt64(message, field, index);
    case FieldDescriptor::CPPTYPE_UINT32:
      return one ? all->GetUInt32(message, field) : all->GetRepeatedUInt32(message, field, index);
    case FieldDescriptor::CPPTYPE_UINT64:
      return one ? all->GetUInt64(message, field) : all->GetRepeatedUInt64(message, field, index);
    case FieldDescriptor::CPPTYPE_BOOL:
      return one ? all->GetBool(message, field) : all->GetRepeatedBool(message, field, index);
    case FieldDescriptor::CPPTYPE_FLOAT:
      return FloatJson(one ? all->GetFloat(message, field)
                           : all->GetRepeatedFloat(message, field, index));
    case FieldDescriptor::CPPTYPE_DOUBLE: {
      const double value =
          one ? all->GetDouble(message, field) : all->GetRepeatedDouble(message, field, index);
      return RealJson(value, value);
    }
    case FieldDescriptor::CPPTYPE_ENUM: {
      const int number = one ? all->GetEnumValue(message, field)
                             : all->GetRepeatedEnumValue(message, field, index);
      const auto* value = field->enum_type()->FindValueByNumber(number);
      return value == nullptr ? Json(number) : Json(value->name());
    }
    case FieldDescriptor::CPPTYPE_STRING: {
      const std::string text =
          one ? all->GetString(message, field) : all->GetRepeatedString(message, field, index);
      return field->type() == FieldDescriptor::TYPE_BYTES ? BytesJson(text) : Json(text);
    }
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return MessageJson(one ? all->GetMessage(message, field)
                             : all->GetRepeatedMessage(message, field, index));
  }
  return nullptr;
}

// In the order of keys, whatever the map's.
Json MapJson(const Message& message, const FieldDescriptor* field) {
  const Reflection* all = message.GetReflection();
  Json entries = Json::object();
  std::map<std::string, Json> sorted;
  for (int i = 0; i < all->FieldSize(message, field); ++i) {
    const Message& entry = all->GetRepeatedMessage(message, field, i);
    const Json key = ValueJson(entry, field->message_type()->map_key(), -1);
    sorted[key.is_string() ? key.get<std::string>() : key.dump()] =
        ValueJson(entry, field->message_type()->map_value(), -1);
  }
  for (const auto& [key, value] : sorted) entries[key] = value;
  return entries;
}

Json MessageJson(const Message& message) {
  const auto* descriptor = message.GetDescriptor();
  const Reflection* all = message.GetReflection();
  Json object = Json::object();
  for (int i = 0; i < descriptor->field_count(); ++i) {
    const FieldDescriptor* field = descriptor->field(i);
    if (field->is_map()) {
      object[field->name()] = MapJson(message, field);
    } else if (field->is_repeated()) {
      Json list = Json::array();
      for (int entry = 0; entry < all->FieldSize(message, field); ++entry)
        list.push_back(ValueJson(message, field, entry));
      object[field->name()] = std::move(list);
    } else if (!field->has_presence() || all->HasField(message, field)) {
      object[field->name()] = ValueJson(message, field, -1);
    }
  }
  return object;
}

}  // namespace

std::string ToJson(const Message& message) {
  return MessageJson(message).dump(-1, ' ', false, Json::error_handler_t::replace);
}

void PrintJson(const Message& message) {
  std::printf("%s\n", ToJson(message).c_str());
  std::fflush(stdout);
}

}  // namespace mambad::cli
