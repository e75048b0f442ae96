// The flags of mambactl bench, and what they say.

#ifndef MAMBAD_SERVER_CLI_BENCH_BENCH_FLAGS_H_
#define MAMBAD_SERVER_CLI_BENCH_BENCH_FLAGS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>

#include "server/cli/bench/bench_report.h"
#include "server/cli/bench/load_run.h"
#include "server/cli/bench/workload.h"
#include "server/cli/generation_flags.h"
#include "server/cli/input_flags.h"

namespace mambad::cli {

// What the flags say, read and checked before anything is sent.
struct BenchPlan {
  WorkloadOptions workload;  // without the vocabulary, which the server tells
  LoadPlan load;
  BenchGoals goals;
  std::optional<std::string> plot;  // file
  std::string description;          // one line about what is to be measured
};

class BenchFlags {
 public:
  void Register(CLI::App* command);
  // Empty, or what is wrong.
  std::string Read(BenchPlan* plan) const;

 private:
  void RegisterInput(CLI::App* command);
  void RegisterLoad(CLI::App* command);
  void RegisterGoals(CLI::App* command);
  std::string ReadInput(BenchPlan* plan) const;
  std::string ReadPromptFile(BenchPlan* plan) const;
  std::string CheckTurns(const BenchPlan& plan, bool has_input) const;
  void ReadLoad(BenchPlan* plan) const;
  std::string Describe(const BenchPlan& plan) const;

  InputFlags input_;
  GenerationFlags generation_;
  std::optional<int64_t> requests_;
  int concurrency_ = 4;
  std::optional<double> rate_;          // conversations a second: open loop
  std::optional<double> seconds_;       // no conversation begins after that
  std::optional<int> prompt_tokens_;    // random prompts of this many ids
  std::optional<std::string> prompts_;  // file
  std::optional<std::string> trace_;    // file
  double speed_ = 1, scale_ = 1;        // of the trace
  std::optional<int> turns_;
  double kept_share_ = 0;
  bool chat_ = false;
  int retries_ = 0;
  uint64_t seed_ = 1;  // of random prompts and arrival times
  std::optional<double> goal_first_token_ms_, goal_per_token_ms_, goal_end_to_end_ms_;
  std::optional<std::string> plot_;
};

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_BENCH_BENCH_FLAGS_H_
