#include "tests/gpu/training_reference.h"

#include <algorithm>
#include <cmath>

namespace mambad::gpu_check {
namespace {

double Sigmoid(double value) { return 1 / (1 + std::exp(-value)); }
double Silu(double value) { return value * Sigmoid(value); }
double SiluSlope(double value) {
  const double sigmoid = Sigmoid(value);
  return sigmoid * (1 + value * (1 - sigmoid));
}
double Softplus(double value) { return value > 30 ? value : std::log1p(std::exp(value)); }

}  // namespace

NormResult ReferenceNorm(const Numbers& h, const Numbers& weight, const Numbers& output_gradient,
                         int64_t rows, int64_t width, int64_t groups, double epsilon) {
  NormResult result{Numbers(h.size()), Numbers(h.size()), Numbers(width, 0.0)};
  const int64_t group_width = width / groups;
  for (int64_t part = 0; part < rows * groups; ++part) {
    const int64_t begin = part * group_width, first = part % groups * group_width;
    double squares = 0, product = 0;
    for (int64_t i = 0; i < group_width; ++i) {
      squares += h[begin + i] * h[begin + i];
      product += h[begin + i] * output_gradient[begin + i] * weight[first + i];
    }
    const double inverse = 1 / std::sqrt(squares / group_width + epsilon);
    for (int64_t i = 0; i < group_width; ++i) {
      const double normed = h[begin + i] * inverse, g = output_gradient[begin + i];
      result.output[begin + i] = normed * weight[first + i];
      result.input_gradient[begin + i] =
          inverse * (g * weight[first + i] - normed * inverse * product / group_width);
      result.weight_gradient[first + i] += g * normed;
    }
  }
  return result;
}

GateResult ReferenceGate(const Numbers& gate, const Numbers& up, const Numbers& output_gradient) {
  GateResult result;
  for (size_t i = 0; i < gate.size(); ++i) {
    result.output.push_back(Silu(gate[i]) * up[i]);
    result.gate_gradient.push_back(output_gradient[i] * up[i] * SiluSlope(gate[i]));
    result.up_gradient.push_back(output_gradient[i] * Silu(gate[i]));
  }
  return result;
}

GatedNormResult ReferenceGatedNorm(const Numbers& input, const Numbers& gate, const Numbers& weight,
                                   const Numbers& output_gradient, int64_t rows, int64_t width,
                                   int64_t groups, double epsilon) {
  Numbers v(input.size());
  for (size_t i = 0; i < v.size(); ++i) v[i] = input[i] * Silu(gate[i]);
  const NormResult norm = ReferenceNorm(v, weight, output_gradient, rows, width, groups, epsilon);
  const GateResult gated = ReferenceGate(gate, input, norm.input_gradient);
  return {norm.output, gated.up_gradient, gated.gate_gradient, norm.weight_gradient};
}

Numbers ReferenceRotation(const Numbers& input, const std::vector<int64_t>& positions,
                          const Numbers& inverse_frequency, int64_t heads, int64_t width,
                          bool inverse) {
  Numbers output(input.size());
  const int64_t half = width / 2;
  for (size_t token = 0; token < positions.size(); ++token) {
    for (int64_t head = 0; head < heads; ++head) {
      const int64_t begin = (static_cast<int64_t>(token) * heads + head) * width;
      for (int64_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(positions[token]) * inverse_frequency[i];
        const double cosine = std::cos(angle), sine = inverse ? -std::sin(angle) : std::sin(angle);
        const double a = input[begin + i], b = input[begin + half + i];
        output[begin + i] = a * cosine - b * sine;
        output[begin + half + i] = b * cosine + a * sine;
      }
    }
  }
  return output;
}

ConvolutionResult ReferenceConvolution(const Documents& documents, int64_t channels, int64_t taps,
                                       const Numbers& input, const Numbers& weight,
                                       const Numbers& bias, const Numbers& output_gradient) {
  ConvolutionResult result{Numbers(input.size()), Numbers(input.size(), 0.0),
                           Numbers(weight.size(), 0.0), Numbers(channels, 0.0)};
  for (int64_t row = 0; row < documents.rows(); ++row) {
    const int64_t sequence = row / documents.tokens, token = row % documents.tokens;
    int64_t age = 0;  // inputs of the document before this one
    while (age + 1 < taps && !documents.Starts(sequence, token - age)) ++age;
    for (int64_t c = 0; c < channels; ++c) {
      double pre = bias.empty() ? 0 : bias[c];
      for (int64_t back = 0; back <= age && back < taps; ++back) {
        pre += weight[c * taps + taps - 1 - back] * input[(row - back) * channels + c];
      }
      result.output[row * channels + c] = Silu(pre);
      const double g = output_gradient[row * channels + c] * SiluSlope(pre);
      result.bias_gradient[c] += g;
      for (int64_t back = 0; back <= age && back < taps; ++back) {
        const int64_t tap = c * taps + taps - 1 - back, place = (row - back) * channels + c;
        result.input_gradient[place] += g * weight[tap];
        result.weight_gradient[tap] += g * input[place];
      }
    }
  }
  return result;
}

Mamba2Result ReferenceMamba2(const Documents& documents, const Mamba2Sizes& sizes,
                             const Mamba2Inputs& in) {
  const int64_t h_all = sizes.heads, p_all = sizes.head_width, n_all = sizes.state_size;
  const int64_t tokens = documents.tokens, area = p_all * n_all;
  Mamba2Result out{Numbers(documents.rows() * h_all * p_all),
                   Numbers(in.x.size(), 0.0),
                   Numbers(in.b.size(), 0.0),
                   Numbers(in.c.size(), 0.0),
                   Numbers(in.dt.size()),
                   Numbers(h_all, 0.0),
                   Numbers(h_all, 0.0),
                   Numbers(h_all, 0.0)};
  for (int64_t part = 0; part < documents.sequences * h_all; ++part) {
    const int64_t sequence = part / h_all, head = part % h_all;
    const int64_t first = sequence * tokens;
    const auto x_at = [&](int64_t t) {
      return ((first + t) * sizes.source_heads + head / (h_all / sizes.source_heads)) * p_all;
    };
    const auto b_at = [&](int64_t t) {
      return ((first + t) * sizes.source_groups + head / (h_all / sizes.source_groups)) * n_all;
    };
    const auto c_at = [&](int64_t t) {
      return ((first + t) * sizes.groups + head / (h_all / sizes.groups)) * n_all;
    };
    const double a = -std::exp(in.a_log[head]);
    Numbers states((tokens + 1) * area, 0.0), dts(tokens), decays(tokens), slopes(tokens);
    for (int64_t t = 0; t < tokens; ++t) {
      const double raw = in.dt[(first + t) * h_all + head] + in.dt_bias[head];
      const double dt = Softplus(raw);
      slopes[t] = dt < sizes.dt_minimum || dt > sizes.dt_maximum ? 0 : Sigmoid(raw);
      dts[t] = std::min(std::max(dt, sizes.dt_minimum), sizes.dt_maximum);
      decays[t] = documents.Starts(sequence, t) ? 0 : std::exp(dts[t] * a);
      for (int64_t p = 0; p < p_all; ++p) {
        double y = in.skip[head] * in.x[x_at(t) + p];
        for (int64_t n = 0; n < n_all; ++n) {
          double& s = states[(t + 1) * area + p * n_all + n];
          s = decays[t] * states[t * area + p * n_all + n] +
              dts[t] * in.x[x_at(t) + p] * in.b[b_at(t) + n];
          y += s * in.c[c_at(t) + n];
        }
        out.y[((first + t) * h_all + head) * p_all + p] = y;
      }
    }
    Numbers ds(area, 0.0);
    for (int64_t t = tokens - 1; t >= 0; --t) {
      double d_dt = 0, d_log_decay = 0;
      for (int64_t p = 0; p < p_all; ++p) {
        const double dy = in.y_gradient[((first + t) * h_all + head) * p_all + p];
        out.skip[head] += dy * in.x[x_at(t) + p];
        out.x[x_at(t) + p] += dy * in.skip[head];
        for (int64_t n = 0; n < n_all; ++n) {
          const int64_t place = p * n_all + n;
          double& d = ds[place];
          d = dy * in.c[c_at(t) + n] + (t + 1 < tokens ? decays[t + 1] : 0) * d;
          out.c[c_at(t) + n] += dy * states[(t + 1) * area + place];
          out.x[x_at(t) + p] += d * dts[t] * in.b[b_at(t) + n];
          out.b[b_at(t) + n] += d * dts[t] * in.x[x_at(t) + p];
          d_dt += d * in.x[x_at(t) + p] * in.b[b_at(t) + n];
          d_log_decay += d * decays[t] * states[t * area + place];
        }
      }
      const double raw = (d_dt + d_log_decay * a) * slopes[t];
      out.dt[(first + t) * h_all + head] = raw;
      out.dt_bias[head] += raw;
      out.a_log[head] += d_log_decay * dts[t] * a;
    }
  }
  return out;
}

SelectiveResult ReferenceSelective(const Documents& documents, const SelectiveSizes& sizes,
                                   const SelectiveInputs& in) {
  const int64_t channels = sizes.channels, n_all = sizes.state_size, tokens = documents.tokens;
  SelectiveResult out{
      Numbers(in.x.size()),           Numbers(in.x.size()),      Numbers(in.x.size()),
      Numbers(in.b.size(), 0.0),      Numbers(in.c.size(), 0.0), Numbers(in.z.size()),
      Numbers(channels * n_all, 0.0), Numbers(channels, 0.0),    Numbers(channels, 0.0)};
  for (int64_t part = 0; part < documents.sequences * channels; ++part) {
    const int64_t sequence = part / channels, c = part % channels, first = sequence * tokens;
    const int64_t group = c / (channels / sizes.groups);
    const int64_t source = group / (sizes.groups / sizes.source_groups);
    const auto b_at = [&](int64_t t) {
      return ((first + t) * sizes.source_groups + source) * n_all;
    };
    const auto c_at = [&](int64_t t) { return ((first + t) * sizes.groups + group) * n_all; };
    Numbers states((tokens + 1) * n_all, 0.0), dts(tokens), slopes(tokens), plain(tokens);
    const auto decay = [&](int64_t t, int64_t n) {
      if (t >= tokens || documents.Starts(sequence, t)) return 0.0;
      return std::exp(-dts[t] * std::exp(in.a_log[c * n_all + n]));
    };
    for (int64_t t = 0; t < tokens; ++t) {
      const int64_t place = (first + t) * channels + c;
      const double raw = in.delta[place] + in.dt_bias[c];
      dts[t] = Softplus(raw);
      slopes[t] = Sigmoid(raw);
      plain[t] = in.skip[c] * in.x[place];
      for (int64_t n = 0; n < n_all; ++n) {
        double& s = states[(t + 1) * n_all + n];
        s = decay(t, n) * states[t * n_all + n] + dts[t] * in.b[b_at(t) + n] * in.x[place];
        plain[t] += s * in.c[c_at(t) + n];
      }
      out.y[place] = plain[t] * (in.z.empty() ? 1 : Silu(in.z[place]));
    }
    Numbers ds(n_all, 0.0);
    for (int64_t t = tokens - 1; t >= 0; --t) {
      const int64_t place = (first + t) * channels + c;
      const double dy = in.y_gradient[place];
      const double g = dy * (in.z.empty() ? 1 : Silu(in.z[place]));
      if (!in.z.empty()) out.z[place] = dy * plain[t] * SiluSlope(in.z[place]);
      double dx = in.skip[c] * g, d_dt = 0;
      out.skip[c] += g * in.x[place];
      for (int64_t n = 0; n < n_all; ++n) {
        const double a = -std::exp(in.a_log[c * n_all + n]), b = in.b[b_at(t) + n];
        const double d = ds[n] = in.c[c_at(t) + n] * g + decay(t + 1, n) * ds[n];
        const double through = d * decay(t, n) * states[t * n_all + n];
        dx += d * dts[t] * b;
        d_dt += d * b * in.x[place] + through * a;
        out.a_log[c * n_all + n] += through * dts[t] * a;
        out.b[b_at(t) + n] += d * dts[t] * in.x[place];
        out.c[c_at(t) + n] += g * states[(t + 1) * n_all + n];
      }
      out.x[place] = dx;
      out.delta[place] = d_dt * slopes[t];
      out.dt_bias[c] += d_dt * slopes[t];
    }
  }
  return out;
}

namespace {

Numbers LogSoftmax(const double* row, int64_t count, double scale) {
  double largest = -1e300, sum = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, row[i] * scale);
  for (int64_t i = 0; i < count; ++i) sum += std::exp(row[i] * scale - largest);
  Numbers result(count);
  for (int64_t i = 0; i < count; ++i) result[i] = row[i] * scale - largest - std::log(sum);
  return result;
}

}  // namespace

