#include "server/security/token.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <openssl/rand.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace mambad::server {
namespace {

constexpr char kPrefix[] = "mbd_";

bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isdigit(static_cast<unsigned char>(c)) || (c >= 'a' && c <= 'f');
  });
}

// False when there is none to be had.
bool Random(size_t bytes, std::string* result) {
  result->resize(bytes);
  return RAND_bytes(reinterpret_cast<unsigned char*>(result->data()), static_cast<int>(bytes)) == 1;
}

}  // namespace

bool IsPrincipal(absl::string_view name) {
  return !name.empty() && name.size() <= kLongestPrincipal &&
         std::all_of(name.begin(), name.end(), [](char c) {
           return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '.' || c == '_' ||
                  c == '@' || c == '-';
         });
}

absl::StatusOr<TokenParts> SplitToken(absl::string_view token) {
  TokenParts parts;
  const bool is_token = absl::ConsumePrefix(&token, kPrefix) &&
                        token.size() == kTokenIdDigits + 1 + kTokenSecretDigits &&
                        token[kTokenIdDigits] == '_';
  if (is_token) parts = {token.substr(0, kTokenIdDigits), token.substr(kTokenIdDigits + 1)};
  if (!is_token || !IsHex(parts.id) || !IsHex(parts.secret)) {
    return absl::InvalidArgumentError("not a token of mambad: expected mbd_ID_SECRET");
  }
  return parts;
}

std::string HashSecret(absl::string_view salt, absl::string_view secret) {
  std::string hash(kHashBytes, '\0');
  unsigned size = 0;
  // Fails for want of memory alone; then the hash is no secret's, and nobody comes in.
  if (HMAC(EVP_sha256(), salt.data(), static_cast<int>(salt.size()),
           reinterpret_cast<const unsigned char*>(secret.data()), secret.size(),
           reinterpret_cast<unsigned char*>(hash.data()), &size) == nullptr) {
    return "";
  }
  return hash;
}

bool HasSecret(const TokenEntry& entry, absl::string_view secret) {
  const std::string hash = HashSecret(entry.salt, secret);
  return hash.size() == kHashBytes && entry.hash.size() == kHashBytes &&
         CRYPTO_memcmp(hash.data(), entry.hash.data(), kHashBytes) == 0;
}

absl::StatusOr<std::string> MakeToken(TokenEntry* entry) {
  std::string id, secret;
  if (!Random(kTokenIdDigits / 2, &id) || !Random(kTokenSecretDigits / 2, &secret) ||
      !Random(kSaltBytes, &entry->salt)) {
    return absl::InternalError("the system gives no random numbers");
  }
  entry->id = absl::BytesToHexString(id);
  secret = absl::BytesToHexString(secret);
  entry->hash = HashSecret(entry->salt, secret);
  if (entry->hash.empty()) return absl::InternalError("HMAC-SHA-256 is not available");
  return absl::StrCat(kPrefix, entry->id, "_", secret);
}

}  // namespace mambad::server
