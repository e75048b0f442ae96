#include "trainer/stages/generate.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "engine/checkpoint/fingerprint.h"
#include "nlohmann/json.hpp"
#include "trainer/counter_random.h"
#include "trainer/metrics_writer.h"
#include "trainer/modules/decode_state.h"
#include "trainer/modules/language_model.h"
#include "trainer/report.h"
#include "trainer/stages/generated_record.h"
#include "trainer/stages/run_inputs.h"
#include "trainer/stages/stage_run.h"
#include "trainer/stages/token_sampling.h"
#include "trainer/text_file.h"

namespace mambad::trainer {
namespace {

namespace fs = std::filesystem;
using Outcome = GeneratedRecord::Outcome;
using Clock = std::chrono::steady_clock;

constexpr double kSecondsBetweenLines = 2;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

// Of records: how they ended, and how many tokens were drawn for them.
struct Counts {
  std::map<Outcome, int64_t> outcomes;
  int64_t tokens = 0;

  int64_t of(Outcome outcome) const {
    const auto it = outcomes.find(outcome);
    return it == outcomes.end() ? 0 : it->second;
  }
  void Add(const Counts& other) {
    for (const auto& [outcome, count] : other.outcomes) outcomes[outcome] += count;
    tokens += other.tokens;
  }
  std::string Words() const {
    return absl::StrFormat("%d kept, %d unfinished, %d loops, %d empty, %d broken",
                           of(Outcome::kFinished), of(Outcome::kUnfinished), of(Outcome::kLoop),
                           of(Outcome::kEmpty), of(Outcome::kBroken));
  }
};

constexpr std::pair<const char*, Outcome> kOutcomeNames[] = {{"kept", Outcome::kFinished},
                                                             {"unfinished", Outcome::kUnfinished},
                                                             {"loops", Outcome::kLoop},
                                                             {"empty", Outcome::kEmpty},
                                                             {"broken", Outcome::kBroken}};

// Files of the shards: NNNNN.jsonl and, written after it, NNNNN.json with its counts. A shard with
// both is finished.
class ShardFolder {
 public:
  // `identity` tells what is generated: shards of another one are refused.
  ShardFolder(std::string folder, std::string identity)
      : folder_(std::move(folder)), identity_(std::move(identity)) {
    std::error_code error;
    fs::create_directories(folder_, error);
    if (error) throw std::runtime_error(absl::StrCat(folder_, ": ", error.message()));
  }

  std::string LinesPath(int64_t shard) const {
    return absl::StrFormat("%s/%05d.jsonl", folder_, shard);
  }

  // Nothing when the shard is not finished, or when it was of another number of records (the last
  // shard of a run that asked for fewer). Throws std::runtime_error when it is another run's.
  std::optional<Counts> Find(int64_t shard, int64_t records) const {
    std::ifstream file(CountsPath(shard), std::ios::binary);
    if (!file) return std::nullopt;
    const nlohmann::json read = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
    if (!read.is_object() || read.value("identity", "") != identity_) {
      throw std::runtime_error(absl::StrCat(CountsPath(shard),
                                            ": was generated with other settings, prompts or ",
                                            "another model: give another output"));
    }
    if (read.value("records", int64_t{0}) != records) return std::nullopt;
    Counts counts;
    for (const auto& [name, outcome] : kOutcomeNames) {
      counts.outcomes[outcome] = read.value(name, int64_t{0});
    }
    counts.tokens = read.value("tokens", int64_t{0});
    return counts;
  }

  void Write(int64_t shard, int64_t records, const std::string& lines, const Counts& counts) const {
    // A shard is finished from its counts on: not those of an earlier one.
    std::error_code ignored;
    fs::remove(CountsPath(shard), ignored);
    WriteText(LinesPath(shard), lines);
    nlohmann::ordered_json json = {{"identity", identity_}, {"records", records}};
    for (const auto& [name, outcome] : kOutcomeNames) json[name] = counts.of(outcome);
    json["tokens"] = counts.tokens;
    WriteText(CountsPath(shard), json.dump() + "\n");
  }

