#include "engine/digest/sha256.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace mambad {
namespace {

// FIPS 180-4's own examples.
TEST(Sha256, IsThePublishedOne) {
  EXPECT_EQ(Sha256().FinishAsDigits(),
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  Sha256 abc;
  abc.Add("a", 1);
  abc.Add("bc", 2);
  EXPECT_EQ(abc.FinishAsDigits(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

// Computed with `printf '\x01\x00\x00\x00\x00\x01\x00\x00\xff\xff\xff\xff' | sha256sum`.
TEST(Sha256, TakesTokensAsFourBytesEach) {
  Sha256 tokens;
  tokens.AddTokens({1, 256, -1});
  EXPECT_EQ(tokens.FinishAsDigits(),
            "a7cb25d042415dced618f3f824a3595c864e51fa376deb8d0ee3964daab2a5ee");
}

TEST(Sha256, CutsOfListsDoNotMatter) {
  std::vector<int32_t> ids(1000);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * 77);
  Sha256 whole, parts;
  whole.AddTokens(ids);
  const absl::Span<const int32_t> all(ids);
  for (size_t begin = 0; begin < ids.size(); begin += 300) parts.AddTokens(all.subspan(begin, 300));
  EXPECT_EQ(whole.FinishAsDigits(), parts.FinishAsDigits());
}

TEST(Sha256, TextsDoNotRunIntoEachOther) {
  Sha256 one, other;
  one.AddText("ab");
  one.AddText("c");
  other.AddText("a");
  other.AddText("bc");
  EXPECT_NE(one.FinishAsDigits(), other.FinishAsDigits());
}

}  // namespace
}  // namespace mambad
