#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "kernels/cpu/memory.h"
#include "kernels/cpu/mixers.h"
#include "kernels/cpu/norm.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/attention.cc"
#include "hwy/cache_control.h"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/exp2-inl.h"

#ifndef MAMBAD_KERNELS_CPU_ATTENTION_SHARED_
#define MAMBAD_KERNELS_CPU_ATTENTION_SHARED_
namespace mambad::kernels {

inline constexpr int kMaxQueries =
    64;  // pairs of a row and a query head that pass over the pages together

struct AttentionArguments {
  const Batch& batch;
  const AttentionLayer& layer;
  const KeyValueState& state;
  const RowsView &projected, &out;
  int heads_per_item = 1, rows_per_item = 1;  // of a work item

  // Numbers between pages, of keys or of values; where a page's part of a key/value head begins.
  int64_t page_numbers() const {
    return int64_t{layer.key_value_heads} * layer.head_width * kPageTokens;
  }
  int64_t PageOffset(int sequence, int64_t page, int head) const {
    const int32_t* pages = batch.pages + int64_t{batch.slot[sequence]} * batch.pages_per_sequence;
    return pages[page] * page_numbers() + int64_t{head} * layer.head_width * kPageTokens;
  }
  int group() const { return layer.query_heads / layer.key_value_heads; }
  int head_parts() const { return (group() + heads_per_item - 1) / heads_per_item; }
  int64_t ItemsOf(int sequence) const {
    const int64_t rows = batch.row_begin[sequence + 1] - batch.row_begin[sequence];
    return (rows + rows_per_item - 1) / rows_per_item * layer.key_value_heads * head_parts();
  }
};

// What keys and values are stored as: float, or the upper half of one.
template <typename T>
T Stored(float value) {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>(bits >> 16 | 0x40);
    return static_cast<uint16_t>((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);  // to nearest even
  }
}

}  // namespace mambad::kernels
#endif

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, kPageTokens>;
using V = hn::Vec<D>;
constexpr int kLanes = static_cast<int>(hn::MaxLanes(D()));
constexpr int kVectors = kPageTokens / kLanes;  // of a page's scores
constexpr int kScoreQueries = kLanes == 16 ? 8 : 3;
constexpr int kValueQueries = kLanes == 16 ? 4 : 3;

HWY_INLINE V LoadVector(const float* from) { return hn::LoadU(D(), from); }
HWY_INLINE V LoadVector(const uint16_t* from) {
  const hn::Rebind<uint16_t, D> halves;
  const hn::Rebind<uint32_t, D> words;
  return hn::BitCast(D(), hn::ShiftLeft<16>(hn::PromoteTo(words, hn::LoadU(halves, from))));
}

// The first `count` lanes of a vector, count in 1 .. kLanes; memory beyond is not touched.
template <typename T>
HWY_INLINE V LoadFirst(const T* from, int count) {
  if (count == kLanes) return LoadVector(from);
  HWY_ALIGN T staged[kLanes] = {};
  std::memcpy(staged, from, count * sizeof(T));
  return LoadVector(staged);
}

HWY_INLINE void StoreFirst(V value, float* to, int count) {
  if (count == kLanes) return hn::StoreU(value, D(), to);
  HWY_ALIGN float staged[kLanes];
  hn::Store(value, D(), staged);
  std::memcpy(to, staged, count * sizeof(float));
}

// ---- rotary embedding ----

