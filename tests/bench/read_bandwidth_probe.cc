#include "tests/bench/read_bandwidth_probe.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>

#include "kernels/cpu/memory.h"

namespace mambad::bench {
namespace {

using Words = uint64_t __attribute__((vector_size(32), may_alias));

constexpr size_t kStretch = size_t{8} << 20;

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

ReadBandwidthProbe::ReadBandwidthProbe(kernels::ThreadPool& pool, size_t bytes)
    : pool_(pool), memory_(kernels::AllocateMemory(bytes)), best_(bytes / kStretch, 1e9) {
  pool_.Split(static_cast<int64_t>(bytes), 4096, [this](int64_t begin, int64_t end, int) {
    std::memset(memory_.as<char>() + begin, 1, end - begin);
  });
}

void ReadBandwidthProbe::Measure() {
  static std::atomic<uint64_t> sink{0};  // keeps the reads
  for (size_t stretch = 0; stretch < best_.size(); ++stretch) {
    const char* data = memory_.as<const char>() + stretch * kStretch;
    const auto start = std::chrono::steady_clock::now();
    pool_.Split(kStretch, 4096, [data](int64_t begin, int64_t end, int) {
      sink.fetch_add(SumOf(data + begin, end - begin), std::memory_order_relaxed);
    });
    best_[stretch] =
        std::min(best_[stretch],
                 std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
}

double ReadBandwidthProbe::BestBytesPerSecond() const {
  double seconds = 0;
  for (double best : best_) seconds += best;
  return best_.size() * kStretch / seconds;
}

}  // namespace mambad::bench
