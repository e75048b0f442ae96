// What a load run has seen, and its percentiles as a table or as JSON.

#ifndef MAMBAD_SERVER_CLI_BENCH_REPORT_H_
#define MAMBAD_SERVER_CLI_BENCH_REPORT_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace mambad::cli {

// One request as its client saw it. Seconds.
struct BenchSample {
  std::string code = "OK";  // gRPC status
  std::string problem;      // why it failed, in words; empty: it did not
  double first_token = 0;   // from sending (open loop: from the planned time) to the first token
  double end_to_end = 0;
  std::vector<double> between;  // between messages
  int64_t prompt_tokens = 0, completion_tokens = 0;
  int64_t drafted = 0, accepted = 0;
  // Mean time of a token after the first; nothing with fewer than two.
  std::optional<double> per_token() const;
};

struct BenchGoals {
  std::optional<double> first_token, per_token,
      end_to_end;  // seconds; a request that meets all given ones is good
};

class BenchReport {
 public:
  BenchReport(std::vector<BenchSample> samples, double seconds, const BenchGoals& goals);
  std::string Table() const;  // some lines for people
  std::string Json() const;   // one line

 private:
  struct Row {
    double mean = 0, p50 = 0, p90 = 0, p99 = 0, most = 0;  // milliseconds
    int64_t count = 0;
  };
  std::string Rates() const;
  static Row Summarize(std::vector<double> seconds);

  std::vector<std::pair<std::string, Row>> rows_;  // by their names in JSON
  std::map<std::string, int64_t> codes_;
  std::map<std::string, std::string> problems_;  // of each code that is not OK, the first
  double seconds_ = 0;
  int64_t prompt_tokens_ = 0, completion_tokens_ = 0, drafted_ = 0, accepted_ = 0, good_ = 0,
          requests_ = 0;
  bool has_goals_ = false;
};

// The value below which `share` (0 to 1) of sorted, non-empty `values` lie, interpolated linearly
// between neighbours.
double Percentile(const std::vector<double>& values, double share);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_BENCH_REPORT_H_
