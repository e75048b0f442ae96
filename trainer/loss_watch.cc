#include "trainer/loss_watch.h"

#include <algorithm>

namespace mambad::trainer {

void LossWatch::Add(double loss, double factor, double negligible) {
  constexpr double kWeight = 0.3;
  const bool first = losses == 0;
  const bool is_high = !first && factor > 0 && loss > factor * std::max(lowest_level, negligible);
  high_in_a_row = is_high ? high_in_a_row + 1 : 0;
  level = first ? loss : level + kWeight * (loss - level);
  lowest_level = first ? level : std::min(lowest_level, level);
  ++losses;
}

}  // namespace mambad::trainer
