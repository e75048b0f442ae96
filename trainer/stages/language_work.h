// One model learns to write text: from the text, from a teacher, or from both.

#ifndef MAMBAD_TRAINER_STAGES_LANGUAGE_WORK_H_
#define MAMBAD_TRAINER_STAGES_LANGUAGE_WORK_H_

#include <vector>

#include "trainer/losses.h"
#include "trainer/modules/language_model.h"
#include "trainer/stages/held_out.h"
#include "trainer/train_loop.h"

namespace mambad::trainer {

// The work of pretraining, distillation, fine-tuning and drafts. All pointers outlive this.
class LanguageWork : public StageWork {
 public:
  // Without a teacher `loss` asks for cross entropy only. `held_out` may be null.
  LanguageWork(const LanguageModel* model, const LanguageModel* teacher,
               const HeadLossOptions& loss, HeldOut* held_out);

  // With a teacher: loss, divergence, cross_entropy, agreement, overlap (held_out.h); else loss.
  std::vector<StageMetric> metrics() const override;
  void Backward(const TokenBatch& batch, double token_weight, double batch_weight,
                at::Tensor sums) override;
  Metrics Evaluate() override;

 private:
  const LanguageModel* model_;
  const LanguageModel* teacher_;
  HeadLossOptions loss_;
  HeldOut* held_out_;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_LANGUAGE_WORK_H_
