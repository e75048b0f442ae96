// Memory and dying words of the CPU backend.

#ifndef MAMBAD_KERNELS_CPU_MEMORY_H_
#define MAMBAD_KERNELS_CPU_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>

#include "kernels/buffer.h"

namespace mambad::kernels {

// Zeroed memory, aligned to 64 bytes, on huge pages where the system gives them: a processor
// prefetches no further than the end of a page, so that even small weights are read twice as fast
// there. Blocks from 4 KiB on take memory when they are first touched. Small blocks share
// regions, which return to the system with their last block. Any thread; throws std::bad_alloc when
// there is no more memory.
Buffer AllocateMemory(size_t bytes);

// As memcpy; what is large goes past the caches, into which it would not fit: memory is then
// written without being read first, which takes a third off the time.
void CopyMemory(void* to, const void* from, size_t bytes);

// AllocateMemory, or one that only counts.
using Allocate = std::function<Buffer(size_t bytes)>;

// A broken contract of an operation: names it with the numbers at hand and ends the process.
[[noreturn]] void Fail(const char* operation, std::initializer_list<int64_t> numbers);

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_MEMORY_H_
