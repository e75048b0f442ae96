// What people and routers read of the engine's speed: tokens of the last seconds, by the times that
// are told: no clock inside, nothing allocated, copied freely. Told by the engine thread.

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

}  // namespace mambad

#endif  // MAMBAD_ENGINE_SERVICE_RATES_H_
