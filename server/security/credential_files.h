// The daemon's credentials as files: read at the start, and again whenever they change or somebody
// asks for it. What cannot be used leaves in force what was.

#ifndef MAMBAD_SERVER_SECURITY_CREDENTIAL_FILES_H_
#define MAMBAD_SERVER_SECURITY_CREDENTIAL_FILES_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "engine/mutex.h"
#include "server/metric_families.h"
#include "server/request_log.h"
#include "server/security/authenticator.h"
#include "server/security/server_credentials.h"
#include "server/server_options.h"

namespace mambad::server {

// One thread uses it, but for Reload; a thread of its own looks at the files.
class CredentialFiles {
 public:
  // Reads and checks the files that `options` name. INVALID_ARGUMENT naming key, file and fault.
  static absl::Status Check(const ServerOptions& options);

  // The same and keeps what they hold; `log` outlives it. With Watch, changes are looked for.
  static absl::StatusOr<std::unique_ptr<CredentialFiles>> Open(const ServerOptions& options,
                                                               RequestLog* log);
  ~CredentialFiles();  // as Stop

  // Looks at the files every `interval` until the end. A change counts once it has stood still for
  // that long: certificate and key are two files.
  void Watch(absl::Duration interval = absl::Seconds(1));
  // Ends looking: no call is told anything afterwards. Idempotent.
  void Stop();
  // Reads them again now, changed or not. From any thread; does not wait.
  void Reload();

  CurrentCertificate* certificate() { return certificate_.get(); }  // nullptr: no TLS
  Authenticator* authenticator() { return authenticator_.get(); }   // nullptr: no tokens
  // What is asked of callers, and what is in use, to the log. Later changes are told by themselves.
  void Report() const;
  void AddFamilies(MetricFamilies* families) const;

 private:
  // Which version of a file it is, as far as the system tells without reading it.
  using Version = std::vector<int64_t>;

  CredentialFiles(const ServerOptions& options, RequestLog* log) : options_(options), log_(log) {}

  Version Look() const;
  void Run(absl::Duration interval);
  void ReadAgain();
  void ReportCertificate() const;
  void ReportTokens() const;
  void UseTokens(const std::vector<TokenEntry>& entries);
  void UseCertificate(TlsMaterial material);

  const ServerOptions options_;
  RequestLog* const log_;
  std::unique_ptr<CurrentCertificate> certificate_;
  std::unique_ptr<Authenticator> authenticator_;
  std::atomic<int64_t> tokens_{0}, principals_{0};
  std::atomic<int64_t> not_after_seconds_{0};  // of the certificate, since the Unix epoch
  std::atomic<int64_t> reloads_{0};
  std::atomic<int64_t> failed_reloads_{0};

  Mutex mutex_;
  Condition news_;
  bool asked_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_SECURITY_CREDENTIAL_FILES_H_
