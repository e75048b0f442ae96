#include "server/cli/address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace mambad::cli {
namespace {

using testing::HasSubstr;

std::string Parsed(const std::string& text) {
  const absl::StatusOr<Address> address = ParseAddress(text);
  return address.ok() ? address->Text() : std::string(address.status().message());
}

TEST(AddressTest, FillsInWhatIsLeftOut) {
  EXPECT_EQ(Parsed("127.0.0.1:1234"), "127.0.0.1:1234");
  EXPECT_EQ(Parsed("127.0.0.1"), "127.0.0.1:50051");
  EXPECT_EQ(Parsed("localhost"), "localhost:50051");
  EXPECT_EQ(Parsed("some.host.example:7"), "some.host.example:7");
  EXPECT_EQ(Parsed(":1234"), "127.0.0.1:1234");
}

TEST(AddressTest, ReadsIpv6InEveryForm) {
  EXPECT_EQ(Parsed("::1"), "[::1]:50051");
  EXPECT_EQ(Parsed("[::1]"), "[::1]:50051");
  EXPECT_EQ(Parsed("[::1]:1234"), "[::1]:1234");
  EXPECT_EQ(Parsed("fe80::2:3"), "[fe80::2:3]:50051");
  EXPECT_EQ(ParseAddress("[::1]:1234")->Target(), "dns:///[::1]:1234");
}

// A name that is also a scheme's is a name before a port.
TEST(AddressTest, AHostMayBeNamedLikeAScheme) { EXPECT_EQ(Parsed("dns:53"), "dns:53"); }

TEST(AddressTest, RefusesWithTheReasonAndTheWayOut) {
  const std::pair<const char*, const char*> kCases[] = {
      {"", "empty"},
      {"http://localhost:50051", "the scheme \"http:\""},
      {"unix:/run/mambad", "the scheme \"unix:\""},
      {"dns:///localhost", "the scheme \"dns:\""},
      {"host/path", "a path"},
      {"host:", "the port is \"\""},
      {"host:http", "the port is \"http\""},
      {"host:-1", "the port is \"-1\""},
      {"host:0", "allowed 1 to 65535"},
      {"host:65536", "allowed 1 to 65535"},
      {"host:99999999999999999999", "allowed 1 to 65535"},
      {"[::1", "not closed"},
      {"[::1]50051", "follows a colon"},
      {"[localhost]:1", "brackets hold an IPv6 address"},
      {"my host", "a space"},
      {"host\n", "a space"},
  };
  for (const auto& [text, reason] : kCases) {
    EXPECT_FALSE(ParseAddress(text).ok()) << text;
    EXPECT_THAT(Parsed(text), HasSubstr(reason)) << text;
    EXPECT_THAT(Parsed(text), HasSubstr("expected HOST:PORT, for example 127.0.0.1:50051"));
  }
}

}  // namespace
}  // namespace mambad::cli
