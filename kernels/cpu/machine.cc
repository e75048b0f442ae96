#include "kernels/cpu/machine.h"

#include <algorithm>
#include <fstream>
#include <limits>

namespace mambad::kernels {
namespace {

constexpr double kUnknown = std::numeric_limits<double>::infinity();

// The number behind `name` in a file of "name number ..." lines.
double NumberBehind(const std::string& path, const std::string& name, double otherwise) {
  std::ifstream in(path);
  std::string word;
  for (double number = 0; in >> word >> number; in.ignore(64, '\n')) {
    if (word == name) return number;
  }
  return otherwise;
}

// What a control group calls its files.
struct GroupFiles {
  const char* limit;
  const char* used;
  const char* file_cache;  // in memory.stat: pages that are given up when memory is short
};
constexpr GroupFiles kVersion1 = {"/memory.limit_in_bytes", "/memory.usage_in_bytes",
                                  "total_inactive_file"};
constexpr GroupFiles kVersion2 = {"/memory.max", "/memory.current", "inactive_file"};

// What a control group's folder and files say: bytes, or kUnknown.
using GroupQuestion = double (*)(const std::string& group, const GroupFiles& files);

double LimitOfGroup(const std::string& group, const GroupFiles& files) {
  double limit = 0;
  std::ifstream file(group + files.limit);
  return file >> limit ? limit : kUnknown;  // "max", or no such group
}

double LeftInGroup(const std::string& group, const GroupFiles& files) {
  double limit = 0, used = 0;
  std::ifstream limit_file(group + files.limit), used_file(group + files.used);
  if (!(limit_file >> limit) || !(used_file >> used)) return kUnknown;  // "max", or no such group
  const double cache = NumberBehind(group + "/memory.stat", files.file_cache, 0);
  return std::max(0.0, limit - used + std::min(cache, used));
}

// The least of the group `name` ("/a/b") under `mount` and of those above it. Inside a container the
// name may be that of the machine while the mount begins with the container's own group.
double LeastOfGroups(const std::string& mount, std::string name, const GroupFiles& files,
                     GroupQuestion ask) {
  double least = ask(mount, files);
  for (; name.size() > 1; name.resize(name.rfind('/'))) {
    least = std::min(least, ask(mount + name, files));
  }
  return least;
}

// The version 1 line is "5:memory:/a/b" (other controllers may stand beside memory).
bool NamesMemory(const std::string& controllers) {
  return ("," + controllers + ",").find(",memory,") != std::string::npos;
}

// The least of the whole machine, by its line in meminfo, and of the groups of this process.
double LeastBytes(const std::string& root, const std::string& line_of_machine, GroupQuestion ask) {
  double least = NumberBehind(root + "proc/meminfo", line_of_machine, kUnknown) * 1024;
  const std::string mount = root + "sys/fs/cgroup";
  std::ifstream membership(root + "proc/self/cgroup");
  for (std::string line; std::getline(membership, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string name = line.substr(second + 1);
    if (controllers.empty()) {
      least = std::min(least, LeastOfGroups(mount, name, kVersion2, ask));
    }
    if (NamesMemory(controllers)) {
      least = std::min(least, LeastOfGroups(mount + "/memory", name, kVersion1, ask));
    }
  }
  return least;
}

}  // namespace

double FreeMachineBytes(const std::string& root) {
  return LeastBytes(root, "MemAvailable:", LeftInGroup);
}

double MachineBytes(const std::string& root) { return LeastBytes(root, "MemTotal:", LimitOfGroup); }

double FreeCores(int cores, const std::string& root) {
  double busy = 0;
  std::ifstream load(root + "proc/loadavg");
  if (!(load >> busy)) return kUnknown;
  return std::max(0.0, cores - busy);
}

}  // namespace mambad::kernels
