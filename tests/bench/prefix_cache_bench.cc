// How much of prompts that begin alike the prefix cache saves: conversations about a few
// beginnings, some of them at a time, each turn's prompt the whole conversation so far.
//
//   prefix_cache_bench [ROOM...]   a share of what all states would take; default 1 0.5 0.25 0.125
//
// With a few conversations at a time, of which one is over before the next begins, and with all of
// them at once, any of which may go on next: then a state that was kept is as likely gone as not.
// First with room for all states, which says what could be saved; then with less. 0.25: four times
// as many states as there is room for. The model is a tiny one: what is printed are shares, and
// times of the cache's own copies.

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <vector>

#include "absl/time/clock.h"
#include "engine/engine_core.h"
#include "tests/support/formula_models.h"
#include "tests/support/model_directory.h"

namespace mambad {
namespace {

constexpr int kBeginnings = 6, kConversations = 60, kTurns = 6;

using Tokens = std::vector<TokenId>;

class Trace {
 public:
  Trace(int vocabulary, size_t at_a_time) : vocabulary_(vocabulary), at_a_time_(at_a_time) {
    for (int i = 0; i < kBeginnings; ++i) beginnings_.push_back(Random(600 + 200 * i));
  }
  // Prompts in their order; the same each time.
  std::vector<Tokens> Prompts() {
    struct Conversation {
      Tokens text;
      int turns = 0;
    };
    std::vector<Conversation> open;
    std::vector<Tokens> prompts;
    int begun = 0;
    while (begun < kConversations || !open.empty()) {
      while (begun < kConversations && open.size() < at_a_time_) {
        // The first beginnings are the most frequent ones.
        const int which = std::min(Draw(kBeginnings), Draw(kBeginnings));
        open.push_back({beginnings_[which], 0});
        ++begun;
      }
      const int chosen = Draw(static_cast<int>(open.size()));
      Conversation& conversation = open[chosen];
      Append(Random(40 + Draw(300)), &conversation.text);
      prompts.push_back(conversation.text);
      Append(Random(40 + Draw(200)), &conversation.text);  // an answer
      if (++conversation.turns == kTurns) open.erase(open.begin() + chosen);
    }
    return prompts;
  }

 private:
  int Draw(int below) { return static_cast<int>(random_() % static_cast<unsigned>(below)); }
  Tokens Random(int count) {
    Tokens tokens;
    for (int i = 0; i < count; ++i) tokens.push_back(Draw(vocabulary_));
    return tokens;
  }
  static void Append(const Tokens& more, Tokens* text) {
    text->insert(text->end(), more.begin(), more.end());
  }

  const int vocabulary_;
  const size_t at_a_time_;
  std::mt19937 random_{11};
  std::vector<Tokens> beginnings_;
};

struct Savings {
  int64_t bytes = 0;  // that states take at the end
  int64_t lookups = 0, hits = 0, prompt_tokens = 0, cached_tokens = 0;
  double seconds = 0;
};

class NoReader final : public EventSink {
 public:
  bool OnEvent(const TokenEvent&) override { return true; }
};

Savings Run(const std::string& model, size_t at_a_time, int64_t bytes) {
  EngineOptions options;
  options.model = model;
  options.max_sequences = 2;
  options.prefix_cache_bytes = bytes;
  auto core = EngineCore::Open(options, nullptr);
  if (!core.ok()) {
    std::fprintf(stderr, "%s\n", core.status().ToString().c_str());
    std::exit(1);
  }
  const auto sink = std::make_shared<NoReader>();
  Savings savings;
  RequestId id = 0;
  const absl::Time begin = absl::Now();
  for (Tokens& prompt : Trace((*core)->facts().model.vocabulary, at_a_time).Prompts()) {
    Request request;
    savings.prompt_tokens += static_cast<int64_t>(prompt.size());
    request.prompt = std::move(prompt);
    request.stopping.max_tokens = 1;
    const absl::Status status = (*core)->Admit(++id, std::move(request), sink, absl::Now());
    if (!status.ok()) std::exit(1);
    while ((*core)->Step(absl::Now)) {
    }
  }
  savings.seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  const SessionCounters& counters = (*core)->stats().sessions;
  savings.bytes = counters.prefix_bytes;
  savings.lookups = counters.prefix_lookups;
  savings.hits = counters.prefix_hits;
  savings.cached_tokens = counters.prefix_tokens;
  return savings;
}

void Print(const std::string& model, size_t at_a_time, const std::vector<double>& rooms) {
  const Savings all = Run(model, at_a_time, int64_t{1} << 40);
  std::printf("%zu conversations at a time: %lld prompts, %lld tokens; all states: %lld bytes\n",
              at_a_time, static_cast<long long>(all.lookups),
              static_cast<long long>(all.prompt_tokens), static_cast<long long>(all.bytes));
  std::printf("  room  prompts that hit  tokens saved  of what could be  seconds\n");
  for (const double room : rooms) {
    const Savings some =
        room >= 1 ? all : Run(model, at_a_time, static_cast<int64_t>(room * double(all.bytes)));
    std::printf("%6.3f  %16.3f  %12.3f  %16.3f  %7.2f\n", room,
                double(some.hits) / double(some.lookups),
                double(some.cached_tokens) / double(some.prompt_tokens),
                double(some.cached_tokens) / double(all.cached_tokens), some.seconds);
  }
}

int Main(int argc, char** argv) {
  std::vector<double> rooms;
  for (int i = 1; i < argc; ++i) rooms.push_back(std::atof(argv[i]));
  if (rooms.empty()) rooms = {1, 0.5, 0.25, 0.125};
  const testing::TemporaryDirectory directory;
  testing::MakeFormulaModel("mamba").directory.Write(directory.path(), testing::StoredAs::kFloat32);
  for (const size_t at_a_time : {size_t{12}, size_t{kConversations}})
    Print(directory.path(), at_a_time, rooms);
  return 0;
}

}  // namespace
}  // namespace mambad

int main(int argc, char** argv) { return mambad::Main(argc, argv); }
