#include "server/server_options.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <yaml-cpp/eventhandler.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <limits>
#include <set>
#include <sstream>
#include <utility>
#include <variant>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "server/cli/suggestions.h"

namespace mambad::server {
namespace {

using FieldPointer = std::variant<std::string*, bool*, int*, int64_t*, double*, absl::Duration*,
                                  ComputeType*, MetricsPage*, LogFormat*, LogLevel*>;

// Keys and values are quoted, which may have line breaks.
absl::Status InOneLine(const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrReplaceAll(status.message(), {{"\n", " "}, {"\r", " "}}));
}

// Looks at nothing.
class IgnoringHandler : public YAML::EventHandler {
 public:
  void OnDocumentStart(const YAML::Mark&) override {}
  void OnDocumentEnd() override {}
  void OnNull(const YAML::Mark&, YAML::anchor_t) override {}
  void OnAlias(const YAML::Mark&, YAML::anchor_t) override {}
  void OnScalar(const YAML::Mark&, const std::string&, YAML::anchor_t,
                const std::string&) override {}
  void OnSequenceStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                       YAML::EmitterStyle::value) override {}
  void OnSequenceEnd() override {}
  void OnMapStart(const YAML::Mark&, const std::string&, YAML::anchor_t,
                  YAML::EmitterStyle::value) override {}
  void OnMapEnd() override {}
};

// 0, 1, or 2 where there are more: of a text that is no YAML (",") yaml-cpp finds documents without
// end, which its LoadAll would put into memory. Throws as YAML::Load.
int CountDocuments(const std::string& text) {
  std::istringstream stream(text);
  YAML::Parser parser(stream);
  IgnoringHandler handler;
  int count = 0;
  while (count < 2 && parser.HandleNextDocument(handler)) ++count;
  return count;
}

// One row of the table of settings. Numbers must lie in [least, most]; durations are not negative.
struct Setting {
  const char* key;
  FieldPointer (*field)(ServerOptions&);
  int64_t least = 0;
  int64_t most = 0;
};

constexpr int64_t kManyTokens = int64_t{1} << 40;
constexpr int64_t kManyBytes = int64_t{1} << 50;

