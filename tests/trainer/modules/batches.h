// Batches of given documents, for tests of models.

#ifndef MAMBAD_TESTS_TRAINER_MODULES_BATCHES_H_
#define MAMBAD_TESTS_TRAINER_MODULES_BATCHES_H_

#include <ATen/Parallel.h>

#include <cstdint>
#include <vector>

#include "trainer/token_batch.h"

namespace mambad::trainer::testing {

// Models this small gain nothing from threads that wait for each other.
inline const bool kOneThread = (at::set_num_threads(1), true);

using Documents = std::vector<std::vector<int32_t>>;

// One row for each element of `rows`: its documents one after the other; all rows are as long.
inline TokenBatch PackedRows(const std::vector<Documents>& rows, at::Device device = at::kCPU) {
  PackedBatch batch;
  int64_t row_tokens = 0;
  for (const auto& document : rows[0]) row_tokens += static_cast<int64_t>(document.size());
  batch.Resize(static_cast<int64_t>(rows.size()), row_tokens);
  size_t at = 0;
  for (const Documents& documents : rows) {
    for (const auto& document : documents) {
      for (size_t i = 0; i < document.size(); ++i, ++at) {
        batch.token_ids.at(at) = document[i];
        batch.target_ids[at] = i + 1 < document.size() ? document[i + 1] : 0;
        batch.positions[at] = static_cast<int64_t>(i);
        batch.document_start[at] = i == 0;
        batch.loss_mask[at] = i + 1 < document.size();
      }
    }
  }
  return MoveToDevice(batch, device);
}

}  // namespace mambad::trainer::testing

#endif  // MAMBAD_TESTS_TRAINER_MODULES_BATCHES_H_
