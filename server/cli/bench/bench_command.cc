// mambactl bench: load with a fixed number of requests at a time (closed loop), at a given rate or
// as a trace has it (open loop).

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/cli/answer_printer.h"
#include "server/cli/bench/bench_flags.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/whole_file.h"

namespace mambad::cli {
namespace {

int Bench(const ClientOptions& options, const BenchFlags& flags) {
  BenchPlan plan;
  if (std::string problem = flags.Read(&plan); !problem.empty()) return ReportBadInput(problem);
  Connection connection(options);
  if (const auto failed = connection.Open()) return *failed;
  v1::GetModelInfoResponse info;
  grpc::ClientContext context;
  connection.Prepare(&context);
  const grpc::Status status = connection.stub()->GetModelInfo(&context, {}, &info);
  if (!status.ok()) return connection.Report(status, plan.load.names);
  plan.workload.vocabulary = info.model().vocabulary();
  if (!options.json) PrintNote(options, plan.description);

  const Workload workload(std::move(plan.workload));
  LoadRun run(connection, workload, plan.load);
  std::vector<BenchSample> samples = run.Run();
  const bool any_good = std::any_of(samples.begin(), samples.end(),
                                    [](const BenchSample& sample) { return sample.code == "OK"; });
  const BenchReport report(std::move(samples), run.seconds(), plan.goals);
  std::printf("%s", options.json ? (report.Json() + "\n").c_str() : report.Table().c_str());
  if (plan.plot) {
    const std::string picture =
        LatencyPlot(absl::StrCat(info.model().family(), ", ", plan.description), report.Curves());
    if (std::string problem = WriteWholeFile(*plan.plot, picture, /*replaces=*/true);
        !problem.empty())
      return ReportBadInput(absl::StrCat("--plot: ", problem));
  }
  return any_good ? kExitGood : kExitFailed;
}

}  // namespace

void AddBenchCommand(CLI::App* app, const ClientOptions* options, Command* chosen) {
  CLI::App* command = app->add_subcommand(
      "bench", "Load the server with many requests and measure times and tokens a second");
  auto flags = std::make_shared<BenchFlags>();
  flags->Register(command);
  command->footer(
      "  mambactl bench\n"
      "  mambactl bench --prompts questions.txt --rate 5 --goal-ttft 200\n"
      "  mambactl bench --prompts mt_bench.jsonl --chat --turns 2 --sessions 0.5 --plot times.svg\n"
      "  mambactl bench --trace conversations.jsonl --speed 0.5 --scale 0.1");
  command->callback([=] { *chosen = [=] { return Bench(*options, *flags); }; });
}

}  // namespace mambad::cli
