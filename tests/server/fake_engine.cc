#include "tests/server/fake_engine.h"

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <map>
#include <mutex>
#include <numeric>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "engine/retry_delay.h"
#include "engine/steady_time.h"
#include "tests/server/fake_sessions.h"
#include "tests/server/fake_tokenizer.h"

namespace mambad {
namespace {

struct Sample {
  bool ended = false;
  std::string text;  // made so far, for stop strings
  int64_t tokens = 0;
};

struct Active {
  RequestId id = 0;
  Request request;
  std::shared_ptr<EventSink> sink;
  absl::Time submitted = SteadyNow();
  std::vector<Sample> samples;
  bool running = false;
  int64_t read_before = 0;  // tokens of its session's text that it goes on from
  int pauses = 0;           // that no Resume has ended; below 0: Resumes that came first

  // `ending`: the engine is.
  bool KeepsSession(FinishReason reason, bool ending) const {
    if (request.session == nullptr || !request.keep_session) return false;
    const bool by_itself = reason == FinishReason::kEos || reason == FinishReason::kStop ||
                           reason == FinishReason::kLength;
    return by_itself || ending || (running && request.session->was_kept());
  }
};

std::shared_ptr<const SessionFormat> FormatOf(const ModelInfo& model) {
  auto format = std::make_shared<SessionFormat>();
  format->names = {model.fingerprint, "bytes", model.numerics, ""};
  format->vocabulary = model.vocabulary;
  format->context = model.context;
  return format;
}

EngineOptions Resolved(EngineOptions options) {
  if (options.max_sequences == 0) options.max_sequences = 16;
  return options;
}

class FakeEngine : public Engine {
 public:
  FakeEngine(const EngineOptions& options, StepObserver* observer, const FakeOptions& fake)
      : options_(Resolved(options)),
        observer_(observer),
        fake_(fake),
        tokenizer_(fake.on_encode),
        chat_template_(text::ChatTemplate::Parse(kFakeTemplate)) {
    model_.family = "mamba";
    model_.path = options.model;
    model_.weight_type = "float32";
    model_.fingerprint = "fake";
    model_.numerics = "by a script";
    model_.vocabulary = kFakeVocabulary;
    model_.context = options.max_context > 0 ? options.max_context : fake.context;
    model_.eos_ids = {kFakeEos};
    model_.most_stop_token_ids = 31;
    model_.layers = 2;
    draft_ = model_;
    draft_.path = options.draft_model;
    if (!chat_template_.ok()) std::abort();
    sessions_ = std::make_shared<FakeSessions>(FormatOf(model_), options_.sessions.max_sessions);
    thread_ = std::thread([this] { Run(); });
  }
  ~FakeEngine() override {
    DieOnEngineThread("Engine's destructor");
    {
      std::lock_guard<std::mutex> lock(mutex_);
      stopping_ = true;
    }
    news_.notify_all();
    thread_.join();
  }

