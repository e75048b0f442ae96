#ifndef MAMBAD_ENGINE_TEXT_JINJA_MESSAGE_H_
#define MAMBAD_ENGINE_TEXT_JINJA_MESSAGE_H_

#include <string>
#include <string_view>
#include <type_traits>

namespace mambad::text::jinja {

// The parts one after another; integers in decimal. (Where Abseil was built with a string_view of
// its own, its StrCat takes no std::string_view.)
template <typename... Parts>
std::string Message(const Parts&... parts) {
  std::string message;
  auto append = [&message](const auto& part) {
    if constexpr (std::is_integral_v<std::remove_cvref_t<decltype(part)>>) {
      message += std::to_string(part);
    } else {
      message += std::string_view(part);
    }
  };
  (append(parts), ...);
  return message;
}

}  // namespace mambad::text::jinja

#endif  // MAMBAD_ENGINE_TEXT_JINJA_MESSAGE_H_
