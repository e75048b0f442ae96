// Asking a server all that a workload holds, at a given pace, and timing the answers.

#ifndef MAMBAD_SERVER_CLI_BENCH_LOAD_RUN_H_
#define MAMBAD_SERVER_CLI_BENCH_LOAD_RUN_H_

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "engine/mutex.h"
#include "mambad/v1/generation.pb.h"
#include "mambad/v1/session.grpc.pb.h"
#include "server/cli/bench/bench_report.h"
#include "server/cli/bench/workload.h"
#include "server/cli/connection.h"

namespace mambad::cli {

struct LoadPlan {
  v1::GenerateRequest base;  // what all requests have in common
  InputNames names;
  int64_t talks = 0;
  int at_a_time = 1;  // conversations
  std::vector<double>
      arrivals;  // of each, seconds after the start; empty: as soon as there is room
  std::optional<double> seconds;  // none begins after that
  int retries = 0;                // a request, where the server has no room: when it says
  bool chat = false;
};

// Used once, by one thread; the conversations run on threads of its own.
class LoadRun {
 public:
  // All outlive the run.
  LoadRun(const Connection& connection, const Workload& workload, const LoadPlan& plan);

  // Blocks until all is answered. Of each request what its caller saw.
  std::vector<BenchSample> Run();
  double seconds() const { return seconds_; }  // that it took

 private:
  using Clock = std::chrono::steady_clock;
  struct Answer {
    BenchSample sample;
    std::string text;  // of index 0
    std::vector<int32_t> token_ids;
    std::string session_id;
  };

  void RunTalks();
  void RunTalk(const Talk& talk, Clock::time_point begin);
  // Asks until it is let in, fails otherwise, or has tried often enough.
  Answer Ask(const v1::GenerateRequest& request, Clock::time_point begin);
  // One attempt; what it was told when there was no room.
  std::optional<double> Attempt(const v1::GenerateRequest& request, Clock::time_point begin,
                                Answer* answer);
  void Delete(const std::string& session_id);
  bool TakeNext(int64_t* index);

  const Connection& connection_;
  const Workload& workload_;
  const LoadPlan& plan_;
  const std::unique_ptr<v1::Sessions::Stub> sessions_;
  Clock::time_point start_;
  double seconds_ = 0;
  Mutex mutex_;
  int64_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<BenchSample> samples_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_BENCH_LOAD_RUN_H_
