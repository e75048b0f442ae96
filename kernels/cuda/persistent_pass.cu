#include <algorithm>
#include <cstring>
#include <vector>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/persistent_kernel.cuh"
#include "kernels/cuda/persistent_pass.h"

namespace mambad::kernels::cuda {
namespace {

// Measured on an H200: see FitPass.
constexpr int kRingPieces = 6, kInFlight = 3;

__global__ void __launch_bounds__(kPassThreads, 1)
    WalkPass(const __grid_constant__ PassProgram program) {
  extern __shared__ __align__(16) unsigned char memory[];
  WalkAll(program, memory);
}

void FreeDevice(void* data, size_t) { static_cast<void>(cudaFree(data)); }

// Parts of one piece of memory, one behind the other.
class Parts {
 public:
  template <typename T>
  size_t Add(const std::vector<T>& part) {
    const size_t at = (bytes_.size() + 15) / 16 * 16;
    bytes_.resize(at + part.size() * sizeof(T));
    if (!part.empty()) std::memcpy(bytes_.data() + at, part.data(), part.size() * sizeof(T));
    return at;
  }
  const std::vector<unsigned char>& bytes() const { return bytes_; }

 private:
  std::vector<unsigned char> bytes_;
};

}  // namespace

PassScratch CreatePassScratch(const WorkspaceShape& shape, const Allocate& allocate) {
  PassScratch scratch;
  scratch.max_inner = shape.max_inner;
  scratch.max_selection = shape.max_selection;
  const int64_t operands = Steps(shape.max_inner) * kPassRows * 4 * int64_t{sizeof(uint2)};
  scratch.x = allocate(std::max<int64_t>(operands, 16));
  scratch.gated = allocate(std::max<int64_t>(operands, 16));
  const int64_t selection = Panels(shape.max_selection) * kTileRows;
  scratch.parts =
      allocate(std::max<int64_t>(2 * kEighths * kPassRows * selection * sizeof(float), 16));
  return scratch;
}

PassLaunch PassLaunchOfDevice() {
  PassLaunch launch;
  int device = 0, cooperative = 0, shared = 0, blocks = 0, fit = 0;
  Check(cudaGetDevice(&device), "cudaGetDevice");
  const auto attribute = [&](cudaDeviceAttr which, int& value) {
    Check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  };
  attribute(cudaDevAttrCooperativeLaunch, cooperative);
  attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, shared);
  attribute(cudaDevAttrMultiProcessorCount, blocks);
  Check(cudaFuncSetAttribute(WalkPass, cudaFuncAttributeMaxDynamicSharedMemorySize, shared),
        "cudaFuncSetAttribute");
  Check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&fit, WalkPass, kPassThreads, shared),
        "cudaOccupancyMaxActiveBlocksPerMultiprocessor");
  launch.blocks = cooperative != 0 && fit > 0 ? blocks : 0;
  launch.shared = shared;
  return launch;
}

bool FitPass(const PassLaunch& launch, PassProgram& program) {
  const int pieces = launch.ring_pieces > 0 ? launch.ring_pieces : kRingPieces;
  for (program.ring_pieces = pieces; program.ring_pieces > 1; --program.ring_pieces) {
    program.place = PlaceMemory(program);
    if (program.place.end <= launch.shared) break;
  }
  const int in_flight = launch.in_flight > 0 ? launch.in_flight : kInFlight;
  program.in_flight = std::min(in_flight, program.ring_pieces);
  return program.ring_pieces > 1;
}

void LaunchPass(cudaStream_t stream, const PassLaunch& launch, const PassProgram& program) {
  cudaLaunchAttribute cooperative;
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(launch.blocks);
  config.blockDim = dim3(kPassThreads);
  config.dynamicSmemBytes = program.place.end;
  config.stream = stream;
  config.attrs = &cooperative;
  config.numAttrs = 1;
  Check(cudaLaunchKernelEx(&config, WalkPass, program), "a pass of few rows");
}

Buffer UploadPlan(const PassPlan& plan, PassProgram& program) {
  Parts parts;
  const size_t steps = parts.Add(plan.steps()), layers = parts.Add(plan.layers());
  const size_t expected = parts.Add(plan.expected());
  const size_t counts = parts.Add(std::vector<uint32_t>(plan.expected().size() + 1));
  const size_t bytes = parts.bytes().size();
  void* data = nullptr;
  if (cudaMalloc(&data, bytes) != cudaSuccess) {
    cudaGetLastError();
    return {};
  }
  Buffer memory(data, bytes, FreeDevice);
  cudaStream_t stream = nullptr;
  Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  Check(cudaMemcpyAsync(data, parts.bytes().data(), bytes, cudaMemcpyHostToDevice, stream),
        "a pass's steps");
  Check(cudaStreamSynchronize(stream), "a pass's steps");
  Check(cudaStreamDestroy(stream), "cudaStreamDestroy");
  unsigned char* const begin = memory.as<unsigned char>();
  program.steps = reinterpret_cast<const PassStep*>(begin + steps);
  program.layers = reinterpret_cast<const PassMamba*>(begin + layers);
  program.expected = reinterpret_cast<const uint32_t*>(begin + expected);
  program.counts = reinterpret_cast<uint32_t*>(begin + counts);
  return memory;
}

}  // namespace mambad::kernels::cuda
