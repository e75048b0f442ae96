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
    const PassStep select = block_.Step(kLayerSelect);
    for (int layer = 0; layer + kMailLayers - 1 <= block_.program.layer_count; ++layer) {
      AwaitSquares(layer + 2);
      Clean(layer, select);
      __threadfence();
      __syncwarp();
      if (lane_ == 0) Arrive(block_.Meeting(kMailCleaned + layer % kMailLayers));
    }
  }

 private:
  __device__ __forceinline__ bool Sends() const {
    const PassStep select = block_.Step(kLayerSelect);
    return block_.channel_rounds > 0 || block_.output_rounds > 0 || PassUnits(select).There(select);
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
  __device__ __forceinline__ void Clean(int layer, const PassStep& select) const {
    const int there = block_.there;
    for (int round = 0; round < block_.channel_rounds; ++round) {
      UnsetOperands(block_.Channels(round), block_.X(layer));
      UnsetOperands(block_.Channels(round), block_.Gated(layer));
    }
    for (PassUnits units(select); units.There(select); units.Advance(select)) {
      float* const part =
          block_.Parts(layer, units.unit % kEighths) + units.Panel(select) * kTileRows;
      for (int row = 0; row < there; ++row) {
        Unset(part + row * block_.program.select_stride, kTileRows / 4);
      }
    }
    for (int round = 0; round < block_.output_rounds; ++round) {
      const PassPart part = block_.Outputs(round);
      UnsetOperands(part, block_.Residual(layer));
      if (lane_ / 4 < there && part.HasPair(lane_ % 4)) {
        uint32_t* const squares =
            reinterpret_cast<uint32_t*>(block_.Squares(layer, lane_ / 4) + part.unit);
        StoreFresh(squares + lane_ % 4, kUnset);
      }
    }
  }
  // A panel's operands among those of all panels: a row has a lane's eight words.
  __device__ __forceinline__ void UnsetOperands(const PassPart& part, uint2* operands) const {
    uint32_t* const begin = reinterpret_cast<uint32_t*>(operands + part.unit * block_.there * 4);
    for (int i = lane_; i < block_.there * 8; i += kWarp) {
      if (part.HasPair(i % 8 / 2)) StoreFresh(begin + i, kUnset);
    }
  }
  __device__ __forceinline__ void Unset(void* begin, int count) const {
    for (int i = lane_; i < count; i += kWarp) {
      StoreFresh(static_cast<uint4*>(begin) + i, uint4{kUnset, kUnset, kUnset, kUnset});
    }
  }

  const PassBlock& block_;
  const int lane_;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_PERSISTENT_CLEAN_CUH_
