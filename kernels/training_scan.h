// The recurrent operations of training, forward and backward: causal convolution with SiLU, the
// Mamba-1 selective scan, the Mamba-2 scan. Arguments only; the functions that take them are in
// kernels/cpu/training/scan.h and kernels/cuda/training/scan.h under the same names.
//
// ROWS. An activation has one row for each (sequence, token); row r = sequence * tokens + token
// begins at data + r * stride elements, so that it may be a slice of a fused projection. Its
// columns lie side by side. Inputs may overlap each other; an output overlaps nothing else.
//
// TYPES. All activations and their gradients have the batch's element type. Parameters (A_log, D,
// dt_bias, the convolution's weight and bias) and their gradients have the parameter type: double
// for kFloat64, float otherwise (so float beside bf16 activations). Inside, everything is of the
// parameter type. A backend names the types it has; kFloat64 (for finite differences) is the CPU's
// alone.
//
// DOCUMENTS. document_start[row] = 1: a document begins with this row; the state is zero before it
// and the convolution sees nothing before it. Token 0 of a sequence always begins one.
//
// BACKWARD. Takes the forward problem unchanged, the gradient of the output, and the checkpoints
// that the forward pass kept; recomputes the states in between. Writes (does not add) the gradient
// of every input and parameter; each is wanted, except where "or null" is said.
//
// WORKSPACE. The backend's WorkspaceBytes function of an operation says how much memory of each
// kind a problem needs; the memory is the caller's, aligned to 64 bytes, its layout the backend's
// own. `checkpoints` passes from a forward call to the backward call of the same problem on the
// same backend; scratch means nothing before and after a call and may be shared between calls in
// order.
//
// DETERMINISM. Sums run in an order that depends on the problem alone: repeated calls agree bit for
// bit, and on the CPU so do all thread counts. A row's output and the gradients of its inputs do
// not depend on other sequences; on the CPU not on other documents either.

#ifndef MAMBAD_KERNELS_TRAINING_SCAN_H_
#define MAMBAD_KERNELS_TRAINING_SCAN_H_

#include <cstddef>
#include <cstdint>
#include <limits>

namespace mambad::kernels {

enum class TrainingType : uint8_t { kFloat32, kBFloat16, kFloat64 };

struct InputRows {
  const void* data = nullptr;
  int64_t stride = 0;  // elements from one row to the next; >= columns
};

struct OutputRows {
  void* data = nullptr;
  int64_t stride = 0;
};

struct TrainingBatch {
  int64_t sequences = 0, tokens = 0;        // tokens of each sequence
  const uint8_t* document_start = nullptr;  // [sequences, tokens], 0 or 1; null: only token 0
  TrainingType type = TrainingType::kFloat32;

