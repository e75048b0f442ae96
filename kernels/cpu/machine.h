// What this machine has left, as its kernel tells it in files. Std only; any thread.

#ifndef MAMBAD_KERNELS_CPU_MACHINE_H_
#define MAMBAD_KERNELS_CPU_MACHINE_H_

#include <string>

namespace mambad::kernels {

// Bytes of the machine's memory that this process may still take: what the kernel calls available,
// and no more than its control groups (version 1 or 2, as containers and batch systems set them)
// leave. Caches of files count as free. Infinity where nothing is known. `root`: of the file system
// that has proc and sys/fs/cgroup.
double FreeMachineBytes(const std::string& root = "/");

// The same of all its memory, in use or not: no more than its control groups allow.
double MachineBytes(const std::string& root = "/");

// Of `cores`, all that the machine has, those that others leave: less by the load average of the
// last minute. Infinity where it is not known.
double FreeCores(int cores, const std::string& root = "/");

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CPU_MACHINE_H_