 private:
  std::string CountsPath(int64_t shard) const {
    return absl::StrFormat("%s/%05d.json", folder_, shard);
  }
  std::string folder_, identity_;
};

// Records that the teacher works on at once. Every shard begins with empty places and fills them in
// the same order, so that it is the same whenever and wherever it is made.
class Generator {
 public:
  Generator(const GenerateConfig& config, const GenerationPrompts& prompts,
            const LanguageModel& model)
      : config_(config),
        prompts_(prompts),
        model_(model),
        state_(&model, config.sequences, config.maximum_tokens),
        places_(config.sequences) {}

  using Watch = std::function<void(const Counts&)>;

  // Records [begin, end): their lines in order. Calls `watch` every now and then.
  std::string Run(int64_t begin, int64_t end, Counts* counts, const Watch& watch) {
    next_ = begin;
    end_ = end;
    lines_.assign(end - begin, "");
    for (Place& place : places_) Begin(&place, counts);
    for (int64_t step = 1; AnyRuns(); ++step) {
      Step(begin, counts);
      if (step % 16 == 0) watch(*counts);
    }
    std::string all;
    for (const std::string& line : lines_) all += line;
    return all;
  }

 private:
  struct Place {
    std::optional<GeneratedRecord> record;
    int64_t index = 0;  // of the record
  };

  bool AnyRuns() const {
    return std::any_of(places_.begin(), places_.end(),
                       [](const Place& place) { return place.record.has_value(); });
  }

  // The next record that has something to write; the place stays empty when there is none left.
  void Begin(Place* place, Counts* counts) {
    place->record.reset();
    while (!place->record.has_value() && next_ < end_) {
      place->index = next_++;
      const GenerationPrompt prompt =
          prompts_.from_nothing() ? GenerationPrompt()
                                  : prompts_.prompt(place->index / config_.samples_per_prompt);
      place->record.emplace(&prompts_, prompt,
                            GenerationLimits{config_.maximum_tokens, config_.most_compression});
      if (place->record->outcome() == Outcome::kRunning) return;
      ++counts->outcomes[place->record->outcome()];
      place->record.reset();
    }
  }

  void Step(int64_t begin, Counts* counts) {
    const auto seed = static_cast<uint64_t>(config_.run.seed);
    std::vector<int64_t> tokens(places_.size(), -1);
    std::vector<float> temperatures(places_.size(), 1), uniforms(places_.size(), 0);
    for (size_t i = 0; i < places_.size(); ++i) {
      if (!places_[i].record.has_value()) continue;
      GeneratedRecord& record = *places_[i].record;
      if (record.TakeReset()) state_.Reset(static_cast<int64_t>(i));
      tokens[i] = record.next();
      // Counter 0 is the temperature, 1 + n the n-th token.
      const CounterRandom random(seed, static_cast<uint64_t>(places_[i].index));
      const double share = random.Uniform(0);
      temperatures[i] =
          static_cast<float>(config_.lowest_temperature +
                             share * (config_.highest_temperature - config_.lowest_temperature));
      uniforms[i] =
          static_cast<float>(random.Uniform(1 + static_cast<uint64_t>(record.written_tokens())));
    }
    const at::Tensor drawn =
        DrawTokens(state_.Step(tokens), OnDevice(temperatures), OnDevice(uniforms), config_.top_p)
            .to(at::kCPU);
    const int64_t* const ids = drawn.const_data_ptr<int64_t>();
    for (size_t i = 0; i < places_.size(); ++i) {
      if (places_[i].record.has_value()) Advance(&places_[i], ids[i], begin, counts);
    }
  }

  void Advance(Place* place, int64_t token, int64_t begin, Counts* counts) {
    GeneratedRecord& record = *place->record;
    counts->tokens += record.wants_token();
    record.Take(static_cast<text::TokenId>(token));
    if (record.outcome() == Outcome::kRunning) return;
    ++counts->outcomes[record.outcome()];
    if (record.outcome() == Outcome::kFinished) {
      lines_[place->index - begin] = record.Line() + "\n";
    }
    Begin(place, counts);
  }

