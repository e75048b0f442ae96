#include "kernels/cuda/training/divergence.h"
#include "kernels/cuda/training/element_access.cuh"

namespace mambad::kernels::cuda {
namespace {

// One block a row. The row is read twice (three times for the acceptance loss): once for maxima,
// sums and the divergence, once for the gradient. The student's row stays in shared memory where it
// fits, in places that only the thread that wrote them reads; with the teacher's rows of all blocks
// in the cache, each number is fetched from memory once. Logits are scaled so that every
// exponential is a power of two.
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr float kLowest = -3.0e38f;
constexpr float kLog2E = 1.4426950408889634f, kLn2 = 0.6931471805599453f;
constexpr int64_t kMostKept = 56 * 1024;  // numbers of a row: two blocks share a multiprocessor

// Maximum, sum of powers of two relative to it, and the first place of the maximum.
struct Softmax {
  float maximum = kLowest;
  float sum = 0;
  int place = 0x7fffffff;

  __device__ float LogSum() const { return maximum + __log2f(sum); }
};

__device__ Softmax Merge(const Softmax& a, const Softmax& b) {
  Softmax result;
  result.maximum = fmaxf(a.maximum, b.maximum);
  result.sum = a.sum * PowerOfTwo(a.maximum - result.maximum) +
               b.sum * PowerOfTwo(b.maximum - result.maximum);
  result.place = a.maximum > b.maximum   ? a.place
                 : a.maximum < b.maximum ? b.place
                                         : min(a.place, b.place);
  return result;
}

// First pass of one row: `student` and `teacher` at temperature T, `plain` the student at 1, and
// `cross` = sum over v of 2^(t_v - teacher.maximum) (t_v - s_v).
struct RowSums {
  Softmax student, teacher, plain;
  float cross = 0;
};

__device__ RowSums Merge(const RowSums& a, const RowSums& b) {
  RowSums result;
  result.student = Merge(a.student, b.student);
  result.teacher = Merge(a.teacher, b.teacher);
  result.plain = Merge(a.plain, b.plain);
  result.cross = a.cross * PowerOfTwo(a.teacher.maximum - result.teacher.maximum) +
                 b.cross * PowerOfTwo(b.teacher.maximum - result.teacher.maximum);
  return result;
}

__device__ Softmax Exchange(const Softmax& value, int lanes) {
  Softmax result;
  result.maximum = __shfl_xor_sync(0xffffffffu, value.maximum, lanes);
  result.sum = __shfl_xor_sync(0xffffffffu, value.sum, lanes);
  result.place = __shfl_xor_sync(0xffffffffu, value.place, lanes);
  return result;
}

__device__ RowSums Exchange(const RowSums& value, int lanes) {
  RowSums result;
  result.student = Exchange(value.student, lanes);
  result.teacher = Exchange(value.teacher, lanes);
  result.plain = Exchange(value.plain, lanes);
  result.cross = __shfl_xor_sync(0xffffffffu, value.cross, lanes);
  return result;
}

// Two numbers that are added up over the block: overlap and its lower part.
struct Overlap {
  float minimum = 0;  // sum of min(p, q)
  float below = 0;    // sum of q where q < p
};

__device__ Overlap Merge(const Overlap& a, const Overlap& b) {
  Overlap result;
  result.minimum = a.minimum + b.minimum;
  result.below = a.below + b.below;
  return result;
}

__device__ Overlap Exchange(const Overlap& value, int lanes) {
  Overlap result;
  result.minimum = __shfl_xor_sync(0xffffffffu, value.minimum, lanes);
  result.below = __shfl_xor_sync(0xffffffffu, value.below, lanes);
  return result;
}

// Every thread gets the same total, merged in a fixed order.
template <typename T>
__device__ T BlockTotal(T value) {
  __shared__ unsigned char storage[kWarps * sizeof(T)] __attribute__((aligned(8)));
  T* totals = reinterpret_cast<T*>(storage);
  for (int lanes = 16; lanes > 0; lanes /= 2) value = Merge(value, Exchange(value, lanes));
  __syncthreads();
  if (threadIdx.x % 32 == 0) totals[threadIdx.x / 32] = value;
  __syncthreads();
  T total = totals[0];
  for (int warp = 1; warp < kWarps; ++warp) total = Merge(total, totals[warp]);
  return total;
}

// Takes `values` in; returns what earlier sums relative to the maximum are worth now.
template <int kWidth>
__device__ float AddPack(const float (&values)[kWidth], int column, Softmax* softmax) {
  float largest = values[0], earlier = 1;
#pragma unroll
  for (int i = 1; i < kWidth; ++i) largest = fmaxf(largest, values[i]);
  if (largest > softmax->maximum) {
    earlier = PowerOfTwo(softmax->maximum - largest);
    softmax->sum *= earlier;
    softmax->maximum = largest;
#pragma unroll
    for (int i = kWidth - 1; i >= 0; --i) {
      if (values[i] == largest) softmax->place = column + i;
    }
  }
  return earlier;
}

template <int kWidth>
__device__ RowSums SumRow(const __nv_bfloat16* student, const __nv_bfloat16* teacher,
                          int vocabulary, float factor, bool plain, __nv_bfloat16* kept) {
  RowSums sums;
  for (int column = threadIdx.x * kWidth; column < vocabulary; column += kThreads * kWidth) {
    float s[kWidth], t[kWidth], scaled[kWidth];
    const auto pack = LoadPack<kWidth>(student + column);
    if (kept != nullptr) *reinterpret_cast<Pack<__nv_bfloat16, kWidth>*>(kept + column) = pack;
    if (teacher != nullptr) LoadFloats<kWidth>(teacher + column, t);
    Unpack<kWidth>(pack, s);
    if (plain) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) scaled[i] = s[i] * kLog2E;
      AddPack<kWidth>(scaled, column, &sums.plain);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sums.plain.sum += PowerOfTwo(scaled[i] - sums.plain.maximum);
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) s[i] *= factor;
    AddPack<kWidth>(s, column, &sums.student);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) sums.student.sum += PowerOfTwo(s[i] - sums.student.maximum);
    if (teacher == nullptr) continue;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) t[i] *= factor;
    sums.cross *= AddPack<kWidth>(t, column, &sums.teacher);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float power = PowerOfTwo(t[i] - sums.teacher.maximum);
      sums.teacher.sum += power;
      sums.cross += power * (t[i] - s[i]);
    }
  }
  return BlockTotal(sums);
}

