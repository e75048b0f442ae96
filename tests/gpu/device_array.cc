#include "tests/gpu/device_array.h"

#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>

namespace mambad::gpu_check {
namespace {

constexpr int64_t kGuard = 64;  // elements behind the last row

void Must(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(status));
  std::exit(2);
}

std::mt19937_64& Generator() {
  static std::mt19937_64 generator(20);
  return generator;
}

uint16_t HalfBits(double value) {
  const float single = static_cast<float>(value);
  uint32_t bits;
  std::memcpy(&bits, &single, 4);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

double HalfValue(uint16_t half) {
  const uint32_t bits = uint32_t{half} << 16;
  float single;
  std::memcpy(&single, &bits, 4);
  return single;
}

void Encode(Type type, double value, uint8_t* to) {
  const auto put = [to](auto number) { std::memcpy(to, &number, sizeof(number)); };
  switch (type) {
    case Type::kFloat:
      return put(static_cast<float>(value));
    case Type::kHalf:
      return put(HalfBits(value));
    case Type::kDouble:
      return put(value);
    case Type::kLong:
      return put(static_cast<int64_t>(value));
    case Type::kByte:
      return put(static_cast<uint8_t>(value));
  }
}

double Decode(Type type, const uint8_t* from) {
  const auto get = [from](auto number) {
    std::memcpy(&number, from, sizeof(number));
    return number;
  };
  switch (type) {
    case Type::kFloat:
      return get(0.0f);
    case Type::kHalf:
      return HalfValue(get(uint16_t{0}));
    case Type::kDouble:
      return get(0.0);
    case Type::kLong:
      return static_cast<double>(get(int64_t{0}));
    case Type::kByte:
      return get(uint8_t{0});
  }
  return 0;
}

}  // namespace

size_t TypeBytes(Type type) {
  switch (type) {
    case Type::kFloat:
      return 4;
    case Type::kHalf:
      return 2;
    case Type::kByte:
      return 1;
    default:
      return 8;
  }
}

double Round(double value, Type type) {
  uint8_t bytes[8];
  Encode(type, value, bytes);
  return Decode(type, bytes);
}

DeviceMemory::DeviceMemory(size_t bytes) : bytes_(bytes) {
  Must(cudaMalloc(&data_, bytes == 0 ? 1 : bytes), "cudaMalloc");
  Poison();
}

DeviceMemory::~DeviceMemory() { cudaFree(data_); }

void DeviceMemory::Poison() { Must(cudaMemset(data_, 0xff, bytes_), "cudaMemset"); }

void DeviceMemory::Write(const void* from) {
  Must(cudaMemcpy(data_, from, bytes_, cudaMemcpyHostToDevice), "copy to the device");
}

std::vector<uint8_t> DeviceMemory::Read() const {
  std::vector<uint8_t> bytes(bytes_);
  Must(cudaMemcpy(bytes.data(), data_, bytes_, cudaMemcpyDeviceToHost), "copy from the device");
  return bytes;
}

Array::Array(Type type, int64_t rows, int64_t columns, int64_t stride)
    : type_(type),
      rows_(rows),
      columns_(columns),
      stride_(stride == 0 ? columns : stride),
      memory_(std::make_shared<DeviceMemory>((rows * stride_ + kGuard) * TypeBytes(type))) {}

Array Array::Random(Type type, int64_t rows, int64_t columns, double scale, double offset,
                    int64_t stride) {
  Array array(type, rows, columns, stride);
  std::normal_distribution<double> normal;
  for (int64_t i = 0; i < rows * columns; ++i) {
    array.values_.push_back(Round(offset + scale * normal(Generator()), type));
  }
  array.Restore();
  return array;
}

Array Array::Of(Type type, const Numbers& values) {
  Array array(type, 1, static_cast<int64_t>(values.size()));
  for (const double value : values) array.values_.push_back(Round(value, type));
  array.Restore();
  return array;
}

Array Array::OfLongs(const std::vector<int64_t>& values) {
  return Of(Type::kLong, Numbers(values.begin(), values.end()));
}

Array Array::OfBytes(const std::vector<uint8_t>& values) {
  return Of(Type::kByte, Numbers(values.begin(), values.end()));
}

void Array::Restore() const {
  std::vector<uint8_t> bytes(memory_->bytes(), 0xff);
  const size_t size = TypeBytes(type_);
  for (int64_t i = 0; i < rows_ * columns_; ++i) {
    Encode(type_, values_[i], bytes.data() + (i / columns_ * stride_ + i % columns_) * size);
  }
  memory_->Write(bytes.data());
}

Numbers Array::Read(bool* intact) const {
  const std::vector<uint8_t> bytes = memory_->Read();
  const size_t size = TypeBytes(type_);
  Numbers values(rows_ * columns_);
  for (size_t place = 0; place * size < bytes.size(); ++place) {
    const int64_t row = static_cast<int64_t>(place) / stride_, column = place % stride_;
    if (row < rows_ && column < columns_) {
      values[row * columns_ + column] = Decode(type_, bytes.data() + place * size);
    } else {
      for (size_t i = 0; i < size; ++i) *intact = *intact && bytes[place * size + i] == 0xff;
    }
  }
  return values;
}

void Launch(const char* error) {
  if (error == nullptr) return;
  std::fprintf(stderr, "a kernel refused: %s\n", error);
  std::exit(2);
}

void Synchronize() { Must(cudaDeviceSynchronize(), "the device"); }

double RelativeError(const Numbers& a, const Numbers& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return norm == 0 ? std::sqrt(difference) : std::sqrt(difference / norm);
}

void Report::Check(const std::string& name, const std::vector<Output>& outputs,
                   const std::function<void()>& run) {
  std::vector<std::vector<uint8_t>> first;
  for (int pass = 0; pass < 2; ++pass) {
    for (const Output& output : outputs) {
      output.restored ? output.array.Restore() : output.array.memory().Poison();
    }
    Synchronize();
    run();
    Synchronize();
    for (size_t i = 0; pass == 0 && i < outputs.size(); ++i) {
      first.push_back(outputs[i].array.memory().Read());
    }
  }
  for (size_t i = 0; i < outputs.size(); ++i) {
    const Output& output = outputs[i];
    bool intact = true;
    const double error = RelativeError(output.array.Read(&intact), output.expected);
    const bool repeats = output.array.memory().Read() == first[i];
    const bool right = error <= output.tolerance;  // false for what is not a number
    ++checks_;
    const bool fine = right && intact && repeats;
    if (!fine) ++failures_;
    if (!fine || verbose) {
      std::printf("%s %s: %s: relative error %.2e (at most %.0e)%s%s\n", fine ? "  ok  " : "WRONG ",
                  name.c_str(), output.name.c_str(), error, output.tolerance,
                  intact ? "" : ", wrote outside of its rows",
                  repeats ? "" : ", not the same bits twice");
    }
  }
}

}  // namespace mambad::gpu_check
