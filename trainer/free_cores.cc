#include "trainer/free_cores.h"

#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include "absl/strings/str_format.h"

namespace mambad::trainer {
namespace {

struct Ticks {
  double used = 0, low = 0, all = 0;  // low: used by programs of low priority
};

// By core, out of lines "cpu3 user nice system idle iowait irq softirq steal ...".
std::map<int, Ticks> ReadTicks(const std::string& text) {
  std::map<int, Ticks> cores;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::istringstream words(line);
    std::string name;
    double user = 0, low = 0, system = 0, idle = 0, waiting = 0, irq = 0, softirq = 0, steal = 0;
    words >> name >> user >> low >> system >> idle >> waiting >> irq >> softirq >> steal;
    if (!words || name.size() < 4 || name.compare(0, 3, "cpu") != 0) continue;
    const double used = user + system + irq + softirq + steal;
    cores[std::stoi(name.substr(3))] = {used, low, used + low + idle + waiting};
  }
  return cores;
}

std::string ReadStat() {
  std::ifstream in("/proc/stat");
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

bool MayRunOn(int core) {
  cpu_set_t set;
  if (core >= CPU_SETSIZE || sched_getaffinity(0, sizeof(set), &set) != 0) return true;
  return CPU_ISSET(core, &set);
}

}  // namespace

CoreUse UseBetween(const std::string& before, const std::string& after,
                   bool (*may_run_on)(int core), bool low_counts) {
  CoreUse use;
  const std::map<int, Ticks> begin = ReadTicks(before);
  for (const auto& [core, end] : ReadTicks(after)) {
    const auto start = begin.find(core);
    if (start == begin.end() || !may_run_on(core)) continue;
    ++use.cores;
    const double all = end.all - start->second.all;
    double used = end.used - start->second.used;
    if (low_counts) used += end.low - start->second.low;
    use.free += all > 0 ? 1 - std::clamp(used / all, 0.0, 1.0) : 1;
  }
  return use;
}

CoreUse LookAtCores() {
  const std::string before = ReadStat();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  return UseBetween(before, ReadStat(), MayRunOn, getpriority(PRIO_PROCESS, 0) > 0);
}

std::string ThreadAdvice(int threads, const CoreUse& use) {
  if (use.cores == 0 || threads <= 1) return "";
  if (threads > use.cores) {
    return absl::StrFormat("%d threads on %d cores, which is slow: set threads to %d or fewer",
                           threads, use.cores, use.cores);
  }
  // Threads that sleep while they wait lose little where less than one core is taken.
  if (threads <= use.free + 1) return "";
  return absl::StrFormat(
      "%d threads, but other programs leave %.1f of %d cores: threads: %d may be faster", threads,
      use.free, use.cores, std::max(1, static_cast<int>(std::lround(use.free))));
}

}  // namespace mambad::trainer
