#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "engine/checkpoint/safetensors.h"
#include "nlohmann/json.hpp"
#include "trainer/report.h"
#include "trainer/stages/draft_acceptance.h"
#include "trainer/stages/held_out.h"
#include "trainer/stages/multiple_choice.h"
#include "trainer/stages/preference_work.h"
#include "trainer/stages/stage.h"
#include "trainer/stages/stage_run.h"

namespace mambad::trainer {
namespace {

// What was measured, as one map for programs and tables for people.
struct Findings {
  Metrics all;
  std::string text;

  void Add(const std::string& title, const Metrics& metrics) {
    ReportTable table{{title, "value"}, {}};
    for (const auto& [name, value] : metrics) {
      table.rows.push_back({name, ReportNumber(value)});
      all.emplace_back(name, value);
    }
    text += MarkdownTable(table) + "\n";
  }
};

struct Evaluation {
  const EvaluateConfig& config;
  const StageRun& run;
  const LanguageModel& model;
  const LanguageModel* teacher;
  Findings findings;
};

void EvaluateText(const TokenStore& store, Evaluation* all) {
  HeldOut held_out(&store, {all->config.data.row_tokens, all->config.rows, all->config.micro_batch},
                   all->run.processes.get());
  all->findings.Add("held-out text", held_out.Compare(all->model, all->teacher));
}

// Teacher-forced on the held-out text as it is, then on what the model writes itself.
void EvaluateDraft(const TokenStore& store, Evaluation* all) {
  const EvaluateConfig& config = all->config;
  const auto draft = LoadModel(all->run, "draft", config.draft);
  CheckVocabularies("draft", config.draft, *draft, "model", config.model, all->model);
  HeldOut held_out(&store, {config.data.row_tokens, config.rows, config.micro_batch},
                   all->run.processes.get());
  Metrics forced;
  for (const auto& [name, value] : held_out.Compare(*draft, &all->model)) {
    forced.emplace_back("draft_" + name.substr(6), value);
  }
  all->findings.Add("draft on held-out text", forced);
  for (const double temperature : {0.0, 1.0}) {
    AcceptanceOptions options;
    options.draft_tokens = config.draft_tokens;
    options.prompts = config.draft_prompts;
    options.prompt_tokens = config.prompt_tokens;
    options.answer_tokens = config.answer_tokens;
    options.temperature = temperature;
    options.seed = all->run.seed;
    const SpeculationCounts counts = MeasureAcceptance(all->model, *draft, store, options);
    const std::string suffix = absl::StrFormat("_temperature_%g", temperature);
    Metrics played;
    for (size_t i = 0; i < counts.reached.size(); ++i) {
      played.emplace_back(absl::StrFormat("acceptance_at_%d%s", i + 1, suffix),
                          counts.AcceptanceAt(i));
    }
    played.emplace_back("accepted_share" + suffix, counts.AcceptedShare());
    played.emplace_back("tokens_a_verification" + suffix, counts.TokensPerVerification());
    played.emplace_back("verifications" + suffix, static_cast<double>(counts.verifications));
    all->findings.Add(absl::StrFormat("speculation at temperature %g", temperature), played);
  }
}

void EvaluatePreference(Evaluation* all) {
  const EvaluateConfig& config = all->config;
  const TokenStore store = OpenText(all->run, config.data, "preference", {config.preference},
                                    config.model, all->model.config().vocabulary);
  std::unique_ptr<LanguageModel> reference;
  if (!config.reference.empty()) {
    reference = LoadModel(all->run, "reference", config.reference);
    CheckVocabularies("reference", config.reference, *reference, "model", config.model, all->model);
  }
  if (!store.index().pairs) {
    throw std::runtime_error("preference: " + config.preference + " holds no pairs");
  }
  all->findings.Add("preference pairs", MeasurePreference(all->model, reference.get(), store,
                                                          {config.beta, config.data.row_tokens,
                                                           config.rows, config.micro_batch},
                                                          all->run.processes.get()));
}

void EvaluateChoices(Evaluation* all) {
  const ModelText text = OpenModelText(all->config.model);
  CorpusOptions options;
  options.prompts_are_chat = all->config.data.prompts_are_chat;
  options.append_end_of_text = false;
  const ChoiceAccuracy accuracy =
      MeasureChoices(all->model, all->config.choices, text.corpus(), options);
  all->findings.Add("multiple choice",
                    {{"choice_accuracy", accuracy.accuracy},
                     {"choice_accuracy_per_token", accuracy.accuracy_per_token},
                     {"choice_questions", static_cast<double>(accuracy.questions)}});
}

void WriteText(const std::string& path, const std::string& text) {
  const std::vector<absl::Span<const std::byte>> pieces = {
      {reinterpret_cast<const std::byte*>(text.data()), text.size()}};
  const absl::Status written = checkpoint::WriteFileAtomically(path, pieces);
  if (!written.ok()) throw std::runtime_error(std::string(written.message()));
}

}  // namespace

void RunEvaluate(const EvaluateConfig& config) {
  const DescribeFunction describe = [&](Settings* settings) {
    EvaluateConfig copy = config;
    Describe(settings, &copy);
  };
  StageRun run = OpenStageRun("evaluate", config.run, describe);
  if (config.data.valid.empty() && config.preference.empty() && config.choices.empty()) {
    throw std::runtime_error("data.valid, preference, choices: expected one at least");
  }
  const auto model = LoadModel(run, "model", config.model);
  std::unique_ptr<LanguageModel> teacher;
  if (!config.teacher.empty()) {
    teacher = LoadModel(run, "teacher", config.teacher);
    CheckVocabularies("model", config.model, *model, "teacher", config.teacher, *teacher);
  }
  Evaluation all = {config, run, *model, teacher.get(), {}};
  if (!config.data.valid.empty()) {
    const TokenStore store = OpenText(run, config.data, "valid", config.data.valid, config.model,
                                      model->config().vocabulary);
    EvaluateText(store, &all);
    if (!config.draft.empty()) EvaluateDraft(store, &all);
  } else if (!config.draft.empty()) {
    throw std::runtime_error("data.valid: expected text to judge the draft on, found nothing");
  }
  if (!config.preference.empty()) EvaluatePreference(&all);
  if (!config.choices.empty()) EvaluateChoices(&all);
  InFirstProcess(run, [&] {
    nlohmann::ordered_json values;
    for (const auto& [name, value] : all.findings.all) values[name] = value;
    WriteText(run.folder + "/evaluation.json", values.dump(2) + "\n");
    WriteText(run.folder + "/report.md", "# trainer evaluate\n\n" + all.findings.text +
                                             "## Settings\n\n```yaml\n" + WriteSettings(describe) +
                                             "```\n");
    std::fputs(all.findings.text.c_str(), stdout);
  });
}

}  // namespace mambad::trainer
