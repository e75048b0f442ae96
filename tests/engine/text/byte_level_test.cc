#include "engine/text/byte_level.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

namespace mambad::text {
namespace {

TEST(ByteLevel, KnownCharacters) {
  EXPECT_EQ(ByteLevelCharacter(' '), "Ġ");
  EXPECT_EQ(ByteLevelCharacter('\n'), "Ċ");
  EXPECT_EQ(ByteLevelCharacter('\t'), "ĉ");
  EXPECT_EQ(ByteLevelCharacter(0x00), "Ā");
  EXPECT_EQ(ByteLevelCharacter(0x7F), "ġ");
  EXPECT_EQ(ByteLevelCharacter(0xAD), "Ń");
  EXPECT_EQ(ByteLevelCharacter('A'), "A");
  EXPECT_EQ(ByteLevelCharacter(0xE9), "é");
}

TEST(ByteLevel, EveryByteComesBack) {
  std::set<std::string> characters;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string character = ByteLevelCharacter(static_cast<uint8_t>(byte));
    characters.insert(character);
    EXPECT_EQ(ByteLevelDecode(character), std::string(1, static_cast<char>(byte)));
  }
  EXPECT_EQ(characters.size(), 256u);
}

TEST(ByteLevel, RefusesWhatIsNotInTheAlphabet) {
  EXPECT_EQ(ByteLevelDecode("ĠHello"), " Hello");
  EXPECT_FALSE(ByteLevelDecode(" ").has_value());
  EXPECT_FALSE(ByteLevelDecode("▁a").has_value());
  EXPECT_FALSE(ByteLevelDecode("\xFF").has_value());
}

}  // namespace
}  // namespace mambad::text
