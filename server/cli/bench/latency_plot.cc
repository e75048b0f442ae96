#include "server/cli/bench/latency_plot.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"

namespace mambad::cli {
namespace {

// Points of the picture, from its upper left corner.
constexpr double kWidth = 860, kHeight = 480;
constexpr double kLeft = 80, kRight = 640, kTop = 50, kBottom = 420;
constexpr double kShortest = 1e-3;  // milliseconds that are told apart
constexpr int kPointsADecade = 64;
// Told apart by people who see few colours, too.
constexpr const char* kColors[] = {"#0072b2", "#d55e00", "#009e73",
                                   "#cc79a7", "#56b4e9", "#000000"};
constexpr char kLine[] =
    "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ccc\"/>\n";
constexpr char kLabel[] = "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n";
constexpr size_t kColorCount = sizeof(kColors) / sizeof(kColors[0]);

std::string Escape(const std::string& text) {
  return absl::StrReplaceAll(text, {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}});
}

// Decades of both axes: of 1 / (1 - share) from 0 to `tail`, of milliseconds from `low` to `high`.
struct Scale {
  double tail = 1, low = 0, high = 1;

  double X(double nines) const { return kLeft + nines / tail * (kRight - kLeft); }
  double Y(double milliseconds) const {
    const double decades = std::log10(std::max(milliseconds, kShortest)) - low;
    return kBottom - decades / (high - low) * (kBottom - kTop);
  }
};

Scale ChooseScale(const std::vector<LatencyCurve>& curves) {
  double least = HUGE_VAL, most = 0;
  size_t longest = 1;
  for (const LatencyCurve& curve : curves) {
    least = std::min(least, curve.times.front());
    most = std::max(most, curve.times.back());
    longest = std::max(longest, curve.times.size());
  }
  Scale scale;
  if (curves.empty()) return scale;
  scale.tail = std::max(1.0, std::log10(static_cast<double>(longest)));
  scale.low = std::floor(std::log10(std::max(least, kShortest)));
  scale.high = std::max(scale.low + 1, std::ceil(std::log10(std::max(most, kShortest))));
  return scale;
}

void DrawAxes(const Scale& scale, std::string* svg) {
  for (int decade = static_cast<int>(scale.low); decade <= static_cast<int>(scale.high); ++decade) {
    const double y = scale.Y(std::pow(10.0, decade));
    absl::StrAppendFormat(svg, kLine, kLeft, y, kRight, y);
    absl::StrAppendFormat(svg, kLabel, kLeft - 8, y + 4, "end",
                          absl::StrFormat("%g ms", std::pow(10.0, decade)));
  }
  absl::StrAppendFormat(svg, kLine, scale.X(std::log10(2.0)), kTop, scale.X(std::log10(2.0)),
                        kBottom);
  absl::StrAppendFormat(svg, kLabel, scale.X(std::log10(2.0)), kBottom + 18, "middle", "p50");
  for (int nines = 0; nines <= static_cast<int>(scale.tail); ++nines) {
    const double x = scale.X(nines);
    absl::StrAppendFormat(svg, kLine, x, kTop, x, kBottom);
    absl::StrAppendFormat(svg, kLabel, x, kBottom + 18, "middle",
                          absl::StrFormat("p%g", 100 * (1 - std::pow(10.0, -nines))));
  }
}

// The place of each value is the share of values that lie below it.
void DrawCurve(const LatencyCurve& curve, const Scale& scale, const char* color, std::string* svg) {
  const auto count = static_cast<double>(curve.times.size());
  absl::StrAppendFormat(svg, "<polyline fill=\"none\" stroke=\"%s\" stroke-width=\"2\" points=\"",
                        color);
  const double tail = std::log10(count);
  const int points = static_cast<int>(std::ceil(tail * kPointsADecade));
  for (int point = 0; point <= points; ++point) {
    const double nines = std::min(tail, static_cast<double>(point) / kPointsADecade);
    const double share = 1 - std::pow(10.0, -nines);
    const size_t last = curve.times.size() - 1;
    const size_t place =
        point == points ? last : std::min(last, static_cast<size_t>(share * count));
    absl::StrAppendFormat(svg, "%.1f,%.1f ", scale.X(nines), scale.Y(curve.times[place]));
  }
  absl::StrAppend(svg, "\"/>\n");
}

}  // namespace

std::string LatencyPlot(const std::string& title, const std::vector<LatencyCurve>& curves) {
  std::string svg = absl::StrFormat(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %g %g\" font-family=\"sans-serif\" "
      "font-size=\"12\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"white\"/>\n"
      "<text x=\"%g\" y=\"28\" font-size=\"15\">%s</text>\n",
      kWidth, kHeight, kLeft, Escape(title));
  const Scale scale = ChooseScale(curves);
  DrawAxes(scale, &svg);
  if (curves.empty())
    absl::StrAppendFormat(&svg, "<text x=\"%g\" y=\"%g\">nothing was measured</text>\n", kLeft + 20,
                          kTop + 30);
  for (size_t i = 0; i < curves.size(); ++i) {
    const char* color = kColors[i % kColorCount];
    DrawCurve(curves[i], scale, color, &svg);
    absl::StrAppendFormat(&svg, "<text x=\"%g\" y=\"%g\" fill=\"%s\">%s</text>\n", kRight + 14,
                          kTop + 12 + 20 * static_cast<double>(i), color, Escape(curves[i].name));
  }
  return svg + "</svg>\n";
}

}  // namespace mambad::cli
