#include "trainer/process_group.h"

#include <chrono>
#include <stdexcept>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#include <utility>
#include <vector>
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
};

class BackendGroup : public ProcessGroup {
 public:
  BackendGroup(c10::intrusive_ptr<c10d::Store> store, c10::intrusive_ptr<c10d::Backend> backend,
               at::Device device)
      : store_(std::move(store)), backend_(std::move(backend)), device_(device) {}

  int rank() const override { return backend_->getRank(); }
  int size() const override { return backend_->getSize(); }
  void AllReduceSum(Tensor tensor) override {
    std::vector<Tensor> tensors = {std::move(tensor)};
    backend_->allreduce(tensors)->wait();
  }
  void ReduceScatterSum(Tensor shard, Tensor whole) override {
    backend_->_reduce_scatter_base(shard, whole)->wait();
  }
  void AllGather(Tensor whole, Tensor shard) override {
    backend_->_allgather_base(whole, shard)->wait();
  }
  void Broadcast(Tensor tensor, int from) override {
    std::vector<Tensor> tensors = {std::move(tensor)};
    c10d::BroadcastOptions options;
    options.rootRank = from;
    backend_->broadcast(tensors, options)->wait();
  }
  // A reduction whose value is read: on a GPU the host has to wait as well.
  void Barrier() override {
    Tensor one = at::ones({1}, at::TensorOptions().device(device_));
    AllReduceSum(one);
    (void)one.item<float>();
  }

 private:
  c10::intrusive_ptr<c10d::Store> store_;
  c10::intrusive_ptr<c10d::Backend> backend_;
  at::Device device_;
};

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
    auto tcp = c10::make_intrusive<c10d::TCPStore>(rendezvous.address, options);
    auto store = c10::make_intrusive<c10d::PrefixStore>("mambad-trainer", tcp);
    if (!cuda) {
      auto backend = c10::make_intrusive<c10d::ProcessGroupGloo>(
          store, rendezvous.rank, rendezvous.size,
          c10d::ProcessGroupGloo::Options::create_default(options.timeout));
      return std::make_unique<BackendGroup>(store, std::move(backend), at::Device(at::kCPU));
    }
#ifdef USE_C10D_NCCL
    auto backend =
        c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rendezvous.rank, rendezvous.size);
    return std::make_unique<BackendGroup>(
        store, std::move(backend),
        at::Device(at::kCUDA, static_cast<c10::DeviceIndex>(rendezvous.local_rank)));
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
