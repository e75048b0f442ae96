// How many of LibTorch's threads a run's products get.

#ifndef MAMBAD_TRAINER_STAGES_RUN_THREADS_H_
#define MAMBAD_TRAINER_STAGES_RUN_THREADS_H_

#include <cstdint>

#include "trainer/modules/language_model.h"
#include "trainer/stages/stage_run.h"

namespace mambad::trainer {

// On the CPU, where the settings name no number: measures with `rows` rows (fewer where that takes
// long) through the largest matrix of `model`'s blocks, takes the fastest number for all processes
// and says so. A run that goes on keeps the number that it had before, because the last bits of
// LibTorch's large sums depend on it. At most LibTorch's own default, or OMP_NUM_THREADS. All
// processes call it at once, after models are loaded and before they compute. Takes less than a
// second, but where one product takes longer than a twentieth.
void ChooseThreads(const StageRun& run, const LanguageModel& model, int64_t rows);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_RUN_THREADS_H_
