#include "trainer/stages/speculation_simulation.h"

#include "trainer/counter_random.h"

namespace mambad::trainer {
namespace {

double Share(int64_t part, int64_t whole) {
  return whole == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(whole);
}

int64_t Sum(const std::vector<int64_t>& counts) {
  int64_t sum = 0;
  for (const int64_t count : counts) sum += count;
  return sum;
}

}  // namespace

double SpeculationCounts::AcceptanceAt(size_t position) const {
  return Share(accepted.at(position), reached.at(position));
}

double SpeculationCounts::AcceptedShare() const {
  return Share(Sum(accepted), verifications * static_cast<int64_t>(reached.size()));
}

double SpeculationCounts::TokensPerVerification() const { return Share(tokens, verifications); }

SpeculationCounts SimulateSpeculation(const std::vector<std::vector<float>>& acceptance,
                                      int64_t draft_tokens, uint64_t seed) {
  SpeculationCounts counts;
  counts.reached.resize(draft_tokens);
  counts.accepted.resize(draft_tokens);
  for (size_t text = 0; text < acceptance.size(); ++text) {
    const CounterRandom random(seed, text);
    const auto length = static_cast<int64_t>(acceptance[text].size());
    // A draft that the end of the text cuts tells nothing about the tokens behind the cut.
    for (int64_t begin = 0; begin + draft_tokens < length;) {
      int64_t kept = 0;
      while (kept < draft_tokens) {
        ++counts.reached[kept];
        if (random.Uniform(begin + kept) >= acceptance[text][begin + kept]) break;
        ++counts.accepted[kept];
        ++kept;
      }
      begin += kept + 1;
      ++counts.verifications;
      counts.tokens += kept + 1;
    }
  }
  return counts;
}

}  // namespace mambad::trainer
