// Rounds: what a decode round's counts leave out, what is replayed, what a round took.

#include <algorithm>
#include <cstdint>
#include <memory>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "tests/kernels/backend/device_array.h"
#include "tests/kernels/backend/reference.h"
#include "tests/kernels/backend/step_rows.h"
#include "tests/kernels/backend/tested_backend.h"

namespace mambad::kernels {
namespace {

class RoundTest : public OnBackend<> {
 protected:
  static constexpr int kWidth = 40, kMlp = 72, kVocabulary = 50, kRows = 11;

  void Prepare() override {
    embedding_ = Matrix(kVocabulary, kWidth, 1);
    in_ = Matrix(2 * kMlp, kWidth, 2);
    out_ = Matrix(kWidth, kMlp, 3);
    few_ = Matrix(3, kWidth, 4);
    tokens_ = std::make_unique<DeviceArray<int32_t>>(backend(), std::vector<int32_t>{3, 4, 17});
    scale_ = std::make_unique<DeviceArray<float>>(backend(), Row(kWidth, 1));
    norm_ = {scale_->data(), 1e-5f};
    mlp_ = {kMlp, norm_, &in_->packed, &out_->packed};
    WorkspaceShape shape = SmallWorkspace(kRows, kWidth, kVocabulary);
    shape.max_projection = 2 * kMlp;
    shape.max_inner = kMlp;
    workspace_ = backend().CreateWorkspace(shape);
    arrays_ = std::make_unique<BatchArrays>(backend());
  }
  std::unique_ptr<TestMatrix> Matrix(int64_t rows, int64_t columns, uint32_t seed) {
    std::mt19937 random(seed);
    return std::make_unique<TestMatrix>(backend(), rows, columns, ElementType::kFloat32,
                                        RandomWeights(random, rows, columns));
  }

  void Describe(const Batch& batch, bool listed) {
    backend().Embed(batch, embedding_->packed, *workspace_);
    backend().Mlp(batch, mlp_, *workspace_);
    if (listed) {
      backend().HeadOfTokens(batch, norm_, few_->packed, tokens_->data(), *workspace_);
    } else {
      backend().Head(batch, norm_, embedding_->packed, *workspace_);
    }
  }
  RoundShape Shape() {
    RoundShape shape;
    shape.sequences = 3;
    shape.context = 64 + ++shapes_;
    return shape;
  }

  std::unique_ptr<TestMatrix> embedding_, in_, out_, few_;
  std::unique_ptr<DeviceArray<int32_t>> tokens_;
  std::unique_ptr<DeviceArray<float>> scale_;
  NormWeights norm_;
  MlpLayer mlp_;
  std::unique_ptr<Workspace> workspace_;
  std::unique_ptr<BatchArrays> arrays_;
  int shapes_ = 0;
};

// The same rows said exactly, and as what there is within larger bounds: all memory ends the same.
// (Mixers: MixerChecks::BatchDoesNotMatter.)
TEST_P(RoundTest, BoundsOfADecodeRoundGiveWhatThereIs) {
  StepRows rows;
  rows.Add(1, 0, {5, 9, 2, 44, 17});
  rows.logit_rows = {4, 0};
  for (const bool listed : {false, true}) {
    Rows ends[2];
    for (const bool bounds : {false, true}) {
      WriteRows(backend(), workspace_->residual, Row(kRows * kWidth, 7));
      WriteRows(backend(), workspace_->logits, Row(kRows * kVocabulary, 7));
      const BatchArrays::Bounds more{2, kRows - 5, 3};
      const Batch batch = bounds ? arrays_->Write(rows, more) : arrays_->Write(rows);
      const auto describe = [&] { Describe(batch, listed); };
      bounds ? RunDecodeRound(backend(), Shape(), describe) : RunRound(backend(), describe);
      ends[bounds] = ReadRows(backend(), workspace_->residual, kRows);
      for (const Row& row : ReadRows(backend(), workspace_->logits, kRows)) {
        ends[bounds].push_back(row);
      }
    }
    EXPECT_EQ(ends[true], ends[false]) << listed;
    EXPECT_EQ(ends[true][5], Row(kWidth, 7));
    EXPECT_EQ(ends[true][kRows + 2], Row(kVocabulary, 7));
  }
}

// A decode round of a shape that the backend may know does what stands in memory by then.
TEST_P(RoundTest, AKnownRoundIsDoneOverWhatStandsInMemory) {
  const RoundShape shape = Shape();
  for (int round = 0; round < 5; ++round) {
    StepRows rows;
    rows.Add(1, 0, {(round * 7 + 3) % kVocabulary, round});
    rows.logit_rows = {round % 2, 1};
    const Batch batch = arrays_->Write(rows, {2, 4, 1});
    RunDecodeRound(backend(), shape, [&] { Describe(batch, false); });
    const Rows residual = ReadRows(backend(), workspace_->residual, 2);
    const Rows logits = ReadRows(backend(), workspace_->logits, 2);
    const Batch exact = arrays_->Write(rows);
    RunRound(backend(), [&] { Describe(exact, false); });
    EXPECT_EQ(ReadRows(backend(), workspace_->residual, 2), residual) << round;
    EXPECT_EQ(ReadRows(backend(), workspace_->logits, 2), logits) << round;
  }
}

TEST_P(RoundTest, NothingThereIsNothing) {
  WriteRows(backend(), workspace_->residual, Row(kRows * kWidth, 7));
  const Batch batch = arrays_->Write(StepRows(), {3, 5, 2});
  RunDecodeRound(backend(), Shape(), [&] { Describe(batch, false); });
  EXPECT_EQ(ReadRows(backend(), workspace_->residual, 1)[0], Row(kWidth, 7));
}

// A device that records does so once a shape; of prompts it records nothing.
TEST_P(RoundTest, TellsWhatItRecorded) {
  StepRows rows;
  rows.Add(1, 0, {5});
  rows.logit_rows = {0};
  const Batch exact = arrays_->Write(rows);
  RunRound(backend(), [&] { Describe(exact, false); });
  EXPECT_EQ(backend().Recorded().recordings, 0);
  const Batch batch = arrays_->Write(rows, {2, 4, 1});
  const RoundShape shapes[] = {Shape(), Shape()};
  for (int round = 0; round < 6; ++round) {
    RunDecodeRound(backend(), shapes[round % 2], [&] { Describe(batch, false); });
    const RecordedRounds recorded = backend().Recorded();
    EXPECT_EQ(recorded.kept, recorded.recordings);
    EXPECT_LE(recorded.kept, 2);
    if (recorded.kept > 0) {
      EXPECT_EQ(recorded.kept, round == 0 ? 1 : 2);
    }
  }
}

TEST_P(RoundTest, TellsWhatItTook) {
  StepRows rows;
  rows.Add(1, 0, {5, 9, 2, 44, 17});
  rows.logit_rows = {4};
  const Batch batch = arrays_->Write(rows);
  for (const bool drafts : {true, false}) {
    RunRound(backend(), [&] {
      if (drafts) {
        Describe(batch, true);
        backend().BeginVerify();
      }
      Describe(batch, false);
    });
    const RoundTimes times = backend().TakeRoundTimes();
    EXPECT_EQ(times.draft > 0, drafts);
    EXPECT_GT(times.verify, 0);
    EXPECT_GE(times.whole, times.draft + times.verify);
    EXPECT_LT(times.whole, 60);
  }
}

INSTANTIATE_TEST_SUITE_P(Variants, RoundTest, ::testing::ValuesIn(TestedVariants()), NameOfVariant);

}  // namespace
}  // namespace mambad::kernels
