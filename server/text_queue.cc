#include "server/text_queue.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"

namespace mambad::server {
namespace {

// What a call costs besides its bytes.
constexpr int64_t kBytesOfACall = 256;

}  // namespace

absl::Status TextQueue::Add(TextJobPointer job) {
  if (calls_ >= limits_.calls) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the text queue is full: ", calls_, " calls wait, at most ", limits_.calls));
  }
  if (calls_ > 0 && bytes_ + job->bytes > limits_.bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the text queue is full: ", bytes_, " bytes wait, at most ", limits_.bytes));
  }
  const auto found = owners_.find(job->owner);
  if (found != owners_.end()) {
    const Owner& owner = found->second;
    const auto calls = static_cast<int64_t>(owner.jobs.size());
    if (calls + 1 > (limits_.calls + 1) / 2) {
      return absl::ResourceExhaustedError(absl::StrCat(calls, " calls of this connection wait in ",
                                                       "the text queue, at most half of ",
                                                       limits_.calls));
    }
    if (owner.bytes + job->bytes > limits_.bytes / 2) {
      return absl::ResourceExhaustedError(absl::StrCat(owner.bytes, " bytes of this connection ",
                                                       "wait in the text queue, at most half of ",
                                                       limits_.bytes));
    }
  }
  Owner& owner = owners_[job->owner];
  if (owner.jobs.empty()) owner.served = least_served_;
  owner.bytes += job->bytes;
  ++calls_;
  bytes_ += job->bytes;
  owner.jobs.push_back(std::move(job));
  return absl::OkStatus();
}

TextJobPointer TextQueue::TakeNext() {
  if (owners_.empty()) return nullptr;
  const auto next = std::min_element(
      owners_.begin(), owners_.end(),
      [](const auto& a, const auto& b) { return a.second.served < b.second.served; });
  TextJobPointer job = std::move(next->second.jobs.front());
  next->second.jobs.pop_front();
  least_served_ = next->second.served;
  next->second.served += job->bytes + kBytesOfACall;
  Forget(next, *job);
  return job;
}

bool TextQueue::Remove(const TextJob& job) {
  const auto found = owners_.find(job.owner);
  if (found == owners_.end()) return false;
  std::deque<TextJobPointer>& jobs = found->second.jobs;
  const auto place = std::find_if(jobs.begin(), jobs.end(),
                                  [&](const TextJobPointer& other) { return other.get() == &job; });
  if (place == jobs.end()) return false;
  jobs.erase(place);
  Forget(found, job);
  return true;
}

// After a job of it was taken out.
void TextQueue::Forget(Owners::iterator owner, const TextJob& job) {
  --calls_;
  bytes_ -= job.bytes;
  owner->second.bytes -= job.bytes;
  if (!owner->second.jobs.empty()) return;
  owners_.erase(owner);
}

}  // namespace mambad::server
