// Mamba-2 scan, forward and backward, as outer scans (outer_scan.h) between two small kernels: one
// that makes time steps and decays, one that takes the gradients of both apart.
//
// The gradient of log decay, r_t = decay_t <dS_t, S_{t-1}>, needs no state: from S_t = decay_t
// S_{t-1} + dt_t x_t B_t^T and dS_t = dy_t C_t^T + decay_{t+1} dS_{t+1} follows
//   r_t = dy_t . S_t C_t - dt_t x_t . dS_t B_t + r_{t+1},   r_t = 0 where a document begins.
// Both products come from the scans in fp32 and the sum runs in double.

#include <algorithm>

#include "kernels/cuda/training/element_access.cuh"
#include "kernels/cuda/training/outer_scan.h"
#include "kernels/cuda/training/scan.h"

namespace mambad::kernels::cuda {
namespace {

constexpr int kThreads = 256;

struct TimeStep {
  float dt, slope;  // d dt / d raw
};

__device__ TimeStep TimeStepOf(float raw, float minimum, float maximum) {
  TimeStep step;
  step.dt = raw > 20.0f ? raw : log1pf(expf(raw));
  step.slope = step.dt < minimum || step.dt > maximum ? 0.0f : 1.0f / (1.0f + expf(-raw));
  step.dt = fminf(fmaxf(step.dt, minimum), maximum);
  return step;
}

// What both kernels around the scans see of a problem.
struct Steps {
  InputRows raw;
  const uint8_t* document_start;
  const float *a_log, *dt_bias;
  float minimum, maximum;
  int heads, tokens, sequences;
};

template <typename Element>
__device__ TimeStep StepAt(const Steps& steps, int64_t sequence, int head, int token) {
  const auto* raw = static_cast<const Element*>(steps.raw.data);
  const float value = ToFloat(raw[(sequence * steps.tokens + token) * steps.raw.stride + head]);
  return TimeStepOf(value + steps.dt_bias[head], steps.minimum, steps.maximum);
}

template <typename Element>
__global__ void __launch_bounds__(kThreads)
    StepKernel(Steps steps, float* __restrict__ scale, float* __restrict__ log_decay) {
  const int token = blockIdx.x * kThreads + threadIdx.x;
  if (token >= steps.tokens) return;
  const int head = blockIdx.y % steps.heads;
  const int64_t sequence = blockIdx.y / steps.heads;
  const float dt = StepAt<Element>(steps, sequence, head, token).dt;
  const bool starts = token == 0 || (steps.document_start != nullptr &&
                                     steps.document_start[sequence * steps.tokens + token] != 0);
  const int64_t place = int64_t{blockIdx.y} * steps.tokens + token;
  scale[place] = dt;
  log_decay[place] = starts ? -INFINITY : -dt * expf(steps.a_log[head]);
}

// r -> keep (add + r), composed over tokens.
struct Suffix {
  double add;
  bool keep;
};

__device__ Suffix Compose(const Suffix& earlier, const Suffix& later) {
  return {earlier.add + (earlier.keep ? later.add : 0.0), earlier.keep && later.keep};
}

__device__ Suffix Down(const Suffix& value, int lanes) {
  return {__shfl_down_sync(0xffffffffu, value.add, lanes),
          __shfl_down_sync(0xffffffffu, static_cast<int>(value.keep), lanes) != 0};
}

// r of this thread's token, given r of the first token behind the block's.
__device__ double BlockSuffix(Suffix value, double behind, Suffix* warps) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int lanes = 1; lanes < 32; lanes *= 2) {
    const Suffix later = Down(value, lanes);
    if (lane + lanes < 32) value = Compose(value, later);
  }
  __syncthreads();
  if (lane == 0) warps[warp] = value;
  __syncthreads();
  double r = behind;
  for (int later = kThreads / 32 - 1; later > warp; --later) {
    r = warps[later].add + (warps[later].keep ? r : 0.0);
  }
  return value.add + (value.keep ? r : 0.0);
}

__device__ double BlockSum(double value, double* sums) {
  __syncthreads();
  sums[threadIdx.x] = value;
  for (int width = kThreads / 2; width > 0; width /= 2) {
    __syncthreads();
    if (threadIdx.x < width) sums[threadIdx.x] += sums[threadIdx.x + width];
  }
  __syncthreads();
  return sums[0];
}

