#include "tests/bench/read_bandwidth_probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <utility>

namespace mambad::bench {
namespace {

using Words = uint64_t __attribute__((vector_size(32), may_alias));

#if defined(__x86_64__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
uint64_t
SumOf(const char* data, size_t bytes) {
  Words a{}, b{}, c{}, d{};
  for (size_t i = 0; i + 128 <= bytes; i += 128) {
    const Words* at = reinterpret_cast<const Words*>(data + i);
    __builtin_prefetch(data + i + 2048);
    __builtin_prefetch(data + i + 2048 + 64);
    a += at[0];
    b += at[1];
    c += at[2];
    d += at[3];
  }
  const Words sum = (a + b) + (c + d);
  return sum[0] + sum[1] + sum[2] + sum[3];
}

}  // namespace

ReadBandwidthProbe::ReadBandwidthProbe(kernels::ThreadPool& pool, std::vector<Span> spans)
    : pool_(pool), spans_(std::move(spans)) {
  for (const Span& span : spans_) bytes_ += static_cast<double>(span.bytes);
}

void ReadBandwidthProbe::Measure() {
  static std::atomic<uint64_t> sink{0};  // keeps the reads
  const auto start = std::chrono::steady_clock::now();
  // Each thread's parts of every span, as products read their weights.
  const int64_t parts = 4 * int64_t{pool_.threads()};
  pool_.Split(parts, 1, [&](int64_t first, int64_t last, int) {
    uint64_t sum = 0;
    for (const Span& span : spans_) {
      const size_t begin = span.bytes * first / parts / 64 * 64;
      const size_t end = span.bytes * last / parts / 64 * 64;
      sum += SumOf(span.data + begin, end - begin);
    }
    sink.fetch_add(sum, std::memory_order_relaxed);
  });
  seconds_ = std::min(
      seconds_, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
}

}  // namespace mambad::bench
