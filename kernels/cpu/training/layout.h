// Where the numbers of a training operation stand on the CPU: rows of activations, pieces of a
// workspace, and how the scans cut their work. Not for callers.

#ifndef MAMBAD_KERNELS_CPU_TRAINING_LAYOUT_H_
#define MAMBAD_KERNELS_CPU_TRAINING_LAYOUT_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/thread_pool.h"
#include "kernels/training_scan.h"

namespace mambad::kernels::cpu {

// Tokens between two states that the forward pass keeps: Mamba-2's states are many times larger
// than its rows, Mamba-1's are not.
inline constexpr int kSelectiveChunk = 16;
inline constexpr int kMamba2Chunk = 64;

// Numbers that run together: lanes of the widest vector, and what every row of a state is padded
// to.
inline constexpr int kTrainingLanes = 16;

// Work items between two barriers of a backward pass: enough for the threads to share them evenly.
inline constexpr int64_t kItemsTogether = 16;

inline int64_t CeilDivide(int64_t number, int64_t divisor) {
  return (number + divisor - 1) / divisor;
}

// float or double, all that the CPU has.
inline bool HasType(const TrainingBatch& batch) {
  return batch.type == TrainingType::kFloat32 || batch.type == TrainingType::kFloat64;
}

inline bool BeginsDocument(const TrainingBatch& batch, int64_t sequence, int64_t token) {
  return token == 0 || (batch.document_start != nullptr &&
                        batch.document_start[sequence * batch.tokens + token] != 0);
}

template <typename T>
const T* RowOf(const InputRows& rows, int64_t row) {
  return static_cast<const T*>(rows.data) + row * rows.stride;
}

template <typename T>
T* RowOf(const OutputRows& rows, int64_t row) {
  return static_cast<T*>(rows.data) + row * rows.stride;
}

// Hands out aligned pieces of a workspace. From null it only counts.
class Pieces {
 public:
  explicit Pieces(void* base) : base_(static_cast<std::byte*>(base)) {}

  template <typename T>
  T* Take(int64_t count) {
    std::byte* piece = base_ == nullptr ? nullptr : base_ + bytes_;
    bytes_ += (static_cast<size_t>(count) * sizeof(T) + 63) / 64 * 64;
    return reinterpret_cast<T*>(piece);
  }

  size_t bytes() const { return bytes_; }

 private:
  std::byte* base_;
  size_t bytes_ = 0;
};

// A problem's sums over channels and sequences are cut into parts that do not depend on the
// threads. For each sequence, each part of the channels (Mamba-1) or heads (Mamba-2) sums its own
// gradients of B and C; the parts of a group are then added in their order. `together` sequences go
// between two barriers.
struct SelectivePlan {
  explicit SelectivePlan(const SelectiveScan& problem) {
    constexpr int64_t kPartChannels = 128;
    group_width = problem.channels / problem.groups;
    parts_per_group = CeilDivide(group_width, kPartChannels);
    part_width = std::min(group_width, kPartChannels);
    parts = problem.groups * parts_per_group;
    blocks_per_part = CeilDivide(part_width, kTrainingLanes);
    items = parts * blocks_per_part;
    chunks = CeilDivide(problem.batch.tokens, kSelectiveChunk);
    state = problem.state_size * kTrainingLanes;
    together = std::min(problem.batch.sequences, CeilDivide(kItemsTogether, parts));
  }

  int64_t group_width, parts_per_group, part_width, parts;
  int64_t blocks_per_part;  // blocks of 16 channels; those of a group's last part may be fewer
  int64_t items;            // of a sequence, each with a state of its own: blocks
  int64_t chunks, state, together;
};

struct Mamba2Plan {
  explicit Mamba2Plan(const Mamba2Scan& problem) {
    constexpr int64_t kPartHeads = 2;
    group_heads = problem.heads / problem.groups;
    parts_per_group = CeilDivide(group_heads, kPartHeads);
    part_heads = std::min(group_heads, kPartHeads);
    parts = problem.groups * parts_per_group;
    items = problem.heads;
    columns = CeilDivide(problem.state_size, kTrainingLanes) * kTrainingLanes;
    width = CeilDivide(problem.head_width, 4) * 4;
    chunks = CeilDivide(problem.batch.tokens, kMamba2Chunk);
    state = problem.head_width * columns;
    together = std::min(problem.batch.sequences, CeilDivide(kItemsTogether, parts));
  }

