#include <algorithm>

#include "kernels/cpu/training_layout.h"
#include "kernels/cpu/training_scan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/training_selective_scan.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/training_selective_scan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace {
// y = (sum + D x) SiLU(z)
template <typename T>
void FinishForward(const SelectiveScan& problem, const SelectiveBlock<T>& block, int64_t sequence,
                   const OutputRows& out, SelectiveChunk<T>& chunk) {
  const Lanes<T> d;
  for (int t = 0; t < chunk.tokens; ++t) {
    for (int lane = 0; lane < kBlock; lane += kLanesOf<T>) {
      auto y = hn::MulAdd(hn::Load(d, block.skip + lane), hn::Load(d, chunk.x[t] + lane),
                          hn::Load(d, chunk.y[t] + lane));
      if (problem.z.data != nullptr) {
        const auto z = hn::Load(d, chunk.z[t] + lane);
        y = hn::Mul(y, hn::Mul(z, Sigmoid(z)));
      }
      hn::Store(y, d, chunk.y[t] + lane);
    }
    const int64_t row = sequence * problem.batch.tokens + chunk.token + t;
    CopyNumbers(chunk.y[t], block.count, RowOf<T>(out, row) + block.channel);
  }
}

template <typename T>
void SelectiveForward(const SelectiveScan& problem, const OutputRows& out, void* checkpoints,
                      void* workspace, ThreadPool& pool) {
  const SelectivePlan plan(problem);
  const size_t bytes = cpu::SelectiveScratchBytes<T>(plan, false);
  const int64_t blocks = plan.parts * plan.blocks_per_part;
  pool.Split(problem.batch.sequences * blocks, 1, [&](int64_t begin, int64_t end, int thread) {
    Pieces pieces(static_cast<std::byte*>(workspace) + thread * bytes);
    SelectiveScratch<T> scratch(pieces, plan, false);
    SelectiveBlock<T> block;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t sequence = item / blocks, index = item % blocks;
      PrepareBlock(problem, plan, index / plan.blocks_per_part, index % plan.blocks_per_part,
                   scratch.a, block);
      if (block.count == 0) continue;
      SelectiveChunk<T> chunk;
      std::fill_n(scratch.state, plan.state, T{0});
      for (int64_t i = 0; i < plan.chunks; ++i) {
        if (checkpoints != nullptr) {
          std::copy_n(scratch.state, plan.state,
                      Checkpoint(plan, static_cast<T*>(checkpoints), sequence, block.index, i));
        }
        PrepareChunk(problem, block, sequence, i * kChunk, chunk);
        RunChunk<false, T>(block, problem.state_size, scratch.state, scratch.state, chunk, scratch);
        FinishForward(problem, block, sequence, out, chunk);
      }
    }
  });
}
}  // namespace

// What Highway dispatches to; names of this file alone.
void SelectiveForwardFloat(const SelectiveScan& problem, const OutputRows& y, void* checkpoints,
                           void* scratch, ThreadPool& pool) {
  SelectiveForward<float>(problem, y, checkpoints, scratch, pool);
}
void SelectiveForwardDouble(const SelectiveScan& problem, const OutputRows& y, void* checkpoints,
                            void* scratch, ThreadPool& pool) {
  SelectiveForward<double>(problem, y, checkpoints, scratch, pool);
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mambad::kernels {

HWY_EXPORT(SelectiveForwardFloat);
HWY_EXPORT(SelectiveForwardDouble);

namespace cpu {

TrainingWorkspaceBytes WorkspaceBytes(const SelectiveScan& problem, int threads) {
  return problem.batch.type == TrainingType::kFloat64 ? SelectiveWorkspace<double>(problem, threads)
                                                      : SelectiveWorkspace<float>(problem, threads);
}

const char* SelectiveScanForward(const SelectiveScan& problem, const OutputRows& y,
                                 void* checkpoints, void* scratch, ThreadPool& pool) {
  if (const char* wrong = CheckProblem(problem)) return wrong;
  if (y.data == nullptr || y.stride < problem.channels || scratch == nullptr) {
    return "selective scan: output or scratch absent, or stride too small";
  }
  switch (problem.batch.type) {
    case TrainingType::kFloat32:
      HWY_DYNAMIC_DISPATCH(SelectiveForwardFloat)(problem, y, checkpoints, scratch, pool);
      return nullptr;
    case TrainingType::kFloat64:
      HWY_DYNAMIC_DISPATCH(SelectiveForwardDouble)(problem, y, checkpoints, scratch, pool);
      return nullptr;
    case TrainingType::kBFloat16:
      break;
  }
  return "selective scan: the CPU has float and double only";
}

}  // namespace cpu
}  // namespace mambad::kernels
#endif  // HWY_ONCE
