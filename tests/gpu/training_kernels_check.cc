// Compares the CUDA training kernels with double on the machine's GPU, then times them.
//
//   training_kernels_check [--verbose] [--no-times] [--no-checks]
//
// Exit status 0: all right; 1: something differs; 2: no device, or the device met an error.

#include "tests/gpu/training_kernels_check.h"

#include <cstdio>
#include <cstring>

int main(int argc, char** argv) {
  using namespace mambad::gpu_check;  // NOLINT
  Report report;
  bool times = true, checks = true;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--verbose") == 0)
      report.verbose = true;
    else if (std::strcmp(argv[i], "--no-times") == 0)
      times = false;
    else if (std::strcmp(argv[i], "--no-checks") == 0)
      checks = false;
    else
      return std::fprintf(stderr, "unknown argument %s\n", argv[i]), 2;
  }
  if (checks) {
    CheckBlocks(&report);
    CheckScans(&report);
    CheckDivergence(&report);
  }
  std::printf("%d comparisons, %d wrong\n", report.checks(), report.failures());
  std::fflush(stdout);
  if (times) PrintTimes();
  return report.failures() == 0 ? 0 : 1;
}