// sin and cos of position * frequency for kLanes frequencies. The angle is formed and reduced to
// [-pi/4, pi/4] in double: a float angle of a late position would be off by more than its sine.
HWY_INLINE void SinCos(double position, V frequency, V& sine, V& cosine) {
  const D d;
  const hn::CappedTag<double, kPageTokens / 2> dd;
  const hn::Rebind<float, decltype(dd)> half;
  const hn::Rebind<int32_t, decltype(dd)> half_integers;
  const hn::Rebind<int32_t, D> di;
  HWY_ALIGN float staged[kLanes];
  HWY_ALIGN int32_t quadrants[kLanes];
  hn::Store(frequency, d, staged);
  for (size_t i = 0; i < kLanes; i += hn::Lanes(dd)) {
    const auto angle =
        hn::Mul(hn::Set(dd, position), hn::PromoteTo(dd, hn::Load(half, staged + i)));
    const auto k = hn::Round(hn::Mul(angle, hn::Set(dd, 0.63661977236758134308)));
    const auto coarse = hn::NegMulAdd(k, hn::Set(dd, 1.57079632679489661923), angle);
    const auto fine = hn::NegMulAdd(k, hn::Set(dd, 6.123233995736766e-17), coarse);
    hn::Store(hn::DemoteTo(half_integers, k), half_integers, quadrants + i);
    hn::Store(hn::DemoteTo(half, fine), half, staged + i);
  }
  const V r = hn::Load(d, staged);
  const auto quadrant = hn::Load(di, quadrants);
  const V z = hn::Mul(r, r);
  V s = hn::Set(d, 1.0f / 362880);
  s = hn::MulAdd(s, z, hn::Set(d, -1.0f / 5040));
  s = hn::MulAdd(s, z, hn::Set(d, 1.0f / 120));
  s = hn::MulAdd(s, z, hn::Set(d, -1.0f / 6));
  s = hn::MulAdd(hn::Mul(s, z), r, r);
  V c = hn::Set(d, -1.0f / 3628800);
  c = hn::MulAdd(c, z, hn::Set(d, 1.0f / 40320));
  c = hn::MulAdd(c, z, hn::Set(d, -1.0f / 720));
  c = hn::MulAdd(c, z, hn::Set(d, 1.0f / 24));
  c = hn::MulAdd(c, z, hn::Set(d, -0.5f));
  c = hn::MulAdd(c, z, hn::Set(d, 1.0f));
  const auto one = hn::Set(di, 1), two = hn::Set(di, 2);
  const auto odd = hn::MaskFromVec(hn::BitCast(d, hn::Neg(hn::And(quadrant, one))));
  const auto sine_sign = hn::BitCast(d, hn::ShiftLeft<30>(hn::And(quadrant, two)));
  const auto cosine_sign = hn::BitCast(d, hn::ShiftLeft<30>(hn::And(hn::Add(quadrant, one), two)));
  sine = hn::Xor(hn::IfThenElse(odd, c, s), sine_sign);
  cosine = hn::Xor(hn::IfThenElse(odd, s, c), cosine_sign);
}

// Frequencies [begin, begin + count) at a position past the growth's context.
HWY_INLINE V GrownFrequencies(const AttentionLayer& layer, int64_t position, int begin, int count) {
  const double times =
      (static_cast<double>(position) + 1) / static_cast<double>(layer.growth.context);
  const double growth = std::log(layer.growth.factor * times - (layer.growth.factor - 1));
  HWY_ALIGN float grown[kLanes] = {};
  for (int i = 0; i < count; ++i) {
    const double exponent = -2.0 * (begin + i) / (layer.head_width - 2);
    grown[i] = static_cast<float>(layer.inverse_frequency[begin + i] * std::exp(growth * exponent));
  }
  return hn::Load(D(), grown);
}

// Query and key heads of a row, each by itself.
void NormHeads(const AttentionLayer& layer, float* row) {
  const int heads = layer.query_heads + layer.key_value_heads;
  for (int head = 0; head < heads; ++head) {
    float* const begin = row + int64_t{head} * layer.head_width;
    RmsNormRow(head < layer.query_heads ? layer.query_norm : layer.key_norm, begin,
               layer.head_width, begin);
  }
}

// Rotates the query and key heads of a row in place: (a, b) <- (a cos - b sin, b cos + a sin), a
// and b the halves of a head.
void RotateRow(const AttentionLayer& layer, int64_t position, float* row) {
  const int half = layer.head_width / 2, heads = layer.query_heads + layer.key_value_heads;
  const bool grows = layer.growth.context > 0 && position >= layer.growth.context;
  for (int i = 0; i < half; i += kLanes) {
    const int count = std::min(kLanes, half - i);
    const V frequency = grows ? GrownFrequencies(layer, position, i, count)
                              : LoadFirst(layer.inverse_frequency + i, count);
    V sine, cosine;
    SinCos(static_cast<double>(position), frequency, sine, cosine);
    for (int head = 0; head < heads; ++head) {
      float* first = row + int64_t{head} * layer.head_width + i;
      const V a = LoadFirst(first, count), b = LoadFirst(first + half, count);
      StoreFirst(hn::NegMulAdd(b, sine, hn::Mul(a, cosine)), first, count);
      StoreFirst(hn::MulAdd(a, sine, hn::Mul(b, cosine)), first + half, count);
    }
  }
}

