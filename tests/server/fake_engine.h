// An engine without a model, for tests of everything around it: one thread, a byte tokenizer,
// answers that can be computed by hand. It pauses, cancels, drains, limits its queue and counts
// slots as the contract in engine/engine.h says, and keeps sessions (fake_sessions.h).

#ifndef MAMBAD_TESTS_SERVER_FAKE_ENGINE_H_
#define MAMBAD_TESTS_SERVER_FAKE_ENGINE_H_

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/engine.h"

namespace mambad {

// Ids 0 to 255 are bytes; 256 is begin-of-text "<s>", 257 end-of-text "</s>".
inline constexpr int kFakeVocabulary = 258;
inline constexpr TokenId kFakeBos = 256;
inline constexpr TokenId kFakeEos = 257;
// The only token than which, wherever it stands, another was likelier.
inline constexpr TokenId kFakeSurprise = 255;

// The rules of an answer: token i of sample s is the letter 'a' + (sum of the prompt's ids + s + i)
// % 26. A prompt whose last byte is
//   '.'  ends after five tokens with end-of-text;
//   '!'  fails after three tokens with INTERNAL;
//   '#'  fails after three tokens with RESOURCE_EXHAUSTED, to come back in 1.5 s;
// others go on until max_tokens, a stop string or the context. Seeds, temperatures and biases
// change nothing.
TokenId FakeToken(const std::vector<TokenId>& prompt, int sample, int64_t position);
std::string FakeText(const std::string& prompt, int sample, int64_t tokens);

struct FakeOptions {
  absl::Duration step = absl::Microseconds(50);  // time of one step
  int tokens_per_step = 1;                       // that each sequence gets
  int64_t context = 2048;
  bool has_tokenizer = true;
  bool has_sessions = true;
  // Before each text is tokenized, on the thread that does it.
  std::function<void()> on_encode = nullptr;
  // When a request is queued, and its caller is not told its id yet.
  std::function<void()> on_submit = nullptr;
  // In each step that has requests, on the engine's thread.
  std::function<void()> on_step = nullptr;
};

// As Engine::Open. A draft model is present when options.draft_model is given; the model "missing"
// is NOT_FOUND.
absl::StatusOr<std::unique_ptr<Engine>> OpenFakeEngine(const EngineOptions& options,
                                                       StepObserver* observer,
                                                       const FakeOptions& fake = {});

}  // namespace mambad

#endif  // MAMBAD_TESTS_SERVER_FAKE_ENGINE_H_
