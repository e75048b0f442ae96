// What programs that time the serving kernels on a GPU have in common: memory filled on the device,
// a batch's arrays, times of a launch inside a graph beside the copy rate of the same run, and
// digests by which two builds are compared bit for bit.

#ifndef MAMBAD_TESTS_GPU_KERNEL_TIMES_H_
#define MAMBAD_TESTS_GPU_KERNEL_TIMES_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace mambad::gpu_check {

// Device memory, zeroed. Ends the process when there is none.
kernels::Buffer DeviceZeros(size_t bytes);
// Floats uniform in [low, high), the same at every run.
kernels::Buffer DeviceRandom(int64_t count, float low, float high);
// The same in memory that there is.
void FillRandom(float* data, int64_t count, float low, float high);
// bf16 numbers uniform in [-1, 1).
void FillRandomHalves(void* data, int64_t count);
kernels::Buffer DeviceCopy(const std::vector<int32_t>& values);

// Sequences of as many rows each, all at the same position, and what is said of each of them
// (kernels/backend.h: Batch). Sequence s has slot s and its pages behind one another.
struct Load {
  const char* name = "";
  int sequences = 1, rows = 1;
  int64_t position = 256;
  int replay = 0, fold = 1, keep_from = 1, keep_at = 0, resume = 0;
  bool keeps_working = false;
};
class BatchOf {
 public:
  explicit BatchOf(const Load& load);
  kernels::Batch batch;

 private:
  kernels::Buffer row_begin_, slot_, position_, replay_, fold_, keep_from_, keep_at_, resume_,
      pages_;
};

// One stream, and the machine's copy rate as measured on it.
class KernelTimes {
 public:
  // Only cases whose line contains `filter` are run. `checks_only`: digests, no times.
  KernelTimes(std::string filter, bool checks_only);
  ~KernelTimes();
  KernelTimes(const KernelTimes&) = delete;
  KernelTimes& operator=(const KernelTimes&) = delete;

  cudaStream_t stream() const { return stream_; }
  bool Wants(const std::string& what) const;

  // Prints one line: what a launch sequence takes, `bytes` that it must move at least (or
  // operations it must do), and the share of the roof. enqueue(i), 0 <= i < count, works on memory
  // of its own, so that nothing is found in the second cache.
  void Time(const std::string& what, double bytes, double operations, int count,
            const std::function<void(int)>& enqueue);
  // Prints one line: a digest of `count` words of device memory, after `enqueue`.
  struct Words {
    const void* data = nullptr;
    int64_t count = 0;
  };
  void Digest(const std::string& what, const std::function<void()>& enqueue,
              const std::vector<Words>& words);

 private:
  double Seconds(const std::function<void()>& work);

  cudaStream_t stream_ = nullptr;
  const std::string filter_;
  const bool checks_only_;
  double copy_rate_ = 0;
};

// As many layers as make the caches forget, each of which moves `bytes`.
int LayersOf(double bytes);

void TimeMamba(KernelTimes& times);
void TimeMamba2(KernelTimes& times);
void TimeAttention(KernelTimes& times);
void TimeSampling(KernelTimes& times);

}  // namespace mambad::gpu_check

#endif  // MAMBAD_TESTS_GPU_KERNEL_TIMES_H_