// Puts a row's keys (as a column) and values into its page.
template <typename T>
void AppendRow(const AttentionArguments& arguments, int sequence, int64_t position,
               const float* row) {
  const AttentionLayer& layer = arguments.layer;
  const int64_t token = position % kPageTokens, width = layer.head_width;
  for (int head = 0; head < layer.key_value_heads; ++head) {
    const int64_t at = arguments.PageOffset(sequence, position / kPageTokens, head);
    const float* key = row + (layer.query_heads + head) * width;
    const float* value = key + layer.key_value_heads * width;
    T* const keys = reinterpret_cast<T*>(arguments.state.keys) + at + token;
    T* const values = reinterpret_cast<T*>(arguments.state.values) + at + token * width;
    for (int64_t i = 0; i < width; ++i) keys[i * kPageTokens] = Stored<T>(key[i]);
    for (int64_t i = 0; i < width; ++i) values[i] = Stored<T>(value[i]);
  }
}

template <typename T>
void AppendAll(ThreadPool& pool, const AttentionArguments& arguments) {
  const Batch& batch = arguments.batch;
  pool.Split(batch.rows, 1, [&](int64_t begin, int64_t end, int) HWY_ATTR {
    int s = 0;
    for (int64_t r = begin; r < end; ++r) {
      while (batch.row_begin[s + 1] <= r) ++s;
      const int64_t position = batch.position[s] + r - batch.row_begin[s];
      if (arguments.layer.query_norm.weight != nullptr)
        NormHeads(arguments.layer, arguments.projected.row(r));
      RotateRow(arguments.layer, position, arguments.projected.row(r));
      AppendRow<T>(arguments, s, position, arguments.projected.row(r));
    }
  });
}

// ---- attention ----

// Queries that share a key/value head, row by row, and their running softmax.
struct Queries {
  int count = 0;
  float scale = 1;                  // log2(e) / sqrt(hd): the softmax is taken in powers of two
  const float* query[kMaxQueries];  // [hd]
  float* out[kMaxQueries];          // [hd], weighted values so far
  float maximum[kMaxQueries];
  float correction[kMaxQueries];  // what the page's maximum makes of earlier weights
  HWY_ALIGN float sum[kMaxQueries][kPageTokens];
  HWY_ALIGN float weights[kMaxQueries][kPageTokens];  // of the page at hand
};

// One page and the tokens of it that count.
template <typename T>
struct PageRange {
  const T *keys = nullptr, *values = nullptr;
  const T *next_keys = nullptr, *next_values = nullptr;  // of the page after it: asked for early
  int begin = 0, end = kPageTokens;
};

// Scores of a page's 16 keys for queries [first, first + kQ). Even and odd columns are summed
// apart, then added.
template <int kQ, typename T>
HWY_INLINE void ScorePage(const PageRange<T>& page, int width, int first, Queries& q) {
  const D d;
  const T* keys = page.keys;
  V even[kQ][kVectors], odd[kQ][kVectors];
#pragma GCC unroll 8
  for (int i = 0; i < kQ; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) even[i][v] = odd[i][v] = hn::Zero(d);
  }
  const float* query[kQ];
#pragma GCC unroll 8
  for (int i = 0; i < kQ; ++i) query[i] = q.query[first + i];
  for (int k = 0; k < width; k += 2) {
    hwy::Prefetch(page.next_keys + k * kPageTokens);
    hwy::Prefetch(page.next_keys + (k + 1) * kPageTokens);
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const V key0 = LoadVector(keys + k * kPageTokens + v * kLanes);
      const V key1 = LoadVector(keys + (k + 1) * kPageTokens + v * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kQ; ++i) {
        even[i][v] = hn::MulAdd(key0, hn::Set(d, query[i][k]), even[i][v]);
        odd[i][v] = hn::MulAdd(key1, hn::Set(d, query[i][k + 1]), odd[i][v]);
      }
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kQ; ++i) {
#pragma GCC unroll 8
    for (int v = 0; v < kVectors; ++v) {
      const V score = hn::Mul(hn::Add(even[i][v], odd[i][v]), hn::Set(d, q.scale));
      hn::Store(score, d, q.weights[first + i] + v * kLanes);
    }
  }
}