  absl::StatusOr<RequestId> Submit(Request request, std::shared_ptr<EventSink> sink) override {
    if (absl::Status status = Validate(request); !status.ok()) return status;
    std::unique_lock<std::mutex> lock(mutex_);
    if (draining_) return absl::UnavailableError("draining");
    if (!HasRoom(request)) {
      return WithRetryDelay(absl::ResourceExhaustedError("the queue is full"), kStepsOfOthers);
    }
    Active active;
    active.id = ++last_id_;
    active.samples.resize(static_cast<size_t>(request.output.samples));
    active.read_before = request.session_position;
    active.request = std::move(request);
    active.sink = std::move(sink);
    active_.push_back(std::move(active));
    news_.notify_all();
    const RequestId id = last_id_;
    lock.unlock();
    if (fake_.on_submit) fake_.on_submit();
    return id;
  }
  void Cancel(RequestId id) override {
    std::lock_guard<std::mutex> lock(mutex_);
    cancelled_.insert(id);
    news_.notify_all();
  }
  void Resume(RequestId id) override {
    std::lock_guard<std::mutex> lock(mutex_);
    resumed_.push_back(id);
    news_.notify_all();
  }
  void Drain(absl::Time deadline) override {
    DieOnEngineThread("Engine::Drain");
    std::unique_lock<std::mutex> lock(mutex_);
    draining_ = true;
    const auto empty = [this] { return active_.empty(); };
    if (!emptied_.wait_until(lock, ToSteadyClock(deadline), empty)) {
      cancels_all_ = true;
      for (const Active& active : active_) cancelled_.insert(active.id);
      news_.notify_all();
      emptied_.wait(lock, empty);
    }
  }
  Sessions* sessions() const override { return fake_.has_sessions ? sessions_.get() : nullptr; }
  EngineStats Stats() const override {
    std::lock_guard<std::mutex> lock(mutex_);
    EngineStats stats = stats_;
    AddGauges(&stats);
    return stats;
  }
  absl::Duration CurrentStep() const override {
    std::lock_guard<std::mutex> lock(mutex_);
    return std::max(absl::ZeroDuration(), SteadyNow() - step_began_);
  }
  absl::Duration EstimatedWait() const override {
    std::lock_guard<std::mutex> lock(mutex_);
    EngineStats stats;
    AddGauges(&stats);
    const bool starts_at_once = stats.waiting == 0 && stats.slots_used < stats.slots_total;
    return starts_at_once ? absl::ZeroDuration() : kStepsOfOthers;
  }
  const ModelInfo& model() const override { return model_; }
  const ModelInfo* draft_model() const override {
    return options_.draft_model.empty() ? nullptr : &draft_;
  }
  const EngineOptions& options() const override { return options_; }
  const std::string& device() const override { return device_; }
  MemoryUse DeviceMemory() const override { return {1000, 400}; }
  const MemoryPlan& memory() const override { return memory_; }
  const std::vector<std::string>& warnings() const override { return warnings_; }
  const SamplingParams& default_sampling() const override { return default_sampling_; }
  const text::Tokenizer* tokenizer() const override {
    return fake_.has_tokenizer ? &tokenizer_ : nullptr;
  }
  const text::ChatTemplate* chat_template() const override {
    return fake_.has_tokenizer ? &*chat_template_ : nullptr;
  }
  text::ChatTemplate::Variables chat_variables() const override { return {}; }

 private:
  // What those that run are said to take until one that waits may begin.
  static constexpr absl::Duration kStepsOfOthers = absl::Milliseconds(1500);

  // A sink or observer that waits for the engine's thread waits for itself.
  void DieOnEngineThread(const char* what) const {
    if (std::this_thread::get_id() != thread_.get_id()) return;
    std::fprintf(stderr, "mambad engine: %s was called by a sink or observer\n", what);
    std::abort();
  }

  // Some of the engine's rules, and one that only the engine knows.
  absl::Status Validate(const Request& request) const {
    const auto refuse = [](const auto&... words) {
      return absl::InvalidArgumentError(absl::StrCat(words...));
    };
    const auto tokens = static_cast<int64_t>(request.prompt.size());
    const int64_t most = model_.context - (request.score_from.has_value() ? 0 : 1);
    if (tokens < 1 || tokens > most) {
      return refuse("prompt: ", tokens, " tokens given, allowed 1 to ", most);
    }
    for (TokenId id : request.prompt) {
      if (id < 0 || id >= kFakeVocabulary) return refuse("prompt: id ", id, " given");
    }
    if (!(request.sampling.temperature >= 0)) return refuse("sampling.temperature: below 0 given");
    if (request.sampling.top_k == 13) {
      return refuse("sampling.top_k: 13 given, allowed anything else");
    }
    if (request.session != nullptr && request.output.prompt_logprobs >= 0)
      return refuse("output.prompt_logprobs: given, allowed without a session only");
    if (request.session != nullptr && request.output.samples > 1) {
      return refuse("output.n: ", request.output.samples, " given, allowed 1 with a session");
    }
    if (request.stopping.max_tokens < 0) return refuse("stopping.max_tokens: below 0 given");
    if (request.output.samples < 1 || request.output.samples > options_.max_sequences) {
      return refuse("output.n: ", request.output.samples, " given, allowed 1 to ",
                    options_.max_sequences);
    }
    return absl::OkStatus();
  }

