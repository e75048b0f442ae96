// Element types and non-owning views of backend memory.

#ifndef MAMBAD_KERNELS_TENSOR_H_
#define MAMBAD_KERNELS_TENSOR_H_

#include <cstddef>
#include <cstdint>

namespace mambad::kernels {

enum class ElementType : uint8_t { kFloat32, kBFloat16, kInt32 };

constexpr size_t ElementBytes(ElementType type) { return type == ElementType::kBFloat16 ? 2 : 4; }

// A matrix of float32 activations in backend memory: row r begins at data + r * stride. Non-owning.
struct RowsView {
  float* data = nullptr;
  int64_t rows = 0, columns = 0;
  int64_t stride = 0;  // elements from one row to the next; >= columns

  float* row(int64_t r) const { return data + r * stride; }
};

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_TENSOR_H_
