// Tells readers what a step kept, on threads of their own, while the next step runs: what a reader
// does with an event (serialise, write to a socket) is not in the way of the model.

#ifndef MAMBAD_ENGINE_DELIVERY_H_
#define MAMBAD_ENGINE_DELIVERY_H_

#include <functional>
#include <memory>
#include <vector>

#include "engine/request.h"

namespace mambad {

class Delivery {
 public:
  // Both are called on a delivery thread. pause: this request's reader has fallen behind; once for
  // each `false` of its sink. told_all: nothing is left to tell for now.
  struct Hooks {
    std::function<void(RequestId)> pause;
    std::function<void()> told_all;
  };

  // One request's events are told by one of the `threads`, in order.
  Delivery(int threads, Hooks hooks);
  // Tells what was handed over, joins. Not on a delivery thread.
  ~Delivery();

  // The sink that collects a request's events for its reader; never pauses. Engine thread.
  std::shared_ptr<EventSink> SinkFor(RequestId id, std::shared_ptr<EventSink> reader);
  // What was collected since goes out. Engine thread; waits only while readers are so far behind
  // that thousands of events are kept for them.
  void HandOver();

  bool idle() const;         // all that was handed over has been told; any thread
  bool OnOwnThread() const;  // any thread

 private:
  class Lane;

  const Hooks hooks_;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_DELIVERY_H_
