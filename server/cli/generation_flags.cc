#include "server/cli/generation_flags.h"

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/cli/input_flags.h"
#include "server/cli/number_options.h"
#include "server/cli/terminal_text.h"

namespace mambad::cli {
namespace {

std::string NotIds(absl::string_view flag, absl::string_view text) {
  return absl::StrCat(flag, ": \"", text, "\": expected numbers as in 1,2,3");
}

}  // namespace

void GenerationFlags::RegisterSampling(CLI::App* app) {
  const std::string group = "How each token is chosen (defaults are the model's own, see info)";
  const auto in_group = [&](CLI::Option* option) { return option->group(group); };
  in_group(
      AddNumber(app, "--temperature", &temperature_, "0 to 100; 0: always the most likely token"));
  in_group(AddNumber(app, "--top-p", &top_p_,
                     "Above 0, to 1: only the most likely tokens that make up this probability"));
  in_group(AddNumber(app, "--top-k", &top_k_, "Only this many most likely tokens; 0: off"));
  in_group(AddNumber(app, "--min-p", &min_p_,
                     "0 to 1: only tokens at least this likely beside the most likely one"));
  in_group(AddNumber(app, "--repetition-penalty", &repetition_penalty_,
                     "Above 0, to 100; above 1 holds back what stands in prompt and answer"));
  in_group(AddNumber(app, "--presence-penalty", &presence_penalty_,
                     "-100 to 100, taken once off a token of the answer (default 0)"));
  in_group(AddNumber(app, "--frequency-penalty", &frequency_penalty_,
                     "-100 to 100, taken off for each time it stands there (default 0)"));
  in_group(AddNumber(
      app, "--seed", &seed_,
      "The same seed and request repeat an answer, whatever is drafted (default: drawn, and "
      "told with the answer)"));
  in_group(app->add_option("--logit-bias", logit_bias_,
                           "Added to a token's logit, -1000 to 1000; may be given again")
               ->type_name("ID:BIAS")
               ->allow_extra_args(false));
  in_group(app->add_option("--allowed-token-ids", allowed_token_ids_, "Only these: 1,2,3")
               ->type_name("IDS"));
}

void GenerationFlags::RegisterStopping(CLI::App* app) {
  const std::string group = "When the answer ends";
  const auto in_group = [&](CLI::Option* option) { return option->group(group); };
  in_group(AddNumber(app, "--max-tokens", &max_tokens_,
                     "Tokens at most (default: what the context has room for)"));
  in_group(AddNumber(app, "--min-tokens", &min_tokens_, "Tokens at least (default 0)"));
  in_group(app->add_option("--stop", stop_strings_, "Text that ends the answer; may be given again")
               ->type_name("TEXT")
               ->allow_extra_args(false));
  in_group(
      app->add_option("--stop-token-ids", stop_token_ids_, "Token ids that end the answer: 1,2,3")
          ->type_name("IDS"));
  in_group(app->add_flag("--ignore-eos", ignore_eos_, "Go on after end-of-text"));
  in_group(app->add_flag("--include-stop", include_stop_, "Leave the stop text in the answer"));
}

void GenerationFlags::RegisterOutput(CLI::App* app, bool one_answer) {
  const std::string group = "What is told";
  const auto in_group = [&](CLI::Option* option) { return option->group(group); };
  in_group(
      AddNumber(app, "--logprobs", &logprobs_,
                "Table of the answer's tokens with log-probabilities, N alternatives to each"));
  if (!one_answer) {
    in_group(AddNumber(app, "--prompt-logprobs", &prompt_logprobs_,
                       "The same for the prompt's tokens, from the second on"));
    in_group(app->add_flag("--echo", echo_, "The prompt's text first"));
    in_group(AddNumber(app, "--n", &n_, "Samples: so many answers to one prompt (default 1)"));
  }
  in_group(AddNumber(app, "--stream-interval", &stream_interval_,
                     "Tokens a message of the stream (default 1)"));
}

void GenerationFlags::Register(CLI::App* app, bool one_answer) {
  RegisterStopping(app);
  RegisterSampling(app);
  RegisterOutput(app, one_answer);
  const std::string group = "How it is served";
  app->add_option("--speculation", speculation_,
                  "auto, off, draft-model or prompt-lookup: changes the speed, not the answer")
      ->type_name("MODE")
      ->check([](const std::string& mode) {
        for (const char* known : {"auto", "off", "draft-model", "prompt-lookup"}) {
          if (mode == known) return std::string();
        }
        return absl::StrCat("\"", mode, "\" is none of auto, off, draft-model and prompt-lookup");
      })
      ->group(group);
  AddNumber(app, "--draft-length", &draft_length_,
            "Tokens drafted a round (default: what is measured to be fastest)")
      ->group(group);
  AddNumber(app, "--priority", &priority_, "-100 to 100, higher runs first (default 0)")
      ->group(group);
  if (!one_answer) {
    app->add_option("--session", session_, "Go on with this session: see mambactl sessions")
        ->type_name("ID")
        ->group(group);
    app->add_flag("--keep-session", keep_session_,
                  "Keep prompt and answer in the session, or in a new one, whose name is told")
        ->group(group);
  }
  app->add_option("--request-id", request_id_, "The request's name in the server's log")
      ->type_name("NAME")
      ->group(group);
}

std::string GenerationFlags::FillSampling(v1::Sampling* sampling) const {
  if (temperature_) sampling->set_temperature(*temperature_);
  if (top_p_) sampling->set_top_p(*top_p_);
  if (top_k_) sampling->set_top_k(*top_k_);
  if (min_p_) sampling->set_min_p(*min_p_);
  if (repetition_penalty_) sampling->set_repetition_penalty(*repetition_penalty_);
  if (presence_penalty_) sampling->set_presence_penalty(*presence_penalty_);
  if (frequency_penalty_) sampling->set_frequency_penalty(*frequency_penalty_);
  if (seed_) sampling->set_seed(*seed_);
  for (const std::string& entry : logit_bias_) {
    const std::vector<std::string> parts = absl::StrSplit(entry, ':');
    int32_t id = 0;
    float bias = 0;
    if (parts.size() != 2 || !absl::SimpleAtoi(parts[0], &id) ||
        !absl::SimpleAtof(parts[1], &bias)) {
      return absl::StrCat("--logit-bias: \"", entry,
                          "\": expected a token id and a number as in 42:-1.5");
    }
    (*sampling->mutable_logit_bias())[id] = bias;
  }
  std::vector<int32_t> ids;
  if (!ParseTokenIds(allowed_token_ids_.value_or(""), &ids))
    return NotIds("--allowed-token-ids", *allowed_token_ids_);
  sampling->mutable_allowed_token_ids()->Add(ids.begin(), ids.end());
  return "";
}

std::string GenerationFlags::FillStopping(v1::Stopping* stopping) const {
  if (max_tokens_) stopping->set_max_tokens(*max_tokens_);
  if (min_tokens_) stopping->set_min_tokens(*min_tokens_);
  for (const std::string& text : stop_strings_) {
    if (std::string problem = CheckUtf8("--stop", text); !problem.empty()) return problem;
    stopping->add_stop_strings(text);
  }
  std::vector<int32_t> ids;
  if (!ParseTokenIds(stop_token_ids_.value_or(""), &ids))
    return NotIds("--stop-token-ids", *stop_token_ids_);
  stopping->mutable_stop_token_ids()->Add(ids.begin(), ids.end());
  if (ignore_eos_) stopping->set_ignore_eos(true);
  if (include_stop_) stopping->set_include_stop(true);
  return "";
}

std::string GenerationFlags::Fill(v1::GenerateRequest* request) const {
  std::string problem = FillSampling(request->mutable_sampling());
  if (problem.empty()) problem = FillStopping(request->mutable_stopping());
  if (problem.empty() && request_id_) problem = CheckUtf8("--request-id", *request_id_);
  if (!problem.empty()) return problem;
  v1::Output* output = request->mutable_output();
  if (logprobs_) output->set_logprobs(*logprobs_);
  if (prompt_logprobs_) output->set_prompt_logprobs(*prompt_logprobs_);
  if (echo_) output->set_echo(true);
  if (n_) output->set_n(*n_);
  if (stream_interval_) output->set_stream_interval(*stream_interval_);
  v1::Speculation* speculation = request->mutable_speculation();
  if (speculation_ == "off") speculation->set_mode(v1::Speculation::OFF);
  if (speculation_ == "draft-model") speculation->set_mode(v1::Speculation::DRAFT_MODEL);
  if (speculation_ == "prompt-lookup") speculation->set_mode(v1::Speculation::PROMPT_LOOKUP);
  if (draft_length_) speculation->set_draft_length(*draft_length_);
  if (priority_) request->set_priority(*priority_);
  if (request_id_) request->set_request_id(*request_id_);
  if (session_) request->set_session_id(*session_);
  if (keep_session_) request->set_keep_session(true);
  return "";
}

}  // namespace mambad::cli
