// Questions with given answers: does the model find the right one most probable?

#ifndef MAMBAD_TRAINER_STAGES_MULTIPLE_CHOICE_H_
#define MAMBAD_TRAINER_STAGES_MULTIPLE_CHOICE_H_

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "trainer/corpus.h"
#include "trainer/modules/language_model.h"
#include "trainer/stages/document_rows.h"

namespace mambad::trainer {

struct ChoiceQuestion {
  std::vector<DocumentRow> rows;  // prompt and answer, one a choice
  size_t answer = 0;              // the right one
};

// `path`: JSON Lines {"prompt": text, "choices": [texts], "answer": index from 0}. Throws
// std::runtime_error "path:line: what" for a malformed one, and when there is none.
std::vector<ChoiceQuestion> ReadQuestions(const std::string& path, const CorpusTokenizer& tokenizer,
                                          const CorpusOptions& options);

struct ChoiceAccuracy {
  int64_t questions = 0;
  double accuracy = 0;            // by the answer's log probability
  double accuracy_per_token = 0;  // by its mean over the answer's tokens
};

ChoiceAccuracy MeasureChoices(const LanguageModel& model,
                              const std::vector<ChoiceQuestion>& questions);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_MULTIPLE_CHOICE_H_
