// What the vector units can do: the yardstick of arithmetic.

#ifndef MAMBAD_TESTS_BENCH_MULTIPLY_ADD_RATE_H_
#define MAMBAD_TESTS_BENCH_MULTIPLY_ADD_RATE_H_

#include "kernels/cpu/thread_pool.h"

namespace mambad::bench {

// Float32 fused multiply-adds a second, all threads of the pool together, on the active instruction
// set; best of several short loops over registers.
double MultiplyAddRate(kernels::ThreadPool& pool);

}  // namespace mambad::bench

#endif  // MAMBAD_TESTS_BENCH_MULTIPLY_ADD_RATE_H_
