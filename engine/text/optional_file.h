// A file that may be left out of a model's directory.
#ifndef MAMBAD_ENGINE_TEXT_OPTIONAL_FILE_H_
#define MAMBAD_ENGINE_TEXT_OPTIONAL_FILE_H_

#include <filesystem>
#include <string>

#include "absl/status/status.h"

namespace mambad::text {

// The bytes of a file of 1 byte to 64 MiB; an absent one leaves `contents` empty. INVALID_ARGUMENT:
// it is no such file; UNAVAILABLE: it cannot be read.
absl::Status ReadOptionalFile(const std::filesystem::path& path, std::string* contents);

}  // namespace mambad::text

#endif  // MAMBAD_ENGINE_TEXT_OPTIONAL_FILE_H_
