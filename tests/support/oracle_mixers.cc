#include "tests/support/oracle_mixers.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

namespace mambad::oracle {
namespace {

// Numbers [begin, begin + count) of x.
Row Slice(const Row& x, size_t begin, size_t count) {
  return Row(x.begin() + begin, x.begin() + begin + count);
}

void Append(Row& to, const Row& from) { to.insert(to.end(), from.begin(), from.end()); }

// Groups of `group` numbers, each written so often in a row that `width` numbers come out.
Row RepeatGroups(const Row& source, size_t group, size_t width) {
  const size_t times = width / source.size();
  Row result;
  for (size_t begin = 0; begin < source.size(); begin += group) {
    for (size_t i = 0; i < times; ++i) Append(result, Slice(source, begin, group));
  }
  return result;
}

}  // namespace

double RoundToBFloat16(double value) {
  const float single = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &single, 4);
  bits += 0x7fff + ((bits >> 16) & 1);
  bits &= 0xffff0000u;
  float rounded;
  std::memcpy(&rounded, &bits, 4);
  return rounded;
}

double Silu(double x) { return x / (1 + std::exp(-x)); }

double Softplus(double x) { return x > 20 ? x : std::log1p(std::exp(x)); }

Product::Product(Tensor weight, const OracleOptions& options)
    : rows_(weight.shape[0]),
      columns_(weight.shape[1]),
      weight_(std::move(weight.values)),
      round_input_(options.bfloat16_activations) {
  if (options.bfloat16_matrices) {
    for (double& number : weight_) number = RoundToBFloat16(number);
  }
}

Row Product::operator()(const Row& x) const {
  Row input = x;
  if (round_input_) std::transform(input.begin(), input.end(), input.begin(), RoundToBFloat16);
  Row result = bias_.empty() ? Row(rows_, 0) : bias_;
  for (int64_t i = 0; i < rows_; ++i) {
    for (int64_t j = 0; j < columns_; ++j) result[i] += weight_[i * columns_ + j] * input[j];
  }
  return result;
}

Row Product::WeightRow(int64_t index) const {
  return Row(weight_.begin() + index * columns_, weight_.begin() + (index + 1) * columns_);
}

Row RmsNorm::operator()(const Row& x, int64_t group) const {
  if (group == 0) group = x.size();
  Row result(x.size());
  for (size_t begin = 0; begin < x.size(); begin += group) {
    double squares = 0;
    for (size_t i = begin; i < begin + group; ++i) squares += x[i] * x[i];
    const double scale = 1 / std::sqrt(squares / group + epsilon);
    for (size_t i = begin; i < begin + group; ++i) {
      result[i] = x[i] * scale * (weight.empty() ? 1 : weight[i % weight.size()]);
    }
  }
  return result;
}

Row Convolution::At(const Rows& x, size_t position) const {
  Row result(channels);
  for (int c = 0; c < channels; ++c) {
    double sum = bias.empty() ? 0 : bias[c];
    for (int j = 0; j < taps; ++j) {
      const int64_t source = static_cast<int64_t>(position) - taps + 1 + j;
      if (source >= 0) sum += weight[c * taps + j] * x[source][c];
    }
    result[c] = Silu(sum);
  }
  return result;
}

// Rotate-half: number i of a head pairs with number i + head_width / 2, turned by position *
// inverse_frequency[i].
Row Attention::Rotate(const Row& heads, size_t position) const {
  Row result = heads;
  const int half = head_width / 2;
  for (size_t head = 0; head < heads.size(); head += head_width) {
    for (int i = 0; i < half; ++i) {
      double frequency = inverse_frequency[i];
      const double length = static_cast<double>(position) + 1;
      if (original_context > 0 && length > original_context) {
        // theta -> theta g^(hd / (hd - 2)), and frequency i is theta^(-2i / hd).
        const double g = growth_factor * length / original_context - (growth_factor - 1);
        frequency /= std::pow(std::pow(g, head_width / (head_width - 2.0)), 2.0 * i / head_width);
      }
      const double angle = static_cast<double>(position) * frequency;
      const double cosine = rotation_scale * std::cos(angle);
      const double sine = rotation_scale * std::sin(angle);
      const double first = heads[head + i], second = heads[head + i + half];
      result[head + i] = first * cosine - second * sine;
      result[head + i + half] = second * cosine + first * sine;
    }
  }
  return result;
}

// o = W_o softmax(q k / sqrt(hd)) v over keys at or before the query and less than `window` before
// it; query head h is served by key/value head h / (H / K).
Rows Attention::operator()(const Rows& input) const {
  const int query_width = query_heads * head_width, key_width = key_value_heads * head_width;
  Rows queries, keys, values, results;
  for (size_t t = 0; t < input.size(); ++t) {
    Row q, k, v;
    if (fused) {
      const Row all = in(input[t]);
      q = Slice(all, 0, query_width);
      k = Slice(all, query_width, key_width);
      v = Slice(all, query_width + key_width, key_width);
    } else {
      q = query(input[t]), k = key(input[t]), v = value(input[t]);
    }
    if (norms_heads) {
      q = query_norm(q, head_width);
      k = key_norm(k, head_width);
    }
    queries.push_back(Rotate(q, t));
    keys.push_back(Rotate(k, t));
    values.push_back(v);
  }
  for (size_t t = 0; t < input.size(); ++t) {
    const size_t first = window > 0 && t + 1 > static_cast<size_t>(window) ? t + 1 - window : 0;
    Row mixed(query_width, 0);
    for (int head = 0; head < query_heads; ++head) {
      const int source = head / (query_heads / key_value_heads);
      Row scores;
      for (size_t s = first; s <= t; ++s) {
        double score = 0;
        for (int i = 0; i < head_width; ++i)
          score += queries[t][head * head_width + i] * keys[s][source * head_width + i];
        scores.push_back(score / std::sqrt(head_width));
      }
      const double largest = *std::max_element(scores.begin(), scores.end());
      double total = 0;
      for (double& score : scores) total += score = std::exp(score - largest);
      for (size_t s = first; s <= t; ++s) {
        for (int i = 0; i < head_width; ++i) {
          mixed[head * head_width + i] +=
              scores[s - first] / total * values[s][source * head_width + i];
        }
      }
    }
    results.push_back(output(mixed));
  }
  return results;
}

