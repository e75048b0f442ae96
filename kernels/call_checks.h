// Whether what a backend's call names in backend memory is what kernels/backend.h allows and lies
// within what was allocated: slots, pages, positions, rows, tokens. What does not ends the process
// with words. Reads arrays back and waits for them: for tests, and to debug an engine on a device.

#ifndef MAMBAD_KERNELS_CALL_CHECKS_H_
#define MAMBAD_KERNELS_CALL_CHECKS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace mambad::kernels {

// Ends the process: "mambad kernels: " and the words.
[[noreturn]] void DieWith(const std::string& words);

class CallChecks {
 public:
  explicit CallChecks(Backend& backend) : backend_(backend) {}

  // Every piece of memory that the backend hands out. That it was given back is not noticed, but by
  // what takes its place.
  void Allocated(const Buffer& buffer);

  // `bounds`: counts are a decode round's.
  void Check(const char* operation, const Batch& batch, bool bounds);
  void CheckTokens(const char* operation, const Batch& batch, int64_t vocabulary);
  void CheckSlots(const char* operation, const Batch& batch, const RecurrentState& state);
  void CheckPages(const char* operation, const Batch& batch, const KeyValueState& state);
  void CheckLogits(const char* operation, const Batch& batch, const Workspace& workspace,
                   bool bounds);
  void Check(const DraftSampling& request, const SamplingTables& tables, const Workspace& draft);
  void Check(const Acceptance& request, const SamplingTables& tables, const Workspace& target);
  void Check(const TokenScoring& request, const Workspace& target);

 private:
  // The sequences of a batch that there are.
  struct Window {
    int64_t slot = 0, position = 0, rows = 0;
  };

  bool Holds(const void* begin, int64_t bytes) const;
  template <typename T>
  std::vector<T> Fetch(const std::string& what, const T* from, int64_t count);
  std::vector<Window> Windows(const char* operation, const Batch& batch);
  SamplingState StateOf(const std::string& what, const SamplingTables& tables, int64_t slot);

  Backend& backend_;
  std::map<uintptr_t, size_t> blocks_;  // begin, bytes
};

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_CALL_CHECKS_H_
