// Settings of the engine and of one request: plain structs with defaults and units. Parsed and
// validated once, then passed as const.

#ifndef MAMBAD_ENGINE_OPTIONS_H_
#define MAMBAD_ENGINE_OPTIONS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace mambad {

using TokenId = int32_t;

// The longest draft a round may verify, in tokens; a round scores at most kMaxDraftLength + 1 rows
// a sequence.
inline constexpr int kMaxDraftLength = 16;

enum class ComputeType { kAuto, kFloat32, kBFloat16 };
enum class DrafterKind { kNone, kDraftModel, kPromptLookup };

// Texts that outlive calls, with the models' state of them (engine/session.h).
struct SessionOptions {
  std::string directory;  // where they outlive the process; empty: they end with it
  int max_sessions = 4096;
  // States that are kept beside the slots, in all. 0: an eighth of the memory, 16 GiB at most.
  int64_t host_memory_bytes = 0;
  absl::Duration idle_timeout = absl::Hours(24);  // one that nobody uses for so long goes; 0: none
};

struct EngineOptions {
  std::string model;            // checkpoint directory or .gguf file
  std::string draft_model;      // the same; empty: no draft model
  std::string chat_template;    // file of a Jinja template instead of the model's own; empty: that
  std::string device = "auto";  // "auto", "cpu", "cuda", "cuda:N"
  int threads = 0;              // CPU backend's compute threads at most; 0: one a core it may use
  // kAuto: as the file has most of its matrices (engine/weight_type.h).
  ComputeType weight_type = ComputeType::kAuto;
  // What activations are rounded to before products with bf16 weights. kAuto: to bfloat16 where the
  // device multiplies them faster, which halves that arithmetic at least and moves
  // log-probabilities by about 1e-2; float32 products are as exact as float32 allows. kBFloat16
  // where it cannot be is refused. With float32 weights nothing is rounded.
  ComputeType activations = ComputeType::kAuto;

  // What keys and values are kept as, rounded once when a token is read: bfloat16 takes half the
  // room of float32. kAuto: as is usual on the device; float32 on the CPU.
  ComputeType kv_type = ComputeType::kAuto;
  // To find bugs: all that is asked of the device is checked, decode rounds are replayed. Slow.
  bool check_calls = false;

  // Of the device's free memory, what sizes that are chosen may fill, (0, 1]; sizes that are named
  // may fill all of it. 0: 0.9 of a GPU's own memory, 0.95 of the machine's.
  double memory_fraction = 0;
  // Sequences that run together: state slots. 0: 16; on a GPU 64, or as many as its memory holds.
  int max_sequences = 0;
  int64_t max_context =
      0;  // tokens of prompt + answer; 0: the model's own limit, or 32768 without one
  // Room for keys and values, tokens over all sequences. 0: max_sequences * 2048 or one whole
  // context, the larger; on a GPU a whole context for each, as far as its memory holds them.
  int64_t kv_cache_tokens = 0;
  // Rows the target scores in one step: bounds the time between tokens while prompts run. 0: 256,
  // on a GPU 1,024 if they fit, or two a sequence where that is more, for a draft of each.
  int max_step_rows = 0;
  // Of them, those that may have penalties at once, and as many that may have biases or allowed
  // tokens; more wait. Each takes 8 bytes a token of the vocabulary. 0: all, or as many (16 at
  // least) as 128 MB hold.
  int max_penalised = 0;
  int max_waiting = 256;  // requests queued beyond those running; more are refused at once
  int64_t max_waiting_tokens = 1 << 20;  // prompt tokens in the queue

  bool speculation =
      true;  // false: requests' speculation settings are ignored and nothing is drafted
  bool prompt_lookup = true;  // prompt lookup may be used where no draft model is, or beats it
  int max_draft_length = 8;   // 1..kMaxDraftLength; adaptive lengths stay at or below it

  SessionOptions sessions;
  // Host memory for states at the beginnings of prompts, which others that begin alike go on from
  // (engine/sessions/prefix_cache.h), bytes. 0: none are kept.
  int64_t prefix_cache_bytes = 0;
};

// Bounds of what follows.
inline constexpr float kLeastTopP = 1e-6f;
inline constexpr float kLeastRepetitionPenalty = 1e-6f;
inline constexpr float kLargestLogitBias = 1000.0f;

// How the next token is chosen. Defaults are those of a request that says nothing (after the
// model's own).
struct SamplingParams {
  float temperature = 0.0f;         // [0, 100]; 0: greedy
  float top_p = 1.0f;               // [kLeastTopP, 1]
  int top_k = 0;                    // [0, vocabulary]; 0: off
  float min_p = 0.0f;               // [0, 1]
  float repetition_penalty = 1.0f;  // [kLeastRepetitionPenalty, 100]; prompt and answer
  float presence_penalty = 0.0f;    // [-100, 100]; answer only
  float frequency_penalty = 0.0f;   // [-100, 100]; answer only, per occurrence
  uint64_t seed = 0;
  // Added to the logit: from -kLargestLogitBias to that.
  std::vector<std::pair<TokenId, float>> logit_bias;
  std::vector<TokenId> allowed_token_ids;  // empty: all
};

struct StoppingParams {
  int64_t max_tokens = 0;  // 0: as many as the context allows and the cache could hold; such an
                           // answer may be interrupted and read again when pages run out
  int64_t min_tokens = 0;  // end-of-text and stop ids cannot be sampled before; some other token
                           // must be allowed then
  std::vector<std::string> stop_strings;
  std::vector<TokenId> stop_token_ids;
  bool ignore_eos = false;
  bool include_stop = false;  // leave the stop string or stop token in the text
};

struct OutputParams {
  int logprobs = -1;         // alternatives a token; 0: the chosen token only; -1: none
  int prompt_logprobs = -1;  // likewise for the prompt
  bool echo = false;         // prompt text first
  int samples = 1;           // answers forked after prefill
};

enum class SpeculationMode { kAuto, kOff, kDraftModel, kPromptLookup };

struct SpeculationParams {
  SpeculationMode mode = SpeculationMode::kAuto;
  std::optional<int> draft_length;  // 0..max_draft_length; absent: adaptive
};

}  // namespace mambad

#endif  // MAMBAD_ENGINE_OPTIONS_H_
