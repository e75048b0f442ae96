// Where a command writes: who works there, what lies there already, and the settings that it was
// made with.

#ifndef MAMBAD_TRAINER_STAGES_RUN_FOLDER_H_
#define MAMBAD_TRAINER_STAGES_RUN_FOLDER_H_

#include <functional>
#include <memory>
#include <string>

#include "trainer/run_lock.h"
#include "trainer/settings.h"

namespace mambad::trainer {

// The folder of a run, which its first process holds for as long as it works.
class RunFolder {
 public:
  // Makes the folder where it is missing. Throws std::runtime_error: it cannot be made or written,
  // is a model's directory, or another process works in it.
  explicit RunFolder(const std::string& path);
  // Where an exception ends the command before anything was made, a folder that was made here goes
  // again.
  ~RunFolder();
  RunFolder(const RunFolder&) = delete;
  RunFolder& operator=(const RunFolder&) = delete;

  // Whether a run that was begun here can go on: saved states are there.
  bool goes_on() const { return goes_on_; }

  // Writes the resolved settings to config.yaml. Throws std::runtime_error, and leaves all as it
  // was, when the folder holds
  //   - the work of another command, or a run of other settings that has saved states or a model
  //     (the first setting that differs is named): those that only say how long, how often, where
  //     or on how many threads may differ, and those with which a run that diverged is led on from
  //     its last good state;
  //   - a model that no run made;
  //   - saved states, and a rate or clip_norm is higher than the run was begun with.
  // With `overwrite` what is found of the first two kinds is removed instead, unless a setting
  // names something in it; then the words that say so are returned, else "". What has changed of
  // rates is told in config.yaml: "# from step 75: learning_rate: 0.003 -> 0.001".
  std::string KeepSettings(const std::string& command, const DescribeFunction& describe,
                           bool overwrite);

 private:
  std::string path_;
  bool made_ = false;
  int exceptions_ = 0;  // that were on their way as it was made
  bool goes_on_ = false;
  std::unique_ptr<RunLock> lock_;
};

// For a command that makes `output` itself a model's directory. Throws std::runtime_error unless it
// is new, empty, or what the same command made of the same settings; with `overwrite` it may hold
// any model that no setting names.
void RequireFreeOutput(const std::string& output, const std::string& command,
                       const DescribeFunction& describe, bool overwrite);

// Likewise for the tokenizer's files: other files may be in `output` as well, but no model.
void RequireFreeTokenizerOutput(const std::string& output, const std::string& command,
                                const DescribeFunction& describe, bool overwrite);

// Calls `fill` with a directory beside `output` and gives it the name `output`, in the place of
// what was there: a failure leaves that. Throws std::runtime_error.
void ReplaceDirectory(const std::string& output,
                      const std::function<void(const std::string& directory)>& fill);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_RUN_FOLDER_H_
