#include <algorithm>
#include <cstring>
#include <utility>
#include <vector>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/persistent_kernel.cuh"
#include "kernels/cuda/persistent_pass.h"

namespace mambad::kernels::cuda {
namespace {

// Of 32 KB a block. On an H200 3 to 10 pieces of 16 KB, and 2 to 10 on their way, were within 7 %.
constexpr int kRingPieces = 3, kInFlight = 2;

__global__ void __launch_bounds__(kPassThreads, 1)
    WalkPass(const __grid_constant__ PassProgram program) {
  extern __shared__ __align__(16) unsigned char memory[];
  WalkAll(program, memory);
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
void SetAside(void* data, int byte, size_t bytes) {
  DoAside([&](cudaStream_t stream) { return cudaMemsetAsync(data, byte, bytes, stream); });
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

bool AddressMail(PassMailbox& mailbox, PassProgram& program) {
  program.layer_mail = PlaceMail(program);
  PassProgram most = program;
  most.rows = kPassRows;
  // One more layer, for what is brought near ahead of time.
  const int64_t set_bytes = int64_t{PlaceMail(most).end} * (program.layer_count + 2);
  if (set_bytes > mailbox.set_bytes) {
    Buffer memory = AllocateAside(2 * set_bytes + sizeof(PassMailState));
    if (memory.data() == nullptr) return false;
    SetAside(memory.data(), 0xff, 2 * set_bytes);
    SetAside(memory.as<unsigned char>() + 2 * set_bytes, 0, sizeof(PassMailState));
    mailbox.memory.push_back(std::move(memory));
    mailbox.set_bytes = set_bytes;
  }
  program.mail = mailbox.memory.back().as<unsigned char>();
  program.mail_set = mailbox.set_bytes;
  program.mail_state = reinterpret_cast<PassMailState*>(program.mail + 2 * program.mail_set);
  return true;
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
  const size_t bytes = parts.bytes().size();
  Buffer memory = AllocateAside(bytes);
  if (memory.data() == nullptr) return memory;
  DoAside([&](cudaStream_t stream) {
    return cudaMemcpyAsync(memory.data(), parts.bytes().data(), bytes, cudaMemcpyHostToDevice,
                           stream);
  });
  unsigned char* const begin = memory.as<unsigned char>();
  program.steps = reinterpret_cast<const PassStep*>(begin + steps);
  program.layers = reinterpret_cast<const PassMamba*>(begin + layers);
  return memory;
}

}  // namespace mambad::kernels::cuda
