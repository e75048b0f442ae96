// The products of the CUDA backend on this machine's GPU: against double, a row's bits at every
// number of rows, and times. Needs no test framework and nothing of the backend but its products.
//
//   linear_check [--no-times | --times] [--small]
//
// --times: nothing but times. --small: shapes that take little memory, and of row counts and ways
// to ask one of each kind: for tools under which kernels take many times as long.
//
// Exit status 1 where anything is wrong.

#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/linear.h"

namespace mambad::gpu_check {
namespace {

using kernels::Buffer;
using kernels::ElementType;
using kernels::MatrixSource;
using kernels::NormWeights;
using kernels::RowsView;
using kernels::WeightMatrix;
using kernels::cuda::Check;
using kernels::cuda::CreateLinearScratch;
using kernels::cuda::Linear;
using kernels::cuda::LinearOutput;
using kernels::cuda::LinearScratch;
using kernels::cuda::OpenProductUnits;
using kernels::cuda::PackMatrix;
using kernels::cuda::ProductUnits;

Buffer Allocate(size_t bytes) {
  void* data = nullptr;
  Check(cudaMalloc(&data, bytes), "cudaMalloc");
  Check(cudaMemset(data, 0, bytes), "cudaMemset");
  Check(cudaDeviceSynchronize(), "cudaMemset");
  return Buffer(data, bytes, [](void* memory, size_t) { Check(cudaFree(memory), "cudaFree"); });
}

template <typename T>
Buffer OnDevice(const std::vector<T>& values) {
  Buffer buffer = Allocate(std::max<size_t>(1, values.size()) * sizeof(T));
  Check(cudaMemcpy(buffer.data(), values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice),
        "cudaMemcpy");
  return buffer;
}

std::vector<float> OnHost(const Buffer& buffer) {
  std::vector<float> values(buffer.bytes() / sizeof(float));
  Check(cudaDeviceSynchronize(), "kernels");
  Check(cudaMemcpy(values.data(), buffer.data(), buffer.bytes(), cudaMemcpyDeviceToHost),
        "cudaMemcpy");
  return values;
}

uint16_t ToBfloat16(float value) {  // nearest even; finite values
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
float Rounded(float value, ElementType type) {
  if (type == ElementType::kFloat32) return value;
  const uint32_t bits = uint32_t{ToBfloat16(value)} << 16;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

std::vector<float> Random(std::mt19937& random, int64_t count, float scale) {
  std::normal_distribution<float> normal(0, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

const ProductUnits& Units() {
  static const ProductUnits units = OpenProductUnits();
  return units;
}

int failures = 0;
void Expect(bool right, const std::string& what) {
  if (right) return;
  ++failures;
  std::printf("WRONG: %s\n", what.c_str());
}

// How a product is called: which options, and how its rows lie.
struct Way {
  bool norm = false, weighted = false, add = false, bias = false, aligned = true;
};

// A matrix, rows of x and all that is needed to multiply them.
class Case {
 public:
  Case(int64_t outputs, int64_t columns, ElementType type, int64_t max_rows)
      : outputs_(outputs), columns_(columns), max_rows_(max_rows), type_(type) {
    std::mt19937 random(static_cast<uint32_t>(outputs * 7919 + columns));
    weights_ = Random(random, outputs * columns, 1 / std::sqrt(static_cast<float>(columns)));
    for (float& value : weights_) value = Rounded(value, type);
    x_ = Random(random, max_rows * (columns + 5) + 1, 1);
    norm_ = Random(random, columns, 1);
    bias_ = Random(random, outputs, 1);
    start_ = Random(random, max_rows * YStride(), 1);
    MatrixSource source;
    source.float32 = [this](int64_t begin, int64_t end, float* out) {
      std::copy(weights_.begin() + begin * columns_, weights_.begin() + end * columns_, out);
    };
    source.bfloat16 = [this](int64_t begin, int64_t end, uint16_t* out) {
      std::transform(weights_.begin() + begin * columns_, weights_.begin() + end * columns_, out,
                     ToBfloat16);
    };
    packed_ = PackMatrix(outputs, columns, type, source, Allocate, nullptr);
    device_x_ = OnDevice(x_);
    device_norm_ = OnDevice(norm_);
    device_bias_ = OnDevice(bias_);
    device_count_ = OnDevice(std::vector<int32_t>{0});
    scratch_ = CreateLinearScratch(Units(), max_rows, columns, Allocate);
  }

  std::string Name() const {
    return (type_ == ElementType::kBFloat16 ? "bf16 " : "float ") + std::to_string(outputs_) + "x" +
           std::to_string(columns_);
  }

  // y and two rows more, or all max_rows, after a product of rows [first, first + rows) of x, of
  // which there are `there`. y row 0 belongs to x row `first`.
  std::vector<float> Run(const Way& way, int64_t first, int64_t rows, int64_t there) {
    const auto end = start_.begin() + std::min(rows + 2, max_rows_) * YStride();
    const Buffer y = OnDevice(std::vector<float>(start_.begin(), end));
    const int32_t count = static_cast<int32_t>(there);
    Check(cudaMemcpy(device_count_.data(), &count, sizeof(count), cudaMemcpyHostToDevice),
          "cudaMemcpy");
    const RowsView x{device_x_.as<float>() + Offset(way) + first * Stride(way), rows, columns_,
                     Stride(way)};
    const NormWeights norm{way.weighted ? device_norm_.as<float>() : nullptr, 1e-5f};
    Linear(nullptr, there == rows ? nullptr : device_count_.as<int32_t>(), packed_, x,
           way.norm ? &norm : nullptr, {y.as<float>(), rows, outputs_, YStride()},
           way.add ? LinearOutput::kAdd : LinearOutput::kStore, scratch_,
           way.bias ? device_bias_.as<float>() : nullptr);
    return OnHost(y);
  }

  // The same with all rows there, as nodes of a graph: behind a recorded event and behind a copy.
  std::vector<float> RunInGraph(const Way& way, int64_t rows) {
    const auto end = start_.begin() + std::min(rows + 2, max_rows_) * YStride();
    const Buffer y = OnDevice(std::vector<float>(start_.begin(), end)), copy = Allocate(y.bytes());
    const RowsView x{device_x_.as<float>() + Offset(way), rows, columns_, Stride(way)};
    const NormWeights norm{way.weighted ? device_norm_.as<float>() : nullptr, 1e-5f};
    cudaStream_t stream;
    cudaEvent_t event;
    cudaGraph_t graph;
    cudaGraphExec_t ready;
    Check(cudaStreamCreate(&stream), "cudaStreamCreate");
    Check(cudaEventCreate(&event), "cudaEventCreate");
    Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeRelaxed), "capture");
    Check(cudaEventRecordWithFlags(event, stream, cudaEventRecordExternal), "capture: event");
    for (const Buffer* to : {&copy, &y}) {
      Linear(stream, nullptr, packed_, x, way.norm ? &norm : nullptr,
             {to->as<float>(), rows, outputs_, YStride()}, LinearOutput::kStore, scratch_);
      if (to == &y) break;
      Check(cudaMemcpyAsync(copy.data(), y.data(), y.bytes(), cudaMemcpyDeviceToDevice, stream),
            "capture: copy");
    }
    Check(cudaStreamEndCapture(stream, &graph), "capture");
    Check(cudaGraphInstantiate(&ready, graph, 0), "cudaGraphInstantiate");
    for (int i = 0; i < 3; ++i) Check(cudaGraphLaunch(ready, stream), "cudaGraphLaunch");
    const std::vector<float> values = OnHost(y);
    Check(cudaGraphExecDestroy(ready), "cudaGraphExecDestroy");
    Check(cudaGraphDestroy(graph), "cudaGraphDestroy");
    Check(cudaEventDestroy(event), "cudaEventDestroy");
    Check(cudaStreamDestroy(stream), "cudaStreamDestroy");
    return values;
  }

  // Of row `row` of x.
  double Expected(const Way& way, int64_t row, int64_t output) const {
    const float* x = x_.data() + Offset(way) + row * Stride(way);
    double sum = 0, squares = 0;
    for (int64_t k = 0; k < columns_; ++k) {
      const float u = Rounded(way.norm && way.weighted ? x[k] * norm_[k] : x[k], type_);
      sum += double{weights_[output * columns_ + k]} * u;
      squares += double{x[k]} * x[k];
    }
    if (way.norm) sum /= std::sqrt(squares / static_cast<double>(columns_) + double{1e-5f});
    if (way.add) sum += start_[row * YStride() + output];
    return way.bias ? sum + bias_[output] : sum;
  }

  // Relative L2 against double of some of what `y` has, of rows [0, rows) of x.
  double Error(const Way& way, const std::vector<float>& y, int64_t rows) const {
    const int64_t some_outputs = std::max<int64_t>(1, outputs_ / 200);
    const int64_t some_rows = std::max<int64_t>(1, rows / 12);
    double difference = 0, size = 0;
    for (int64_t row = 0; row < rows; row += some_rows) {
      for (int64_t output = 0; output < outputs_; output += some_outputs) {
        const double expected = Expected(way, row, output);
        difference += std::pow(y[row * YStride() + output] - expected, 2);
        size += expected * expected;
      }
    }
    return std::sqrt(difference / size);
  }

  // Whether row `a_row` of a and row `b_row` of b have the same bits.
  bool Same(const std::vector<float>& a, int64_t a_row, const std::vector<float>& b,
            int64_t b_row) const {
    return std::memcmp(a.data() + a_row * YStride(), b.data() + b_row * YStride(),
                       outputs_ * sizeof(float)) == 0;
  }
  // Whether y is still what it was behind its first `rows` rows, and between rows.
  bool Untouched(const std::vector<float>& y, int64_t rows) const {
    for (int64_t i = 0; i < std::ssize(y); ++i) {
      const bool outside = i / YStride() >= rows || i % YStride() >= outputs_;
      if (outside && y[i] != start_[i]) return false;
    }
    return true;
  }

  int64_t max_rows() const { return max_rows_; }
  double tolerance() const { return type_ == ElementType::kBFloat16 ? 2e-5 : 1e-6; }

 private:
  int64_t YStride() const { return outputs_ + 3; }
  // Of x, in numbers: rows of pairs that may be read at once, or not.
  int64_t Offset(const Way& way) const { return way.aligned ? 0 : 1; }
  int64_t Stride(const Way& way) const {
    return columns_ + 4 + (columns_ % 2 == (way.aligned ? 1 : 0));
  }

  int64_t outputs_, columns_, max_rows_;
  ElementType type_;
  std::vector<float> weights_, x_, norm_, bias_, start_;
  WeightMatrix packed_;
  Buffer device_x_, device_norm_, device_bias_, device_count_;
  LinearScratch scratch_;
};

// All rows at once against double; then a row's bits at other numbers of rows, at other places, and
// with fewer rows than the call may have. `row_counts` ascend.
void CheckWay(Case& product, const Way& way, const std::vector<int64_t>& row_counts) {
  const std::string name = product.Name() + (way.norm ? " norm" : "") +
                           (way.weighted ? " weighted" : "") + (way.add ? " add" : "") +
                           (way.bias ? " bias" : "") + (way.aligned ? "" : " unaligned");
  const int64_t most = product.max_rows();
  const std::vector<float> all = product.Run(way, 0, most, most);
  const double error = product.Error(way, all, most);
  Expect(error < product.tolerance(), name + ": error " + std::to_string(error * 1e6) + "e-6");
  Expect(product.Untouched(all, most), name + ": wrote beside y");
  for (const int64_t rows : row_counts) {
    if (rows > most) break;
    const std::string at = name + ", " + std::to_string(rows) + " rows";
    const std::vector<float> some = product.Run(way, 0, rows, rows);
    int64_t differ = 0;
    for (int64_t row = 0; row < rows; ++row) differ += !product.Same(some, row, all, row);
    Expect(differ == 0, at + ": rows with other bits: " + std::to_string(differ));
    Expect(product.Untouched(some, rows), at + ": wrote beside y");
    const int64_t there = rows / 2;
    const std::vector<float> fewer = product.Run(way, 0, rows, there);
    for (int64_t row = 0; row < there; ++row) differ += !product.Same(fewer, row, all, row);
    Expect(differ == 0, at + ", half of them there: other bits");
    Expect(product.Untouched(fewer, there), at + ", half of them there: wrote beside y");
    // A row's place does not matter; with kAdd y starts from other numbers.
    const int64_t first = most - rows;
    if (way.add) continue;
    if (!way.bias) {
      const std::vector<float> captured = product.RunInGraph(way, rows);
      for (int64_t row = 0; row < rows; ++row) differ += !product.Same(captured, row, all, row);
      Expect(differ == 0, at + ", in a graph: other bits");
    }
    const std::vector<float> moved = product.Run(way, first, rows, rows);
    for (int64_t row = 0; row < rows; ++row) differ += !product.Same(moved, row, all, first + row);
    Expect(differ == 0, at + ", moved: other bits");
  }
}

void CheckProducts(bool small) {
  struct Shape {
    int64_t outputs, columns, rows;
  };
  std::vector<Shape> shapes = {{1, 1, 70},      {16, 2, 70},    {17, 33, 140},  {80, 97, 70},
                               {64, 64, 131},   {48, 7, 70},    {130, 256, 70}, {33, 700, 140},
                               {271, 31, 300},  {15, 1300, 70}, {96, 192, 130}, {40, 513, 140},
                               {70, 1024, 140}, {20, 5000, 70}, {40, 512, 330}, {200, 1536, 330}};
  if (!small) {
    shapes.insert(shapes.end(), {{1536, 384, 2048},
                                 {320, 2560, 2048},
                                 {192, 5120, 2048},
                                 {5120, 160, 2048},
                                 {10240, 2560, 2048},
                                 {2560, 5120, 2048},
                                 {1000, 14336, 300},
                                 {50280, 768, 320},
                                 {4096, 14336, 320},
                                 {28672, 4096, 130}});
  }
  // A kernel's first and last count each, or one of each kernel.
  const std::vector<int64_t> row_counts =
      small ? std::vector<int64_t>{1, 8, 17, 64, 130, 300}
            : std::vector<int64_t>{1,  2,  5,   8,   9,   15,  16,  17,  31,  32,  33,  63,
                                   64, 65, 127, 128, 129, 255, 256, 257, 300, 319, 320, 1000};
  for (const Shape& shape : shapes) {
    for (const ElementType type : {ElementType::kBFloat16, ElementType::kFloat32}) {
      if (type == ElementType::kFloat32 && shape.outputs * shape.columns > 50'000'000) continue;
      Case product(shape.outputs, shape.columns, type, shape.rows);
      const int before = failures;
      CheckWay(product, {.norm = true, .weighted = true}, row_counts);
      std::printf("%-20s %s\n", product.Name().c_str(), failures == before ? "right" : "WRONG");
      std::fflush(stdout);
      if (shape.outputs * shape.columns > 1'000'000) continue;
      CheckWay(product, {}, row_counts);
      CheckWay(product, {.add = true, .bias = true}, row_counts);
      if (!small) CheckWay(product, {.norm = true, .add = true, .aligned = false}, row_counts);
      CheckWay(product, {.norm = true, .weighted = true, .bias = true, .aligned = false},
               row_counts);
      if (failures != before) std::printf("%-20s WRONG\n", product.Name().c_str());
    }
  }
}

// ---- times --------------------------------------------------------------------------------------

__global__ void FillWeights(uint16_t* numbers, int64_t count) {
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    uint32_t hash = static_cast<uint32_t>(i) * 2654435761u;
    hash ^= hash >> 15;
    // +- 2^-8 .. 2^-6
    numbers[i] = static_cast<uint16_t>((hash & 0x80ff) | (0x3b80 + (hash >> 16 & 0x80)));
  }
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Seconds between two events around `work`.
double Seconds(cudaStream_t stream, const std::function<void()>& work) {
  cudaEvent_t begin, end;
  Check(cudaEventCreate(&begin), "cudaEventCreate");
  Check(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<double> times;
  for (int i = 0; i < 12; ++i) {
    Check(cudaEventRecord(begin, stream), "cudaEventRecord");
    work();
    Check(cudaEventRecord(end, stream), "cudaEventRecord");
    Check(cudaEventSynchronize(end), "work that is timed");
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    if (i >= 3) times.push_back(milliseconds / 1000);
  }
  Check(cudaEventDestroy(begin), "cudaEventDestroy");
  Check(cudaEventDestroy(end), "cudaEventDestroy");
  return Median(times);
}

// Seconds a call of `enqueue(i)`, i < count, in a graph of all of them.
double GraphSeconds(cudaStream_t stream, int count, const std::function<void(int)>& enqueue) {
  cudaGraph_t graph;
  cudaGraphExec_t ready;
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < count; ++i) enqueue(i);
  Check(cudaStreamEndCapture(stream, &graph), "capture");
  Check(cudaGraphInstantiate(&ready, graph, 0), "cudaGraphInstantiate");
  const double seconds =
      Seconds(stream, [&] { Check(cudaGraphLaunch(ready, stream), "cudaGraphLaunch"); });
  Check(cudaGraphExecDestroy(ready), "cudaGraphExecDestroy");
  Check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  return seconds / count;
}

double CopyRate(cudaStream_t stream) {  // bytes read and written a second
  const size_t bytes = size_t{1} << 30;
  const Buffer from = Allocate(bytes), to = Allocate(bytes);
  return 2.0 * static_cast<double>(bytes) / Seconds(stream, [&] {
           Check(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, stream),
                 "cudaMemcpyAsync");
         });
}

void TimeShape(cudaStream_t stream, double copy_rate, int64_t outputs, int64_t columns,
               bool normed) {
  const double bytes = 2.0 * static_cast<double>(outputs * columns);
  const int count = static_cast<int>(std::clamp(1e9 / bytes, 3.0, 64.0));
  std::vector<WeightMatrix> matrices(count);
  for (WeightMatrix& matrix : matrices) {
    matrix.rows = outputs, matrix.columns = columns, matrix.type = ElementType::kBFloat16;
    const int64_t numbers = (outputs + 15) / 16 * 16 * ((columns + 15) / 16 * 16);
    matrix.packed = Allocate(numbers * 2);
    FillWeights<<<1024, 256, 0, stream>>>(matrix.packed.as<uint16_t>(), numbers);
  }
  std::mt19937 random(1);
  const int64_t most = outputs > 20000 ? 256 : 2048;
  const Buffer x = OnDevice(Random(random, most * columns, 1));
  const Buffer weight = OnDevice(Random(random, columns, 1));
  const Buffer y = Allocate(most * outputs * sizeof(float));
  LinearScratch scratch = CreateLinearScratch(Units(), most, columns, Allocate);
  const NormWeights norm{weight.as<float>(), 1e-5f};
  for (const int64_t rows : {1, 5, 8, 9, 16, 32, 64, 96, 128, 256, 512, 1024, 2048}) {
    if (rows > most) break;
    const double seconds = GraphSeconds(stream, count, [&](int i) {
      Linear(stream, nullptr, matrices[i], {x.as<float>(), rows, columns, columns},
             normed ? &norm : nullptr, {y.as<float>(), rows, outputs, outputs},
             LinearOutput::kStore, scratch);
    });
    std::printf("%6lldx%-5lld %5lld rows %8.1f us %5.0f GB/s %4.0f %% %5.0f TFLOP/s\n",
                static_cast<long long>(outputs), static_cast<long long>(columns),
                static_cast<long long>(rows), seconds * 1e6, bytes / seconds / 1e9,
                100 * bytes / seconds / copy_rate,
                bytes * static_cast<double>(rows) / seconds / 1e12);
    std::fflush(stdout);
  }
}

void PrintTimes() {
  cudaStream_t stream;
  Check(cudaStreamCreate(&stream), "cudaStreamCreate");
  const double copy_rate = CopyRate(stream);
  std::printf("copy rate %.0f GB/s; a product in a graph: time, weights read, share of copy rate\n",
              copy_rate / 1e9);
  TimeShape(stream, copy_rate, 10240, 2560, true);
  TimeShape(stream, copy_rate, 2560, 5120, false);
  TimeShape(stream, copy_rate, 192, 5120, false);
  TimeShape(stream, copy_rate, 5120, 160, false);
  TimeShape(stream, copy_rate, 28672, 4096, true);
  TimeShape(stream, copy_rate, 4096, 14336, false);
  TimeShape(stream, copy_rate, 50280, 2560, true);
  Check(cudaStreamDestroy(stream), "cudaStreamDestroy");
}

}  // namespace
}  // namespace mambad::gpu_check

int main(int argc, char** argv) {
  bool checks = true, times = true, small = false;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--no-times") == 0) times = false;
    if (std::strcmp(argv[i], "--times") == 0) checks = false;
    if (std::strcmp(argv[i], "--small") == 0) small = true;
  }
  if (checks) mambad::gpu_check::CheckProducts(small);
  if (times) mambad::gpu_check::PrintTimes();
  if (mambad::gpu_check::failures > 0) std::printf("%d wrong\n", mambad::gpu_check::failures);
  return mambad::gpu_check::failures > 0;
}