#define FIELD(member) [](ServerOptions& o) -> FieldPointer { return &o.member; }
const Setting kSettings[] = {
    {"model", FIELD(engine.model)},
    {"draft_model", FIELD(engine.draft_model)},
    {"chat_template", FIELD(engine.chat_template)},
    {"model_name", FIELD(model_name)},
    {"listen", FIELD(listen)},
    {"allow_insecure", FIELD(allow_insecure)},
    {"reflection", FIELD(reflection)},
    {"drain_timeout", FIELD(drain_timeout)},
    {"watchdog_timeout", FIELD(watchdog_timeout)},
    {"tls.certificate", FIELD(tls.certificate)},
    {"tls.private_key", FIELD(tls.private_key)},
    {"tls.client_ca", FIELD(tls.client_ca)},
    {"auth.token_file", FIELD(token_file)},
    {"metrics.listen", FIELD(metrics_listen)},
    {"metrics.vllm_names", FIELD(vllm_metric_names)},
    {"metrics.page", FIELD(metrics_page)},
    {"log.format", FIELD(log_format)},
    {"log.level", FIELD(log_level)},
    {"compute.device", FIELD(engine.device)},
    {"compute.threads", FIELD(engine.threads), 0, 1024},
    {"compute.weight_type", FIELD(engine.weight_type)},
    {"compute.activations", FIELD(engine.activations)},
    {"compute.kv_type", FIELD(engine.kv_type)},
    {"compute.check_calls", FIELD(engine.check_calls)},
    {"batching.memory_fraction", FIELD(engine.memory_fraction), 0, 1},
    {"batching.max_sequences", FIELD(engine.max_sequences), 0, 4096},
    {"batching.max_context", FIELD(engine.max_context), 0, kManyTokens},
    {"batching.kv_cache_tokens", FIELD(engine.kv_cache_tokens), 0, kManyTokens},
    {"batching.max_step_rows", FIELD(engine.max_step_rows), 0, 65536},
    {"batching.max_penalised", FIELD(engine.max_penalised), 0, 4096},
    {"batching.max_waiting", FIELD(engine.max_waiting), 0, 1 << 20},
    {"batching.max_waiting_tokens", FIELD(engine.max_waiting_tokens), 1, kManyTokens},
    {"speculation.enabled", FIELD(engine.speculation)},
    {"speculation.prompt_lookup", FIELD(engine.prompt_lookup)},
    {"speculation.max_draft_length", FIELD(engine.max_draft_length), 1, kMaxDraftLength},
    {"sessions.directory", FIELD(engine.sessions.directory)},
    {"sessions.max_sessions", FIELD(engine.sessions.max_sessions), 1, 1 << 20},
    {"sessions.host_memory_bytes", FIELD(engine.sessions.host_memory_bytes), 0, kManyBytes},
    {"sessions.idle_timeout", FIELD(engine.sessions.idle_timeout)},
    {"prefix_cache.host_memory_bytes", FIELD(engine.prefix_cache_bytes), 0, kManyBytes},
    {"stream.max_pending_bytes", FIELD(max_pending_bytes), 1, kManyBytes},
    {"stream.stall_timeout", FIELD(stall_timeout)},
    {"network.max_connections", FIELD(max_connections), 1, 1 << 20},
    {"network.max_connections_per_peer", FIELD(max_connections_per_peer), 0, 1 << 20},
    {"network.max_streams_per_connection", FIELD(max_streams_per_connection), 1, 1 << 20},
    {"network.max_calls", FIELD(max_calls), 1, 1 << 24},
    {"network.handshake_timeout", FIELD(handshake_timeout)},
    {"network.max_connection_idle", FIELD(max_connection_idle)},
    {"network.keepalive_interval", FIELD(keepalive_interval)},
    {"network.max_connection_age", FIELD(max_connection_age)},
    {"network.memory_quota_bytes", FIELD(memory_quota_bytes), 0, kManyBytes},
    {"network.text_threads", FIELD(text_threads), 1, 256},
    {"network.max_waiting_texts", FIELD(max_waiting_texts), 1, 1 << 20},
    {"network.max_waiting_text_bytes", FIELD(max_waiting_text_bytes), 1 << 16, kManyBytes},
    {"retries.reattach_timeout", FIELD(retries.reattach_timeout)},
    {"retries.keep_time", FIELD(retries.keep_time)},
    {"retries.memory_bytes", FIELD(retries.memory_bytes), 0, kManyBytes},
    {"limits.message_bytes", FIELD(limits.message_bytes), 1024, std::numeric_limits<int>::max()},
    {"limits.prompt_tokens", FIELD(limits.prompt_tokens), 0, kManyTokens},
    {"limits.samples", FIELD(limits.samples), 1, 4096},
    {"limits.logprobs", FIELD(limits.logprobs), 0, 32},
    {"limits.stop_strings", FIELD(limits.stop_strings), 0, 4096},
    {"limits.stop_string_bytes", FIELD(limits.stop_string_bytes), 1, 65536},
    {"limits.stop_token_ids", FIELD(limits.stop_token_ids), 0, 32},
    {"limits.logit_bias", FIELD(limits.logit_bias), 0, 1 << 20},
    {"limits.messages", FIELD(limits.messages), 1, 1 << 20},
};
#undef FIELD

// Keys of earlier versions, and what stands for them now.
struct FormerKey {
  const char* key;
  const char* now;
};
constexpr FormerKey kFormerKeys[] = {
    {"compute.bfloat16_activations", "compute.activations: auto, float32 or bfloat16"},
};

