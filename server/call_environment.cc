#include "server/call_environment.h"

#include <grpc/support/time.h>

#include <cstdint>
#include <iterator>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "engine/retry_delay.h"
#include "mambad/v1/generation.grpc.pb.h"
#include "server/request_conversion.h"
#include "server/response_conversion.h"
#include "server/status_details.h"
#include "server/trace_context.h"

namespace mambad::server {
namespace {

constexpr absl::Duration kRetryAfter = absl::Seconds(1);

// The common name in the client's certificate; empty: it showed none, or one without.
std::string CertificateName(const grpc::ServerContextBase& context) {
  const std::shared_ptr<const grpc::AuthContext> connection = context.auth_context();
  if (connection == nullptr) return "";
  for (const grpc::string_ref& name : connection->FindPropertyValues("x509_common_name"))
    return std::string(name.data(), name.size());
  return "";
}

Authenticator::Authorization AuthorizationOf(const Metadata& metadata) {
  Authenticator::Authorization values;
  const auto [first, last] = metadata.equal_range("authorization");
  for (auto entry = first; entry != last; ++entry)
    values.emplace_back(entry->second.data(), entry->second.size());
  return values;
}

TraceContext TraceOf(const Metadata& metadata) {
  const auto [first, last] = metadata.equal_range("traceparent");
  // Of several it is not known which is meant.
  if (first == last || std::next(first) != last) return {};
  return ParseTraceparent(absl::string_view(first->second.data(), first->second.size()));
}

// An engine's refusal as it goes over the wire.
absl::Status WireStatus(const absl::Status& refused) {
  if (refused.code() != absl::StatusCode::kResourceExhausted) return WithFieldDetails(refused);
  return ExhaustedError(refused.message(), RetryDelayOf(refused));
}

}  // namespace

absl::StatusOr<Engine*> CallEnvironment::ReadyEngine() const {
  if (draining.load()) return absl::UnavailableError("the server is draining");
  Engine* ready = engine.load();
  if (ready == nullptr) return absl::UnavailableError("the server is loading its model");
  return ready;
}

bool OpenCalls::Enter() {
  MutexLock lock(&mutex_);
  if (closed_) return false;
  ++count_;
  return true;
}

void OpenCalls::Close() {
  MutexLock lock(&mutex_);
  closed_ = true;
}

int OpenCalls::count() const {
  MutexLock lock(&mutex_);
  return count_;
}

void OpenCalls::Leave() {
  MutexLock lock(&mutex_);
  if (--count_ == 0) none_.NotifyAll();
}

bool OpenCalls::WaitUntilNone(absl::Time deadline) {
  MutexLock lock(&mutex_);
  while (count_ > 0) {
    if (!none_.WaitUntil(&mutex_, deadline)) return false;
  }
  return true;
}

const v1::Limits& CallEnvironment::Limits(const Engine& ready_engine) {
  std::call_once(limits_made, [&] { limits = EffectiveLimits(ready_engine, options.limits); });
  return limits;
}

absl::Status CallEnvironment::FinishStatus(const TokenEvent& event) const {
  absl::Status status = server::FinishStatus(event.finish, event.error, draining.load());
  // Whose call was cut goes on elsewhere.
  if (absl::IsUnavailable(status) && event.session.has_value()) {
    return absl::UnavailableError(absl::StrCat(status.message(), ": session ", event.session->id,
                                               " is kept at position ", event.session->position,
                                               ", state_digest ", event.session->digest));
  }
  if (status.code() != absl::StatusCode::kResourceExhausted) return status;
  return ExhaustedError(status.message(), RetryDelayOf(event.error));
}

absl::Status CheckMetadata(const Metadata& metadata) {
  constexpr size_t kOfEach = 32;
  size_t bytes = 0;
  for (const auto& [key, value] : metadata) bytes += key.size() + value.size() + kOfEach;
  if (bytes <= size_t{kMostMetadataBytes}) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrCat("the call's metadata has ", bytes,
                                                   " bytes, allowed at most ", kMostMetadataBytes));
}

