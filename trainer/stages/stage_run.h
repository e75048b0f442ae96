// What every stage needs before it can begin: device, processes, the run's folder, models and text.

#ifndef MAMBAD_TRAINER_STAGES_STAGE_RUN_H_
#define MAMBAD_TRAINER_STAGES_STAGE_RUN_H_

#include <ATen/core/Tensor.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "trainer/modules/language_model.h"
#include "trainer/plan.h"
#include "trainer/process_group.h"
#include "trainer/stages/held_out.h"
#include "trainer/stages/run_folder.h"
#include "trainer/token_store.h"
#include "trainer/train_config.h"
#include "trainer/train_loop.h"

namespace mambad::trainer {

struct StageRun {
  std::string command;
  std::string folder;  // of the run
  uint64_t seed = 1;
  bool goes_on = false;    // in the first process: the folder held saved states when it was opened
  bool overwrite = false;  // what is in the way in it
  std::unique_ptr<RunFolder> own_folder;  // in the first process
  at::Device device = at::Device(at::kCPU);
  at::ScalarType compute = at::kFloat;
  bool threads_are_set = false;  // by the settings
  std::unique_ptr<ProcessGroup> processes;
  int local_processes = 1;       // on this machine
  std::FILE* progress = stderr;  // null for all but the first process
  // From here loop.most_seconds counts, over all parts of a stage.
  std::chrono::steady_clock::time_point started = std::chrono::steady_clock::now();

  bool first() const { return processes->rank() == 0; }
};

// Joins the process group, sets the device, and the threads where `config` names a number
// (run_threads.h, where not), and takes the folder (run_folder.h). Throws
// std::runtime_error: no such device, a folder that cannot be written or belongs to another
// process.
StageRun JoinStageRun(const std::string& command, const RunConfig& config);

// Writes the resolved settings to config.yaml in the run's folder. Throws std::runtime_error when
// something else lies there (RunFolder::KeepSettings).
void KeepSettings(StageRun* run, const DescribeFunction& describe);

// Both.
StageRun OpenStageRun(const std::string& command, const RunConfig& config,
                      const DescribeFunction& describe);

// Does `work` in the first process while the others wait, as long as it takes; when it throws, all
// throw.
void InFirstProcess(const StageRun& run, const std::function<void()>& work);

// Says a line to whoever watches.
void Say(const StageRun& run, const std::string& words);

// `key`: the setting that named the directory, for messages.
std::unique_ptr<LanguageModel> LoadModel(const StageRun& run, const std::string& key,
                                         const std::string& directory);

// Writes a whole model directory to run.folder + "/" + name (first process; replaces it). `masters`
// as LanguageModel::Save takes them.
void SaveModel(const StageRun& run, const LanguageModel& model, const std::string& text_source,
               StoredType stored, const std::map<std::string, at::Tensor>& masters,
               const std::string& name);

// Throws std::runtime_error unless both models share a vocabulary: the number of tokens and, where
// both directories have a tokenizer, the tokenizer.
void CheckVocabularies(const std::string& first_key, const std::string& first_directory,
                       const LanguageModel& first, const std::string& second_key,
                       const std::string& second_directory, const LanguageModel& second);

// Tokens of data.train or data.valid made with the tokenizer of `model_directory`. `vocabulary` is
// the model's. Throws std::runtime_error, also when tokens lie outside the vocabulary.
TokenStore OpenText(const StageRun& run, const DataConfig& data, const std::string& name,
                    const std::vector<std::string>& files, const std::string& model_directory,
                    int64_t vocabulary);

// Where the tokenizer and the chat template are that a model learns with, and that go with it:
// `directory`, or with a file `chat_template` a folder of the run's with that one in its place.
// Throws std::runtime_error for a file that is no template.
std::string TextSource(const StageRun& run, const std::string& directory,
                       const std::string& chat_template);

// What a stage reads: `train`, and `held_out` where data.valid names files.
struct StageText {
  std::unique_ptr<TokenStore> train, valid;
  std::unique_ptr<HeldOut> held_out;
};
StageText OpenStageText(const StageRun& run, const DataConfig& data, const LoopConfig& loop,
                        const std::string& model_directory, int64_t vocabulary);

// The plan of training on this run's processes: its models and what of them is trained are the
// stage's to fill in.
PlannedRun PlanOf(const StageRun& run, const DataConfig& data, const LoopConfig& loop);

// Throws std::runtime_error (plan.h) in all processes when the plan would not fit into the free
// memory of one of them. Called before models are loaded.
void CheckMemory(const StageRun& run, const PlannedRun& plan);

// `part`: stages that train more than once give each time another order.
DatasetOptions TrainingOrder(const StageRun& run, const DataConfig& data, int64_t part = 0);

// `folder`: under the run's; "" for the run's own.
TrainLoopOptions LoopOptions(const StageRun& run, const LoopConfig& loop, const std::string& title,
                             const std::string& folder = "");

// Over what `model` trains; peak rates: config.learning_rate for mixers, `rest_learning_rate` for
// everything else.
Optimizer OptimizerOf(const StageRun& run, const LanguageModel& model,
                      const OptimizerConfig& config, double rest_learning_rate);

// After a loop that came to its last step: the model in run.folder + "/" + folder + "/model", true.
// Else says that the same command goes on from here; false, or where a signal ended the loop throws
// Stopped.
bool FinishPart(const StageRun& run, const TrainResult& result, const LanguageModel& model,
                const std::string& text_source, StoredType stored, const std::string& folder);
// Likewise for a whole stage: run.folder + "/model" and report.md beside it.
void FinishStage(const StageRun& run, const TrainResult& result, const LanguageModel& model,
                 const std::string& text_source, StoredType stored);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_STAGE_RUN_H_
