#include "server/security/token_file.h"

#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

namespace mambad::server {
namespace {

constexpr int64_t kMostCalls = 1 << 20;
constexpr int64_t kMostTokensPerMinute = int64_t{1} << 40;

absl::Status Expected(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("expected ", what));
}

// Lower-case hexadecimal digits of exactly so many bytes.
bool ReadHex(absl::string_view text, size_t bytes, std::string* result) {
  if (text.size() != 2 * bytes) return false;
  for (const char c : text) {
    if (!absl::ascii_isdigit(static_cast<unsigned char>(c)) && !(c >= 'a' && c <= 'f'))
      return false;
  }
  result->clear();
  for (size_t begin = 0; begin < text.size(); begin += 2) {
    uint32_t byte = 0;
    if (!absl::SimpleHexAtoi(text.substr(begin, 2), &byte)) return false;
    result->push_back(static_cast<char>(byte));
  }
  return true;
}

absl::Status ReadNumber(absl::string_view key, absl::string_view text, int64_t most,
                        int64_t* result) {
  if (absl::SimpleAtoi(text, result) && *result >= 1 && *result <= most) return absl::OkStatus();
  return Expected(absl::StrCat(key, "=NUMBER from 1 to ", most));
}

absl::Status ReadSetting(absl::string_view key, absl::string_view value, TokenEntry* entry) {
  if (key == "scopes") {
    absl::StatusOr<unsigned> scopes = ParseScopes(value);
    if (!scopes.ok()) return scopes.status();
    entry->scopes = *scopes;
    return absl::OkStatus();
  }
  if (key == "expires") {
    std::string ignored;
    if (absl::ParseTime(absl::RFC3339_full, value, &entry->expires, &ignored) &&
        entry->expires != absl::InfiniteFuture() && entry->expires != absl::InfinitePast()) {
      return absl::OkStatus();
    }
    return Expected("expires=TIME such as 2027-01-31T00:00:00Z");
  }
  if (key == "max_calls") return ReadNumber(key, value, kMostCalls, &entry->max_calls);
  if (key == "tokens_per_minute")
    return ReadNumber(key, value, kMostTokensPerMinute, &entry->tokens_per_minute);
  return Expected("scopes=, expires=, max_calls= or tokens_per_minute= after the hash");
}

absl::Status ReadLine(absl::string_view line, TokenEntry* entry) {
  const std::vector<absl::string_view> words =
      absl::StrSplit(line, absl::ByAnyChar(" \t"), absl::SkipEmpty());
  if (words.size() < 4) return Expected("ID PRINCIPAL SALT:HASH scopes=...");
  std::string id;
  if (!ReadHex(words[0], kTokenIdDigits / 2, &id)) return Expected("16 hexadecimal digits as ID");
  entry->id = std::string(words[0]);
  if (!IsPrincipal(words[1]))
    return Expected("1 to 64 letters, digits or any of ._@- as PRINCIPAL");
  entry->principal = std::string(words[1]);
  const std::pair<absl::string_view, absl::string_view> parts =
      absl::StrSplit(words[2], absl::MaxSplits(':', 1));
  if (!ReadHex(parts.first, kSaltBytes, &entry->salt) ||
      !ReadHex(parts.second, kHashBytes, &entry->hash)) {
    return Expected("32 and 64 hexadecimal digits as SALT:HASH");
  }
  std::set<absl::string_view> seen;
  for (size_t i = 3; i < words.size(); ++i) {
    const std::pair<absl::string_view, absl::string_view> setting =
        absl::StrSplit(words[i], absl::MaxSplits('=', 1));
    if (absl::Status status = ReadSetting(setting.first, setting.second, entry); !status.ok())
      return status;
    if (!seen.insert(setting.first).second) return Expected(absl::StrCat(setting.first, "= once"));
  }
  return entry->scopes != 0 ? absl::OkStatus() : Expected("scopes=");
}

}  // namespace

absl::StatusOr<std::vector<TokenEntry>> ParseTokenFile(absl::string_view name,
                                                       absl::string_view text) {
  if (text.size() > kLargestTokenFile)
    return absl::InvalidArgumentError(absl::StrCat(name, ": larger than 4 MiB"));
  std::vector<TokenEntry> entries;
  std::set<std::string> ids;
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || line[0] == '#') continue;
    TokenEntry entry;
    absl::Status status = line.size() <= kLongestTokenLine
                              ? ReadLine(line, &entry)
                              : Expected("a line of 512 bytes at most");
    if (status.ok() && !ids.insert(entry.id).second) status = Expected("an ID that is not taken");
    if (!status.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(name, ":", number, ": ", status.message()));
    }
    entries.push_back(std::move(entry));
  }
  return entries;
}

std::string FormatTokenEntry(const TokenEntry& entry) {
  std::string line =
      absl::StrCat(entry.id, " ", entry.principal, " ", absl::BytesToHexString(entry.salt), ":",
                   absl::BytesToHexString(entry.hash), " scopes=", FormatScopes(entry.scopes));
  if (entry.expires != absl::InfiniteFuture()) {
    absl::StrAppend(&line, " expires=",
                    absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", entry.expires, absl::UTCTimeZone()));
  }
  if (entry.max_calls > 0) absl::StrAppend(&line, " max_calls=", entry.max_calls);
  if (entry.tokens_per_minute > 0)
    absl::StrAppend(&line, " tokens_per_minute=", entry.tokens_per_minute);
  return line + "\n";
}

absl::StatusOr<unsigned> ParseScopes(absl::string_view text) {
  unsigned scopes = 0;
  for (const absl::string_view word : absl::StrSplit(text, ',')) {
    unsigned found = 0;
    for (const NamedScope& scope : kScopes) {
      if (word == scope.name) found = scope.scope;
    }
    if (found == 0) return Expected("scopes among generate, sessions and admin");
    scopes |= found;
  }
  return scopes;
}

std::string FormatScopes(unsigned scopes) {
  std::string text;
  for (const NamedScope& scope : kScopes) {
    if ((scopes & scope.scope) != 0) absl::StrAppend(&text, text.empty() ? "" : ",", scope.name);
  }
  return text;
}

}  // namespace mambad::server
