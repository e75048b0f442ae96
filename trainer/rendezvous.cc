#include <stdexcept>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"
#include "trainer/process_group.h"

namespace mambad::trainer {
namespace {

using Variable = std::function<std::optional<std::string>(const std::string&)>;

int Number(const Variable& variable, const std::string& name, int low, int high) {
  const std::optional<std::string> text = variable(name);
  if (!text) throw std::runtime_error(name + " is not set");
  int value = 0;
  if (!absl::SimpleAtoi(*text, &value) || value < low || value > high) {
    throw std::runtime_error(name + ": expected a number from " + std::to_string(low) + " to " +
                             std::to_string(high) + ", found \"" + *text + "\"");
  }
  return value;
}

void ReadAddress(const Variable& variable, const std::string& prefix, Rendezvous* rendezvous) {
  if (const auto address = variable(prefix + "MASTER_ADDR")) rendezvous->address = *address;
  if (variable(prefix + "MASTER_PORT")) {
    rendezvous->port = Number(variable, prefix + "MASTER_PORT", 1, 65535);
  }
}

constexpr int kMostProcesses = 1 << 20;

Rendezvous Ranked(const Variable& variable, const std::string& size, const std::string& rank) {
  Rendezvous rendezvous;
  rendezvous.size = Number(variable, size, 1, kMostProcesses);
  rendezvous.rank = Number(variable, rank, 0, rendezvous.size - 1);
  return rendezvous;
}

// Where each process of a machine has to be started by someone, and nobody did.
void RefuseUnstartedProcesses(const Variable& variable) {
  const std::optional<std::string> count = variable("PET_NPROC_PER_NODE");
  int processes = 0;
  if (!count || !absl::SimpleAtoi(*count, &processes) || processes <= 1) return;
  throw std::runtime_error("PET_NPROC_PER_NODE: expected 1, found " + *count +
                           ": several processes on a machine are started by `torchrun --no-python "
                           "trainer ...`");
}

// Slurm's counts for machine `node` of the list: "8(x2),4" is 8, 8 and 4.
int SlurmTasks(const std::string& list, int node) {
  int first = 0;
  for (const absl::string_view part : absl::StrSplit(list, ',')) {
    const std::vector<std::string> pieces = absl::StrSplit(part, absl::ByAnyChar("(x)"));
    int tasks = 0, machines = 1;
    const bool repeated = pieces.size() > 2;
    if (!absl::SimpleAtoi(pieces[0], &tasks) || tasks < 1 ||
        (repeated && !absl::SimpleAtoi(pieces[2], &machines))) {
      break;
    }
    first += machines;
    if (node < first) return tasks;
  }
  throw std::runtime_error(absl::StrFormat(
      "SLURM_TASKS_PER_NODE: expected counts as in 8(x2),4 for machine %d, found \"%s\"", node,
      list));
}

Rendezvous FromTorchrun(const Variable& variable) {
  Rendezvous rendezvous = Ranked(variable, "WORLD_SIZE", "RANK");
  if (variable("LOCAL_RANK")) {
    rendezvous.local_rank = Number(variable, "LOCAL_RANK", 0, rendezvous.size - 1);
  } else {
    RefuseUnstartedProcesses(variable);
  }
  if (variable("LOCAL_WORLD_SIZE")) {
    rendezvous.local_size = Number(variable, "LOCAL_WORLD_SIZE", 1, rendezvous.size);
  }
  ReadAddress(variable, "", &rendezvous);
  rendezvous.store_is_served = variable("TORCHELASTIC_USE_AGENT_STORE").value_or("") == "True";
  rendezvous.attempt = variable("TORCHELASTIC_RESTART_COUNT").value_or(rendezvous.attempt);
  return rendezvous;
}

Rendezvous FromKubeflow(const Variable& variable) {
  RefuseUnstartedProcesses(variable);
  Rendezvous rendezvous = Ranked(variable, "PET_NNODES", "PET_NODE_RANK");
  ReadAddress(variable, "PET_", &rendezvous);
  return rendezvous;
}

Rendezvous FromSlurm(const Variable& variable) {
  Rendezvous rendezvous = Ranked(variable, "SLURM_NTASKS", "SLURM_PROCID");
  if (variable("SLURM_LOCALID")) {
    rendezvous.local_rank = Number(variable, "SLURM_LOCALID", 0, rendezvous.size - 1);
  }
  // Of the step where there is one: a job may run several of different sizes.
  auto tasks = variable("SLURM_STEP_TASKS_PER_NODE");
  if (!tasks) tasks = variable("SLURM_TASKS_PER_NODE");
  if (tasks) {
    const int node =
        variable("SLURM_NODEID") ? Number(variable, "SLURM_NODEID", 0, kMostProcesses) : 0;
    rendezvous.local_size = SlurmTasks(*tasks, node);
  }
  if (const auto hosts = variable("SLURM_JOB_NODELIST")) {
    rendezvous.address = FirstSlurmHost(*hosts);
  }
  ReadAddress(variable, "", &rendezvous);
  return rendezvous;
}

Rendezvous FromStarter(const Variable& variable) {
  if (variable("RANK") || variable("WORLD_SIZE")) return FromTorchrun(variable);
  if (variable("PET_NNODES")) return FromKubeflow(variable);
  if (variable("SLURM_PROCID") && variable("SLURM_NTASKS")) return FromSlurm(variable);
  return {};
}

}  // namespace

std::string FirstSlurmHost(const std::string& list) {
  const size_t bracket = list.find('['), comma = list.find(',');
  if (bracket == std::string::npos || comma < bracket) return list.substr(0, comma);
  const size_t end = list.find_first_of("-,]", bracket);
  const size_t close = list.find(']', bracket);
  if (end == std::string::npos || close == std::string::npos) {
    throw std::runtime_error("SLURM_JOB_NODELIST: \"" + list + "\" has no closing bracket");
  }
  const size_t rest = list.find(',', close);
  return list.substr(0, bracket) + list.substr(bracket + 1, end - bracket - 1) +
         list.substr(close + 1, rest == std::string::npos ? rest : rest - close - 1);
}

Rendezvous ReadRendezvous(const Variable& variable) {
  Rendezvous rendezvous = FromStarter(variable);
  const auto devices = variable("CUDA_VISIBLE_DEVICES");
  rendezvous.own_device = devices && !devices->empty() && devices->find(',') == std::string::npos;
  return rendezvous;
}

int OwnDevice(const Rendezvous& rendezvous, int visible) {
  if (visible == 1 && rendezvous.own_device) return 0;
  if (rendezvous.local_rank < visible) return rendezvous.local_rank;
  throw std::runtime_error(
      absl::StrFormat("process %d of this machine wants a GPU of its own: %d "
                      "visible, one for each process expected",
                      rendezvous.local_rank, visible));
}

}  // namespace mambad::trainer