template <typename Enum>
struct NamedValue {
  const char* name;
  Enum value;
};
constexpr NamedValue<ComputeType> kComputeTypes[] = {{"auto", ComputeType::kAuto},
                                                     {"float32", ComputeType::kFloat32},
                                                     {"bfloat16", ComputeType::kBFloat16}};
constexpr NamedValue<MetricsPage> kMetricsPages[] = {{"none", MetricsPage::kNone},
                                                     {"status", MetricsPage::kStatus},
                                                     {"prompt", MetricsPage::kPrompt}};
constexpr NamedValue<LogFormat> kLogFormats[] = {{"plain", LogFormat::kPlain},
                                                 {"json", LogFormat::kJson}};
constexpr NamedValue<LogLevel> kLogLevels[] = {{"debug", LogLevel::kDebug},
                                               {"info", LogLevel::kInfo},
                                               {"warning", LogLevel::kWarning},
                                               {"error", LogLevel::kError}};
constexpr auto& NamesOf(ComputeType) { return kComputeTypes; }
constexpr auto& NamesOf(MetricsPage) { return kMetricsPages; }
constexpr auto& NamesOf(LogFormat) { return kLogFormats; }
constexpr auto& NamesOf(LogLevel) { return kLogLevels; }

absl::Status Expected(absl::string_view key, absl::string_view expected, absl::string_view found) {
  return absl::InvalidArgumentError(
      absl::StrCat(key, ": expected ", expected, ", found \"", found, "\""));
}

template <typename Number>
absl::Status CheckRange(const Setting& setting, Number value) {
  const auto least = static_cast<Number>(setting.least), most = static_cast<Number>(setting.most);
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(setting.key, ": ", value, " given, allowed ",
                                                 setting.least, " to ", setting.most));
}

// Text of a setting -> its field. Ranges are ValidateOptions' business, except that a number must
// fit its type.
struct Parser {
  const Setting& setting;
  const std::string& text;

  absl::Status operator()(std::string* field) const {
    *field = text;
    return absl::OkStatus();
  }
  absl::Status operator()(bool* field) const {
    if (text != "true" && text != "false") return Expected(setting.key, "true or false", text);
    *field = text == "true";
    return absl::OkStatus();
  }
  absl::Status operator()(int64_t* field) const {
    if (!absl::SimpleAtoi(text, field)) return Expected(setting.key, "a whole number", text);
    return CheckRange(setting, *field);
  }
  absl::Status operator()(int* field) const {
    int64_t wide = 0;
    absl::Status status = (*this)(&wide);
    if (status.ok()) *field = static_cast<int>(wide);
    return status;
  }
  absl::Status operator()(double* field) const {
    if (!absl::SimpleAtod(text, field)) return Expected(setting.key, "a number", text);
    return CheckRange(setting, *field);
  }
  absl::Status operator()(absl::Duration* field) const {
    if (!absl::ParseDuration(text, field) || *field < absl::ZeroDuration()) {
      return Expected(setting.key, "a duration such as 500ms, 30s or 2m", text);
    }
    return absl::OkStatus();
  }
  template <typename Enum>
  absl::Status operator()(Enum* field) const {
    std::string names;
    for (const auto& entry : NamesOf(Enum())) {
      if (text == entry.name) {
        *field = entry.value;
        return absl::OkStatus();
      }
      absl::StrAppend(&names, names.empty() ? "" : " or ", entry.name);
    }
    return Expected(setting.key, names, text);
  }
};

struct Printer {
  std::string operator()(const std::string* field) const { return *field; }
  std::string operator()(const bool* field) const { return *field ? "true" : "false"; }
  std::string operator()(const int* field) const { return absl::StrCat(*field); }
  std::string operator()(const int64_t* field) const { return absl::StrCat(*field); }
  std::string operator()(const double* field) const { return absl::StrCat(*field); }
  std::string operator()(const absl::Duration* field) const { return absl::FormatDuration(*field); }
  template <typename Enum>
  std::string operator()(const Enum* field) const {
    for (const auto& entry : NamesOf(Enum())) {
      if (entry.value == *field) return entry.name;
    }
    return "";
  }
};

