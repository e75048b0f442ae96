// Tells a loss that has risen and stays up from one that is noisy.

#ifndef MAMBAD_TRAINER_LOSS_WATCH_H_
#define MAMBAD_TRAINER_LOSS_WATCH_H_

#include <cstdint>

namespace mambad::trainer {

// A loss is high when it is `factor` times the lowest level that the run had come to. The level is
// a running mean of the losses told (the newest weighs 0.3), so that one lucky batch sets no mark;
// below `negligible` it counts as that much. Plain numbers: saved with the state of a run.
struct LossWatch {
  int64_t losses = 0;  // told so far
  double level = 0, lowest_level = 0;
  int64_t high_in_a_row = 0;

  // The next loss that is told, a finite number. `factor` 0: none is high.
  void Add(double loss, double factor, double negligible);
  bool high() const { return high_in_a_row > 0; }
  bool diverged() const { return high_in_a_row >= 3; }
  bool operator==(const LossWatch&) const = default;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_LOSS_WATCH_H_