Row Mamba::Repeat(const Row& source) const { return RepeatGroups(source, state, inner); }

// The rows of `in`: standard x, z; MambaInLlama fused z, x, B, C, dt.
Mamba::Projected Mamba::Project(const Row& u) const {
  if (source_width == 0) {
    const Row all = in(u);
    return {.x = Slice(all, 0, inner), .z = Slice(all, inner, inner), .b = {}, .c = {}, .low = {}};
  }
  if (!fused) return {.x = in_x(u), .z = in_z(u), .b = in_b(u), .c = in_c(u), .low = in_dt(u)};
  const Row all = in(u);
  return {.x = Slice(all, inner, source_width),
          .z = Slice(all, 0, inner),
          .b = Slice(all, inner + source_width, source_width),
          .c = Slice(all, inner + 2 * source_width, inner),
          .low = Slice(all, 2 * inner + 2 * source_width, rank)};
}

// dt = softplus(delta + dt_bias); s = exp(dt A) s + dt B x; y = (<C, s> + D x) SiLU(z), per
// channel.
Rows Mamba::operator()(const Rows& input) const {
  Rows before_convolution, results;
  Row states(static_cast<size_t>(inner) * state, 0);
  for (size_t t = 0; t < input.size(); ++t) {
    Projected row = Project(input[t]);
    const bool repeats = source_width > 0;
    before_convolution.push_back(repeats && repeat_before_convolution ? Repeat(row.x) : row.x);
    Row x = convolution.At(before_convolution, t);
    if (repeats && !repeat_before_convolution) x = Repeat(x);
    if (repeats) {
      row.b = Repeat(row.b);
    } else {
      const Row selected = select(x);
      row.low = Slice(selected, 0, rank);
      row.b = Slice(selected, rank, state);
      row.c = Slice(selected, rank + state, state);
      if (norms_selection) {
        const RmsNorm plain{{}, selection_epsilon};
        row.low = plain(row.low), row.b = plain(row.b), row.c = plain(row.c);
      }
    }
    const Row delta = dt(row.low);
    Row y(inner);
    for (int c = 0; c < inner; ++c) {
      const size_t group = repeats ? c / state * state : 0;  // where the channel's B and C begin
      const double step = Softplus(delta[c] + dt_bias[c]);
      double sum = skip[c] * x[c];
      for (int n = 0; n < state; ++n) {
        double& s = states[c * state + n];
        s = std::exp(step * -std::exp(a_log[c * state + n])) * s + step * row.b[group + n] * x[c];
        sum += row.c[group + n] * s;
      }
      y[c] = sum * Silu(row.z[c]);
    }
    results.push_back(out(y));
  }
  return results;
}

Row Mamba2::Repeat(const Row& source) const { return RepeatGroups(source, state, inner); }

// S = exp(dt A) S + dt x B^T; y = S C + D x per head; then norm(y SiLU(z)), out. Rows of `in`: z,
// x, B, C, dt.
Rows Mamba2::operator()(const Rows& input) const {
  const bool repeats = source_width > 0;
  const int head_width = inner / heads, wide = groups * state;
  const int x_width = repeats ? source_width : inner, b_width = repeats ? source_width : wide;
  Rows before_convolution, results;
  Row states(static_cast<size_t>(inner) * state, 0);
  for (size_t t = 0; t < input.size(); ++t) {
    const Row all = in(input[t]);
    const Row z = Slice(all, 0, inner);
    Row x = Slice(all, inner, x_width);
    Row b = Slice(all, inner + x_width, b_width);
    Row c = Slice(all, inner + x_width + b_width, wide);
    const Row raw_dt = Slice(all, inner + x_width + b_width + wide, heads);
    const bool early = repeats && repeat_before_convolution,
               late = repeats && !repeat_before_convolution;
    if (early) x = Repeat(x), b = Repeat(b);
    const size_t x_size = x.size(), b_size = b.size();
    Append(x, b);
    Append(x, c);
    before_convolution.push_back(x);
    const Row convolved = convolution.At(before_convolution, t);
    x = Slice(convolved, 0, x_size);
    b = Slice(convolved, x_size, b_size);
    c = Slice(convolved, x_size + b_size, wide);
    if (late) x = Repeat(x), b = Repeat(b);
    Row y(inner);
    for (int head = 0; head < heads; ++head) {
      const double dt = std::clamp(Softplus(raw_dt[head] + dt_bias[head]), dt_minimum, dt_maximum);
      const double decay = std::exp(dt * -std::exp(a_log[head]));
      const int group = head / (heads / groups) * state;
      for (int p = 0; p < head_width; ++p) {
        const int channel = head * head_width + p;
        double sum = skip[head] * x[channel];
        for (int n = 0; n < state; ++n) {
          double& s = states[static_cast<size_t>(channel) * state + n];
          s = decay * s + dt * x[channel] * b[group + n];
          sum += s * c[group + n];
        }
        y[channel] = sum * Silu(z[channel]);
      }
    }
    results.push_back(out(norm(y, inner / groups)));
  }
  return results;
}

}  // namespace mambad::oracle
