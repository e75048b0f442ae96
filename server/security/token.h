// Bearer tokens: what a caller shows, and what the daemon keeps of it.
//
// A token is "mbd_ID_SECRET": ID is 16 hexadecimal digits, public, by which its entry is found;
// SECRET is 64 of them from the system's source of randomness. The daemon's file has a salted hash
// of the secret, HMAC-SHA-256 with the salt as key. Nobody can choose a secret, and 256 random bits
// cannot be guessed from it, so the hash need not be slow.

#ifndef MAMBAD_SERVER_SECURITY_TOKEN_H_
#define MAMBAD_SERVER_SECURITY_TOKEN_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace mambad::server {

// What a token allows, as bits.
enum Scope : unsigned {
  kScopeGenerate = 1,  // to generate, score and tokenize
  kScopeSessions = 2,  // to keep, list and move sessions of its principal
  kScopeAdmin = 4,     // to see what concerns all callers: load, reflection
};

struct NamedScope {
  const char* name;
  Scope scope;
};
inline constexpr NamedScope kScopes[] = {
    {"generate", kScopeGenerate}, {"sessions", kScopeSessions}, {"admin", kScopeAdmin}};

inline constexpr size_t kTokenIdDigits = 16;
inline constexpr size_t kTokenSecretDigits = 64;
inline constexpr size_t kSaltBytes = 16;
inline constexpr size_t kHashBytes = 32;
inline constexpr size_t kLongestPrincipal = 64;  // bytes

// One token as the daemon knows it.
struct TokenEntry {
  std::string id;         // kTokenIdDigits, lower case
  std::string principal;  // whose it is; IsPrincipal
  std::string salt;       // kSaltBytes
  std::string hash;       // kHashBytes
  unsigned scopes = 0;    // of Scope; never none
  absl::Time expires = absl::InfiniteFuture();
  int64_t max_calls = 0;          // at a time, of the principal; 0: as many as anybody
  int64_t tokens_per_minute = 0;  // of prompts and answers, of the principal; 0: no bound
};

// The parts of a token. They point into its text.
struct TokenParts {
  absl::string_view id, secret;
};

// Letters, digits and any of ._@- ; 1 to kLongestPrincipal of them.
bool IsPrincipal(absl::string_view name);

// INVALID_ARGUMENT when it is no token. The words hold nothing of it.
absl::StatusOr<TokenParts> SplitToken(absl::string_view token);

// kHashBytes. `salt` has kSaltBytes.
std::string HashSecret(absl::string_view salt, absl::string_view secret);

// In a time that does not depend on where they differ.
bool HasSecret(const TokenEntry& entry, absl::string_view secret);

// A new token, and `entry` made complete for it: id, salt and hash are set. INTERNAL when the
// system gives no randomness.
absl::StatusOr<std::string> MakeToken(TokenEntry* entry);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_SECURITY_TOKEN_H_
