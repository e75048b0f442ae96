// The engine without a server: many sequences decoding together, in tokens a second.
//
//   engine_bench MODEL [--draft MODEL] [--sequences N[,N...]] [--requests N] [--prompt N]
//                [--tokens N] [--threads N] [--repeat N] [--repetitive] [--temperature T]
//                [--draft-length K] [--activations auto|float32|both] [--device NAME] [--steps]
//
// Requests of random prompts run to their last token, plain and, where there is a drafter,
// speculatively: both in turn, the medians of the repetitions, and their ratio. --sequences: that
// run together, several numbers one after the other; --requests: in all, the others wait.
// --temperature: 0, greedy, unless given. --draft-length: adaptive unless given. --repetitive:
// prompts that repeat themselves, for prompt lookup. --activations both: an engine of each setting,
// all in turn, for comparison. --steps: what steps of each kind took in the last run, and on the
// device. Text that random weights write is no measure of acceptance; trained models' is.

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "absl/time/clock.h"
#include "engine/engine_core.h"

namespace mambad::bench {
namespace {

using Clock = std::chrono::steady_clock;

[[noreturn]] void Die(const std::string& words) {
  std::fprintf(stderr, "engine_bench: %s\n", words.c_str());
  std::exit(2);
}

struct Work {
  int sequences = 16, requests = 0, prompt = 16, tokens = 128, repeat = 5;
  std::optional<int> draft_length;
  float temperature = 0;
  bool repetitive = false, steps = false;
};

class CountingSink : public EventSink {
 public:
  bool OnEvent(const TokenEvent& event) override {
    tokens += static_cast<int64_t>(event.tokens.size());
    if (event.stats.has_value()) {
      rounds += event.stats->speculation.rounds;
      drafted += event.stats->speculation.drafted;
      accepted += event.stats->speculation.accepted;
    }
    return true;
  }
  int64_t tokens = 0, rounds = 0, drafted = 0, accepted = 0;
};

// What the steps of a run took, on the device and from the end of the one before to their own;
// those that read prompts apart, and those that drafted.
struct Steps : public StepObserver {
  struct Kind {
    int count = 0;
    double device_seconds = 0, seconds = 0;
  };
  void OnStep(const StepReport& report) override {
    Kind& kind = report.prefill_rows > 0 ? prompts : report.draft_length > 0 ? drafting : plain;
    const Clock::time_point now = Clock::now();
    ++kind.count;
    kind.device_seconds += report.total_seconds;
    kind.seconds += std::chrono::duration<double>(now - last_end).count();
    last_end = now;
  }
  Kind prompts, plain, drafting;
  Clock::time_point last_end = Clock::now();
};

struct Run {
  double tokens_per_second = 0, acceptance = 0, tokens_per_step = 0;
  Steps steps;
  int64_t recordings = 0;
};

Run Decode(EngineCore& core, const Work& work, SpeculationMode mode, RequestId* next_id) {
  std::mt19937_64 random(1);
  const auto sink = std::make_shared<CountingSink>();
  for (int s = 0; s < work.requests; ++s) {
    Request request;
    for (int i = 0; i < work.prompt; ++i) {
      const bool repeats = work.repetitive && i >= 8;
      request.prompt.push_back(
          repeats ? request.prompt[i - 8]
                  : static_cast<TokenId>(random() % core.facts().model.vocabulary));
    }
    request.stopping.max_tokens = work.tokens;
    request.stopping.ignore_eos = true;
    request.speculation.mode = mode;
    if (mode != SpeculationMode::kOff) request.speculation.draft_length = work.draft_length;
    request.sampling.temperature = work.temperature;
    request.sampling.seed = static_cast<uint64_t>(s);
    absl::Status status = core.Validate(request);
    if (status.ok()) status = core.Admit((*next_id)++, std::move(request), sink, absl::Now());
    if (!status.ok()) Die(std::string(status.message()));
  }
  int64_t steps = 0;
  const int64_t recordings = core.stats().round_recordings;
  Steps kinds;
  core.set_observer(&kinds);
  const Clock::time_point begin = Clock::now();
  while (core.Step(absl::Now)) ++steps;
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  core.set_observer(nullptr);
  const double drafted = static_cast<double>(std::max<int64_t>(1, sink->drafted));
  return {static_cast<double>(sink->tokens) / seconds,
          static_cast<double>(sink->accepted) / drafted,
          static_cast<double>(sink->tokens) / static_cast<double>(steps) / work.sequences, kinds,
          core.stats().round_recordings - recordings};
}

double Median(std::vector<Run> runs) {
  std::sort(runs.begin(), runs.end(),
            [](const Run& a, const Run& b) { return a.tokens_per_second < b.tokens_per_second; });
  return runs[runs.size() / 2].tokens_per_second;
}

// An engine and what was measured of it.
struct Subject {
  std::unique_ptr<EngineCore> core;
  RequestId next_id = 1;
  std::vector<Run> plain, speculative;
};

Subject OpenSubject(const EngineOptions& options) {
  auto core = EngineCore::Open(options, nullptr);
  if (!core.ok()) Die(std::string(core.status().message()));
  Subject subject;
  subject.core = *std::move(core);
  return subject;
}

double Best(const std::vector<Run>& runs) {
  double best = 0;
  for (const Run& run : runs) best = std::max(best, run.tokens_per_second);
  return best;
}

void Measure(std::vector<Subject>& subjects, const Work& work) {
  for (Subject& subject : subjects) subject.plain.clear(), subject.speculative.clear();
  for (Subject& subject : subjects)
    Decode(*subject.core, work, SpeculationMode::kOff, &subject.next_id);
  for (int i = 0; i < work.repeat; ++i) {
    for (Subject& subject : subjects) {
      EngineCore& core = *subject.core;
      subject.plain.push_back(Decode(core, work, SpeculationMode::kOff, &subject.next_id));
      if (core.facts().options.prompt_lookup || core.facts().draft_model.has_value()) {
        subject.speculative.push_back(Decode(core, work, SpeculationMode::kAuto, &subject.next_id));
      }
    }
  }
}

// Of the last run.
void PrintSteps(const char* name, const Run& run) {
  const auto print = [](const char* what, const Steps::Kind& kind) {
    const double each = 1e6 / std::max(1, kind.count);
    std::printf(" %s %d x %.0f us (device %.0f);", what, kind.count, each * kind.seconds,
                each * kind.device_seconds);
  };
  std::printf("  %s:", name);
  print("prompts", run.steps.prompts);
  print("plain", run.steps.plain);
  print("drafting", run.steps.drafting);
  std::printf(" %lld rounds recorded\n", static_cast<long long>(run.recordings));
}

void Print(const Subject& subject, const Work& work) {
  const double plain = Median(subject.plain);
  std::printf("%s: %d requests of %d + %d tokens, %d together: plain %.1f tokens/s",
              subject.core->facts().model.numerics.c_str(), work.requests, work.prompt, work.tokens,
              work.sequences, plain);
  if (!subject.speculative.empty()) {
    const double speculative = Median(subject.speculative);
    std::printf(
        ", speculative %.1f tokens/s (%.3f of plain), accepted %.3f of drafts, %.2f tokens a step",
        speculative, speculative / plain, subject.speculative.back().acceptance,
        subject.speculative.back().tokens_per_step);
  }
  std::printf("\n");
  if (work.steps) PrintSteps("plain", subject.plain.back());
  if (work.steps && !subject.speculative.empty())
    PrintSteps("speculative", subject.speculative.back());
}

// Of "1,8,64"; what is no number is 0.
std::vector<int> Numbers(const std::string& text) {
  std::vector<int> numbers;
  std::istringstream pieces(text);
  for (std::string piece; std::getline(pieces, piece, ',');)
    numbers.push_back(std::atoi(piece.c_str()));
  if (numbers.empty()) numbers.push_back(0);
  return numbers;
}

int Main(int argc, char** argv) {
  EngineOptions options;
  Work work;
  std::vector<int> sequences = {work.sequences};
  bool both = false;
  for (int i = 1; i < argc; ++i) {
    const std::string argument = argv[i];
    const std::string value = i + 1 < argc ? argv[i + 1] : "";
    const auto number = [&](int* out) { *out = std::atoi(value.c_str()), ++i; };
    if (argument == "--draft")
      options.draft_model = value, ++i;
    else if (argument == "--sequences")
      sequences = Numbers(value), ++i;
    else if (argument == "--requests")
      number(&work.requests);
    else if (argument == "--prompt")
      number(&work.prompt);
    else if (argument == "--tokens")
      number(&work.tokens);
    else if (argument == "--threads")
      number(&options.threads);
    else if (argument == "--repeat")
      number(&work.repeat);
    else if (argument == "--draft-length")
      work.draft_length = std::atoi(value.c_str()), ++i;
    else if (argument == "--device")
      options.device = value, ++i;
    else if (argument == "--temperature")
      work.temperature = std::strtof(value.c_str(), nullptr), ++i;
    else if (argument == "--activations") {
      both = value == "both";
      if (value == "float32") options.activations = ComputeType::kFloat32;
      ++i;
    } else if (argument == "--repetitive")
      work.repetitive = true;
    else if (argument == "--steps")
      work.steps = true;
    else if (argument.rfind("--", 0) == 0)
      Die("unknown option " + argument);
    else
      options.model = argument;
  }
  const int most = *std::max_element(sequences.begin(), sequences.end());
  if (options.model.empty() || most < 1 || work.repeat < 1) {
    Die("usage: engine_bench MODEL [--draft MODEL] [--sequences N[,N...]] [--requests N] [--prompt "
        "N] "
        "[--tokens N] [--threads N] [--repeat N] [--repetitive] [--temperature T] "
        "[--draft-length K] [--activations auto|float32|both] [--device NAME] [--steps]");
  }
  options.max_sequences = most;
  std::vector<Subject> subjects;
  subjects.push_back(OpenSubject(options));
  if (both) {
    options.activations = ComputeType::kFloat32;
    subjects.push_back(OpenSubject(options));
  }
  const int requests = work.requests;
  for (const int together : sequences) {
    work.sequences = together;
    work.requests = std::max(requests, together);
    Measure(subjects, work);
    for (const Subject& subject : subjects) Print(subject, work);
    std::fflush(stdout);
    if (!both) continue;
    const auto &first = subjects[0].plain, &second = subjects[1].plain;
    std::printf("plain, the first over the second: medians %.3f, best %.3f\n",
                Median(first) / Median(second), Best(first) / Best(second));
  }
  return 0;
}

}  // namespace
}  // namespace mambad::bench

int main(int argc, char** argv) { return mambad::bench::Main(argc, argv); }
