// A model measured on held-out text, alone or against a teacher.

#ifndef MAMBAD_TRAINER_STAGES_HELD_OUT_H_
#define MAMBAD_TRAINER_STAGES_HELD_OUT_H_

#include <cstdint>
#include <optional>

#include "trainer/metrics_writer.h"
#include "trainer/modules/language_model.h"
#include "trainer/process_group.h"
#include "trainer/token_store.h"

namespace mambad::trainer {

struct HeldOutOptions {
  int64_t row_tokens = 1024;
  int64_t rows = 128;  // at most
  int64_t micro_batch = 8;
};

// The same rows every time, whatever the run's seed: documents of `store` in an order of their own,
// packed. Rows are shared out over the processes. One thread.
class HeldOut {
 public:
  // `store` and `processes` outlive this. Throws std::runtime_error: preference pairs, or no token
  // of these rows counts.
  HeldOut(const TokenStore* store, const HeldOutOptions& options, ProcessGroup* processes);

  // Over the tokens that count, each logarithm natural:
  //   valid_cross_entropy, valid_perplexity = exp of it;
  // against a teacher also
  //   valid_divergence       KL(teacher || model) a token
  //   valid_perplexity_ratio perplexity over the teacher's
  //   valid_agreement        share of tokens where both find the same token most probable
  //   valid_overlap          sum over tokens v of min(p_v, q_v): what a draft's sampled tokens
  //   would be
  //                          accepted with at temperature 1
  // The teacher's own cross entropy is taken once: it must be the same one in every call. Every
  // process calls it and gets the same numbers.
  Metrics Compare(const LanguageModel& model, const LanguageModel* teacher);

 private:
  const TokenStore* store_;
  HeldOutOptions options_;
  ProcessGroup* processes_;
  std::optional<double> teacher_cross_entropy_;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_HELD_OUT_H_
