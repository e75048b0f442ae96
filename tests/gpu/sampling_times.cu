// Times and digests of what happens to rows of logits, and of the gate of an MLP: kernel_times.h.

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "kernels/cuda/errors.h"
#include "kernels/cuda/gate.h"
#include "kernels/cuda/sampling.h"
#include "tests/gpu/kernel_times.h"

namespace mambad::gpu_check {
namespace {

using kernels::Buffer;
using kernels::RowsView;
using kernels::SamplingState;

struct Way {
  const char* name;
  float temperature = 0;
  int top_k = 0;
  float top_p = 1, min_p = 0;
  bool penalties = false;
};
constexpr Way kWays[] = {{"greedy"},
                         {"temperature 0.8", 0.8f},
                         {"top_k 40", 0.8f, 40},
                         {"top_p 0.9", 0.8f, 0, 0.9f},
                         {"top_k 40, top_p 0.9", 0.8f, 40, 0.9f},
                         {"penalties", 0, 0, 1, 0, true}};
struct Count {
  int sequences, drafts;
};
constexpr Count kCounts[] = {{1, 0}, {1, 4}, {8, 0}, {64, 0}, {64, 4}};
constexpr int kVocabularies[] = {50280, 128256};

// Windows of `drafts` and a row, of some sequences that are alike but for their seeds.
class Windows {
 public:
  Windows(const Way& way, const Count& count, int vocabulary)
      : rows_(count.sequences * (count.drafts + 1)),
        drafts_(count.drafts),
        vocabulary_(vocabulary),
        layers_(std::min(LayersOf(4.0 * rows_ * vocabulary), 64)) {
    const int sequences = count.sequences;
    logits_ = DeviceRandom(int64_t{rows_} * vocabulary * layers_, -8, 8);
    std::vector<SamplingState> states(sequences);
    std::vector<int32_t> slot, begin;
    for (int s = 0; s < sequences; ++s) {
      states[s].temperature = way.temperature;
      states[s].top_k = way.top_k;
      states[s].top_p = way.top_p;
      states[s].min_p = way.min_p;
      states[s].seed = s + 1;
      if (way.penalties) states[s].counts_row = s, states[s].repetition_penalty = 1.1f;
      slot.push_back(s);
      begin.push_back(s * (drafts_ + 1));
    }
    states_ = DeviceZeros(sequences * sizeof(SamplingState));
    kernels::cuda::Check(
        cudaMemcpy(states_.data(), states.data(), states_.bytes(), cudaMemcpyHostToDevice), "copy");
    counts_ = DeviceZeros(int64_t{sequences} * vocabulary * sizeof(int32_t));
    slot_ = DeviceCopy(slot);
    begin_ = DeviceCopy(begin);
    lengths_ = DeviceCopy(std::vector<int32_t>(sequences, drafts_));
    positions_ = DeviceCopy(std::vector<int32_t>(sequences, 100));
    limits_ = DeviceCopy(std::vector<int32_t>(sequences, 100));
    tokens_ = DeviceCopy(std::vector<int32_t>(rows_ + 1, 7));
    results_ = DeviceZeros(sequences * (kernels::kMaxWindowRows + 4) * sizeof(int32_t));
    tables_.states = states_.as<SamplingState>();
    tables_.counts = counts_.as<int32_t>();
    tables_.vocabulary = tables_.padded_vocabulary = vocabulary;
    request_.sequences = sequences;
    request_.slot = slot_.as<int32_t>();
    request_.logit_begin = request_.token_row = begin_.as<int32_t>();
    request_.draft_length = lengths_.as<int32_t>();
    request_.tokens = tokens_.as<int32_t>();
    request_.position = positions_.as<int32_t>();
    request_.limit = limits_.as<int32_t>();
    result_.accepted = results_.as<int32_t>();
    result_.kept = result_.accepted + sequences;
    result_.stopped = result_.kept + sequences;
    result_.tokens = result_.stopped + sequences;
    scratch_ = kernels::cuda::CreateSamplingScratch(sequences, rows_, vocabulary, DeviceZeros);
  }

  void Run(cudaStream_t stream, int i) {
    const int64_t numbers = int64_t{rows_} * vocabulary_;
    const RowsView logits{logits_.as<float>() + i * numbers, rows_, vocabulary_, vocabulary_};
    kernels::cuda::AcceptDrafts(stream, request_, tables_, logits, result_, scratch_, drafts_);
  }
  int layers() const { return layers_; }
  double LogitBytes() const { return 4.0 * rows_ * vocabulary_; }
  KernelTimes::Words Results() const {
    return {results_.data(), static_cast<int64_t>(results_.bytes() / 4)};
  }

 private:
  const int rows_, drafts_, vocabulary_, layers_;
  Buffer logits_, states_, counts_, slot_, begin_, lengths_, positions_, limits_, tokens_, results_;
  kernels::SamplingTables tables_;
  kernels::Acceptance request_;
  kernels::AcceptanceResult result_;
  kernels::cuda::SamplingScratch scratch_;
};

void TimeGates(KernelTimes& times) {
  constexpr int64_t kWidth = 14336, kMostRows = 2048;
  const std::string name = "gate 14336, rows ";
  if (!times.Wants(name)) return;
  const Buffer gate_and_up = DeviceRandom(kMostRows * 2 * kWidth, -2, 2);
  const Buffer out = DeviceZeros(kMostRows * kWidth * sizeof(float));
  for (const int64_t rows : {int64_t{1}, int64_t{8}, int64_t{64}, kMostRows}) {
    times.Time(name + std::to_string(rows), 12.0 * static_cast<double>(rows * kWidth), 0, 16,
               [&](int) {
                 kernels::cuda::SiluGate(times.stream(), nullptr,
                                         {gate_and_up.as<float>(), rows, 2 * kWidth, 2 * kWidth},
                                         {out.as<float>(), rows, kWidth, kWidth});
               });
  }
}

}  // namespace

void TimeSampling(KernelTimes& times) {
  for (const int vocabulary : kVocabularies) {
    for (const Way& way : kWays) {
      for (const Count& count : kCounts) {
        char line[128];
        std::snprintf(line, sizeof(line), "sampling %d: %d x %d %s", vocabulary, count.sequences,
                      count.drafts + 1, way.name);
        if (!times.Wants(line)) continue;
        Windows windows(way, count, vocabulary);
        times.Digest(line, [&] { windows.Run(times.stream(), 0); }, {windows.Results()});
        times.Time(line, windows.LogitBytes(), 0, windows.layers(),
                   [&](int i) { windows.Run(times.stream(), i); });
      }
    }
  }
  TimeGates(times);
}

}  // namespace mambad::gpu_check
