// Questions with given answers: does the model find the right one most probable?

#ifndef MAMBAD_TRAINER_STAGES_MULTIPLE_CHOICE_H_
#define MAMBAD_TRAINER_STAGES_MULTIPLE_CHOICE_H_

#include <cstdint>
#include <string>

#include "trainer/corpus.h"
#include "trainer/modules/language_model.h"

namespace mambad::trainer {

struct ChoiceAccuracy {
  int64_t questions = 0;
  double accuracy = 0;            // by the answer's log probability
  double accuracy_per_token = 0;  // by its mean over the answer's tokens
};

// `path`: JSON Lines {"prompt": text, "choices": [texts], "answer": index from 0}. Throws
// std::runtime_error "path:line: what" for a malformed one.
ChoiceAccuracy MeasureChoices(const LanguageModel& model, const std::string& path,
                              const CorpusTokenizer& tokenizer, const CorpusOptions& options);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_MULTIPLE_CHOICE_H_