  int64_t rows() const { return sequences * tokens; }
};

// What an operation wants from the caller, in bytes; 0: may be null.
struct TrainingWorkspaceBytes {
  size_t checkpoints = 0;  // written by forward, read by backward
  size_t forward_scratch = 0;
  size_t backward_scratch = 0;
};

// ---- causal depthwise convolution with SiLU ----------------------------------------------------
//
//   pre[t, c] = bias[c] + sum over j < taps of weight[c, j] input[t - taps + 1 + j, c]
//   output[t, c] = SiLU(pre) = pre / (1 + exp(-pre))
//
// where inputs from before the row's document count as zero.

inline constexpr int64_t kMaxTrainingTaps = 8;

struct CausalConvolution {
  TrainingBatch batch;
  int64_t channels = 0, taps = 4;
  InputRows input;               // [rows, channels]
  const void* weight = nullptr;  // [channels, taps], parameter type
  const void* bias = nullptr;    // [channels], parameter type; or null
};

struct CausalConvolutionGradient {
  InputRows output;        // [rows, channels]: d loss / d output, given
  OutputRows input;        // [rows, channels]
  void* weight = nullptr;  // [channels, taps], parameter type
  void* bias = nullptr;    // [channels], parameter type; null if and only if there is no bias
};

// ---- Mamba-1 selective scan --------------------------------------------------------------------
//
// Channel c of I belongs to group g = c / (I / G) of C and to source group g / (G / Gs) of B; with
// state s[c, n] in the parameter type:
//
//   dt = softplus(delta + dt_bias),  A = -exp(A_log)
//   s_t[c, n] = exp(dt A[c, n]) s_{t-1}[c, n] + dt B_t[source group, n] x_t[c]
//   y_t[c] = (sum over n of C_t[g, n] s_t[c, n] + D[c] x_t[c]) SiLU(z_t[c])
//
// softplus(v) = log1p(exp(v)) (v itself from 20 on, to within rounding). A bias that a checkpoint
// means to be added twice is doubled by the caller.

struct SelectiveScan {
  TrainingBatch batch;
  int64_t channels = 0, state_size = 0;   // I, N
  int64_t groups = 1, source_groups = 1;  // G divides I, Gs divides G
  InputRows x;                            // [rows, I], convolved
  InputRows delta;                        // [rows, I], before the bias
  InputRows b;                            // [rows, Gs N]
  InputRows c;                            // [rows, G N]
  InputRows z;                            // [rows, I]; null data: no gate (the factor is 1)
  const void* a_log = nullptr;            // [I, N]
  const void* skip = nullptr;             // D [I]
  const void* dt_bias = nullptr;          // [I]
};

struct SelectiveScanGradient {
  InputRows y;                // [rows, I]: d loss / d y, given
  OutputRows x, delta, b, c;  // as the inputs
  OutputRows z;               // [rows, I]; null data if and only if there is no gate
  void* a_log = nullptr;      // [I, N]
  void* skip = nullptr;       // [I]
  void* dt_bias = nullptr;    // [I]
};

// ---- Mamba-2 scan ------------------------------------------------------------------------------
//
// Head h of H has width P and state S[p, n]; it reads x of source head h / (H / Hx), C of group
// g = h / (H / G) and B of source group g / (G / Gs):
//
//   dt = min(max(softplus(raw_dt + dt_bias[h]), dt_minimum), dt_maximum),  A = -exp(A_log[h])
//   S_t = exp(dt A) S_{t-1} + dt x_t B_t^T
//   y_t = S_t C_t + D[h] x_t
//
// The gate and its norm come after. Where dt is cut to a limit its gradient is zero.

struct Mamba2Scan {
  TrainingBatch batch;
  int64_t heads = 0, head_width = 0, state_size = 0;  // H, P, N
  int64_t source_heads = 0;                           // Hx divides H
  int64_t groups = 1, source_groups = 1;              // G divides H, Gs divides G
  InputRows x;                                        // [rows, Hx P], convolved
  InputRows b;                                        // [rows, Gs N]
  InputRows c;                                        // [rows, G N]
  InputRows dt;                                       // [rows, H], before the bias
  const void* a_log = nullptr;                        // [H]
  const void* skip = nullptr;                         // D [H]
  const void* dt_bias = nullptr;                      // [H]
  float dt_minimum = 0;                               // 0 <= minimum < maximum
  float dt_maximum = std::numeric_limits<float>::infinity();
};

struct Mamba2ScanGradient {
  InputRows y;              // [rows, H P]: d loss / d y, given
  OutputRows x, b, c, dt;   // as the inputs: summed over the heads and groups that share them
  void* a_log = nullptr;    // [H]
  void* skip = nullptr;     // [H]
  void* dt_bias = nullptr;  // [H]
};

// ---- what both backends refuse -----------------------------------------------------------------

// Null, or the first thing that is wrong with a problem: sizes, divisors, missing data, strides.
const char* CheckProblem(const CausalConvolution& problem);
const char* CheckProblem(const SelectiveScan& problem);
const char* CheckProblem(const Mamba2Scan& problem);
const char* CheckGradient(const CausalConvolution& problem,
                          const CausalConvolutionGradient& gradient);
const char* CheckGradient(const SelectiveScan& problem, const SelectiveScanGradient& gradient);
const char* CheckGradient(const Mamba2Scan& problem, const Mamba2ScanGradient& gradient);

// ------------------------------------------------------------------------------------------------

namespace training_scan_check {

template <typename Rows>
bool Fits(const Rows& rows, int64_t columns) {
  return rows.data != nullptr && rows.stride >= columns;
}

inline const char* Sizes(const TrainingBatch& batch) {
  if (batch.sequences < 1 || batch.tokens < 1) return "no rows";
  return nullptr;
}

inline bool Divides(int64_t divisor, int64_t number) {
  return divisor >= 1 && number >= 1 && number % divisor == 0;
}

}  // namespace training_scan_check

inline const char* CheckProblem(const CausalConvolution& problem) {
  using namespace training_scan_check;
  if (const char* wrong = Sizes(problem.batch)) return wrong;
  if (problem.channels < 1) return "convolution: no channels";
  if (problem.taps < 1 || problem.taps > kMaxTrainingTaps) return "convolution: taps not in 1..8";
  if (!Fits(problem.input, problem.channels))
    return "convolution: input absent or stride too small";
  if (problem.weight == nullptr) return "convolution: weight absent";
  return nullptr;
}

inline const char* CheckGradient(const CausalConvolution& problem,
                                 const CausalConvolutionGradient& gradient) {
  using namespace training_scan_check;
  if (const char* wrong = CheckProblem(problem)) return wrong;
  if (!Fits(gradient.output, problem.channels) || !Fits(gradient.input, problem.channels)) {
    return "convolution: gradient rows absent or stride too small";
  }
  if (gradient.weight == nullptr) return "convolution: weight gradient absent";
  if ((gradient.bias == nullptr) != (problem.bias == nullptr)) {
    return "convolution: bias and its gradient must both be there or both be absent";
  }
  return nullptr;
}

inline const char* CheckProblem(const SelectiveScan& problem) {
  using namespace training_scan_check;
  if (const char* wrong = Sizes(problem.batch)) return wrong;
  const int64_t channels = problem.channels, n = problem.state_size;
  if (n < 1) return "selective scan: no state";
  if (!Divides(problem.groups, channels)) return "selective scan: groups do not divide channels";
  if (!Divides(problem.source_groups, problem.groups)) {
    return "selective scan: source groups do not divide groups";
  }
  if (!Fits(problem.x, channels) || !Fits(problem.delta, channels) ||
      !Fits(problem.b, problem.source_groups * n) || !Fits(problem.c, problem.groups * n) ||
      (problem.z.data != nullptr && problem.z.stride < channels)) {
    return "selective scan: input absent or stride too small";
  }
  if (problem.a_log == nullptr || problem.skip == nullptr || problem.dt_bias == nullptr) {
    return "selective scan: parameter absent";
  }
  return nullptr;
}

inline const char* CheckGradient(const SelectiveScan& problem,
                                 const SelectiveScanGradient& gradient) {
  using namespace training_scan_check;
  if (const char* wrong = CheckProblem(problem)) return wrong;
  const int64_t channels = problem.channels, n = problem.state_size;
  if (!Fits(gradient.y, channels) || !Fits(gradient.x, channels) ||
      !Fits(gradient.delta, channels) || !Fits(gradient.b, problem.source_groups * n) ||
      !Fits(gradient.c, problem.groups * n) ||
      (problem.z.data != nullptr && !Fits(gradient.z, channels))) {
    return "selective scan: gradient rows absent or stride too small";
  }
  if (problem.z.data == nullptr && gradient.z.data != nullptr) {
    return "selective scan: gradient of a gate that is not there";
  }
  if (gradient.a_log == nullptr || gradient.skip == nullptr || gradient.dt_bias == nullptr) {
    return "selective scan: parameter gradient absent";
  }
  return nullptr;
}

inline const char* CheckProblem(const Mamba2Scan& problem) {
  using namespace training_scan_check;
  if (const char* wrong = Sizes(problem.batch)) return wrong;
  const int64_t n = problem.state_size;
  if (problem.head_width < 1 || n < 1) return "Mamba-2 scan: no state";
  if (!Divides(problem.source_heads, problem.heads)) {
    return "Mamba-2 scan: source heads do not divide heads";
  }
  if (!Divides(problem.groups, problem.heads)) return "Mamba-2 scan: groups do not divide heads";
  if (!Divides(problem.source_groups, problem.groups)) {
    return "Mamba-2 scan: source groups do not divide groups";
  }
  if (!Fits(problem.x, problem.source_heads * problem.head_width) ||
      !Fits(problem.b, problem.source_groups * n) || !Fits(problem.c, problem.groups * n) ||
      !Fits(problem.dt, problem.heads)) {
    return "Mamba-2 scan: input absent or stride too small";
  }
  if (problem.a_log == nullptr || problem.skip == nullptr || problem.dt_bias == nullptr) {
    return "Mamba-2 scan: parameter absent";
  }
  if (!(problem.dt_minimum >= 0 && problem.dt_minimum < problem.dt_maximum)) {
    return "Mamba-2 scan: time-step limits out of order";
  }
  return nullptr;
}

inline const char* CheckGradient(const Mamba2Scan& problem, const Mamba2ScanGradient& gradient) {
  using namespace training_scan_check;
  if (const char* wrong = CheckProblem(problem)) return wrong;
  const int64_t n = problem.state_size;
  if (!Fits(gradient.y, problem.heads * problem.head_width) ||
      !Fits(gradient.x, problem.source_heads * problem.head_width) ||
      !Fits(gradient.b, problem.source_groups * n) || !Fits(gradient.c, problem.groups * n) ||
      !Fits(gradient.dt, problem.heads)) {
    return "Mamba-2 scan: gradient rows absent or stride too small";
  }
  if (gradient.a_log == nullptr || gradient.skip == nullptr || gradient.dt_bias == nullptr) {
    return "Mamba-2 scan: parameter gradient absent";
  }
  return nullptr;
}

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_TRAINING_SCAN_H_
