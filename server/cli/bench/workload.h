// What a load run asks, conversation by conversation, and when each begins.

#ifndef MAMBAD_SERVER_CLI_BENCH_WORKLOAD_H_
#define MAMBAD_SERVER_CLI_BENCH_WORKLOAD_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mambad/v1/generation.pb.h"
#include "server/cli/bench/prompt_file.h"

namespace mambad::cli {

// One piece of what is said: a text, or token ids where it is empty.
struct Turn {
  std::string text;
  std::vector<int32_t> token_ids;
};

// Its turns are asked one after the other, each as soon as the one before is answered.
struct Talk {
  std::vector<Turn> turns;
  std::optional<int64_t> answer_tokens;  // of each answer, exactly
  bool is_kept = false;                  // goes on in a session, which is deleted at its end
};

struct WorkloadOptions {
  std::vector<PromptEntry> entries;  // taken in order, again from the first after the last
  int64_t random_tokens = 0;         // a turn, where there are no entries
  int turns = 0;          // of a conversation; 0: one, or as many as its entry has. Where entries
                          // are single prompts, it takes the next ones
  double kept_share = 0;  // of the conversations, 0 to 1
  double scale = 1;       // of the lengths that entries have in tokens
  uint64_t seed = 1;
  int32_t vocabulary = 0;
};

// The same options make the same conversations. Thread-safe.
class Workload {
 public:
  explicit Workload(WorkloadOptions options) : options_(std::move(options)) {}
  Talk TalkAt(int64_t index) const;

 private:
  void ReadEntries(int64_t index, Talk* talk) const;
  std::vector<int32_t> RandomTokens(const PromptEntry& entry, uint64_t stream) const;
  int64_t Scaled(int64_t tokens) const;

  const WorkloadOptions options_;
};

// The requests of one conversation, made of what was said and answered so far.
class TalkRequests {
 public:
  // `base`: all that its requests have in common; with an input, that is the first turn's. `chat`:
  // what is said are messages of a user. Both arguments outlive this.
  TalkRequests(const v1::GenerateRequest& base, const Talk& talk, bool chat)
      : base_(base), talk_(talk), chat_(chat) {}

  v1::GenerateRequest Next();
  // What came of it.
  void Answered(const std::string& text, const std::vector<int32_t>& token_ids,
                const std::string& session_id);
  const std::string& session_id() const { return session_id_; }  // empty: none yet

 private:
  const v1::GenerateRequest& base_;
  const Talk& talk_;
  const bool chat_;
  size_t next_ = 0;
  std::string text_;                // so far
  std::vector<int32_t> token_ids_;  // so far
  v1::Conversation conversation_;   // so far
  std::string session_id_;
};

// Seconds after the start at which `count` conversations begin, or all that begin within `seconds`:
// a Poisson process of `rate` a second.
std::vector<double> DrawArrivals(double rate, uint64_t seed, int64_t count,
                                 std::optional<double> seconds);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_BENCH_WORKLOAD_H_
