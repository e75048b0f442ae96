#include "server/cli/suggestions.h"

#include <gtest/gtest.h>

namespace mambad::cli {
namespace {

TEST(SuggestionsTest, Distances) {
  EXPECT_EQ(EditDistance("", ""), 0);
  EXPECT_EQ(EditDistance("", "abc"), 3);
  EXPECT_EQ(EditDistance("abc", ""), 3);
  EXPECT_EQ(EditDistance("load", "laod"), 1);  // neighbours swapped
  EXPECT_EQ(EditDistance("kitten", "sitting"), 3);
  EXPECT_EQ(EditDistance("same", "same"), 0);
}

TEST(SuggestionsTest, TheNearestOrNone) {
  const std::vector<std::string> names = {"generate", "chat", "score", "info"};
  EXPECT_EQ(DidYouMean("genrate", names), "; did you mean generate?");
  EXPECT_EQ(DidYouMean("caht", names), "; did you mean chat?");
  EXPECT_EQ(DidYouMean("quit", names), "");
  EXPECT_EQ(DidYouMean("x", names), "");
  EXPECT_EQ(DidYouMean("chat", {}), "");
  EXPECT_EQ(DidYouMean(std::string(1000000, 'x'), names), "");
}

}  // namespace
}  // namespace mambad::cli
