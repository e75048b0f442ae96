// What programs that time the serving kernels have in common: kernel_times.h.

#include <algorithm>
#include <cstdio>
#include <utility>

#include "kernels/cuda/errors.h"
#include "tests/gpu/kernel_times.h"

namespace mambad::gpu_check {

using kernels::Buffer;
using kernels::cuda::Check;
using kernels::cuda::CheckLaunch;

namespace {

constexpr int kThreads = 256, kBlocks = 2048;
constexpr int kPagesOfSlot = 2064;  // a little more than 32,768 positions

__device__ uint32_t Hash(uint64_t i) {
  uint64_t x = (i + 1) * 0x9E3779B97F4A7C15ull;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9ull;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBull;
  return static_cast<uint32_t>(x >> 32);
}

__global__ void Fill(float* data, int64_t count, float low, float high) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    data[i] = fmaf(static_cast<float>(Hash(i) >> 8) * 0x1p-24f, high - low, low);
  }
}

__global__ void FillHalves(uint16_t* data, int64_t count) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    const float number = static_cast<float>(Hash(i) >> 8) * 0x1p-23f - 1.0f;
    data[i] = static_cast<uint16_t>(__float_as_uint(number) >> 16);
  }
}

// Adds to *sum what the words are at their places, in any order.
__global__ void AddWords(const uint32_t* words, int64_t count, uint64_t seed,
                         unsigned long long* sum) {
  const int64_t step = int64_t{gridDim.x} * kThreads;
  unsigned long long mine = 0;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    const uint64_t place = seed + static_cast<uint64_t>(i);
    mine += (uint64_t{Hash(place)} << 32 | Hash(~place)) * (uint64_t{words[i]} * 2 + 1);
  }
  atomicAdd(sum, mine);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

std::vector<int32_t> Times(int count, int64_t value) {
  return std::vector<int32_t>(count, static_cast<int32_t>(value));
}

}  // namespace

Buffer DeviceZeros(size_t bytes) {
  void* data = nullptr;
  Check(cudaMalloc(&data, bytes), "cudaMalloc");
  Check(cudaMemset(data, 0, bytes), "cudaMemset");
  Check(cudaDeviceSynchronize(), "cudaMemset");
  return Buffer(data, bytes, [](void* memory, size_t) { Check(cudaFree(memory), "cudaFree"); });
}

void FillRandom(float* data, int64_t count, float low, float high) {
  Fill<<<kBlocks, kThreads>>>(data, count, low, high);
  CheckLaunch("Fill");
  Check(cudaDeviceSynchronize(), "Fill");
}

void FillRandomHalves(void* data, int64_t count) {
  FillHalves<<<kBlocks, kThreads>>>(static_cast<uint16_t*>(data), count);
  CheckLaunch("FillHalves");
  Check(cudaDeviceSynchronize(), "FillHalves");
}

Buffer DeviceRandom(int64_t count, float low, float high) {
  Buffer buffer = DeviceZeros(count * sizeof(float));
  FillRandom(buffer.as<float>(), count, low, high);
  return buffer;
}

Buffer DeviceCopy(const std::vector<int32_t>& values) {
  Buffer buffer = DeviceZeros(values.size() * sizeof(int32_t));
  Check(cudaMemcpy(buffer.data(), values.data(), buffer.bytes(), cudaMemcpyHostToDevice), "copy");
  return buffer;
}

BatchOf::BatchOf(const Load& load) {
  const int sequences = load.sequences;
  std::vector<int32_t> row_begin, slot, pages;
  for (int s = 0; s <= sequences; ++s) row_begin.push_back(s * load.rows);
  for (int s = 0; s < sequences; ++s) slot.push_back(s);
  batch.max_position = load.position + load.rows - 1;
  const int used = static_cast<int>(batch.max_position / kernels::kPageTokens + 1);
  if (used > kPagesOfSlot) kernels::cuda::Fail("BatchOf: pages", {used});
  // Neighbours in a sequence are no neighbours in memory.
  for (int s = 0; s < sequences; ++s) {
    for (int p = 0; p < used; ++p) pages.push_back(p * sequences + s);
  }
  row_begin_ = DeviceCopy(row_begin);
  slot_ = DeviceCopy(slot);
  pages_ = DeviceCopy(pages);
  position_ = DeviceCopy(Times(sequences, load.position));
  replay_ = DeviceCopy(Times(sequences, load.replay));
  fold_ = DeviceCopy(Times(sequences, load.fold));
  keep_from_ = DeviceCopy(Times(sequences, load.keep_from));
  keep_at_ = DeviceCopy(Times(sequences, load.keep_at));
  resume_ = DeviceCopy(Times(sequences, load.resume));
  batch.sequences = sequences;
  batch.rows = sequences * load.rows;
  batch.row_begin = row_begin_.as<int32_t>();
  batch.slot = slot_.as<int32_t>();
  batch.position = position_.as<int32_t>();
  batch.replay = replay_.as<int32_t>();
  batch.fold = fold_.as<int32_t>();
  batch.keep_from = keep_from_.as<int32_t>();
  batch.keep_at = keep_at_.as<int32_t>();
  batch.resume = resume_.as<int32_t>();
  batch.pages = pages_.as<int32_t>();
  batch.pages_per_sequence = used;
  batch.keeps_working = load.keeps_working;
}

