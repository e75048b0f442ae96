#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/persistent_kernel.cuh"
#include "kernels/cuda/persistent_pass.h"

namespace mambad::kernels::cuda {
namespace {

// Pieces that each fetching thread has on their way: see PassProgram.
constexpr int kInFlight = 3;
// Of a ring: a panel's eighths come side by side.
constexpr int kLeastPieces = 9, kMostPieces = 42;
static_assert(kLeastPieces % kFetchers == 0 && kMostPieces % kFetchers == 0);

__global__ void __launch_bounds__(kPassThreads, 1)
    WalkPass(const __grid_constant__ PassProgram program) {
#if __CUDA_ARCH__ >= 900
  extern __shared__ __align__(128) unsigned char memory[];
  WalkAll(program, memory);
#endif
}

void FreeDevice(void* data, size_t) { static_cast<void>(cudaFree(data)); }

// Empty: there is no memory.
Buffer AllocateAside(size_t bytes) {
  void* data = nullptr;
  const cudaError_t error = cudaMalloc(&data, bytes);
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    return {};
  }
  Check(error, "a pass's memory");
  return Buffer(data, bytes, FreeDevice);
}
// On a stream of its own, for another one may be captured; waits for it.
template <typename Work>
void DoAside(const Work& work) {
  cudaStream_t stream = nullptr;
  Check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  Check(work(stream), "a pass's memory");
  Check(cudaStreamSynchronize(stream), "a pass's memory");
  Check(cudaStreamDestroy(stream), "cudaStreamDestroy");
}
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

int64_t MailBytes(const WorkspaceShape& shape) {
  if (shape.max_selection == 0) return 0;  // of Mamba-1 alone
  PassProgram program;
  program.rows = kPassRows;
  program.residual_steps = static_cast<int32_t>(Steps(shape.width));
  program.inner_steps = static_cast<int32_t>(Steps(shape.max_inner));
  program.select_stride = static_cast<int32_t>(Panels(shape.max_selection)) * kTileRows;
  return 2 * int64_t{PlaceMail(program).end} * kMailLayers + int64_t{sizeof(PassMailState)};
}

void EmptyMail(cudaStream_t stream, const Buffer& mail) {
  if (mail.bytes() < sizeof(PassMailState)) return;
  const size_t words = mail.bytes() - sizeof(PassMailState);
  Check(cudaMemsetAsync(mail.data(), 0xff, words, stream), "a pass's mail");
  Check(cudaMemsetAsync(mail.as<unsigned char>() + words, 0, sizeof(PassMailState), stream),
        "a pass's mail");
}

bool AddressMail(const Buffer& mail, PassProgram& program) {
  program.layer_mail = PlaceMail(program);
  const int64_t words = static_cast<int64_t>(mail.bytes()) - int64_t{sizeof(PassMailState)};
  if (words < 2 * int64_t{program.layer_mail.end} * kMailLayers) return false;
  program.mail = mail.as<unsigned char>();
  program.mail_set = words / 2;
  program.mail_state = reinterpret_cast<PassMailState*>(program.mail + words);
  return true;
}

PassLaunch PassLaunchOfDevice() {
  PassLaunch launch;
  int device = 0, major = 0, cooperative = 0, shared = 0, blocks = 0, fit = 0;
  Check(cudaGetDevice(&device), "cudaGetDevice");
  const auto attribute = [&](cudaDeviceAttr which, int& value) {
    Check(cudaDeviceGetAttribute(&value, which, device), "cudaDeviceGetAttribute");
  };
  attribute(cudaDevAttrComputeCapabilityMajor, major);
  if (major < 9) return launch;
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
  const int pieces = launch.ring_pieces > 0 ? launch.ring_pieces : kMostPieces;
  for (program.ring_pieces = pieces / kFetchers * kFetchers; program.ring_pieces >= kLeastPieces;
       program.ring_pieces -= kFetchers) {
    program.place = PlaceMemory(program);
    if (program.place.end <= launch.shared) break;
  }
  // Two whole panels' pieces side by side; of a part's pieces and those beside them, all but the
  // last come before any is free again.
  const int of_pair = 2 * kEighths;
  program.pair_cuts = program.ring_pieces >= 2 * of_pair ? 2
                      : program.ring_pieces >= of_pair   ? 1
                                                         : -1;
  const int most = program.ring_pieces / kFetchers;
  program.in_flight = std::min(launch.in_flight > 0 ? launch.in_flight : kInFlight, most);
  return program.ring_pieces >= kLeastPieces;
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
  const size_t bytes = parts.bytes().size();
  Buffer memory = AllocateAside(bytes);
  if (memory.data() == nullptr) return memory;
  DoAside([&](cudaStream_t stream) {
    return cudaMemcpyAsync(memory.data(), parts.bytes().data(), bytes, cudaMemcpyHostToDevice,
                           stream);
  });
  unsigned char* const begin = memory.as<unsigned char>();
  program.steps = reinterpret_cast<const PassStep*>(begin + steps);
  program.layers = reinterpret_cast<const PassLayer*>(begin + layers);
  return memory;
}

}  // namespace mambad::kernels::cuda
