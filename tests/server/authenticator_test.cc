#include "server/security/authenticator.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace mambad::server {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

constexpr char kGenerate[] = "/mambad.v1.Generation/Generate";
constexpr char kLoad[] = "/mambad.v1.Generation/GetLoad";
constexpr char kReflection[] = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo";

void Nothing(const absl::Status&) {}

// A token with its entry.
struct Holder {
  explicit Holder(const std::string& principal, unsigned scopes = kScopeGenerate) {
    entry.principal = principal;
    entry.scopes = scopes;
    token = *MakeToken(&entry);
    header = absl::StrCat("Bearer ", token);
  }
  TokenEntry entry;
  std::string token, header;
};

TEST(AuthenticatorTest, WithoutAValidTokenNothingIsAllowed) {
  Holder alice("alice"), stranger("stranger");
  Authenticator authenticator;
  authenticator.Replace({alice.entry});
  EXPECT_TRUE(authenticator.Check(kGenerate, {alice.header}).ok());
  std::string wrong = alice.header;
  wrong.back() = wrong.back() == '0' ? '1' : '0';
  const std::string basic = absl::StrCat("Basic ", alice.token);
  const std::vector<Authenticator::Authorization> refused = {{},
                                                             {""},
                                                             {"Bearer"},
                                                             {"Bearer "},
                                                             {alice.token},
                                                             {basic},
                                                             {wrong},
                                                             {stranger.header},
                                                             {alice.header, alice.header},
                                                             {alice.header, stranger.header}};
  for (const auto& authorization : refused) {
    for (const char* path : {kGenerate, kLoad, kReflection, "/no.Such/Call", ""}) {
      const absl::Status status = authenticator.Check(path, authorization);
      EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated) << status;
      EXPECT_THAT(std::string(status.message()), Not(HasSubstr(alice.token.substr(21))));
    }
  }
  EXPECT_EQ(authenticator.counts().unauthenticated, 5 * static_cast<int64_t>(refused.size()));
  EXPECT_THAT(std::string(authenticator.Check(kGenerate, {wrong}).message()),
              HasSubstr(absl::StrCat("the token ", alice.entry.id, " is not valid")));
  // Health is for all.
  EXPECT_TRUE(authenticator.Check("/grpc.health.v1.Health/Check", {}).ok());
  EXPECT_TRUE(authenticator.Check("/vllm.grpc.engine.VllmEngine/HealthCheck", {}).ok());
  EXPECT_FALSE(authenticator.Check("/vllm.grpc.engine.VllmEngine/HealthCheckMore", {}).ok());
}

TEST(AuthenticatorTest, ScopesReachAsFarAsTheySay) {
  Holder user("user"), keeper("keeper", kScopeSessions), router("router", kScopeAdmin);
  Authenticator authenticator;
  authenticator.Replace({user.entry, keeper.entry, router.entry});
  const auto allowed = [&](const char* path) {
    std::string who;
    for (const Holder* holder : {&user, &keeper, &router}) {
      const absl::Status status = authenticator.Check(path, {holder->header});
      if (status.ok()) absl::StrAppend(&who, holder->entry.principal, " ");
      if (!status.ok()) EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied) << status;
    }
    return who;
  };
  for (const char* method : {"Generate", "GenerateOnce", "Score", "Tokenize", "Detokenize"})
    EXPECT_EQ(allowed(absl::StrCat("/mambad.v1.Generation/", method).c_str()), "user ") << method;
  EXPECT_EQ(allowed("/mambad.v1.Generation/GetModelInfo"), "user keeper router ");
  EXPECT_EQ(allowed(kLoad), "router ");
  EXPECT_EQ(allowed("/mambad.v1.Sessions/List"), "keeper ");
  for (const char* method : {"Generate", "Abort", "GetTokenizer"}) {
    EXPECT_EQ(allowed(absl::StrCat("/vllm.grpc.engine.VllmEngine/", method).c_str()), "user ")
        << method;
  }
  EXPECT_EQ(allowed("/vllm.grpc.engine.VllmEngine/GetModelInfo"), "user keeper router ");
  EXPECT_EQ(allowed("/vllm.grpc.engine.VllmEngine/GetServerInfo"), "router ");
  EXPECT_EQ(allowed("/vllm.grpc.engine.VllmEngine/GetLoads"), "router ");
  EXPECT_EQ(allowed(kReflection), "router ");
  EXPECT_EQ(allowed("/no.Such/Call"), "router ");
  EXPECT_THAT(std::string(authenticator.Check(kLoad, {user.header}).message()),
              HasSubstr("has the scopes generate; this call wants admin"));
}

TEST(AuthenticatorTest, APrincipalHasAsManyCallsAsItsTokensSay) {
  Holder alice("alice"), other("alice"), bob("bob");
  alice.entry.max_calls = other.entry.max_calls = 2;
  Authenticator authenticator;
  authenticator.Replace({alice.entry, other.entry, bob.entry});
  auto first = authenticator.Admit(kGenerate, {alice.header}, Nothing);
  auto second = authenticator.Admit(kGenerate, {other.header}, Nothing);
  ASSERT_TRUE(first.ok() && second.ok());
  const auto third = authenticator.Admit(kGenerate, {alice.header}, Nothing);
  EXPECT_EQ(third.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(third.status().message()),
              HasSubstr("2 calls of alice are running, at most 2"));
  EXPECT_TRUE(authenticator.Admit(kGenerate, {bob.header}, Nothing).ok());
  first->reset();
  EXPECT_TRUE(authenticator.Admit(kGenerate, {alice.header}, Nothing).ok());
  EXPECT_EQ(authenticator.counts().over_limit, 1);
}

