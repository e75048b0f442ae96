// What people and routers read of the engine's speed: tokens of the last seconds, and how often
// requests end. Both are functions of the times they are told: no clock inside, nothing allocated,
// copied freely. Told by the engine thread.

#ifndef MAMBAD_ENGINE_SERVICE_RATES_H_
#define MAMBAD_ENGINE_SERVICE_RATES_H_

#include <array>
#include <cstdint>

#include "absl/time/time.h"

namespace mambad {

// Counts of about the last ten seconds, in buckets of one. They fall to nothing by themselves:
// whoever reads says what time it is.
class RecentRates {
 public:
  void Add(absl::Time now, int64_t generated, int64_t drafted, int64_t accepted);

  double TokensPerSecond(absl::Time now) const;
  double AcceptanceRate(absl::Time now) const;  // accepted / drafted; 0 without drafts

 private:
  static constexpr int kSeconds = 10;
  struct Bucket {
    int64_t second = -1;  // since the epoch; -1: never used
    int64_t generated = 0, drafted = 0, accepted = 0;
  };
  Bucket Sum(absl::Time now) const;

  std::array<Bucket, kSeconds> buckets_ = {};
  absl::Time begun_ = absl::InfiniteFuture();  // of the first count ever
};

// The mean time between two ends of requests while there were any: what one place in the queue is
// worth. Time without requests does not count.
class FinishPace {
 public:
  // At `now` `finished` requests have ended since the last call, and the engine has others (or has
  // not: `busy`).
  void Observe(absl::Time now, int64_t finished, bool busy);

  // One second as long as no request has ended.
  absl::Duration interval() const { return interval_; }

 private:
  absl::Time last_ = absl::InfinitePast();
  bool busy_ = false, known_ = false;
  absl::Duration waited_ = absl::ZeroDuration();  // busy time since the last end
  absl::Duration interval_ = absl::Seconds(1);
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SERVICE_RATES_H_
