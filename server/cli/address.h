// Where the server is, as a person writes it.

#ifndef MAMBAD_SERVER_CLI_ADDRESS_H_
#define MAMBAD_SERVER_CLI_ADDRESS_H_

#include <string>

#include "absl/status/statusor.h"

namespace mambad::cli {

inline constexpr char kDefaultHost[] = "127.0.0.1";
inline constexpr char kDefaultPort[] = "50051";

struct Address {
  std::string host;  // a name, or an address without brackets
  std::string port;  // 1 to 65535, digits alone

  std::string Text() const;    // for people: HOST:PORT, [HOST]:PORT for IPv6
  std::string Target() const;  // for gRPC
};

// HOST, HOST:PORT, :PORT, [IPv6], [IPv6]:PORT or a bare IPv6 address; what is left out is the
// default. INVALID_ARGUMENT, in words for the person who typed it: empty, a scheme (http://...), a
// path, a port that is none.
absl::StatusOr<Address> ParseAddress(const std::string& text);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_ADDRESS_H_