// Scores -> weights against the running maximum. Tokens outside the range weigh nothing, whatever
// stands there.
template <bool kWhole, typename T>
HWY_INLINE void WeighPage(const PageRange<T>& page, int i, Queries& q) {
  const D d;
  const V lowest = hn::Set(d, -std::numeric_limits<float>::infinity());
  V score[kVectors];
  hn::Mask<D> inside[kVectors];
  V highest = hn::Set(d, q.maximum[i]);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    score[v] = hn::Load(d, q.weights[i] + v * kLanes);
    if constexpr (!kWhole) {
      const V token = hn::Iota(d, static_cast<float>(v * kLanes));
      inside[v] = hn::And(hn::Ge(token, hn::Set(d, static_cast<float>(page.begin))),
                          hn::Lt(token, hn::Set(d, static_cast<float>(page.end))));
      score[v] = hn::IfThenElse(inside[v], score[v], lowest);
    }
    highest = hn::Max(highest, score[v]);
  }
  highest = hn::MaxOfLanes(d, highest);
  V correction = hn::Set(d, 1.0f);  // what Exp2 makes of an unchanged maximum
  const float maximum = hn::GetLane(highest);
  if (maximum != q.maximum[i]) {
    correction = Exp2(d, hn::Sub(hn::Set(d, q.maximum[i]), highest));
    q.maximum[i] = maximum;
  }
  q.correction[i] = hn::GetLane(correction);
#pragma GCC unroll 8
  for (int v = 0; v < kVectors; ++v) {
    V weight = Exp2(d, hn::Sub(score[v], highest));
    if constexpr (!kWhole) weight = hn::IfThenElseZero(inside[v], weight);
    hn::Store(weight, d, q.weights[i] + v * kLanes);
    hn::Store(hn::MulAdd(hn::Load(d, q.sum[i] + v * kLanes), correction, weight), d,
              q.sum[i] + v * kLanes);
  }
}

// out <- out * correction + sum over the range's tokens of weight * value, for kQ queries and kP
// vectors of columns.
template <int kQ, int kP, typename T>
HWY_INLINE void AddValues(const PageRange<T>& page, int width, int first, int column,
                          const Queries& q) {
  const D d;
  V out[kQ][kP];
#pragma GCC unroll 8
  for (int i = 0; i < kQ; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kP; ++j) {
      out[i][j] = hn::Mul(hn::LoadU(d, q.out[first + i] + column + j * kLanes),
                          hn::Set(d, q.correction[first + i]));
    }
  }
  for (int t = page.begin; t < page.end; ++t) {
    const T* values = page.values + int64_t{t} * width + column;
    for (int j = 0; j < kP; j += 16 / kLanes) {
      hwy::Prefetch(page.next_values + int64_t{t} * width + column + j * kLanes);
    }
#pragma GCC unroll 8
    for (int j = 0; j < kP; ++j) {
      const V value = LoadVector(values + j * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < kQ; ++i)
        out[i][j] = hn::MulAdd(value, hn::Set(d, q.weights[first + i][t]), out[i][j]);
    }
  }
#pragma GCC unroll 8
  for (int i = 0; i < kQ; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kP; ++j) hn::StoreU(out[i][j], d, q.out[first + i] + column + j * kLanes);
  }
}

// The last columns, fewer than a vector.
template <typename T>
void AddLastValues(const PageRange<T>& page, int width, int i, int column, const Queries& q) {
  const D d;
  const int count = width - column;
  V out = hn::Mul(LoadFirst(q.out[i] + column, count), hn::Set(d, q.correction[i]));
  for (int t = page.begin; t < page.end; ++t) {
    const V value = LoadFirst(page.values + int64_t{t} * width + column, count);
    out = hn::MulAdd(value, hn::Set(d, q.weights[i][t]), out);
  }
  StoreFirst(out, q.out[i] + column, count);
}

