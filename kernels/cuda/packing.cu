#include <algorithm>
#include <thread>
#include <vector>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/packing.cuh"
#include "kernels/cuda/packing.h"

namespace mambad::kernels::cuda {
namespace {

constexpr int64_t kPieceBytes = int64_t{16} << 20;
constexpr int kThreads = 256;

// Row-major rows [first, first + count) to their places.
__global__ void PlaceBfloat16(const uint16_t* rows, int64_t first, int64_t count, int64_t columns,
                              uint16_t* packed) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count * columns) return;
  packed[TilePlace(Steps(columns), first + i / columns, i % columns)] = rows[i];
}

__global__ void PlaceFloat32(const float* rows, int64_t first, int64_t count, int64_t columns,
                             float* packed) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count * columns) return;
  packed[FloatPlace(Quads(columns), first + i / columns, i % columns)] = rows[i];
}

// Rows [begin, end) of the matrix, by several threads.
template <typename T, typename Source>
void Deliver(const Source& source, int64_t begin, int64_t end, int64_t columns, T* out) {
  const int64_t most = std::min<int64_t>(8, std::max(1u, std::thread::hardware_concurrency()));
  const int64_t threads = std::min(end - begin, (end - begin) * columns < 65536 ? 1 : most);
  std::vector<std::jthread> others;
  for (int64_t i = 0; i < threads; ++i) {
    const int64_t from = begin + (end - begin) * i / threads;
    const int64_t to = begin + (end - begin) * (i + 1) / threads;
    const auto deliver = [=, &source] { source(from, to, out + (from - begin) * columns); };
    if (i + 1 < threads) {
      others.emplace_back(deliver);
    } else {
      deliver();
    }
  }
}

template <typename T, typename Source, typename Place>
void BringOver(int64_t rows, int64_t columns, const Source& source, const Place& place,
               const Allocate& allocate, cudaStream_t stream, T* packed) {
  const int64_t piece_rows =
      std::min(rows, std::max<int64_t>(1, kPieceBytes / (columns * int64_t{sizeof(T)})));
  std::vector<T> host(piece_rows * columns);
  const Buffer device = allocate(host.size() * sizeof(T));
  for (int64_t begin = 0; begin < rows; begin += piece_rows) {
    const int64_t end = std::min(rows, begin + piece_rows), count = (end - begin) * columns;
    Deliver(source, begin, end, columns, host.data());
    Check(cudaMemcpyAsync(device.data(), host.data(), count * sizeof(T), cudaMemcpyHostToDevice,
                          stream),
          "PackMatrix");
    Launch("PackMatrix", stream, dim3((count + kThreads - 1) / kThreads), dim3(kThreads), 0, place,
           device.as<const T>(), begin, end - begin, columns, packed);
    Check(cudaStreamSynchronize(stream), "PackMatrix");
  }
}

}  // namespace

int64_t PackedBytes(int64_t rows, int64_t columns, ElementType type) {
  if (type == ElementType::kBFloat16) return Panels(rows) * Steps(columns) * kTileBytes;
  if (type != ElementType::kFloat32) Fail("PackedBytes: type", {static_cast<int64_t>(type)});
  return FloatPanels(rows) * Quads(columns) * int64_t{kFloatPanelRows * kQuad * sizeof(float)};
}

WeightMatrix PackMatrix(int64_t rows, int64_t columns, ElementType type, const MatrixSource& source,
                        const Allocate& allocate, cudaStream_t stream) {
  WeightMatrix matrix;
  matrix.rows = rows;
  matrix.columns = columns;
  matrix.type = type;
  if (rows <= 0 || columns <= 0) Fail("PackMatrix", {rows, columns});
  matrix.packed = allocate(PackedBytes(rows, columns, type));
  if (type == ElementType::kBFloat16) {
    BringOver(rows, columns, source.bfloat16, PlaceBfloat16, allocate, stream,
              matrix.packed.as<uint16_t>());
  } else {
    BringOver(rows, columns, source.float32, PlaceFloat32, allocate, stream,
              matrix.packed.as<float>());
  }
  return matrix;
}

}  // namespace mambad::kernels::cuda
