// Parts of a RowsView, for backends that compose operations. Views of the same memory.

#ifndef MAMBAD_KERNELS_VIEW_PARTS_H_
#define MAMBAD_KERNELS_VIEW_PARTS_H_

#include <cstdint>

#include "kernels/tensor.h"

namespace mambad::kernels {

// Columns [begin, begin + columns) of a view.
inline RowsView Columns(const RowsView& view, int64_t begin, int64_t columns) {
  return {view.data + begin, view.rows, columns, view.stride};
}

inline RowsView FirstRows(const RowsView& view, int64_t rows) {
  return {view.data, rows, view.columns, view.stride};
}

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_VIEW_PARTS_H_
