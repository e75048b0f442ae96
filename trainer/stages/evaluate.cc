#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "trainer/report.h"
#include "trainer/stages/draft_acceptance.h"
#include "trainer/stages/held_out.h"
#include "trainer/stages/multiple_choice.h"
#include "trainer/stages/preference_work.h"
#include "trainer/stages/run_threads.h"
#include "trainer/stages/stage.h"
#include "trainer/stages/stage_run.h"
#include "trainer/text_file.h"

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

// All that is measured with, opened before anything is measured: what is wrong with a file is told
// at once. Null or empty: not asked for.
struct Evaluation {
  const EvaluateConfig& config;
  const StageRun& run;
  std::unique_ptr<LanguageModel> model, teacher, draft, reference;
  std::optional<TokenStore> text, pairs;
  std::vector<ChoiceQuestion> questions;
  Findings findings;
};

std::unique_ptr<LanguageModel> LoadBesides(const Evaluation& all, const std::string& key,
                                           const std::string& directory) {
  if (directory.empty()) return nullptr;
  auto other = LoadModel(all.run, key, directory);
  CheckVocabularies(key, directory, *other, "model", all.config.model, *all.model);
  return other;
}

std::vector<ChoiceQuestion> OpenQuestions(const EvaluateConfig& config) {
  const ModelText text = OpenModelText(config.model);
  CorpusOptions options;
  options.prompts_are_chat = config.data.prompts_are_chat;
  options.append_end_of_text = false;
  return ReadQuestions(config.choices, text.corpus(), options);
}

void Open(Evaluation* all) {
  const EvaluateConfig& config = all->config;
  all->model = LoadModel(all->run, "model", config.model);
  all->teacher = LoadBesides(*all, "teacher", config.teacher);
  all->draft = LoadBesides(*all, "draft", config.draft);
  const int64_t vocabulary = all->model->config().vocabulary;
  if (!config.data.valid.empty()) {
    all->text =
        OpenText(all->run, config.data, "valid", config.data.valid, config.model, vocabulary);
  }
  if (!config.preference.empty()) {
    all->reference = LoadBesides(*all, "reference", config.reference);
    // The prompt is the same on both sides of a pair, whatever counts in data.valid.
    DataConfig answers = config.data;
    answers.loss_on = TargetTokens::kAnswers;
    all->pairs =
        OpenText(all->run, answers, "preference", {config.preference}, config.model, vocabulary);
    if (!all->pairs->index().pairs) {
      throw std::runtime_error("preference: " + config.preference + " holds no pairs");
    }
  }
  if (!config.choices.empty()) all->questions = OpenQuestions(config);
}

void EvaluateText(Evaluation* all) {
  HeldOut held_out(&*all->text,
                   {all->config.data.row_tokens, all->config.rows, all->config.micro_batch},
                   all->run.processes.get());
  all->findings.Add("held-out text", held_out.Compare(*all->model, all->teacher.get()));
}

// Teacher-forced on the held-out text as it is, then on what the model writes itself.
void EvaluateDraft(Evaluation* all) {
  const EvaluateConfig& config = all->config;
  HeldOut held_out(&*all->text, {config.data.row_tokens, config.rows, config.micro_batch},
                   all->run.processes.get());
  Metrics forced;
  for (const auto& [name, value] : held_out.Compare(*all->draft, all->model.get())) {
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
    const SpeculationCounts counts =
        MeasureAcceptance(*all->model, *all->draft, *all->text, options);
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
  all->findings.Add(
      "preference pairs",
      MeasurePreference(*all->model, all->reference.get(), *all->pairs,
                        {config.beta, config.data.row_tokens, 0, config.rows, config.micro_batch},
                        all->run.processes.get()));
}

void EvaluateChoices(Evaluation* all) {
  const ChoiceAccuracy accuracy = MeasureChoices(*all->model, all->questions);
  all->findings.Add("multiple choice",
                    {{"choice_accuracy", accuracy.accuracy},
                     {"choice_accuracy_per_token", accuracy.accuracy_per_token},
                     {"choice_questions", static_cast<double>(accuracy.questions)}});
}

}  // namespace

void RunEvaluate(const EvaluateConfig& config) {
  const DescribeFunction describe = DescriptionOf(config);
  StageRun run = OpenStageRun("evaluate", config.run, describe);
  if (config.data.valid.empty() && config.preference.empty() && config.choices.empty()) {
    throw std::runtime_error("data.valid, preference, choices: expected one at least");
  }
  if (config.data.valid.empty() && !config.draft.empty()) {
    throw std::runtime_error("data.valid: expected text to judge the draft on, found nothing");
  }
  Evaluation all = {config, run, nullptr, nullptr, nullptr, nullptr, {}, {}, {}, {}};
  Open(&all);
  ChooseThreads(run, *all.model, config.micro_batch * config.data.row_tokens);
  if (all.text) EvaluateText(&all);
  if (all.draft) EvaluateDraft(&all);
  if (all.pairs) EvaluatePreference(&all);
  if (!all.questions.empty()) EvaluateChoices(&all);
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
