// Mail of a pass is used again after kMailLayers layers: one warp of each block empties the places
// that its block wrote, once all have read them, and before it writes there again.
//
// When all squares before layer n + 2 are there, every output of layer n + 1 is, before which all
// mail of layer n was read. (Of layer n + 1 a selection may still be read, by the one block that
// keeps it behind its outputs.) A block sends nothing of layer n + 3 before it has seen them and
// emptied its places of layer n: so none looks for squares that were emptied already. Between this
// and what is sent lies most of a layer, and the fence costs nobody time.

#ifndef MAMBAD_KERNELS_CUDA_PERSISTENT_CLEAN_CUH_
#define MAMBAD_KERNELS_CUDA_PERSISTENT_CLEAN_CUH_

#include <cstdint>

#include "kernels/cuda/persistent_block.cuh"

namespace mambad::kernels::cuda {

class MailCleaner {
 public:
  __device__ __forceinline__ explicit MailCleaner(const PassBlock& block)
      : block_(block), lane_(threadIdx.x % kWarp) {}

  __device__ __forceinline__ void Walk() const {
    if (block_.there == 0 || !Sends()) return;
    for (int layer = 0; layer + kMailLayers - 1 <= block_.program.layer_count; ++layer) {
      AwaitSquares(layer + 2);
      Clean(layer);
      __threadfence();
      __syncwarp();
      if (lane_ == 0) Arrive(block_.Meeting(kMailCleaned + layer % kMailLayers));
    }
  }

 private:
  // All layers have the same units.
  __device__ __forceinline__ bool Sends() const {
    bool any = false;
    for (const int i : {kLayerChannels, kLayerSelect, kLayerOutput}) {
      const PassStep step = block_.Steps()[i];
      any = any || PassUnits(step).There(step);
    }
    return any;
  }
  __device__ __forceinline__ void AwaitSquares(int layer) const {
    const uint4* const squares = reinterpret_cast<const uint4*>(block_.Squares(layer, 0));
    const int count = block_.there * block_.program.residual_steps;
    for (int i = lane_; i < count; i += kWarp) {
      while (Missing(LoadFresh(squares + i))) __nanosleep(200);
    }
    __syncwarp();
  }
  // Operands of a panel's numbers are a step's, behind one another.
  __device__ __forceinline__ void Clean(int layer) const {
    const PassStep* const steps = block_.Steps() + layer * kLayerSteps;
    const int there = block_.there, count = there * 2;
    const PassStep channels = steps[kLayerChannels];
    for (PassUnits units(channels); units.There(channels); units.Advance(channels)) {
      Unset(block_.X(layer) + units.unit * there * 4, count);
      Unset(block_.Gated(layer) + units.unit * there * 4, count);
    }
    const PassStep select = steps[kLayerSelect];
    for (PassUnits units(select); units.There(select); units.Advance(select)) {
      float* const part =
          block_.Parts(layer, units.unit % kEighths) + units.Panel(select) * kTileRows;
      for (int row = 0; row < there; ++row) {
        Unset(part + row * block_.program.select_stride, kTileRows / 4);
      }
    }
    const PassStep output = steps[kLayerOutput];
    for (PassUnits units(output); units.There(output); units.Advance(output)) {
      Unset(block_.Residual(layer) + units.unit * there * 4, count);
      if (lane_ < there) {
        StoreFresh(reinterpret_cast<uint4*>(block_.Squares(layer, lane_)) + units.unit, Nothing());
      }
    }
  }
  __device__ __forceinline__ static uint4 Nothing() { return {kUnset, kUnset, kUnset, kUnset}; }
  __device__ __forceinline__ void Unset(void* begin, int count) const {
    for (int i = lane_; i < count; i += kWarp)
      StoreFresh(static_cast<uint4*>(begin) + i, Nothing());
  }

  const PassBlock& block_;
  const int lane_;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_CLEAN_CUH_
