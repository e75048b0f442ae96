#include "server/call_environment.h"

#include "gtest/gtest.h"

namespace mambad::server {
namespace {

TEST(PrincipalOfPeer, IsTheHostWithoutThePort) {
  EXPECT_EQ(PrincipalOfPeer("ipv4:192.0.2.1:40000"), "ipv4:192.0.2.1");
  EXPECT_EQ(PrincipalOfPeer("ipv6:[2001:db8::1]:40000"), "ipv6:[2001:db8::1]");
  EXPECT_EQ(PrincipalOfPeer("ipv6:%5B2001:db8::1%5D:40000"), "ipv6:%5B2001:db8::1%5D");
  EXPECT_EQ(PrincipalOfPeer("unix:/run/mambad:1.sock"), "unix:/run/mambad:1.sock");
  EXPECT_EQ(PrincipalOfPeer(""), "");
}

}  // namespace
}  // namespace mambad::server
