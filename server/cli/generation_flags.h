// Flags of the commands that generate, and the request they make.

#ifndef MAMBAD_SERVER_CLI_GENERATION_FLAGS_H_
#define MAMBAD_SERVER_CLI_GENERATION_FLAGS_H_

#include <CLI/CLI.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "mambad/v1/generation.pb.h"

namespace mambad::cli {

class GenerationFlags {
 public:
  // `one_answer`: without the flags that make no sense in a conversation.
  void Register(CLI::App* app, bool one_answer);
  // Everything but the input. Empty, or what is wrong with the flags.
  std::string Fill(v1::GenerateRequest* request) const;

 private:
  void RegisterSampling(CLI::App* app);
  void RegisterStopping(CLI::App* app);
  void RegisterOutput(CLI::App* app, bool one_answer);
  std::string FillSampling(v1::Sampling* sampling) const;
  std::string FillStopping(v1::Stopping* stopping) const;

  std::optional<std::string> stop_token_ids_, allowed_token_ids_, request_id_, session_;
  std::vector<std::string> stop_strings_, logit_bias_;
  std::optional<int64_t> max_tokens_, min_tokens_;
  std::optional<float> temperature_, top_p_, min_p_;
  std::optional<float> repetition_penalty_, presence_penalty_, frequency_penalty_;
  std::optional<int32_t> top_k_, logprobs_, prompt_logprobs_, n_, stream_interval_, draft_length_,
      priority_;
  std::optional<uint64_t> seed_;
  std::string speculation_ = "auto";
  bool ignore_eos_ = false, include_stop_ = false, echo_ = false, keep_session_ = false;
};

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_GENERATION_FLAGS_H_
