#include "kernels/call_checks.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <set>
#include <sstream>

namespace mambad::kernels {
namespace {

template <typename... Parts>
std::string Words(const Parts&... parts) {
  std::ostringstream words;
  (words << ... << parts);
  return words.str();
}

template <typename... Parts>
void Require(bool good, const Parts&... parts) {
  if (!good) DieWith(Words(parts...));
}

uintptr_t Address(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

}  // namespace

void DieWith(const std::string& words) {
  std::fprintf(stderr, "mambad kernels: %s\n", words.c_str());
  std::abort();
}

void CallChecks::Allocated(const Buffer& buffer) {
  const uintptr_t begin = Address(buffer.data()), end = begin + buffer.bytes();
  auto first = blocks_.upper_bound(begin);
  if (first != blocks_.begin()) {
    const auto before = std::prev(first);
    if (before->first + before->second > begin) first = before;
  }
  blocks_.erase(first, blocks_.lower_bound(end));
  blocks_[begin] = buffer.bytes();
}

bool CallChecks::Holds(const void* begin, int64_t bytes) const {
  auto block = blocks_.upper_bound(Address(begin));
  if (block == blocks_.begin() || bytes < 0) return false;
  --block;
  return Address(begin) + static_cast<uintptr_t>(bytes) <= block->first + block->second;
}

template <typename T>
std::vector<T> CallChecks::Fetch(const std::string& what, const T* from, int64_t count) {
  const auto bytes = static_cast<int64_t>(count * sizeof(T));
  Require(Holds(from, bytes), what, ": ", count, " of them are not in one piece of memory");
  std::vector<T> numbers(count);
  backend_.Read(numbers.data(), from, bytes);
  backend_.Synchronize();
  return numbers;
}

// ---- batches ------------------------------------------------------------------------------------

void CallChecks::Check(const char* operation, const Batch& batch, bool bounds) {
  const std::string name = operation;
  const int count = batch.sequences;
  Require(count > 0 && batch.rows >= 0, name, ": ", count, " sequences, ", batch.rows, " rows");
  const auto begin = Fetch(name + ": row_begin", batch.row_begin, count + 1);
  const auto slots = Fetch(name + ": slot", batch.slot, count);
  const auto positions = Fetch(name + ": position", batch.position, count);
  Require(begin[0] == 0, name, ": row_begin begins with ", begin[0]);
  Require(bounds ? begin[count] <= batch.rows : begin[count] == batch.rows, name,
          ": row_begin has ", begin[count], " rows, the batch ", batch.rows);
  std::set<int32_t> seen;
  for (int s = 0; s < count; ++s) {
    const std::string who = Words(name, ": sequence ", s, ", slot ", slots[s]);
    const int64_t rows = begin[s + 1] - begin[s];
    Require(rows >= 0, who, ": ", rows, " rows");
    if (slots[s] < 0) {
      Require(bounds && rows == 0, who, ": ", rows, " rows of no sequence");
      continue;
    }
    Require(s == 0 || slots[s - 1] >= 0, who, " behind one that is not there");
    Require(seen.insert(slots[s]).second, who, ": named twice");
    const int64_t last = positions[s] + rows - 1;
    Require(positions[s] >= 0 && last <= batch.max_position, who, ": positions ", positions[s],
            " to ", last, " of 0 to ", batch.max_position);
  }
}

std::vector<CallChecks::Window> CallChecks::Windows(const char* operation, const Batch& batch) {
  const std::string name = operation;
  const auto begin = Fetch(name + ": row_begin", batch.row_begin, batch.sequences + 1);
  const auto slots = Fetch(name + ": slot", batch.slot, batch.sequences);
  const auto positions = Fetch(name + ": position", batch.position, batch.sequences);
  std::vector<Window> windows;
  for (int s = 0; s < batch.sequences && slots[s] >= 0; ++s)
    windows.push_back({slots[s], positions[s], begin[s + 1] - begin[s]});
  return windows;
}

void CallChecks::CheckTokens(const char* operation, const Batch& batch, int64_t vocabulary) {
  const std::string name = operation;
  const auto begin = Fetch(name + ": row_begin", batch.row_begin, batch.sequences + 1);
  const int32_t rows = begin[batch.sequences];
  const auto tokens = Fetch(name + ": tokens", batch.tokens, rows);
  for (int row = 0; row < rows; ++row) {
    Require(tokens[row] >= 0 && tokens[row] < vocabulary, name, ": row ", row, ": token ",
            tokens[row], " of ", vocabulary);
  }
}

void CallChecks::CheckSlots(const char* operation, const Batch& batch,
                            const RecurrentState& state) {
  for (const Window& window : Windows(operation, batch)) {
    Require(Holds(state.slot(static_cast<int>(window.slot)),
                  state.layout.floats * static_cast<int64_t>(sizeof(float))),
            operation, ": slot ", window.slot, " lies outside of the memory of states");
  }
}

// Pages that a sequence reads and writes; nobody else has a page that one writes.
void CallChecks::CheckPages(const char* operation, const Batch& batch, const KeyValueState& state) {
  const std::string name = operation;
  std::map<int32_t, int64_t> holders, writers;  // of a page: a slot
  for (const Window& window : Windows(operation, batch)) {
    if (window.rows == 0) continue;
    const std::string who = Words(name, ": slot ", window.slot);
    const int64_t pages = (window.position + window.rows - 1) / kPageTokens + 1;
    Require(pages <= batch.pages_per_sequence, who, ": ", pages, " pages of ",
            batch.pages_per_sequence);
    const auto table =
        Fetch(who + ": pages", batch.pages + window.slot * batch.pages_per_sequence, pages);
    for (int64_t i = 0; i < pages; ++i) {
      const int32_t page = table[i];
      const KeyValueLayout& layout = state.layout;
      Require(page >= 0 && Holds(state.keys + page * layout.key_bytes, layout.key_bytes) &&
                  Holds(state.values + page * layout.value_bytes, layout.value_bytes),
              who, ": page ", i, " is ", page, ", outside of the memory of keys and values");
      const bool writes = i >= window.position / kPageTokens;
      const std::map<int32_t, int64_t>& others = writes ? holders : writers;
      const auto other = others.find(page);
      if (other != others.end())
        DieWith(Words(who, ": page ", i, " is ", page, ", slot ", other->second, " has it, too"));
      holders[page] = window.slot;
      if (writes) writers[page] = window.slot;
    }
  }
}

void CallChecks::CheckLogits(const char* operation, const Batch& batch, const Workspace& workspace,
                             bool bounds) {
  const std::string name = operation;
  Require(batch.logit_count <= workspace.logits.rows, name, ": ", batch.logit_count,
          " rows of logits, room for ", workspace.logits.rows);
  const auto begin = Fetch(name + ": row_begin", batch.row_begin, batch.sequences + 1);
  const auto rows = Fetch(name + ": logit_rows", batch.logit_rows, batch.logit_count);
  for (int i = 0; i < batch.logit_count; ++i) {
    if (bounds && rows[i] == -1) continue;
    Require(rows[i] >= 0 && rows[i] < begin[batch.sequences] && (i == 0 || rows[i - 1] >= 0), name,
            ": logits ", i, " of row ", rows[i], " of ", begin[batch.sequences]);
  }
}

// ---- sampling -----------------------------------------------------------------------------------

SamplingState CallChecks::StateOf(const std::string& what, const SamplingTables& tables,
                                  int64_t slot) {
  const SamplingState state = Fetch(what + ": state", tables.states + slot, 1)[0];
  const int64_t row_bytes = int64_t{4} * tables.padded_vocabulary;
  Require(
      state.counts_row < 0 ||
          Holds(tables.counts + int64_t{state.counts_row} * tables.padded_vocabulary, row_bytes),
      what, ": row ", state.counts_row, " of counts");
  Require(state.bias_row < 0 ||
              Holds(tables.bias + int64_t{state.bias_row} * tables.padded_vocabulary, row_bytes),
          what, ": row ", state.bias_row, " of biases");
  return state;
}

void CallChecks::Check(const DraftSampling& request, const SamplingTables& tables,
                       const Workspace& draft) {
  const std::string name = "SampleDrafts";
  const int count = request.sequences;
  const auto slots = Fetch(name + ": slot", request.slot, count);
  const auto logit_rows = Fetch(name + ": logit_row", request.logit_row, count);
  const auto positions = Fetch(name + ": position", request.position, count);
  const auto rows = Fetch(name + ": token_row", request.token_row, count);
  const auto next_rows = Fetch(name + ": next_row", request.next_row, count);
  for (int s = 0; s < count; ++s) {
    if (logit_rows[s] < 0) continue;
    const std::string who = Words(name, ": sequence ", s, ", slot ", slots[s]);
    Require(slots[s] >= 0, who);
    StateOf(who, tables, slots[s]);
    Require(logit_rows[s] < draft.logits.rows, who, ": logits ", logit_rows[s]);
    Require(positions[s] >= 0, who, ": position ", positions[s]);
    Require(rows[s] >= request.step && Holds(request.tokens + rows[s], sizeof(int32_t)), who,
            ": row ", rows[s]);
    Require(request.next_tokens == nullptr || next_rows[s] < 0 ||
                Holds(request.next_tokens + next_rows[s], sizeof(int32_t)),
            who, ": next row ", next_rows[s]);
  }
}

void CallChecks::Check(const Acceptance& request, const SamplingTables& tables,
                       const Workspace& target) {
  const std::string name = "Accept";
  const int count = request.sequences;
  const auto slots = Fetch(name + ": slot", request.slot, count);
  const auto logits = Fetch(name + ": logit_begin", request.logit_begin, count);
  const auto lengths = Fetch(name + ": draft_length", request.draft_length, count);
  const auto rows = Fetch(name + ": token_row", request.token_row, count);
  const auto positions = Fetch(name + ": position", request.position, count);
  const auto limits = Fetch(name + ": limit", request.limit, count);
  for (int s = 0; s < count; ++s) {
    if (slots[s] < 0) continue;
    const std::string who = Words(name, ": sequence ", s, ", slot ", slots[s]);
    const SamplingState state = StateOf(who, tables, slots[s]);
    Require(lengths[s] >= 0 && lengths[s] <= kMaxWindowRows, who, ": ", lengths[s], " drafts");
    Require(logits[s] >= 0 && logits[s] + lengths[s] < target.logits.rows, who, ": logits ",
            logits[s], " and ", lengths[s], " more");
    Require(rows[s] >= 0 && Holds(request.tokens + rows[s],
                                  static_cast<int64_t>(sizeof(int32_t)) * (lengths[s] + 1)),
            who, ": row ", rows[s]);
    Require(positions[s] > 0 && limits[s] > 0, who, ": position ", positions[s], ", limit ",
            limits[s]);
    Require(request.logprobs || state.alternatives < 0, who, ": asks for log-probabilities");
  }
}

void CallChecks::Check(const TokenScoring& request, const Workspace& target) {
  const auto rows = Fetch("Score: logit_row", request.logit_row, request.count);
  for (int i = 0; i < request.count; ++i) {
    Require(rows[i] >= 0 && rows[i] < target.logits.rows, "Score: logits ", rows[i], " of ",
            target.logits.rows);
  }
}

}  // namespace mambad::kernels