template <int kQ, typename T>
HWY_INLINE void AddPage(const PageRange<T>& page, int width, int first, const Queries& q) {
  int column = 0;
  for (; column + 4 * kLanes <= width; column += 4 * kLanes)
    AddValues<kQ, 4>(page, width, first, column, q);
  for (; column + kLanes <= width; column += kLanes)
    AddValues<kQ, 1>(page, width, first, column, q);
  if (column == width) return;
  for (int i = 0; i < kQ; ++i) AddLastValues(page, width, first + i, column, q);
}

// Queries [first, end) pass over one page, all of them seeing the same tokens of it.
template <typename T>
void PassPage(const PageRange<T>& page, int width, int first, int end, Queries& q) {
  int i = first;
  for (; i + kScoreQueries <= end; i += kScoreQueries) ScorePage<kScoreQueries>(page, width, i, q);
  if constexpr (kScoreQueries > 3) {
    for (; i + 3 <= end; i += 3) ScorePage<3>(page, width, i, q);
  }
  for (; i < end; ++i) ScorePage<1>(page, width, i, q);
  if (page.begin == 0 && page.end == kPageTokens) {
    for (i = first; i < end; ++i) WeighPage<true>(page, i, q);
  } else {
    for (i = first; i < end; ++i) WeighPage<false>(page, i, q);
  }
  for (i = first; i + kValueQueries <= end; i += kValueQueries)
    AddPage<kValueQueries>(page, width, i, q);
  for (; i < end; ++i) AddPage<1>(page, width, i, q);
}

void Begin(const AttentionArguments& arguments, int64_t first_row, int rows, int first_head,
           int heads, Queries& q) {
  const int64_t width = arguments.layer.head_width;
  q.count = rows * heads;
  q.scale = static_cast<float>(1.44269504088896341 * arguments.layer.score_factor /
                               std::sqrt(static_cast<double>(width)));
  for (int i = 0; i < q.count; ++i) {
    const int64_t row = first_row + i / heads, column = (first_head + i % heads) * width;
    q.query[i] = arguments.projected.row(row) + column;
    q.out[i] = arguments.out.row(row) + column;
    q.maximum[i] = -std::numeric_limits<float>::infinity();
    std::memset(q.out[i], 0, width * sizeof(float));
    std::memset(q.sum[i], 0, sizeof(q.sum[i]));
  }
}

void Finish(int width, Queries& q) {
  const D d;
  for (int i = 0; i < q.count; ++i) {
    V sum = hn::Load(d, q.sum[i]);
    for (int v = 1; v < kVectors; ++v) sum = hn::Add(sum, hn::Load(d, q.sum[i] + v * kLanes));
    const float total = hn::GetLane(hn::SumOfLanes(d, sum));
    for (int k = 0; k < width; ++k) q.out[i][k] /= total;
  }
}

// Rows [first_row, first_row + rows) of one sequence, heads [first_head, first_head + heads) of one
// key/value head, page by page. A row's sums depend on its position alone: pages that some rows see
// only in part are taken row by row.
template <typename T>
void Attend(const AttentionArguments& arguments, int sequence, int key_head, int64_t first_row,
            int rows, int first_head, int heads, Queries& q) {
  const AttentionLayer& layer = arguments.layer;
  const int64_t position =
      arguments.batch.position[sequence] + first_row - arguments.batch.row_begin[sequence];
  const int64_t last = position + rows - 1;
  const auto oldest = [&](int64_t p) {
    return layer.sliding_window > 0 ? std::max<int64_t>(0, p - layer.sliding_window + 1)
                                    : int64_t{0};
  };
  const T* const keys = reinterpret_cast<const T*>(arguments.state.keys);
  const T* const values = reinterpret_cast<const T*>(arguments.state.values);
  Begin(arguments, first_row, rows, first_head, heads, q);
  for (int64_t page = oldest(position) / kPageTokens; page <= last / kPageTokens; ++page) {
    const int64_t at = arguments.PageOffset(sequence, page, key_head), start = page * kPageTokens;
    const int64_t next =
        arguments.PageOffset(sequence, std::min(page + 1, last / kPageTokens), key_head);
    PageRange<T> range{keys + at, values + at, keys + next, values + next};
    if (start >= oldest(last) && start + kPageTokens - 1 <= position) {
      PassPage(range, layer.head_width, 0, q.count, q);
      continue;
    }
    for (int r = 0; r < rows; ++r) {
      range.begin = static_cast<int>(std::max<int64_t>(0, oldest(position + r) - start));
      range.end = static_cast<int>(std::min<int64_t>(kPageTokens, position + r + 1 - start));
      if (range.begin < range.end) PassPage(range, layer.head_width, r * heads, (r + 1) * heads, q);
    }
  }
  Finish(layer.head_width, q);
}

