#include "engine/text/chat_template_file.h"

#include <filesystem>
#include <fstream>
#include <optional>
#include <system_error>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "engine/json/json_text.h"
#include "engine/text/chat_template.h"
#include "nlohmann/json.hpp"

namespace mambad::text {
namespace {

constexpr std::streamoff kMaximumBytes = 16 << 20;

// The file's contents; NOT_FOUND when there is no such file.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path) {
  std::error_code error;
  const auto type = std::filesystem::status(path, error).type();
  if (type == std::filesystem::file_type::not_found) {
    return absl::NotFoundError(absl::StrCat(path, ": no such file"));
  }
  // Opening a pipe would wait for its writer.
  if (type != std::filesystem::file_type::regular) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a regular file"));
  }
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be opened"));
  const std::streamoff size = file.tellg();
  if (size < 0 || size > kMaximumBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": ", static_cast<int64_t>(size), " bytes, at most ",
                     static_cast<int64_t>(kMaximumBytes), " expected"));
  }
  std::string contents(static_cast<size_t>(size), '\0');
  file.seekg(0);
  if (!file.read(contents.data(), size))
    return absl::InvalidArgumentError(absl::StrCat(path, ": cannot be read"));
  return contents;
}

}  // namespace

absl::StatusOr<std::string> ReadChatTemplateSource(const std::string& directory) {
  absl::StatusOr<std::string> source =
      ReadSmallFile(absl::StrCat(directory, "/chat_template.jinja"));
  if (source.ok() || !absl::IsNotFound(source.status())) return source;
  const std::string path = absl::StrCat(directory, "/tokenizer_config.json");
  const absl::StatusOr<std::string> contents = ReadSmallFile(path);
  if (!contents.ok()) return contents.status();
  const absl::StatusOr<nlohmann::json> config = ParseJson(path, *contents);
  if (!config.ok()) return config.status();
  if (!config->is_object())
    return absl::InvalidArgumentError(absl::StrCat(path, ": not a JSON object"));
  source = ChatTemplateSource(*config);
  if (source.ok()) return source;
  return absl::Status(source.status().code(), absl::StrCat(path, ": ", source.status().message()));
}

}  // namespace mambad::text
