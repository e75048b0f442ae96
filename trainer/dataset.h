// Batches from a token store: documents in a random order, packed end to end into rows.

#ifndef MAMBAD_TRAINER_DATASET_H_
#define MAMBAD_TRAINER_DATASET_H_

#include <cstdint>
#include <vector>

#include "trainer/token_store.h"

namespace mambad::trainer {

// Rows of packed documents on the host, row-major [rows, row_tokens].
struct PackedBatch {
  int64_t rows = 0, row_tokens = 0;
  std::vector<int64_t> token_ids;
  // What follows each token in its document; 0 where nothing does.
  std::vector<int64_t> target_ids;
  // Counted from 0 at every document start.
  std::vector<int64_t> positions;
  // 1 where a document, or the rest of one that the row before cut, begins; always at column 0.
  std::vector<uint8_t> document_start;
  // 1 where the target counts in the loss.
  std::vector<uint8_t> loss_mask;
  int64_t trained_tokens = 0;  // sum of loss_mask

  void Resize(int64_t new_rows, int64_t new_row_tokens);
};

// Where a reader stands: saved with the training state and enough to go on exactly.
struct DatasetCursor {
  int64_t epoch = 0;
  int64_t place = 0;   // in the epoch's order of documents
  int64_t offset = 0;  // tokens of that document already given
  bool operator==(const DatasetCursor&) const = default;
};

struct DatasetOptions {
  int64_t row_tokens = 1024;
  uint64_t seed = 1;
  bool shuffle = true;
  // Ends after this many epochs with a padded row (padding: token 0, a document of its own, no
  // loss); 0: never ends.
  int64_t epochs = 0;
};

// Where a training loop takes its batches from. One thread.
class BatchSource {
 public:
  virtual ~BatchSource() = default;
  // The next batch of `size` units (rows, or pairs); false when there is none left.
  virtual bool Next(int64_t size, PackedBatch* batch) = 0;
  virtual const DatasetCursor& cursor() const = 0;
  // Throws std::runtime_error for a cursor outside the store.
  virtual void Seek(const DatasetCursor& cursor) = 0;
};

// The order of an epoch is a permutation drawn from (seed, epoch) alone, so that a
// reader with a saved cursor gives what the first one would have given.
class PackedDataset : public BatchSource {
 public:
  // `store` outlives this. Throws std::runtime_error for preference pairs, and for text of which no
  // token counts in the loss.
  PackedDataset(const TokenStore* store, const DatasetOptions& options);

  // The next `rows` rows. False when there are none left; the last batch has its missing rows
  // padded.
  bool Next(int64_t rows, PackedBatch* batch) override;

  const DatasetCursor& cursor() const override { return cursor_; }
  void Seek(const DatasetCursor& cursor) override;

 private:
  void OrderEpoch();
  bool AtEnd() const { return options_.epochs > 0 && cursor_.epoch >= options_.epochs; }
  void FillRow(int64_t row, PackedBatch* batch);

  const TokenStore* store_;
  DatasetOptions options_;
  DatasetCursor cursor_;
  std::vector<uint32_t> order_;
  std::vector<int64_t> tokens_;   // of the piece being placed, and the one after it
  std::vector<uint8_t> trained_;  // likewise
};

// What becomes of a store's preference pairs in rows.
struct PairCounts {
  int64_t pairs = 0;           // that are given
  int64_t without_answer = 0;  // left out: on one side no token would count
  int64_t cut_prompts = 0;     // of `pairs`, those whose prompt lost its beginning
  int64_t cut_answers = 0;     // and those whose longer answer loses its end
};

// Preference pairs: rows 0..pairs-1 are the chosen answers, pairs..2*pairs-1 the rejected ones, one
// document a row from column 0, padded behind. Where the longer document of a pair is longer than a
// row, both keep only the last `prompt_tokens` of their prompt (all before the first trained token)
// and are then cut at the row's end.
class PairDataset : public BatchSource {
 public:
  // `store` outlives this. `prompt_tokens`: less than a row; 0: half a row. Throws
  // std::runtime_error when the store holds no pairs, or none with two answers.
  PairDataset(const TokenStore* store, const DatasetOptions& options, int64_t prompt_tokens);
  const PairCounts& counts() const { return counts_; }
  bool Next(int64_t pairs, PackedBatch* batch) override;
  const DatasetCursor& cursor() const override { return cursor_; }
  void Seek(const DatasetCursor& cursor) override;

 private:
  struct Pair {
    int64_t chosen = 0;                // document; the rejected one follows it
    int64_t first_tokens[2] = {0, 0};  // that are kept of the two
  };
  void AddPair(int64_t chosen, int64_t prompt_tokens);
  void OrderEpoch();
  void FillRow(const Pair& pair, int64_t answer, int64_t row, PackedBatch* batch) const;

  const TokenStore* store_;
  DatasetOptions options_;
  PairCounts counts_;
  std::vector<Pair> pairs_;
  DatasetCursor cursor_;
  std::vector<uint32_t> order_;
};

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_DATASET_H_