absl::Time SteadyDeadline(const grpc::CallbackServerContext& context) {
  const gpr_timespec deadline = gpr_convert_clock_type(context.raw_deadline(), GPR_CLOCK_MONOTONIC);
  if (gpr_time_cmp(deadline, gpr_inf_future(GPR_CLOCK_MONOTONIC)) >= 0)
    return absl::InfiniteFuture();
  const gpr_timespec left = gpr_time_sub(deadline, gpr_now(GPR_CLOCK_MONOTONIC));
  // What no clock of ours reaches is the same as none.
  constexpr int64_t kFarSeconds = int64_t{100} * 365 * 24 * 3600;
  if (left.tv_sec > kFarSeconds) return absl::InfiniteFuture();
  return SteadyNow() + absl::Seconds(left.tv_sec) + absl::Nanoseconds(left.tv_nsec);
}

std::string PrincipalOfPeer(absl::string_view peer) {
  const bool has_port = absl::StartsWith(peer, "ipv4:") || absl::StartsWith(peer, "ipv6:");
  return std::string(has_port ? peer.substr(0, peer.rfind(':')) : peer);
}

absl::Status EngineTicket::Submit(Engine* engine, Request request,
                                  std::shared_ptr<AnswerReader> sink,
                                  std::shared_ptr<NamedAnswer> named) {
  if (named != nullptr) {
    const AnswerReader* reader = sink.get();
    const absl::Status joined = Attach(named, std::move(sink));
    if (joined.ok()) return SubmitNamed(engine, std::move(request), named, reader);
    named->Failed(joined);
    return joined;
  }
  {
    MutexLock lock(&mutex_);
    if (cancelled_) return absl::CancelledError("cancelled");
  }
  absl::StatusOr<RequestId> id = engine->Submit(std::move(request), std::move(sink));
  if (!id.ok()) return WireStatus(id.status());
  bool cancel = false, resume = false;
  {
    MutexLock lock(&mutex_);
    engine_ = engine;
    id_ = *id;
    cancel = cancelled_;
    resume = resumed_;
  }
  if (cancel) engine->Cancel(*id);
  if (resume) engine->Resume(*id);
  return absl::OkStatus();
}

// Others may wait for the answer already: whatever becomes of it they are told. A reader that is no
// longer told anything has ended its call.
absl::Status EngineTicket::SubmitNamed(Engine* engine, Request request,
                                       const std::shared_ptr<NamedAnswer>& named,
                                       const AnswerReader* reader) {
  const absl::StatusOr<RequestId> id = engine->Submit(std::move(request), named);
  if (id.ok()) {
    named->Submitted(engine, *id);
    return absl::OkStatus();
  }
  const bool was_reading = named->Leave(reader);
  named->Failed(id.status());
  return was_reading ? WireStatus(id.status()) : absl::OkStatus();
}

absl::Status EngineTicket::Join(std::shared_ptr<NamedAnswer> named,
                                std::shared_ptr<AnswerReader> sink) {
  if (!named->is_told()) return Attach(std::move(named), std::move(sink));
  MutexLock lock(&mutex_);
  if (cancelled_) return absl::CancelledError("cancelled");
  waits_ = true;
  const absl::Duration pause = named->take_over_pause();
  take_over_.Start(pause, [this, named = std::move(named), sink = std::move(sink)] {
    Attach(named, sink).IgnoreError();  // that it was cancelled: whoever did so has ended the call
  });
  return absl::OkStatus();
}

absl::Status EngineTicket::Attach(std::shared_ptr<NamedAnswer> named,
                                  std::shared_ptr<AnswerReader> sink) {
  const AnswerReader* reader = sink.get();
  {
    MutexLock lock(&mutex_);
    waits_ = false;
    if (cancelled_) return absl::CancelledError("cancelled");
    named_ = named;
    reader_ = reader;
  }
  named->Attach(std::move(sink));
  bool cancelled = false;
  {
    MutexLock lock(&mutex_);
    cancelled = cancelled_;
  }
  // Before it was attached: whoever cancelled it has ended the call.
  if (cancelled) named->Detach(reader, /*may_return=*/true);
  return absl::OkStatus();
}

bool EngineTicket::Cancel(bool may_return) {
  Engine* engine;
  RequestId id;
  std::shared_ptr<NamedAnswer> named;
  const AnswerReader* reader;
  {
    MutexLock lock(&mutex_);
    cancelled_ = true;
    if (waits_) {
      take_over_.Stop();
      return true;
    }
    engine = engine_;
    id = id_;
    named = named_;
    reader = reader_;
  }
  if (named != nullptr) return named->Detach(reader, may_return);
  if (engine != nullptr) engine->Cancel(id);
  return false;
}

