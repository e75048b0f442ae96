#include "engine/checkpoint/end_of_turn.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mambad::checkpoint {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int32_t kNormal = 1, kControl = 3, kUserDefined = 4, kUnused = 5;

TEST(EndsBySpelling, FindsEndsOfTurnsAndTexts) {
  EXPECT_THAT(EndsBySpelling({"a", "<|im_end|>", "<|eot_id|>", "<|im_start|>", "</s>", "<eos>"},
                             {kNormal, kControl, kControl, kControl, kControl, kUserDefined}),
              ElementsAre(1, 2, 4, 5));
  EXPECT_THAT(EndsBySpelling({"</s>", "<|end|>", "x"}, {}), ElementsAre(0, 1)) << "no types given";
}

TEST(EndsBySpelling, TextThatLooksLikeOneIsNone) {
  EXPECT_THAT(EndsBySpelling({"</s>", "[EOS]", "<eos>"}, {kNormal, kNormal, kUnused}), IsEmpty());
  EXPECT_THAT(EndsBySpelling({"<|im_end|>", "<|endoftext|>"}, {kNormal, kUnused}), ElementsAre(0))
      << "no text merges into what stands between bars";
}

TEST(EndsBySpelling, TheFirstIdKeepsTheSpelling) {
  EXPECT_THAT(EndsBySpelling({"<|end|>", "<|end|>"}, {}), ElementsAre(0));
}

TEST(EndsBySpelling, EndsOfMessagesInsideATurnAreNone) {
  EXPECT_THAT(EndsBySpelling({"<|end|>", "<|return|>", "<|call|>"}, {}), ElementsAre(1, 2));
  EXPECT_THAT(EndsBySpelling({"<|end|>", "<|flush|>", "<|calls|>"}, {}), ElementsAre(1, 2));
  EXPECT_THAT(EndsBySpelling({"<|end|>", "<|call|>"}, {}), ElementsAre(0, 1));
  EXPECT_THAT(EndsBySpelling({"</s>", "<|tool_response>", "<turn|>"}, {}), ElementsAre(1, 2));
}

}  // namespace
}  // namespace mambad::checkpoint
