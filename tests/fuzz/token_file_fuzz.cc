// Any text as the file of tokens: an error that quotes nothing of it, or entries that are within
// their bounds and come back the same when they are written and read again. And as a token itself.

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "server/security/token_file.h"

namespace {

using namespace mambad::server;

void Require(bool condition) {
  if (!condition) std::abort();
}

// Something of a token, a salt or a hash.
bool HasSecretDigits(absl::string_view text) {
  size_t run = 0;
  for (const char c : text) {
    run = std::isxdigit(static_cast<unsigned char>(c)) ? run + 1 : 0;
    if (run >= kTokenIdDigits) return true;
  }
  return false;
}

void CheckError(const absl::Status& status) {
  Require(status.code() == absl::StatusCode::kInvalidArgument);
  Require(status.message().size() <= 200);
  Require(std::all_of(status.message().begin(), status.message().end(),
                      [](char c) { return c >= ' ' && c <= '~'; }));
  Require(!HasSecretDigits(status.message()));
}

void CheckEntry(const TokenEntry& entry) {
  Require(IsPrincipal(entry.principal));
  Require(entry.id.size() == kTokenIdDigits && entry.salt.size() == kSaltBytes &&
          entry.hash.size() == kHashBytes);
  Require(entry.scopes > 0 && entry.scopes <= (kScopeGenerate | kScopeSessions | kScopeAdmin));
  Require(entry.max_calls >= 0 && entry.tokens_per_minute >= 0);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto parts = SplitToken(text); parts.ok()) {
    Require(parts->id.size() == kTokenIdDigits && parts->secret.size() == kTokenSecretDigits);
    TokenEntry entry;
    entry.salt = std::string(kSaltBytes, 's');
    entry.hash = HashSecret(entry.salt, parts->secret);
    Require(HasSecret(entry, parts->secret) && !HasSecret(entry, parts->id));
  } else {
    CheckError(parts.status());
  }
  const auto entries = ParseTokenFile("fuzz", text);
  if (!entries.ok()) {
    CheckError(entries.status());
    return 0;
  }
  std::string written;
  for (const TokenEntry& entry : *entries) {
    CheckEntry(entry);
    written += FormatTokenEntry(entry);
  }
  const auto again = ParseTokenFile("fuzz", written);
  Require(again.ok() && again->size() == entries->size());
  std::string rewritten;
  for (const TokenEntry& entry : *again) rewritten += FormatTokenEntry(entry);
  Require(rewritten == written);
  return 0;
}
