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
  int local_rank = 0;       // among the processes of its machine, and which GPU is its own
  int local_size = 1;       // processes on its machine, that share its memory
  bool own_device = false;  // the starter shows each process one GPU, its own
  std::string address = "127.0.0.1";
  int port = 29500;
  // The starter (torchrun's agent) already serves the store: rank 0 is a client like the others.
  bool store_is_served = false;
  // Tells a start of the group from those before it, whose words such a store still holds.
  std::string attempt = "0";
};

// From the variables that torchrun (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT,
// TORCHELASTIC_USE_AGENT_STORE, TORCHELASTIC_RESTART_COUNT), Kubeflow (the same, or PET_NODE_RANK,
// PET_NNODES, PET_MASTER_ADDR, PET_MASTER_PORT with one process a node) or Slurm (SLURM_PROCID,
// SLURM_NTASKS, SLURM_LOCALID, SLURM_TASKS_PER_NODE, SLURM_NODEID, SLURM_JOB_NODELIST) set, in this
// order; without any of them one process alone. CUDA_VISIBLE_DEVICES with one GPU in it is taken
// for the process's own. `variable` gives a variable's value. Throws std::runtime_error naming a
// variable that is missing, no number, or (PET_NPROC_PER_NODE) asks for processes that only
// torchrun would start.
Rendezvous ReadRendezvous(
    const std::function<std::optional<std::string>(const std::string&)>& variable);

// The first machine of Slurm's list: "gpu[03-05,9],login" -> "gpu03".
std::string FirstSlurmHost(const std::string& list);

// The number of this process's GPU among the `visible` ones. Throws std::runtime_error when there
// are fewer than processes on this machine.
int OwnDevice(const Rendezvous& rendezvous, int visible);

// Collectives, called in the same order by every process; one thread. Each waits for its result in
// the sense of its device: at once on the CPU, in the order of the stream on a GPU. On the CPU it
// throws std::runtime_error when another process has gone or does not come within the group's time.
// On GPUs, where waiting for a process that has gone does not end, the program does (peer_watch.h):
// with a line that names that process, and status 2.
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
  // What `words` is in process 0, in every process. The others wait as long as that one lives and
  // works, be it hours.
  virtual std::string FromFirst(const std::string& words) = 0;
  // A board that all write on and read when they like, in no order and waiting for nobody.
  virtual void Write(const std::string& key, const std::string& words) = 0;
  virtual std::optional<std::string> Read(const std::string& key) = 0;
};

// One process alone when rendezvous.size is 1; else Gloo for CPU tensors, NCCL for CUDA ones.
// Throws std::runtime_error when the others do not come within `seconds`; as long does a collective
// on the CPU wait for them later.
std::unique_ptr<ProcessGroup> JoinProcessGroup(const Rendezvous& rendezvous, bool cuda,
                                               int64_t seconds = 600);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_PROCESS_GROUP_H_
