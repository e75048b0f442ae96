// IEEE 754 half precision.

#ifndef MAMBAD_TRAINER_FORMATS_HALF_FLOAT_H_
#define MAMBAD_TRAINER_FORMATS_HALF_FLOAT_H_

#include <cstdint>

namespace mambad::trainer {

// To nearest even; beyond 65504 infinity, NaN stays NaN.
uint16_t RoundToFloat16(float value);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_FORMATS_HALF_FLOAT_H_
