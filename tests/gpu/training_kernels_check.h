// The parts of the program training_kernels_check.

#ifndef MAMBAD_TESTS_GPU_TRAINING_KERNELS_CHECK_H_
#define MAMBAD_TESTS_GPU_TRAINING_KERNELS_CHECK_H_

#include "tests/gpu/device_array.h"

namespace mambad::gpu_check {

// Each compares a family of kernels with double on small problems of many shapes.
void CheckBlocks(Report* report);
void CheckScans(Report* report);
void CheckDivergence(Report* report);

// Prints times at the sizes of one training step beside a device-to-device copy.
void PrintTimes();

}  // namespace mambad::gpu_check

#endif  // MAMBAD_TESTS_GPU_TRAINING_KERNELS_CHECK_H_
