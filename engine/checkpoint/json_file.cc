#include "engine/checkpoint/json_file.h"

#include <limits>
#include <set>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/checkpoint/error_text.h"
#include "engine/checkpoint/mapped_file.h"

namespace mambad::checkpoint {
namespace {

constexpr int kMaxDepth = 64;
constexpr size_t kMaxBytes = 64 << 20;
// What stands for Infinity: a number that no file means otherwise, turned into infinity after
// parsing.
constexpr double kInfinityStandIn = 1.7e308;

// Replaces Infinity and NaN outside strings. False when brackets nest too deep (the parser would
// recurse as deep).
bool Rewrite(std::string_view text, std::string* out) {
  bool in_string = false;
  int depth = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      out->push_back(c);
      if (c == '\\' && i + 1 < text.size()) out->push_back(text[++i]);
      if (c == '"') in_string = false;
      continue;
    }
    if (c == '"') in_string = true;
    if (c == '{' || c == '[') {
      if (++depth > kMaxDepth) return false;
    }
    if (c == '}' || c == ']') --depth;
    if (text.substr(i, 8) == "Infinity") {
      out->append("1.7e308");
      i += 7;
    } else if (text.substr(i, 3) == "NaN") {
      out->append("null");
      i += 2;
    } else {
      out->push_back(c);
    }
  }
  return true;
}

// What Python writes as a bare word or, newer, as {"__float__": "Infinity"}.
void RestoreInfinity(nlohmann::json& value) {
  if (value.is_number_float()) {
    const double number = value.get<double>();
    if (number == kInfinityStandIn) value = std::numeric_limits<double>::infinity();
    if (number == -kInfinityStandIn) value = -std::numeric_limits<double>::infinity();
    return;
  }
  if (!value.is_structured()) return;
  if (value.is_object() && value.size() == 1 && value.begin().key() == "__float__") {
    if (*value.begin() == "Infinity") {
      value = std::numeric_limits<double>::infinity();
      return;
    }
    if (*value.begin() == "-Infinity") {
      value = -std::numeric_limits<double>::infinity();
      return;
    }
  }
  for (nlohmann::json& item : value) RestoreInfinity(item);
}

}  // namespace

absl::StatusOr<nlohmann::json> ParseJson(const std::string& source, std::string_view text) {
  std::string rewritten;
  rewritten.reserve(text.size());
  if (!Rewrite(text, &rewritten)) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": JSON nested deeper than ", kMaxDepth));
  }
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  std::string repeated;
  const auto callback = [&](int, nlohmann::json::parse_event_t event, nlohmann::json& parsed) {
    if (event == nlohmann::json::parse_event_t::object_start) keys.emplace_back();
    if (event == nlohmann::json::parse_event_t::object_end) keys.pop_back();
    if (event == nlohmann::json::parse_event_t::key && !keys.empty()) {
      const std::string key = parsed.get<std::string>();
      if (!keys.back().insert(key).second && repeated.empty()) repeated = key;
    }
    return true;
  };
  nlohmann::json json = nlohmann::json::parse(rewritten, callback, /*allow_exceptions=*/false);
  if (json.is_discarded())
    return absl::InvalidArgumentError(absl::StrCat(source, ": not valid JSON"));
  if (!json.is_object())
    return absl::InvalidArgumentError(absl::StrCat(source, ": a JSON object expected"));
  if (!repeated.empty())
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": key ", Quoted(repeated), " stands twice"));
  RestoreInfinity(json);
  return json;
}

absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path) {
  absl::StatusOr<MappedFile> file = MappedFile::Open(path);
  if (!file.ok()) return file.status();
  const absl::Span<const std::byte> bytes = file->bytes();
  if (bytes.size() > kMaxBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", bytes.size(), " bytes found, at most ", kMaxBytes, " expected"));
  }
  return ParseJson(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

}  // namespace mambad::checkpoint
