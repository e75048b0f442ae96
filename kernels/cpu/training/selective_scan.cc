#include <algorithm>

#include "kernels/cpu/training/layout.h"
#include "kernels/cpu/training/scan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/training/selective_scan.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/training/selective_scan-inl.h"

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
                      void* scratches, ThreadPool& pool) {
  const SelectivePlan plan(problem);
  pool.Split(problem.batch.sequences * plan.items, 1, [&](int64_t begin, int64_t end, int thread) {
    auto scratch = cpu::ScratchOf<SelectiveMemory<T>>(thread, scratches, plan, false);
    SelectiveBlock<T> block;
    for (int64_t item = begin; item < end; ++item) {
      const int64_t sequence = item / plan.items, index = item % plan.items;
      PrepareBlock(problem, plan, index / plan.blocks_per_part, index % plan.blocks_per_part,
                   scratch.a, block);
      if (block.count == 0) continue;
      SelectiveChunk<T> chunk;
      std::fill_n(scratch.state, plan.state, T{0});
      for (int64_t i = 0; i < plan.chunks; ++i) {
        if (checkpoints != nullptr) {
          std::copy_n(scratch.state, plan.state,
                      Checkpoint(plan, static_cast<T*>(checkpoints), sequence, index, i));
        }
        PrepareChunk(problem, block, sequence, i * kChunk, chunk);
        RunChunk<false, T>(block, problem.state_size, scratch.state, scratch.state, chunk, scratch);
        FinishForward(problem, block, sequence, out, chunk);
      }
    }
  });
}
}  // namespace

// What Highway dispatches to; a name of this file alone.
void RunSelectiveForward(const SelectiveScan& problem, const OutputRows& y, void* checkpoints,
                         void* scratch, ThreadPool& pool) {
  const auto run = problem.batch.type == TrainingType::kFloat64 ? SelectiveForward<double>
                                                                : SelectiveForward<float>;
  run(problem, y, checkpoints, scratch, pool);
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mambad::kernels {

HWY_EXPORT(RunSelectiveForward);

namespace cpu {

TrainingWorkspaceBytes WorkspaceBytes(const SelectiveScan& problem, int threads) {
  return problem.batch.type == TrainingType::kFloat64
             ? Workspace<SelectiveMemory<double>>(problem, threads)
             : Workspace<SelectiveMemory<float>>(problem, threads);
}

const char* SelectiveScanForward(const SelectiveScan& problem, const OutputRows& y,
                                 void* checkpoints, void* scratch, ThreadPool& pool) {
  if (const char* wrong = CheckProblem(problem)) return wrong;
  if (y.data == nullptr || y.stride < problem.channels || scratch == nullptr) {
    return "selective scan: output or scratch absent, or stride too small";
  }
  if (!HasType(problem.batch)) return "selective scan: the CPU has float and double only";
  HWY_DYNAMIC_DISPATCH(RunSelectiveForward)(problem, y, checkpoints, scratch, pool);
  return nullptr;
}

}  // namespace cpu
}  // namespace mambad::kernels
#endif  // HWY_ONCE