  at::Tensor OnDevice(const std::vector<float>& numbers) const {
    const at::Tensor host = at::tensor(numbers, at::TensorOptions().dtype(at::kFloat));
    return host.to(model_.device());
  }

  const GenerateConfig& config_;
  const GenerationPrompts& prompts_;
  const LanguageModel& model_;
  DecodeState state_;
  std::vector<Place> places_;
  std::vector<std::string> lines_;  // of finished records, by their place in the shard
  int64_t next_ = 0, end_ = 0;
};

// What decides about the text: not where, on what and with how many shards it is made.
std::string IdentityOf(const GenerateConfig& config, const GenerationPrompts& prompts) {
  GenerateConfig deciding = config;
  deciding.run = {};
  deciding.run.seed = config.run.seed;
  deciding.run.compute = config.run.compute;
  deciding.prompts.clear();  // their contents count
  deciding.records = 0;      // a later run may ask for more
  checkpoint::Fingerprint sum;
  sum.Add(WriteSettings(DescriptionOf(deciding)));
  sum.Add(prompts.Identity());
  sum.Add(ModelFingerprint(config.model));
  return sum.Digits();
}

void Check(const GenerateConfig& config) {
  if (config.highest_temperature < config.lowest_temperature) {
    throw std::runtime_error("highest_temperature: at least lowest_temperature expected");
  }
  const bool none =
      std::find(config.prompts.begin(), config.prompts.end(), "none") != config.prompts.end();
  if (config.prompts.empty() || (none && config.prompts.size() > 1)) {
    throw std::runtime_error("prompts: files, or the word none alone, expected");
  }
}

// generated.jsonl of all shards, one after another.
void JoinShards(const ShardFolder& folder, int64_t shards, const std::string& output) {
  const std::string partial = output + ".partial";
  {
    std::ofstream out(partial, std::ios::binary | std::ios::trunc);
    for (int64_t shard = 0; shard < shards; ++shard) {
      std::ifstream in(folder.LinesPath(shard), std::ios::binary);
      if (!in) throw std::runtime_error(folder.LinesPath(shard) + ": cannot be read");
      if (in.peek() != std::ifstream::traits_type::eof()) out << in.rdbuf();
    }
    out.flush();
    if (!out) throw std::runtime_error(partial + ": cannot be written (disk full?)");
  }
  std::error_code error;
  fs::rename(partial, output, error);
  if (error) throw std::runtime_error(absl::StrCat(output, ": ", error.message()));
}

// How the records of all shards ended: a line of metrics a shard, and a report of them all.
void TellOutcomes(const GenerateConfig& config, const ShardFolder& folder, int64_t records) {
  MetricsWriter metrics(config.run.output, 0);
  Counts all;
  for (int64_t first = 0, shard = 0; first < records; first += config.shard_records, ++shard) {
    const Counts counts =
        folder.Find(shard, std::min(records - first, config.shard_records)).value_or(Counts());
    Metrics line;
    for (const auto& [name, outcome] : kOutcomeNames) line.emplace_back(name, counts.of(outcome));
    line.emplace_back("tokens", counts.tokens);
    metrics.Write(shard + 1, line);
    all.Add(counts);
  }
  ReportTable table = {{"records", "number"}, {{"in all", ReportNumber(records)}}};
  for (const auto& [name, outcome] : kOutcomeNames) {
    table.rows.push_back({name, ReportNumber(all.of(outcome))});
  }
  table.rows.push_back({"tokens drawn", ReportNumber(all.tokens)});
  WriteText(config.run.output + "/report.md", "# trainer generate\n\n" + MarkdownTable(table) +
                                                  "\n## Settings\n\n```yaml\n" +
                                                  WriteSettings(DescriptionOf(config)) + "```\n");
}

}  // namespace

void Describe(Settings* s, GenerateConfig* c) {
  DescribeRun(s, &c->run);
  s->Text("model", &c->model, Settings::Need::kRequired, "directory of the teacher");
  s->Texts("prompts", &c->prompts, Settings::Need::kOptional,
           "files of {\"messages\"}, {\"prompt\"} or {\"text\"} a line (.gz, .xz too); none: the "
           "teacher invents the user's turn too, or a whole text");
  s->Whole("records", &c->records, 1, Settings::kNoBound, "prompts none: attempts");
  s->Whole("samples_per_prompt", &c->samples_per_prompt, 1, 1 << 20, "answers to each prompt");
  s->Whole("sequences", &c->sequences, 1, 1 << 16, "records that are written at once");
  s->Whole("shard_records", &c->shard_records, 1, 1 << 24,
           "records after which the work is saved; some times `sequences` keeps all places busy");
  s->Whole("maximum_tokens", &c->maximum_tokens, 2, 1 << 20,
           "tokens of prompt and answer; longer ones are dropped");
  s->Real("lowest_temperature", &c->lowest_temperature, 0, 10,
          "each record draws its own between the two; 0: greedy");
  s->Real("highest_temperature", &c->highest_temperature, 0, 10, "see lowest_temperature");
  s->Real("top_p", &c->top_p, 1e-6, 1, "share of probability that tokens are drawn from");
  s->Real("most_compression", &c->most_compression, 1, 1e6,
          "turns that zlib makes this many times smaller are loops and dropped");
}

void RunGenerate(const GenerateConfig& config) {
  Check(config);
  const StageRun run = OpenStageRun("generate", config.run, DescriptionOf(config));
  const auto model = LoadModel(run, "model", config.model);
  GenerationPrompts prompts(config.model, model->config().eos_ids);
  if (config.prompts[0] != "none") {
    for (const std::string& path : config.prompts) prompts.Read(path);
  }
  const int64_t records =
      prompts.from_nothing() ? config.records : prompts.size() * config.samples_per_prompt;
  const int64_t shards = (records + config.shard_records - 1) / config.shard_records;
  const ShardFolder folder(run.folder + "/shards", IdentityOf(config, prompts));
  Generator generator(config, prompts, *model);
  Progress progress(run.progress, "generate", records);
  const Clock::time_point begin = Clock::now();
  Clock::time_point shown_at = begin;
  Counts mine;
  int64_t done = 0, written = 0;  // records looked at by this process, tokens of this start
  for (int64_t shard = run.processes->rank(); shard < shards; shard += run.processes->size()) {
    const int64_t first = shard * config.shard_records;
    const int64_t last = std::min(records, first + config.shard_records);
    std::optional<Counts> counts = folder.Find(shard, last - first);
    if (!counts.has_value()) {
      counts.emplace();
      const auto watch = [&](const Counts& now) {
        if (SecondsSince(shown_at) < kSecondsBetweenLines) return;
        shown_at = Clock::now();
        int64_t finished = done;
        for (const auto& [outcome, count] : now.outcomes) finished += count;
        const double rate = static_cast<double>(written + now.tokens) / SecondsSince(begin);
        const double share = static_cast<double>(std::max<int64_t>(1, finished)) /
                             static_cast<double>(records / run.processes->size() + 1);
        progress.Show(finished, rate, SecondsSince(begin) * (1 / share - 1),
                      {{"kept", static_cast<double>(now.of(Outcome::kFinished) +
                                                    mine.of(Outcome::kFinished))}});
      };
      const std::string lines = generator.Run(first, last, &*counts, watch);
      folder.Write(shard, last - first, lines, *counts);
      written += counts->tokens;
    }
    mine.Add(*counts);
    done += last - first;
  }
  progress.Say(absl::StrFormat("generate: %d records: %s; %.0f tokens/s", done, mine.Words(),
                               static_cast<double>(written) / SecondsSince(begin)));
  run.processes->Barrier();
  InFirstProcess(run, [&] {
    JoinShards(folder, shards, run.folder + "/generated.jsonl");
    TellOutcomes(config, folder, records);
    Say(run, absl::StrCat("generate: wrote ", run.folder, "/generated.jsonl"));
  });
}

}  // namespace mambad::trainer