struct StepGradients {
  const float *scale, *log_decay;
  const float* state_dots;  // [state_slices, sequences, heads, tokens]: C_t . dC_t
  const float* input_dots;  // [head_slices, ...]: x_t . dx_t without dt and D
  const float* skip_dots;   // [head_slices, sequences, heads]
  int state_slices, head_slices;
  OutputRows raw;
  float* partials;  // [sequences, 3, heads]: A_log, D, dt_bias
};

// One block a head of a sequence, from the last token to the first.
template <typename Element>
__global__ void __launch_bounds__(kThreads)
    StepGradientKernel(Steps steps, StepGradients gradients) {
  __shared__ Suffix warps[kThreads / 32];
  __shared__ double sums[kThreads];
  const int head = blockIdx.x % steps.heads;
  const int64_t sequence = blockIdx.x / steps.heads;
  const int64_t plane = int64_t{gridDim.x} * steps.tokens,
                first = int64_t{blockIdx.x} * steps.tokens;
  const float a = -expf(steps.a_log[head]);
  double behind = 0, a_sum = 0, bias_sum = 0;
  const int tiles = (steps.tokens + kThreads - 1) / kThreads;
  for (int tile = tiles - 1; tile >= 0; --tile) {
    const int token = tile * kThreads + threadIdx.x;
    const bool inside = token < steps.tokens;
    float scale = 0, input_dot = 0;
    Suffix own{0.0, inside && gradients.log_decay[first + token] != -INFINITY};
    if (inside) {
      scale = gradients.scale[first + token];
      double state_dot = 0;
      for (int i = 0; i < gradients.state_slices; ++i) {
        state_dot += gradients.state_dots[i * plane + first + token];
      }
      for (int i = 0; i < gradients.head_slices; ++i) {
        input_dot += gradients.input_dots[i * plane + first + token];
      }
      if (own.keep) own.add = state_dot - static_cast<double>(scale) * input_dot;
    }
    const double r = BlockSuffix(own, behind, warps);
    if (threadIdx.x == 0) sums[0] = r;
    __syncthreads();
    behind = sums[0];
    if (!inside) continue;
    const float slope = StepAt<Element>(steps, sequence, head, token).slope;
    const float raw = (static_cast<float>(r) * a + input_dot) * slope;
    static_cast<Element*>(
        gradients.raw.data)[(sequence * steps.tokens + token) * gradients.raw.stride + head] =
        FromFloat<Element>(raw);
    a_sum += r * scale * a;
    bias_sum += raw;
  }
  a_sum = BlockSum(a_sum, sums);
  bias_sum = BlockSum(bias_sum, sums);
  if (threadIdx.x != 0) return;
  double skip_sum = 0;
  for (int i = 0; i < gradients.head_slices; ++i) {
    skip_sum += gradients.skip_dots[int64_t{i} * gridDim.x + blockIdx.x];
  }
  float* partials = gradients.partials + sequence * 3 * steps.heads + head;
  partials[0] = static_cast<float>(a_sum);
  partials[steps.heads] = static_cast<float>(skip_sum);
  partials[2 * steps.heads] = static_cast<float>(bias_sum);
}

__global__ void ParameterKernel(const float* __restrict__ partials, int sequences, int heads,
                                float* a_log, float* skip, float* dt_bias) {
  const int head = blockIdx.x * blockDim.x + threadIdx.x;
  if (head >= heads) return;
  float* const outputs[3] = {a_log, skip, dt_bias};
  for (int i = 0; i < 3; ++i) {
    double sum = 0;
#pragma unroll 8
    for (int sequence = 0; sequence < sequences; ++sequence) {
      sum += partials[(int64_t{sequence} * 3 + i) * heads + head];
    }
    outputs[i][head] = static_cast<float>(sum);
  }
}

