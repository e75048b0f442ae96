#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "kernels/cpu/mixers.h"
#include "tests/kernels/mixer_simulation.h"

namespace mambad::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct AttentionShape {
  const char* name;
  int query_heads, key_value_heads, head_width;
  int window = 0;
  ElementType type = ElementType::kFloat32;  // of keys and values
};

// As a page of such a type keeps it.
double Kept(double value, ElementType type) {
  if (type == ElementType::kFloat32) return value;
  const auto rounded = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &rounded, sizeof(bits));
  bits = (bits + 0x7fffu + (bits >> 16 & 1)) & 0xffff0000u;
  float kept;
  std::memcpy(&kept, &bits, sizeof(kept));
  return kept;
}

// A token's input: [query, key, value].
class AttentionUnderTest : public MixerUnderTest {
 public:
  explicit AttentionUnderTest(const AttentionShape& shape) : shape_(shape) {
    layer_.query_heads = shape.query_heads;
    layer_.key_value_heads = shape.key_value_heads;
    layer_.head_width = shape.head_width;
    layer_.sliding_window = shape.window;
    for (int i = 0; i < shape.head_width / 2; ++i) {
      frequency_.push_back(static_cast<float>(std::pow(10000.0, -2.0 * i / shape.head_width)));
    }
    layer_.inverse_frequency = frequency_.data();
  }

  const AttentionLayer& layer() const { return layer_; }
  int64_t input_width() const override {
    return int64_t{shape_.query_heads + 2 * shape_.key_value_heads} * shape_.head_width;
  }
  int64_t output_width() const override { return int64_t{shape_.query_heads} * shape_.head_width; }
  RecurrentSlotLayout layout(int, bool) const override { return {}; }
  KeyValueLayout page_layout() const override { return AttentionPageLayout(layer_, shape_.type); }
  int64_t key_value_heads() const override { return shape_.key_value_heads; }

  void Run(ThreadPool& pool, const Batch& batch, const RecurrentState&, const KeyValueState& pages,
           float* inputs, int64_t input_stride, float* outputs,
           int64_t output_stride) const override {
    PagedAttention(pool, batch, layer_, pages, {inputs, batch.rows, input_width(), input_stride},
                   {outputs, batch.rows, output_width(), output_stride});
  }

  // One head of a row, rotated to its position.
  std::vector<double> Rotated(const Row& row, int head, int64_t position) const {
    const int width = shape_.head_width, half = width / 2;
    const float* from = row.data() + head * width;
    std::vector<double> result(width);
    for (int i = 0; i < half; ++i) {
      const double angle = static_cast<double>(position) * frequency_[i];
      result[i] = from[i] * std::cos(angle) - from[i + half] * std::sin(angle);
      result[i + half] = from[i + half] * std::cos(angle) + from[i] * std::sin(angle);
    }
    return result;
  }

  std::vector<std::vector<double>> Reference(const Rows& inputs) const override {
    const int width = shape_.head_width, group = shape_.query_heads / shape_.key_value_heads;
    std::vector<std::vector<double>> result;
    for (int t = 0; t < static_cast<int>(inputs.size()); ++t) {
      std::vector<double> out;
      for (int head = 0; head < shape_.query_heads; ++head) {
        const std::vector<double> query = Rotated(inputs[t], head, t);
        const int key_head = shape_.query_heads + head / group,
                  value_head = key_head + shape_.key_value_heads;
        const int first = shape_.window > 0 ? std::max(0, t - shape_.window + 1) : 0;
        std::vector<double> sum(width);
        double total = 0;
        for (int k = first; k <= t; ++k) {
          const std::vector<double> key = Rotated(inputs[k], key_head, k);
          double score = 0;
          for (int i = 0; i < width; ++i) score += query[i] * Kept(key[i], shape_.type);
          const double weight = std::exp(score / std::sqrt(width));
          total += weight;
          for (int i = 0; i < width; ++i)
            sum[i] += weight * Kept(inputs[k][value_head * width + i], shape_.type);
        }
        for (int i = 0; i < width; ++i) out.push_back(sum[i] / total);
      }
      result.push_back(out);
    }
    return result;
  }

 private:
  AttentionShape shape_;
  AttentionLayer layer_;
  Row frequency_;
};

class AttentionMixer : public ::testing::TestWithParam<AttentionShape> {
 protected:
  AttentionUnderTest mixer_{GetParam()};
  // Where rounding is near a tie, single precision may take the other side.
  MixerChecks checks_{mixer_, GetParam().type == ElementType::kFloat32 ? 1e-5 : 2e-4};
};

