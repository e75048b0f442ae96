// The published interleaves, and layers by name.

#include "trainer/layer_choice.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/trainer/expect_error.h"

namespace mambad::trainer {
namespace {

using ::testing::ElementsAre;
using testing::ErrorOf;
using ::testing::HasSubstr;

std::vector<int> Kept(double percent, int layers) {
  const std::vector<int> recurrent = RecurrentLayers({percent, {}}, layers);
  std::vector<int> kept;
  for (int layer = 0; layer < layers; ++layer) {
    if (std::find(recurrent.begin(), recurrent.end(), layer) == recurrent.end()) {
      kept.push_back(layer);
    }
  }
  return kept;
}

TEST(LayerChoice, PublishedInterleaves) {
  EXPECT_THAT(Kept(50, 8), ElementsAre(1, 3, 5, 7));
  EXPECT_THAT(Kept(25, 32), ElementsAre(3, 7, 11, 15, 19, 23, 27, 31));
  EXPECT_THAT(Kept(12.5, 32), ElementsAre(7, 15, 23, 31));
  EXPECT_THAT(Kept(0, 32), ElementsAre());
  EXPECT_EQ(Kept(75, 32).size(), 24u);
  EXPECT_EQ(Kept(100, 32).size(), 32u);
}

TEST(LayerChoice, EachShareReplacesWhatTheOneBeforeDid) {
  std::vector<int> before;
  for (const double percent : {100.0, 75.0, 50.0, 25.0, 12.5, 0.0}) {
    const std::vector<int> now = RecurrentLayers({percent, {}}, 30);
    EXPECT_TRUE(std::includes(now.begin(), now.end(), before.begin(), before.end())) << percent;
    before = now;
  }
}

TEST(LayerChoice, NamedLayersWin) {
  EXPECT_THAT(RecurrentLayers({50, {5, 0, 3}}, 6), ElementsAre(0, 3, 5));
}

TEST(LayerChoice, WrongOnesAreNamed) {
  EXPECT_THAT(ErrorOf([] {
                RecurrentLayers({40, {}}, 6);
              }),
              HasSubstr("attention_percent: expected 100, 75, 50, 25, 12.5 or 0"));
  EXPECT_THAT(ErrorOf([] {
                RecurrentLayers({50, {6}}, 6);
              }),
              HasSubstr("replaced: expected layers from 0 to 5, found 6"));
  EXPECT_THAT(ErrorOf([] {
                RecurrentLayers({50, {2, 2}}, 6);
              }),
              HasSubstr("layer 2 is named twice"));
}

}  // namespace
}  // namespace mambad::trainer