struct RangeCheck {
  const Setting& setting;
  absl::Status operator()(const int* field) const { return CheckRange(setting, *field); }
  absl::Status operator()(const int64_t* field) const { return CheckRange(setting, *field); }
  absl::Status operator()(const double* field) const { return CheckRange(setting, *field); }
  absl::Status operator()(const void*) const { return absl::OkStatus(); }
};

// The names that may stand in a group ("metrics.", or "" for the outermost).
std::string KeysOf(const std::string& group) {
  std::vector<std::string> names;
  for (const Setting& setting : kSettings) {
    if (!absl::StartsWith(setting.key, group)) continue;
    const std::string name = std::string(setting.key).substr(group.size());
    names.push_back(name.substr(0, name.find('.')));
  }
  names.erase(std::unique(names.begin(), names.end()), names.end());  // groups stand together
  return absl::StrJoin(names, ", ");
}

// For an unknown key: the one that was meant, else all that may stand in its place.
std::string KeysInstead(const std::string& key) {
  for (const FormerKey& former : kFormerKeys) {
    if (key == former.key) return absl::StrCat("; set ", former.now);
  }
  const std::string group =
      key.substr(0, key.rfind('.') == std::string::npos ? 0 : key.rfind('.') + 1);
  const std::string beside = KeysOf(group);
  std::vector<std::string> known = absl::StrSplit(beside, ", ");
  for (const Setting& setting : kSettings) known.push_back(setting.key);
  const std::string meant = cli::DidYouMean(key, known);
  if (!meant.empty()) return meant;
  return absl::StrCat("; there are ", beside);
}

// What stands where a group's keys should.
std::string WordsOf(const YAML::Node& node) {
  if (node.IsSequence()) return "a list";
  return absl::StrCat("\"", node.Scalar(), "\"");
}

// Walks one mapping of the file, `prefix` being the path to it.
class Reader {
 public:
  Reader(absl::string_view name, ServerOptions* options) : name_(name), options_(options) {}

  absl::Status Read(const YAML::Node& node, const std::string& prefix, int depth) {
    if (node.IsNull()) return absl::OkStatus();
    if (!node.IsMap()) {
      return At(node, absl::InvalidArgumentError(prefix.empty()
                                                     ? std::string("expected keys and values")
                                                     : absl::StrCat(prefix, ": expected keys (",
                                                                    KeysOf(prefix + "."),
                                                                    "), found ", WordsOf(node))));
    }
    for (const auto& entry : node) {
      if (!entry.first.IsScalar())
        return At(entry.first, absl::InvalidArgumentError("a key must be a word"));
      const std::string key = absl::StrCat(prefix, prefix.empty() ? "" : ".", entry.first.Scalar());
      if (!seen_.insert(key).second) {
        return At(entry.first, absl::InvalidArgumentError(absl::StrCat(key, ": given twice")));
      }
      absl::Status status = ReadEntry(key, entry.first, entry.second, depth);
      if (!status.ok()) return status;
    }
    return absl::OkStatus();
  }

 private:
  absl::Status ReadEntry(const std::string& key, const YAML::Node& key_node,
                         const YAML::Node& value, int depth) {
    bool is_group = false;
    for (const Setting& setting : kSettings) {
      if (key == setting.key) {
        if (!value.IsScalar() && !value.IsNull()) {
          return At(value, absl::InvalidArgumentError(absl::StrCat(key, ": expected one value")));
        }
        const std::string text = value.IsNull() ? "" : value.Scalar();
        return At(value, std::visit(
                             [&](auto* field) {
                               return Parser{setting, text}(field);
                             },
                             setting.field(*options_)));
      }
      is_group |=
          absl::string_view(setting.key).substr(0, key.size() + 1) == absl::StrCat(key, ".");
    }
    if (is_group && depth < 4) return Read(value, key, depth + 1);
    return At(key_node, absl::InvalidArgumentError(
                            absl::StrCat("unknown key \"", key, "\"", KeysInstead(key))));
  }

