// Files of prompts, and traces: what is asked, and when.

#ifndef MAMBAD_SERVER_CLI_BENCH_PROMPT_FILE_H_
#define MAMBAD_SERVER_CLI_BENCH_PROMPT_FILE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace mambad::cli {

// What one line asks for. Either `turns` or `prompt_tokens`.
struct PromptEntry {
  std::vector<std::string> turns;  // said one after the other, in one conversation; UTF-8
  // Of a prompt of random tokens. Prompts whose `blocks` begin alike begin with the same tokens:
  // each block stands for kBlockTokens.
  int64_t prompt_tokens = 0;
  std::vector<int64_t> blocks;
  std::optional<int64_t> answer_tokens;  // the answer has exactly so many
  std::optional<double> arrival;         // seconds after the trace began
};

inline constexpr int64_t kBlockTokens = 512;  // of the published traces

// Lines of text, one prompt each; or, where the first line that is not empty begins with a brace,
// one JSON object a line, with one of
//   "turns": [TEXT, ...]            as MT-bench and Spec-Bench have them
//   "prompt", "question" or "text": TEXT
//   "messages": [{"role", "content"}, ...]     of which those of users are the turns
//   "input_length": N, and "hash_ids": [N, ...]   as in the traces of Mooncake
// and, where wanted, "output_length": N and "timestamp": milliseconds. Other keys are not read.
// `name` is what errors call the file. Empty, or what is wrong with which line.
std::string ParsePrompts(const std::string& name, const std::string& text,
                         std::vector<PromptEntry>* entries);

// Of entries that all have an arrival: puts them in its order, the first one at 0. Empty, or the
// number of an entry that has none.
std::string SortByArrival(const std::string& name, std::vector<PromptEntry>* entries);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_BENCH_PROMPT_FILE_H_
