#include "server/network/http_request.h"

#include <algorithm>
#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace mambad::server {
namespace {

// The target without scheme, host and query.
std::string PathOf(absl::string_view target) {
  const size_t scheme = target.find("://");
  if (scheme != absl::string_view::npos && target[0] != '/') {
    const size_t slash = target.find('/', scheme + 3);
    target = slash == absl::string_view::npos ? "/" : target.substr(slash);
  }
  return std::string(target.substr(0, target.find_first_of("?#")));
}

absl::Status ReadHeaders(const std::vector<absl::string_view>& lines, HttpRequest* request) {
  for (size_t i = 1; i < lines.size(); ++i) {
    const size_t colon = lines[i].find(':');
    if (colon == absl::string_view::npos) continue;
    std::string name = absl::AsciiStrToLower(lines[i].substr(0, colon));
    const bool once = name == "host" || name == "content-length";
    if (once && std::any_of(request->headers.begin(), request->headers.end(),
                            [&](const auto& header) { return header.first == name; })) {
      return absl::InvalidArgumentError(absl::StrCat("two headers ", name));
    }
    request->headers.emplace_back(
        std::move(name), std::string(absl::StripAsciiWhitespace(lines[i].substr(colon + 1))));
  }
  return absl::OkStatus();
}

}  // namespace

absl::string_view HttpRequest::Header(absl::string_view name) const {
  for (const auto& [key, value] : headers) {
    if (key == name) return value;
  }
  return "";
}

size_t HttpHeadSize(absl::string_view text) {
  const size_t usual = text.find("\r\n\r\n"), bare = text.find("\n\n");
  if (usual < bare) return usual + 4;
  return bare == absl::string_view::npos ? bare : bare + 2;
}

absl::StatusOr<HttpRequest> ParseHttpHead(absl::string_view head) {
  std::vector<absl::string_view> lines = absl::StrSplit(head, '\n');
  for (absl::string_view& line : lines) line = absl::StripSuffix(line, "\r");
  const std::vector<std::string> words = absl::StrSplit(lines[0], ' ');
  if (words.size() != 3 || !absl::StartsWith(words[2], "HTTP/1.")) {
    return absl::InvalidArgumentError("expected: GET PATH HTTP/1.1");
  }
  HttpRequest request;
  request.method = words[0];
  request.path = PathOf(words[1]);
  if (absl::Status status = ReadHeaders(lines, &request); !status.ok()) return status;
  if (const absl::string_view told = request.Header("content-length"); !told.empty()) {
    uint64_t length = 0;
    if (!absl::SimpleAtoi(told, &length)) {
      return absl::InvalidArgumentError("Content-Length: expected a number of bytes");
    }
    request.content_length = static_cast<size_t>(length);
  }
  return request;
}

}  // namespace mambad::server