  absl::Status At(const YAML::Node& node, const absl::Status& status) const {
    if (status.ok()) return status;
    return absl::Status(status.code(),
                        absl::StrCat(name_, ":", node.Mark().line + 1, ": ", status.message()));
  }

  const std::string name_;
  ServerOptions* const options_;
  std::set<std::string> seen_;
};

absl::Status CheckTls(const TlsOptions& tls) {
  const auto lacks = [](absl::string_view key, absl::string_view because) {
    return absl::InvalidArgumentError(
        absl::StrCat(key, ": not given, but ", because, " is: it needs both"));
  };
  if (tls.certificate.empty() && !tls.private_key.empty())
    return lacks("tls.certificate", "tls.private_key");
  if (!tls.certificate.empty() && tls.private_key.empty())
    return lacks("tls.private_key", "tls.certificate");
  if (tls.certificate.empty() && !tls.client_ca.empty())
    return lacks("tls.certificate", "tls.client_ca");
  return absl::OkStatus();
}

// What other machines can reach wants TLS and to know its callers, unless it is said otherwise.
absl::Status CheckReach(const ServerOptions& options, const HostAndPort& calls) {
  const bool is_private = !options.tls.certificate.empty();
  const bool knows_callers = !options.token_file.empty() || !options.tls.client_ca.empty();
  if (calls.is_loopback || options.allow_insecure || (is_private && knows_callers))
    return absl::OkStatus();
  const char* const missing =
      is_private ? "credentials (auth.token_file or tls.client_ca)"
      : knows_callers
          ? "TLS (tls.certificate, tls.private_key)"
          : "TLS (tls.certificate, tls.private_key) and credentials (auth.token_file or "
            "tls.client_ca)";
  return absl::InvalidArgumentError(
      absl::StrCat("listen: ", options.listen, " can be reached from other machines: expected ",
                   missing, ", or allow_insecure: true (--allow-insecure) to do without"));
}

// The page's box answers prompts over plain HTTP: where callers must show certificates it cannot
// ask for them, and neither tokens nor prompts go over a network unless that is said to be fine.
absl::Status CheckPage(const ServerOptions& options, const HostAndPort& metrics) {
  if (options.metrics_page != MetricsPage::kPrompt) return absl::OkStatus();
  if (!options.tls.client_ca.empty()) {
    return absl::InvalidArgumentError(
        "metrics.page: prompt would answer callers without the certificates that tls.client_ca "
        "asks for: expected status or none");
  }
  if (metrics.is_loopback || options.allow_insecure) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "metrics.page: prompt takes prompts over plain HTTP, and metrics.listen: ",
      options.metrics_listen,
      " can be reached from other machines: expected status or none, metrics.listen on loopback, "
      "or allow_insecure: true (--allow-insecure)"));
}

// Whether it may be one: which there are, the engine sees.
bool IsDevice(absl::string_view name) {
  int number = 0;
  return name == "auto" || name == "cpu" || name == "cuda" ||
         (absl::ConsumePrefix(&name, "cuda:") && !name.empty() && absl::ascii_isdigit(name[0]) &&
          absl::SimpleAtoi(name, &number));
}

// A name that merely begins with 127. is none.
bool IsLoopback(const std::string& host) {
  in_addr four{};
  in6_addr six{};
  if (inet_pton(AF_INET, host.c_str(), &four) == 1) return (ntohl(four.s_addr) >> 24) == 127;
  if (inet_pton(AF_INET6, host.c_str(), &six) == 1) return IN6_IS_ADDR_LOOPBACK(&six);
  return host == "localhost";
}

}  // namespace

std::vector<SettingDescription> DescribeSettings() {
  ServerOptions defaults;
  std::vector<SettingDescription> result;
  for (const Setting& setting : kSettings) {
    result.push_back({setting.key, std::visit([](auto* field) { return Printer()(field); },
                                              setting.field(defaults))});
  }
  return result;
}