DivergenceResult ReferenceDivergence(const Numbers& student, const Numbers& teacher,
                                     const std::vector<int64_t>& targets, const Numbers& row_weight,
                                     int64_t rows, int64_t vocabulary,
                                     const DivergenceSettings& settings) {
  DivergenceResult out{Numbers(rows * 5, 0.0), Numbers(rows * vocabulary, 0.0)};
  const double inverse = 1 / settings.temperature;
  for (int64_t row = 0; row < rows; ++row) {
    const double* z = student.data() + row * vocabulary;
    double* gradient = out.gradient.data() + row * vocabulary;
    double* results = out.results.data() + row * 5;
    if (!teacher.empty()) {
      const double* t = teacher.data() + row * vocabulary;
      const Numbers q = LogSoftmax(z, vocabulary, inverse), p = LogSoftmax(t, vocabulary, inverse);
      double below = 0;
      for (int64_t i = 0; i < vocabulary; ++i) {
        results[1] += std::exp(p[i]) * (p[i] - q[i]);
        results[4] += std::exp(std::min(p[i], q[i]));
        if (q[i] < p[i]) below += std::exp(q[i]);
      }
      results[3] =
          std::max_element(z, z + vocabulary) - z == std::max_element(t, t + vocabulary) - t;
      const double lambda = std::exp(-3 * results[4]);
      const double divergence = settings.acceptance
                                    ? lambda * inverse
                                    : settings.divergence_weight * settings.temperature;
      const double overlap = settings.acceptance ? (1 - lambda) * inverse : 0;
      results[0] = settings.acceptance ? lambda * results[1] + (1 - lambda) * (1 - results[4])
                                       : divergence * settings.temperature * results[1];
      for (int64_t i = 0; i < vocabulary; ++i) {
        const double qi = std::exp(q[i]);
        gradient[i] += divergence * (qi - std::exp(p[i])) - overlap * qi * ((q[i] < p[i]) - below);
      }
    }
    if (!targets.empty()) {
      const Numbers q = LogSoftmax(z, vocabulary, 1);
      results[2] = -q[targets[row]];
      results[0] += settings.cross_entropy_weight * results[2];
      for (int64_t i = 0; i < vocabulary; ++i) {
        gradient[i] += settings.cross_entropy_weight * (std::exp(q[i]) - (i == targets[row]));
      }
    }
    for (int64_t i = 0; i < vocabulary; ++i) gradient[i] *= row_weight[row];
  }
  return out;
}

}  // namespace mambad::gpu_check
