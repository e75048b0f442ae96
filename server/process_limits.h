// What the system allows this process, and what it uses.

#ifndef MAMBAD_SERVER_PROCESS_LIMITS_H_
#define MAMBAD_SERVER_PROCESS_LIMITS_H_

#include <cstdint>

namespace mambad::server {

// Raises the limit of open descriptors as far as this process may; returns what it is then.
int64_t RaiseDescriptorLimit();

// Bytes of memory that this process may use: the machine's, or less where a control group (version
// 1 or 2) says so. 0: unknown.
int64_t MemoryLimitBytes();

// What Prometheus' clients tell of a process, read from /proc. 0 where it cannot be read.
struct ProcessUsage {
  double cpu_seconds = 0;    // user and system
  double start_seconds = 0;  // since the Unix epoch
  int64_t resident_bytes = 0;
  int64_t virtual_bytes = 0;
  int64_t threads = 0;
  int64_t open_descriptors = 0;
  int64_t most_descriptors = 0;
};
ProcessUsage ReadProcessUsage();

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_PROCESS_LIMITS_H_
