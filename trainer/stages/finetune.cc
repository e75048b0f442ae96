#include "trainer/stages/model_configuration.h"
#include "trainer/stages/stage.h"
#include "trainer/stages/stage_run.h"
#include "trainer/stages/text_training.h"

namespace mambad::trainer {

void RunFinetune(const FinetuneConfig& config) {
  const StageRun run = OpenStageRun("finetune", config.run, DescriptionOf(config));
  CheckTextTraining(run, ReadConfiguration("student", config.student), config.data, config.loop);
  const std::string text = TextSource(run, config.student, config.chat_template);
  const auto student = LoadModel(run, "student", config.student);
  TrainOnText(run, student.get(), text, config.data, config.loop, config.optimizer,
              config.rest_learning_rate);
}

}  // namespace mambad::trainer