// What the second pass needs of a row; logarithms to base 2.
struct RowScales {
  float student_log_sum, teacher_log_sum, plain_log_sum;
  float factor;         // of a logit, before it is an exponent of two
  float divergence;     // of (q - p)
  float overlap;        // of q ([q < p] - below), subtracted
  float below;          // sum of q where q < p
  float cross_entropy;  // of (softmax(z) - one hot)
};

template <int kWidth>
__device__ Overlap OverlapRow(const __nv_bfloat16* student, const __nv_bfloat16* teacher,
                              int vocabulary, const RowScales& scales) {
  Overlap overlap;
  for (int column = threadIdx.x * kWidth; column < vocabulary; column += kThreads * kWidth) {
    float s[kWidth], t[kWidth];
    LoadFloats<kWidth>(student + column, s);
    LoadFloats<kWidth>(teacher + column, t);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float q = PowerOfTwo(s[i] * scales.factor - scales.student_log_sum);
      const float p = PowerOfTwo(t[i] * scales.factor - scales.teacher_log_sum);
      overlap.minimum += fminf(p, q);
      overlap.below += q < p ? q : 0.0f;
    }
  }
  return BlockTotal(overlap);
}

// Writes the gradient; returns the overlap, which costs nothing here. kDivergenceAlone: a teacher,
// and nothing but the divergence to it.
template <int kWidth, bool kDivergenceAlone>
__device__ Overlap WriteGradient(const __nv_bfloat16* student, const __nv_bfloat16* teacher,
                                 int vocabulary, int target, const RowScales& scales,
                                 __nv_bfloat16* result) {
  Overlap overlap;
  const bool taught = kDivergenceAlone || teacher != nullptr;
  for (int column = threadIdx.x * kWidth; column < vocabulary; column += kThreads * kWidth) {
    float s[kWidth], t[kWidth], gradient[kWidth];
    if (taught) LoadFloats<kWidth>(teacher + column, t);
    LoadFloats<kWidth>(student + column, s);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      gradient[i] = 0;
      if (taught) {
        const float q = PowerOfTwo(s[i] * scales.factor - scales.student_log_sum);
        const float p = PowerOfTwo(t[i] * scales.factor - scales.teacher_log_sum);
        gradient[i] = scales.divergence * (q - p);
        overlap.minimum += fminf(p, q);
        if (!kDivergenceAlone) {
          gradient[i] -= scales.overlap * q * ((q < p ? 1.0f : 0.0f) - scales.below);
        }
      }
      if (!kDivergenceAlone && scales.cross_entropy != 0) {
        const float chosen = column + i == target ? 1.0f : 0.0f;
        const float q = PowerOfTwo(s[i] * kLog2E - scales.plain_log_sum);
        gradient[i] += scales.cross_entropy * (q - chosen);
      }
    }
    StoreFloats<kWidth>(result + column, gradient);
  }
  return BlockTotal(overlap);
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads, 2)
    DivergenceKernel(DivergenceArguments arguments, bool keep) {
  extern __shared__ __align__(16) unsigned char memory[];
  auto* kept = keep ? reinterpret_cast<__nv_bfloat16*>(memory) : nullptr;
  const int64_t row = blockIdx.x;
  const int vocabulary = static_cast<int>(arguments.vocabulary);
  auto* student = static_cast<__nv_bfloat16*>(arguments.student) + row * vocabulary;
  const auto* teacher =
      arguments.teacher == nullptr
          ? nullptr
          : static_cast<const __nv_bfloat16*>(arguments.teacher) + row * vocabulary;
  const bool has_target = arguments.targets != nullptr;
  const int64_t given = has_target ? arguments.targets[row] : -1;
  const int target = given >= 0 && given < vocabulary ? static_cast<int>(given) : -1;
  const float target_logit = target >= 0 ? __bfloat162float(student[target]) : 0.0f;
  const float inverse = 1.0f / arguments.temperature;
  RowScales scales;
  scales.factor = inverse * kLog2E;
  const bool plain = has_target && arguments.temperature != 1.0f;
  const RowSums sums = SumRow<kWidth>(student, teacher, vocabulary, scales.factor, plain, kept);
  const __nv_bfloat16* again = keep ? kept : student;
  scales.student_log_sum = sums.student.LogSum();
  scales.plain_log_sum = plain ? sums.plain.LogSum() : scales.student_log_sum;
  scales.teacher_log_sum = 0;
  float divergence = 0, cross_entropy = 0, alpha = 0, lambda = 0;
  if (teacher != nullptr) {
    scales.teacher_log_sum = sums.teacher.LogSum();
    divergence =
        kLn2 * (sums.cross / sums.teacher.sum - scales.teacher_log_sum + scales.student_log_sum);
  }
  if (has_target) cross_entropy = kLn2 * scales.plain_log_sum - target_logit;

  const float weight = arguments.row_weight[row];
  scales.divergence = weight * arguments.divergence_weight * arguments.temperature;
  scales.overlap = scales.below = 0;
  scales.cross_entropy = has_target ? weight * arguments.cross_entropy_weight : 0.0f;
  const bool overlap_first =
      teacher != nullptr && (arguments.acceptance || !arguments.wants_gradient);
  if (overlap_first) {
    const Overlap overlap = OverlapRow<kWidth>(again, teacher, vocabulary, scales);
    alpha = overlap.minimum;
    scales.below = overlap.below;
  }
  if (arguments.acceptance && teacher != nullptr) {
    lambda = __expf(-3.0f * alpha);
    scales.divergence = weight * lambda * inverse;
    scales.overlap = weight * (1.0f - lambda) * inverse;
  }
  if (arguments.wants_gradient) {
    const bool alone = teacher != nullptr && !arguments.acceptance && scales.cross_entropy == 0;
    const Overlap overlap =
        alone ? WriteGradient<kWidth, true>(again, teacher, vocabulary, target, scales, student)
              : WriteGradient<kWidth, false>(again, teacher, vocabulary, target, scales, student);
    if (!overlap_first) alpha = overlap.minimum;
  }
  if (threadIdx.x == 0) {
    float* results = arguments.results + row * 5;
    const float teacher_loss = teacher == nullptr ? 0.0f
                               : arguments.acceptance
                                   ? lambda * divergence + (1.0f - lambda) * (1.0f - alpha)
                                   : arguments.divergence_weight * arguments.temperature *
                                         arguments.temperature * divergence;
    results[0] =
        teacher_loss + (has_target ? arguments.cross_entropy_weight * cross_entropy : 0.0f);
    results[1] = divergence;
    results[2] = cross_entropy;
    results[3] = teacher != nullptr && sums.student.place == sums.teacher.place ? 1.0f : 0.0f;
    results[4] = alpha;
  }
}

}  // namespace

