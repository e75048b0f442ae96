// Models shipped in parts: cut and put together they are the same to the last bit that 8-bit blocks
// keep; anything else than the right teacher is refused.

#include "trainer/formats/model_parts.h"

#include <cmath>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "engine/checkpoint/checkpoint.h"
#include "engine/checkpoint/dequantise.h"
#include "engine/checkpoint/gguf.h"
#include "engine/checkpoint/model_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/checkpoint/test_directory.h"
#include "tests/support/checkpoint_writer.h"
#include "tests/trainer/expect_error.h"
#include "tests/trainer/formats/random_models.h"
#include "trainer/formats/embedding_projection.h"
#include "trainer/formats/gguf_writer.h"
#include "trainer/formats/model_source.h"
#include "trainer/formats/status_exception.h"

namespace mambad::trainer {
namespace {

using mambad::testing::ErrorOf;
constexpr char kNoError[] = "nothing was thrown";
using checkpoint::Checkpoint;
using checkpoint::Parameter;
using checkpoint::Role;
using checkpoint::StorageType;
using checkpoint::TestDirectory;
using support::RandomModelOptions;
using ::testing::HasSubstr;

std::vector<float> Numbers(const Checkpoint& checkpoint, const Parameter& parameter) {
  int64_t count = 1;
  for (const int64_t extent : parameter.shape) count *= extent;
  std::vector<float> numbers(count);
  checkpoint.Read(parameter, 0, parameter.shape[0], absl::MakeSpan(numbers));
  return numbers;
}

// A Llama with a tokenizer; a hybrid of it whose mixers were trained, all else as it was.
struct TeacherAndStudent {
  TestDirectory teacher, student;

