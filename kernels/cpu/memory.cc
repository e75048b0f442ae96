#include "kernels/cpu/memory.h"

#include <sys/mman.h>
#if defined(__SSE2__)
#include <immintrin.h>
#endif

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <new>

namespace mambad::kernels {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kRegion = size_t{16} << 20;
constexpr size_t kSmallest = 4096;  // less comes from the C library
// A copy of less may well be read again while it is in a cache.
constexpr size_t kLargeCopy = size_t{256} << 10;

size_t RoundUp(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

// Zero pages at a multiple of `alignment`, itself one of huge pages.
char* Map(size_t bytes, size_t alignment) {
  const size_t reserved = bytes + alignment;
  void* data = mmap(nullptr, reserved, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) throw std::bad_alloc();
  char* const begin = static_cast<char*>(data);
  char* const aligned =
      reinterpret_cast<char*>(RoundUp(reinterpret_cast<uintptr_t>(begin), alignment));
  if (aligned != begin) munmap(begin, aligned - begin);
  munmap(aligned + bytes, begin + reserved - (aligned + bytes));
  madvise(aligned, bytes, MADV_HUGEPAGE);
  return aligned;
}

void Unmap(void* data, size_t bytes) { munmap(data, bytes); }
void Free(void* data, size_t) { std::free(data); }

// The head of a region of small blocks, which lies at a multiple of the region's size. Blocks are
// cut off one after another and never used again.
struct Region {
  std::atomic<int64_t> blocks;  // alive, and one while more may be cut off
  size_t used;
};

void ReleaseOne(Region* region) {
  if (region->blocks.fetch_sub(1, std::memory_order_acq_rel) == 1) munmap(region, kRegion);
}

void ReleaseBlock(void* data, size_t) {
  ReleaseOne(reinterpret_cast<Region*>(reinterpret_cast<uintptr_t>(data) / kRegion * kRegion));
}

Buffer CutBlock(size_t bytes) {
  static std::mutex mutex;
  static Region* open = nullptr;
  const std::lock_guard<std::mutex> lock(mutex);
  if (open == nullptr || open->used + bytes > kRegion) {
    if (open != nullptr) ReleaseOne(open);
    open = nullptr;
    open = new (Map(kRegion, kRegion)) Region{{1}, 64};
  }
  char* data = reinterpret_cast<char*>(open) + open->used;
  open->used += bytes;
  open->blocks.fetch_add(1, std::memory_order_relaxed);
  return Buffer(data, bytes, ReleaseBlock);
}

}  // namespace

Buffer AllocateMemory(size_t bytes) {
  bytes = RoundUp(bytes == 0 ? 1 : bytes, 64);
#if defined(__SANITIZE_ADDRESS__)
  const bool small = true;  // every block by itself, so that reads beyond it show
#else
  const bool small = bytes < kSmallest;
#endif
  if (small) {
    void* data = std::aligned_alloc(64, bytes);
    if (data == nullptr) throw std::bad_alloc();
    std::memset(data, 0, bytes);
    return Buffer(data, bytes, Free);
  }
  if (bytes <= kRegion / 4) return CutBlock(bytes);
  const size_t pages = RoundUp(bytes, kHugePage);
  return Buffer(Map(pages, kHugePage), pages, Unmap);
}

#if defined(__SSE2__)
void CopyMemory(void* to, const void* from, size_t bytes) {
  auto* out = static_cast<char*>(to);
  const auto* in = static_cast<const char*>(from);
  if (bytes >= kLargeCopy) {
    // Streams are written by whole lines of 64 bytes.
    const size_t before =
        RoundUp(reinterpret_cast<uintptr_t>(out), 64) - reinterpret_cast<uintptr_t>(out);
    std::memcpy(out, in, before);
    out += before, in += before, bytes -= before;
    for (; bytes >= 64; out += 64, in += 64, bytes -= 64) {
      __m128i line[4];
      for (int i = 0; i < 4; ++i)
        line[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in) + i);
      for (int i = 0; i < 4; ++i) _mm_stream_si128(reinterpret_cast<__m128i*>(out) + i, line[i]);
    }
    _mm_sfence();  // before others are told that it is there
  }
  std::memcpy(out, in, bytes);
}
#else
void CopyMemory(void* to, const void* from, size_t bytes) { std::memcpy(to, from, bytes); }
#endif

void Fail(const char* operation, std::initializer_list<int64_t> numbers) {
  std::fprintf(stderr, "mambad kernels: %s:", operation);
  for (int64_t number : numbers) std::fprintf(stderr, " %lld", static_cast<long long>(number));
  std::fprintf(stderr, "\n");
  std::abort();
}

}  // namespace mambad::kernels
