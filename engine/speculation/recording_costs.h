// What a device takes to record rounds of shapes that it does not know
// (kernels::Backend::BeginRound): once a shape, and as long as many rounds of a small model.
// Nothing where nothing is recorded. Engine thread; deterministic, allocates nothing.

#ifndef MAMBAD_ENGINE_SPECULATION_RECORDING_COSTS_H_
#define MAMBAD_ENGINE_SPECULATION_RECORDING_COSTS_H_

#include <algorithm>
#include <bit>
#include <bitset>
#include <cstddef>

#include "engine/options.h"

namespace mambad {

class RecordingCosts {
 public:
  // A round that only decodes was run, with drafts of at most `longest` tokens, some of them
  // `by_model`; `seconds`: what it took to record it, 0 where it was known.
  void Observe(int sequences, int longest, bool by_model, double seconds) {
    Seen(sequences, longest, by_model) = true;
    if (!(seconds > 0)) return;
    if (!by_model) {
      round_ = seconds;
    } else if (longest > 0) {
      draft_ = std::max(0.0, seconds - round_) / longest;
      draft_measured_ = true;
    }
  }

  // What it will take, as far as is known; 0 for a shape that was run before.
  double Expected(int sequences, int longest, bool by_model) const {
    if (seen_[Index(sequences, longest, by_model)]) return 0;
    // A draft model is smaller than its target.
    const double draft = draft_measured_ ? draft_ : 0.5 * round_;
    return round_ + (by_model ? longest * draft : 0);
  }

 private:
  static constexpr int kBuckets = 16, kLengths = kMaxDraftLength + 1;

  // Rounds of different numbers of sequences are alike up to the next power of two.
  static size_t Index(int sequences, int longest, bool by_model) {
    const auto count = static_cast<unsigned>(std::max(sequences, 1) - 1);
    const int bucket = std::min<int>(std::bit_width(count), kBuckets - 1);
    const int length = std::clamp(longest, 0, kMaxDraftLength);
    return static_cast<size_t>((bucket * kLengths + length) * 2 + (by_model ? 1 : 0));
  }
  std::bitset<2 * kBuckets * kLengths>::reference Seen(int sequences, int longest, bool by_model) {
    return seen_[Index(sequences, longest, by_model)];
  }

  std::bitset<2 * kBuckets * kLengths> seen_;
  double round_ = 0, draft_ = 0;  // seconds of a round without a draft model; of each of its drafts
  bool draft_measured_ = false;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SPECULATION_RECORDING_COSTS_H_
