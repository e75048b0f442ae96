// `trainer generate`: a teacher writes answers to prompts, or whole conversations out of nothing.

#ifndef MAMBAD_TRAINER_STAGES_GENERATE_H_
#define MAMBAD_TRAINER_STAGES_GENERATE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "trainer/train_config.h"

namespace mambad::trainer {

struct GenerateConfig {
  RunConfig run;
  std::string model;                            // directory
  std::vector<std::string> prompts = {"none"};  // files, or "none"
  int64_t records = 1000;                       // without prompts
  int64_t samples_per_prompt = 1;               // with prompts
  int64_t sequences = 64;
  int64_t shard_records = 1024;
  int64_t maximum_tokens = 512;  // prompt and answer
  double lowest_temperature = 0.7, highest_temperature = 1.0;
  double top_p = 0.95;
  double most_compression = 3.0;
};

void Describe(Settings* settings, GenerateConfig* config);

// Writes generated.jsonl ({"messages"} with a chat template, else {"text"}) into the run's folder,
// and on the way there shards/: a run that was killed goes on from those that were finished and a
// state of every ten minutes, one that was stopped by a signal (stop_signal.h) from where it was.
// The same settings give the same file however often the run was interrupted (bit for bit on the
// CPU) and by how many processes it is made. Throws std::runtime_error, and Stopped after a signal.
void RunGenerate(const GenerateConfig& config);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_GENERATE_H_
