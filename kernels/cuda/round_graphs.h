// Rounds on a stream: those of prompts as they are described; those that decode as CUDA graphs, one
// a shape, made from the first description. And what the last round took.

#ifndef MAMBAD_KERNELS_CUDA_ROUND_GRAPHS_H_
#define MAMBAD_KERNELS_CUDA_ROUND_GRAPHS_H_

#include <cuda_runtime.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "kernels/backend.h"
#include "kernels/buffer.h"

namespace mambad::kernels::cuda {

class RoundGraphs {
 public:
  // Of at most `most` shapes graphs are kept; for one more the one that was used least recently
  // goes. `stream` outlives this.
  RoundGraphs(cudaStream_t stream, int most);
  ~RoundGraphs();
  RoundGraphs(const RoundGraphs&) = delete;
  RoundGraphs& operator=(const RoundGraphs&) = delete;

  // As the calls of Backend. While a round that decodes is described for the first time, the stream
  // is captured: nothing may be done on it but launches.
  bool Begin(const RoundShape& shape);
  void BeginVerify();
  void End();
  // Whether what is launched now becomes part of a graph.
  bool captures() const { return state_ == State::kCaptured; }
  // Memory that the graph at hand needs for as long as it lives; in a round that is captured.
  void Keep(Buffer memory) { kept_.push_back(std::move(memory)); }
  // How many drafts a sequence of the round at hand has at most, as far as its shape says.
  int LongestDraft() const {
    const bool decodes = state_ != State::kOutside && shape_.kind == RoundKind::kDecode;
    return decodes ? shape_.draft_length : kMaxWindowRows;
  }

  RecordedRounds Counts() const { return {recordings_, static_cast<int>(recorded_.size())}; }

  // Of the last round, whose end was waited for. The times begin when the device reaches the round:
  // what the host takes to start its parts counts where the device waits for it.
  RoundTimes Times() const;

 private:
  struct Recorded {
    RoundShape shape;
    cudaGraphExec_t graph = nullptr;
    bool verifies = false;  // BeginVerify is among the calls
    int64_t last_used = 0;
    std::vector<Buffer> memory;  // that the graph's launches need
  };

  enum class State : uint8_t { kOutside, kDirect, kCaptured, kKnown };

  Recorded* Find(const RoundShape& shape);
  // An entry without a graph.
  Recorded& Place(const RoundShape& shape);
  void Launch(Recorded& recorded);

  const cudaStream_t stream_;
  const size_t most_;
  std::vector<Recorded> recorded_;
  int64_t rounds_ = 0;
  int64_t recordings_ = 0;  // made so far

  State state_ = State::kOutside;
  RoundShape shape_;             // of the round at hand
  Recorded* current_ = nullptr;  // kKnown
  bool verifies_ = false;        // of the round at hand, or the last one
  std::vector<Buffer> kept_;     // kCaptured
  cudaEvent_t begin_ = nullptr, verify_ = nullptr, end_ = nullptr;
};

}  // namespace mambad::kernels::cuda

#endif  // MAMBAD_KERNELS_CUDA_ROUND_GRAPHS_H_
