#include "engine/delivery.h"

#include <cstddef>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "engine/mutex.h"

namespace mambad {
namespace {

// Events that are kept for readers at most, a thread: beyond, the engine waits for them.
constexpr size_t kMostKept = 8192;

struct Item {
  std::shared_ptr<EventSink> reader;
  TokenEvent event;
};

}  // namespace

// One thread and what it has to tell. Items go round, with the memory of their events: so a step
// allocates nothing.
class Delivery::Lane {
 public:
  explicit Lane(const Hooks& hooks) : hooks_(hooks), thread_([this] { Run(); }) {}
  ~Lane() {
    {
      MutexLock lock(&mutex_);
      stopping_ = true;
    }
    news_.NotifyOne();
    thread_.join();
  }

  void Collect(const std::shared_ptr<EventSink>& reader, const TokenEvent& event) {
    if (spare_.empty()) spare_.emplace_back();
    Item& item = collected_.emplace_back(std::move(spare_.back()));
    spare_.pop_back();
    item.reader = reader;
    item.event = event;
  }

  void HandOver() {
    if (collected_.empty()) return;
    {
      MutexLock lock(&mutex_);
      while (kept_.size() >= kMostKept) room_.Wait(&mutex_);
      Move(&collected_, &kept_);
      Move(&told_, &spare_);
    }
    news_.NotifyOne();
  }

  bool idle() const {
    MutexLock lock(&mutex_);
    return kept_.empty() && !telling_;
  }
  bool is_this_thread() const { return std::this_thread::get_id() == thread_.get_id(); }

 private:
  static void Move(std::vector<Item>* from, std::vector<Item>* to) {
    for (Item& item : *from) to->push_back(std::move(item));
    from->clear();
  }

  void Run() {
    std::vector<Item> items;
    for (;;) {
      {
        MutexLock lock(&mutex_);
        while (kept_.empty() && !stopping_) news_.Wait(&mutex_);
        if (kept_.empty()) return;
        items.swap(kept_);
        telling_ = true;
      }
      room_.NotifyOne();
      for (Item& item : items) {
        if (!item.reader->OnEvent(item.event)) hooks_.pause(item.event.request);
        item.reader.reset();
      }
      bool all = false;
      {
        MutexLock lock(&mutex_);
        Move(&items, &told_);
        telling_ = false;
        all = kept_.empty();
      }
      if (all) hooks_.told_all();
    }
  }

  const Hooks& hooks_;
  std::vector<Item> collected_, spare_;  // the engine thread's

  mutable Mutex mutex_;
  Condition news_;  // for the thread: something is kept
  Condition room_;  // for the engine: fewer are kept
  std::vector<Item> kept_ ABSL_GUARDED_BY(mutex_), told_ ABSL_GUARDED_BY(mutex_);
  bool telling_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  std::thread thread_;  // last: starts when all else is there
};

Delivery::Delivery(int threads, Hooks hooks) : hooks_(std::move(hooks)) {
  for (int i = 0; i < threads; ++i) lanes_.push_back(std::make_unique<Lane>(hooks_));
}

Delivery::~Delivery() = default;

std::shared_ptr<EventSink> Delivery::SinkFor(RequestId id, std::shared_ptr<EventSink> reader) {
  class Collector : public EventSink {
   public:
    Collector(Lane* lane, std::shared_ptr<EventSink> reader)
        : lane_(lane), reader_(std::move(reader)) {}
    bool OnEvent(const TokenEvent& event) override {
      lane_->Collect(reader_, event);
      return true;
    }

   private:
    Lane* const lane_;
    const std::shared_ptr<EventSink> reader_;
  };
  return std::make_shared<Collector>(lanes_[id % lanes_.size()].get(), std::move(reader));
}

void Delivery::HandOver() {
  for (const auto& lane : lanes_) lane->HandOver();
}

bool Delivery::idle() const {
  for (const auto& lane : lanes_) {
    if (!lane->idle()) return false;
  }
  return true;
}

bool Delivery::OnOwnThread() const {
  for (const auto& lane : lanes_) {
    if (lane->is_this_thread()) return true;
  }
  return false;
}

}  // namespace mambad
