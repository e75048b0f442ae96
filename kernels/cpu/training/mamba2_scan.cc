#include <algorithm>

#include "kernels/cpu/training/layout.h"
#include "kernels/cpu/training/scan.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu/training/mamba2_scan.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/cpu/training/mamba2_scan-inl.h"

HWY_BEFORE_NAMESPACE();
namespace mambad::kernels::HWY_NAMESPACE {
namespace {
template <typename T>
struct ForwardTiles {
  const Mamba2Plan& plan;
  const Mamba2Chunk<T>& chunk;
  const Mamba2Scratch<T>& scratch;

  template <int kRowCount, int kVectors>
  void Run(int64_t row, int64_t column) const {
    RunTile<kRowCount, kVectors, T>(plan, chunk, scratch, row, column, scratch.state, scratch.state,
                                    nullptr, scratch.y);
  }
};

template <typename T>
void HeadForward(const Mamba2Scan& problem, const Mamba2Plan& plan, const OutputRows& out,
                 T* checkpoints, Mamba2Scratch<T>& scratch, Mamba2Chunk<T>& chunk) {
  const int64_t p = problem.head_width;
  std::fill_n(scratch.state, plan.state, T{0});
  for (int64_t i = 0; i < plan.chunks; ++i) {
    if (checkpoints != nullptr) {
      std::copy_n(scratch.state, plan.state,
                  Checkpoint(plan, checkpoints, chunk.sequence, chunk.head, i));
    }
    PrepareChunk(problem, plan, i * kChunk, chunk, scratch);
    std::fill_n(scratch.y, chunk.tokens * plan.width, T{0});
    EachTile<kForwardVectors<T>, T>(plan, p, ForwardTiles<T>{plan, chunk, scratch});
    for (int t = 0; t < chunk.tokens; ++t) {
      const int64_t row = chunk.sequence * problem.batch.tokens + chunk.token + t;
      T* to = RowOf<T>(out, row) + chunk.head * p;
      AddProducts(T{1}, scratch.y + t * plan.width, chunk.skip, chunk.x[t], p, to);
    }
  }
}

template <typename T>
void Mamba2Forward(const Mamba2Scan& problem, const OutputRows& out, void* checkpoints,
                   void* scratches, ThreadPool& pool) {
  const Mamba2Plan plan(problem);
  pool.Split(problem.batch.sequences * plan.items, 1, [&](int64_t begin, int64_t end, int thread) {
    auto scratch = cpu::ScratchOf<Mamba2Memory<T>>(thread, scratches, plan, false);
    Mamba2Chunk<T> chunk;
    for (int64_t item = begin; item < end; ++item) {
      PrepareHead(problem, item / plan.items, item % plan.items, chunk);
      HeadForward(problem, plan, out, static_cast<T*>(checkpoints), scratch, chunk);
    }
  });
}
}  // namespace

// What Highway dispatches to; a name of this file alone.
void RunMamba2Forward(const Mamba2Scan& problem, const OutputRows& y, void* checkpoints,
                      void* scratch, ThreadPool& pool) {
  const auto run =
      problem.batch.type == TrainingType::kFloat64 ? Mamba2Forward<double> : Mamba2Forward<float>;
  run(problem, y, checkpoints, scratch, pool);
}

}  // namespace mambad::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace mambad::kernels {

HWY_EXPORT(RunMamba2Forward);

namespace cpu {

TrainingWorkspaceBytes WorkspaceBytes(const Mamba2Scan& problem, int threads) {
  return problem.batch.type == TrainingType::kFloat64
             ? Workspace<Mamba2Memory<double>>(problem, threads)
             : Workspace<Mamba2Memory<float>>(problem, threads);
}

const char* Mamba2ScanForward(const Mamba2Scan& problem, const OutputRows& y, void* checkpoints,
                              void* scratch, ThreadPool& pool) {
  if (const char* wrong = CheckProblem(problem)) return wrong;
  if (y.data == nullptr || y.stride < problem.heads * problem.head_width || scratch == nullptr) {
    return "Mamba-2 scan: output or scratch absent, or stride too small";
  }
  if (!HasType(problem.batch)) return "Mamba-2 scan: the CPU has float and double only";
  HWY_DYNAMIC_DISPATCH(RunMamba2Forward)(problem, y, checkpoints, scratch, pool);
  return nullptr;
}

}  // namespace cpu
}  // namespace mambad::kernels
#endif  // HWY_ONCE
