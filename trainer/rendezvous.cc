#include <stdexcept>

#include "absl/strings/numbers.h"
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
  if (variable("RANK") || variable("WORLD_SIZE")) {
    Rendezvous rendezvous = Ranked(variable, "WORLD_SIZE", "RANK");
    if (variable("LOCAL_RANK")) {
      rendezvous.local_rank = Number(variable, "LOCAL_RANK", 0, rendezvous.size - 1);
    }
    ReadAddress(variable, "", &rendezvous);
    rendezvous.store_is_served = variable("TORCHELASTIC_USE_AGENT_STORE").value_or("") == "True";
    return rendezvous;
  }
  if (variable("PET_NNODES")) {
    Rendezvous rendezvous = Ranked(variable, "PET_NNODES", "PET_NODE_RANK");
    ReadAddress(variable, "PET_", &rendezvous);
    return rendezvous;
  }
  if (variable("SLURM_PROCID") && variable("SLURM_NTASKS")) {
    Rendezvous rendezvous = Ranked(variable, "SLURM_NTASKS", "SLURM_PROCID");
    if (variable("SLURM_LOCALID")) {
      rendezvous.local_rank = Number(variable, "SLURM_LOCALID", 0, rendezvous.size - 1);
    }
    if (const auto hosts = variable("SLURM_JOB_NODELIST")) {
      rendezvous.address = FirstSlurmHost(*hosts);
    }
    ReadAddress(variable, "", &rendezvous);
    return rendezvous;
  }
  return {};
}

}  // namespace mambad::trainer
