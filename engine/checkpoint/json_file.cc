#include "engine/checkpoint/json_file.h"

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/checkpoint/mapped_file.h"

namespace mambad::checkpoint {
namespace {

constexpr size_t kMaxBytes = 64 << 20;

}  // namespace

absl::StatusOr<nlohmann::json> ParseJsonObject(const std::string& source, std::string_view text,
                                               RepeatedKeys repeated_keys) {
  absl::StatusOr<nlohmann::json> json = mambad::ParseJson(source, text, repeated_keys);
  if (json.ok() && !json->is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": a JSON object expected"));
  }
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
  return ParseJsonObject(path, {reinterpret_cast<const char*>(bytes.data()), bytes.size()});
}

}  // namespace mambad::checkpoint
