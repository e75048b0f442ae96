#include "server/text_worker.h"

#include <malloc.h>

#include <algorithm>

#include "engine/steady_time.h"
#include "server/status_details.h"

namespace mambad::server {
namespace {

// Before anything was measured.
constexpr double kSecondsAByte = 1e-6;
// The share that work before has in the measured pace.
constexpr double kMemory = 0.8;
// More than this leaves holes in the heap that are worth giving back: once the answer is likely to
// be gone.
constexpr int64_t kLargeRequest = 256 << 10;
constexpr absl::Duration kGiveBackAfter = absl::Milliseconds(500);

}  // namespace

double TextWorker::Lane::SecondsFor(int64_t more_bytes) const {
  const double each = bytes > 0 ? seconds / bytes : kSecondsAByte;
  return each * static_cast<double>(more_bytes) / threads;
}

// Room for it comes when as much as it needs has been worked on; for who is refused after it, as
// much later. No later than a full queue takes, for many who are refused never come back.
absl::Duration TextWorker::Lane::RetryDelay(const TextJob& job, absl::Time now) {
  const int64_t usual = queue.bytes() / std::max<int64_t>(1, queue.calls());
  promised = std::max(promised, now) + absl::Seconds(SecondsFor(std::max(job.bytes, usual)));
  promised = std::min(promised, now + absl::Seconds(SecondsFor(queue.bytes() + job.bytes)));
  return promised - now;
}

TextWorker::TextWorker(const TextWorkerOptions& options, std::function<void(absl::Duration)> waited)
    : options_(options),
      waited_(std::move(waited)),
      short_(options.short_texts, options.threads),
      long_(options.long_texts, 1) {
  for (int i = 0; i < options.threads; ++i) threads_.emplace_back([this] { Work(false); });
  threads_.emplace_back([this] { Work(true); });
}

TextWorker::~TextWorker() {
  Drain(absl::InfinitePast());
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  news_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

absl::Status TextWorker::Submit(const TextJobPointer& job) {
  absl::Status status = Enqueue(job);
  // Its call has it, and it has its call: refused, both would live for ever.
  if (!status.ok()) job->run = nullptr;
  return status;
}

absl::Status TextWorker::Enqueue(const TextJobPointer& job) {
  MutexLock lock(&mutex_);
  if (draining_) return absl::UnavailableError("the server is draining");
  job->queued = SteadyNow();
  if (job->over.load()) {
    ended_.emplace_back(job, absl::CancelledError("the call is over"));
  } else {
    Lane& lane = LaneOf(*job);
    const absl::Status status = lane.queue.Add(job);
    if (!status.ok()) return ExhaustedError(status.message(), lane.RetryDelay(*job, job->queued));
  }
  news_.NotifyAll();  // not every thread takes every job
  return absl::OkStatus();
}

void TextWorker::Cancel(const TextJobPointer& job) {
  MutexLock lock(&mutex_);
  job->over.store(true);
  if (!LaneOf(*job).queue.Remove(*job)) return;
  ended_.emplace_back(job, absl::CancelledError("the call is over"));
  news_.NotifyAll();
}

void TextWorker::Drain(absl::Time deadline) {
  MutexLock lock(&mutex_);
  draining_ = true;
  while (!Empty()) {
    if (SteadyNow() < deadline && emptied_.WaitUntil(&mutex_, deadline)) continue;
    EndAll();
    deadline = absl::InfiniteFuture();
  }
}

void TextWorker::EndAll() {
  for (Lane* lane : {&short_, &long_}) {
    while (TextJobPointer job = lane->queue.TakeNext())
      ended_.emplace_back(std::move(job), absl::UnavailableError("the server is draining"));
  }
  for (const TextJobPointer& job : running_) job->over.store(true);
  news_.NotifyAll();
}

void TextWorker::NoteRequest(int64_t bytes) {
  if (bytes <= kLargeRequest) return;
  MutexLock lock(&mutex_);
  give_back_at_ = SteadyNow() + kGiveBackAfter;
  news_.NotifyAll();
}

TextLoad TextWorker::Load() const {
  MutexLock lock(&mutex_);
  TextLoad load;
  load.waiting = static_cast<int>(short_.queue.calls() + long_.queue.calls());
  load.waiting_bytes = short_.queue.bytes() + long_.queue.bytes();
  load.wait = absl::Seconds(short_.SecondsFor(short_.queue.bytes()));
  return load;
}

bool TextWorker::Empty() const {
  return running_.empty() && ended_.empty() && short_.queue.calls() + long_.queue.calls() == 0;
}

TextJobPointer TextWorker::Take(bool takes_long, absl::Status* status) {
  *status = absl::OkStatus();
  TextJobPointer job;
  if (!ended_.empty()) {
    job = std::move(ended_.front().first);
    *status = std::move(ended_.front().second);
    ended_.pop_front();
    return job;
  }
  if (takes_long) job = long_.queue.TakeNext();
  return job != nullptr ? job : short_.queue.TakeNext();
}

// Work on large texts leaves much memory to the allocator, which keeps what it might need again.
void TextWorker::WaitForNews(bool takes_long) {
  if (!takes_long) return news_.Wait(&mutex_);
  if (SteadyNow() < give_back_at_) {
    news_.WaitUntil(&mutex_, give_back_at_);
    return;
  }
  give_back_at_ = absl::InfiniteFuture();
  mutex_.Unlock();
  malloc_trim(0);
  mutex_.Lock();
}

void TextWorker::Work(bool takes_long) {
  for (;;) {
    TextJobPointer job;
    absl::Status status;
    {
      MutexLock lock(&mutex_);
      while ((job = Take(takes_long, &status)) == nullptr) {
        if (stopping_) return;
        WaitForNews(takes_long);
      }
      running_.push_back(job);
    }
    const absl::Time begin = SteadyNow();
    if (status.ok()) waited_(begin - job->queued);
    job->run(status);
    job->run = nullptr;  // and with it its share of the call
    const absl::Time end = SteadyNow();
    MutexLock lock(&mutex_);
    running_.erase(std::find(running_.begin(), running_.end(), job));
    if (status.ok() && !job->over.load()) {
      Lane& lane = LaneOf(*job);
      lane.seconds = kMemory * lane.seconds + absl::ToDoubleSeconds(end - begin);
      lane.bytes = kMemory * lane.bytes + static_cast<double>(std::max<int64_t>(1, job->bytes));
    }
    if (job->bytes > kLargeRequest) {
      give_back_at_ = end + kGiveBackAfter;
      news_.NotifyAll();
    }
    if (Empty()) emptied_.NotifyAll();
  }
}

}  // namespace mambad::server
