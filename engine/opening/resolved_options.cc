#include "engine/opening/resolved_options.h"

#include <unistd.h>

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "kernels/backend.h"

namespace mambad {
namespace {

using checkpoint::ModelConfig;

// Tokens of context that can be configured at all.
constexpr int64_t kMaxContext = int64_t{1} << 24;
constexpr int64_t kLeastContext = 2;
constexpr int64_t kUnboundedContext =
    32768;  // served by default where the model itself has no limit
constexpr int kMaxSequences = 4096;
constexpr int kSequences = 16, kSequencesOfDevice = 64;   // by default
constexpr int kStepRows = 256, kStepRowsOfDevice = 1024;  // by default
constexpr int kLeastRowsPerSequence = 2;
constexpr int64_t kCacheTokensPerSequence = 2048;      // room by default
constexpr int64_t kPenaltyBytes = int64_t{128} << 20;  // by default, of counts and biases
constexpr int64_t kLeastPenalised = 16;
// Pages over all slots that page tables may name: 1 GiB, on the host and on the device.
constexpr int64_t kMaxTableEntries = int64_t{1} << 28;

absl::Status CheckRange(const char* name, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(name, ": ", value, " given, allowed ", low, " to ", high));
}

// Positions that the page tables of so many sequences may name.
int64_t LongestContext(const EngineOptions& options) {
  return kMaxTableEntries / options.max_sequences * kernels::kPageTokens;
}

absl::Status CheckVocabularies(const ModelConfig& target, const ModelConfig& draft,
                               const EngineOptions& options) {
  if (draft.vocabulary == target.vocabulary && draft.padded_vocabulary == target.padded_vocabulary)
    return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(options.draft_model, ": draft model has a vocabulary of ", draft.vocabulary,
                   " (", draft.padded_vocabulary, " rows), the target of ", target.vocabulary, " (",
                   target.padded_vocabulary, " rows); they must be the same"));
}

// An eighth of the memory, for states of sessions.
int64_t UsualHostMemory() {
  constexpr int64_t kMost = int64_t{16} << 30;
  const int64_t memory = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  return std::clamp<int64_t>(memory / 8, 1, kMost);
}

// What the model's files claim, as far as page tables reach: claims are no reason to refuse.
void ChooseContext(const ModelConfig& config, EngineOptions* options,
                   std::vector<std::string>* warnings) {
  const int64_t claimed = config.context_length;
  options->max_context = claimed > 0 ? claimed : kUnboundedContext;
  if (!config.HasMixer(checkpoint::MixerKind::kAttention)) return;
  options->max_context = std::min(options->max_context, LongestContext(*options));
  if (options->max_context == claimed) return;
  warnings->push_back(absl::StrCat(
      options->model, ": its files claim a context of ", claimed, " tokens, ", options->max_context,
      " are served, the most with batching.max_sequences ", options->max_sequences));
}

}  // namespace

absl::Status CheckRanges(const EngineOptions& options) {
  const absl::Status checks[] = {
      CheckRange("batching.max_sequences", options.max_sequences, 0, kMaxSequences),
      CheckRange("batching.max_context", options.max_context, 0, kMaxContext),
      CheckRange("batching.kv_cache_tokens", options.kv_cache_tokens, 0, int64_t{1} << 32),
      CheckRange("batching.max_step_rows", options.max_step_rows, 0, 1 << 16),
      CheckRange("batching.max_penalised", options.max_penalised, 0, kMaxSequences),
      CheckRange("batching.max_waiting", options.max_waiting, 0, 1 << 20),
      CheckRange("speculation.max_draft_length", options.max_draft_length, 1, kMaxDraftLength),
      CheckRange("compute.threads", options.threads, 0, 1024),
      CheckRange("sessions.max_sessions", options.sessions.max_sessions, 1, 1 << 20),
      CheckRange("sessions.host_memory_bytes", options.sessions.host_memory_bytes, 0,
                 int64_t{1} << 50),
      CheckRange("prefix_cache.host_memory_bytes", options.prefix_cache_bytes, 0, int64_t{1} << 50),
  };
  for (const absl::Status& status : checks) {
    if (!status.ok()) return status;
  }
  if (!(options.memory_fraction >= 0 && options.memory_fraction <= 1)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "batching.memory_fraction: ", options.memory_fraction, " given, allowed 0 to 1"));
  }
  const int64_t least = int64_t{kLeastRowsPerSequence} * options.max_sequences;
  if (options.max_step_rows == 0 || options.max_step_rows >= least) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "batching.max_step_rows: ", options.max_step_rows, " is too few for batching.max_sequences: ",
      options.max_sequences, " (at least ", least, ", or 0: chosen)"));
}

absl::Status ResolveOptions(const ModelConfig& target, const ModelConfig* draft,
                            EngineOptions* options, std::vector<std::string>* warnings) {
  if (draft != nullptr) {
    if (absl::Status status = CheckVocabularies(target, *draft, *options); !status.ok())
      return status;
  }
  if (options->max_step_rows == 0) {
    options->max_step_rows = UsualStepRows(options->max_sequences, false);
  }
  if (options->max_penalised == 0) {
    const int64_t fitting = kPenaltyBytes / (8 * target.padded_vocabulary);
    options->max_penalised = static_cast<int>(
        std::clamp<int64_t>(fitting, kLeastPenalised, std::numeric_limits<int>::max()));
  }
  if (options->sessions.host_memory_bytes == 0)
    options->sessions.host_memory_bytes = UsualHostMemory();
  options->max_penalised = std::min(options->max_penalised, options->max_sequences);
  if (target.context_length > 0 && options->max_context > target.context_length) {
    return absl::InvalidArgumentError(absl::StrCat("batching.max_context: ", options->max_context,
                                                   " given, but the model's limit is ",
                                                   target.context_length));
  }
  const bool is_chosen = options->max_context == 0;
  if (is_chosen) ChooseContext(target, options, warnings);
  if (options->max_context >= kLeastContext) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(is_chosen ? absl::StrCat(options->model, ": its files claim a context of ")
                             : "batching.max_context: ",
                   options->max_context, is_chosen ? "" : " given", ", it must be at least ",
                   kLeastContext, ": a token of a prompt and one of an answer"));
}

absl::Status CheckPageTable(const EngineOptions& options, bool has_attention) {
  const int64_t longest = LongestContext(options);
  if (!has_attention || options.max_context <= longest) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("batching.max_context: ", options.max_context, " given, allowed at most ",
                   longest, " with batching.max_sequences ", options.max_sequences));
}

int UsualStepRows(int sequences, bool dedicated) {
  return std::max(dedicated ? kStepRowsOfDevice : kStepRows, kLeastRowsPerSequence * sequences);
}

int UsualSequences(const EngineOptions& options, bool dedicated) {
  const int usual = dedicated ? kSequencesOfDevice : kSequences;
  if (options.max_step_rows == 0) return usual;
  return std::clamp(options.max_step_rows / kLeastRowsPerSequence, 1, usual);
}

int64_t SharedCacheTokens(const EngineOptions& options) {
  return std::min(options.max_context, kCacheTokensPerSequence) * options.max_sequences;
}

int64_t UsualCacheTokens(const EngineOptions& options) {
  return std::max(options.max_context, SharedCacheTokens(options));
}

}  // namespace mambad