// Late rows first, because they see most.
template <typename T>
void AttendAll(ThreadPool& pool, const AttentionArguments& arguments, int64_t items) {
  pool.SplitFinely(items, [&](int64_t first_item, int64_t end, int) HWY_ATTR {
    Queries queries;
    int s = 0;
    int64_t begin = 0;  // item with which sequence s begins
    const int parts = arguments.head_parts(), group = arguments.group();
    for (int64_t item = first_item; item < end; ++item) {
      while (begin + arguments.ItemsOf(s) <= item) begin += arguments.ItemsOf(s++);
      const int64_t first = arguments.batch.row_begin[s],
                    rows = arguments.batch.row_begin[s + 1] - first;
      const int64_t tiles = (rows + arguments.rows_per_item - 1) / arguments.rows_per_item;
      const int64_t tile = tiles - 1 - (item - begin) % tiles, pair = (item - begin) / tiles;
      const int key_head = static_cast<int>(pair / parts);
      const int head = static_cast<int>(pair % parts) * arguments.heads_per_item;
      const int64_t row = tile * arguments.rows_per_item;
      Attend<T>(arguments, s, key_head, first + row,
                static_cast<int>(std::min<int64_t>(arguments.rows_per_item, rows - row)),
                key_head * group + head, std::min(arguments.heads_per_item, group - head), queries);
    }
  });
}

void AppendRows(ThreadPool& pool, const AttentionArguments& arguments) {
  if (arguments.state.layout.type == ElementType::kBFloat16)
    return AppendAll<uint16_t>(pool, arguments);
  AppendAll<float>(pool, arguments);
}

void AttendRows(ThreadPool& pool, const AttentionArguments& arguments, int64_t items) {
  if (arguments.state.layout.type == ElementType::kBFloat16)
    return AttendAll<uint16_t>(pool, arguments, items);
  AttendAll<float>(pool, arguments, items);
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mambad::kernels {
namespace {

HWY_EXPORT(AppendRows);
HWY_EXPORT(AttendRows);

}  // namespace

KeyValueLayout AttentionPageLayout(const AttentionLayer& layer, ElementType type) {
  const int64_t bytes = static_cast<int64_t>(ElementBytes(type)) * layer.key_value_heads *
                        layer.head_width * kPageTokens;
  return {type, bytes, bytes};
}

void PagedAttention(ThreadPool& pool, const Batch& batch, const AttentionLayer& layer,
                    const KeyValueState& state, const RowsView& projected, const RowsView& out) {
  if (layer.key_value_heads <= 0 || layer.query_heads % layer.key_value_heads != 0 ||
      layer.head_width % 2 != 0 || (layer.growth.context > 0 && layer.head_width < 4) ||
      (layer.query_norm.weight == nullptr) != (layer.key_norm.weight == nullptr)) {
    Fail("attention layer: query heads, key/value heads, head width",
         {layer.query_heads, layer.key_value_heads, layer.head_width});
  }
  if (batch.rows == 0) return;
  AttentionArguments arguments{batch, layer, state, projected, out};
  arguments.heads_per_item = std::min(arguments.group(), kMaxQueries);
  arguments.rows_per_item = std::clamp(kMaxQueries / arguments.heads_per_item, 1, kPageTokens);
  int64_t items = 0;
  for (int s = 0; s < batch.sequences; ++s) items += arguments.ItemsOf(s);
  HWY_DYNAMIC_DISPATCH(AppendRows)(pool, arguments);
  HWY_DYNAMIC_DISPATCH(AttendRows)(pool, arguments, items);
}

}  // namespace mambad::kernels
#endif  // HWY_ONCE
