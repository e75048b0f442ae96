#include "trainer/stages/run_threads.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "trainer/stages/run_inputs.h"
#include "trainer/thread_choice.h"

namespace mambad::trainer {
namespace {

using at::Tensor;

// Long enough that programs which share the cores take their turns in it.
constexpr double kStretch = 0.02;  // seconds
// Some milliseconds' work of one core.
constexpr int64_t kMostMultiplyAdds = int64_t{1} << 28;
constexpr int64_t kFewestRows = 16;

Tensor LargestMatrix(const LanguageModel& model) {
  Tensor largest;
  for (const ModelParameter& parameter : model.parameters()) {
    if (parameter.description.layer < 0 || parameter.value.dim() != 2) continue;
    if (!largest.defined() || parameter.value.numel() > largest.numel()) largest = parameter.value;
  }
  return largest;
}

double SecondsOfProduct(const Tensor& input, const Tensor& matrix, int threads) {
  using Clock = std::chrono::steady_clock;
  at::set_num_threads(threads);
  at::mm(input, matrix.t());  // threads begin
  const Clock::time_point begin = Clock::now();
  int products = 0;
  double seconds = 0;
  while (seconds < kStretch) {
    at::mm(input, matrix.t());
    ++products;
    seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  return seconds / products;
}

std::vector<ThreadTime> Measure(const LanguageModel& model, int64_t rows, int most) {
  const at::NoGradGuard no_grad;
  const Tensor matrix = LargestMatrix(model);
  rows = std::min(rows, std::max(kFewestRows, kMostMultiplyAdds / matrix.numel()));
  const Tensor input = at::ones({rows, matrix.size(1)}, matrix.options());
  return TimeThreads(most, [&](int threads) { return SecondsOfProduct(input, matrix, threads); });
}

// The first process's number, in all.
int NumberOfFirst(const StageRun& run, int number) {
  return std::stoi(run.processes->FromFirst(absl::StrCat(number)));
}

// What the run had before, else the fastest, said.
int Choose(const StageRun& run, const LanguageModel& model, int64_t rows, int most) {
  int kept = 0;
  InFirstProcess(run, [&] { kept = KeptThreads(run); });
  kept = std::min(NumberOfFirst(run, kept), most);
  if (kept > 0) {
    Say(run, absl::StrCat(run.command, ": as many threads as before, ", kept,
                          "; threads: N sets the number"));
    return kept;
  }
  const std::vector<ThreadTime> times = Measure(model, rows, most);
  Say(run, absl::StrCat(run.command, ": ", ThreadChoiceWords(times)));
  return std::min(NumberOfFirst(run, FastestThreads(times)), most);
}

}  // namespace

void ChooseThreads(const StageRun& run, const LanguageModel& model, int64_t rows) {
  if (!run.device.is_cpu()) return;
  int threads = at::get_num_threads();
  if (!run.threads_are_set && NumberOfFirst(run, threads) > 1) {
    threads = Choose(run, model, rows, threads);
    at::set_num_threads(threads);
  }
  InFirstProcess(run, [&] { KeepThreads(run, threads); });
}

}  // namespace mambad::trainer
