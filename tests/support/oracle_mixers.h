// The oracle's layers: what one of them does to a whole sequence, in double precision.

#ifndef MAMBAD_TESTS_SUPPORT_ORACLE_MIXERS_H_
#define MAMBAD_TESTS_SUPPORT_ORACLE_MIXERS_H_

#include <cstdint>
#include <utility>
#include <vector>

#include "tests/support/oracle.h"
#include "tests/support/oracle_files.h"

namespace mambad::oracle {

using Row = std::vector<double>;
using Rows = std::vector<Row>;  // one a position

double RoundToBFloat16(double value);
double Silu(double x);
// Identity above 20, as the published kernels have it.
double Softplus(double x);

// y = W x of [rows, columns], plus a bias where there is one.
class Product {
 public:
  Product() = default;
  Product(Tensor weight, const OracleOptions& options);
  void SetBias(std::vector<double> bias) { bias_ = std::move(bias); }
  Row operator()(const Row& x) const;
  int64_t rows() const { return rows_; }
  // Row `index` of the weight itself: an embedding.
  Row WeightRow(int64_t index) const;

 private:
  int64_t rows_ = 0, columns_ = 0;
  std::vector<double> weight_, bias_;
  bool round_input_ = false;
};

// y = x / sqrt(mean(x^2) + epsilon) * weight over each `group` numbers of x.
struct RmsNorm {
  std::vector<double> weight;  // repeated from group to group when it is one group's; empty: ones
  double epsilon = 0;
  Row operator()(const Row& x, int64_t group = 0) const;  // 0: one group
};

// Causal, depthwise: y_t[c] = bias[c] + sum_j w[c, j] x_{t - W + 1 + j}[c], then SiLU.
struct Convolution {
  int channels = 0, taps = 0;
  std::vector<double> weight;  // [channels, taps]
  std::vector<double> bias;    // [channels]; empty: none
  Row At(const Rows& x, size_t position) const;
};

class Mixer {
 public:
  virtual ~Mixer() = default;
  // [positions][d] normed input to [positions][d], not yet added to the residual stream.
  virtual Rows operator()(const Rows& input) const = 0;
};

struct Attention final : Mixer {
  int query_heads = 0, key_value_heads = 0, head_width = 0;
  int64_t window = 0;                     // 0: none
  std::vector<double> inverse_frequency;  // [head_width / 2]
  double rotation_scale = 1;              // of cosine and sine
  // Dynamic scaling: from this position on frequencies are of a base that grows with the position.
  double original_context = 0, growth_factor = 1;  // 0: none
  bool norms_heads = false;
  RmsNorm query_norm, key_norm;       // [head_width] of each head, before the rotation
  Product query, key, value, output;  // unless fused
  bool fused = false;
  Product in;  // rows query, key, value
  Rows operator()(const Rows& input) const override;

 private:
  Row Rotate(const Row& heads, size_t position) const;
};

// Mamba-1. `source_width` 0: standard (in, select); otherwise MambaInLlama.
struct Mamba final : Mixer {
  int inner = 0, state = 0, rank = 0, source_width = 0;
  bool norms_selection = false;  // dt_low, B and C, each by itself, without weight
  double selection_epsilon = 0;
  bool fused = false, repeat_before_convolution = true;
  Product in, select;                     // standard; `in` also of the fused MambaInLlama layout
  Product in_z, in_x, in_b, in_c, in_dt;  // MambaInLlama, apart
  Product dt, out;
  std::vector<double> dt_bias;      // [inner], as often as the layout means it
  std::vector<double> a_log, skip;  // [inner, state], [inner]
  Convolution convolution;
  Rows operator()(const Rows& input) const override;

 private:
  struct Projected {
    Row x, z, b, c, low;
  };
  Projected Project(const Row& u) const;
  Row Repeat(const Row& source) const;
};

// Mamba-2. `source_width` 0: standard.
struct Mamba2 final : Mixer {
  int inner = 0, state = 0, heads = 0, groups = 1, source_width = 0;
  bool repeat_before_convolution = false;
  double dt_minimum = 0, dt_maximum = 1e308;
  Product in, out;
  std::vector<double> dt_bias, a_log, skip;  // [heads]
  Convolution convolution;
  RmsNorm norm;  // over groups of inner / groups, after the gate
  Rows operator()(const Rows& input) const override;

 private:
  Row Repeat(const Row& source) const;
};

}  // namespace mambad::oracle

#endif  // MAMBAD_TESTS_SUPPORT_ORACLE_MIXERS_H_