TEST(AuthenticatorTest, TokensAMinuteAreWorkedOff) {
  Holder alice("alice");
  alice.entry.tokens_per_minute = 60000;  // 1,000 a second
  Authenticator authenticator;
  authenticator.Replace({alice.entry});
  auto pass = authenticator.Admit(kGenerate, {alice.header}, Nothing);
  ASSERT_TRUE(pass.ok());
  (*pass)->Charge(60000);
  pass->reset();
  // A minute's worth was there, and what is regained in between.
  auto next = authenticator.Admit(kGenerate, {alice.header}, Nothing);
  if (next.ok()) {
    (*next)->Charge(200);
    next->reset();
  }
  const auto refused = authenticator.Admit(kGenerate, {alice.header}, Nothing);
  ASSERT_EQ(refused.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(refused.status().message()),
              HasSubstr("alice has used its 60000 tokens a minute"));
  const absl::Time end = absl::Now() + absl::Seconds(10);
  bool admitted = false;
  while (!admitted && absl::Now() < end) {
    absl::SleepFor(absl::Milliseconds(20));
    admitted = authenticator.Admit(kGenerate, {alice.header}, Nothing).ok();
  }
  EXPECT_TRUE(admitted);
}

TEST(AuthenticatorTest, CallsOfARevokedTokenAreEnded) {
  Holder alice("alice"), bob("bob");
  Authenticator authenticator;
  authenticator.Replace({alice.entry, bob.entry});
  std::vector<std::string> told;
  const auto tell = [&](const absl::Status& status) {
    told.push_back(std::string(status.message()));
    EXPECT_EQ(status.code(), absl::StatusCode::kUnauthenticated);
  };
  auto of_alice = authenticator.Admit(kGenerate, {alice.header}, tell);
  auto of_bob = authenticator.Admit(kGenerate, {bob.header}, tell);
  authenticator.Replace({alice.entry, bob.entry});
  EXPECT_TRUE(told.empty());
  authenticator.Replace({bob.entry});
  EXPECT_THAT(told,
              testing::ElementsAre(absl::StrCat("the token ", alice.entry.id, " was revoked")));
  EXPECT_EQ(authenticator.Check(kGenerate, {alice.header}).code(),
            absl::StatusCode::kUnauthenticated);
  of_alice->reset();
  bob.entry.expires = absl::Now() - absl::Seconds(1);
  authenticator.Replace({bob.entry});
  ASSERT_EQ(told.size(), 2u);
  EXPECT_EQ(told[1], absl::StrCat("the token ", bob.entry.id, " has expired"));
  EXPECT_THAT(std::string(authenticator.Check(kGenerate, {bob.header}).message()),
              HasSubstr("has expired"));
}

TEST(AuthenticatorTest, ATokenThatExpiresEndsItsCalls) {
  Holder alice("alice");
  alice.entry.expires = absl::Now() + absl::Milliseconds(200);
  Authenticator authenticator;
  authenticator.Replace({alice.entry});
  std::atomic<int> told = 0;
  auto pass = authenticator.Admit(kGenerate, {alice.header}, [&](const absl::Status&) { ++told; });
  ASSERT_TRUE(pass.ok()) << pass.status();
  authenticator.EndExpired();
  if (absl::Now() < alice.entry.expires) EXPECT_EQ(told.load(), 0);
  absl::SleepFor(absl::Milliseconds(250));
  authenticator.EndExpired();
  EXPECT_EQ(told.load(), 1);
}

// For ThreadSanitizer: calls come and go while the file is read again.
TEST(AuthenticatorTest, MayBeUsedByManyThreads) {
  Holder alice("alice"), bob("bob");
  alice.entry.max_calls = 3;
  Authenticator authenticator;
  authenticator.Replace({alice.entry, bob.entry});
  std::atomic<bool> over = false;
  std::atomic<int> ended = 0;
  std::vector<std::thread> callers;
  for (int i = 0; i < 4; ++i) {
    callers.emplace_back([&, i] {
      while (!over.load()) {
        auto pass = authenticator.Admit(kGenerate, {(i % 2 == 0 ? alice : bob).header},
                                        [&](const absl::Status&) { ++ended; });
        if (pass.ok()) (*pass)->Charge(1);
      }
    });
  }
  for (int i = 0; i < 200; ++i) {
    authenticator.Replace(i % 2 == 0 ? std::vector<TokenEntry>{bob.entry}
                                     : std::vector<TokenEntry>{alice.entry, bob.entry});
    authenticator.EndExpired();
    absl::SleepFor(absl::Microseconds(200));
  }
  over.store(true);
  for (std::thread& caller : callers) caller.join();
  authenticator.Replace({alice.entry, bob.entry});
  // Nothing is left behind.
  std::vector<std::unique_ptr<CallPass>> passes;
  for (int i = 0; i < 3; ++i)
    passes.push_back(*authenticator.Admit(kGenerate, {alice.header}, Nothing));
  EXPECT_FALSE(authenticator.Admit(kGenerate, {alice.header}, Nothing).ok());
}

}  // namespace
}  // namespace mambad::server
