// Direct preference optimisation of one model against a frozen one.

#ifndef MAMBAD_TRAINER_STAGES_PREFERENCE_WORK_H_
#define MAMBAD_TRAINER_STAGES_PREFERENCE_WORK_H_

#include <vector>

#include "trainer/modules/language_model.h"
#include "trainer/token_store.h"
#include "trainer/train_loop.h"

namespace mambad::trainer {

struct PreferenceOptions {
  double beta = 0.1;
  int64_t row_tokens = 1024;
  int64_t prompt_tokens = 0;  // as PairDataset takes it
  int64_t pairs = 128;        // of held-out text, at most
  int64_t micro_batch = 8;    // pairs at once there
};

// Over held-out pairs: valid_preference_accuracy (share in which the model's log probability ratio
// prefers the chosen answer), valid_preference_margin (beta times the mean difference of ratios)
// and valid_preference_loss; ratios against `reference`, or against nothing when it is null. Every
// process calls it and gets the same numbers.
Metrics MeasurePreference(const LanguageModel& model, const LanguageModel* reference,
                          const TokenStore& store, const PreferenceOptions& options,
                          ProcessGroup* processes);

// Batches of a PairDataset. All pointers outlive this; `valid` may be null.
class PreferenceWork : public StageWork {
 public:
  PreferenceWork(const LanguageModel* model, const LanguageModel* reference,
                 const TokenStore* valid, const PreferenceOptions& options,
                 ProcessGroup* processes);
  // loss, accuracy, margin: means over pairs.
  std::vector<StageMetric> metrics() const override;
  void Backward(const TokenBatch& batch, double token_weight, double batch_weight,
                at::Tensor sums) override;
  Metrics Evaluate() override;
  // Where it begins, log 2: from far below, a loss that has been learned away comes back many times
  // as high and is still next to nothing.
  double negligible_loss() const override;

 private:
  const LanguageModel* model_;
  const LanguageModel* reference_;
  const TokenStore* valid_;
  PreferenceOptions options_;
  ProcessGroup* processes_;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_PREFERENCE_WORK_H_
