#include "server/cli/bench_report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace mambad::cli {

std::optional<double> BenchSample::per_token() const {
  if (completion_tokens < 2) return std::nullopt;
  return (end_to_end - first_token) / static_cast<double>(completion_tokens - 1);
}

double Percentile(const std::vector<double>& values, double share) {
  const double position = share * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(position);
  const size_t above = std::min(below + 1, values.size() - 1);
  return values[below] + (position - std::floor(position)) * (values[above] - values[below]);
}

BenchReport::Row BenchReport::Summarize(std::vector<double> seconds) {
  Row row;
  row.count = static_cast<int64_t>(seconds.size());
  if (seconds.empty()) return row;
  std::sort(seconds.begin(), seconds.end());
  row.mean = 1e3 * std::accumulate(seconds.begin(), seconds.end(), 0.0) /
             static_cast<double>(seconds.size());
  row.p50 = 1e3 * Percentile(seconds, 0.5);
  row.p90 = 1e3 * Percentile(seconds, 0.9);
  row.p99 = 1e3 * Percentile(seconds, 0.99);
  row.most = 1e3 * seconds.back();
  return row;
}

BenchReport::BenchReport(std::vector<BenchSample> samples, double seconds, const BenchGoals& goals)
    : seconds_(seconds), requests_(static_cast<int64_t>(samples.size())) {
  std::vector<double> first_token, between, per_token, end_to_end;
  has_goals_ = goals.first_token || goals.per_token || goals.end_to_end;
  for (const BenchSample& sample : samples) {
    ++codes_[sample.code];
    if (sample.code != "OK") problems_.emplace(sample.code, sample.problem);
    if (sample.code != "OK") continue;
    const std::optional<double> each = sample.per_token();
    first_token.push_back(sample.first_token);
    end_to_end.push_back(sample.end_to_end);
    between.insert(between.end(), sample.between.begin(), sample.between.end());
    if (each) per_token.push_back(*each);
    prompt_tokens_ += sample.prompt_tokens;
    completion_tokens_ += sample.completion_tokens;
    drafted_ += sample.drafted;
    accepted_ += sample.accepted;
    const bool good = sample.first_token <= goals.first_token.value_or(HUGE_VAL) &&
                      each.value_or(0) <= goals.per_token.value_or(HUGE_VAL) &&
                      sample.end_to_end <= goals.end_to_end.value_or(HUGE_VAL);
    good_ += good;
  }
  rows_ = {{"ttft", Summarize(std::move(first_token))},
           {"itl", Summarize(std::move(between))},
           {"tpot", Summarize(std::move(per_token))},
           {"e2e", Summarize(std::move(end_to_end))}};
}

std::string BenchReport::Table() const {
  static const std::map<std::string, const char*> kNames = {{"ttft", "first token (TTFT)"},
                                                            {"itl", "between messages (ITL)"},
                                                            {"tpot", "each further token (TPOT)"},
                                                            {"e2e", "whole answer"}};
  std::string text = absl::StrFormat("%-26s %10s %10s %10s %10s %10s %8s\n", "milliseconds", "mean",
                                     "p50", "p90", "p99", "max", "count");
  for (const auto& [name, row] : rows_) {
    if (row.count == 0) {
      absl::StrAppendFormat(&text, "%-26s %10s %10s %10s %10s %10s %8d\n", kNames.at(name), "-",
                            "-", "-", "-", "-", 0);
      continue;
    }
    absl::StrAppendFormat(&text, "%-26s %10.2f %10.2f %10.2f %10.2f %10.2f %8d\n", kNames.at(name),
                          row.mean, row.p50, row.p90, row.p99, row.most, row.count);
  }
  return text + "\n" + Rates();
}

std::string BenchReport::Rates() const {
  const auto found = codes_.find("OK");
  const int64_t done = found == codes_.end() ? 0 : found->second;
  std::string text = absl::StrFormat("%-10s %d of %d done in %.3f s: %.2f/s", "requests", done,
                                     requests_, seconds_, double(done) / seconds_);
  if (has_goals_) {
    absl::StrAppendFormat(&text, "; %d good, within all goals: %.2f/s", good_,
                          double(good_) / seconds_);
  }
  absl::StrAppendFormat(&text, "\n%-10s %.1f/s answered, %.1f/s of prompts read\n", "tokens",
                        double(completion_tokens_) / seconds_, double(prompt_tokens_) / seconds_);
  if (drafted_ > 0) {
    absl::StrAppendFormat(&text, "%-10s %d of %d accepted (%.1f %%)\n", "drafts", accepted_,
                          drafted_, 100 * double(accepted_) / double(drafted_));
  } else {
    absl::StrAppendFormat(&text, "%-10s none\n", "drafts");
  }
  for (const auto& [code, problem] : problems_)
    absl::StrAppendFormat(&text, "%-10s %d %s: %s\n", "failed", codes_.at(code), code, problem);
  return text;
}

std::string BenchReport::Json() const {
  nlohmann::ordered_json line;
  for (const auto& [name, row] : rows_) {
    line[absl::StrCat(name, "_ms")] = {{"mean", row.mean}, {"p50", row.p50},  {"p90", row.p90},
                                       {"p99", row.p99},   {"max", row.most}, {"count", row.count}};
  }
  line["seconds"] = seconds_;
  line["requests"] = requests_;
  line["requests_per_second"] = double(requests_) / seconds_;
  line["goodput_per_second"] = double(good_) / seconds_;
  line["prompt_tokens"] = prompt_tokens_;
  line["completion_tokens"] = completion_tokens_;
  line["tokens_per_second"] = double(completion_tokens_) / seconds_;
  line["drafted"] = drafted_;
  line["accepted"] = accepted_;
  line["acceptance_rate"] = drafted_ > 0 ? double(accepted_) / double(drafted_) : 0;
  line["codes"] = codes_;
  if (!problems_.empty()) line["problems"] = problems_;
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace mambad::cli