// output[row, source, i] = sum over the `share` heads of a source of heads[row, head, i].
template <typename Element, int kPack>
__global__ void __launch_bounds__(kThreads)
    SumHeadsKernel(const Element* __restrict__ heads, int64_t rows, int sources, int share,
                   int width, OutputRows output) {
  const int packs = sources * width / kPack;
  const int64_t index = blockIdx.x * int64_t{kThreads} + threadIdx.x, row = index / packs;
  if (row >= rows) return;
  const int column = static_cast<int>(index - row * packs) * kPack;
  const int source = column / width, place = column % width;
  const Element* from = heads + (row * sources + source) * share * width + place;
  float sums[kPack] = {};
  for (int head = 0; head < share; ++head) {
    float values[kPack];
    LoadFloats<kPack>(from + int64_t{head} * width, values);
#pragma unroll
    for (int i = 0; i < kPack; ++i) sums[i] += values[i];
  }
  StoreFloats<kPack>(static_cast<Element*>(output.data) + row * output.stride + column, sums);
}

template <typename Element>
const char* SumHeads(const void* heads, int64_t rows, int64_t sources, int64_t share, int64_t width,
                     const OutputRows& output, CUstream_st* stream) {
  const auto* from = static_cast<const Element*>(heads);
  const bool packed = width % 8 == 0 && CanPack<Element, 8>(output.data, output.stride);
  const int64_t items = rows * sources * width / (packed ? 8 : 1);
  const auto blocks = static_cast<unsigned>((items + kThreads - 1) / kThreads);
  const int s = static_cast<int>(sources), n = static_cast<int>(share), w = static_cast<int>(width);
  if (packed)
    SumHeadsKernel<Element, 8><<<blocks, kThreads, 0, stream>>>(from, rows, s, n, w, output);
  else
    SumHeadsKernel<Element, 1><<<blocks, kThreads, 0, stream>>>(from, rows, s, n, w, output);
  return LaunchError();
}

// Where everything lies in scratch: places in bytes, aligned to 64.
struct Layout {
  size_t scale, log_decay, forward_end;
  size_t state_dots, input_dots, skip_dots, partials;
  size_t x, b, c, end;  // gradients by head, where heads share a source
};

Layout LayoutOf(const Mamba2Scan& problem) {
  size_t end = 0;
  const auto take = [&end](int64_t bytes) {
    const size_t place = end;
    end += (static_cast<size_t>(bytes) + 63) / 64 * 64;
    return place;
  };
  const int64_t rows = problem.batch.rows(), all = rows * problem.heads;
  const int64_t element = problem.batch.type == TrainingType::kBFloat16 ? 2 : 4;
  const int64_t head_slices = OuterScanSlices(problem.head_width);
  Layout layout;
  layout.scale = take(all * 4);
  layout.log_decay = take(all * 4);
  layout.forward_end = end;
  layout.state_dots = take(all * 4 * OuterScanSlices(problem.state_size));
  layout.input_dots = take(all * 4 * head_slices);
  layout.skip_dots = take(problem.batch.sequences * problem.heads * 4 * head_slices);
  layout.partials = take(problem.batch.sequences * problem.heads * 4 * 3);
  layout.x = take(problem.source_heads == problem.heads ? 0 : all * problem.head_width * element);
  layout.b = take(problem.source_groups == problem.heads ? 0 : all * problem.state_size * element);
  layout.c = take(problem.groups == problem.heads ? 0 : all * problem.state_size * element);
  layout.end = end;
  return layout;
}

const char* CheckSizes(const Mamba2Scan& problem) {
  if (problem.batch.type == TrainingType::kFloat64) return "Mamba-2 scan: no float64 on the GPU";
  if (problem.state_size > kMaxMamba2State || problem.head_width > kMaxMamba2State) {
    return "Mamba-2 scan: state size or head width above 256";
  }
  if (problem.batch.sequences * problem.heads > 65535 || problem.batch.tokens > (1 << 24)) {
    return "Mamba-2 scan: more than 65535 heads of sequences or 2^24 tokens";
  }
  return nullptr;
}

Steps StepsOf(const Mamba2Scan& problem) {
  return {problem.dt,
          problem.batch.document_start,
          static_cast<const float*>(problem.a_log),
          static_cast<const float*>(problem.dt_bias),
          problem.dt_minimum,
          problem.dt_maximum,
          static_cast<int>(problem.heads),
          static_cast<int>(problem.batch.tokens),
          static_cast<int>(problem.batch.sequences)};
}

