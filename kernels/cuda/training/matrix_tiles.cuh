// Tiles of 16-bit numbers in shared memory, on their way from device memory and into the matrix
// units (mma m16n8k16, bf16 in, fp32 sums).

#ifndef MAMBAD_KERNELS_CUDA_TRAINING_MATRIX_TILES_CUH_
#define MAMBAD_KERNELS_CUDA_TRAINING_MATRIX_TILES_CUH_

#include <cuda_bf16.h>

#include <cstdint>

namespace mambad::kernels::cuda {

// Rows of kColumns (64 or more). Each eight numbers of a row lie in a place that depends on the
// row, so that the same columns of neighbouring rows are in different banks.
template <int kRows, int kColumns>
struct alignas(128) MatrixTile {
  __nv_bfloat16 numbers[kRows * kColumns];

  __device__ static unsigned Place(unsigned row, unsigned column) {
    return row * kColumns + ((column >> 3 ^ (row & 7)) << 3) + (column & 7);
  }
  __device__ __nv_bfloat16* At(unsigned row, unsigned column) {
    return numbers + Place(row, column);
  }
  __device__ const __nv_bfloat16* At(unsigned row, unsigned column) const {
    return numbers + Place(row, column);
  }
};

__device__ inline unsigned SharedAddress(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

// Copies 16 bytes when the copies are waited for, or writes zeros.
__device__ inline void CopyAsync(void* to, const void* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)), "l"(from),
               "r"(present ? 16 : 0));
}
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;"); }
__device__ inline void WaitForCopies() { asm volatile("cp.async.wait_group 0;" ::: "memory"); }

// Four 8 by 8 matrices; lane l names row l % 8 of matrix l / 8.
__device__ inline void LoadMatrices(const __nv_bfloat16* row, unsigned (&matrices)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(SharedAddress(row))
               : "memory");
}
__device__ inline void LoadTransposed(const __nv_bfloat16* row, unsigned (&matrices)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
               : "r"(SharedAddress(row))
               : "memory");
}

// Left operand, 16 by 16, from a tile that holds it row by row: [row, column].
template <typename Tile>
__device__ void LoadLeft(const Tile& tile, unsigned row, unsigned column, unsigned (&left)[4]) {
  const unsigned lane = threadIdx.x % 32;
  LoadMatrices(tile.At(row + lane % 16, column + lane / 16 * 8), left);
}
// The same from a tile that holds it column by column: tile row is the operand's column.
template <typename Tile>
__device__ void LoadLeftTransposed(const Tile& tile, unsigned row, unsigned column,
                                   unsigned (&left)[4]) {
  const unsigned lane = threadIdx.x % 32;
  LoadTransposed(tile.At(column + lane % 8 + lane / 16 * 8, row + lane / 8 % 2 * 8), left);
}
// Two right operands side by side, 16 by 8 each, from a tile that holds column after column: tile
// row is the operand's column. right[0..1] and right[2..3].
template <typename Tile>
__device__ void LoadRight(const Tile& tile, unsigned row, unsigned column, unsigned (&right)[4]) {
  const unsigned lane = threadIdx.x % 32;
  LoadMatrices(tile.At(column + lane % 8 + lane / 16 * 8, row + lane / 8 % 2 * 8), right);
}
// The same from a tile that holds row after row.
template <typename Tile>
__device__ void LoadRightTransposed(const Tile& tile, unsigned row, unsigned column,
                                    unsigned (&right)[4]) {
  const unsigned lane = threadIdx.x % 32;
  LoadTransposed(tile.At(row + lane % 16, column + lane / 16 * 8), right);
}

// sums += left right. A thread of lane l has rows l / 4 and l / 4 + 8, columns l % 4 * 2 and the
// next: sums[0..1] of the first row, sums[2..3] of the second.
__device__ inline void MultiplyAdd(const unsigned (&left)[4], unsigned right0, unsigned right1,
                                   float (&sums)[4]) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
      "{%8, %9}, {%0, %1, %2, %3};"
      : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
      : "r"(left[0]), "r"(left[1]), "r"(left[2]), "r"(left[3]), "r"(right0), "r"(right1));
}

__device__ inline unsigned PackPair(__nv_bfloat162 pair) {
  return *reinterpret_cast<unsigned*>(&pair);
}
__device__ inline float2 UnpackPair(unsigned bits) {
  return __bfloat1622float2(*reinterpret_cast<__nv_bfloat162*>(&bits));
}

// Two floats as pairs of bf16 that add up to them: one is good to 2^-9, two to 2^-17, three to
// 2^-25.
template <int kParts>
struct SplitPair {
  unsigned parts[kParts];
};
template <int kParts>
__device__ SplitPair<kParts> Split(float first, float second) {
  SplitPair<kParts> split;
#pragma unroll
  for (int i = 0; i < kParts; ++i) {
    const __nv_bfloat162 rounded = __floats2bfloat162_rn(first, second);
    const float2 kept = __bfloat1622float2(rounded);
    first -= kept.x;
    second -= kept.y;
    split.parts[i] = PackPair(rounded);
  }
  return split;
}

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_TRAINING_MATRIX_TILES_CUH_
