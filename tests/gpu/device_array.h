// Arrays that live on the host in double and on the device in float, bf16 or integers, and the
// comparison of what a kernel wrote with what it should have written.

#ifndef MAMBAD_TESTS_GPU_DEVICE_ARRAY_H_
#define MAMBAD_TESTS_GPU_DEVICE_ARRAY_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/gpu/training_reference.h"

namespace mambad::gpu_check {

enum class Type { kFloat, kHalf, kDouble, kLong, kByte };  // kHalf: bf16

size_t TypeBytes(Type type);

// Rounded as the type rounds.
double Round(double value, Type type);

// Device memory, at first filled with 0xff: not a number in either float type. Ends the process
// when there is none.
class DeviceMemory {
 public:
  explicit DeviceMemory(size_t bytes);
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;
  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  void Poison();
  void Write(const void* from);
  std::vector<uint8_t> Read() const;

 private:
  size_t bytes_;
  void* data_ = nullptr;
};

// [rows, columns] with a stride and some guard elements behind the last row.
class Array {
 public:
  Array(Type type, int64_t rows, int64_t columns, int64_t stride = 0);
  static Array Random(Type type, int64_t rows, int64_t columns, double scale, double offset = 0,
                      int64_t stride = 0);
  static Array Of(Type type, const Numbers& values);
  static Array OfLongs(const std::vector<int64_t>& values);
  static Array OfBytes(const std::vector<uint8_t>& values);

  void* data() const { return memory_->data(); }
  float* floats() const { return static_cast<float*>(data()); }
  int64_t stride() const { return stride_; }
  const Numbers& values() const { return values_; }  // as written, rounded
  DeviceMemory& memory() const { return *memory_; }

  // What the device has now, [rows, columns]; *intact: the gaps between rows are still poisoned.
  Numbers Read(bool* intact) const;
  // Writes the host's values again.
  void Restore() const;

 private:
  Type type_;
  int64_t rows_, columns_, stride_;
  Numbers values_;
  std::shared_ptr<DeviceMemory> memory_;
};

// Ends the process unless a call of a kernel returned null.
void Launch(const char* error);
// Ends the process when the device has met an error.
void Synchronize();

// Counts and prints what failed.
class Report {
 public:
  // `run` queues a kernel that writes `outputs`. Runs it twice over poisoned outputs: both times
  // the same bits, within `tolerance` (relative L2) of what is expected, gaps untouched. `inputs`
  // that are also outputs are restored before each run.
  struct Output {
    std::string name;
    Array array;
    Numbers expected;
    double tolerance;
    bool restored = false;  // an input too
  };
  void Check(const std::string& name, const std::vector<Output>& outputs,
             const std::function<void()>& run);

  int checks() const { return checks_; }
  int failures() const { return failures_; }
  bool verbose = false;

 private:
  int checks_ = 0, failures_ = 0;
};

// || a - b || / || b ||; not a number where a is not.
double RelativeError(const Numbers& a, const Numbers& b);

}  // namespace mambad::gpu_check

#endif  // MAMBAD_TESTS_GPU_DEVICE_ARRAY_H_
