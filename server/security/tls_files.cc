#include "server/security/tls_files.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "server/network/listener.h"

namespace mambad::server {
namespace {

constexpr size_t kLargestPem = 1 << 20;  // bytes

using Bio = std::unique_ptr<BIO, decltype(&BIO_free)>;
using Certificate = std::unique_ptr<X509, decltype(&X509_free)>;
using Key = std::unique_ptr<EVP_PKEY, decltype(&EVP_PKEY_free)>;
using Context = std::unique_ptr<SSL_CTX, decltype(&SSL_CTX_free)>;

// What is wrong, and with which file.
class File {
 public:
  File(absl::string_view key, const std::string& path) : key_(key), path_(path) {}

  absl::Status Fault(absl::string_view what) const {
    ERR_clear_error();
    return absl::InvalidArgumentError(absl::StrCat(key_, ": ", path_, ": ", what));
  }
  // With the reason that OpenSSL gave last.
  absl::Status LibraryFault(absl::string_view what) const {
    const char* reason = ERR_reason_error_string(ERR_peek_last_error());
    return Fault(reason != nullptr ? absl::StrCat(what, " (", reason, ")") : std::string(what));
  }
  absl::StatusOr<std::string> Read() const { return ReadSmallFile(key_, path_, kLargestPem); }

 private:
  const absl::string_view key_;
  const std::string& path_;
};

Bio Memory(const std::string& text) {
  return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())), &BIO_free);
}

// An encrypted key cannot be read: nobody is there to type.
int NoPassword(char*, int, int, void*) { return -1; }

absl::Time TimeOf(const ASN1_TIME* time) {
  tm parts{};
  if (ASN1_TIME_to_tm(time, &parts) != 1) return absl::InfinitePast();
  return absl::FromTM(parts, absl::UTCTimeZone());
}

std::string ForPeople(absl::Time time) {
  return absl::FormatTime("%Y-%m-%d %H:%M:%S UTC", time, absl::UTCTimeZone());
}

// "CN=example.org,O=Example"
std::string SubjectOf(X509* certificate) {
  const Bio text(BIO_new(BIO_s_mem()), &BIO_free);
  X509_NAME_print_ex(text.get(), X509_get_subject_name(certificate), 0, XN_FLAG_RFC2253);
  char* start = nullptr;
  const long size = BIO_get_mem_data(text.get(), &start);  // NOLINT(runtime/int): OpenSSL's type
  std::string subject(start, static_cast<size_t>(std::max(size, 0L)));
  return subject.empty() ? "no name" : subject;
}

absl::StatusOr<std::vector<Certificate>> ReadCertificates(const File& file,
                                                          const std::string& text) {
  std::vector<Certificate> found;
  const Bio memory = Memory(text);
  ERR_clear_error();
  while (X509* one = PEM_read_bio_X509(memory.get(), nullptr, &NoPassword, nullptr))
    found.emplace_back(one, &X509_free);
  const bool ended = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
  if (!ended)
    return file.LibraryFault(absl::StrCat("certificate ", found.size() + 1, " in it is broken"));
  if (found.empty()) return file.Fault("no certificate in it (PEM, BEGIN CERTIFICATE)");
  ERR_clear_error();
  return found;
}

absl::Status CheckTimes(const File& file, X509* certificate, absl::Time now) {
  const absl::Time begin = TimeOf(X509_get0_notBefore(certificate));
  const absl::Time end = TimeOf(X509_get0_notAfter(certificate));
  const std::string who = absl::StrCat("the certificate of ", SubjectOf(certificate));
  if (end <= now) return file.Fault(absl::StrCat(who, " has expired on ", ForPeople(end)));
  if (begin > now) return file.Fault(absl::StrCat(who, " is not valid before ", ForPeople(begin)));
  return absl::OkStatus();
}

