// Which instruction set the CPU kernels use.

#ifndef MAMBAD_KERNELS_CPU_INSTRUCTION_SET_H_
#define MAMBAD_KERNELS_CPU_INSTRUCTION_SET_H_

#include <vector>

namespace mambad::kernels {

// Ordered: a later one includes those before it. kBaseline is SSE4 or less on x86, and all there
// is elsewhere.
enum class InstructionSet { kBaseline, kAvx2, kAvx512, kAvx512Bfloat16, kAmxBfloat16 };
inline constexpr InstructionSet kHighestInstructionSet = InstructionSet::kAmxBfloat16;

const char* Name(InstructionSet set);
// Of the rules by which it computes: sets with one name give the same bits, where no activations
// are rounded.
const char* NumericsName(InstructionSet set);
// The same where activations are rounded.
const char* RoundedNumericsName(InstructionSet set);

// The sets that this machine, its operating system and this build can run, lowest first, but for
// those that would be slower than the ones before them. Not empty; not affected by
// LimitInstructionSet. The first call asks the system for the right to use matrix tiles.
std::vector<InstructionSet> AvailableInstructionSets();

// Lets kernels use nothing above `highest`, in the whole process; for tests and benchmarks. Call
// while no kernel runs. Results differ between sets in the last bits.
void LimitInstructionSet(InstructionSet highest);

// The best one that is available and allowed.
InstructionSet ActiveInstructionSet();

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_INSTRUCTION_SET_H_