  int64_t group_heads, parts_per_group, part_heads, parts;
  int64_t items;           // of a sequence, each with a state of its own: heads
  int64_t columns, width;  // N and P, padded
  int64_t chunks, state, together;
};

// Where the forward pass keeps an item's state before a chunk.
template <typename T, typename Plan>
T* Checkpoint(const Plan& plan, T* checkpoints, int64_t sequence, int64_t item, int64_t chunk) {
  return checkpoints + ((sequence * plan.items + item) * plan.chunks + chunk) * plan.state;
}

// ---- workspaces

// A thread's own memory; [N, 16] each, or as many of them as said.
template <typename T>
struct SelectiveScratch {
  SelectiveScratch(Pieces& pieces, const SelectivePlan& plan, bool backward) {
    a = pieces.Take<T>(plan.state);
    state = pieces.Take<T>(plan.state);
    if (!backward) return;
    a_gradient = pieces.Take<T>(plan.state);
    states = pieces.Take<T>(plan.state * kSelectiveChunk);
    decays = pieces.Take<T>(plan.state * kSelectiveChunk);
  }

  T* a;
  T* state;  // backward: the gradient of the state, on its way to earlier tokens
  T *a_gradient = nullptr, *states = nullptr, *decays = nullptr;
};

// What the parts of a backward pass sum for themselves, for the sequences between two barriers.
template <typename T>
struct SelectivePartial {
  SelectivePartial(Pieces& pieces, const SelectiveScan& problem, const SelectivePlan& plan) {
    const int64_t channels = plan.together * problem.channels;
    b = pieces.Take<T>(plan.together * plan.parts * problem.batch.tokens * problem.state_size);
    c = pieces.Take<T>(plan.together * plan.parts * problem.batch.tokens * problem.state_size);
    a_log = pieces.Take<T>(channels * problem.state_size);
    skip = pieces.Take<T>(channels);
    dt_bias = pieces.Take<T>(channels);
  }

  T *b, *c;                   // [together, parts, tokens, N]
  T *a_log, *skip, *dt_bias;  // [together, I, N], [together, I]
};

// A thread's own memory. One head's rows of a chunk, [64, N] and [64, P], both padded with zeros.
template <typename T>
struct Mamba2Scratch {
  Mamba2Scratch(Pieces& pieces, const Mamba2Plan& plan, bool backward) {
    b = pieces.Take<T>(kMamba2Chunk * plan.columns);
    c = pieces.Take<T>(kMamba2Chunk * plan.columns);
    input = pieces.Take<T>(kMamba2Chunk * plan.width);
    y = pieces.Take<T>(kMamba2Chunk * plan.width);
    state = pieces.Take<T>(plan.state);
    if (!backward) return;
    through_b = pieces.Take<T>(kMamba2Chunk * plan.width);
    states = pieces.Take<T>(kMamba2Chunk * kMostTogether);
  }

  static constexpr int kMostTogether = 4 * 4 * kTrainingLanes;  // numbers of the state in registers

