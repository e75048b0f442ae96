// What a run was begun with: a state goes on only with the same models and text, not merely with
// files of the same names.

#ifndef MAMBAD_TRAINER_STAGES_RUN_INPUTS_H_
#define MAMBAD_TRAINER_STAGES_RUN_INPUTS_H_

#include <string>

#include "trainer/stages/stage_run.h"

namespace mambad::trainer {

// Of a model's configuration and weights (up to 4 KiB at both ends of every tensor). Throws
// std::runtime_error.
std::string ModelFingerprint(const std::string& directory);

// Notes in inputs.json of the run's folder what stands behind `key`, a setting that names text or a
// model. Throws std::runtime_error when the run had saved states as it was opened and was begun
// with something else there. First process only.
void RequireSameInput(const StageRun& run, const std::string& key, const std::string& fingerprint);

// Notes there how many threads the run computes with; what was noted last where the run goes on,
// else 0. Throw std::runtime_error. First process only.
void KeepThreads(const StageRun& run, int threads);
int KeptThreads(const StageRun& run);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_RUN_INPUTS_H_
