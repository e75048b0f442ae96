#include "server/cli/whole_file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"

namespace mambad::cli {

std::string ReadWholeFile(const std::string& path, std::string* text) {
  const std::string name = path == "-" ? "standard input" : path;
  std::unique_ptr<std::FILE, int (*)(std::FILE*)> opened(
      path == "-" ? nullptr : std::fopen(path.c_str(), "rb"), std::fclose);
  std::FILE* file = path == "-" ? stdin : opened.get();
  if (file == nullptr) return absl::StrCat(name, ": ", std::strerror(errno));
  text->clear();
  char buffer[65536];
  for (size_t got; (got = std::fread(buffer, 1, sizeof(buffer), file)) > 0;)
    text->append(buffer, got);
  if (std::ferror(file)) return absl::StrCat(name, ": ", std::strerror(errno));
  return "";
}

std::string WriteWholeFile(const std::string& path, const std::string& text, bool replaces) {
  std::FILE* file = std::fopen(path.c_str(), replaces ? "w" : "wx");
  if (file == nullptr) return absl::StrCat(path, ": ", std::strerror(errno));
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const bool closed = std::fclose(file) == 0;
  return written && closed ? "" : absl::StrCat(path, ": ", std::strerror(errno));
}

}  // namespace mambad::cli
