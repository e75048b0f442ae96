// Templates and conversations of any bytes: errors, never a crash, a hang or memory without bound.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "engine/text/chat_template.h"

// The input is the template; what follows a NUL byte is a message's content.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t end = input.find('\0');
  const std::string_view source = input.substr(0, end);
  const std::string content(end == std::string_view::npos ? "Hello" : input.substr(end + 1));
  const absl::StatusOr<mambad::text::ChatTemplate> parsed =
      mambad::text::ChatTemplate::Parse(source);
  if (!parsed.ok()) {
    const bool expected =
        absl::IsInvalidArgument(parsed.status()) || absl::IsUnimplemented(parsed.status());
    if (!expected) std::abort();
    return 0;
  }
  mambad::text::ChatTemplate::Variables variables;
  variables.bos_token = "<s>";
  variables.eos_token = "</s>";
  const absl::StatusOr<std::string> first =
      parsed->Render({{"system", "Be brief."}, {"user", content}}, variables);
  const absl::StatusOr<std::string> again =
      parsed->Render({{"system", "Be brief."}, {"user", content}}, variables);
  // A template holds no state: it renders the same twice.
  if (first.status() != again.status() || (first.ok() && *first != *again)) std::abort();
  return 0;
}
