// A multiplying warp's weights on their way: a ring of pieces in shared memory, filled in the order
// in which the warp will multiply them, across products, layers and exchanges, for weights wait for
// nobody. A lane copies what it will read itself: 16 bytes of each tile, its part of the left
// operand.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_RING_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_RING_CUH_

#include <cstdint>

#include "kernels/cuda/linear_kernels.cuh"
#include "kernels/cuda/packing.cuh"
#include "kernels/cuda/persistent_program.cuh"
#include "kernels/cuda/persistent_sync.cuh"
#include "kernels/cuda/ptx.cuh"

namespace mambad::kernels::cuda {

// The units of a product that are block `block`'s, and of those the stretch of tiles that warp
// `warp` multiplies.
struct PassUnits {
  int unit = 0, round = 0;

  __device__ PassUnits(const PassStep& step, int block, int blocks) : round(step.first_round) {
    const int first = block - step.offset;
    unit = (first < 0 ? first + blocks : first) + round * blocks;
  }
  __device__ bool There(const PassStep& step) const {
    return round < step.end_round && unit < step.units;
  }
  __device__ void Advance(int blocks) { ++round, unit += blocks; }
  __device__ int Panel(const PassStep& step) const {
    return step.split == PassSplit::kEighth ? unit / kEighths : unit;
  }
  __device__ bool OfWarp(const PassStep& step, int warp) const {
    if (step.split == PassSplit::kEighth) return unit % kEighths == warp;
    return step.split == PassSplit::kPanel || round % kEighths == warp;
  }
};
// Steps [begin, end) of a panel that are warp `warp`'s.
__device__ __forceinline__ int PassBegin(const PassStep& step, int warp) {
  return step.split == PassSplit::kWarp ? 0 : EighthBegin(step.steps, warp);
}
__device__ __forceinline__ int PassEnd(const PassStep& step, int warp) {
  return step.split == PassSplit::kWarp ? step.steps : EighthBegin(step.steps, warp + 1);
}

class WeightRing {
 public:
  // `pieces`, `arrivals`: of this warp, in shared memory. All lanes of the warp call everything.
  __device__ WeightRing(const PassProgram& program, unsigned char* pieces, uint64_t* arrivals)
      : pieces_(reinterpret_cast<uint4*>(pieces) + threadIdx.x % kWarp),
        arrivals_(arrivals),
        count_(program.ring_pieces),
        most_in_flight_(program.in_flight),
        warp_(threadIdx.x / kWarp),
        next_(program.steps),
        end_(program.steps + program.step_count),
        step_(*program.steps),
        units_(step_, blockIdx.x, gridDim.x) {
    ++next_;
    FindStretch();
  }

  // Asks for pieces while there is room for them, and few enough are on their way.
  __device__ void Fill() {
    while (AskForPiece()) {
    }
  }

  // sums += the next `steps` tiles of this warp times operands, [steps][rows][4]; `there`: rows of
  // operands that are to be read; others count as zeros.
  __device__ void Multiply(int steps, const uint2* operands, int rows, int there,
                           float (&sums)[4]) {
    MultiplyEach(steps, operands, rows, there, sums, [](int) {});
  }
  // The same; before(i) is called before tile i.
  template <typename Before>
  __device__ void MultiplyEach(int steps, const uint2* operands, int rows, int there,
                               float (&sums)[4], const Before& before) {
    const int lane = threadIdx.x % kWarp;
    const bool present = lane / 4 < there;
    const uint2* operand = operands + lane;  // token lane / 4, pair lane % 4
    const int apart = rows * 4;
    for (int from = 0; from < steps; from += kRingSteps) {
      uint2 right[kRingSteps];
      uint4 left[kRingSteps];
#pragma unroll
      for (int i = 0; i < kRingSteps; ++i) {
        right[i] = {};
        if (present && from + i < steps) right[i] = operand[i * apart];
      }
      operand += kRingSteps * apart;
      Await();
      const uint4* const tiles = pieces_ + use_ * (kRingSteps * kWarp);
#pragma unroll
      for (int i = 0; i < kRingSteps; ++i) {
        if (from + i < steps) left[i] = tiles[i * kWarp];
      }
#pragma unroll
      for (int i = 0; i < kRingSteps; ++i) {
        if (from + i < steps) {
          before(from + i);
          MultiplyAdd(left[i], right[i], sums);
        }
      }
      Release();
      Fill();
    }
  }

 private:
  // The piece that is used next has come.
  __device__ void Await() {
    while (landed_ == 0) {
      if (NextHasCome()) Landed();
    }
  }
  // The same for all lanes.
  __device__ bool NextHasCome() {
    return __all_sync(0xffffffffu, TurnedOver(arrivals_ + land_, land_parity_)) != 0;
  }
  __device__ void Landed() {
    --in_flight_, ++landed_;
    if (++land_ == count_) land_ = 0, land_parity_ ^= 1;
  }
  __device__ void Release() {
    --landed_;
    if (++use_ == count_) use_ = 0;
  }

  // False: no weights are left, or no room, or enough on their way.
  __device__ bool AskForPiece() {
    if (left_ == 0 || landed_ + in_flight_ == count_) return false;
    while (in_flight_ > 0 && in_flight_ >= most_in_flight_) {
      if (!NextHasCome()) return false;
      Landed();
    }
    uint4* const to = pieces_ + ask_ * (kRingSteps * kWarp);
#pragma unroll
    for (int i = 0; i < kRingSteps; ++i) {
      if (i < left_) CopyAsync(to + i * kWarp, from_ + i * kWarp, true);
    }
    ArriveWithCopies(arrivals_ + ask_);
    ++in_flight_;
    if (++ask_ == count_) ask_ = 0;
    from_ += kRingSteps * kWarp;
    left_ -= kRingSteps;
    if (left_ <= 0) {
      units_.Advance(gridDim.x);
      FindStretch();
    }
    return true;
  }

  // From units_ on, the next one with tiles for this warp; left_ 0: there is none.
  __device__ void FindStretch() {
    left_ = 0;
    while (true) {
      for (; units_.There(step_); units_.Advance(gridDim.x)) {
        if (!units_.OfWarp(step_, warp_)) continue;
        const int begin = PassBegin(step_, warp_);
        left_ = PassEnd(step_, warp_) - begin;
        if (left_ == 0) continue;
        from_ = step_.weights + (int64_t{units_.Panel(step_)} * step_.steps + begin) * kWarp +
                threadIdx.x % kWarp;
        return;
      }
      if (next_ == end_) return;
      step_ = *next_++;
      units_ = PassUnits(step_, blockIdx.x, gridDim.x);
    }
  }

  uint4* const pieces_;  // this lane's place in each tile
  uint64_t* const arrivals_;
  const int count_, most_in_flight_, warp_;

  int ask_ = 0, land_ = 0, use_ = 0;  // pieces that are next
  uint32_t land_parity_ = 0;
  int in_flight_ = 0, landed_ = 0;

  // What is asked for next.
  const PassStep *next_, *end_;
  PassStep step_;
  PassUnits units_;
  const uint4* from_ = nullptr;
  int left_ = 0;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_RING_CUH_