const char* DivergenceGradient(const DivergenceArguments& arguments, CUstream_st* stream) {
  if (arguments.rows == 0) return nullptr;
  if (arguments.vocabulary < 1 || arguments.vocabulary > (1 << 30) || arguments.rows < 0 ||
      arguments.rows > 0x7fffffff) {
    return "rows have to fit 31 bits and the vocabulary 30";
  }
  if (!(arguments.temperature > 0)) return "the temperature has to be above 0";
  const auto blocks = static_cast<unsigned>(arguments.rows);
  if (!CanPack<__nv_bfloat16, 8>(arguments.student, arguments.vocabulary) ||
      !CanPack<__nv_bfloat16, 8>(arguments.teacher, arguments.vocabulary)) {
    DivergenceKernel<1><<<blocks, kThreads, 0, stream>>>(arguments, false);
  } else if (arguments.vocabulary > kMostKept) {
    DivergenceKernel<8><<<blocks, kThreads, 0, stream>>>(arguments, false);
  } else {
    const size_t bytes = arguments.vocabulary * sizeof(__nv_bfloat16);
    const cudaError_t set =
        cudaFuncSetAttribute(DivergenceKernel<8>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(kMostKept * sizeof(__nv_bfloat16)));
    if (set != cudaSuccess) return cudaGetErrorString(set);
    DivergenceKernel<8><<<blocks, kThreads, bytes, stream>>>(arguments, true);
  }
  return LaunchError();
}

}  // namespace mambad::kernels::cuda