int LayersOf(double bytes) { return static_cast<int>(std::clamp(2.5e8 / bytes, 2.0, 128.0)); }

KernelTimes::KernelTimes(std::string filter, bool checks_only)
    : filter_(std::move(filter)), checks_only_(checks_only) {
  Check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  if (checks_only) return;
  const size_t bytes = size_t{1} << 30;
  const Buffer from = DeviceZeros(bytes), to = DeviceZeros(bytes);
  copy_rate_ =
      2.0 * static_cast<double>(bytes) / Seconds([&] {
        Check(cudaMemcpyAsync(to.data(), from.data(), bytes, cudaMemcpyDeviceToDevice, stream_),
              "cudaMemcpyAsync");
      });
  std::printf("copy rate %.0f GB/s\n", copy_rate_ / 1e9);
}

KernelTimes::~KernelTimes() { cudaStreamDestroy(stream_); }

bool KernelTimes::Wants(const std::string& what) const {
  return what.find(filter_) != std::string::npos;
}

double KernelTimes::Seconds(const std::function<void()>& work) {
  cudaEvent_t begin, end;
  Check(cudaEventCreate(&begin), "cudaEventCreate");
  Check(cudaEventCreate(&end), "cudaEventCreate");
  std::vector<double> times;
  for (int i = 0; i < 9; ++i) {
    Check(cudaEventRecord(begin, stream_), "cudaEventRecord");
    work();
    Check(cudaEventRecord(end, stream_), "cudaEventRecord");
    Check(cudaEventSynchronize(end), "work that is timed");
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, begin, end), "cudaEventElapsedTime");
    if (i >= 2) times.push_back(milliseconds / 1000);
  }
  Check(cudaEventDestroy(begin), "cudaEventDestroy");
  Check(cudaEventDestroy(end), "cudaEventDestroy");
  return Median(times);
}

void KernelTimes::Time(const std::string& what, double bytes, double operations, int count,
                       const std::function<void(int)>& enqueue) {
  if (checks_only_ || !Wants(what)) return;
  cudaGraph_t graph;
  cudaGraphExec_t ready;
  Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), "capture");
  for (int i = 0; i < count; ++i) enqueue(i);
  Check(cudaStreamEndCapture(stream_, &graph), "capture");
  Check(cudaGraphInstantiate(&ready, graph, 0), "cudaGraphInstantiate");
  const double seconds =
      Seconds([&] { Check(cudaGraphLaunch(ready, stream_), "cudaGraphLaunch"); }) / count;
  Check(cudaGraphExecDestroy(ready), "cudaGraphExecDestroy");
  Check(cudaGraphDestroy(graph), "cudaGraphDestroy");
  const double roof = bytes / copy_rate_;
  std::printf("%-58s %9.2f us  bytes %8.2f us %4.0f %%", what.c_str(), seconds * 1e6, roof * 1e6,
              100 * roof / seconds);
  if (operations > 0) std::printf("  %6.2f TFLOP/s", operations / seconds * 1e-12);
  std::printf("\n");
  std::fflush(stdout);
}

void KernelTimes::Digest(const std::string& what, const std::function<void()>& enqueue,
                         const std::vector<Words>& words) {
  if (!Wants(what)) return;
  enqueue();
  const Buffer sum = DeviceZeros(sizeof(uint64_t));
  Check(cudaStreamSynchronize(stream_), "digest");
  uint64_t seed = 0;
  for (const Words& some : words) {
    AddWords<<<kBlocks, kThreads, 0, stream_>>>(static_cast<const uint32_t*>(some.data), some.count,
                                                seed, sum.as<unsigned long long>());
    CheckLaunch("AddWords");
    seed += some.count;
  }
  Check(cudaStreamSynchronize(stream_), "digest");
  uint64_t value = 0;
  Check(cudaMemcpy(&value, sum.data(), sizeof(value), cudaMemcpyDeviceToHost), "digest");
  std::printf("%-58s digest %016llx\n", what.c_str(), static_cast<unsigned long long>(value));
  std::fflush(stdout);
}

}  // namespace mambad::gpu_check