TEST_P(AttentionMixer, AgreesWithDoublePrecision) {
  checks_.OnEveryInstructionSet([&] {
    checks_.AgreesWithReference(1, 1);
    checks_.AgreesWithReference(2, 17);
    checks_.AgreesWithReference(3, 200);
  });
}
TEST_P(AttentionMixer, Invariant1CommitEqualsDecodingOneByOne) {
  checks_.CommitEqualsOneByOne(4, false);
}
TEST_P(AttentionMixer, Invariant1DraftWindowsEqualDecodingOneByOne) {
  checks_.CommitEqualsOneByOne(5, true);
}
TEST_P(AttentionMixer, Invariant3PromptChunksAndThreadsDoNotMatter) {
  checks_.ChunksDoNotMatter(6, {1, 2, 3, 15, 16, 17, 31, 32, 33, 47, 48, 49, 64, 65, 130});
}
TEST_P(AttentionMixer, Invariant3OtherSequencesDoNotMatter) {
  checks_.OnEveryInstructionSet([&] { checks_.BatchDoesNotMatter(7, 5, false); });
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, AttentionMixer,
    ::testing::Values(AttentionShape{"Grouped", 9, 3, 64}, AttentionShape{"OneEach", 2, 2, 32},
                      AttentionShape{"ManyToOne", 40, 1, 16},
                      AttentionShape{"NarrowHeads", 8, 4, 8}, AttentionShape{"OddWidth", 4, 2, 50},
                      AttentionShape{"Window", 6, 2, 32, 20},
                      AttentionShape{"WindowOfOne", 2, 1, 16, 1},
                      AttentionShape{"WindowOfPages", 4, 2, 16, 48},
                      AttentionShape{"GroupedBFloat16", 9, 3, 64, 0, ElementType::kBFloat16},
                      AttentionShape{"NarrowHeadsBFloat16", 8, 4, 8, 0, ElementType::kBFloat16},
                      AttentionShape{"OddWidthBFloat16", 4, 2, 50, 20, ElementType::kBFloat16}),
    [](const auto& info) { return std::string(info.param.name); });

// At position 0 nothing is rotated, and a token that sees itself alone gives its value.
TEST(KeysAndValues, AreRoundedOnceToTheNearest) {
  AttentionUnderTest mixer({"", 1, 1, 8, 0, ElementType::kBFloat16});
  constexpr float kUnit = 1.0f / 128;  // of bf16 at 1
  const float given[] = {1 + kUnit / 2,
                         1 + 3 * kUnit / 2,
                         1 + 0.51f * kUnit,
                         -1 - 0.49f * kUnit,
                         3.4e38f,
                         1e-40f,
                         -2.5f,
                         0.1f};
  const float kept[] = {1,         1 + 2 * kUnit, 1 + kUnit, -1,
                        kInfinity, 9.18355e-41f,  -2.5f,     0.10009765625f};
  for (InstructionSet set : AvailableInstructionSets()) {
    LimitInstructionSet(set);
    ThreadPool pool(1);
    Row input(24, 0.0f), output(8);
    std::copy_n(given, 8, input.begin() + 16);
    const KeyValueLayout layout = mixer.page_layout();
    std::vector<uint16_t> keys(layout.key_bytes / 2), values(layout.value_bytes / 2);
    const int32_t row_begin[] = {0, 1}, zero[] = {0}, one[] = {1};
    Batch batch;
    batch.sequences = batch.rows = batch.pages_per_sequence = 1;
    batch.row_begin = row_begin;
    batch.slot = batch.replay = batch.keep_at = batch.resume = batch.position = batch.pages = zero;
    batch.fold = batch.keep_from = one;
    PagedAttention(pool, batch, mixer.layer(),
                   {reinterpret_cast<std::byte*>(keys.data()),
                    reinterpret_cast<std::byte*>(values.data()), layout},
                   {input.data(), 1, 24, 24}, {output.data(), 1, 8, 8});
    for (int i = 0; i < 8; ++i) EXPECT_FLOAT_EQ(output[i], kept[i]) << given[i];
  }
  LimitInstructionSet(InstructionSet::kAvx512Bfloat16);
}

// A key at a late position, read back from its page.
TEST(RotaryEmbedding, IsAccurateAtLatePositions) {
  const AttentionUnderTest mixer({"", 1, 1, 64});
  std::mt19937 random(3);
  ThreadPool pool(1);
  const int width = 64, pages = (1 << 20) / kPageTokens + 1;
  const std::vector<int32_t> table(pages, 0);  // every page is the same one
  for (const int position : {0, 1, 15, 1000, 131071, 524287, 999999, 1048575}) {
    const Row row = RandomRow(random, mixer.input_width());
    Row keys(width * kPageTokens), values(width * kPageTokens), input = row, output(width);
    AttentionLayer layer = mixer.layer();
    layer.sliding_window = 1;
    const int32_t row_begin[] = {0, 1}, zero[] = {0}, one[] = {1}, at[] = {position};
    Batch batch;
    batch.sequences = batch.rows = 1;
    batch.row_begin = row_begin;
    batch.slot = batch.replay = batch.keep_at = batch.resume = zero;
    batch.fold = batch.keep_from = one;
    batch.position = at;
    batch.pages = table.data();
    batch.pages_per_sequence = pages;
    PagedAttention(pool, batch, layer,
                   {reinterpret_cast<std::byte*>(keys.data()),
                    reinterpret_cast<std::byte*>(values.data()), mixer.page_layout()},
                   {input.data(), 1, 192, 192}, {output.data(), 1, 64, 64});
    Row key(width);
    for (int i = 0; i < width; ++i) key[i] = keys[i * kPageTokens + position % kPageTokens];
    EXPECT_LE(RelativeError({key}, {mixer.Rotated(row, 1, position)}), 3e-7) << position;
    EXPECT_LE(RelativeError({Row(input.begin(), input.begin() + width)},
                            {mixer.Rotated(row, 0, position)}),
              3e-7)
        << position;
  }
}

}  // namespace
}  // namespace mambad::kernels