const char* MakeSteps(const Mamba2Scan& problem, float* scale, float* log_decay,
                      CUstream_st* stream) {
  const Steps steps = StepsOf(problem);
  const dim3 grid(static_cast<unsigned>((steps.tokens + kThreads - 1) / kThreads),
                  static_cast<unsigned>(steps.sequences * steps.heads));
  if (problem.batch.type == TrainingType::kBFloat16) {
    StepKernel<__nv_bfloat16><<<grid, kThreads, 0, stream>>>(steps, scale, log_decay);
  } else {
    StepKernel<float><<<grid, kThreads, 0, stream>>>(steps, scale, log_decay);
  }
  return LaunchError();
}

OuterScans ScansOf(const Mamba2Scan& problem, const float* scale, const float* log_decay) {
  OuterScans scans;
  scans.heads = static_cast<int>(problem.heads);
  scans.tokens = static_cast<int>(problem.batch.tokens);
  scans.sequences = static_cast<int>(problem.batch.sequences);
  scans.scale = scale;
  scans.log_decay = log_decay;
  return scans;
}

OuterScanRows Rows(const InputRows& rows, int64_t heads, int64_t sources) {
  return {rows.data, rows.stride, static_cast<int>(heads / sources)};
}

// The rows a scan writes: `output` itself, or scratch by head where heads share a source.
void WriteTo(const OutputRows& output, bool shared, void* scratch, int64_t heads, OuterScan* scan) {
  scan->out = shared ? scratch : output.data;
  scan->out_stride = shared ? heads * scan->value_width : output.stride;
}

}  // namespace

TrainingWorkspaceBytes WorkspaceBytes(const Mamba2Scan& problem) {
  const Layout layout = LayoutOf(problem);
  TrainingWorkspaceBytes bytes;
  bytes.forward_scratch = layout.forward_end;
  bytes.backward_scratch = layout.end;
  return bytes;
}

const char* Mamba2ScanForward(const Mamba2Scan& problem, const OutputRows& y, void*, void* scratch,
                              CUstream_st* stream) {
  if (const char* wrong = CheckProblem(problem)) return wrong;
  if (const char* wrong = CheckSizes(problem)) return wrong;
  if (y.data == nullptr || y.stride < problem.heads * problem.head_width) {
    return "Mamba-2 scan: output absent or stride too small";
  }
  if (scratch == nullptr) return "Mamba-2 scan: scratch absent";
  const Layout layout = LayoutOf(problem);
  auto* base = static_cast<char*>(scratch);
  auto* scale = reinterpret_cast<float*>(base + layout.scale);
  auto* log_decay = reinterpret_cast<float*>(base + layout.log_decay);
  if (const char* wrong = MakeSteps(problem, scale, log_decay, stream)) return wrong;
  OuterScans scans = ScansOf(problem, scale, log_decay);
  scans.count = 1;
  OuterScan& scan = scans.scans[0];
  scan.value = Rows(problem.x, problem.heads, problem.source_heads);
  scan.key = Rows(problem.b, problem.heads, problem.source_groups);
  scan.query = Rows(problem.c, problem.heads, problem.groups);
  scan.value_width = static_cast<int>(problem.head_width);
  scan.key_width = static_cast<int>(problem.state_size);
  scan.skip = static_cast<const float*>(problem.skip);
  scan.out = y.data;
  scan.out_stride = y.stride;
  return RunOuterScans(scans, problem.batch.type, stream);
}

