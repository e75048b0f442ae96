#include "trainer/dataset.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <utility>

#include "absl/strings/str_format.h"
#include "trainer/counter_random.h"

namespace mambad::trainer {
namespace {

// Fisher and Yates, every draw from (seed, epoch, place).
std::vector<uint32_t> Permutation(int64_t size, const DatasetOptions& options, int64_t epoch) {
  std::vector<uint32_t> order(size);
  std::iota(order.begin(), order.end(), 0u);
  if (!options.shuffle) return order;
  const CounterRandom random(options.seed, static_cast<uint64_t>(epoch));
  for (int64_t place = size - 1; place > 0; --place) {
    std::swap(order[place], order[random.Below(place, place + 1)]);
  }
  return order;
}

void CheckCursor(const DatasetCursor& cursor, int64_t places) {
  if (cursor.epoch < 0 || cursor.place < 0 || cursor.place >= places || cursor.offset < 0) {
    throw std::runtime_error(
        absl::StrFormat("the saved place in the data (epoch %d, document %d, token %d) is outside "
                        "a store of %d: was the run started on other data?",
                        cursor.epoch, cursor.place, cursor.offset, places));
  }
}

void CheckOptions(const TokenStore& store, const DatasetOptions& options) {
  if (options.row_tokens < 2) throw std::runtime_error("row_tokens: expected 2 or more");
  if (store.documents() > std::numeric_limits<uint32_t>::max()) {
    throw std::runtime_error("a token store of more than 2^32 documents");
  }
}

// Whether a loss would have a term: the first token of a document is nobody's target.
bool HasTargets(const TokenStore& store) {
  if (store.index().trained_tokens == 0) return false;
  for (int64_t document = 0; document < store.documents(); ++document) {
    if (store.FirstTrained(document, 1) < store.Length(document)) return true;
  }
  return false;
}

void PadFrom(int64_t row, int64_t column, PackedBatch* batch) {
  for (int64_t i = column; i < batch->row_tokens; ++i) {
    const int64_t at = row * batch->row_tokens + i;
    batch->token_ids[at] = batch->target_ids[at] = 0;
    batch->positions[at] = i - column;
    batch->document_start[at] = i == column || i == 0;
    batch->loss_mask[at] = 0;
  }
}

}  // namespace

void PackedBatch::Resize(int64_t new_rows, int64_t new_row_tokens) {
  rows = new_rows;
  row_tokens = new_row_tokens;
  const size_t size = static_cast<size_t>(rows * row_tokens);
  token_ids.resize(size);
  target_ids.resize(size);
  positions.resize(size);
  document_start.resize(size);
  loss_mask.resize(size);
  trained_tokens = 0;
}

PackedDataset::PackedDataset(const TokenStore* store, const DatasetOptions& options)
    : store_(store), options_(options) {
  CheckOptions(*store, options);
  const TokenStoreIndex& index = store->index();
  if (index.pairs) {
    throw std::runtime_error(store->directory() +
                             ": preference pairs, which only preference learns from; expected "
                             "text, conversations or completions");
  }
  if (!HasTargets(*store)) {
    throw std::runtime_error(
        absl::StrFormat("%s: not one of %d tokens counts in the loss; expected plain text, "
                        "completions, or turns of "
                        "the assistant",
                        store->directory(), index.tokens));
  }
  OrderEpoch();
}

void PackedDataset::OrderEpoch() {
  order_ = Permutation(store_->documents(), options_, cursor_.epoch);
}

void PackedDataset::Seek(const DatasetCursor& cursor) {
  CheckCursor(cursor, store_->documents());
  const bool other_epoch = cursor.epoch != cursor_.epoch;
  cursor_ = cursor;
  if (other_epoch) OrderEpoch();
  if (cursor.offset > store_->Length(order_[cursor.place])) CheckCursor(cursor, -1);
}

void PackedDataset::FillRow(int64_t row, PackedBatch* batch) {
  int64_t column = 0;
  while (column < options_.row_tokens && !AtEnd()) {
    const int64_t document = order_[cursor_.place];
    const int64_t left = store_->Length(document) - cursor_.offset;
    const int64_t count = std::min(left, options_.row_tokens - column);
    // One more than is placed: the last token's target may lie in the next row.
    const int64_t read = std::min(left, count + 1);
    tokens_.resize(read);
    trained_.resize(read);
    store_->Read(document, cursor_.offset, read, tokens_.data(), trained_.data());
    for (int64_t i = 0; i < count; ++i) {
      const int64_t at = row * options_.row_tokens + column + i;
      const bool followed = i + 1 < read;
      batch->token_ids[at] = tokens_[i];
      batch->target_ids[at] = followed ? tokens_[i + 1] : 0;
      batch->positions[at] = i;
      batch->document_start[at] = i == 0;
      batch->loss_mask[at] = followed && trained_[i + 1] != 0;
      batch->trained_tokens += batch->loss_mask[at];
    }
    column += count;
    cursor_.offset += count;
    if (count < left) continue;
    cursor_.offset = 0;
    if (++cursor_.place == store_->documents()) {
      cursor_.place = 0;
      ++cursor_.epoch;
      OrderEpoch();
    }
  }
  PadFrom(row, column, batch);
}

bool PackedDataset::Next(int64_t rows, PackedBatch* batch) {
  if (AtEnd()) return false;
  batch->Resize(rows, options_.row_tokens);
  for (int64_t row = 0; row < rows; ++row) FillRow(row, batch);
  return true;
}

PairDataset::PairDataset(const TokenStore* store, const DatasetOptions& options,
                         int64_t prompt_tokens)
    : store_(store), options_(options) {
  CheckOptions(*store, options);
  if (!store->index().pairs) {
    throw std::runtime_error(store->directory() +
                             ": no preference pairs; expected {\"prompt\", \"chosen\", "
                             "\"rejected\"}");
  }
  if (prompt_tokens >= options.row_tokens) {
    throw std::runtime_error(
        absl::StrFormat("prompt_tokens: expected less than a row of %d, found %d",
                        options.row_tokens, prompt_tokens));
  }
  if (prompt_tokens == 0) prompt_tokens = options.row_tokens / 2;
  for (int64_t chosen = 0; chosen < store->documents(); chosen += 2) AddPair(chosen, prompt_tokens);
  if (pairs_.empty()) {
    throw std::runtime_error(
        absl::StrFormat("%s: not one of %d preference pairs has an answer on both sides",
                        store->directory(), counts_.without_answer));
  }
  OrderEpoch();
}

void PairDataset::AddPair(int64_t chosen, int64_t prompt_tokens) {
  const int64_t longest = std::max(store_->Length(chosen), store_->Length(chosen + 1));
  // The last token of a row has its target behind the row.
  const bool too_long = longest > options_.row_tokens + 1;
  Pair pair = {chosen};
  bool prompt_cut = false, answer_cut = false;
  for (int64_t answer = 0; answer < 2; ++answer) {
    const int64_t length = store_->Length(chosen + answer);
    const int64_t prompt = store_->FirstTrained(chosen + answer, 0);
    // A document's first token is nobody's target.
    if (store_->FirstTrained(chosen + answer, 1) == length) {
      ++counts_.without_answer;
      return;
    }
    if (too_long) pair.first_tokens[answer] = std::max<int64_t>(0, prompt - prompt_tokens);
    prompt_cut |= pair.first_tokens[answer] > 0;
    answer_cut |= length - pair.first_tokens[answer] > options_.row_tokens + 1;
  }
  pairs_.push_back(pair);
  ++counts_.pairs;
  counts_.cut_prompts += prompt_cut;
  counts_.cut_answers += answer_cut;
}

void PairDataset::OrderEpoch() { order_ = Permutation(counts_.pairs, options_, cursor_.epoch); }

void PairDataset::Seek(const DatasetCursor& cursor) {
  CheckCursor(cursor, counts_.pairs);
  const bool other_epoch = cursor.epoch != cursor_.epoch;
  cursor_ = cursor;
  if (other_epoch) OrderEpoch();
}

void PairDataset::FillRow(const Pair& pair, int64_t answer, int64_t row, PackedBatch* batch) const {
  const int64_t document = pair.chosen + answer, first = pair.first_tokens[answer];
  const int64_t read = std::min(store_->Length(document) - first, options_.row_tokens + 1);
  const int64_t count = std::min(read, options_.row_tokens);
  std::vector<int64_t> tokens(read);
  std::vector<uint8_t> trained(read);
  store_->Read(document, first, read, tokens.data(), trained.data());
  const int64_t begin = row * options_.row_tokens;
  for (int64_t i = 0; i < count; ++i) {
    batch->token_ids[begin + i] = tokens[i];
    batch->positions[begin + i] = i;
    batch->document_start[begin + i] = i == 0;
    batch->target_ids[begin + i] = i + 1 < read ? tokens[i + 1] : 0;
    batch->loss_mask[begin + i] = i + 1 < read && trained[i + 1] != 0;
    batch->trained_tokens += batch->loss_mask[begin + i];
  }
  if (count < options_.row_tokens) PadFrom(row, count, batch);
}

bool PairDataset::Next(int64_t pairs, PackedBatch* batch) {
  if (options_.epochs > 0 && cursor_.epoch >= options_.epochs) return false;
  batch->Resize(2 * pairs, options_.row_tokens);
  for (int64_t row = 0; row < 2 * pairs; ++row) PadFrom(row, 0, batch);
  for (int64_t row = 0; row < pairs; ++row) {
    if (options_.epochs > 0 && cursor_.epoch >= options_.epochs) break;
    const Pair& pair = pairs_[order_[cursor_.place]];
    FillRow(pair, 0, row, batch);
    FillRow(pair, 1, pairs + row, batch);
    if (++cursor_.place == counts_.pairs) {
      cursor_.place = 0;
      ++cursor_.epoch;
      OrderEpoch();
    }
  }
  return true;
}

}  // namespace mambad::trainer
