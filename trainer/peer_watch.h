// Whether the other processes of a run still live, where nothing else would tell.

#ifndef MAMBAD_TRAINER_PEER_WATCH_H_
#define MAMBAD_TRAINER_PEER_WATCH_H_

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

namespace mambad::trainer {

// A collective on a GPU waits for a process that was killed as for one that works, with the host
// behind it. So every process says in a store, again and again, that it lives, and a thread of each
// looks whether the others do.
class PeerWatch {
 public:
  struct Options {
    std::chrono::milliseconds between_looks{1000};
    // Looks of this process at which another one had nothing new to say: a machine that was held
    // holds both up. Less than the half minute after which torchrun kills who does not stop.
    int patience = 15;
  };

  // `store`: of this object alone, because who waits in a store keeps others from it. The keys that
  // begin with "alive-" are its own. `lost` is called once, in the watch's thread, when all `size`
  // processes have been there and one of them is no longer heard of, with a line that names it.
  PeerWatch(c10::intrusive_ptr<c10d::Store> store, int rank, int size,
            std::function<void(const std::string&)> lost, const Options& options);
  // Says nothing more: the others wait for this process as long as they have patience.
  ~PeerWatch();
  PeerWatch(const PeerWatch&) = delete;
  PeerWatch& operator=(const PeerWatch&) = delete;

  // The others need not wait for this process any more. Process 0, which may serve the store, goes
  // last: it waits for the others as long as it has patience.
  void LeaveInOrder();

 private:
  void Watch();
  void End();
  // One look. False when a process is lost.
  bool Look();
  // What all say now; nothing until all have come.
  std::vector<std::string> Listen();
  bool AllHaveLeft();
  void Say(const std::string& words);

  const c10::intrusive_ptr<c10d::Store> store_;
  const int rank_;
  const std::function<void(const std::string&)> lost_;
  const Options options_;
  std::vector<std::string> keys_, heard_;  // of each process
  std::vector<int> silent_;                // looks
  bool all_came_ = false;
  bool is_deaf_ = false;  // the store has gone, and does not come again
  int64_t looks_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ends_ = false;  // guarded by mutex_
  std::thread thread_;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_PEER_WATCH_H_
