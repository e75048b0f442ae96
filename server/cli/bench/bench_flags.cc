#include "server/cli/bench/bench_flags.h"

#include <algorithm>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/cli/bench/prompt_file.h"
#include "server/cli/number_options.h"
#include "server/cli/whole_file.h"

namespace mambad::cli {
namespace {

constexpr int kUsualPromptTokens = 32;
constexpr int64_t kUsualMaxTokens = 64;
constexpr int64_t kUsualRequests = 64, kMostRequests = 1000000;
constexpr int kMostAtATime = 4096;  // conversations, each with a thread of its own
constexpr int kMostTurns = 1024;

std::optional<double> FromMilliseconds(const std::optional<double>& milliseconds) {
  if (!milliseconds) return std::nullopt;
  return *milliseconds * 1e-3;
}

}  // namespace

std::string BenchFlags::Read(BenchPlan* plan) const {
  std::string problem = generation_.Fill(&plan->load.base);
  if (problem.empty()) problem = ReadInput(plan);
  if (!problem.empty()) return problem;
  plan->workload.seed = seed_;
  plan->workload.kept_share = kept_share_;
  plan->workload.scale = scale_;
  ReadLoad(plan);
  plan->goals = {FromMilliseconds(goal_first_token_ms_), FromMilliseconds(goal_per_token_ms_),
                 FromMilliseconds(goal_end_to_end_ms_)};
  plan->plot = plot_;
  plan->description = Describe(*plan);
  return "";
}

std::string BenchFlags::ReadInput(BenchPlan* plan) const {
  Input input;
  if (std::string problem = input_.Read(&input); !problem.empty()) return problem;
  plan->load.names = input.names;
  const bool has_input = input.kind != Input::Kind::kNone;
  const int ways =
      has_input + prompts_.has_value() + trace_.has_value() + prompt_tokens_.has_value();
  if (ways > 1) {
    return absl::StrCat("give only one of --prompts, --trace, --prompt-tokens, ",
                        input.names.choices);
  }
  if (has_input) {
    SetInput(input, &plan->load.base);
  } else if (prompts_ || trace_) {
    if (std::string problem = ReadPromptFile(plan); !problem.empty()) return problem;
  } else {
    plan->workload.random_tokens = prompt_tokens_.value_or(kUsualPromptTokens);
    plan->load.names.token_ids = "--prompt-tokens";
    v1::Stopping* stopping = plan->load.base.mutable_stopping();
    if (!stopping->has_max_tokens()) stopping->set_max_tokens(kUsualMaxTokens);
  }
  return CheckTurns(*plan, has_input);
}

std::string BenchFlags::ReadPromptFile(BenchPlan* plan) const {
  const std::string path = trace_.value_or(prompts_.value_or(""));
  const std::string flag = trace_ ? "--trace" : "--prompts";
  std::string text;
  if (std::string problem = ReadWholeFile(path, &text); !problem.empty())
    return absl::StrCat(flag, ": ", problem);
  const std::string name = absl::StrCat(flag, ": ", path);
  std::string problem = ParsePrompts(name, text, &plan->workload.entries);
  if (problem.empty() && trace_) problem = SortByArrival(name, &plan->workload.entries);
  plan->load.names.text = plan->load.names.token_ids = plan->load.names.conversation = flag;
  return problem;
}

std::string BenchFlags::CheckTurns(const BenchPlan& plan, bool has_input) const {
  const std::vector<PromptEntry>& entries = plan.workload.entries;
  const auto is_text = [](const PromptEntry& entry) { return !entry.turns.empty(); };
  if (turns_ && has_input) return "--turns: one prompt is given, which has no further turns";
  if (turns_ && trace_) return "--turns: a trace says itself what is asked";
  if (chat_ && (entries.empty() || !std::all_of(entries.begin(), entries.end(), is_text)))
    return "--chat: needs --prompts or --trace with texts (for one prompt there is --user)";
  // What is said in one conversation is put together, texts or token ids.
  if (turns_ && *turns_ > 1 && !entries.empty() &&
      std::any_of(entries.begin(), entries.end(), is_text) !=
          std::all_of(entries.begin(), entries.end(), is_text)) {
    return "--turns: the file has texts and lengths, which do not go together in a conversation";
  }
  return "";
}

void BenchFlags::ReadLoad(BenchPlan* plan) const {
  LoadPlan& load = plan->load;
  plan->workload.turns = turns_.value_or(0);
  load.chat = chat_;
  load.retries = retries_;
  load.seconds = seconds_;
  const auto entries = static_cast<int64_t>(plan->workload.entries.size());
  load.talks = requests_.value_or(trace_ ? entries : seconds_ ? kMostRequests : kUsualRequests);
  if (trace_) {
    load.talks = std::min(load.talks, entries);
    for (const PromptEntry& entry : plan->workload.entries)
      load.arrivals.push_back(*entry.arrival / speed_);
  } else if (rate_) {
    load.arrivals = DrawArrivals(*rate_, seed_, load.talks, seconds_);
    load.talks = static_cast<int64_t>(load.arrivals.size());
  }
  load.at_a_time = load.arrivals.empty() ? concurrency_ : kMostAtATime;
}

std::string BenchFlags::Describe(const BenchPlan& plan) const {
  const LoadPlan& load = plan.load;
  const WorkloadOptions& workload = plan.workload;
  std::string text;
  if (load.arrivals.empty() && seconds_ && !requests_) {
    text = absl::StrFormat("for %g s, ", *seconds_);
  } else {
    text = absl::StrCat(load.talks, load.talks == 1 ? " request, " : " requests, ");
  }
  if (trace_) {
    absl::StrAppendFormat(&text, "as in the trace, %g times as fast", speed_);
  } else if (rate_) {
    absl::StrAppend(&text, *rate_, " a second");
  } else {
    absl::StrAppend(&text, std::min<int64_t>(load.at_a_time, load.talks), " at a time");
  }
  if (workload.random_tokens > 0) {
    absl::StrAppend(&text, ": random prompts of ", workload.random_tokens, " tokens");
  } else if (!workload.entries.empty()) {
    absl::StrAppend(&text, ": ", workload.entries.size(), " prompts of ",
                    trace_.value_or(prompts_.value_or("")));
  }
  if (turns_) absl::StrAppend(&text, ", ", *turns_, " turns each");
  if (kept_share_ > 0) absl::StrAppend(&text, ", ", 100 * kept_share_, " % in sessions");
  if (load.base.stopping().has_max_tokens())
    absl::StrAppend(&text, ", answers of at most ", load.base.stopping().max_tokens(), " tokens");
  return text;
}

void BenchFlags::RegisterInput(CLI::App* command) {
  const std::string group = "What is read (one of these)";
  AddNumber(command, "--prompt-tokens", &prompt_tokens_,
            absl::StrCat("Random prompts of so many tokens; what is done where nothing is given (",
                         kUsualPromptTokens, ", --max-tokens ", kUsualMaxTokens, ")"),
            {1, 1 << 20})
      ->group(group);
  command
      ->add_option("--prompts", prompts_,
                   "File with one prompt a line, or one JSON object: {\"turns\": [...]}, "
                   "{\"prompt\": ...}, {\"question\": ...}, {\"text\": ...} or {\"messages\": "
                   "[...]}; - for standard input")
      ->type_name("FILE")
      ->group(group);
  command
      ->add_option("--trace", trace_,
                   "The same with \"timestamp\" (milliseconds) on each line: when it is asked. "
                   "Instead of a text \"input_length\", \"output_length\" and \"hash_ids\": "
                   "random prompts that share their beginnings as these blocks of 512 tokens do")
      ->type_name("FILE")
      ->group(group);
  input_.Register(command, {});
}

void BenchFlags::RegisterLoad(CLI::App* command) {
  const std::string load = "Load";
  AddNumber(command, "--requests", &requests_,
            "Requests in all, or conversations where they have turns (default 64, or the trace's)",
            {1, kMostRequests})
      ->group(load);
  AddNumber(command, "--seconds", &seconds_, "None begins later than this", {1e-3, 1e6})
      ->group(load);
  AddNumber(command, "--concurrency", &concurrency_,
            "So many at a time, each as soon as one ends (default 4)", {1, kMostAtATime})
      ->group(load);
  AddNumber(command, "--rate", &rate_,
            "So many a second at random times instead, whether earlier ones have ended or not",
            {1e-6, 1e6})
      ->group(load);
  AddNumber(command, "--speed", &speed_, "Of a trace: so many times as fast (default 1)",
            {1e-6, 1e6})
      ->group(load);
  AddNumber(command, "--scale", &scale_,
            "Of a file with lengths: so many times as long (default 1)", {1e-6, 1e3})
      ->group(load);
  AddNumber(command, "--bench-seed", &seed_, "Seed of random prompts and arrivals (default 1)")
      ->group(load);
  AddNumber(command, "--retries", &retries_,
            "Ask again so often, when the server says, where it has no room (default 0)",
            {0, 1000000})
      ->group(load);
  const std::string talks = "Conversations";
  AddNumber(command, "--turns", &turns_,
            "Turns of each: of the file's as many at most, of single prompts the next ones "
            "(default: as the file has them)",
            {1, kMostTurns})
      ->group(talks);
  command->add_flag("--chat", chat_, "The file's texts are what a user says to a chat model")
      ->group(talks);
  AddNumber(command, "--sessions", &kept_share_,
            "This share of them, 0 to 1, goes on in sessions; the others send all of their text "
            "with each turn (default 0)",
            {0, 1})
      ->type_name("SHARE")
      ->group(talks);
}

void BenchFlags::RegisterGoals(CLI::App* command) {
  const std::string group = "Goals: requests that meet all that are given count as good";
  AddNumber(command, "--goal-ttft", &goal_first_token_ms_, "First token within this", {0})
      ->type_name("MS")
      ->group(group);
  AddNumber(command, "--goal-tpot", &goal_per_token_ms_,
            "Mean time of a token after the first within this", {0})
      ->type_name("MS")
      ->group(group);
  AddNumber(command, "--goal-e2e", &goal_end_to_end_ms_, "Whole answer within this", {0})
      ->type_name("MS")
      ->group(group);
}

void BenchFlags::Register(CLI::App* command) {
  RegisterInput(command);
  RegisterLoad(command);
  RegisterGoals(command);
  command->add_option("--plot", plot_, "Writes the latencies by percentile as a picture (SVG)")
      ->type_name("FILE");
  generation_.Register(command, /*one_answer=*/false);
}

}  // namespace mambad::cli
