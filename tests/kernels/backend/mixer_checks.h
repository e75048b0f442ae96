// The checks that every mixer passes.

#ifndef MAMBAD_TESTS_KERNELS_BACKEND_MIXER_CHECKS_H_
#define MAMBAD_TESTS_KERNELS_BACKEND_MIXER_CHECKS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "tests/kernels/backend/mixer_simulation.h"
#include "tests/kernels/backend/mixer_under_test.h"
#include "tests/kernels/backend/tested_backend.h"

namespace mambad::kernels {

class MixerChecks {
 public:
  // Makes the same mixer on a backend, each time with the same weights.
  using Make = std::function<std::unique_ptr<MixerUnderTest>(Backend&)>;

  MixerChecks(TestedBackend& tested, Make make) : tested_(tested), make_(std::move(make)) {}

  // The mixer on a backend with so many threads.
  const MixerUnderTest& Mixer(int threads = 2);

  // A prompt of `length` in one call, against doubles.
  void AgreesWithReference(uint32_t seed, int length);
  // Invariant 1: windows of T rows, every T and every n of them kept, several in a row.
  void CommitEqualsOneByOne(uint32_t seed, bool as_draft);
  // Invariant 1: drafts as long as the window, from slots that hold no more than that takes, at
  // every place of the ring.
  void DraftsMayFillTheWindow(uint32_t seed, bool as_draft);
  // Invariant 3: how a prompt is cut into chunks does not matter, nor the number of threads.
  void ChunksDoNotMatter(uint32_t seed, const std::vector<int>& lengths);
  // Invariants 1 and 3: a random ragged batch of prompts, windows, folds and idle sequences, some
  // of them in rounds whose counts are upper bounds.
  void BatchDoesNotMatter(uint32_t seed, int sequences, bool as_draft);
  // A slot holds the state of `state` floats, once more where a window is extended row by row, the
  // taps before a window, each of its uncommitted rows as an input of the convolution, and as one
  // of the recurrence of `replay_row` floats, if not more of these may wait; no two of them in the
  // same place, and little else.
  void SlotsHoldWhatWindowsTake(int64_t state, int64_t replay_row);

 private:
  // Of case `index`: rows wait in none, some, as many as there can be and in between. A draft
  // model's never do.
  static SimulationOptions Options(bool as_draft, int index);

  TestedBackend& tested_;
  Make make_;
  std::map<int, std::unique_ptr<MixerUnderTest>> mixers_;  // by threads
};

}  // namespace mambad::kernels

#endif  // MAMBAD_TESTS_KERNELS_BACKEND_MIXER_CHECKS_H_
