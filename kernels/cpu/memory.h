// Memory and dying words of the CPU backend.

#ifndef MAMBAD_KERNELS_CPU_MEMORY_H_
#define MAMBAD_KERNELS_CPU_MEMORY_H_

#include <cstddef>
#include <cstdint>
#include <initializer_list>

#include "kernels/buffer.h"

namespace mambad::kernels {

// Zeroed, aligned to 64 bytes; large blocks to 2 MiB with a request for huge pages. Pages are touched first by their user.
Buffer AllocateMemory(size_t bytes);

// A broken contract of an operation: names it with the numbers at hand and ends the process.
[[noreturn]] void Fail(const char* operation, std::initializer_list<int64_t> numbers);

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_MEMORY_H_
