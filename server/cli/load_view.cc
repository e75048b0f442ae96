#include "server/cli/load_view.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/cli/terminal_text.h"

namespace mambad::cli {
namespace {

constexpr const char* kBars[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
constexpr int kHighest = 8;

double Share(int64_t used, int64_t total) {
  return total > 0 ? static_cast<double>(used) / static_cast<double>(total) : 0;
}

std::string WaitText(const v1::GetLoadResponse& load) {
  return ShortSeconds(static_cast<double>(load.estimated_wait_us()) * 1e-6);
}

// The wire says 0 for no drafts and for none accepted.
std::string AcceptanceText(const v1::GetLoadResponse& load) {
  if (!load.speculation_enabled()) return "off";
  return load.acceptance_rate() > 0 ? absl::StrFormat("%.2f", load.acceptance_rate()) : "-";
}

}  // namespace

std::string Bars(const std::deque<double>& values, double full) {
  if (full <= 0) {
    for (const double value : values) full = std::max(full, value);
  }
  std::string text;
  for (const double value : values) {
    const double share = full > 0 ? std::clamp(value / full, 0.0, 1.0) : 0;
    // What is not nothing is seen.
    text += kBars[static_cast<int>(std::ceil(share * kHighest))];
  }
  return text;
}

void LoadView::Add(const v1::GetLoadResponse& load) {
  loads_.push_back(load);
  if (loads_.size() > columns_) loads_.pop_front();
}

std::string LoadView::Row(const char* name, double now, const std::string& value,
                          double (*of)(const v1::GetLoadResponse&), double full) const {
  std::deque<double> course;
  for (const v1::GetLoadResponse& load : loads_) course.push_back(of(load));
  std::string row = absl::StrFormat("%-11s %-26s ", name, value);
  if (full > 0) absl::StrAppendFormat(&row, "%3.0f%% ", 100 * std::min(now / full, 1.0));
  if (full <= 0) row += "     ";
  return absl::StrCat(row, "|", Bars(course, full), std::string(columns_ - loads_.size(), ' '),
                      "|\n");
}

std::string LoadView::Text(const std::string& title) const {
  std::string text = absl::StrCat(title, "\n\n");
  if (loads_.empty()) return text;
  const v1::GetLoadResponse& load = loads_.back();
  const auto slots = [](const v1::GetLoadResponse& of) {
    return Share(of.slots_used(), of.slots_total());
  };
  const auto pages = [](const v1::GetLoadResponse& of) {
    return Share(of.pages_used(), of.pages_total());
  };
  absl::StrAppend(
      &text, load.draining() ? "draining: takes no new requests\n" : "",
      Row(
          "tokens/s", 0, absl::StrFormat("%.1f", load.tokens_per_second()),
          [](const v1::GetLoadResponse& of) { return of.tokens_per_second(); }, 0),
      Row(
          "acceptance", load.acceptance_rate(), AcceptanceText(load),
          [](const v1::GetLoadResponse& of) { return of.acceptance_rate(); }, 1),
      Row(
          "running", 0, absl::StrCat(load.running(), " requests"),
          [](const v1::GetLoadResponse& of) { return double(of.running()); }, 0),
      Row(
          "waiting", 0,
          absl::StrCat(load.waiting(), " requests, ", ShortCount(load.waiting_tokens()), " tokens"),
          [](const v1::GetLoadResponse& of) { return double(of.waiting()); }, 0),
      Row("slots", slots(load), absl::StrCat(load.slots_used(), " of ", load.slots_total()), slots,
          1));
  if (load.pages_total() > 0) {
    absl::StrAppend(&text,
                    Row("pages", pages(load),
                        absl::StrCat(load.pages_used(), " of ", load.pages_total()), pages, 1));
  }
  absl::StrAppend(&text, "\n", ShortBytes(load.state_bytes()),
                  " of state in use; a new request would wait for about ", WaitText(load), "\n");
  return text;
}

std::string LoadLine(const v1::GetLoadResponse& load) {
  return absl::StrFormat(
      "%s tokens/s %.1f, acceptance %s, running %d, waiting %d, slots %d of %d, wait %s",
      load.draining() ? "draining:" : "serving:", load.tokens_per_second(), AcceptanceText(load),
      load.running(), load.waiting(), load.slots_used(), load.slots_total(), WaitText(load));
}

}  // namespace mambad::cli
