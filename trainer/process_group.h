// The processes of one run and what they do together.

#ifndef MAMBAD_TRAINER_PROCESS_GROUP_H_
#define MAMBAD_TRAINER_PROCESS_GROUP_H_

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

namespace mambad::trainer {

// Who this process is and where the others are found.
struct Rendezvous {
  int rank = 0, size = 1;
  int local_rank = 0;  // which GPU of its machine
  std::string address = "127.0.0.1";
  int port = 29500;
  // The starter (torchrun's agent) already serves the store: rank 0 is a client like the others.
  bool store_is_served = false;
};

// From the variables that torchrun (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT,
// TORCHELASTIC_USE_AGENT_STORE), Kubeflow (the same, or PET_NODE_RANK, PET_NNODES, PET_MASTER_ADDR,
// PET_MASTER_PORT with one process a node) or Slurm (SLURM_PROCID, SLURM_NTASKS, SLURM_LOCALID,
// SLURM_JOB_NODELIST) set, in this order; without any of them one process alone. `variable` gives
// a variable's value. Throws std::runtime_error naming a variable that is missing or no number.
Rendezvous ReadRendezvous(
    const std::function<std::optional<std::string>(const std::string&)>& variable);

// The first machine of Slurm's list: "gpu[03-05,9],login" -> "gpu03".
std::string FirstSlurmHost(const std::string& list);

// Collectives, called in the same order by every process; one thread. Each waits for its result in
// the sense of its device: at once on the CPU, in the order of the stream on a GPU.
class ProcessGroup {
 public:
  virtual ~ProcessGroup() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual void AllReduceSum(at::Tensor tensor) = 0;
  // `shard` = part `rank` of the sum of every process's `whole`; size() equal parts.
  virtual void ReduceScatterSum(at::Tensor shard, at::Tensor whole) = 0;
  virtual void AllGather(at::Tensor whole, at::Tensor shard) = 0;
  virtual void Broadcast(at::Tensor tensor, int from) = 0;
  virtual void Barrier() = 0;
};

// One process alone when rendezvous.size is 1; else Gloo for CPU tensors, NCCL for CUDA ones.
// Throws std::runtime_error when the others do not come within `seconds`.
std::unique_ptr<ProcessGroup> JoinProcessGroup(const Rendezvous& rendezvous, bool cuda,
                                               int64_t seconds = 600);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_PROCESS_GROUP_H_
