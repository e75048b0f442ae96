// What the recording backend lets through and what it dies of, over the CPU's.

#include "kernels/recording_backend.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <vector>

#include "kernels/cpu/cpu_backend.h"

namespace mambad::kernels {
namespace {

constexpr int kWidth = 16, kVocabulary = 20, kSequences = 4, kRows = 8, kPages = 3, kSlots = 5;

class RecordingBackendTest : public testing::Test {
 protected:
  RecordingBackendTest() : backend_(CreateRecordingBackend(CreateCpuBackend({.threads = 1}))) {
    MatrixSource source;
    source.float32 = [](int64_t begin, int64_t end, float* out) {
      for (int64_t i = begin; i < end; ++i) std::fill_n(out + (i - begin) * kWidth, kWidth, i);
    };
    embedding_ = backend_->Pack(kVocabulary, kWidth, ElementType::kFloat32, source);
    WorkspaceShape shape;
    shape.max_rows = shape.max_logit_rows = kRows;
    shape.max_sequences = kSequences;
    shape.width = shape.max_projection = shape.max_inner = shape.max_selection = kWidth;
    shape.vocabulary = kVocabulary;
    workspace_ = backend_->CreateWorkspace(shape);

    numbers_ = backend_->Allocate(4096);
    int32_t* at = numbers_.as<int32_t>();
    for (int32_t** array : {&row_begin_, &slot_, &position_, &zero_, &tokens_, &pages_, &logits_}) {
      *array = at;
      at += 64;
    }
    // Two sequences of two rows and one row in a batch of four sequences and eight rows.
    const int32_t begin[] = {0, 2, 3, 3, 3}, slots[] = {4, 1, -1, -1}, positions[] = {15, 3, 0, 0};
    std::copy(std::begin(begin), std::end(begin), row_begin_);
    std::copy(std::begin(slots), std::end(slots), slot_);
    std::copy(std::begin(positions), std::end(positions), position_);
    for (int i = 0; i < kRows; ++i) {
      tokens_[i] = i + 1;
      logits_[i] = i < 3 ? i : -1;
    }
    for (int s = 0; s < kSlots; ++s) {
      for (int page = 0; page < 2; ++page) pages_[s * 2 + page] = s == 4 ? page : 2;
    }
    batch_.sequences = kSequences;
    batch_.rows = kRows;
    batch_.row_begin = row_begin_;
    batch_.slot = slot_;
    batch_.position = position_;
    batch_.replay = batch_.fold = batch_.keep_from = batch_.keep_at = batch_.resume = zero_;
    batch_.tokens = tokens_;
    batch_.pages = pages_;
    batch_.pages_per_sequence = 2;
    batch_.logit_rows = logits_;
    batch_.logit_count = kRows;
    batch_.max_position = 31;

    attention_.key_value_heads = attention_.query_heads = 1;
    attention_.head_width = kWidth;
    memory_ = backend_->Allocate(2 * kPages * kPageTokens * kWidth * sizeof(float));
    keys_.layout = backend_->PageLayout(attention_, ElementType::kFloat32);
    keys_.keys = memory_.as<std::byte>();
    keys_.values = keys_.keys + kPages * keys_.layout.key_bytes;
    state_.layout.floats = state_.slot_stride = 16;
    states_ = backend_->Allocate(kSlots * state_.slot_stride * sizeof(float));
    state_.data = states_.as<float>();
  }

  RoundShape Decode() const {
    RoundShape shape;
    shape.kind = RoundKind::kDecode;
    shape.sequences = kSequences;
    return shape;
  }
  // A decode round that embeds, as it should be or with `change`.
  void Round(const std::function<void(Batch&)>& change = [](Batch&) {}) {
    Batch batch = batch_;
    change(batch);
    if (backend_->BeginRound(Decode())) backend_->Embed(batch, embedding_, *workspace_);
    backend_->EndRound();
  }
  float Embedded(int row) const { return workspace_->residual.row(row)[0]; }