namespace {

// The three scans of the backward pass.
OuterScans BackwardScans(const Mamba2Scan& problem, const Mamba2ScanGradient& gradient,
                         const Layout& layout, char* base) {
  const auto floats = [base](size_t place) { return reinterpret_cast<float*>(base + place); };
  const int64_t heads = problem.heads;
  const OuterScanRows x = Rows(problem.x, heads, problem.source_heads);
  const OuterScanRows b = Rows(problem.b, heads, problem.source_groups);
  const OuterScanRows c = Rows(problem.c, heads, problem.groups);
  const OuterScanRows dy = Rows(gradient.y, heads, heads);
  const int width = static_cast<int>(problem.head_width),
            state = static_cast<int>(problem.state_size);
  OuterScans scans = ScansOf(problem, floats(layout.scale), floats(layout.log_decay));
  scans.count = 3;
  OuterScan& of_c = scans.scans[0];
  of_c.value = b, of_c.key = x, of_c.query = dy, of_c.partner = c;
  of_c.value_width = state, of_c.key_width = width;
  of_c.dots = floats(layout.state_dots);
  WriteTo(gradient.c, problem.groups != heads, base + layout.c, heads, &of_c);
  OuterScan& of_x = scans.scans[1];
  of_x.value = dy, of_x.key = c, of_x.query = b, of_x.partner = x;
  of_x.value_width = width, of_x.key_width = state;
  of_x.reversed = true;
  of_x.skip = static_cast<const float*>(problem.skip);
  of_x.dots = floats(layout.input_dots);
  of_x.skip_dots = floats(layout.skip_dots);
  WriteTo(gradient.x, problem.source_heads != heads, base + layout.x, heads, &of_x);
  OuterScan& of_b = scans.scans[2];
  of_b.value = c, of_b.key = dy, of_b.query = x;
  of_b.value_width = state, of_b.key_width = width;
  of_b.reversed = true;
  WriteTo(gradient.b, problem.source_groups != heads, base + layout.b, heads, &of_b);
  return scans;
}

template <typename Element>
const char* FinishBackward(const Mamba2Scan& problem, const Mamba2ScanGradient& gradient,
                           const Layout& layout, char* base, CUstream_st* stream) {
  const auto floats = [base](size_t place) { return reinterpret_cast<float*>(base + place); };
  const Steps steps = StepsOf(problem);
  const StepGradients parts = {floats(layout.scale),
                               floats(layout.log_decay),
                               floats(layout.state_dots),
                               floats(layout.input_dots),
                               floats(layout.skip_dots),
                               OuterScanSlices(problem.state_size),
                               OuterScanSlices(problem.head_width),
                               gradient.dt,
                               floats(layout.partials)};
  StepGradientKernel<Element>
      <<<static_cast<unsigned>(steps.sequences * steps.heads), kThreads, 0, stream>>>(steps, parts);
  if (const char* wrong = LaunchError()) return wrong;
  ParameterKernel<<<(steps.heads + 31) / 32, 32, 0, stream>>>(
      floats(layout.partials), steps.sequences, steps.heads, static_cast<float*>(gradient.a_log),
      static_cast<float*>(gradient.skip), static_cast<float*>(gradient.dt_bias));
  if (const char* wrong = LaunchError()) return wrong;
  const int64_t rows = problem.batch.rows(), heads = problem.heads;
  const struct {
    size_t place;
    int64_t sources, width;
    const OutputRows& output;
  } shared[] = {{layout.x, problem.source_heads, problem.head_width, gradient.x},
                {layout.b, problem.source_groups, problem.state_size, gradient.b},
                {layout.c, problem.groups, problem.state_size, gradient.c}};
  for (const auto& one : shared) {
    if (one.sources == heads) continue;
    const char* wrong = SumHeads<Element>(base + one.place, rows, one.sources, heads / one.sources,
                                          one.width, one.output, stream);
    if (wrong != nullptr) return wrong;
  }
  return nullptr;
}

}  // namespace

const char* Mamba2ScanBackward(const Mamba2Scan& problem, const Mamba2ScanGradient& gradient,
                               const void*, void* scratch, CUstream_st* stream) {
  if (const char* wrong = CheckGradient(problem, gradient)) return wrong;
  if (const char* wrong = CheckSizes(problem)) return wrong;
  if (scratch == nullptr) return "Mamba-2 scan: scratch absent";
  const Layout layout = LayoutOf(problem);
  auto* base = static_cast<char*>(scratch);
  if (const char* wrong = MakeSteps(problem, reinterpret_cast<float*>(base + layout.scale),
                                    reinterpret_cast<float*>(base + layout.log_decay), stream)) {
    return wrong;
  }
  const OuterScans scans = BackwardScans(problem, gradient, layout, base);
  if (const char* wrong = RunOuterScans(scans, problem.batch.type, stream)) return wrong;
  return problem.batch.type == TrainingType::kBFloat16
             ? FinishBackward<__nv_bfloat16>(problem, gradient, layout, base, stream)
             : FinishBackward<float>(problem, gradient, layout, base, stream);
}

}  // namespace mambad::kernels::cuda
