#include "engine/request_queue.h"

#include <algorithm>
#include <utility>

namespace mambad {
namespace {

// Principals that are remembered at most; then the half that is ahead the least is forgotten.
constexpr size_t kPrincipals = 4096;

}  // namespace

int64_t RequestQueue::Served(const std::string& principal) const {
  const auto it = served_.find(principal);
  return it == served_.end() ? least_ : std::max(least_, it->second);
}

absl::Time RequestQueue::TurnOf(absl::Time rank, const std::string& principal) const {
  return rank + (Served(principal) - least_) * kTokenWorth;
}

int64_t RequestQueue::PlaceOf(const Request& request, absl::Time submitted) {
  Sort();
  const absl::Time turn = TurnOf(submitted - request.priority * kPriorityWorth, request.principal);
  const auto after =
      std::upper_bound(waiting_.begin(), waiting_.end(), turn,
                       [](absl::Time when, const auto& other) { return when < other->turn; });
  return after - waiting_.begin();
}

void RequestQueue::Sort() {
  if (sorted_) return;
  for (const auto& request : waiting_)
    request->turn = TurnOf(request->rank(), request->request.principal);
  std::sort(waiting_.begin(), waiting_.end(), [](const auto& one, const auto& other) {
    return one->turn != other->turn ? one->turn < other->turn : one->GoesBefore(*other);
  });
  sorted_ = true;
}

const std::vector<std::unique_ptr<ActiveRequest>>& RequestQueue::in_order() {
  Sort();
  return waiting_;
}

void RequestQueue::Add(std::unique_ptr<ActiveRequest> request) {
  request->passed_since.reset();
  prompt_tokens_ += static_cast<int64_t>(request->request.prompt.size());
  waiting_.push_back(std::move(request));
  sorted_ = false;
}

std::vector<std::unique_ptr<ActiveRequest>> RequestQueue::TakeOut(
    absl::FunctionRef<bool(const ActiveRequest&)> leaves) {
  std::vector<std::unique_ptr<ActiveRequest>> out;
  size_t kept = 0;
  for (std::unique_ptr<ActiveRequest>& request : waiting_) {
    if (leaves(*request)) {
      prompt_tokens_ -= static_cast<int64_t>(request->request.prompt.size());
      out.push_back(std::move(request));
    } else if (std::unique_ptr<ActiveRequest>& place = waiting_[kept++]; &place != &request) {
      place = std::move(request);
    }
  }
  waiting_.resize(kept);
  return out;
}

std::unique_ptr<ActiveRequest> RequestQueue::TakeNext(
    absl::FunctionRef<bool(ActiveRequest&)> starts, absl::Time now) {
  Sort();
  const size_t looked_at = std::min<size_t>(waiting_.size(), kLookedAt);
  for (size_t i = 0; i < looked_at; ++i) {
    ActiveRequest& request = *waiting_[i];
    if (starts(request)) return Take(i, now);
    if (request.passed_since.has_value() && now - *request.passed_since >= kOvertaking) break;
  }
  return nullptr;
}

std::unique_ptr<ActiveRequest> RequestQueue::Take(size_t place, absl::Time now) {
  for (size_t i = 0; i < place; ++i) {
    if (!waiting_[i]->passed_since.has_value()) waiting_[i]->passed_since = now;
  }
  std::unique_ptr<ActiveRequest> next = std::move(waiting_[place]);
  waiting_.erase(waiting_.begin() + static_cast<int64_t>(place));
  prompt_tokens_ -= static_cast<int64_t>(next->request.prompt.size());
  least_ = std::max(least_, Served(next->request.principal));
  return next;
}

void RequestQueue::Charge(const std::string& principal, int64_t tokens) {
  if (tokens == 0) return;
  served_[principal] = Served(principal) + tokens;
  sorted_ = false;
  if (served_.size() > kPrincipals) ForgetHalf();
}

void RequestQueue::ForgetHalf() {
  std::vector<int64_t> tokens;
  for (const auto& [principal, served] : served_) tokens.push_back(served);
  const auto middle = tokens.begin() + static_cast<int64_t>(tokens.size() / 2);
  std::nth_element(tokens.begin(), middle, tokens.end());
  absl::erase_if(served_, [&](const auto& entry) { return entry.second <= *middle; });
}

}  // namespace mambad