// As gRPC will: whatever OpenSSL refuses here, it would refuse at every handshake.
absl::Status CheckPair(const File& certificate, const File& key,
                       const std::vector<Certificate>& chain, const std::string& key_text) {
  const Bio memory = Memory(key_text);
  ERR_clear_error();
  const Key read(PEM_read_bio_PrivateKey(memory.get(), nullptr, &NoPassword, nullptr),
                 &EVP_PKEY_free);
  if (read == nullptr) {
    const int reason = ERR_GET_REASON(ERR_peek_last_error());
    if (reason == PEM_R_BAD_PASSWORD_READ ||
        absl::string_view(key_text).find("ENCRYPTED") != absl::string_view::npos)
      return key.Fault("the key is encrypted: nobody is there to type its password");
    return key.LibraryFault("no private key in it (PEM, BEGIN PRIVATE KEY)");
  }
  const Context context(SSL_CTX_new(TLS_server_method()), &SSL_CTX_free);
  if (context == nullptr) return key.LibraryFault("TLS is not available");
  if (SSL_CTX_use_certificate(context.get(), chain.front().get()) != 1)
    return certificate.LibraryFault("the certificate cannot be used");
  for (size_t i = 1; i < chain.size(); ++i) {
    if (SSL_CTX_add1_chain_cert(context.get(), chain[i].get()) != 1)
      return certificate.LibraryFault(absl::StrCat("certificate ", i + 1, " cannot be used"));
  }
  if (X509_check_private_key(chain.front().get(), read.get()) != 1)
    return key.Fault("the key does not belong to the certificate of tls.certificate");
  if (SSL_CTX_use_PrivateKey(context.get(), read.get()) != 1)
    return key.LibraryFault("the key cannot be used");
  ERR_clear_error();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> ReadSmallFile(absl::string_view key, const std::string& path,
                                          size_t largest) {
  const auto fault = [&](absl::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(key, ": ", path, ": ", what));
  };
  // Not to wait for what is no file, a pipe say.
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat what {};
  if (file.number() < 0 || fstat(file.number(), &what) != 0)
    return fault(absl::StrCat("cannot be read: ", std::strerror(errno)));
  if (!S_ISREG(what.st_mode)) return fault("is not a file");
  std::string text;
  char buffer[16384];
  for (;;) {
    const ssize_t size = read(file.number(), buffer, sizeof(buffer));
    if (size < 0 && errno == EINTR) continue;
    if (size < 0) return fault(absl::StrCat("cannot be read: ", std::strerror(errno)));
    if (size == 0) return text;
    text.append(buffer, static_cast<size_t>(size));
    if (text.size() > largest) return fault(absl::StrCat("larger than ", largest, " bytes"));
  }
}

absl::StatusOr<TlsMaterial> ReadTlsFiles(const TlsOptions& options, absl::Time now) {
  const File certificate("tls.certificate", options.certificate);
  const File key("tls.private_key", options.private_key);
  const File client_ca("tls.client_ca", options.client_ca);
  TlsMaterial material;
  const std::pair<const File*, std::string*> files[] = {{&certificate, &material.certificate},
                                                        {&key, &material.private_key},
                                                        {&client_ca, &material.client_ca}};
  for (const auto& [file, text] : files) {
    if (file == &client_ca && options.client_ca.empty()) continue;
    absl::StatusOr<std::string> read = file->Read();
    if (!read.ok()) return read.status();
    *text = *std::move(read);
  }
  absl::StatusOr<std::vector<Certificate>> chain =
      ReadCertificates(certificate, material.certificate);
  if (!chain.ok()) return chain.status();
  for (const Certificate& one : *chain) {
    if (absl::Status status = CheckTimes(certificate, one.get(), now); !status.ok()) return status;
  }
  if (absl::Status status = CheckPair(certificate, key, *chain, material.private_key); !status.ok())
    return status;
  // By its name: an empty file must not let everybody in.
  if (!options.client_ca.empty()) {
    absl::StatusOr<std::vector<Certificate>> authorities =
        ReadCertificates(client_ca, material.client_ca);
    if (!authorities.ok()) return authorities.status();
    // One that is still good will do: bundles hold old ones beside new ones for a while.
    const bool any_good = std::any_of(
        authorities->begin(), authorities->end(),
        [&](const Certificate& one) { return CheckTimes(client_ca, one.get(), now).ok(); });
    if (!any_good) return CheckTimes(client_ca, authorities->front().get(), now);
  }
  material.subject = SubjectOf(chain->front().get());
  material.not_after = absl::InfiniteFuture();
  for (const Certificate& one : *chain)
    material.not_after = std::min(material.not_after, TimeOf(X509_get0_notAfter(one.get())));
  return material;
}

}  // namespace mambad::server
