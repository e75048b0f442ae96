// How many processor cores other programs leave.

#ifndef MAMBAD_TRAINER_FREE_CORES_H_
#define MAMBAD_TRAINER_FREE_CORES_H_

#include <string>

namespace mambad::trainer {

struct CoreUse {
  int cores = 0;    // that this process may run on
  double free = 0;  // of them, on average over the time looked at
};

// Looks for a fifth of a second. What runs at a lower priority than this process counts as free.
// cores is 0 where the system does not tell.
CoreUse LookAtCores();

// Between two readings of /proc/stat; `may_run_on` tells of a core's number. `low_counts`: time of
// programs of low priority counts as used.
CoreUse UseBetween(const std::string& before, const std::string& after,
                   bool (*may_run_on)(int core), bool low_counts);

// What is to be said about `threads` on such cores; "" when all is well.
std::string ThreadAdvice(int threads, const CoreUse& use);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_FREE_CORES_H_
