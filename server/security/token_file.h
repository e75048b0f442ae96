// The file of tokens: one a line, `#` begins a comment. Who holds the file holds no token.
//
//   ID PRINCIPAL SALT:HASH scopes=generate,admin [expires=2027-01-31T00:00:00Z] [max_calls=8]
//      [tokens_per_minute=60000]                                             (all on one line)
//
// ID is 16 hexadecimal digits, SALT 32 and HASH 64 of them (token.h). A principal may have several
// tokens; what one of them allows is its own, what is counted is the principal's.

#ifndef MAMBAD_SERVER_SECURITY_TOKEN_FILE_H_
#define MAMBAD_SERVER_SECURITY_TOKEN_FILE_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "server/security/token.h"

namespace mambad::server {

inline constexpr size_t kLargestTokenFile = 4 << 20;  // bytes
inline constexpr size_t kLongestTokenLine = 512;      // bytes

// The entries, in the order of the file. INVALID_ARGUMENT in one line: NAME, number of the line,
// what was expected; never what stands there: somebody may have pasted a token itself.
absl::StatusOr<std::vector<TokenEntry>> ParseTokenFile(absl::string_view name,
                                                       absl::string_view text);

// One line of the file, with its newline.
std::string FormatTokenEntry(const TokenEntry& entry);

// "generate,admin" -> bits. INVALID_ARGUMENT, naming those that there are, for any other word.
absl::StatusOr<unsigned> ParseScopes(absl::string_view text);
std::string FormatScopes(unsigned scopes);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_SECURITY_TOKEN_FILE_H_
