// Every setting of the daemon in one struct, and the YAML file it is read from. Parsed once,
// validated once, passed as const.

#ifndef MAMBAD_SERVER_SERVER_OPTIONS_H_
#define MAMBAD_SERVER_SERVER_OPTIONS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "engine/options.h"

namespace mambad::server {

enum class LogFormat { kPlain, kJson };
// What the metrics endpoint shows to browsers: nothing, what metrics say, a box for prompts too.
enum class MetricsPage { kNone, kStatus, kPrompt };
enum class LogLevel { kDebug, kInfo, kWarning, kError };

// What a request may ask for. Told to callers by GetModelInfo.
struct RequestLimits {
  int64_t message_bytes = 4 << 20;  // of one request message
  int64_t prompt_tokens = 0;        // 0: as many as the context allows
  int samples = 16;                 // output.n
  int logprobs = 20;                // alternatives a token
  int stop_strings = 16;
  int stop_string_bytes = 256;  // of each
  int stop_token_ids = 16;
  int logit_bias = 1024;  // entries
  int messages = 1024;    // of a conversation
};

// Files in PEM. Empty: none.
struct TlsOptions {
  std::string certificate;  // the server's, with its chain; empty: no TLS
  std::string private_key;  // of the certificate; not encrypted
  std::string client_ca;    // clients must show a certificate of one of these authorities
};

// Calls that are repeated under the same request_id (server/named_answers.h).
struct RetryOptions {
  // How long an answer is gone on with whose caller is gone; 0: not at all.
  absl::Duration reattach_timeout = absl::Seconds(10);
  absl::Duration keep_time = absl::Minutes(1);  // how long one that is made can be told again
  int64_t memory_bytes = 16 << 20;              // of all answers; 0: calls are never repeats
  // How long a call waits before it takes an answer from one that is told it: calls may be taken up
  // in another order than they came in, and one that was left meanwhile turns out so by then. No
  // key of the file.
  absl::Duration take_over_pause = absl::Milliseconds(20);
};

struct ServerOptions {
  EngineOptions engine;

  std::string listen = "127.0.0.1:50051";  // host:port; port 0 picks a free one
  // Beyond loopback also without TLS, or without asking callers who they are.
  bool allow_insecure = false;
  std::string metrics_listen =
      "127.0.0.1:9464";            // the same, for /metrics; empty: no metrics endpoint
  bool vllm_metric_names = false;  // add the names that LLM routers know
  std::string model_name;          // what routers' clients call the model; empty: its file's name
  MetricsPage metrics_page = MetricsPage::kNone;  // at /
  bool reflection = true;

  TlsOptions tls;
  std::string token_file;  // of the tokens that callers must show; empty: none is asked for

  int max_connections = 10000;  // open at a time on the gRPC port; fewer where descriptors are few
  int max_connections_per_peer = 0;       // of them, from one address; 0: half of them
  int max_streams_per_connection = 1024;  // calls at a time on one connection
  int max_calls = 16384;                  // calls at a time over all connections
  absl::Duration handshake_timeout =
      absl::Seconds(20);  // a connection that has not spoken HTTP/2 until then is closed; 0: never
  absl::Duration max_connection_idle =
      absl::Minutes(30);  // a connection without a call for so long is closed, gently; 0: never
  absl::Duration keepalive_interval =
      absl::Minutes(1);  // silent peers are pinged so often, and closed when they do not answer in
                         // 20 s; 0: never
  absl::Duration max_connection_age =
      absl::ZeroDuration();        // 0: connections live as long as clients want
  int64_t memory_quota_bytes = 0;  // what gRPC may hold in buffers; 0: 1/64 of the memory, from
                                   // 64 MiB to 256 MiB
  int text_threads = 1;            // threads that tokenize and render short texts, apart from the
                                   // network's; one more does long ones
  int max_waiting_texts = 512;     // calls with text that wait for them, short and long ones each
  int64_t max_waiting_text_bytes = 64 << 20;  // of long ones; a quarter of it for short ones

  int64_t max_pending_bytes =
      64 << 10;  // unsent answer of a slow reader; beyond it its generation pauses
  absl::Duration stall_timeout =
      absl::Seconds(30);  // a reader that lets it pause this long is cancelled
  absl::Duration drain_timeout =
      absl::Seconds(30);  // running calls may go on this long after SIGTERM
  absl::Duration watchdog_timeout =
      absl::Minutes(1);  // health is off while a step of the engine's lasts longer; 0: never

  RetryOptions retries;

  RequestLimits limits;

  LogFormat log_format = LogFormat::kPlain;
  LogLevel log_level = LogLevel::kInfo;
};

// One setting as the file knows it.
struct SettingDescription {
  std::string key;            // dotted path, for example "limits.samples"
  std::string default_value;  // as the file would spell it
};

// All settings, in the order of the sample file.
std::vector<SettingDescription> DescribeSettings();

// Reads YAML text over `options`. `name` is what errors call the file. INVALID_ARGUMENT in one
// line: file, line, key, and for a value what was expected and found; unknown and repeated keys are
// errors. `options` is then half read: drop it.
absl::Status ReadOptions(absl::string_view yaml, absl::string_view name, ServerOptions* options);

// The same from a file of at most 1 MiB. NOT_FOUND, or as above.
absl::Status ReadOptionsFile(const std::string& path, ServerOptions* options);

// Ranges and combinations, after file and flags. INVALID_ARGUMENT naming the key.
absl::Status ValidateOptions(const ServerOptions& options);

// "host:port" -> parts; IPv6 hosts in brackets. INVALID_ARGUMENT naming `key`.
struct HostAndPort {
  std::string host;
  int port = 0;
  bool is_loopback = false;
};
absl::Status ParseHostAndPort(absl::string_view key, absl::string_view text, HostAndPort* result);

}  // namespace mambad::server

#endif  // MAMBAD_SERVER_SERVER_OPTIONS_H_
