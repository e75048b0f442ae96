// Those who wait, and who starts next. Engine thread.
//
// Order. A request stands where its rank puts it (active_request.h: when it came, moved by its
// priority), later by kTokenWorth for every token by which its principal was served more than the
// least that others were: so principals take turns by tokens, and one that sends a thousand
// requests at once delays its own. A principal that comes is where those are who were served last:
// neither idle time nor what it once took is credited for ever. With one principal the order is
// that of ranks.
//
// Overtaking. What does not fit is passed by what does, for kOvertaking from the first time on;
// then all behind it wait until it fits. So a large request neither stops those behind it while
// there is room, nor starves.

#ifndef MAMBAD_ENGINE_REQUEST_QUEUE_H_
#define MAMBAD_ENGINE_REQUEST_QUEUE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/time/time.h"
#include "engine/active_request.h"

namespace mambad {

// What a token that a principal was given is worth in waiting: a point of priority.
inline constexpr absl::Duration kTokenWorth = kPriorityWorth;
inline constexpr absl::Duration kOvertaking = absl::Seconds(2);
// So many of those that wait are looked at in one step, where the first ones do not fit.
inline constexpr int kLookedAt = 32;

class RequestQueue {
 public:
  bool empty() const { return waiting_.empty(); }
  int64_t size() const { return static_cast<int64_t>(waiting_.size()); }
  int64_t prompt_tokens() const { return prompt_tokens_; }
  size_t principals() const { return served_.size(); }  // that are remembered
  // In the order in which they start, if all fit.
  const std::vector<std::unique_ptr<ActiveRequest>>& in_order();

  // How many of those that wait start before a new one.
  int64_t PlaceOf(const Request& request, absl::Time submitted);

  // New, or preempted.
  void Add(std::unique_ptr<ActiveRequest> request);
  // Takes out all for which `leaves` is true, in order.
  std::vector<std::unique_ptr<ActiveRequest>> TakeOut(
      absl::FunctionRef<bool(const ActiveRequest&)> leaves);
  // Takes out the first for which `starts` is true; null: none may start now. `starts` gives a
  // request what it needs, or changes nothing.
  std::unique_ptr<ActiveRequest> TakeNext(absl::FunctionRef<bool(ActiveRequest&)> starts,
                                          absl::Time now);

  // Tokens that a principal is given, read and made; negative: that it did not take.
  void Charge(const std::string& principal, int64_t tokens);

 private:
  std::unique_ptr<ActiveRequest> Take(size_t place, absl::Time now);
  int64_t Served(const std::string& principal) const;
  absl::Time TurnOf(absl::Time rank, const std::string& principal) const;
  void Sort();
  void ForgetHalf();

  std::vector<std::unique_ptr<ActiveRequest>> waiting_;
  bool sorted_ = true;
  int64_t prompt_tokens_ = 0;
  // Tokens, of those who had more than `least_`; all others have that.
  absl::flat_hash_map<std::string, int64_t> served_;
  int64_t least_ = 0;  // of the one that started last, before it did
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_REQUEST_QUEUE_H_
