#include "server/cli/bench/latency_plot.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace mambad::cli {
namespace {

using testing::HasSubstr;
using testing::Not;

int CountOf(const std::string& text, const std::string& part) {
  int count = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(LatencyPlotTest, HasACurveAndANameForEach) {
  const std::string svg =
      LatencyPlot("a < b & c", {{"first", {1, 2, 3, 4, 5, 6, 7, 8, 9, 100}}, {"second", {0.5}}});
  EXPECT_THAT(svg, testing::StartsWith("<svg xmlns=\"http://www.w3.org/2000/svg\""));
  EXPECT_THAT(svg, testing::EndsWith("</svg>\n"));
  EXPECT_THAT(svg, HasSubstr("a &lt; b &amp; c"));
  EXPECT_EQ(CountOf(svg, "<polyline"), 2);
  EXPECT_THAT(svg, HasSubstr(">first</text>"));
  EXPECT_THAT(svg, HasSubstr(">second</text>"));
  for (const char* label : {">0.1 ms<", ">1 ms<", ">10 ms<", ">100 ms<", ">p0<", ">p50<", ">p90<"})
    EXPECT_THAT(svg, HasSubstr(label));
  EXPECT_THAT(svg, Not(HasSubstr(">p99<")));  // ten values do not have one
  EXPECT_THAT(svg, Not(HasSubstr("nan")));
}

TEST(LatencyPlotTest, CurvesEndAtTheLargestValue) {
  // From the lower left corner of the scale, 1 ms, to its upper right one, 10 ms.
  const std::string svg = LatencyPlot("", {{"x", {1, 1, 1, 1, 1, 1, 1, 1, 1, 10}}});
  EXPECT_THAT(svg, HasSubstr("points=\"80.0,420.0 "));
  EXPECT_THAT(svg, HasSubstr("640.0,50.0 \"/>"));
}

TEST(LatencyPlotTest, SaysThatNothingWasMeasured) {
  EXPECT_THAT(LatencyPlot("", {}), HasSubstr("nothing was measured"));
}

}  // namespace
}  // namespace mambad::cli
