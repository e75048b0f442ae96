// mambactl bench: load with a fixed number of requests at a time (closed loop) or at a given rate
// (open loop).

#include <atomic>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/cli/bench_report.h"
#include "server/cli/client.h"
#include "server/status_details.h"

namespace mambad::cli {
namespace {

using Clock = std::chrono::steady_clock;

double SecondsBetween(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}

struct BenchFlags {
  GenerationFlags generation;
  int requests = 64;
  int concurrency = 4;
  std::optional<double> rate;        // requests a second: open loop
  std::optional<int> prompt_tokens;  // random prompts of this many ids
  std::string prompts_file;          // one prompt a line
  uint64_t bench_seed = 1;           // of prompts and arrival times
  std::optional<double> goal_first_token_ms, goal_per_token_ms, goal_end_to_end_ms;
};

std::optional<double> Seconds(const std::optional<double>& milliseconds) {
  if (!milliseconds) return std::nullopt;
  return *milliseconds * 1e-3;
}

// The requests of a run, made before its clock starts.
std::string MakeRequests(const BenchFlags& flags, int vocabulary,
                         std::vector<v1::GenerateRequest>* requests) {
  v1::GenerateRequest base;
  if (std::string problem = flags.generation.Fill(&base); !problem.empty()) return problem;
  std::vector<std::string> prompts;
  if (!flags.prompts_file.empty()) {
    std::ifstream file(flags.prompts_file);
    for (std::string line; std::getline(file, line);) {
      if (!line.empty()) prompts.push_back(line);
    }
    if (prompts.empty()) return absl::StrCat(flags.prompts_file, ": no prompts");
  }
  const bool has_input = base.input_case() != v1::GenerateRequest::INPUT_NOT_SET;
  if (has_input + !prompts.empty() + flags.prompt_tokens.has_value() != 1) {
    return "give one of --prompt, --token-ids, --messages, --prompts and --prompt-tokens";
  }
  std::mt19937_64 random(flags.bench_seed);
  for (int i = 0; i < flags.requests; ++i) {
    v1::GenerateRequest& request = requests->emplace_back(base);
    if (!prompts.empty()) request.set_text(prompts[static_cast<size_t>(i) % prompts.size()]);
    for (int t = 0; t < flags.prompt_tokens.value_or(0); ++t) {
      const auto id = static_cast<int32_t>(random() % static_cast<uint64_t>(vocabulary));
      request.mutable_token_ids()->add_ids(id);
    }
  }
  return "";
}

BenchSample RunRequest(const Connection& connection, v1::Generation::Stub* stub,
                       const v1::GenerateRequest& request, Clock::time_point begin) {
  BenchSample sample;
  grpc::ClientContext context;
  connection.Prepare(&context);
  auto reader = stub->Generate(&context, request);
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
  sample.code = std::string(server::CodeName(static_cast<absl::StatusCode>(status.error_code())));
  sample.end_to_end = SecondsBetween(begin, Clock::now());
  return sample;
}

void RunClosedLoop(const Connection& connection, v1::Generation::Stub* stub, int concurrency,
                   const std::vector<v1::GenerateRequest>& requests,
                   std::vector<BenchSample>* samples) {
  std::atomic<size_t> next{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < concurrency; ++i) {
    threads.emplace_back([&] {
      for (size_t index = next++; index < requests.size(); index = next++) {
        (*samples)[index] = RunRequest(connection, stub, requests[index], Clock::now());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

// Requests arrive as a Poisson process, whatever the server does. Times count from the planned
// arrival, so that a late start is the server's loss and not hidden.
void RunOpenLoop(const Connection& connection, v1::Generation::Stub* stub, double rate,
                 uint64_t seed, const std::vector<v1::GenerateRequest>& requests,
                 std::vector<BenchSample>* samples) {
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> gap(rate);
  std::vector<std::thread> threads;
  Clock::time_point arrival = Clock::now();
  for (size_t index = 0; index < requests.size(); ++index) {
    std::this_thread::sleep_until(arrival);
    threads.emplace_back([&, index, arrival] {
      (*samples)[index] = RunRequest(connection, stub, requests[index], arrival);
    });
    arrival +=
        std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(gap(random)));
  }
  for (std::thread& thread : threads) thread.join();
}

int Bench(const Connection& connection, const BenchFlags& flags) {
  auto stub = v1::Generation::NewStub(connection.Open());
  v1::GetModelInfoResponse info;
  grpc::ClientContext context;
  connection.Prepare(&context);
  const grpc::Status status =
      stub->GetModelInfo(&context, {}, &info);  // also opens the connection before the clock starts
  if (!status.ok()) return ReportFailure(connection, status);
  std::vector<v1::GenerateRequest> requests;
  std::string problem = MakeRequests(flags, info.model().vocabulary(), &requests);
  if (!problem.empty()) return ReportBadInput(problem);

  std::vector<BenchSample> samples(requests.size());
  const Clock::time_point begin = Clock::now();
  if (flags.rate) {
    RunOpenLoop(connection, stub.get(), *flags.rate, flags.bench_seed, requests, &samples);
  } else {
    RunClosedLoop(connection, stub.get(), flags.concurrency, requests, &samples);
  }
  const double seconds = SecondsBetween(begin, Clock::now());
  const BenchReport report(std::move(samples), seconds,
                           {Seconds(flags.goal_first_token_ms), Seconds(flags.goal_per_token_ms),
                            Seconds(flags.goal_end_to_end_ms)});
  std::printf("%s", connection.json ? (report.Json() + "\n").c_str() : report.Table().c_str());
  return kExitGood;
}

}  // namespace

void AddBenchCommand(CLI::App* app, const Connection* connection, int* result) {
  CLI::App* command = app->add_subcommand(
      "bench", "Load the server and measure: closed loop, or open loop with --rate");
  auto flags = std::make_shared<BenchFlags>();
  flags->generation.Register(command, /*with_input=*/true);
  command->add_option("--requests", flags->requests, "Requests in all (default 64)")
      ->check(CLI::Range(1, 1000000));
  command
      ->add_option("--concurrency", flags->concurrency,
                   "Closed loop: requests at a time (default 4)")
      ->check(CLI::Range(1, 4096));
  command->add_option("--rate", flags->rate, "Open loop: requests a second")
      ->check(CLI::PositiveNumber);
  command->add_option("--prompt-tokens", flags->prompt_tokens, "Random prompts of this many tokens")
      ->check(CLI::Range(1, 1 << 20));
  command->add_option("--prompts", flags->prompts_file, "File with one prompt a line");
  command->add_option("--bench-seed", flags->bench_seed,
                      "Seed of prompts and arrivals (default 1)");
  command->add_option("--goal-ttft", flags->goal_first_token_ms,
                      "Goodput counts requests with a first token within this, ms");
  command->add_option("--goal-tpot", flags->goal_per_token_ms,
                      "and a mean time of a token within this, ms");
  command->add_option("--goal-e2e", flags->goal_end_to_end_ms, "and an end within this, ms");
  command->callback([=] { *result = Bench(*connection, *flags); });
}

}  // namespace mambad::cli