  // Those that the next step starts do not wait.
  bool HasRoom(const Request& request) const {
    EngineStats stats;
    AddGauges(&stats);
    const auto tokens = static_cast<int64_t>(request.prompt.size());
    return stats.waiting < options_.max_waiting + stats.slots_total - stats.slots_used &&
           (stats.waiting == 0 || stats.waiting_tokens + tokens <= options_.max_waiting_tokens);
  }

  bool HasWork() const {
    return stopping_ || !cancelled_.empty() || !resumed_.empty() ||
           std::any_of(active_.begin(), active_.end(),
                       [](const Active& a) { return !a.running || a.pauses <= 0; });
  }

  // Only this thread adds to running requests and removes them; others append to active_ under the
  // lock, and a deque keeps its elements where they are then. Sinks are called without the lock.
  void Run() {
    for (;;) {
      std::vector<Active*> step;
      std::set<RequestId> cancelled;
      std::vector<RequestId> resumed;
      bool stop = false;
      {
        std::unique_lock<std::mutex> lock(mutex_);
        if (active_.empty()) emptied_.notify_all();
        step_began_ = absl::InfiniteFuture();
        news_.wait_for(lock, std::chrono::milliseconds(20), [this] { return HasWork(); });
        step_began_ = SteadyNow();
        stop = stopping_;
        ending_ = stop || cancels_all_;
        cancelled.swap(cancelled_);
        resumed.swap(resumed_);
        int slots = options_.max_sequences;
        for (Active& active : active_) {
          if (active.running) slots -= static_cast<int>(active.samples.size());
        }
        for (Active& active : active_) {
          if (!active.running && slots >= static_cast<int>(active.samples.size())) {
            active.running = true;
            slots -= static_cast<int>(active.samples.size());
            stats_.prompt_tokens += static_cast<int64_t>(active.request.prompt.size());
          }
          step.push_back(&active);
        }
      }
      if (!step.empty() && fake_.on_step) fake_.on_step();
      if (!step.empty() && fake_.step > absl::ZeroDuration()) absl::SleepFor(fake_.step);
      int64_t made = 0;
      for (Active* active : step) {
        active->pauses -= static_cast<int>(std::count(resumed.begin(), resumed.end(), active->id));
        if (stop || cancelled.count(active->id) > 0) {
          FinishAll(*active, FinishReason::kCancelled);
        } else if (SteadyNow() >= active->request.deadline) {
          FinishAll(*active, FinishReason::kDeadline);
        } else if (active->running && active->pauses <= 0) {
          made += Advance(*active);
        }
      }
      if (observer_ != nullptr && made > 0) {
        observer_->OnStep(
            {static_cast<int>(step.size()), static_cast<int>(made), 0, 2, 1e-5, 2e-5, 5e-5});
      }
      std::lock_guard<std::mutex> lock(mutex_);
      stats_.generation_tokens += made;
      stats_.steps += 1;
      for (auto it = active_.begin(); it != active_.end();) {
        const bool ended = std::all_of(it->samples.begin(), it->samples.end(),
                                       [](const Sample& s) { return s.ended; });
        it = ended ? active_.erase(it) : it + 1;
      }
      if (stop && active_.empty()) return;
    }
  }

  void AddGauges(EngineStats* stats) const {
    for (const Active& active : active_) {
      if (active.running) {
        ++stats->running;
        stats->slots_used += static_cast<int>(active.samples.size());
      } else {
        ++stats->waiting;
        stats->waiting_tokens += static_cast<int64_t>(active.request.prompt.size());
      }
    }
    stats->slots_total = options_.max_sequences;
    stats->pages_total = 100;
    stats->pages_used = stats->slots_used;
    stats->recorded_rounds = 3;
    stats->round_recordings = 5;
    stats->sessions = {.parks = 7,
                       .restores = 6,
                       .evictions = 5,
                       .snapshot_bytes = 4000,
                       .prefix_lookups = 30,
                       .prefix_hits = 20,
                       .prefix_tokens = 10000,
                       .prefix_bytes = 2000};
    stats->state_bytes = 1000 * stats->slots_used;
    stats->accepted_per_position = {3, 1};
    stats->draft_rounds = 4;
    stats->draft_tokens = 8;
    stats->accepted_tokens = 4;
    stats->speculation_enabled = options_.speculation;
  }