  explicit TeacherAndStudent(checkpoint::MixerKind mixer = checkpoint::MixerKind::kMamba2) {
    RandomModelOptions options;
    options.vocabulary = 300;
    options.tied_head = true;
    options.type = StorageType::kBFloat16;
    EXPECT_TRUE(support::SaveRandomCheckpoint(teacher.path(), options).ok());
    EXPECT_TRUE(support::SaveByteTokenizer(teacher.path()).ok());
    teacher.Write("tokenizer_config.json", R"({"chat_template": "{{ 1 }}"})");
    options.family = checkpoint::Family::kHybrid;
    options.hybrid_mixer = mixer;
    options.dt_bias_applied_once = true;
    options.attention_layers = {1};
    options.seed = 7;
    TestDirectory random;
    EXPECT_TRUE(support::SaveRandomCheckpoint(random.path(), options).ok());
    const auto from = ValueOf(Checkpoint::Open(random.path()));
    const auto base = ValueOf(Checkpoint::Open(teacher.path()));
    std::vector<std::vector<float>> numbers;
    std::vector<checkpoint::TensorToWrite> tensors;
    numbers.reserve(from->table().parameters().size());
    for (const Parameter& parameter : from->table().parameters()) {
      if (!from->Has(parameter)) continue;
      const Parameter* shared = base->table().Find(parameter.role, parameter.layer);
      numbers.push_back(shared != nullptr && shared->shape == parameter.shape
                            ? Numbers(*base, *shared)
                            : Numbers(*from, parameter));
      tensors.push_back({parameter.name,
                         StorageType::kFloat32,
                         parameter.shape,
                         {reinterpret_cast<const std::byte*>(numbers.back().data()),
                          numbers.back().size() * sizeof(float)}});
    }
    ThrowUnlessOk(checkpoint::WriteModelDirectory(student.path(), from->config(), tensors, 0));
  }
};

TEST(ModelParts, HybridsComeBack) {
  for (const auto mixer : {checkpoint::MixerKind::kMamba, checkpoint::MixerKind::kMamba2}) {
    TeacherAndStudent models(mixer);
    TestDirectory output;
    const PackedModel packed =
        PackModel(models.student.path(), models.teacher.path(), output / "parts.gguf");
    EXPECT_EQ(packed.projection_distance, -1);
    EXPECT_GT(packed.rounding, 1e-4);
    EXPECT_LT(packed.rounding, 0.01);
    EXPECT_LT(packed.bytes, packed.shipped_numbers * 2);
    const AssembledModel assembled =
        AssembleModel(output / "parts.gguf", models.teacher.path(), output / "model");
    EXPECT_EQ(assembled.sha256, packed.sha256);

    const auto found = ValueOf(Checkpoint::Open(output / "model"));
    const auto student = ValueOf(Checkpoint::Open(models.student.path()));
    const auto teacher = ValueOf(Checkpoint::Open(models.teacher.path()));
    EXPECT_EQ(found->config().mixers, student->config().mixers);
    EXPECT_EQ(found->config().mamba.dt_bias_applied_twice, false);
    int64_t shipped = 0;
    for (const Parameter& parameter : found->table().parameters()) {
      if (!found->Has(parameter)) continue;
      const std::vector<float> got = Numbers(*found, parameter);
      const std::vector<float> trained = Numbers(*student, *student->table().Find(parameter.name));
      const Parameter* shared = teacher->table().Find(parameter.role, parameter.layer);
      if (parameter.keep_float32 || (shared != nullptr && shared->shape == parameter.shape)) {
        EXPECT_EQ(got, trained) << parameter.name;  // no bit is lost
      } else {
        EXPECT_LT(RelativeDistance(got, trained), 0.01) << parameter.name;
        shipped += static_cast<int64_t>(got.size());
      }
    }
    EXPECT_GT(shipped, 0);
    EXPECT_TRUE(std::filesystem::exists(output / "model/tokenizer.json"));
    EXPECT_TRUE(std::filesystem::exists(output / "model/tokenizer_config.json"));
  }
}

// A draft: a Mamba-2 of its own whose embedding is the teacher's times a matrix.
TEST(ModelParts, DraftsShipAProjection) {
  TeacherAndStudent models;
  RandomModelOptions options;
  options.family = checkpoint::Family::kMamba2;
  options.width = 32;
  options.layers = 2;
  options.vocabulary = 300;
  options.tied_head = true;
  TestDirectory random, draft, output;
  ASSERT_TRUE(support::SaveRandomCheckpoint(random.path(), options).ok());
  const auto from = ValueOf(Checkpoint::Open(random.path()));
  const auto base = ValueOf(Checkpoint::Open(models.teacher.path()));
  const int64_t base_width = base->config().width;
  std::mt19937 engine(3);
  std::normal_distribution<float> normal(0, 0.1f);
  std::vector<float> projection(base_width * 32);
  for (float& number : projection) number = normal(engine);
  const std::vector<float> embedding = ProjectEmbedding(
      Numbers(*base, *base->table().Find(Role::kEmbedding, -1)), projection, 300, base_width, 32);
  const auto save = [&](const std::vector<float>& embedding_numbers) {
    std::vector<std::vector<float>> numbers;
    std::vector<checkpoint::TensorToWrite> tensors;
    numbers.reserve(from->table().parameters().size());
    for (const Parameter& parameter : from->table().parameters()) {
      if (!from->Has(parameter)) continue;
      numbers.push_back(parameter.role == Role::kEmbedding ? embedding_numbers
                                                           : Numbers(*from, parameter));
      tensors.push_back({parameter.name,
                         StorageType::kFloat32,
                         parameter.shape,
                         {reinterpret_cast<const std::byte*>(numbers.back().data()),
                          numbers.back().size() * sizeof(float)}});
    }
    ThrowUnlessOk(checkpoint::WriteModelDirectory(draft.path(), from->config(), tensors, 0));
  };
  save(embedding);
  const PackedModel packed = PackModel(draft.path(), models.teacher.path(), output / "draft.gguf");
  EXPECT_GE(packed.projection_distance, 0);
  EXPECT_LT(packed.projection_distance, 1e-4);
  AssembleModel(output / "draft.gguf", models.teacher.path(), output / "draft");
  const auto found = ValueOf(Checkpoint::Open(output / "draft"));
  EXPECT_EQ(found->config().family, checkpoint::Family::kMamba2);
  const Parameter& parameter = *found->table().Find(Role::kEmbedding, -1);
  EXPECT_LT(RelativeDistance(Numbers(*found, parameter), embedding), 0.004);  // bf16 and halves

  // What is no projection is shipped as it is.
  std::vector<float> other(embedding.size());
  for (float& number : other) number = normal(engine);
  save(other);
  EXPECT_EQ(
      PackModel(draft.path(), models.teacher.path(), output / "draft.gguf").projection_distance,
      -1);
  AssembleModel(output / "draft.gguf", models.teacher.path(), output / "draft");
  EXPECT_LT(
      RelativeDistance(Numbers(*ValueOf(Checkpoint::Open(output / "draft")), parameter), other),
      0.01);
}

// The tokens that a draft proposes travel with it; the digest is of tensors alone.
TEST(ModelParts, ProposedTokensComeBack) {
  TeacherAndStudent models;
  TestDirectory output;
  const std::string parts = output / "parts.gguf", list = "model/proposed_tokens.json";
  const auto pack = [&] { return PackModel(models.student.path(), models.teacher.path(), parts); };
  const auto assemble = [&] { AssembleModel(parts, models.teacher.path(), output / "model"); };
  models.student.Write("proposed_tokens.json", "[2,7,\n299]");
  const PackedModel with = pack();
  EXPECT_EQ(with.proposed_tokens, 3);
  assemble();
  EXPECT_EQ(output.Read(list), "[2, 7, 299]\n");
  const std::string good = output.Read("parts.gguf");

  // A list that says nothing of this model is refused, and what was there stays.
  std::string bad = good;
  const size_t ids = bad.find("mambad.parts.proposed_tokens") + 28 + 4 + 4 + 8;
  bad[ids + 4] = 2;
  output.Write("parts.gguf", bad);
  EXPECT_THAT(ErrorOf(assemble),
              HasSubstr("mambad.parts.proposed_tokens: [1]: 2 found, a token id above 2"));
  bad = good;
  bad[ids - 16] = 8;  // a text, of which the length is the array's type and more
  output.Write("parts.gguf", bad);
  EXPECT_NE(ErrorOf(assemble), kNoError);
  models.student.Write("proposed_tokens.json", "[300]");
  EXPECT_THAT(ErrorOf(pack), HasSubstr("proposed_tokens.json: [0]: 300 found"));
  EXPECT_EQ(output.Read(list), "[2, 7, 299]\n");

  // Without one, that of an earlier model goes.
  std::filesystem::remove(models.student / "proposed_tokens.json");
  const PackedModel without = pack();
  EXPECT_EQ(without.proposed_tokens, 0);
  EXPECT_EQ(without.sha256, with.sha256);
  assemble();
  EXPECT_FALSE(std::filesystem::exists(output / list));
}

TEST(ModelParts, AnotherTeacherIsRefused) {
  TeacherAndStudent models;
  TestDirectory output, other;
  PackModel(models.student.path(), models.teacher.path(), output / "parts.gguf");
  RandomModelOptions options;
  options.vocabulary = 300;
  options.tied_head = true;
  options.type = StorageType::kBFloat16;
  options.seed = 99;
  ASSERT_TRUE(support::SaveRandomCheckpoint(other.path(), options).ok());
  const auto error = [&](const std::string& teacher) {
    return ErrorOf([&] { AssembleModel(output / "parts.gguf", teacher, output / "model"); });
  };
  EXPECT_THAT(error(other.path()), HasSubstr("no tokenizer"));
  ASSERT_TRUE(support::SaveByteTokenizer(other.path()).ok());
  EXPECT_THAT(error(other.path()), HasSubstr("another teacher, or a damaged file"));
  options.width = 32;
  options.head_width = 8;
  ASSERT_TRUE(support::SaveRandomCheckpoint(other.path(), options).ok());
  EXPECT_THAT(error(other.path()), HasSubstr("is neither here nor in this teacher"));
  EXPECT_FALSE(std::filesystem::exists(output / "model"));
}

// Every bit of the shipped numbers counts in the digest.
TEST(ModelParts, DamageIsNoticed) {
  TeacherAndStudent models;
  TestDirectory output;
  PackModel(models.student.path(), models.teacher.path(), output / "parts.gguf");
  const std::string good = output.Read("parts.gguf");
  const auto error = [&](const std::string& bytes) {
    output.Write("parts.gguf", bytes);
    return ErrorOf(
        [&] { AssembleModel(output / "parts.gguf", models.teacher.path(), output / "model"); });
  };
  for (const size_t from_end : {40u, 5000u, 20000u}) {
    std::string changed = good;
    changed[changed.size() - from_end] ^= 0x10;
    EXPECT_THAT(error(changed), HasSubstr("digest")) << from_end;
  }
  EXPECT_THAT(error(good.substr(0, good.size() - 100)), HasSubstr("truncated"));
  std::string other = good;
  other.replace(other.find("mambad-parts"), 12, "mambad_parts");
  EXPECT_THAT(error(other), HasSubstr("no file of model parts"));
  EXPECT_FALSE(std::filesystem::exists(output / "model"));
  EXPECT_EQ(error(good), kNoError);
}

// ---- the pieces --------------------------------------------------------------------------------

TEST(Q8Blocks, AreReadBackWithinHalfAStep) {
  std::vector<float> numbers;
  for (int i = 0; i < 96; ++i)
    numbers.push_back(std::sin(static_cast<float>(i)) * (i < 32 ? 0.02f : 4));
  std::fill(numbers.begin() + 64, numbers.end(), 0.0f);
  std::vector<std::byte> blocks;
  AppendQ8Blocks(numbers.data(), 96, &blocks);
  ASSERT_EQ(blocks.size(), 3 * 34u);
  std::vector<float> read(96);
  checkpoint::Dequantise(StorageType::kQ8_0, blocks.data(), 96, read.data());
  for (int i = 0; i < 96; ++i) {
    const float largest = i < 32 ? 0.02f : i < 64 ? 4 : 0;
    // Half a step, and what the scale lost as a half-precision number.
    EXPECT_LE(std::fabs(read[i] - numbers[i]), largest / 127 * 0.5f + largest * 0x1p-11f) << i;
  }
}

TEST(GgufWriter, IsReadBack) {
  TestDirectory directory;
  const std::vector<float> numbers = {1, 2, 3, 4, 5, 6};
  const absl::Span<const std::byte> bytes(reinterpret_cast<const std::byte*>(numbers.data()), 24);
  WriteGguf(directory / "a.gguf",
            {{"key", "text"}, {"numbers", std::vector<int32_t>{7, -1, 70000}}, {"z", "after"}},
            {{"first", StorageType::kFloat32, {2, 3}, bytes},
             {"second", StorageType::kFloat32, {6}, bytes}});
  const std::string file = directory.Read("a.gguf");
  const auto read = ValueOf(checkpoint::ParseGguf(
      "file", {reinterpret_cast<const std::byte*>(file.data()), file.size()}));
  EXPECT_EQ(std::get<std::string>(read.metadata.at("key")), "text");
  EXPECT_THAT(std::get<std::vector<int64_t>>(read.metadata.at("numbers")),
              ::testing::ElementsAre(7, -1, 70000));
  EXPECT_EQ(std::get<std::string>(read.metadata.at("z")), "after");
  EXPECT_THAT(read.tensors.at("first").shape, ::testing::ElementsAre(2, 3));
  EXPECT_EQ(std::memcmp(read.tensors.at("second").data.data(), numbers.data(), 24), 0);
}

TEST(EmbeddingProjection, SolvesWithDependentColumns) {
  constexpr int64_t kRows = 40, kBase = 5, kWidth = 3;
  std::mt19937 engine(1);
  std::normal_distribution<float> normal;
  std::vector<float> base(kRows * kBase), projection(kBase * kWidth);
  for (float& number : base) number = normal(engine);
  for (float& number : projection) number = normal(engine);
  for (int64_t row = 0; row < kRows; ++row) {
    base[row * kBase + 2] = 0;
    base[row * kBase + 4] = 2 * base[row * kBase + 1];
  }
  const auto embedding = ProjectEmbedding(base, projection, kRows, kBase, kWidth);
  const auto found = SolveProjection(base, embedding, kRows, kBase, kWidth);
  EXPECT_LT(RelativeDistance(ProjectEmbedding(base, found, kRows, kBase, kWidth), embedding), 1e-5);
}

}  // namespace
}  // namespace mambad::trainer
