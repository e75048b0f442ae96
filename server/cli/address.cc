#include "server/cli/address.h"

#include <algorithm>
#include <cctype>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace mambad::cli {
namespace {

constexpr char kExpected[] = "expected HOST:PORT, for example 127.0.0.1:50051";

absl::Status Refused(const std::string& text, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("\"", text, "\": ", why, "; ", kExpected));
}

// "tcp" of "tcp://host:1", "unix" of "unix:/run/a"; empty: none.
std::string SchemeOf(const std::string& text) {
  const size_t slashes = text.find("://");
  if (slashes != std::string::npos) return text.substr(0, slashes);
  for (const char* scheme : {"unix", "unix-abstract", "dns", "ipv4", "ipv6", "vsock", "xds"}) {
    if (text.rfind(absl::StrCat(scheme, ":"), 0) != 0) continue;
    const std::string rest = text.substr(text.find(':') + 1);
    const bool is_port = !rest.empty() && std::all_of(rest.begin(), rest.end(), ::isdigit);
    if (!is_port) return scheme;  // else a host of that name
  }
  return "";
}

bool IsPort(const std::string& text) {
  int port = 0;
  return !text.empty() && std::all_of(text.begin(), text.end(), ::isdigit) &&
         absl::SimpleAtoi(text, &port) && port >= 1 && port <= 65535;
}

}  // namespace

std::string Address::Text() const {
  const bool is_ipv6 = host.find(':') != std::string::npos;
  return is_ipv6 ? absl::StrCat("[", host, "]:", port) : absl::StrCat(host, ":", port);
}

std::string Address::Target() const { return absl::StrCat("dns:///", Text()); }

absl::StatusOr<Address> ParseAddress(const std::string& text) {
  if (text.empty()) return absl::InvalidArgumentError(absl::StrCat("empty; ", kExpected));
  const std::string scheme = SchemeOf(text);
  if (!scheme.empty()) {
    return Refused(text, absl::StrCat("the scheme \"", scheme,
                                      ":\" is not understood, mambad speaks gRPC over TCP"));
  }
  if (text.find('/') != std::string::npos) return Refused(text, "a path has no place in it");
  const bool has_blank = std::any_of(
      text.begin(), text.end(), [](unsigned char c) { return std::isspace(c) || std::iscntrl(c); });
  if (has_blank) return Refused(text, "a space has no place in it");

  Address address{kDefaultHost, kDefaultPort};
  const auto colons = std::count(text.begin(), text.end(), ':');
  std::string port;
  bool has_port = false;
  if (text[0] == '[') {
    const size_t end = text.find(']');
    if (end == std::string::npos) return Refused(text, "the bracket is not closed");
    address.host = text.substr(1, end - 1);
    if (address.host.find(':') == std::string::npos)
      return Refused(text, "brackets hold an IPv6 address");
    const std::string rest = text.substr(end + 1);
    if (!rest.empty() && rest[0] != ':') return Refused(text, "a port follows a colon");
    has_port = !rest.empty();
    if (has_port) port = rest.substr(1);
  } else if (colons > 1) {
    address.host = text;  // an IPv6 address without a port
  } else if (colons == 1) {
    const size_t colon = text.find(':');
    if (colon > 0) address.host = text.substr(0, colon);
    has_port = true;
    port = text.substr(colon + 1);
  } else {
    address.host = text;
  }
  if (has_port && !IsPort(port)) {
    return Refused(text, absl::StrCat("the port is \"", port, "\", allowed 1 to 65535"));
  }
  if (has_port) address.port = port;
  return address;
}

}  // namespace mambad::cli