  T *b, *c;
  T* input;                // dt x
  T* y;                    // backward: its gradient
  T* state;                // [P, N]; backward: its gradient, on its way to earlier tokens
  T* through_b = nullptr;  // sum over n of dS B
  T* states = nullptr;     // after each token: the numbers that run together
};

// What the parts of a backward pass sum for themselves, for the sequences between two barriers.
template <typename T>
struct Mamba2Partial {
  Mamba2Partial(Pieces& pieces, const Mamba2Scan& problem, const Mamba2Plan& plan) {
    const int64_t rows = plan.together * problem.batch.tokens;
    b = pieces.Take<T>(rows * plan.parts * plan.columns);
    c = pieces.Take<T>(rows * plan.parts * plan.columns);
    const bool shared = problem.source_heads < problem.heads;
    x = pieces.Take<T>(shared ? rows * problem.heads * problem.head_width : 0);
    parameters = pieces.Take<T>(plan.together * 3 * problem.heads);
  }

  T *b, *c;       // [together, parts, tokens, N padded]
  T* x;           // [together, heads, tokens, P]; only where heads share their x
  T* parameters;  // [together, 3, heads]: A_log, D, dt_bias
};

// The types of a scan over numbers of type T.
template <typename T, typename PlanOf, template <typename> typename ScratchFor,
          template <typename> typename PartialFor>
struct ScanMemory {
  using Number = T;
  using Plan = PlanOf;
  using Scratch = ScratchFor<T>;
  using Partial = PartialFor<T>;
};
template <typename T>
using SelectiveMemory = ScanMemory<T, SelectivePlan, SelectiveScratch, SelectivePartial>;
template <typename T>
using Mamba2Memory = ScanMemory<T, Mamba2Plan, Mamba2Scratch, Mamba2Partial>;

template <typename Memory>
size_t ScratchBytes(const typename Memory::Plan& plan, bool backward) {
  Pieces count(nullptr);
  typename Memory::Scratch(count, plan, backward);
  return count.bytes();
}

// A thread's scratch; those of all threads lie side by side.
template <typename Memory>
typename Memory::Scratch ScratchOf(int thread, void* scratches, const typename Memory::Plan& plan,
                                   bool backward) {
  Pieces pieces(static_cast<std::byte*>(scratches) + thread * ScratchBytes<Memory>(plan, backward));
  return typename Memory::Scratch(pieces, plan, backward);
}

template <typename Memory, typename Problem>
TrainingWorkspaceBytes Workspace(const Problem& problem, int threads) {
  const typename Memory::Plan plan(problem);
  Pieces partial(nullptr);
  typename Memory::Partial(partial, problem, plan);
  const int64_t kept = problem.batch.sequences * plan.items * plan.chunks * plan.state;
  return {static_cast<size_t>(kept) * sizeof(typename Memory::Number),
          threads * ScratchBytes<Memory>(plan, false),
          partial.bytes() + threads * ScratchBytes<Memory>(plan, true)};
}

// Runs a backward pass: run(partial, sequence, slot, part, scratch) for each part of each sequence,
// where `slot` is the sequence's place between two barriers, then gather(partial, first, count) for
// the sequences between them.
template <typename Memory, typename Problem, typename Run, typename Gather>
void RunParts(const Problem& problem, const typename Memory::Plan& plan, void* workspace,
              ThreadPool& pool, const Run& run, const Gather& gather) {
  Pieces pieces(workspace);
  const typename Memory::Partial partial(pieces, problem, plan);
  std::byte* scratches = static_cast<std::byte*>(workspace) + pieces.bytes();
  for (int64_t first = 0; first < problem.batch.sequences; first += plan.together) {
    const int64_t count = std::min(plan.together, problem.batch.sequences - first);
    pool.Split(count * plan.parts, 1, [&](int64_t begin, int64_t end, int thread) {
      auto scratch = ScratchOf<Memory>(thread, scratches, plan, true);
      for (int64_t item = begin; item < end; ++item) {
        const int64_t slot = item / plan.parts;
        run(partial, first + slot, slot, item % plan.parts, scratch);
      }
    });
    gather(partial, first, count);
  }
}

}  // namespace mambad::kernels::cpu

#endif  // MAMBAD_KERNELS_CPU_TRAINING_LAYOUT_H_
