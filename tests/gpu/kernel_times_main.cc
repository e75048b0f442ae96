// The kernels between the products and behind the head, by themselves, on this machine's GPU.
//
//   kernel_times [--digests] [FILTER]    FILTER: only lines that contain it
//
// Times: microseconds a call inside a graph of calls on different memory, and the share of the copy
// rate of the same run. Digests: of everything that a call writes; two builds whose digests are
// equal give equal bits.

#include <cstring>
#include <string>

#include "tests/gpu/kernel_times.h"

int main(int argc, char** argv) {
  std::string filter;
  bool checks_only = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--digests") == 0) {
      checks_only = true;
    } else {
      filter = argv[i];
    }
  }
  mambad::gpu_check::KernelTimes times(filter, checks_only);
  mambad::gpu_check::TimeMamba(times);
  mambad::gpu_check::TimeMamba2(times);
  mambad::gpu_check::TimeAttention(times);
  mambad::gpu_check::TimeSampling(times);
}
