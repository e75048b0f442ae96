// Any text as the configuration file: an error in one line, or settings that are judged.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "server/server_options.h"

namespace {

using namespace mambad::server;

void CheckError(const absl::Status& status) {
  if (status.code() != absl::StatusCode::kInvalidArgument || status.message().empty()) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  ServerOptions options;
  if (const absl::Status read = ReadOptions(text, "fuzz", &options); !read.ok()) {
    CheckError(read);
    const std::string message(read.message());
    if (message.find('\n') != std::string::npos || message.rfind("fuzz", 0) != 0) std::abort();
    return 0;
  }
  const absl::Status valid = ValidateOptions(options);
  if (!valid.ok()) {
    CheckError(valid);
    return 0;
  }
  // What is said to be good is within its bounds.
  const bool good = options.engine.max_sequences >= 0 && options.engine.max_sequences <= 4096 &&
                    options.engine.max_draft_length >= 1 && options.limits.message_bytes >= 1024 &&
                    options.limits.samples >= 1 && options.drain_timeout >= absl::ZeroDuration() &&
                    options.max_connections >= 1 && options.retries.memory_bytes >= 0;
  if (!good) std::abort();
  return 0;
}
