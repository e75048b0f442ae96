#ifndef MAMBAD_TRAINER_FREE_MEMORY_H_
#define MAMBAD_TRAINER_FREE_MEMORY_H_

#include <string>

namespace mambad::trainer {

// Bytes of the machine's memory that this process may still take: what the kernel calls available,
// and no more than its control groups (version 1 or 2, as containers and batch systems set them)
// leave. Caches of files count as free. Infinity where nothing is known. `root`: of the file system
// that has proc and sys/fs/cgroup.
double FreeMachineBytes(const std::string& root = "/");

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_FREE_MEMORY_H_
