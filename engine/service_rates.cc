#include "engine/service_rates.h"

#include <algorithm>

namespace mambad {

void RecentRates::Add(absl::Time now, int64_t generated, int64_t drafted, int64_t accepted) {
  const int64_t second = absl::ToUnixSeconds(now);
  if (second < 0) return;  // no clock reads that
  Bucket& bucket = buckets_[second % kSeconds];
  if (bucket.second != second) bucket = {second, 0, 0, 0};
  bucket.generated += generated;
  bucket.drafted += drafted;
  bucket.accepted += accepted;
  begun_ = std::min(begun_, now);
}

RecentRates::Bucket RecentRates::Sum(absl::Time now) const {
  const int64_t second = absl::ToUnixSeconds(now);
  Bucket sum;
  for (const Bucket& bucket : buckets_) {
    if (bucket.second < 0 || bucket.second > second || bucket.second <= second - kSeconds) continue;
    sum.generated += bucket.generated;
    sum.drafted += bucket.drafted;
    sum.accepted += bucket.accepted;
  }
  return sum;
}

double RecentRates::TokensPerSecond(absl::Time now) const {
  const double known = absl::ToDoubleSeconds(now - begun_);
  return static_cast<double>(Sum(now).generated) / std::clamp<double>(known, 1, kSeconds);
}

double RecentRates::AcceptanceRate(absl::Time now) const {
  const Bucket sum = Sum(now);
  return sum.drafted > 0 ? static_cast<double>(sum.accepted) / sum.drafted : 0;
}

}  // namespace mambad
