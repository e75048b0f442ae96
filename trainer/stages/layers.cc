// Which layers should keep attention, measured: from a student without any, attention is given back
// where it lowers the divergence from the teacher most, one layer after the other.

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <vector>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "trainer/initialize.h"
#include "trainer/layer_choice.h"
#include "trainer/report.h"
#include "trainer/stages/held_out.h"
#include "trainer/stages/model_configuration.h"
#include "trainer/stages/run_threads.h"
#include "trainer/stages/stage.h"
#include "trainer/stages/stage_run.h"
#include "trainer/text_file.h"

namespace mambad::trainer {
namespace {

// Attention of `teacher` in all layers but `recurrent`, which have the mixers of `student`.
std::unique_ptr<LanguageModel> Compose(const LanguageModel& teacher, const LanguageModel& student,
                                       const std::vector<int>& recurrent) {
  InitializeOptions options;
  options.recurrent_layers = recurrent;
  options.mixer = student.config().mixers[recurrent.front()];
  options.trained_mixers = &student;
  return InitializeHybrid(teacher, options);
}

double Divergence(HeldOut* held_out, const LanguageModel& model, const LanguageModel& teacher) {
  for (const auto& [name, value] : held_out->Compare(model, &teacher)) {
    if (name == "valid_divergence") return value;
  }
  throw std::logic_error("held-out text gives no divergence");
}

struct GivenBack {
  int layer = 0;
  double divergence = 0;       // with attention in it and in all given back before
  std::vector<int> recurrent;  // layers that are left
};

// The next layer of `recurrent` to give attention back to.
GivenBack GiveBackOne(const LanguageModel& teacher, const LanguageModel& student,
                      const std::vector<int>& recurrent, HeldOut* held_out) {
  GivenBack best;
  for (const int layer : recurrent) {
    std::vector<int> left = recurrent;
    std::erase(left, layer);
    const double divergence = Divergence(held_out, *Compose(teacher, student, left), teacher);
    if (!best.recurrent.empty() && divergence >= best.divergence) continue;
    best = {layer, divergence, std::move(left)};
  }
  return best;
}

}  // namespace

void RunLayers(const LayersConfig& config) {
  const DescribeFunction describe = DescriptionOf(config);
  StageRun run = OpenStageRun("layers", config.run, describe);
  std::vector<int> recurrent = RecurrentLayersOf(ReadConfiguration("student", config.student));
  if (recurrent.size() < 2) {
    throw std::runtime_error(
        "student: expected two recurrent layers at least, aligned to the teacher's");
  }
  const auto teacher = LoadModel(run, "teacher", config.teacher);
  const auto student = LoadModel(run, "student", config.student);
  CheckVocabularies("student", config.student, *student, "teacher", config.teacher, *teacher);
  const TokenStore store = OpenText(run, config.data, "valid", config.data.valid, config.teacher,
                                    teacher->config().vocabulary);
  ChooseThreads(run, *teacher, config.micro_batch * config.data.row_tokens);
  HeldOut held_out(&store, {config.data.row_tokens, config.rows, config.micro_batch},
                   run.processes.get());
  ReportTable table{{"attention layers", "given back to", "divergence", "recurrent layers left"},
                    {}};
  const auto add = [&](const std::string& layer, double divergence) {
    table.rows.push_back({absl::StrFormat("%d", student->config().layers - recurrent.size()), layer,
                          ReportNumber(divergence), absl::StrJoin(recurrent, ", ")});
    Say(run, absl::StrFormat("layers: %s: divergence %.5f, left: %s", layer, divergence,
                             table.rows.back().back()));
  };
  add("-", Divergence(&held_out, *student, *teacher));
  while (recurrent.size() > 1) {
    GivenBack next = GiveBackOne(*teacher, *student, recurrent, &held_out);
    recurrent = std::move(next.recurrent);
    add(absl::StrFormat("%d", next.layer), next.divergence);
  }
  InFirstProcess(run, [&] {
    const std::string text = "# trainer layers\n\n" + MarkdownTable(table) +
                             "\n## Settings\n\n```yaml\n" + WriteSettings(describe) + "```\n";
    WriteText(run.folder + "/report.md", text);
  });
}

}  // namespace mambad::trainer
