#include "server/security/token_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/strings/str_cat.h"

namespace mambad::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

const char kId[] = "0123456789abcdef";
const std::string kHash =
    absl::StrCat(std::string(32, 'a'), ":", std::string(64, 'b'));  // SALT:HASH

std::string Line(const std::string& rest) { return absl::StrCat(kId, " alice ", kHash, " ", rest); }

std::string ErrorOf(const std::string& text) {
  return std::string(ParseTokenFile("tokens", text).status().message());
}

TEST(TokenTest, ATokenHasItsOwnSecretAndNoOther) {
  TokenEntry entry, other;
  const std::string token = *MakeToken(&entry), second = *MakeToken(&other);
  EXPECT_NE(entry.id, other.id);
  EXPECT_NE(entry.salt, other.salt);
  const TokenParts parts = *SplitToken(token);
  EXPECT_EQ(parts.id, entry.id);
  EXPECT_TRUE(HasSecret(entry, parts.secret));
  EXPECT_FALSE(HasSecret(entry, SplitToken(second)->secret));
  EXPECT_FALSE(HasSecret(entry, ""));
  // Each digit counts.
  for (size_t i = 0; i < parts.secret.size(); ++i) {
    std::string changed(parts.secret);
    changed[i] = changed[i] == '0' ? '1' : '0';
    EXPECT_FALSE(HasSecret(entry, changed)) << i;
  }
  // An entry that is not complete lets nobody in.
  EXPECT_FALSE(HasSecret(TokenEntry(), ""));
}

TEST(TokenTest, TheHashIsHmacSha256) {
  // RFC 4231, test case 1.
  const std::string hash = HashSecret(std::string(20, '\x0b'), "Hi There");
  EXPECT_EQ(hash.substr(0, 4), "\xb0\x34\x4c\x61");
  EXPECT_EQ(hash.size(), kHashBytes);
}

TEST(TokenTest, WhatIsNoTokenIsNotRepeated) {
  for (const std::string text :
       {"", "mbd_", "hunter2", "mbd_0123456789abcdef_0123", "mbd_0123456789ABCDEF_"}) {
    const auto parts = SplitToken(text);
    ASSERT_FALSE(parts.ok()) << text;
    EXPECT_EQ(parts.status().message(), "not a token of mambad: expected mbd_ID_SECRET");
  }
}

TEST(TokenFileTest, AnEntryComesBackAsItWasWritten) {
  TokenEntry entry;
  entry.principal = "alice@example.org";
  entry.scopes = kScopeGenerate | kScopeAdmin;
  entry.expires = absl::FromUnixSeconds(1800000000);
  entry.max_calls = 8;
  entry.tokens_per_minute = 60000;
  ASSERT_TRUE(MakeToken(&entry).ok());
  const std::string line = FormatTokenEntry(entry);
  EXPECT_THAT(line, HasSubstr(" scopes=generate,admin expires=2027-01-15T08:00:00Z max_calls=8 "
                              "tokens_per_minute=60000\n"));
  const auto read = ParseTokenFile("tokens", "# comment\n\n  " + line);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->size(), 1u);
  EXPECT_EQ(FormatTokenEntry(read->front()), line);
  EXPECT_EQ(read->front().hash, entry.hash);
  EXPECT_EQ(read->front().expires, entry.expires);
}

TEST(TokenFileTest, FaultsAreNamedByLineAndNothingIsQuoted) {
  EXPECT_EQ(ErrorOf("\n" + Line("scopes=everything") + "\n"),
            "tokens:2: expected scopes among generate, sessions and admin");
  EXPECT_EQ(ErrorOf(Line("max_calls=1")), "tokens:1: expected scopes=");
  EXPECT_EQ(ErrorOf(Line("scopes=admin scopes=admin")), "tokens:1: expected scopes= once");
  EXPECT_EQ(ErrorOf(Line("scopes=admin") + "\n" + Line("scopes=admin")),
            "tokens:2: expected an ID that is not taken");
  EXPECT_EQ(ErrorOf(Line("scopes=admin max_calls=0")),
            "tokens:1: expected max_calls=NUMBER from 1 to 1048576");
  EXPECT_EQ(ErrorOf(Line("scopes=admin expires=tomorrow")),
            "tokens:1: expected expires=TIME such as 2027-01-31T00:00:00Z");
  EXPECT_THAT(ErrorOf(Line("scopes=admin colour=blue")), HasSubstr("expected scopes=, expires="));
  EXPECT_THAT(ErrorOf("alice secret"), HasSubstr("expected ID PRINCIPAL SALT:HASH"));
  // Somebody pasted the token itself, at all places.
  const std::string token = absl::StrCat("mbd_", kId, "_", std::string(64, 'c'));
  for (const std::string& text :
       {token, absl::StrCat(token, " alice ", kHash, " scopes=admin"),
        absl::StrCat(kId, " ", token, " ", kHash, " scopes=admin"),
        absl::StrCat(kId, " alice ", token, " scopes=admin"), Line("scopes=" + token), Line(token),
        Line("scopes=admin " + token + "=1")}) {
    EXPECT_THAT(ErrorOf(text), HasSubstr("tokens:1: expected ")) << text;
    EXPECT_THAT(ErrorOf(text), Not(HasSubstr("cccc"))) << text;
  }
  EXPECT_THAT(ErrorOf(Line("scopes=admin " + std::string(600, ' ') + "max_calls=1")),
              HasSubstr("512 bytes"));
  EXPECT_EQ(ErrorOf(std::string(kLargestTokenFile + 1, '#')), "tokens: larger than 4 MiB");
}

TEST(TokenFileTest, PrincipalsAreNames) {
  for (const char* name : {"a", "Alice-2", "a.b_c@example.org"}) EXPECT_TRUE(IsPrincipal(name));
  for (const char* name : {"", "a b", "a\n", "ipv4:1", "\xc3\xa4", "a\"b"})
    EXPECT_FALSE(IsPrincipal(name)) << name;
  EXPECT_FALSE(IsPrincipal(std::string(kLongestPrincipal + 1, 'a')));
}

}  // namespace
}  // namespace mambad::server
