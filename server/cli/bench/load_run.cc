#include "server/cli/bench/load_run.h"

#include <algorithm>
#include <memory>
#include <thread>
#include <utility>

namespace mambad::cli {
namespace {

template <typename Duration>
double Seconds(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}

template <typename Clock>
typename Clock::duration ToDuration(double seconds) {
  return std::chrono::duration_cast<typename Clock::duration>(
      std::chrono::duration<double>(seconds));
}

}  // namespace

LoadRun::LoadRun(const Connection& connection, const Workload& workload, const LoadPlan& plan)
    : connection_(connection),
      workload_(workload),
      plan_(plan),
      sessions_(v1::Sessions::NewStub(connection.channel())) {}

std::vector<BenchSample> LoadRun::Run() {
  start_ = Clock::now();
  std::vector<std::thread> threads;
  const int64_t count = std::min<int64_t>(plan_.at_a_time, plan_.talks);
  for (int64_t i = 0; i < count; ++i) threads.emplace_back([this] { RunTalks(); });
  for (std::thread& thread : threads) thread.join();
  seconds_ = Seconds(Clock::now() - start_);
  MutexLock lock(&mutex_);
  return std::move(samples_);
}

bool LoadRun::TakeNext(int64_t* index) {
  MutexLock lock(&mutex_);
  if (next_ >= plan_.talks) return false;
  if (plan_.seconds && Seconds(Clock::now() - start_) >= *plan_.seconds) return false;
  *index = next_++;
  return true;
}

// Times count from the arrival, so that a late start is the server's loss and not hidden.
void LoadRun::RunTalks() {
  for (int64_t index = 0; TakeNext(&index);) {
    const Talk talk = workload_.TalkAt(index);
    Clock::time_point begin = Clock::now();
    if (!plan_.arrivals.empty()) {
      begin = start_ + ToDuration<Clock>(plan_.arrivals[static_cast<size_t>(index)]);
      std::this_thread::sleep_until(begin);
    }
    RunTalk(talk, begin);
  }
}

void LoadRun::RunTalk(const Talk& talk, Clock::time_point begin) {
  TalkRequests requests(plan_.base, talk, plan_.chat);
  const size_t turns = std::max<size_t>(1, talk.turns.size());
  for (size_t turn = 0; turn < turns; ++turn) {
    Answer answer = Ask(requests.Next(), turn == 0 ? begin : Clock::now());
    answer.sample.goes_on = turn > 0;
    const bool good = answer.sample.code == "OK";
    {
      MutexLock lock(&mutex_);
      samples_.push_back(std::move(answer.sample));
    }
    if (!good) break;
    requests.Answered(answer.text, answer.token_ids, answer.session_id);
  }
  if (!requests.session_id().empty()) Delete(requests.session_id());
}

LoadRun::Answer LoadRun::Ask(const v1::GenerateRequest& request, Clock::time_point begin) {
  Answer answer;
  std::vector<Refusal> refusals;
  std::vector<Clock::time_point> refused_at;
  for (int attempt = 0;; ++attempt) {
    const Clock::time_point sent = Clock::now();
    const std::optional<double> hint = Attempt(request, begin, &answer);
    if (answer.sample.code != CodeText(grpc::StatusCode::RESOURCE_EXHAUSTED)) {
      // Whatever became of it then, there was room.
      for (size_t i = 0; i < refusals.size(); ++i)
        refusals[i].waited = Seconds(sent - refused_at[i]);
      break;
    }
    const Clock::time_point now = Clock::now();
    refusals.push_back({Seconds(now - sent), hint, std::nullopt});
    refused_at.push_back(now);
    if (!hint || attempt == plan_.retries) break;
    std::this_thread::sleep_for(std::chrono::duration<double>(*hint));
  }
  answer.sample.refusals = std::move(refusals);
  return answer;
}

std::optional<double> LoadRun::Attempt(const v1::GenerateRequest& request, Clock::time_point begin,
                                       Answer* answer) {
  *answer = Answer();
  BenchSample& sample = answer->sample;
  grpc::ClientContext context;
  connection_.Prepare(&context);
  auto reader = connection_.stub()->Generate(&context, request);
  v1::GenerateResponse message;
  Clock::time_point last = begin;
  bool begun = false;
  while (reader->Read(&message)) {
    if (message.token_ids_size() > 0) {
      const Clock::time_point now = Clock::now();
      if (begun) {
        sample.between.push_back(Seconds(now - last));
      } else {
        sample.first_token = Seconds(now - begin);
      }
      begun = true;
      last = now;
    }
    if (message.index() == 0) {
      answer->text += message.text();
      answer->token_ids.insert(answer->token_ids.end(), message.token_ids().begin(),
                               message.token_ids().end());
    }
    if (!message.has_completion()) continue;
    const v1::Completion& completion = message.completion();
    sample.prompt_tokens = completion.usage().prompt_tokens();
    sample.cached_tokens = completion.usage().cached_tokens();
    sample.completion_tokens += completion.usage().completion_tokens();
    sample.drafted += completion.speculation().drafted();
    sample.accepted += completion.speculation().accepted();
    if (message.index() == 0) answer->session_id = completion.session_id();
  }
  const grpc::Status status = reader->Finish();
  sample.code = CodeText(status.error_code());
  sample.end_to_end = Seconds(Clock::now() - begin);
  if (status.ok()) return std::nullopt;
  sample.problem = connection_.Describe(status, plan_.names, begun);
  return RetryDelay(status);
}

// One that cannot be deleted ends with its lease.
void LoadRun::Delete(const std::string& session_id) {
  v1::DeleteSessionRequest request;
  v1::DeleteSessionResponse response;
  request.set_session_id(session_id);
  grpc::ClientContext context;
  connection_.Prepare(&context);
  sessions_->Delete(&context, request, &response);
}

}  // namespace mambad::cli
