#include "trainer/process_group.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <map>
#include <stdexcept>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>
#include <vector>

#include "trainer/peer_watch.h"
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif

namespace mambad::trainer {
namespace {

using at::Tensor;

class SingleProcess : public ProcessGroup {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  void AllReduceSum(Tensor) override {}
  void ReduceScatterSum(Tensor shard, Tensor whole) override { shard.copy_(whole); }
  void AllGather(Tensor whole, Tensor shard) override { whole.copy_(shard); }
  void Broadcast(Tensor, int) override {}
  void Barrier() override {}
  std::string FromFirst(const std::string& words) override { return words; }
  void Write(const std::string& key, const std::string& words) override { board_[key] = words; }
  std::optional<std::string> Read(const std::string& key) override {
    const auto found = board_.find(key);
    return found == board_.end() ? std::nullopt : std::optional(found->second);
  }

 private:
  std::map<std::string, std::string> board_;
};

// The first process may read text for hours while the others have nothing to do. In milliseconds it
// has to fit into an int.
constexpr std::chrono::hours kLongestWait{24 * 14};

// What went wrong, without the place in Gloo's or NCCL's sources that stands before it and the
// lines behind it.
std::string Reason(const std::string& words) {
  std::string reason = words.substr(0, words.find('\n'));
  if (reason.starts_with('[') && reason.find("] ") != std::string::npos) {
    reason.erase(0, reason.find("] ") + 2);
  }
  return reason;
}

class BackendGroup : public ProcessGroup {
 public:
  // `watch`: on a GPU, where collectives do not tell that a process has gone; else null.
  BackendGroup(c10::intrusive_ptr<c10d::Store> store, c10::intrusive_ptr<c10d::Backend> backend,
               at::Device device, std::unique_ptr<PeerWatch> watch)
      : store_(std::move(store)),
        backend_(std::move(backend)),
        device_(device),
        watch_(std::move(watch)) {}
  // NCCL's work ends here and not with the program, when the device may be gone. Where a failure is
  // on its way nobody waits for the others, which may never come, nor they for this one.
  ~BackendGroup() override {
    if (!device_.is_cuda()) return;
    try {
      if (std::uncaught_exceptions() > 0) {
        watch_.reset();
        backend_->abort();
      } else {
        backend_->shutdown();
        watch_->LeaveInOrder();
      }
    } catch (const std::exception& error) {
      std::fprintf(stderr, "the group of processes was not left in order: %s\n",
                   Reason(error.what()).c_str());
    }
  }
  BackendGroup(const BackendGroup&) = delete;
  BackendGroup& operator=(const BackendGroup&) = delete;

  int rank() const override { return backend_->getRank(); }
  int size() const override { return backend_->getSize(); }
  void AllReduceSum(Tensor tensor) override {
    std::vector<Tensor> tensors = {std::move(tensor)};
    Together([&] { backend_->allreduce(tensors)->wait(); });
  }
  void ReduceScatterSum(Tensor shard, Tensor whole) override {
    Together([&] { backend_->_reduce_scatter_base(shard, whole)->wait(); });
  }
  void AllGather(Tensor whole, Tensor shard) override {
    Together([&] { backend_->_allgather_base(whole, shard)->wait(); });
  }
  void Broadcast(Tensor tensor, int from) override {
    std::vector<Tensor> tensors = {std::move(tensor)};
    c10d::BroadcastOptions options;
    options.rootRank = from;
    Together([&] { backend_->broadcast(tensors, options)->wait(); });
  }
  // A reduction whose value is read: on a GPU the host has to wait as well.
  void Barrier() override {
    Tensor one = at::ones({1}, at::TensorOptions().device(device_));
    AllReduceSum(one);
    (void)one.item<float>();
  }
  // Over the store, which waits as long as it is told to; collectives would give up.
  std::string FromFirst(const std::string& words) override {
    const std::string key = "words-" + std::to_string(told_++);
    std::string found;
    Together([&] {
      if (rank() == 0) store_->set(key, std::vector<uint8_t>(words.begin(), words.end()));
      store_->wait({key}, kLongestWait);
      const std::vector<uint8_t> bytes = store_->get(key);
      found.assign(bytes.begin(), bytes.end());
    });
    Barrier();  // process 0 may serve the store, and leave as soon as it has told
    return found;
  }
  void Write(const std::string& key, const std::string& words) override {
    Together(
        [&] { store_->set("board-" + key, std::vector<uint8_t>(words.begin(), words.end())); });
  }
  std::optional<std::string> Read(const std::string& key) override {
    std::optional<std::string> found;
    Together([&] {
      if (!store_->check({"board-" + key})) return;
      const std::vector<uint8_t> bytes = store_->get("board-" + key);
      found.emplace(bytes.begin(), bytes.end());
    });
    return found;
  }

