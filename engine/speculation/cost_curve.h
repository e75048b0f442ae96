// What a step costs as a function of how large it is, learned from measurements.

#ifndef MAMBAD_ENGINE_SPECULATION_COST_CURVE_H_
#define MAMBAD_ENGINE_SPECULATION_COST_CURVE_H_

#include <array>
#include <cstdint>

namespace mambad {

// Seconds as a function of a size (rows, sequences): decayed, leaning to the low side because noise
// only adds; linear between measured sizes. Measurements not renewed for long are forgotten.
class CostCurve {
 public:
  void Add(int size, double seconds, int64_t now);
  bool measured() const { return measured_; }
  // 0 when nothing was measured. Worked out once a size and step.
  double At(int size, int64_t now) const;
  // Whether a size within a quarter of this one was measured in the last `steps` steps.
  bool Fresh(int size, int64_t steps, int64_t now) const;

 private:
  struct Cell {
    double seconds = 0;
    int64_t updated = -1;
    int count = 0;
    int size = 0;  // of the latest measurement; buckets above 64 span several
  };
  static constexpr int kExact = 64, kCells = kExact + 64;
  static constexpr int kKnown = 1024;
  static int Index(int size);
  double WorkedOut(int size, int64_t now) const;

  std::array<Cell, kCells> cells_ = {};
  bool measured_ = false;
  // What At said of sizes below kKnown, where `asked` is `question_`.
  struct Known {
    double seconds = 0;
    int64_t asked = -1;
  };
  mutable std::array<Known, kKnown> known_ = {};
  mutable int64_t question_ = 0, question_now_ = -1;  // another after each Add and for each `now`
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SPECULATION_COST_CURVE_H_