  RequestStats StatsOf(const Active& active, const Sample& sample) const {
    RequestStats stats;
    stats.prompt_tokens = static_cast<int64_t>(active.request.prompt.size());
    stats.completion_tokens = sample.tokens;
    if (active.running) stats.cached_tokens = std::max<int64_t>(0, active.read_before - 1);
    stats.total_microseconds = absl::ToInt64Microseconds(SteadyNow() - active.submitted);
    stats.decode_microseconds = stats.total_microseconds / 2;
    stats.speculation.rounds = 1;
    stats.speculation.drafted = 2;
    stats.speculation.accepted = 1;
    return stats;
  }

  void FinishAll(Active& active, FinishReason reason) {
    for (size_t i = 0; i < active.samples.size(); ++i) {
      if (active.samples[i].ended) continue;
      TokenEvent event;
      event.request = active.id;
      event.index = static_cast<int>(i);
      End(active, active.samples[i], reason, &event);
      active.sink->OnEvent(event);
    }
  }

  void End(Active& active, Sample& sample, FinishReason reason, TokenEvent* event) const {
    sample.ended = true;
    event->finish = reason;
    event->stats = StatsOf(active, sample);
    Request& request = active.request;
    if (active.KeepsSession(reason, ending_)) {
      std::vector<TokenId> text = request.prompt;
      for (int64_t i = 0; i < sample.tokens; ++i)
        text.push_back(FakeToken(request.prompt, event->index, i));
      event->session = sessions_->Rest(*request.session, request.session_position, std::move(text));
    }
    request.session.reset();  // before anybody is told
  }

  int64_t Advance(Active& active) {
    if (active.request.score_from.has_value()) return Score(active);
    int64_t made = 0;
    for (size_t i = 0; i < active.samples.size(); ++i) {
      Sample& sample = active.samples[i];
      if (sample.ended) continue;
      TokenEvent event;
      event.request = active.id;
      event.index = static_cast<int>(i);
      if (sample.tokens == 0) BeginAnswer(active, &event);
      for (int t = 0; t < fake_.tokens_per_step && !sample.ended; ++t) {
        AddToken(active, sample, &event);
        ++made;
      }
      if (!active.sink->OnEvent(event)) ++active.pauses;
    }
    return made;
  }

  void BeginAnswer(const Active& active, TokenEvent* event) const {
    const auto& prompt = active.request.prompt;
    if (active.request.output.echo) event->text = tokenizer_.Decode(prompt, true);
    const int alternatives = active.request.output.prompt_logprobs;
    if (alternatives < 0 || event->index != 0) return;
    for (size_t i = 1; i < prompt.size(); ++i)
      event->prompt_logprobs.push_back(Logprob(prompt[i], alternatives));
  }

  static TokenLogprob Logprob(TokenId id, int alternatives) {
    TokenLogprob logprob;
    logprob.id = id;
    logprob.logprob = -0.5f;
    const int first = id == kFakeSurprise ? 1 : 0;
    for (int i = 0; i < alternatives; ++i)
      logprob.alternatives.emplace_back((id + first + i) % kFakeVocabulary, -0.5f - i);
    return logprob;
  }

