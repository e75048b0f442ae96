#include "trainer/thread_choice.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace mambad::trainer {
namespace {

// Odd: the median is one of them.
constexpr int kRounds = 5;

}  // namespace

std::vector<ThreadTime> TimeThreads(int most, const std::function<double(int threads)>& stretch) {
  std::vector<int> counts;
  for (int count = 1; count < most; count *= 2) counts.push_back(count);
  counts.push_back(most);
  std::vector<std::vector<double>> seconds(counts.size());
  for (int round = 0; round < kRounds; ++round) {
    for (size_t i = 0; i < counts.size(); ++i) seconds[i].push_back(stretch(counts[i]));
  }
  std::vector<ThreadTime> times;
  for (size_t i = 0; i < counts.size(); ++i) {
    std::sort(seconds[i].begin(), seconds[i].end());
    times.push_back({counts[i], seconds[i][kRounds / 2]});
  }
  return times;
}

int FastestThreads(const std::vector<ThreadTime>& times) {
  const auto faster = [](const ThreadTime& one, const ThreadTime& other) {
    return one.seconds < other.seconds;
  };
  return std::min_element(times.begin(), times.end(), faster)->threads;
}

std::string ThreadChoiceWords(const std::vector<ThreadTime>& times) {
  const int chosen = FastestThreads(times);
  const auto add = [](std::string* out, const ThreadTime& time) {
    absl::StrAppendFormat(out, "%.3g ms with %d", time.seconds * 1e3, time.threads);
  };
  return absl::StrFormat(
      "%d %s, the fastest as measured at the start, whatever runs beside later (a product takes "
      "%s); threads: N sets the number",
      chosen, chosen == 1 ? "thread" : "threads", absl::StrJoin(times, ", ", add));
}

}  // namespace mambad::trainer
