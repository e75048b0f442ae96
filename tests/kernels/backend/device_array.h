// Memory of a backend, and how numbers come there and back: by Allocate, Write, Read and
// Synchronize only. No test looks into backend memory in another way.

#ifndef MAMBAD_TESTS_KERNELS_BACKEND_DEVICE_ARRAY_H_
#define MAMBAD_TESTS_KERNELS_BACKEND_DEVICE_ARRAY_H_

#include <algorithm>
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/backend.h"
#include "kernels/buffer.h"
#include "kernels/tensor.h"

namespace mambad::kernels {

using Row = std::vector<float>;
using Rows = std::vector<Row>;

template <typename T>
class DeviceArray {
 public:
  DeviceArray(Backend& backend, int64_t count)
      : backend_(&backend),
        count_(count),
        memory_(backend.Allocate(std::max<int64_t>(count, 1) * sizeof(T))) {}
  DeviceArray(Backend& backend, const std::vector<T>& values)
      : DeviceArray(backend, static_cast<int64_t>(values.size())) {
    Write(values);
  }

  T* data() const { return memory_.as<T>(); }
  int64_t size() const { return count_; }

  void Write(const std::vector<T>& values, int64_t at = 0) {
    ASSERT_LE(at + static_cast<int64_t>(values.size()), count_);
    if (values.empty()) return;  // which has no address
    backend_->Write(data() + at, values.data(), values.size() * sizeof(T));
    backend_->Synchronize();
  }
  std::vector<T> Read() const { return Read(0, count_); }
  std::vector<T> Read(int64_t at, int64_t count) const {
    std::vector<T> values(count);
    backend_->Read(values.data(), data() + at, count * sizeof(T));
    backend_->Synchronize();
    return values;
  }

 private:
  Backend* backend_;
  int64_t count_;
  Buffer memory_;
};

// The first `count` rows of a view.
inline Rows ReadRows(Backend& backend, const RowsView& view, int64_t count) {
  if (count == 0) return {};
  Row block((count - 1) * view.stride + view.columns);
  backend.Read(block.data(), view.data, block.size() * sizeof(float));
  backend.Synchronize();
  Rows rows;
  for (int64_t r = 0; r < count; ++r) {
    const auto begin = block.begin() + r * view.stride;
    rows.emplace_back(begin, begin + view.columns);
  }
  return rows;
}

// Numbers for the first rows of a view, [.., columns]; what lies between rows stays as it is.
inline void WriteRows(Backend& backend, const RowsView& view, const Row& numbers) {
  const int64_t count = static_cast<int64_t>(numbers.size()) / view.columns;
  if (count == 0) return;
  Row block((count - 1) * view.stride + view.columns);
  if (view.stride != view.columns) {
    backend.Read(block.data(), view.data, block.size() * sizeof(float));
    backend.Synchronize();
  }
  for (int64_t r = 0; r < count; ++r) {
    std::copy_n(numbers.begin() + r * view.columns, view.columns, block.begin() + r * view.stride);
  }
  backend.Write(view.data, block.data(), block.size() * sizeof(float));
  backend.Synchronize();
}

}  // namespace mambad::kernels

#endif  // MAMBAD_TESTS_KERNELS_BACKEND_DEVICE_ARRAY_H_
