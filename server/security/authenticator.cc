#include "server/security/authenticator.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "engine/steady_time.h"
#include "server/security/token_file.h"
#include "server/status_details.h"

namespace mambad::server {
namespace {

// Where nothing tells how long a call of the principal will run.
constexpr absl::Duration kRetryAfter = absl::Seconds(1);

// What calls whose path begins so want of a token; any scope will do for the others.
struct PathRule {
  absl::string_view prefix;
  unsigned scopes;
};
constexpr PathRule kRules[] = {
    {"/mambad.v1.Generation/GetLoad", kScopeAdmin},
    {"/mambad.v1.Generation/GetModelInfo", kScopeGenerate | kScopeSessions | kScopeAdmin},
    {"/mambad.v1.Generation/", kScopeGenerate},
    {"/mambad.v1.Sessions/", kScopeSessions},
    {"/vllm.grpc.engine.VllmEngine/GetLoads", kScopeAdmin},
    {"/vllm.grpc.engine.VllmEngine/GetServerInfo", kScopeAdmin},
    {"/vllm.grpc.engine.VllmEngine/GetModelInfo", kScopeGenerate | kScopeSessions | kScopeAdmin},
    {"/vllm.grpc.engine.VllmEngine/", kScopeGenerate},
};
// Probes of orchestrators have no token to show; what they learn is whether requests are served.
constexpr absl::string_view kHealth = "/grpc.health.v1.Health/";
constexpr absl::string_view kVllmHealth = "/vllm.grpc.engine.VllmEngine/HealthCheck";

// One of them is enough.
unsigned ScopesFor(absl::string_view path) {
  for (const PathRule& rule : kRules) {
    if (absl::StartsWith(path, rule.prefix)) return rule.scopes;
  }
  return kScopeAdmin;
}

absl::Status Unauthenticated(absl::string_view words) { return absl::UnauthenticatedError(words); }

}  // namespace

CallPass::~CallPass() { owner_->Leave(this); }

void CallPass::Charge(int64_t tokens) { owner_->Charge(*this, tokens); }

absl::Status Authenticator::Check(absl::string_view path, const Authorization& authorization) {
  if (absl::StartsWith(path, kHealth) || path == kVllmHealth) return absl::OkStatus();
  MutexLock lock(&mutex_);
  return Counted(Find(path, authorization).status());
}

absl::StatusOr<std::unique_ptr<CallPass>> Authenticator::Admit(
    absl::string_view path, const Authorization& authorization,
    std::function<void(const absl::Status&)> end) {
  MutexLock lock(&mutex_);
  absl::StatusOr<const TokenEntry*> entry = Find(path, authorization);
  const absl::Status status = entry.ok() ? CheckUsage(**entry) : entry.status();
  if (!status.ok()) return Counted(status);
  std::unique_ptr<CallPass> pass(new CallPass(this, **entry, std::move(end)));
  ++usages_[pass->principal()].calls;
  running_.insert(pass.get());
  return pass;
}

absl::StatusOr<const TokenEntry*> Authenticator::Find(absl::string_view path,
                                                      const Authorization& authorization) const {
  if (authorization.empty())
    return Unauthenticated("no credentials: expected the header \"authorization: Bearer TOKEN\"");
  if (authorization.size() > 1) return Unauthenticated("more than one authorization header");
  absl::string_view token = authorization[0];
  if (!absl::ConsumePrefix(&token, "Bearer ") && !absl::ConsumePrefix(&token, "bearer "))
    return Unauthenticated("expected the header \"authorization: Bearer TOKEN\"");
  const absl::StatusOr<TokenParts> parts = SplitToken(token);
  if (!parts.ok()) return Unauthenticated(parts.status().message());
  const auto found = entries_.find(parts->id);
  // An id that is not known costs the same work as a wrong secret does.
  const TokenEntry& entry = found != entries_.end() ? found->second : nobody_;
  if (!HasSecret(entry, parts->secret))
    return Unauthenticated(absl::StrCat("the token ", parts->id, " is not valid"));
  if (entry.expires <= absl::Now())
    return Unauthenticated(absl::StrCat("the token ", entry.id, " has expired"));
  if (const unsigned scopes = ScopesFor(path); (entry.scopes & scopes) == 0) {
    return absl::PermissionDeniedError(absl::StrCat("the token ", entry.id, " has the scopes ",
                                                    FormatScopes(entry.scopes),
                                                    "; this call wants ", FormatScopes(scopes)));
  }
  return &entry;
}

absl::Status Authenticator::CheckUsage(const TokenEntry& entry) {
  Usage& usage = usages_[entry.principal];
  if (entry.max_calls > 0 && usage.calls >= entry.max_calls) {
    return ExhaustedError(absl::StrCat(usage.calls, " calls of ", entry.principal,
                                       " are running, at most ", entry.max_calls),
                          kRetryAfter);
  }
  if (entry.tokens_per_minute == 0) return absl::OkStatus();
  Refill(entry, &usage);
  if (usage.balance > 0) return absl::OkStatus();
  const double per_second = static_cast<double>(entry.tokens_per_minute) / 60;
  return ExhaustedError(
      absl::StrCat(entry.principal, " has used its ", entry.tokens_per_minute, " tokens a minute"),
      absl::Seconds((1 - usage.balance) / per_second));
}

// As a bucket that holds a minute's worth: who was quiet may take that much at once, and what was
// taken beyond it must be waited for.
void Authenticator::Refill(const TokenEntry& entry, Usage* usage) {
  const absl::Time now = SteadyNow();
  const auto full = static_cast<double>(entry.tokens_per_minute);
  const double gained = full * absl::ToDoubleSeconds(now - usage->balance_at) / 60;
  usage->balance = std::min(full, usage->balance + gained);
  usage->balance_at = now;
}

absl::Status Authenticator::Counted(const absl::Status& status) {
  if (status.code() == absl::StatusCode::kUnauthenticated) ++counts_.unauthenticated;
  if (status.code() == absl::StatusCode::kPermissionDenied) ++counts_.permission_denied;
  if (status.code() == absl::StatusCode::kResourceExhausted) ++counts_.over_limit;
  return status;
}

void Authenticator::Replace(const std::vector<TokenEntry>& entries) {
  {
    MutexLock lock(&mutex_);
    entries_.clear();
    for (const TokenEntry& entry : entries) entries_.emplace(entry.id, entry);
  }
  EndInvalid();
}

void Authenticator::EndExpired() { EndInvalid(); }

void Authenticator::EndInvalid() {
  const absl::Time now = absl::Now();
  std::vector<std::pair<std::function<void(const absl::Status&)>, absl::Status>> ended;
  {
    MutexLock lock(&mutex_);
    for (const CallPass* pass : running_) {
      const auto found = entries_.find(pass->token_id_);
      const bool is_gone = found == entries_.end() || found->second.principal != pass->principal_;
      if (!is_gone && found->second.expires > now) continue;
      ended.emplace_back(pass->end_,
                         Unauthenticated(absl::StrCat("the token ", pass->token_id_,
                                                      is_gone ? " was revoked" : " has expired")));
    }
  }
  for (const auto& [end, why] : ended) end(why);
}

void Authenticator::Leave(CallPass* pass) {
  MutexLock lock(&mutex_);
  running_.erase(pass);
  const auto usage = usages_.find(pass->principal_);
  if (--usage->second.calls > 0) return;
  // Of who has a bound of tokens, what was charged is remembered.
  if (usage->second.balance_at == absl::InfinitePast()) usages_.erase(usage);
}

void Authenticator::Charge(const CallPass& pass, int64_t tokens) {
  MutexLock lock(&mutex_);
  const auto found = entries_.find(pass.token_id_);
  if (found == entries_.end() || found->second.tokens_per_minute == 0) return;
  Usage& usage = usages_[pass.principal_];
  Refill(found->second, &usage);
  usage.balance -= static_cast<double>(tokens);
}

RefusalCounts Authenticator::counts() const {
  MutexLock lock(&mutex_);
  return counts_;
}

}  // namespace mambad::server
