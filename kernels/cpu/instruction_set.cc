#include "kernels/cpu/instruction_set.h"

#include <algorithm>
#include <atomic>

#include "hwy/targets.h"
#include "kernels/cpu/linear_kernel.h"

#if HWY_ARCH_X86
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace mambad::kernels {
namespace {

std::atomic<InstructionSet> highest_allowed{kHighestInstructionSet};

#if HWY_ARCH_X86
// The compiler's check includes the operating system's saving of the registers.
bool HasAvx512Bfloat16() {
  if (!__builtin_cpu_supports("avx512bf16") || !__builtin_cpu_supports("avx512vl") ||
      !__builtin_cpu_supports("avx512bw") || !__builtin_cpu_supports("avx512dq")) {
    return false;
  }
  LinearKernels kernels;
  return AddAvx512Bfloat16Kernels(&kernels);
}

// Linux gives the tiles' registers to processes that ask for them (arch_prctl(2)).
bool MayUseTiles() {
#if defined(SYS_arch_prctl)
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // NOLINT(runtime/int): syscall's
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

bool HasAmxBfloat16() {
  constexpr unsigned kBfloat16 = 1u << 22, kTiles = 1u << 24;
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & kBfloat16) || !(d & kTiles)) return false;
  LinearKernels kernels;
  return AddAmxBfloat16Kernels(&kernels) && MayUseTiles();
}

// Intel's dot products of bf16 pairs take twice the time of the fused multiply-adds in their place.
bool HasFastPairs() { return !__builtin_cpu_is("intel"); }
#endif

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
    case InstructionSet::kAmxBfloat16:
      return "AMX BF16";
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
    case InstructionSet::kAmxBfloat16:
      return "avx512";
  }
#if HWY_ARCH_X86
  return "sse4";
#else
  return "baseline";
#endif
}

const char* RoundedNumericsName(InstructionSet set) {
  return set == InstructionSet::kAmxBfloat16 ? "amx" : NumericsName(set);
}

std::vector<InstructionSet> AvailableInstructionSets() {
  std::vector<InstructionSet> sets = {InstructionSet::kBaseline};
#if HWY_ARCH_X86
  static const int64_t supported = hwy::SupportedTargets();  // before anything is disabled
  if (supported & HWY_AVX2) sets.push_back(InstructionSet::kAvx2);
  if (supported & HWY_AVX3) sets.push_back(InstructionSet::kAvx512);
  static const bool pairs = (supported & HWY_AVX3) && HasAvx512Bfloat16();
  static const bool tiles = pairs && HasAmxBfloat16();
  if (pairs && (tiles || HasFastPairs())) sets.push_back(InstructionSet::kAvx512Bfloat16);
  if (tiles) sets.push_back(InstructionSet::kAmxBfloat16);
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
