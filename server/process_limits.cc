#include "server/process_limits.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace mambad::server {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

// The number after `key` at the beginning of a line; 0: none.
int64_t Find(const std::string& text, absl::string_view key) {
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    if (line.substr(0, key.size()) != key) continue;
    const std::vector<absl::string_view> words =
        absl::StrSplit(line.substr(key.size()), absl::ByAnyChar(" \t"), absl::SkipEmpty());
    int64_t value = 0;
    return !words.empty() && absl::SimpleAtoi(words[0], &value) ? value : 0;
  }
  return 0;
}

int64_t CountDescriptors() {
  DIR* const folder = opendir("/proc/self/fd");
  if (folder == nullptr) return 0;
  int64_t count = -1;  // the folder's own
  while (const dirent* entry = readdir(folder)) count += entry->d_name[0] != '.';
  closedir(folder);
  return count;
}

// The bounds of this control group and those around it, up to the root.
int64_t LeastOfGroups(const std::string& mount, std::string group, const char* file) {
  int64_t least = std::numeric_limits<int64_t>::max();
  for (;;) {
    int64_t bytes = 0;
    const std::string text = ReadFile(absl::StrCat(mount, group, "/", file));
    if (absl::SimpleAtoi(text, &bytes) && bytes > 0) least = std::min(least, bytes);
    if (group.empty()) return least;
    group.resize(group.rfind('/'));
  }
}

int64_t GroupLimitBytes() {
  int64_t least = std::numeric_limits<int64_t>::max();
  const std::string groups = ReadFile("/proc/self/cgroup");
  for (absl::string_view line : absl::StrSplit(groups, '\n', absl::SkipEmpty())) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3 || parts[2].empty() || parts[2][0] != '/') continue;
    const std::string group = parts[2] == "/" ? "" : parts[2];
    if (parts[1].empty()) {
      least = std::min(least, LeastOfGroups("/sys/fs/cgroup", group, "memory.max"));
    } else if (parts[1] == "memory") {
      least =
          std::min(least, LeastOfGroups("/sys/fs/cgroup/memory", group, "memory.limit_in_bytes"));
    }
  }
  return least;
}

}  // namespace

int64_t RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return 0;
  const rlimit raised = {limit.rlim_max, limit.rlim_max};
  if (limit.rlim_cur < limit.rlim_max && setrlimit(RLIMIT_NOFILE, &raised) == 0) limit = raised;
  return static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, rlim_t{1} << 40));
}

int64_t MemoryLimitBytes() {
  const int64_t machine = Find(ReadFile("/proc/meminfo"), "MemTotal:") * 1024;
  return machine == 0 ? 0 : std::min(machine, GroupLimitBytes());
}

ProcessUsage ReadProcessUsage() {
  ProcessUsage usage;
  const std::string status = ReadFile("/proc/self/status");
  usage.resident_bytes = Find(status, "VmRSS:") * 1024;
  usage.virtual_bytes = Find(status, "VmSize:") * 1024;
  usage.threads = Find(status, "Threads:");
  usage.open_descriptors = CountDescriptors();
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    usage.most_descriptors =
        static_cast<int64_t>(std::min<rlim_t>(limit.rlim_cur, rlim_t{1} << 40));
  }
  rusage used{};
  if (getrusage(RUSAGE_SELF, &used) == 0) {
    usage.cpu_seconds = static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
                        static_cast<double>(used.ru_utime.tv_usec + used.ru_stime.tv_usec) * 1e-6;
  }
  // Field 22, counted from the state that follows the name in parentheses (field 3), in ticks since
  // the machine's start.
  const std::string stat = ReadFile("/proc/self/stat");
  const size_t name_end = stat.rfind(") ");
  if (name_end == std::string::npos) return usage;
  const std::vector<std::string> fields = absl::StrSplit(stat.substr(name_end + 2), ' ');
  int64_t ticks = 0;
  const int64_t boot = Find(ReadFile("/proc/stat"), "btime");
  if (fields.size() > 19 && absl::SimpleAtoi(fields[19], &ticks) && boot > 0) {
    usage.start_seconds = static_cast<double>(boot) +
                          static_cast<double>(ticks) / static_cast<double>(sysconf(_SC_CLK_TCK));
  }
  return usage;
}

}  // namespace mambad::server
