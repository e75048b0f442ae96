// The gate of a gated MLP.

#ifndef MAMBAD_KERNELS_CPU_GATE_H_
#define MAMBAD_KERNELS_CPU_GATE_H_

#include <cstdint>

namespace mambad::kernels {

// y = SiLU(gate) * up, `count` numbers each; y may be gate or up. A number's result does not
// depend on its place.
void SiluGate(const float* gate, const float* up, int64_t count, float* y);

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_GATE_H_
