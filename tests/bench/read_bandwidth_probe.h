// How fast this process can read memory: the yardstick of products that stream weights.

#ifndef MAMBAD_TESTS_BENCH_READ_BANDWIDTH_PROBE_H_
#define MAMBAD_TESTS_BENCH_READ_BANDWIDTH_PROBE_H_

#include <cstddef>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/cpu/thread_pool.h"

namespace mambad::bench {

// Reads a block of its own, far larger than the caches, with all threads of a pool: plain sums,
// each thread its own contiguous part of a stretch.
class ReadBandwidthProbe {
 public:
  ReadBandwidthProbe(kernels::ThreadPool& pool, size_t bytes);

  // Reads the block once and keeps the best time of each stretch.
  void Measure();

  // Of all calls of Measure so far.
  double BestBytesPerSecond() const;

 private:
  kernels::ThreadPool& pool_;
  kernels::Buffer memory_;
  std::vector<double> best_;  // seconds of each stretch
};

}  // namespace mambad::bench

#endif  // MAMBAD_TESTS_BENCH_READ_BANDWIDTH_PROBE_H_