absl::Status ReadOptions(absl::string_view yaml, absl::string_view name, ServerOptions* options) {
  const std::string text(yaml);
  try {
    const int documents = CountDocuments(text);
    if (documents > 1)
      return absl::InvalidArgumentError(absl::StrCat(name, ": expected one YAML document"));
    if (documents == 0) return absl::OkStatus();
    return InOneLine(Reader(name, options).Read(YAML::Load(text), "", 0));
  } catch (const YAML::Exception& error) {
    return InOneLine(absl::InvalidArgumentError(
        absl::StrCat(name, ":", error.mark.line + 1, ": not valid YAML: ", error.msg)));
  }
}

absl::Status ReadOptionsFile(const std::string& path, ServerOptions* options) {
  constexpr size_t kLargestFile = 1 << 20;
  std::ifstream file(path, std::ios::binary);
  std::string text(kLargestFile + 1, '\0');
  if (!file || !file.read(text.data(), static_cast<std::streamsize>(text.size())).eof()) {
    if (file) return absl::InvalidArgumentError(absl::StrCat(path, ": larger than 1 MiB"));
    return absl::NotFoundError(absl::StrCat(path, ": cannot be read: ", std::strerror(errno)));
  }
  text.resize(static_cast<size_t>(file.gcount()));
  return ReadOptions(text, path, options);
}

absl::Status ValidateOptions(const ServerOptions& options) {
  ServerOptions copy = options;  // the table points to mutable fields
  for (const Setting& setting : kSettings) {
    absl::Status status =
        std::visit([&](auto* field) { return RangeCheck{setting}(field); }, setting.field(copy));
    if (!status.ok()) return status;
  }
  if (const std::string& device = options.engine.device; !IsDevice(device)) {
    return Expected("compute.device", "auto or cpu or cuda or cuda:N", device);
  }
  if (options.engine.model.empty()) {
    return absl::InvalidArgumentError(
        "model: not given (--model DIR, or the key in the configuration file)");
  }
  HostAndPort calls, metrics;
  absl::Status status = ParseHostAndPort("listen", options.listen, &calls);
  if (status.ok()) status = CheckTls(options.tls);
  if (status.ok()) status = CheckReach(options, calls);
  if (!status.ok()) return status;
  if (options.metrics_listen.empty()) {
    if (options.metrics_page == MetricsPage::kNone) return absl::OkStatus();
    return absl::InvalidArgumentError(
        "metrics.page: is served where metrics.listen says, which is empty");
  }
  status = ParseHostAndPort("metrics.listen", options.metrics_listen, &metrics);
  if (status.ok()) status = CheckPage(options, metrics);
  if (!status.ok()) return status;
  if (calls.port != 0 && calls.port == metrics.port && calls.host == metrics.host) {
    return absl::InvalidArgumentError(
        absl::StrCat("metrics.listen: ", options.metrics_listen,
                     " is what listen names, too: each needs a port of its own"));
  }
  return absl::OkStatus();
}

absl::Status ParseHostAndPort(absl::string_view key, absl::string_view text, HostAndPort* result) {
  const size_t colon = text.rfind(':');
  if (colon == absl::string_view::npos || colon == 0 ||
      !absl::SimpleAtoi(text.substr(colon + 1), &result->port) || result->port < 0 ||
      result->port > 65535) {
    return Expected(key, "host:port with a port from 0 to 65535", text);
  }
  absl::string_view host = text.substr(0, colon);
  const bool bracketed = host.size() > 2 && host.front() == '[' && host.back() == ']';
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (!bracketed && host.find(':') != absl::string_view::npos) {
    return Expected(key, "an IPv6 host in brackets", text);
  }
  result->host = std::string(host);
  result->is_loopback = IsLoopback(result->host);
  return absl::OkStatus();
}

}  // namespace mambad::server
