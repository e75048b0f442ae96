#include "server/security/server_credentials.h"

#include <grpc/grpc.h>
#include <grpc/grpc_security.h>
#include <grpc/slice.h>

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace mambad::server {
namespace {

absl::string_view View(const grpc_slice& slice) {
  return {reinterpret_cast<const char*>(GRPC_SLICE_START_PTR(slice)), GRPC_SLICE_LENGTH(slice)};
}

// On gRPC's threads, as the metadata of each call comes.
void CheckCall(void* authenticator, grpc_auth_context* /*connection*/,
               const grpc_metadata* metadata, size_t count, grpc_process_auth_metadata_done_cb done,
               void* done_argument) {
  absl::string_view path;
  Authenticator::Authorization authorization;
  for (size_t i = 0; i < count; ++i) {
    const absl::string_view key = View(metadata[i].key);
    if (key == ":path") path = View(metadata[i].value);
    if (key == "authorization") authorization.push_back(View(metadata[i].value));
  }
  const absl::Status status =
      static_cast<Authenticator*>(authenticator)->Check(path, authorization);
  const std::string words(status.message());
  done(done_argument, nullptr, 0, nullptr, 0, static_cast<grpc_status_code>(status.code()),
       status.ok() ? nullptr : words.c_str());
}

class Credentials final : public grpc::ServerCredentials {
 public:
  Credentials(CurrentCertificate* certificate, Authenticator* authenticator)
      : certificate_(certificate) {
    int64_t version = 0;
    if (certificate == nullptr) {
      credentials_ = grpc_insecure_server_credentials_create();
    } else {
      const bool asks_clients = !certificate->Get(&version).client_ca.empty();
      credentials_ = grpc_ssl_server_credentials_create_with_options(
          grpc_ssl_server_credentials_create_options_using_config_fetcher(
              asks_clients ? GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY
                           : GRPC_SSL_DONT_REQUEST_CLIENT_CERTIFICATE,
              &Credentials::Fetch, this));
    }
    if (authenticator != nullptr) {
      grpc_server_credentials_set_auth_metadata_processor(
          credentials_, {.process = &CheckCall, .destroy = nullptr, .state = authenticator});
    }
  }
  ~Credentials() override { grpc_server_credentials_release(credentials_); }

  void SetAuthMetadataProcessor(
      const std::shared_ptr<grpc::AuthMetadataProcessor>& /*processor*/) override {}

 private:
  int AddPortToServer(const std::string& address, grpc_server* server) override {
    return grpc_server_add_http2_port(server, address.c_str(), credentials_);
  }

  // Before each handshake, one at a time.
  static grpc_ssl_certificate_config_reload_status Fetch(
      void* self, grpc_ssl_server_certificate_config** config) {
    auto* const credentials = static_cast<Credentials*>(self);
    int64_t version = 0;
    const TlsMaterial material = credentials->certificate_->Get(&version);
    if (version == credentials->version_) return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_UNCHANGED;
    const grpc_ssl_pem_key_cert_pair pair = {material.private_key.c_str(),
                                             material.certificate.c_str()};
    // gRPC 1.51 wants authorities even where clients are not asked; then it has no use for them.
    const std::string& authorities =
        material.client_ca.empty() ? material.certificate : material.client_ca;
    *config = grpc_ssl_server_certificate_config_create(authorities.c_str(), &pair, 1);
    credentials->version_ = version;
    return GRPC_SSL_CERTIFICATE_CONFIG_RELOAD_NEW;
  }

  CurrentCertificate* const certificate_;
  grpc_server_credentials* credentials_ = nullptr;
  int64_t version_ = -1;  // Fetch's: of what gRPC has
};

}  // namespace

void CurrentCertificate::Set(TlsMaterial material) {
  MutexLock lock(&mutex_);
  material_ = std::move(material);
  ++version_;
}

TlsMaterial CurrentCertificate::Get(int64_t* version) const {
  MutexLock lock(&mutex_);
  *version = version_;
  return material_;
}

std::shared_ptr<grpc::ServerCredentials> MakeServerCredentials(CurrentCertificate* certificate,
                                                               Authenticator* authenticator) {
  return std::make_shared<Credentials>(certificate, authenticator);
}

}  // namespace mambad::server
