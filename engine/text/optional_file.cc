#include "engine/text/optional_file.h"

#include <cstdint>
#include <fstream>
#include <system_error>

#include "absl/strings/str_cat.h"

namespace mambad::text {

constexpr uint64_t kLargestFile = uint64_t{64} << 20;

absl::Status ReadOptionalFile(const std::filesystem::path& path, std::string* contents) {
  std::error_code error;
  if (!std::filesystem::exists(path, error)) return absl::OkStatus();
  if (!std::filesystem::is_regular_file(path, error)) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": not a regular file"));
  }
  const uint64_t size = std::filesystem::file_size(path, error);
  if (error) return absl::UnavailableError(absl::StrCat(path.string(), ": ", error.message()));
  if (size == 0 || size > kLargestFile) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), ": expected 1 to ", kLargestFile, " bytes, found ", size));
  }
  contents->resize(size);
  std::ifstream stream(path, std::ios::binary);
  stream.read(contents->data(), static_cast<std::streamsize>(size));
  if (!stream || static_cast<uint64_t>(stream.gcount()) != size) {
    return absl::UnavailableError(absl::StrCat(path.string(), ": cannot be read"));
  }
  return absl::OkStatus();
}

}  // namespace mambad::text
