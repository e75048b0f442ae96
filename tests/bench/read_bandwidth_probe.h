// How fast this process can read memory: the yardstick of products that stream weights.

#ifndef MAMBAD_TESTS_BENCH_READ_BANDWIDTH_PROBE_H_
#define MAMBAD_TESTS_BENCH_READ_BANDWIDTH_PROBE_H_

#include <cstddef>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace mambad::bench {

struct Span {
  const char* data;
  size_t bytes;
};

// What a product with the matrix reads; the memory behind it may be larger.
inline Span SpanOf(const kernels::WeightMatrix& matrix) {
  return {matrix.packed.as<const char>(),
          static_cast<size_t>(matrix.rows * matrix.columns * kernels::ElementBytes(matrix.type))};
}

// Reads the very memory that the measured program reads: on shared machines one piece of memory can
// be twice as fast as another (it lies nearer), from process to process, so that a block of the
// probe's own says little about anybody else's. Plain sums, all threads of a pool, each its own
// contiguous half, third, ... of every span, no waiting in between.
class ReadBandwidthProbe {
 public:
  // The spans' memory must outlive the probe.
  ReadBandwidthProbe(kernels::ThreadPool& pool, std::vector<Span> spans);

  // Reads everything once.
  void Measure();

  double bytes() const { return bytes_; }

  // Of all calls of Measure so far.
  double BestSeconds() const { return seconds_; }
  double BestBytesPerSecond() const { return bytes_ / seconds_; }

 private:
  kernels::ThreadPool& pool_;
  const std::vector<Span> spans_;
  double bytes_ = 0, seconds_ = 1e9;
};

}  // namespace mambad::bench

#endif  // MAMBAD_TESTS_BENCH_READ_BANDWIDTH_PROBE_H_
