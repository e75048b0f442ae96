#include "kernels/cpu/memory.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace mambad::kernels {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

void Unmap(void* data, size_t bytes) { munmap(data, bytes); }
void Free(void* data, size_t) { std::free(data); }

}  // namespace

Buffer AllocateMemory(size_t bytes) {
  if (bytes == 0) bytes = 64;
  if (bytes < kHugePage) {
    const size_t rounded = (bytes + 63) / 64 * 64;
    void* data = std::aligned_alloc(64, rounded);
    if (data == nullptr) Fail("out of memory, bytes", {static_cast<int64_t>(bytes)});
    std::memset(data, 0, rounded);
    return Buffer(data, rounded, Free);
  }
  const size_t rounded = (bytes + kHugePage - 1) / kHugePage * kHugePage;
  void* data = mmap(nullptr, rounded, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (data == MAP_FAILED) Fail("out of memory, bytes", {static_cast<int64_t>(bytes)});
  madvise(data, rounded, MADV_HUGEPAGE);
  return Buffer(data, rounded, Unmap);
}

void Fail(const char* operation, std::initializer_list<int64_t> numbers) {
  std::fprintf(stderr, "mambad kernels: %s:", operation);
  for (int64_t number : numbers) std::fprintf(stderr, " %lld", static_cast<long long>(number));
  std::fprintf(stderr, "\n");
  std::abort();
}

}  // namespace mambad::kernels
