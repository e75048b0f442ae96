// mambactl bench: load with a fixed number of requests at a time (closed loop) or at a given rate
// (open loop).

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/cli/answer_printer.h"
#include "server/cli/bench_report.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/generation_flags.h"
#include "server/cli/input_flags.h"
#include "server/cli/number_options.h"
#include "server/cli/terminal_text.h"
#include "server/cli/whole_file.h"

namespace mambad::cli {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsBetween(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

constexpr int kUsualPromptTokens = 32;
constexpr int64_t kUsualMaxTokens = 64;
constexpr int kMostAtATime = 4096;  // requests, each with a thread of its own

struct BenchFlags {
  InputFlags input;
  GenerationFlags generation;
  int requests = 64;
  int concurrency = 4;
  std::optional<double> rate;               // requests a second: open loop
  std::optional<int> prompt_tokens;         // random prompts of this many ids
  std::optional<std::string> prompts_file;  // one prompt a line
  uint64_t bench_seed = 1;                  // of prompts and arrival times
  std::optional<double> goal_first_token_ms, goal_per_token_ms, goal_end_to_end_ms;
};

// What the flags say, read and checked before anything is sent.
struct BenchPlan {
  Input input;
  v1::GenerateRequest base;
  std::vector<std::string> prompts;
  int random_tokens = 0;  // of each prompt; 0: prompts are given
};

std::optional<double> Seconds(const std::optional<double>& milliseconds) {
  if (!milliseconds) return std::nullopt;
  return *milliseconds * 1e-3;
}

std::string ReadPrompts(const std::string& path, std::vector<std::string>* prompts) {
  std::string text;
  if (std::string problem = ReadWholeFile(path, &text); !problem.empty())
    return absl::StrCat("--prompts: ", problem);
  int number = 0;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    const std::string name = absl::StrCat("--prompts: ", path, ", line ", number);
    if (std::string problem = CheckUtf8(name, line); !problem.empty()) return problem;
    if (!line.empty()) prompts->emplace_back(line);
  }
  return prompts->empty() ? absl::StrCat("--prompts: ", path, ": holds no prompt") : "";
}

// Empty, or what is wrong.
std::string MakePlan(const BenchFlags& flags, BenchPlan* plan) {
  std::string problem = flags.input.Read(&plan->input);
  if (problem.empty()) problem = flags.generation.Fill(&plan->base);
  if (problem.empty() && flags.prompts_file)
    problem = ReadPrompts(*flags.prompts_file, &plan->prompts);
  if (!problem.empty()) return problem;
  const bool has_input = plan->input.kind != Input::Kind::kNone;
  const int ways = has_input + flags.prompts_file.has_value() + flags.prompt_tokens.has_value();
  if (ways > 1) {
    return absl::StrCat("give only one of --prompts, --prompt-tokens, ", plan->input.names.choices);
  }
  if (has_input) {
    SetInput(plan->input, &plan->base);
  } else if (plan->prompts.empty()) {
    plan->random_tokens = flags.prompt_tokens.value_or(kUsualPromptTokens);
    plan->input.names.token_ids = "--prompt-tokens";
    v1::Stopping* stopping = plan->base.mutable_stopping();
    if (!stopping->has_max_tokens()) stopping->set_max_tokens(kUsualMaxTokens);
  } else {
    plan->input.names.text = "--prompts";
  }
  return "";
}

// The requests of a run, made before its clock starts.
std::vector<v1::GenerateRequest> MakeRequests(const BenchFlags& flags, const BenchPlan& plan,
                                              int vocabulary) {
  std::vector<v1::GenerateRequest> requests;
  std::mt19937_64 random(flags.bench_seed);
  for (int i = 0; i < flags.requests; ++i) {
    v1::GenerateRequest& request = requests.emplace_back(plan.base);
    if (!plan.prompts.empty())
      request.set_text(plan.prompts[static_cast<size_t>(i) % plan.prompts.size()]);
    for (int t = 0; t < plan.random_tokens; ++t) {
      const auto id = static_cast<int32_t>(random() % static_cast<uint64_t>(vocabulary));
      request.mutable_token_ids()->add_ids(id);
    }
  }
  return requests;
}

// One line about what is to be measured.
std::string DescribeRun(const BenchFlags& flags, const BenchPlan& plan) {
  std::string text =
      absl::StrCat(flags.requests, flags.requests == 1 ? " request, " : " requests, ");
  if (flags.rate) {
    absl::StrAppend(&text, *flags.rate, " a second");
  } else {
    absl::StrAppend(&text, std::min(flags.concurrency, flags.requests), " at a time");
  }
  if (plan.random_tokens > 0) {
    absl::StrAppend(&text, ": random prompts of ", plan.random_tokens, " tokens");
  } else if (!plan.prompts.empty()) {
    absl::StrAppend(&text, ": ", plan.prompts.size(), " prompts of ", *flags.prompts_file);
  }
  if (plan.base.stopping().has_max_tokens())
    absl::StrAppend(&text, ", answers of at most ", plan.base.stopping().max_tokens(), " tokens");
  return text;
}

BenchSample RunRequest(const Connection& connection, const InputNames& names,
                       const v1::GenerateRequest& request, Clock::time_point begin) {
  BenchSample sample;
  grpc::ClientContext context;
  connection.Prepare(&context);
  auto reader = connection.stub()->Generate(&context, request);
  v1::GenerateResponse message;
  Clock::time_point last = begin;
  bool begun = false;
  while (reader->Read(&message)) {
    const Clock::time_point now = Clock::now();
    if (message.token_ids_size() > 0) {
      if (begun) {
        sample.between.push_back(SecondsBetween(last, now));
      } else {
        sample.first_token = SecondsBetween(begin, now);
      }
      begun = true;
      last = now;
    }
    if (!message.has_completion()) continue;
    sample.prompt_tokens = message.completion().usage().prompt_tokens();
    sample.completion_tokens += message.completion().usage().completion_tokens();
    sample.drafted += message.completion().speculation().drafted();
    sample.accepted += message.completion().speculation().accepted();
  }
  const grpc::Status status = reader->Finish();
  sample.code = CodeText(status.error_code());
  if (!status.ok()) sample.problem = connection.Describe(status, names, begun);
  sample.end_to_end = SecondsBetween(begin, Clock::now());
  return sample;
}

// Runs all requests on `count` threads, each taking the next as soon as it is free, but not before
// its arrival. Times count from there, so that a late start is the server's loss and not hidden.
// Without `arrivals` from when it was taken.
void RunRequests(const Connection& connection, const InputNames& names, int count,
                 const std::vector<Clock::time_point>& arrivals,
                 const std::vector<v1::GenerateRequest>& requests,
                 std::vector<BenchSample>* samples) {
  std::atomic<size_t> next{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([&] {
      for (size_t index = next++; index < requests.size(); index = next++) {
        if (!arrivals.empty()) std::this_thread::sleep_until(arrivals[index]);
        const Clock::time_point begin = arrivals.empty() ? Clock::now() : arrivals[index];
        (*samples)[index] = RunRequest(connection, names, requests[index], begin);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// A Poisson process, whatever the server does.
std::vector<Clock::time_point> DrawArrivals(double rate, uint64_t seed, size_t count) {
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> gap(rate);
  std::vector<Clock::time_point> arrivals;
  Clock::time_point arrival = Clock::now();
  for (size_t i = 0; i < count; ++i) {
    arrivals.push_back(arrival);
    arrival +=
        std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(gap(random)));
  }
  return arrivals;
}

int Bench(const ClientOptions& options, const BenchFlags& flags) {
  BenchPlan plan;
  if (std::string problem = MakePlan(flags, &plan); !problem.empty())
    return ReportBadInput(problem);
  Connection connection(options);
  if (const auto failed = connection.Open()) return *failed;
  v1::GetModelInfoResponse info;
  grpc::ClientContext context;
  connection.Prepare(&context);
  const grpc::Status status = connection.stub()->GetModelInfo(&context, {}, &info);
  if (!status.ok()) return connection.Report(status, plan.input.names);
  const std::vector<v1::GenerateRequest> requests =
      MakeRequests(flags, plan, info.model().vocabulary());
  if (!options.json) PrintNote(options, DescribeRun(flags, plan));

  std::vector<BenchSample> samples(requests.size());
  const Clock::time_point begin = Clock::now();
  std::vector<Clock::time_point> arrivals;
  if (flags.rate) arrivals = DrawArrivals(*flags.rate, flags.bench_seed, requests.size());
  const int threads = std::min(flags.rate ? kMostAtATime : flags.concurrency, flags.requests);
  RunRequests(connection, plan.input.names, threads, arrivals, requests, &samples);
  const double seconds = SecondsBetween(begin, Clock::now());
  const bool any_good = std::any_of(samples.begin(), samples.end(),
                                    [](const BenchSample& sample) { return sample.code == "OK"; });
  const BenchReport report(std::move(samples), seconds,
                           {Seconds(flags.goal_first_token_ms), Seconds(flags.goal_per_token_ms),
                            Seconds(flags.goal_end_to_end_ms)});
  std::printf("%s", options.json ? (report.Json() + "\n").c_str() : report.Table().c_str());
  return any_good ? kExitGood : kExitFailed;
}

void AddGoals(CLI::App* command, BenchFlags* flags) {
  const std::string group = "Goals: requests that meet all that are given count as good";
  AddNumber(command, "--goal-ttft", &flags->goal_first_token_ms, "First token within this", {0})
      ->type_name("MS")
      ->group(group);
  AddNumber(command, "--goal-tpot", &flags->goal_per_token_ms,
            "Mean time of a token after the first within this", {0})
      ->type_name("MS")
      ->group(group);
  AddNumber(command, "--goal-e2e", &flags->goal_end_to_end_ms, "Whole answer within this", {0})
      ->type_name("MS")
      ->group(group);
}

}  // namespace

void AddBenchCommand(CLI::App* app, const ClientOptions* options, Command* chosen) {
  CLI::App* command = app->add_subcommand(
      "bench", "Load the server with many requests and measure times and tokens a second");
  auto flags = std::make_shared<BenchFlags>();
  const std::string group = "What is read (one of these)";
  AddNumber(command, "--prompt-tokens", &flags->prompt_tokens,
            absl::StrCat("Random prompts of so many tokens; what is done where nothing is given (",
                         kUsualPromptTokens, ", --max-tokens ", kUsualMaxTokens, ")"),
            {1, 1 << 20})
      ->group(group);
  command
      ->add_option("--prompts", flags->prompts_file,
                   "File with one prompt a line, - for standard input")
      ->type_name("FILE")
      ->group(group);
  flags->input.Register(command, {});
  const std::string load = "Load";
  AddNumber(command, "--requests", &flags->requests, "Requests in all (default 64)", {1, 1000000})
      ->group(load);
  AddNumber(command, "--concurrency", &flags->concurrency,
            "So many at a time, each as soon as one ends (default 4)", {1, kMostAtATime})
      ->group(load);
  AddNumber(command, "--rate", &flags->rate,
            "So many a second at random times instead, whether earlier ones have ended or not",
            {1e-6, 1e6})
      ->group(load);
  AddNumber(command, "--bench-seed", &flags->bench_seed,
            "Seed of random prompts and arrivals (default 1)")
      ->group(load);
  AddGoals(command, flags.get());
  flags->generation.Register(command, /*one_answer=*/false);
  command->footer(
      "  mambactl bench\n"
      "  mambactl bench --prompts questions.txt --rate 5 --goal-ttft 200");
  command->callback([=] { *chosen = [=] { return Bench(*options, *flags); }; });
}

}  // namespace mambad::cli
