#include "kernels/cpu/instruction_set.h"

#include <algorithm>
#include <atomic>

#include "hwy/targets.h"
#include "kernels/cpu/linear_kernel.h"

namespace mambad::kernels {
namespace {

std::atomic<InstructionSet> highest_allowed{InstructionSet::kAvx512Bfloat16};

// The compiler's check includes the operating system's saving of the registers.
bool HasAvx512Bfloat16() {
#if HWY_ARCH_X86
  if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq")) {
    return false;
  }
  LinearKernels kernels;
  return AddAvx512Bfloat16Kernels(&kernels);
#else
  return false;
#endif
}

}  // namespace

const char* Name(InstructionSet set) {
  switch (set) {
    case InstructionSet::kBaseline:
      break;
    case InstructionSet::kAvx2:
      return "AVX2";
    case InstructionSet::kAvx512:
      return "AVX-512";
    case InstructionSet::kAvx512Bfloat16:
      return "AVX-512 BF16";
  }
  return "baseline";
}

const char* NumericsName(InstructionSet set) {
  switch (set) {
    case InstructionSet::kBaseline:
      break;
    case InstructionSet::kAvx2:
      return "avx2";
    case InstructionSet::kAvx512:
    case InstructionSet::kAvx512Bfloat16:
      return "avx512";
  }
#if HWY_ARCH_X86
  return "sse4";
#else
  return "baseline";
#endif
}

std::vector<InstructionSet> AvailableInstructionSets() {
  std::vector<InstructionSet> sets = {InstructionSet::kBaseline};
#if HWY_ARCH_X86
  static const int64_t supported = hwy::SupportedTargets();  // before anything is disabled
  if (supported & HWY_AVX2) sets.push_back(InstructionSet::kAvx2);
  if (supported & HWY_AVX3) sets.push_back(InstructionSet::kAvx512);
  if ((supported & HWY_AVX3) && HasAvx512Bfloat16())
    sets.push_back(InstructionSet::kAvx512Bfloat16);
#endif
  return sets;
}

void LimitInstructionSet(InstructionSet highest) {
  AvailableInstructionSets();  // remembers what there is
  highest_allowed.store(highest);
#if HWY_ARCH_X86
  int64_t disabled = 0;
  if (highest < InstructionSet::kAvx512) disabled |= HWY_AVX3 | (HWY_AVX3 - 1);
  if (highest < InstructionSet::kAvx2) disabled |= HWY_AVX2;
  hwy::DisableTargets(disabled);
#endif
}

InstructionSet ActiveInstructionSet() {
  static const InstructionSet best = AvailableInstructionSets().back();
  return std::min(best, highest_allowed.load(std::memory_order_relaxed));
}

}  // namespace mambad::kernels