  void AddToken(Active& active, Sample& sample, TokenEvent* event) const {
    const Request& request = active.request;
    const TokenId last = request.prompt.back();
    if (last == '.' && sample.tokens == 5 && !request.stopping.ignore_eos) {
      event->matched_stop_id = kFakeEos;
      return End(active, sample, FinishReason::kEos, event);
    }
    if ((last == '!' || last == '#') && sample.tokens == 3) {
      event->error = last == '!' ? absl::InternalError("the fake failed as asked")
                                 : WithRetryDelay(absl::ResourceExhaustedError("no room any more"),
                                                  absl::Milliseconds(1500));
      return End(active, sample, FinishReason::kError, event);
    }
    const TokenId token = FakeToken(request.prompt, event->index, sample.tokens);
    event->tokens.push_back(token);
    if (request.output.logprobs >= 0)
      event->logprobs.push_back(Logprob(token, request.output.logprobs));
    event->text += static_cast<char>(token);
    sample.text += static_cast<char>(token);
    ++sample.tokens;
    for (const std::string& stop : request.stopping.stop_strings) {
      if (sample.text.size() < stop.size() ||
          sample.text.substr(sample.text.size() - stop.size()) != stop)
        continue;
      event->matched_stop = stop;
      return End(active, sample, FinishReason::kStop, event);
    }
    const int64_t room = model_.context - static_cast<int64_t>(request.prompt.size());
    const int64_t limit =
        request.stopping.max_tokens > 0 ? std::min(room, request.stopping.max_tokens) : room;
    if (sample.tokens >= limit) End(active, sample, FinishReason::kLength, event);
  }

  int64_t Score(Active& active) {
    TokenEvent event;
    event.request = active.id;
    const auto& prompt = active.request.prompt;
    for (auto i = static_cast<size_t>(*active.request.score_from); i < prompt.size(); ++i) {
      event.prompt_logprobs.push_back(Logprob(prompt[i], active.request.output.prompt_logprobs));
    }
    End(active, active.samples[0], FinishReason::kLength, &event);
    active.sink->OnEvent(event);
    return 0;
  }

  const EngineOptions options_;
  const std::string device_ = "a script";
  const MemoryPlan memory_ = {.weights = 3000, .states = 200, .workspace = 10, .free = 5000};
  const std::vector<std::string> warnings_ = {"the scripted engine serves no model"};
  StepObserver* const observer_;
  const FakeOptions fake_;
  const ByteTokenizer tokenizer_;
  const absl::StatusOr<text::ChatTemplate> chat_template_;
  const SamplingParams default_sampling_;
  ModelInfo model_, draft_;
  std::shared_ptr<FakeSessions> sessions_;
  bool ending_ = false;  // the engine thread's

  mutable std::mutex mutex_;
  std::condition_variable news_, emptied_;
  std::deque<Active>
      active_;  // appended under mutex_ by anyone; erased under it by the engine thread
  std::set<RequestId> cancelled_;                                   // guarded by mutex_
  std::vector<RequestId> resumed_;                                  // guarded by mutex_
  RequestId last_id_ = 0;                                           // guarded by mutex_
  bool draining_ = false, cancels_all_ = false, stopping_ = false;  // guarded by mutex_
  absl::Time step_began_ = absl::InfiniteFuture();                  // guarded by mutex_
  EngineStats stats_;  // guarded by mutex_; its counters
  std::thread thread_;
};

}  // namespace

TokenId FakeToken(const std::vector<TokenId>& prompt, int sample, int64_t position) {
  const int64_t sum = std::accumulate(prompt.begin(), prompt.end(), int64_t{0});
  return static_cast<TokenId>('a' + (sum + sample + position) % 26);
}

std::string FakeText(const std::string& prompt, int sample, int64_t tokens) {
  std::vector<TokenId> ids = {kFakeBos};
  for (char c : prompt) ids.push_back(static_cast<unsigned char>(c));
  std::string text;
  for (int64_t i = 0; i < tokens; ++i) text += static_cast<char>(FakeToken(ids, sample, i));
  return text;
}

absl::StatusOr<std::unique_ptr<Engine>> OpenFakeEngine(const EngineOptions& options,
                                                       StepObserver* observer,
                                                       const FakeOptions& fake) {
  if (options.model == "missing") return absl::NotFoundError("missing/config.json: cannot be read");
  return std::make_unique<FakeEngine>(options, observer, fake);
}

}  // namespace mambad