 private:
  template <typename Work>
  void Together(const Work& work) {
    try {
      work();
    } catch (const std::exception& error) {
      throw std::runtime_error("process " + std::to_string(rank()) + " of " +
                               std::to_string(size()) +
                               " lost another one: " + Reason(error.what()));
    }
  }

  int64_t told_ = 0;
  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<c10d::Backend> backend_;
  at::Device device_;
  std::unique_ptr<PeerWatch> watch_;
};

// In the watch's thread, while the program's own waits on its GPU for a process that has gone.
[[noreturn]] void EndProgram(const std::string& words) {
  constexpr int kLost = 2;  // as main's for the same words
  std::fprintf(stderr, "trainer: error: %s\n", words.c_str());
  std::_Exit(kLost);
}

c10::intrusive_ptr<c10d::Store> StoreOf(const Rendezvous& rendezvous,
                                        const c10d::TCPStoreOptions& options) {
  return c10::make_intrusive<c10d::PrefixStore>(
      "mambad-trainer-" + rendezvous.attempt,
      c10::make_intrusive<c10d::TCPStore>(rendezvous.address, options));
}

}  // namespace

std::unique_ptr<ProcessGroup> JoinProcessGroup(const Rendezvous& rendezvous, bool cuda,
                                               int64_t seconds) {
  if (rendezvous.size == 1) return std::make_unique<SingleProcess>();
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(rendezvous.port);
  options.isServer = rendezvous.rank == 0 && !rendezvous.store_is_served;
  options.numWorkers = rendezvous.size;
  options.waitWorkers = !rendezvous.store_is_served;
  options.timeout = std::chrono::seconds(seconds);
  try {
    const auto store = StoreOf(rendezvous, options);
    if (!cuda) {
      auto backend = c10::make_intrusive<c10d::ProcessGroupGloo>(
          store, rendezvous.rank, rendezvous.size,
          c10d::ProcessGroupGloo::Options::create_default(options.timeout));
      return std::make_unique<BackendGroup>(store, std::move(backend), at::Device(at::kCPU),
                                            nullptr);
    }
#ifdef USE_C10D_NCCL
    auto backend =
        c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rendezvous.rank, rendezvous.size);
    options.isServer = options.waitWorkers = false;
    auto watch = std::make_unique<PeerWatch>(StoreOf(rendezvous, options), rendezvous.rank,
                                             rendezvous.size, EndProgram, PeerWatch::Options());
    return std::make_unique<BackendGroup>(
        store, std::move(backend),
        at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(rendezvous.local_rank)),
        std::move(watch));
#else
    throw std::runtime_error("this build has no NCCL");
#endif
  } catch (const std::exception& error) {
    throw std::runtime_error("process " + std::to_string(rendezvous.rank) + " of " +
                             std::to_string(rendezvous.size) + " cannot join the others at " +
                             rendezvous.address + ":" + std::to_string(rendezvous.port) + ": " +
                             error.what());
  }
}

}  // namespace mambad::trainer
