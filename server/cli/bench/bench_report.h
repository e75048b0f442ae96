// What a load run has seen, and its percentiles as a table, as JSON and as curves.

#ifndef MAMBAD_SERVER_CLI_BENCH_BENCH_REPORT_H_
#define MAMBAD_SERVER_CLI_BENCH_BENCH_REPORT_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "server/cli/bench/latency_plot.h"

namespace mambad::cli {

// One time that a server had no room. Seconds.
struct Refusal {
  double answered = 0;           // from sending to the refusal
  std::optional<double> hint;    // it was told to come back after this
  std::optional<double> waited;  // until the attempt that was let in; nothing: none was
};

// One request as its client saw it. Seconds.
struct BenchSample {
  std::string code = "OK";  // gRPC status
  std::string problem;      // why it failed, in words; empty: it did not
  // From sending (open loop: from the planned time; with refusals: of the first attempt) to the
  // first token.
  double first_token = 0;
  double end_to_end = 0;
  std::vector<double> between;  // between messages
  bool goes_on = false;         // a conversation that had turns before
  int64_t prompt_tokens = 0, cached_tokens = 0, completion_tokens = 0;
  int64_t drafted = 0, accepted = 0;
  std::vector<Refusal> refusals;
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
  std::string Table() const;                 // some lines for people
  std::string Json() const;                  // one line
  std::vector<LatencyCurve> Curves() const;  // of what was measured at all

 private:
  struct Row {
    std::string key;            // in JSON, without its unit
    std::string name;           // for people
    std::vector<double> times;  // milliseconds, sorted
    double mean = 0;
    double At(double share) const;
  };

  void Count(const BenchSample& sample, const BenchGoals& goals);
  void CountRefusals(const BenchSample& sample, std::vector<double>* answered);
  void AddRow(const char* key, const char* name, std::vector<double> seconds);
  std::string Rates() const;
  std::string Refusals() const;

  std::vector<Row> rows_;
  std::map<std::string, int64_t> codes_;
  std::map<std::string, std::string> problems_;  // of each code that is not OK, the first
  double seconds_ = 0;
  int64_t prompt_tokens_ = 0, cached_tokens_ = 0, completion_tokens_ = 0, drafted_ = 0,
          accepted_ = 0, good_ = 0, requests_ = 0;
  // Of hints whose callers were let in later on: within a factor of two of what was told.
  int64_t refusals_ = 0, hints_ = 0, right_hints_ = 0;
  bool has_goals_ = false;
};

// The value below which `share` (0 to 1) of sorted, non-empty `values` lie, interpolated linearly
// between neighbours.
double Percentile(const std::vector<double>& values, double share);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_BENCH_BENCH_REPORT_H_
