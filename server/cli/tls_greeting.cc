#include "server/cli/tls_greeting.h"

#include <arpa/inet.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>

#include <algorithm>
#include <functional>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace mambad::cli {
namespace {

using Context = std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)>;
using Session = std::unique_ptr<SSL, decltype(&SSL_free)>;
using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;

// OpenSSL writes as to a file: where the peer is gone, that would end the program.
class NoBrokenPipe {
 public:
  NoBrokenPipe() {
    sigemptyset(&signal_);
    sigaddset(&signal_, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &signal_, &before_);
  }
  ~NoBrokenPipe() {
    const timespec now{};
    sigtimedwait(&signal_, nullptr, &now);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  NoBrokenPipe(const NoBrokenPipe&) = delete;
  NoBrokenPipe& operator=(const NoBrokenPipe&) = delete;

 private:
  sigset_t signal_, before_;
};

Bio Memory(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), &BIO_free);
}

void Trust(SSL_CTX* context, const std::string& authorities) {
  if (authorities.empty()) {
    SSL_CTX_set_default_verify_paths(context);
    return;
  }
  const Bio memory = Memory(authorities);
  while (X509* one = PEM_read_bio_X509(memory.get(), nullptr, nullptr, nullptr)) {
    X509_STORE_add_cert(SSL_CTX_get_cert_store(context), one);
    X509_free(one);
  }
}

// False: a file holds no certificate or key.
bool PresentCertificate(SSL_CTX* context, const ClientSecurity& security) {
  if (security.certificate.empty()) return true;
  const Bio certificate = Memory(security.certificate), key = Memory(security.private_key);
  X509* const own = PEM_read_bio_X509(certificate.get(), nullptr, nullptr, nullptr);
  EVP_PKEY* const own_key = PEM_read_bio_PrivateKey(key.get(), nullptr, nullptr, nullptr);
  const bool good = own != nullptr && own_key != nullptr &&
                    SSL_CTX_use_certificate(context, own) == 1 &&
                    SSL_CTX_use_PrivateKey(context, own_key) == 1;
  X509_free(own);
  EVP_PKEY_free(own_key);
  return good;
}

// As often as the socket has something new, until `step` is done, fails, or `end` comes: its last
// result, and SSL_get_error of it.
int Repeat(SSL* session, int descriptor, absl::Time end, const std::function<int()>& step,
           int* error) {
  for (;;) {
    ERR_clear_error();
    const int result = step();
    *error = SSL_get_error(session, result);
    if (*error != SSL_ERROR_WANT_READ && *error != SSL_ERROR_WANT_WRITE) return result;
    pollfd entry{descriptor,
                 static_cast<short>(  // NOLINT(runtime/int): poll's type
                     *error == SSL_ERROR_WANT_READ ? POLLIN : POLLOUT),
                 0};
    const int64_t left = absl::ToInt64Milliseconds(end - absl::Now());
    if (poll(&entry, 1, static_cast<int>(std::max<int64_t>(left, 0))) == 0) return result;
  }
}

Probe ConnectFault(SSL* session, int error) {
  if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE)
    return {ProbeResult::kSilent, ""};
  if (const auto verified = SSL_get_verify_result(session); verified != X509_V_OK)
    return {ProbeResult::kUntrusted, X509_verify_cert_error_string(verified)};
  const auto code = ERR_peek_last_error();
  const int reason = ERR_GET_REASON(code);
  if (reason == SSL_R_WRONG_VERSION_NUMBER || reason == SSL_R_PACKET_LENGTH_TOO_LONG ||
      reason == SSL_R_HTTP_REQUEST) {
    return {ProbeResult::kNoTls, ""};
  }
  const char* const words = ERR_reason_error_string(code);
  if (words == nullptr) return {ProbeResult::kClosed, ""};
  return {ProbeResult::kTlsRefused, words};
}

}  // namespace

Probe GreetOverTls(int descriptor, const std::string& host, const ClientSecurity& security,
                   absl::Time end) {
  const NoBrokenPipe no_broken_pipe;
  const Context context(SSL_CTX_new(TLS_client_method()), &SSL_CTX_free);
  if (context == nullptr) return {ProbeResult::kTlsRefused, "TLS is not available"};
  Trust(context.get(), security.authorities);
  if (!PresentCertificate(context.get(), security))
    return {ProbeResult::kTlsRefused, "--cert and --key do not belong together"};
  SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  const unsigned char protocols[] = {2, 'h', '2'};
  SSL_CTX_set_alpn_protos(context.get(), protocols, sizeof(protocols));
  const Session session(SSL_new(context.get()), &SSL_free);
  in6_addr ignored{};
  if (inet_pton(AF_INET, host.c_str(), &ignored) == 1 ||
      inet_pton(AF_INET6, host.c_str(), &ignored) == 1) {
    X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(session.get()), host.c_str());
  } else {
    SSL_set1_host(session.get(), host.c_str());
    SSL_set_tlsext_host_name(session.get(), host.c_str());
  }
  SSL_set_fd(session.get(), descriptor);
  int error = 0;
  SSL* const raw = session.get();
  if (Repeat(
          raw, descriptor, end, [raw] { return SSL_connect(raw); }, &error) != 1)
    return ConnectFault(raw, error);
  // In TLS 1.3 the server judges the client's certificate after the client's last word.
  Repeat(
      raw, descriptor, end,
      [raw] {
        return SSL_write(raw, kHttp2Preface.data(), static_cast<int>(kHttp2Preface.size()));
      },
      &error);
  char answer[16];
  if (Repeat(
          raw, descriptor, end, [&] { return SSL_read(raw, answer, sizeof(answer)); }, &error) <= 0)
    return ConnectFault(raw, error);
  return {ProbeResult::kHttp2, ""};
}

}  // namespace mambad::cli
