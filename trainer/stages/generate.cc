#include "trainer/stages/generate.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <exception>
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
#include "absl/strings/str_replace.h"
#include "engine/checkpoint/fingerprint.h"
#include "nlohmann/json.hpp"
#include "trainer/counter_random.h"
#include "trainer/metrics_writer.h"
#include "trainer/modules/decode_state.h"
#include "trainer/modules/language_model.h"
#include "trainer/report.h"
#include "trainer/stages/generated_record.h"
#include "trainer/stages/generator_state.h"
#include "trainer/stages/run_inputs.h"
#include "trainer/stages/run_threads.h"
#include "trainer/stages/shard_company.h"
#include "trainer/stages/shard_folder.h"
#include "trainer/stages/stage_run.h"
#include "trainer/stages/token_sampling.h"
#include "trainer/stop_signal.h"
#include "trainer/text_file.h"

namespace mambad::trainer {
namespace {

namespace fs = std::filesystem;
using Outcome = GeneratedRecord::Outcome;
using Clock = std::chrono::steady_clock;

constexpr double kSecondsBetweenLines = 2;
constexpr double kSecondsBetweenStates = 600;

double SecondsSince(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

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

  // Called after every step; false: no more.
  using Watch = std::function<bool(const RecordCounts&)>;

  // Begins with records [begin, end).
  void Start(int64_t begin, int64_t end, RecordCounts* counts) {
    first_ = next_ = begin;
    end_ = end;
    lines_.assign(end - begin, "");
    for (Place& place : places_) Begin(&place, counts);
  }

  // Works until they are done, true, or `watch` says no, false.
  bool Run(RecordCounts* counts, const Watch& watch) {
    while (AnyRuns()) {
      Step(counts);
      if (!watch(*counts)) return !AnyRuns();
    }
    return true;
  }

  // Of all records that were kept, in their order.
  std::string Lines() const {
    std::string all;
    for (const std::string& line : lines_) all += line;
    return all;
  }

  // Between two steps: what Restore goes on from, besides the tensors of state().
  nlohmann::json Words(const RecordCounts& counts) const {
    nlohmann::json places = nlohmann::json::array();
    for (const Place& place : places_) {
      places.push_back({{"index", place.index},
                        {"record", place.record ? place.record->State() : nlohmann::json()}});
    }
    nlohmann::json words = {{"first", first_}, {"next", next_},    {"end", end_},
                            {"lines", lines_}, {"places", places}, {"tokens", counts.tokens}};
    for (const auto& [name, outcome] : kOutcomeNames) words[name] = counts.of(outcome);
    return words;
  }
  const DecodeState& state() const { return state_; }

  // Instead of Start. Throws std::runtime_error for what is no state of these records.
  void Restore(int64_t begin, int64_t end, const GeneratorState& saved, RecordCounts* counts) {
    try {
      const nlohmann::json& words = saved.words;
      if (words.at("first") != begin || words.at("end") != end ||
          words.at("places").size() != places_.size()) {
        throw std::runtime_error("a saved shard of other records");
      }
      first_ = begin;
      end_ = end;
      next_ = words.at("next");
      lines_ = words.at("lines").get<std::vector<std::string>>();
      if (static_cast<int64_t>(lines_.size()) != end - begin || next_ < begin || next_ > end) {
        throw std::runtime_error("a saved shard of other records");
      }
      for (const auto& [name, outcome] : kOutcomeNames) {
        counts->outcomes[outcome] = words.at(name).get<int64_t>();
      }
      counts->tokens = words.at("tokens");
      const GenerationLimits limits = Limits();
      for (size_t i = 0; i < places_.size(); ++i) {
        const nlohmann::json& place = words["places"][i];
        places_[i].index = place.at("index");
        places_[i].record.reset();
        if (place.at("record").is_null()) continue;
        if (places_[i].index < begin || places_[i].index >= end) {
          throw std::runtime_error("a saved record of another shard");
        }
        places_[i].record = GeneratedRecord::FromState(&prompts_, limits, place["record"]);
      }
    } catch (const nlohmann::json::exception& error) {
      throw std::runtime_error(error.what());
    }
    state_.Restore(saved.tensors);
  }

 private:
  struct Place {
    std::optional<GeneratedRecord> record;
    int64_t index = 0;  // of the record
  };

  GenerationLimits Limits() const { return {config_.maximum_tokens, config_.most_compression}; }

  bool AnyRuns() const {
    return std::any_of(places_.begin(), places_.end(),
                       [](const Place& place) { return place.record.has_value(); });
  }

  // The next record that has something to write; the place stays empty when there is none left.
  void Begin(Place* place, RecordCounts* counts) {
    place->record.reset();
    while (!place->record.has_value() && next_ < end_) {
      place->index = next_++;
      const GenerationPrompt prompt =
          prompts_.from_nothing() ? GenerationPrompt()
                                  : prompts_.prompt(place->index / config_.samples_per_prompt);
      place->record.emplace(&prompts_, prompt, Limits());
      if (place->record->outcome() == Outcome::kRunning) return;
      ++counts->outcomes[place->record->outcome()];
      place->record.reset();
    }
  }

  void Step(RecordCounts* counts) {
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
      if (places_[i].record.has_value()) Advance(&places_[i], ids[i], counts);
    }
  }

