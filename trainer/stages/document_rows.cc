#include "trainer/stages/document_rows.h"

#include <algorithm>

namespace mambad::trainer {

PackedBatch DocumentRows(const std::vector<DocumentRow>& documents) {
  int64_t width = 1;
  for (const DocumentRow& document : documents) {
    width = std::max(width, static_cast<int64_t>(document.tokens.size()));
  }
  PackedBatch batch;
  batch.Resize(static_cast<int64_t>(documents.size()), width);
  for (size_t row = 0; row < documents.size(); ++row) {
    const std::vector<int64_t>& tokens = documents[row].tokens;
    const auto length = static_cast<int64_t>(tokens.size());
    for (int64_t column = 0; column < width; ++column) {
      const int64_t at = static_cast<int64_t>(row) * width + column;
      const bool inside = column < length, followed = column + 1 < length;
      batch.token_ids[at] = inside ? tokens[column] : 0;
      batch.target_ids[at] = followed ? tokens[column + 1] : 0;
      batch.positions[at] = inside ? column : column - length;
      batch.document_start[at] = column == 0 || column == length;
      batch.loss_mask[at] = followed && column + 1 >= documents[row].untrained;
      batch.trained_tokens += batch.loss_mask[at];
    }
  }
  return batch;
}

}  // namespace mambad::trainer
