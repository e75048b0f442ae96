// One HTTP/1 request as its text says it.

#ifndef MAMBAD_SERVER_NETWORK_HTTP_REQUEST_H_
#define MAMBAD_SERVER_NETWORK_HTTP_REQUEST_H_

#include <cstddef>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace mambad::server {

struct HttpRequest {
  std::string method;  // as it was sent: "GET"
  std::string path;    // begins with a slash; without scheme, host and query
  std::vector<std::pair<std::string, std::string>> headers;  // names in lower case
  std::string body;

  // The value of the header, whose name is in lower case; empty where there is none.
  absl::string_view Header(absl::string_view name) const;
  // Bytes of the body as its header tells; nothing where it does not.
  std::optional<size_t> content_length;
};

// The length of request line and headers with the empty line that ends them; npos: it has not come.
size_t HttpHeadSize(absl::string_view text);

// All but the body. INVALID_ARGUMENT where it is no HTTP/1 request, where Host or Content-Length
// stand there twice, or where the latter is no number.
absl::StatusOr<HttpRequest> ParseHttpHead(absl::string_view head);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_NETWORK_HTTP_REQUEST_H_