void EngineTicket::Resume() {
  Engine* engine;
  RequestId id;
  std::shared_ptr<NamedAnswer> named;
  const AnswerReader* reader;
  {
    MutexLock lock(&mutex_);
    resumed_ = true;
    engine = engine_;
    id = id_;
    named = named_;
    reader = reader_;
  }
  if (named != nullptr) return named->Resume(reader);
  if (engine != nullptr) engine->Resume(id);
}

RequestId EngineTicket::id() const {
  MutexLock lock(&mutex_);
  return named_ != nullptr ? named_->id() : id_;
}

CallRecord::CallRecord(CallEnvironment* environment, grpc::CallbackServerContext* context,
                       absl::string_view method, absl::string_view service)
    : environment_(environment),
      counted_(environment->open_calls.Enter()),
      context_(context),
      method_(method),
      service_(service),
      arrival_(SteadyNow()) {}

CallRecord::~CallRecord() {
  pass_.reset();
  if (counted_) environment_->open_calls.Leave();
}

absl::Status CallRecord::Admit(std::function<void(const absl::Status&)> end) {
  if (absl::Status status = CheckMetadata(context_->client_metadata()); !status.ok()) return status;
  const int most = environment_->options.max_calls;
  if (const int calls = environment_->open_calls.count(); calls > most) {
    return ExhaustedError(absl::StrCat(calls, " calls are open, at most ", most), kRetryAfter);
  }
  const std::string peer = context_->peer();
  principal_ = PrincipalOfPeer(peer);
  owner_ = peer;
  if (environment_->authenticator != nullptr) {
    absl::StatusOr<std::unique_ptr<CallPass>> pass = environment_->authenticator->Admit(
        absl::StrCat("/", service_, "/", method_), AuthorizationOf(context_->client_metadata()),
        std::move(end));
    if (!pass.ok()) return pass.status();
    pass_ = *std::move(pass);
    principal_ = owner_ = pass_->principal();
    is_known_ = true;
  } else if (!environment_->options.tls.client_ca.empty()) {
    if (const std::string name = CertificateName(*context_); !name.empty()) {
      principal_ = owner_ = absl::StrCat("certificate:", name);
      is_known_ = true;
    }
  }
  return absl::OkStatus();
}

void CallRecord::OnEvent(const TokenEvent& event) {
  if (!has_token_ && !event.tokens.empty()) {
    has_token_ = true;
    environment_->metrics.RecordFirstToken(SteadyNow() - arrival_);
  }
  if (event.finish == FinishReason::kNone) return;
  const v1::FinishReason reason = WireFinishReason(event.finish);
  absl::StrAppend(
      &finish_reasons_, finish_reasons_.empty() ? "" : ",",
      reason == v1::FINISH_REASON_UNSPECIFIED ? "ERROR" : v1::FinishReason_Name(reason));
  if (!event.stats.has_value()) return;
  environment_->metrics.RecordSample(event.finish, *event.stats);
  if (stats_.has_value()) {
    stats_->completion_tokens += event.stats->completion_tokens;
  } else {
    stats_ = *event.stats;
  }
}

void CallRecord::OnMessage(int index) {
  const absl::Time now = SteadyNow();
  const auto position = static_cast<size_t>(index);
  if (last_message_.size() <= position) last_message_.resize(position + 1, absl::InfinitePast());
  if (last_message_[position] != absl::InfinitePast()) {
    environment_->metrics.RecordMessage(now - last_message_[position]);
  }
  last_message_[position] = now;
}

void CallRecord::End(const absl::Status& status, RequestId engine_id) {
  RequestSummary summary;
  summary.method = method_;
  summary.request_id = request_id_;
  summary.engine_id = engine_id;
  if (is_known_) summary.principal = principal_;
  summary.trace = TraceOf(context_->client_metadata());
  summary.status = status;
  summary.finish_reasons = finish_reasons_;
  if (stats_.has_value()) summary.stats = *stats_;
  summary.duration = SteadyNow() - arrival_;
  if (!status.ok()) summary.peer = context_->peer();
  if (pass_ != nullptr && stats_.has_value())
    pass_->Charge(stats_->prompt_tokens + stats_->completion_tokens);
  environment_->metrics.RecordCall(method_, status, summary.duration, stats_.has_value());
  // Routers ask for the load all the time: only what goes wrong with such calls is news.
  if (!status.ok() || stats_.has_value()) environment_->log.RequestEnd(summary);
}

}  // namespace mambad::server
