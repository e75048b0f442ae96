#include <ATen/ATen.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_format.h"
#include "trainer/layer_choice.h"
#include "trainer/losses.h"
#include "trainer/modules/trained_parameters.h"
#include "trainer/stages/held_out.h"
#include "trainer/stages/stage.h"
#include "trainer/stages/stage_run.h"

namespace mambad::trainer {
namespace {

using at::Tensor;

// Every recurrent layer learns its attention layer's output from the teacher's own hidden states:
// no layer waits for another's errors to go away, and the student's other parts are not needed.
class AlignWork : public StageWork {
 public:
  AlignWork(const LanguageModel* student, const LanguageModel* teacher, AlignmentKind kind,
            HeldOut* held_out)
      : student_(student),
        teacher_(teacher),
        kind_(kind),
        held_out_(held_out),
        recurrent_(student->config().layers, false) {
    for (const int layer : RecurrentLayersOf(student->config())) {
      recurrent_[layer] = true;
      ++layers_;
    }
  }

  std::vector<StageMetric> metrics() const override {
    return {{"loss", StageMetric::Per::kMicroBatch}, {"worst", StageMetric::Per::kMicroBatch}};
  }

  // Backward of a layer right behind its forward: one layer's activations at a time.
  void Backward(const TokenBatch& batch, double /*token_weight*/, double batch_weight,
                Tensor sums) override {
    at::NoGradGuard no_grad;
    Tensor total = at::zeros({}, sums.options()), worst = at::zeros({}, sums.options());
    teacher_->Hidden(batch, [&](int layer, const Tensor& input, const Tensor& output) {
      if (!recurrent_[layer]) return;
      at::AutoGradMode gradients(true);
      const Tensor given = student_->Mixer(layer, input.detach(), batch);
      const Tensor loss = AlignmentLoss(given, output, batch.loss_mask, kind_);
      (loss * (batch_weight / layers_)).backward();
      const Tensor told = loss.detach().to(at::kFloat);
      total.add_(told, 1.0 / layers_);
      at::maximum_out(worst, worst, told);
    });
    sums.select(0, 0).add_(total);
    sums.select(0, 1).add_(worst);
  }

  Metrics Evaluate() override {
    return held_out_ == nullptr ? Metrics() : held_out_->Compare(*student_, teacher_);
  }

 private:
  const LanguageModel* student_;
  const LanguageModel* teacher_;
  AlignmentKind kind_;
  HeldOut* held_out_;
  std::vector<bool> recurrent_;
  double layers_ = 0;
};

void CheckSameShape(const LanguageModel& student, const LanguageModel& teacher) {
  if (student.config().width != teacher.config().width ||
      student.config().layers != teacher.config().layers) {
    throw std::runtime_error(absl::StrFormat(
        "student: expected %d layers of width %d as the teacher has, found %d of %d",
        teacher.config().layers, teacher.config().width, student.config().layers,
        student.config().width));
  }
  if (RecurrentLayersOf(student.config()).empty()) {
    throw std::runtime_error("student: no layer of it is recurrent; was it made by initialize?");
  }
}

}  // namespace

void RunAlign(const AlignConfig& config) {
  StageRun run = OpenStageRun("align", config.run, [&](Settings* settings) {
    AlignConfig copy = config;
    Describe(settings, &copy);
  });
  const auto teacher = LoadModel(run, "teacher", config.teacher);
  const auto student = LoadModel(run, "student", config.student);
  CheckSameShape(*student, *teacher);
  CheckVocabularies("student", config.student, *student, "teacher", config.teacher, *teacher);
  student->SetTrained(
      [](const checkpoint::Parameter& parameter) { return IsRecurrentMixerRole(parameter.role); });

  CheckMemory(run, *student, teacher.get(), TrainedPart::kMixers, config.data, config.loop);

  const StageText text =
      OpenStageText(run, config.data, config.loop, config.teacher, teacher->config().vocabulary);
  PackedDataset data(text.train.get(), TrainingOrder(run, config.data));
  Optimizer optimizer(
      TrainedGroups(*student, {config.optimizer.learning_rate, config.optimizer.learning_rate,
                               config.optimizer.weight_decay}),
      AdamFrom(config.optimizer), run.processes.get());
  AlignWork work(student.get(), teacher.get(),
                 config.loss == AlignConfig::Loss::kDistance ? AlignmentKind::kDistance
                                                             : AlignmentKind::kRelativeSquaredError,
                 text.held_out.get());
  const TrainResult result = Train(LoopOptions(run, config.loop, "align"), run.device, &data,
                                   &optimizer, run.processes.get(), &work);
  FinishStage(run, result, *student, config.student, config.loop.stored);
}

}  // namespace mambad::trainer
