#include "kernels/cpu/thread_choice.h"

#include <algorithm>
#include <bit>

namespace mambad::kernels {
namespace {

// Long enough that processes which share the cores take their turns in it.
constexpr double kStretch = 0.02;  // seconds
constexpr int kFewestPasses = 2;   // in a stretch, unless it is a trial
// A trial that goes so much worse than the best ends at once.
constexpr double kHopeless = 2;
// What another number must save to be worth a change.
constexpr double kGain = 0.03;
// Between trials: so long at first and after each change, and twice as long after each trial that
// brought nothing. A trial, a stretch itself, must not cost slow passes more than fast ones.
constexpr int kFirstPause = 5, kLongestPause = 400;  // stretches
// Costs that are so many times off, in so many stretches after each other: what was learnt may hold
// no more.
constexpr double kChanged = 1.4;
constexpr int kStrange = 3;
// Of one stretch in the best one's cost.
constexpr double kWeight = 0.3;

// Passes of up to so many rows are told apart by each row, larger ones by powers of two.
constexpr int64_t kFewRows = 4;
constexpr size_t kSizes = kFewRows + 16;

}  // namespace

ThreadChoice::ThreadChoice(int most) : pause_(kFirstPause) {
  for (int count = 1; count < most; count *= 2) counts_.push_back(count);
  counts_.push_back(std::max(1, most));
  best_ = now_ = static_cast<int>(counts_.size()) - 1;
}

void ThreadChoice::Observe(double seconds, int64_t rows) {
  if (counts_.size() == 1 || !(seconds > 0) || rows <= 0) return;
  stretch_.seconds += seconds;
  stretch_.rows += static_cast<double>(rows);
  ++stretch_.passes;
  if (now_ == best_ && stretch_.passes < kFewestPasses) return;
  const bool hopeless =
      now_ != best_ && stretch_.seconds > kStretch / 4 && stretch_.Cost() > kHopeless * best_cost_;
  if (stretch_.seconds >= kStretch || hopeless) EndStretch();
}

void ThreadChoice::EndStretch() {
  const double cost = stretch_.Cost();
  stretch_ = Stretch();
  if (now_ != best_) return EndTrial(cost);
  const bool known = best_cost_ > 0;
  const bool strange = known && (cost > kChanged * best_cost_ || cost * kChanged < best_cost_);
  strange_ = strange ? strange_ + 1 : 0;
  if (strange_ >= kStrange) pause_ = kFirstPause;
  best_cost_ = known ? best_cost_ + kWeight * (cost - best_cost_) : cost;
  if (++quiet_ >= pause_) BeginTrial();
}

void ThreadChoice::BeginTrial() {
  quiet_ = 0;
  const int last = static_cast<int>(counts_.size()) - 1;
  if (best_ + step_ < 0 || best_ + step_ > last) step_ = -step_;
  now_ = best_ + step_;
}

void ThreadChoice::EndTrial(double cost) {
  if (cost < (1 - kGain) * best_cost_) {
    best_ = now_;  // and further the same way next time
    best_cost_ = cost;
    pause_ = kFirstPause;
    return;
  }
  now_ = best_;
  step_ = -step_;
  pause_ = std::min(2 * pause_, kLongestPause);
}

ThreadChoices::ThreadChoices(int most) : choices_(kSizes, ThreadChoice(most)) {}

ThreadChoice& ThreadChoices::ForRows(int64_t rows) {
  if (rows <= kFewRows) return choices_[static_cast<size_t>(std::max<int64_t>(1, rows) - 1)];
  const auto size = kFewRows - 3 + std::bit_width(static_cast<uint64_t>(rows - 1));
  return choices_[std::min(static_cast<size_t>(size), kSizes - 1)];
}

}  // namespace mambad::kernels
