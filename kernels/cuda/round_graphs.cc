#include "kernels/cuda/round_graphs.h"

#include <algorithm>
#include <utility>

#include "kernels/cuda/errors.h"

namespace mambad::kernels::cuda {

RoundGraphs::RoundGraphs(cudaStream_t stream, int most) : stream_(stream), most_(most) {
  recorded_.reserve(most_);
  for (cudaEvent_t* event : {&begin_, &verify_, &end_}) {
    Check(cudaEventCreate(event), "cudaEventCreate");
    // So that times can be asked for before the first round.
    Check(cudaEventRecord(*event, stream_), "cudaEventRecord");
  }
}

RoundGraphs::~RoundGraphs() {
  for (const Recorded& recorded : recorded_) cudaGraphExecDestroy(recorded.graph);
  for (const cudaEvent_t event : {begin_, verify_, end_}) cudaEventDestroy(event);
}

bool RoundGraphs::Begin(const RoundShape& shape) {
  if (state_ != State::kOutside) Fail("BeginRound inside a round", {});
  shape_ = shape;
  verifies_ = false;
  if (shape.kind == RoundKind::kPrompts) {
    state_ = State::kDirect;
    Check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
    return true;
  }
  current_ = Find(shape);
  if (current_ != nullptr) {
    state_ = State::kKnown;
    return false;
  }
  state_ = State::kCaptured;
  // Relaxed: a kernel that runs for the first time may be loaded in between.
  Check(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeRelaxed), "cudaStreamBeginCapture");
  return true;
}

void RoundGraphs::BeginVerify() {
  switch (state_) {
    case State::kOutside:
      return;
    case State::kKnown:
      Fail("BeginVerify in a round that was known", {});
    case State::kDirect:
      Check(cudaEventRecord(verify_, stream_), "cudaEventRecord");
      break;
    case State::kCaptured:  // becomes a part of the graph that records the event every time
      Check(cudaEventRecordWithFlags(verify_, stream_, cudaEventRecordExternal),
            "cudaEventRecordWithFlags");
      break;
  }
  verifies_ = true;
}

void RoundGraphs::End() {
  switch (state_) {
    case State::kOutside:
      Fail("EndRound without BeginRound", {});
    case State::kDirect:
      Check(cudaEventRecord(end_, stream_), "cudaEventRecord");
      break;
    case State::kKnown:
      Launch(*current_);
      break;
    case State::kCaptured: {
      cudaGraph_t graph = nullptr;
      Check(cudaStreamEndCapture(stream_, &graph), "cudaStreamEndCapture");
      Recorded& recorded = Place(shape_);
      recorded.verifies = verifies_;
      ++recordings_;
      recorded.memory = std::exchange(kept_, {});
      Check(cudaGraphInstantiate(&recorded.graph, graph, 0), "cudaGraphInstantiate");
      Check(cudaGraphDestroy(graph), "cudaGraphDestroy");
      // Its own way to the device is no part of the round's time.
      Check(cudaGraphUpload(recorded.graph, stream_), "cudaGraphUpload");
      Launch(recorded);
      break;
    }
  }
  state_ = State::kOutside;
}

RoundTimes RoundGraphs::Times() const {
  const auto seconds = [](cudaEvent_t from, cudaEvent_t to) {
    float milliseconds = 0;
    Check(cudaEventElapsedTime(&milliseconds, from, to), "cudaEventElapsedTime");
    return std::max(double{milliseconds}, 0.0) * 1e-3;
  };
  RoundTimes times;
  times.whole = seconds(begin_, end_);
  if (verifies_) times.draft = seconds(begin_, verify_);
  times.verify = verifies_ ? seconds(verify_, end_) : times.whole;
  times.whole = std::max(times.whole, times.draft + times.verify);  // each of them is rounded
  return times;
}

RoundGraphs::Recorded* RoundGraphs::Find(const RoundShape& shape) {
  const auto found = std::find_if(recorded_.begin(), recorded_.end(),
                                  [&](const Recorded& r) { return r.shape == shape; });
  return found == recorded_.end() ? nullptr : &*found;
}

RoundGraphs::Recorded& RoundGraphs::Place(const RoundShape& shape) {
  Recorded* place = nullptr;
  if (recorded_.size() < most_) {
    place = &recorded_.emplace_back();
  } else {
    place = &*std::min_element(
        recorded_.begin(), recorded_.end(),
        [](const Recorded& a, const Recorded& b) { return a.last_used < b.last_used; });
    // One that still runs is freed when it is done.
    Check(cudaGraphExecDestroy(place->graph), "cudaGraphExecDestroy");
  }
  *place = {};
  place->shape = shape;
  return *place;
}

void RoundGraphs::Launch(Recorded& recorded) {
  recorded.last_used = ++rounds_;
  verifies_ = recorded.verifies;
  Check(cudaEventRecord(begin_, stream_), "cudaEventRecord");
  Check(cudaGraphLaunch(recorded.graph, stream_), "cudaGraphLaunch");
  Check(cudaEventRecord(end_, stream_), "cudaEventRecord");
}

}  // namespace mambad::kernels::cuda
