#include "server/security/credential_files.h"

#include <sys/stat.h>

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "engine/steady_time.h"
#include "server/security/tls_files.h"
#include "server/security/token_file.h"

namespace mambad::server {
namespace {

// What is to be told of a certificate while there is time to renew it.
constexpr absl::Duration kSoon = absl::Hours(7 * 24);

absl::StatusOr<std::vector<TokenEntry>> ReadTokens(const std::string& path) {
  absl::StatusOr<std::string> text = ReadSmallFile("auth.token_file", path, kLargestTokenFile);
  if (!text.ok()) return text.status();
  absl::StatusOr<std::vector<TokenEntry>> entries = ParseTokenFile(path, *text);
  if (entries.ok()) return entries;
  return absl::InvalidArgumentError(absl::StrCat("auth.token_file: ", entries.status().message()));
}

std::string Day(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M UTC", time, absl::UTCTimeZone());
}

}  // namespace

absl::Status CredentialFiles::Check(const ServerOptions& options) {
  if (!options.tls.certificate.empty()) {
    if (auto read = ReadTlsFiles(options.tls, absl::Now()); !read.ok()) return read.status();
  }
  if (options.token_file.empty()) return absl::OkStatus();
  return ReadTokens(options.token_file).status();
}

absl::StatusOr<std::unique_ptr<CredentialFiles>> CredentialFiles::Open(const ServerOptions& options,
                                                                       RequestLog* log) {
  std::unique_ptr<CredentialFiles> files(new CredentialFiles(options, log));
  if (!options.tls.certificate.empty()) {
    absl::StatusOr<TlsMaterial> material = ReadTlsFiles(options.tls, absl::Now());
    if (!material.ok()) return material.status();
    files->UseCertificate(*std::move(material));
  }
  if (!options.token_file.empty()) {
    absl::StatusOr<std::vector<TokenEntry>> entries = ReadTokens(options.token_file);
    if (!entries.ok()) return entries.status();
    files->authenticator_ = std::make_unique<Authenticator>();
    files->UseTokens(*entries);
  }
  return files;
}

CredentialFiles::~CredentialFiles() { Stop(); }

void CredentialFiles::Stop() {
  {
    MutexLock lock(&mutex_);
    stopped_ = true;
    news_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

void CredentialFiles::Watch(absl::Duration interval) {
  if (certificate_ == nullptr && authenticator_ == nullptr) return;
  thread_ = std::thread([this, interval] { Run(interval); });
}

void CredentialFiles::Reload() {
  MutexLock lock(&mutex_);
  asked_ = true;
  news_.NotifyAll();
}

void CredentialFiles::Run(absl::Duration interval) {
  Version used = Look(), last = used;
  for (;;) {
    bool asked = false;
    {
      MutexLock lock(&mutex_);
      const absl::Time end = SteadyNow() + interval;
      while (!stopped_ && !asked_ && news_.WaitUntil(&mutex_, end)) {
      }
      if (stopped_) return;
      asked = std::exchange(asked_, false);
    }
    Version now = Look();
    if (asked || (now != used && now == last)) {
      used = now;
      ReadAgain();
    }
    last = std::move(now);
    if (authenticator_ != nullptr) authenticator_->EndExpired();
  }
}

CredentialFiles::Version CredentialFiles::Look() const {
  Version version;
  for (const std::string& path : {options_.tls.certificate, options_.tls.private_key,
                                  options_.tls.client_ca, options_.token_file}) {
    struct stat what {};
    if (path.empty() || stat(path.c_str(), &what) != 0) what = {};
    for (const int64_t part : {int64_t(what.st_dev), int64_t(what.st_ino), int64_t(what.st_size),
                               int64_t(what.st_mtim.tv_sec), int64_t(what.st_mtim.tv_nsec),
                               int64_t(what.st_ctim.tv_sec), int64_t(what.st_ctim.tv_nsec)}) {
      version.push_back(part);
    }
  }
  return version;
}

// Each by itself: a broken certificate does not keep a token alive that was revoked.
void CredentialFiles::ReadAgain() {
  const auto failed = [this](const absl::Status& status, absl::string_view what) {
    failed_reloads_.fetch_add(1);
    log_->Error(absl::StrCat("not reloaded: ", status.message(), "; ", what, " stays in use"));
  };
  if (certificate_ != nullptr) {
    absl::StatusOr<TlsMaterial> material = ReadTlsFiles(options_.tls, absl::Now());
    if (material.ok()) {
      UseCertificate(*std::move(material));
      ReportCertificate();
      reloads_.fetch_add(1);
    } else {
      failed(material.status(), "the earlier certificate");
    }
  }
  if (authenticator_ != nullptr) {
    absl::StatusOr<std::vector<TokenEntry>> entries = ReadTokens(options_.token_file);
    if (entries.ok()) {
      UseTokens(*entries);
      ReportTokens();
      reloads_.fetch_add(1);
    } else {
      failed(entries.status(), "what the file said before");
    }
  }
}

void CredentialFiles::UseTokens(const std::vector<TokenEntry>& entries) {
  std::set<std::string> principals;
  for (const TokenEntry& entry : entries) principals.insert(entry.principal);
  tokens_.store(static_cast<int64_t>(entries.size()));
  principals_.store(static_cast<int64_t>(principals.size()));
  authenticator_->Replace(entries);
}

void CredentialFiles::ReportTokens() const {
  log_->Info(absl::StrCat("tokens: ", tokens_.load(), " of ", principals_.load(), " principals in ",
                          options_.token_file));
  if (tokens_.load() == 0) log_->Warning("tokens: there are none, every call will be refused");
}

void CredentialFiles::UseCertificate(TlsMaterial material) {
  not_after_seconds_.store(absl::ToUnixSeconds(material.not_after));
  if (certificate_ == nullptr) {
    certificate_ = std::make_unique<CurrentCertificate>(std::move(material));
  } else {
    certificate_->Set(std::move(material));
  }
}

void CredentialFiles::ReportCertificate() const {
  int64_t version = 0;
  const TlsMaterial material = certificate_->Get(&version);
  log_->Info(
      absl::StrCat("TLS: certificate of ", material.subject, " until ", Day(material.not_after)));
  if (material.not_after - absl::Now() < kSoon)
    log_->Warning(absl::StrCat("tls.certificate: expires soon: on ", Day(material.not_after)));
}

void CredentialFiles::Report() const {
  const bool asks_certificates = !options_.tls.client_ca.empty();
  std::vector<std::string> asked;
  if (asks_certificates) asked.push_back("a certificate");
  if (authenticator_ != nullptr) asked.push_back("a token");
  log_->Info(absl::StrCat("security: ", certificate_ != nullptr ? "TLS" : "no TLS", "; ",
                          asked.empty()
                              ? "callers are not asked who they are"
                              : absl::StrCat("callers must show ", absl::StrJoin(asked, " and "))));
  if (certificate_ != nullptr) ReportCertificate();
  if (authenticator_ != nullptr) ReportTokens();
}

void CredentialFiles::AddFamilies(MetricFamilies* families) const {
  if (certificate_ != nullptr) {
    families->Gauge("mambad_tls_certificate_expiry_timestamp_seconds",
                    "When the certificate in use ends, in seconds since the Unix epoch",
                    static_cast<double>(not_after_seconds_.load()));
  }
  if (certificate_ != nullptr || authenticator_ != nullptr) {
    constexpr char kHelp[] = "Files of credentials that were read again, by what came of it";
    families->Counter("mambad_credential_reloads_total", kHelp,
                      static_cast<double>(reloads_.load()), {{"result", "used"}});
    families->Counter("mambad_credential_reloads_total", kHelp,
                      static_cast<double>(failed_reloads_.load()), {{"result", "refused"}});
  }
  if (authenticator_ == nullptr) return;
  families->Gauge("mambad_tokens", "Tokens that callers may show",
                  static_cast<double>(tokens_.load()));
  const RefusalCounts counts = authenticator_->counts();
  const auto refused = [&](int64_t value, const char* reason) {
    families->Counter("mambad_calls_refused_total",
                      "Calls that were refused for who made them, by why",
                      static_cast<double>(value), {{"reason", reason}});
  };
  refused(counts.unauthenticated, "unauthenticated");
  refused(counts.permission_denied, "permission_denied");
  refused(counts.over_limit, "over_limit");
}

}  // namespace mambad::server
