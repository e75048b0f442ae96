// Mixers learn their attention layers' outputs, each alone.

#ifndef MAMBAD_TRAINER_STAGES_ALIGN_WORK_H_
#define MAMBAD_TRAINER_STAGES_ALIGN_WORK_H_

#include <vector>

#include "trainer/losses.h"
#include "trainer/modules/language_model.h"
#include "trainer/stages/held_out.h"
#include "trainer/train_loop.h"

namespace mambad::trainer {

// Every recurrent layer learns its attention layer's output from the teacher's own hidden states:
// no layer waits for another's errors to go away, and the student's other parts are not needed. All
// pointers outlive this; `held_out` may be null.
class AlignWork : public StageWork {
 public:
  AlignWork(const LanguageModel* student, const LanguageModel* teacher, AlignmentKind kind,
            HeldOut* held_out);
  // loss: mean over layers; worst: the largest of a layer.
  std::vector<StageMetric> metrics() const override;
  void Backward(const TokenBatch& batch, double token_weight, double batch_weight,
                at::Tensor sums) override;
  Metrics Evaluate() override;

 private:
  const LanguageModel* student_;
  const LanguageModel* teacher_;
  AlignmentKind kind_;
  HeldOut* held_out_;
  std::vector<bool> recurrent_;
  double layers_ = 0;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_ALIGN_WORK_H_