  void Advance(Place* place, int64_t token, RecordCounts* counts) {
    GeneratedRecord& record = *place->record;
    counts->tokens += record.wants_token();
    record.Take(static_cast<text::TokenId>(token));
    if (record.outcome() == Outcome::kRunning) return;
    ++counts->outcomes[record.outcome()];
    if (record.outcome() == Outcome::kFinished) {
      lines_[place->index - first_] = record.Line() + "\n";
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
  int64_t first_ = 0, next_ = 0, end_ = 0;
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
  // A setting of later versions: what they find of earlier ones goes on.
  sum.Add(
      absl::StrReplaceAll(WriteSettings(DescriptionOf(deciding)), {{"overwrite: false\n", ""}}));
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
  RecordCounts all;
  for (int64_t first = 0, shard = 0; first < records; first += config.shard_records, ++shard) {
    const RecordCounts counts = folder.Find(shard, std::min(records - first, config.shard_records))
                                    .value_or(RecordCounts());
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

// The shards of this process, one after the other.
class ShardWork {
 public:
  ShardWork(const GenerateConfig& config, const StageRun& run, const GenerationPrompts& prompts,
            const LanguageModel& model, ShardFolder* folder, ShardCompany* company, int64_t records)
      : config_(config),
        run_(run),
        folder_(folder),
        company_(company),
        records_(records),
        generator_(config, prompts, model),
        progress_(run.progress, "generate", records) {}

  // Until they are made or the company is stopped: what was made until then is kept.
  void MakeAll(int64_t shards) {
    for (int64_t shard = run_.processes->rank(); shard < shards; shard += run_.processes->size()) {
      const int64_t first = shard * config_.shard_records;
      const int64_t last = std::min(records_, first + config_.shard_records);
      std::optional<RecordCounts> counts = folder_->Find(shard, last - first);
      if (!counts) counts = Make(shard, first, last);
      if (lost_) std::rethrow_exception(lost_);
      if (!counts) return;
      all_.Add(*counts);
      done_ += last - first;
    }
    progress_.Say(absl::StrFormat("generate: %d records: %s; %.0f tokens/s", done_, all_.Words(),
                                  static_cast<double>(written_) / SecondsSince(begin_)));
  }

 private:
  // Nothing when it was stopped in between.
  std::optional<RecordCounts> Make(int64_t shard, int64_t first, int64_t last) {
    RecordCounts counts;
    Begin(shard, first, last, &counts);
    const int64_t tokens_before = counts.tokens;
    Clock::time_point kept_at = Clock::now();
    const bool done = generator_.Run(&counts, [&](const RecordCounts& now) {
      Show(now, written_ + now.tokens - tokens_before);
      const bool stops = Stops();
      if (!stops && SecondsSince(kept_at) >= kSecondsBetweenStates) {
        folder_->Keep(shard, generator_.Words(now), generator_.state().Tensors());
        kept_at = Clock::now();
      }
      return !stops;
    });
    if (!done) {
      folder_->Keep(shard, generator_.Words(counts), generator_.state().Tensors());
      return std::nullopt;
    }
    folder_->Write(shard, last - first, generator_.Lines(), counts);
    written_ += counts.tokens - tokens_before;
    return counts;
  }

  // From where an earlier start has stood, if it kept that.
  void Begin(int64_t shard, int64_t first, int64_t last, RecordCounts* counts) {
    const std::optional<GeneratorState> kept = folder_->FindKept(shard);
    // A run that asks for more or fewer records has another last shard.
    if (!kept || kept->words.value("end", int64_t{-1}) != last) {
      return generator_.Start(first, last, counts);
    }
    generator_.Restore(first, last, *kept, counts);
    progress_.Say(absl::StrFormat("generate: goes on in shard %d of %d", shard,
                                  (records_ - 1) / config_.shard_records + 1));
  }

  // A process that has gone stops the others too, with what they have written kept.
  bool Stops() {
    try {
      return company_->Look() != 0;
    } catch (const std::runtime_error&) {
      lost_ = std::current_exception();
      return true;
    }
  }

  void Show(const RecordCounts& now, int64_t tokens) {
    if (SecondsSince(shown_at_) < kSecondsBetweenLines) return;
    shown_at_ = Clock::now();
    int64_t finished = done_;
    for (const auto& [outcome, count] : now.outcomes) finished += count;
    const double seconds = SecondsSince(begin_);
    const double share = static_cast<double>(std::max<int64_t>(1, finished)) /
                         static_cast<double>(records_ / run_.processes->size() + 1);
    progress_.Show(
        finished, static_cast<double>(tokens) / seconds, seconds * (1 / share - 1),
        {{"kept", static_cast<double>(now.of(Outcome::kFinished) + all_.of(Outcome::kFinished))}});
  }

  const GenerateConfig& config_;
  const StageRun& run_;
  ShardFolder* const folder_;
  ShardCompany* const company_;
  const int64_t records_;
  Generator generator_;
  Progress progress_;
  const Clock::time_point begin_ = Clock::now();
  Clock::time_point shown_at_ = begin_;
  RecordCounts all_;
  int64_t done_ = 0, written_ = 0;  // records looked at by this process, tokens of this start
  std::exception_ptr lost_;         // another process
};

// All processes' shards. Throws Stopped when a signal to any of them came first.
void MakeShards(const GenerateConfig& config, const StageRun& run, const GenerationPrompts& prompts,
                const LanguageModel& model, ShardFolder* folder, int64_t records, int64_t shards) {
  const StopSignals signals(run.progress != nullptr);
  ShardCompany company(run.processes.get());
  ShardWork(config, run, prompts, model, folder, &company, records).MakeAll(shards);
  const int signal = company.Meet();
  if (signal == 0) return;
  const std::string words = absl::StrFormat(
      "generate: stopped by %s; all that was written is saved in %s/shards: the same command goes "
      "on from there",
      SignalName(signal), run.folder);
  Say(run, words);
  throw Stopped(signal, words);
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
  StageRun run = OpenStageRun("generate", config.run, DescriptionOf(config));
  const auto model = LoadModel(run, "model", config.model);
  GenerationPrompts prompts(config.model, model->config().eos_ids);
  if (config.prompts[0] != "none") {
    for (const std::string& path : config.prompts) prompts.Read(path);
  }
  const int64_t records =
      prompts.from_nothing() ? config.records : prompts.size() * config.samples_per_prompt;
  const int64_t shards = (records + config.shard_records - 1) / config.shard_records;
  ShardFolder folder(run.folder + "/shards", IdentityOf(config, prompts));
  InFirstProcess(run, [&] {
    if (config.run.overwrite && !folder.IsOwn()) folder.Empty();
    run.goes_on = !folder.IsEmpty();
  });
  ChooseThreads(run, *model, config.sequences);
  MakeShards(config, run, prompts, *model, &folder, records, shards);
  InFirstProcess(run, [&] {
    JoinShards(folder, shards, run.folder + "/generated.jsonl");
    TellOutcomes(config, folder, records);
    Say(run, absl::StrCat("generate: wrote ", run.folder, "/generated.jsonl"));
  });
}

}  // namespace mambad::trainer