  const std::unique_ptr<Backend> backend_;
  WeightMatrix embedding_;
  std::unique_ptr<Workspace> workspace_;
  Buffer numbers_, memory_, states_;
  int32_t *row_begin_, *slot_, *position_, *zero_, *tokens_, *pages_, *logits_;
  Batch batch_;
  AttentionLayer attention_;
  KeyValueState keys_;
  RecurrentState state_;
};
using RecordingBackendDeathTest = RecordingBackendTest;

TEST_F(RecordingBackendTest, ARoundRunsAtItsEnd) {
  for (RoundKind kind : {RoundKind::kPrompts, RoundKind::kDecode}) {
    RoundShape shape = Decode();
    shape.kind = kind;
    Batch batch = batch_;
    batch.sequences = kind == RoundKind::kPrompts ? 2 : kSequences;
    batch.rows = kind == RoundKind::kPrompts ? 3 : kRows;
    std::fill_n(workspace_->residual.row(0), kWidth, -1.0f);
    ASSERT_TRUE(backend_->BeginRound(shape));
    backend_->Embed(batch, embedding_, *workspace_);
    EXPECT_EQ(Embedded(0), -1);
    backend_->EndRound();
    EXPECT_EQ(Embedded(0), 1);
  }
}

TEST_F(RecordingBackendTest, AKnownRoundIsReplayedOverWhatStandsInMemory) {
  int described = 0;
  for (int round = 0; round < 6; ++round) {
    tokens_[0] = 10 + round;
    if (backend_->BeginRound(Decode())) {
      backend_->Embed(batch_, embedding_, *workspace_);
      ++described;
    }
    backend_->EndRound();
    EXPECT_EQ(Embedded(0), 10 + round);
  }
  EXPECT_EQ(described, 3);
}

TEST_F(RecordingBackendTest, RoundsOfPromptsAreAlwaysDescribed) {
  Batch batch = batch_;
  batch.sequences = 2;
  batch.rows = 3;
  for (int round = 0; round < 4; ++round) {
    ASSERT_TRUE(backend_->BeginRound({}));
    for (int i = 0; i <= round % 2; ++i) backend_->Embed(batch, embedding_, *workspace_);
    backend_->EndRound();
  }
}

TEST_F(RecordingBackendDeathTest, OtherDescriptionsOfAShapeDie) {
  const auto then = [this](const std::function<void(Batch&)>& change) {
    Round();
    Round();  // replayed
    Round(change);
  };
  EXPECT_DEATH(then([](Batch& batch) { batch.rows = 7; }), "Embed: rows is 7, before it was 8");
  EXPECT_DEATH(then([this](Batch& batch) { batch.slot = zero_; }), "Embed: slot is");
  EXPECT_DEATH(then([](Batch& batch) { batch.max_position = 30; }), "max_position is 30");
  const auto more = [this](int times) {
    Round();
    Round();
    ASSERT_TRUE(backend_->BeginRound(Decode()));
    for (int i = 0; i < times; ++i) backend_->Embed(batch_, embedding_, *workspace_);
    backend_->EndRound();
  };
  EXPECT_DEATH(more(2), "had fewer calls");
  EXPECT_DEATH(more(0), "Embed is missing");
  const auto replaced = [this] {
    Round();
    Round();
    backend_->BeginRound(Decode());
    backend_->BeginVerify();
  };
  EXPECT_DEATH(replaced(), "BeginVerify, before it was Embed");
}

TEST_F(RecordingBackendDeathTest, WhatARoundMayNotHoldDies) {
  const auto inside = [this](const std::function<void()>& call) {
    backend_->BeginRound(Decode());
    call();
  };
  float number = 0;
  EXPECT_DEATH(inside([&] { backend_->Synchronize(); }), "Synchronize inside a round");
  EXPECT_DEATH(inside([&] { backend_->Write(numbers_.data(), &number, 4); }), "Write inside");
  EXPECT_DEATH(inside([&] { backend_->Read(&number, numbers_.data(), 4); }), "Read inside");
  EXPECT_DEATH(inside([&] { backend_->Fill(numbers_.as<float>(), 0, 1); }), "Fill inside");
  EXPECT_DEATH(inside([&] { backend_->BeginRound(Decode()); }), "BeginRound inside");
  EXPECT_DEATH(inside([&] { backend_->Score({}, {}, *workspace_); }), "Score in a decode round");
  EXPECT_DEATH(backend_->EndRound(), "EndRound without");
}

TEST_F(RecordingBackendDeathTest, WrongNumbersInMemoryDie) {
  const auto with = [this](int32_t* number, int32_t value) {
    *number = value;
    Round();
  };
  EXPECT_DEATH(with(row_begin_ + 2, 9), "row_begin has 3 rows|-6 rows");
  EXPECT_DEATH(with(row_begin_, 1), "row_begin begins with 1");
  EXPECT_DEATH(with(slot_ + 1, 4), "sequence 1, slot 4: named twice");
  EXPECT_DEATH(with(slot_ + 1, -1), "1 rows of no sequence");
  EXPECT_DEATH(with(slot_ + 3, 2), "slot 2 behind one that is not there");
  EXPECT_DEATH(with(position_ + 1, 32), "positions 32 to 32 of 0 to 31");
  EXPECT_DEATH(with(position_, -1), "positions -1 to 0");
  EXPECT_DEATH(with(tokens_ + 2, kVocabulary), "row 2: token 20 of 20");
}

TEST_F(RecordingBackendDeathTest, CountsOfARoundOfPromptsAreExact) {
  const auto round = [this](int sequences, int rows) {
    Batch batch = batch_;
    batch.sequences = sequences;
    batch.rows = rows;
    backend_->Embed(batch, embedding_, *workspace_);
  };
  round(2, 3);
  EXPECT_DEATH(round(2, 4), "row_begin has 3 rows, the batch 4");
  EXPECT_DEATH(round(3, 3), "0 rows of no sequence");
}

TEST_F(RecordingBackendDeathTest, SlotsAndPagesLieWithinWhatWasAllocated) {
  const auto attend = [this](int32_t* number, int32_t value) {
    *number = value;
    backend_->BeginRound(Decode());
    backend_->Attention(batch_, attention_, keys_, *workspace_);
    backend_->EndRound();
  };
  EXPECT_DEATH(attend(pages_ + 4 * 2 + 1, kPages), "slot 4: page 1 is 3, outside");
  EXPECT_DEATH(attend(pages_ + 4 * 2, -1), "slot 4: page 0 is -1, outside");
  EXPECT_DEATH(attend(position_, 31), "of 0 to 31|3 pages of 2");
  // What one writes nobody else has.
  EXPECT_DEATH(attend(pages_ + 4 * 2 + 1, 2), "slot 1: page 0 is 2, slot 4 has it, too");
  MambaLayer layer;
  const auto scan = [&](int32_t slot) {
    slot_[0] = slot;
    backend_->BeginRound(Decode());
    backend_->Mamba(batch_, layer, state_, *workspace_);
    backend_->EndRound();
  };
  EXPECT_DEATH(scan(kSlots), "slot 5 lies outside of the memory of states");
}

TEST_F(RecordingBackendDeathTest, RowsOfSamplingAreChecked) {
  SamplingTables tables;
  const Buffer states = backend_->Allocate(kSlots * sizeof(SamplingState));
  tables.states = states.as<SamplingState>();
  tables.vocabulary = tables.padded_vocabulary = kVocabulary;
  std::fill_n(tables.states, kSlots, SamplingState());
  int32_t* const ones = zero_ + 16;
  std::fill_n(ones, 16, 1);
  std::vector<int32_t> result(8 * 64);
  const auto accept = [&](const std::function<void(Acceptance&)>& change) {
    Acceptance request;
    request.sequences = kSequences;
    request.slot = slot_;
    request.logit_begin = request.draft_length = request.token_row = zero_;
    request.tokens = tokens_;
    request.position = request.limit = ones;
    change(request);
    AcceptanceResult into{result.data(), result.data() + 8, result.data() + 16,
                          result.data() + 400};
    backend_->Accept(request, tables, *workspace_, into);
  };
  accept([](Acceptance&) {});
  EXPECT_DEATH(accept([&](Acceptance& request) { request.limit = zero_; }), "position 1, limit 0");
  EXPECT_DEATH(accept([&](Acceptance& request) { request.draft_length = tokens_ + 7; }),
               "logits 0 and 8 more|drafts");
  const auto state = [&](const SamplingState& state) {
    tables.states[4] = state;
    accept([](Acceptance&) {});
  };
  SamplingState asks, counts, biases;
  asks.alternatives = 0;
  counts.counts_row = 1;
  biases.bias_row = 1;
  EXPECT_DEATH(state(asks), "slot 4: asks for log-probabilities");
  EXPECT_DEATH(state(counts), "slot 4: row 1 of counts");
  EXPECT_DEATH(state(biases), "slot 4: row 1 of biases");
}

}  // namespace
}  // namespace mambad::kernels
