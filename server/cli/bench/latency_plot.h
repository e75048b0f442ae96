// Latencies by percentile as a picture.

#ifndef MAMBAD_SERVER_CLI_BENCH_LATENCY_PLOT_H_
#define MAMBAD_SERVER_CLI_BENCH_LATENCY_PLOT_H_

#include <string>
#include <vector>

namespace mambad::cli {

struct LatencyCurve {
  std::string name;
  std::vector<double> times;  // milliseconds, sorted, not empty
};

// An SVG document: to the right percentiles, such that 90, 99 and 99.9 stand equally far apart,
// upwards milliseconds on a logarithmic scale. Without curves a picture that says so.
std::string LatencyPlot(const std::string& title, const std::vector<LatencyCurve>& curves);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_BENCH_LATENCY_PLOT_H_
