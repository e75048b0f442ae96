// Documents side by side, one a row, for measuring each by itself.

#ifndef MAMBAD_TRAINER_STAGES_DOCUMENT_ROWS_H_
#define MAMBAD_TRAINER_STAGES_DOCUMENT_ROWS_H_

#include <cstdint>
#include <vector>

#include "trainer/dataset.h"

namespace mambad::trainer {

struct DocumentRow {
  std::vector<int64_t> tokens;
  int64_t untrained = 0;  // the first so many are no targets
};

// As wide as the longest of them; what is behind a document is a document of its own without
// targets. Every document has a token at least.
PackedBatch DocumentRows(const std::vector<DocumentRow>& documents);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_STAGES_DOCUMENT_ROWS_H_
