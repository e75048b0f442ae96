#include "server/cli/bench/bench_report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace mambad::cli {
namespace {

constexpr char kRefused[] = "refused";

double Share(int64_t part, int64_t whole) {
  return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 0;
}

}  // namespace

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

double BenchReport::Row::At(double share) const {
  return times.empty() ? 0 : Percentile(times, share);
}

void BenchReport::AddRow(const char* key, const char* name, std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  for (double& time : seconds) time *= 1e3;
  Row& row = rows_.emplace_back(Row{key, name, std::move(seconds)});
  if (row.times.empty()) return;
  row.mean = std::accumulate(row.times.begin(), row.times.end(), 0.0) /
             static_cast<double>(row.times.size());
}

BenchReport::BenchReport(std::vector<BenchSample> samples, double seconds, const BenchGoals& goals)
    : seconds_(seconds), requests_(static_cast<int64_t>(samples.size())) {
  std::vector<double> first_token, next_first_token, between, per_token, end_to_end, refused;
  has_goals_ = goals.first_token || goals.per_token || goals.end_to_end;
  for (const BenchSample& sample : samples) {
    Count(sample, goals);
    CountRefusals(sample, &refused);
    if (sample.code != "OK") continue;
    first_token.push_back(sample.first_token);
    if (sample.goes_on) next_first_token.push_back(sample.first_token);
    end_to_end.push_back(sample.end_to_end);
    between.insert(between.end(), sample.between.begin(), sample.between.end());
    if (const std::optional<double> each = sample.per_token()) per_token.push_back(*each);
  }
  AddRow("ttft", "first token (TTFT)", std::move(first_token));
  if (!next_first_token.empty())
    AddRow("ttft_further_turns", "  of further turns", std::move(next_first_token));
  AddRow("itl", "between messages (ITL)", std::move(between));
  AddRow("tpot", "each further token (TPOT)", std::move(per_token));
  AddRow("e2e", "whole answer", std::move(end_to_end));
  if (!refused.empty()) AddRow(kRefused, "until refused", std::move(refused));
}

void BenchReport::Count(const BenchSample& sample, const BenchGoals& goals) {
  ++codes_[sample.code];
  if (sample.code != "OK") {
    problems_.emplace(sample.code, sample.problem);
    return;
  }
  prompt_tokens_ += sample.prompt_tokens;
  cached_tokens_ += sample.cached_tokens;
  completion_tokens_ += sample.completion_tokens;
  drafted_ += sample.drafted;
  accepted_ += sample.accepted;
  good_ += sample.first_token <= goals.first_token.value_or(HUGE_VAL) &&
           sample.per_token().value_or(0) <= goals.per_token.value_or(HUGE_VAL) &&
           sample.end_to_end <= goals.end_to_end.value_or(HUGE_VAL);
}

void BenchReport::CountRefusals(const BenchSample& sample, std::vector<double>* answered) {
  for (const Refusal& refusal : sample.refusals) {
    ++refusals_;
    answered->push_back(refusal.answered);
    if (!refusal.hint || !refusal.waited) continue;
    ++hints_;
    right_hints_ += *refusal.waited <= 2 * *refusal.hint && *refusal.waited >= *refusal.hint / 2;
  }
}

std::string BenchReport::Table() const {
  std::string text = absl::StrFormat("%-26s %10s %10s %10s %10s %10s %8s\n", "milliseconds", "mean",
                                     "p50", "p90", "p99", "max", "count");
  for (const Row& row : rows_) {
    if (row.times.empty()) {
      absl::StrAppendFormat(&text, "%-26s %10s %10s %10s %10s %10s %8d\n", row.name, "-", "-", "-",
                            "-", "-", 0);
      continue;
    }
    absl::StrAppendFormat(&text, "%-26s %10.2f %10.2f %10.2f %10.2f %10.2f %8d\n", row.name,
                          row.mean, row.At(0.5), row.At(0.9), row.At(0.99), row.times.back(),
                          row.times.size());
  }
  return text + "\n" + Rates() + Refusals();
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
  absl::StrAppendFormat(&text, "\n%-10s %.1f/s answered, %.1f/s of prompts taken in", "tokens",
                        double(completion_tokens_) / seconds_, double(prompt_tokens_) / seconds_);
  if (cached_tokens_ > 0) {
    absl::StrAppendFormat(&text, ", %.1f %% of these from states at hand",
                          100 * Share(cached_tokens_, prompt_tokens_));
  }
  if (drafted_ > 0) {
    absl::StrAppendFormat(&text, "\n%-10s %d of %d accepted (%.1f %%)\n", "drafts", accepted_,
                          drafted_, 100 * Share(accepted_, drafted_));
  } else {
    absl::StrAppendFormat(&text, "\n%-10s none\n", "drafts");
  }
  for (const auto& [code, problem] : problems_)
    absl::StrAppendFormat(&text, "%-10s %d %s: %s\n", "failed", codes_.at(code), code, problem);
  return text;
}

std::string BenchReport::Refusals() const {
  if (refusals_ == 0) return "";
  std::string text = absl::StrFormat("%-10s %d times for want of room", kRefused, refusals_);
  if (hints_ > 0) {
    absl::StrAppendFormat(&text, "; of %d that came back, %.1f %% were let in as told (factor 2)",
                          hints_, 100 * Share(right_hints_, hints_));
  }
  return text + "\n";
}

std::string BenchReport::Json() const {
  nlohmann::ordered_json line;
  for (const Row& row : rows_) {
    line[absl::StrCat(row.key, "_ms")] = {{"mean", row.mean},   {"p50", row.At(0.5)},
                                          {"p90", row.At(0.9)}, {"p99", row.At(0.99)},
                                          {"max", row.At(1)},   {"count", row.times.size()}};
  }
  const auto found = codes_.find("OK");
  const int64_t done = found == codes_.end() ? 0 : found->second;
  line["seconds"] = seconds_;
  line["requests"] = requests_;
  line["requests_per_second"] = double(done) / seconds_;
  line["goodput_per_second"] = double(good_) / seconds_;
  line["prompt_tokens"] = prompt_tokens_;
  line["cached_tokens"] = cached_tokens_;
  line["completion_tokens"] = completion_tokens_;
  line["tokens_per_second"] = double(completion_tokens_) / seconds_;
  line["drafted"] = drafted_;
  line["accepted"] = accepted_;
  line["acceptance_rate"] = Share(accepted_, drafted_);
  line["refusals"] = refusals_;
  line["hints"] = hints_;
  line["hints_within_factor_2"] = right_hints_;
  line["codes"] = codes_;
  if (!problems_.empty()) line["problems"] = problems_;
  return line.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

std::vector<LatencyCurve> BenchReport::Curves() const {
  std::vector<LatencyCurve> curves;
  for (const Row& row : rows_) {
    if (!row.times.empty()) curves.push_back({row.name, row.times});
  }
  return curves;
}

}  // namespace mambad::cli
