#include "server/server_options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <map>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "server/command_line.h"

namespace mambad::server {
namespace {

using ::testing::HasSubstr;

std::string SampleFile() {
  std::ifstream file(std::string(MAMBAD_SOURCE_DIR) + "/deploy/mambad.yaml");
  return {std::istreambuf_iterator<char>(file), {}};
}

std::string ErrorOf(const std::string& yaml) {
  ServerOptions options;
  return std::string(ReadOptions(yaml, "test.yaml", &options).message());
}

// "a:" / "  b: value # comment" of a two-level file -> {"a.b": "value"}. Written apart from the
// reader under test.
std::map<std::string, std::string> KeysOfSample(const std::string& text) {
  std::map<std::string, std::string> keys;
  std::string group;
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    const size_t begin = line.find_first_not_of(' ');
    if (begin == absl::string_view::npos || line[begin] == '#') continue;
    const size_t colon = line.find(':');
    const std::string name(line.substr(begin, colon - begin));
    std::string value(line.substr(colon + 1));
    if (begin == 0) group.clear();
    if (value.empty()) {
      group = name + ".";
      continue;
    }
    value = value.substr(value.find_first_not_of(' '));
    if (value.size() >= 2 && value.front() == '"') value = value.substr(1, value.size() - 2);
    keys[group + name] = value;
  }
  return keys;
}

TEST(ServerOptionsTest, SampleFileHasEveryKeyWithItsDefaultAndNoOther) {
  const auto keys = KeysOfSample(SampleFile());
  std::map<std::string, std::string> settings;
  for (const SettingDescription& setting : DescribeSettings())
    settings[setting.key] = setting.default_value;
  EXPECT_EQ(keys, settings);
}

TEST(ServerOptionsTest, SampleFileReadsAsTheDefaults) {
  ServerOptions sample;
  // Values that differ from the defaults, so that a key that is not read shows.
  sample.listen = sample.metrics_listen = "x";
  sample.reflection = false;
  sample.engine.max_sequences = 3;
  sample.stall_timeout = sample.drain_timeout = absl::Seconds(1);
  sample.limits.logprobs = 1;
  ASSERT_TRUE(ReadOptions(SampleFile(), "mambad.yaml", &sample).ok());
  const ServerOptions defaults;
  EXPECT_EQ(sample.listen, defaults.listen);
  EXPECT_EQ(sample.metrics_listen, defaults.metrics_listen);
  EXPECT_EQ(sample.reflection, defaults.reflection);
  EXPECT_EQ(sample.engine.max_sequences, defaults.engine.max_sequences);
  EXPECT_EQ(sample.stall_timeout, defaults.stall_timeout);
  EXPECT_EQ(sample.drain_timeout, defaults.drain_timeout);
  EXPECT_EQ(sample.limits.logprobs, defaults.limits.logprobs);
}

TEST(ServerOptionsTest, EveryKeyIsReadIntoItsOwnField) {
  // A value that is no default, by the default's look; then only that key may have changed.
  for (const SettingDescription& setting : DescribeSettings()) {
    const std::string& value = setting.default_value;
    std::string other = absl::StrCat(value, "1");
    if (value == "true") other = "false";
    if (value == "false") other = "true";
    if (value == "plain") other = "json";
    if (setting.key == "log.level") other = "error";
    if (setting.key == "metrics.page") other = "status";
    if (setting.key == "compute.weight_type" || setting.key == "compute.activations" ||
        setting.key == "compute.kv_type") {
      other = "float32";
    }
    if (setting.key == "speculation.max_draft_length") other = "3";
    if (setting.key == "limits.message_bytes") other = "1024";
    if (setting.key == "limits.logprobs" || setting.key == "limits.stop_token_ids") other = "5";
    if (!value.empty() && absl::StrContains("smh", value.back())) other = "7s";  // a duration
    if (setting.key == "network.max_connection_age") other = "7s";
    const std::vector<std::string> parts = absl::StrSplit(setting.key, '.');
    const std::string yaml = parts.size() == 1
                                 ? absl::StrCat(parts[0], ": \"", other, "\"\n")
                                 : absl::StrCat(parts[0], ":\n  ", parts[1], ": \"", other, "\"\n");
    ServerOptions changed;
    const absl::Status status = ReadOptions(yaml, "test.yaml", &changed);
    EXPECT_TRUE(status.ok()) << status << "\n" << yaml;
  }
}

TEST(ServerOptionsTest, UnknownKeyIsNamedWithItsLine) {
  EXPECT_THAT(ErrorOf("model: m\nlimits:\n  sample: 3\n"),
              "test.yaml:3: unknown key \"limits.sample\"; did you mean limits.samples?");
  EXPECT_THAT(ErrorOf("modell: m\n"), "test.yaml:1: unknown key \"modell\"; did you mean model?");
  EXPECT_THAT(ErrorOf("log:\n  rotation: daily\n"),
              "test.yaml:2: unknown key \"log.rotation\"; there are format, level");
}

TEST(ServerOptionsTest, AFormerKeyIsRefusedWithItsSuccessor) {
  EXPECT_EQ(ErrorOf("compute:\n  bfloat16_activations: true\n"),
            "test.yaml:2: unknown key \"compute.bfloat16_activations\"; set compute.activations: "
            "auto, float32 or bfloat16");
  ServerOptions options;
  ASSERT_TRUE(ReadOptions("compute: {activations: bfloat16}", "test.yaml", &options).ok());
  EXPECT_EQ(options.engine.activations, ComputeType::kBFloat16);
  EXPECT_THAT(ErrorOf("compute: {activations: true}"),
              HasSubstr("compute.activations: expected auto or float32 or bfloat16"));
}

TEST(ServerOptionsTest, BadValuesAreNamed) {
  EXPECT_THAT(ErrorOf("limits:\n  samples: many\n"),
              "test.yaml:2: limits.samples: expected a whole number, found \"many\"");
  EXPECT_THAT(ErrorOf("limits: {samples: 0}"),
              HasSubstr("limits.samples: 0 given, allowed 1 to 4096"));
  EXPECT_THAT(ErrorOf("batching: {max_waiting: 99999999999999999999}"),
              HasSubstr("expected a whole number"));
  EXPECT_THAT(ErrorOf("reflection: maybe"),
              HasSubstr("reflection: expected true or false, found \"maybe\""));
  // Errors have one line, whatever they quote.
  EXPECT_THAT(ErrorOf("\"mod\\nel\": m"), HasSubstr("test.yaml:1: unknown key \"mod el\""));
  // Nothing that yaml-cpp would read for ever.
  EXPECT_EQ(ErrorOf(","), "test.yaml: expected one YAML document");
  EXPECT_EQ(ErrorOf(",im  sa m -1.\n"), "test.yaml: expected one YAML document");
  EXPECT_THAT(ErrorOf("drain_timeout: 30"), HasSubstr("drain_timeout: expected a duration"));
  EXPECT_THAT(ErrorOf("drain_timeout: -1s"), HasSubstr("drain_timeout: expected a duration"));
  EXPECT_THAT(ErrorOf("log: {format: xml}"),
              HasSubstr("log.format: expected plain or json, found \"xml\""));
  EXPECT_THAT(ErrorOf("model: [a, b]"), HasSubstr("model: expected one value"));
  EXPECT_THAT(ErrorOf("limits: 3"), HasSubstr("limits: expected keys (message_bytes, "));
  EXPECT_THAT(ErrorOf("metrics: off"),
              HasSubstr("metrics: expected keys (listen, vllm_names, page), found \"off\""));
  EXPECT_THAT(ErrorOf("compute: [1]"), HasSubstr("found a list"));
  EXPECT_THAT(ErrorOf("- a\n- b\n"), HasSubstr("expected keys and values"));
  EXPECT_THAT(ErrorOf("model: a\nmodel: b\n"), HasSubstr("model: given twice"));
  EXPECT_THAT(ErrorOf("model: {a: b"), HasSubstr("test.yaml:1: not valid YAML: "));
  EXPECT_THAT(ErrorOf("model: a\n---\nmodel: b\n"), HasSubstr("one YAML document"));
}

TEST(ServerOptionsTest, EmptyFileIsTheDefaults) { EXPECT_EQ(ErrorOf(""), ""); }

TEST(ServerOptionsTest, AddressesAreChecked) {
  HostAndPort parts;
  EXPECT_TRUE(ParseHostAndPort("listen", "[::1]:50", &parts).ok());
  EXPECT_EQ(parts.host, "::1");
  EXPECT_EQ(parts.port, 50);
  EXPECT_TRUE(parts.is_loopback);
  EXPECT_TRUE(ParseHostAndPort("listen", "0.0.0.0:0", &parts).ok());
  EXPECT_FALSE(parts.is_loopback);
  for (const char* bad :
       {"", "localhost", ":5", "localhost:", "localhost:70000", "localhost:-1", "::1:50", "a:b"}) {
    EXPECT_THAT(std::string(ParseHostAndPort("listen", bad, &parts).message()),
                HasSubstr("listen: expected"))
        << bad;
  }
}

TEST(ServerOptionsTest, LoopbackIsAnAddressAndNoBeginningOfAName) {
  HostAndPort parts;
  for (const char* here : {"127.0.0.1:1", "127.8.9.10:1", "[::1]:1", "localhost:1"}) {
    ASSERT_TRUE(ParseHostAndPort("listen", here, &parts).ok());
    EXPECT_TRUE(parts.is_loopback) << here;
  }
  for (const char* elsewhere : {"127.example.org:1", "127.0.0.1.example.org:1", "192.0.2.1:1",
                                "[::]:1", "[2001:db8::1]:1", "localhost.example.org:1"}) {
    ASSERT_TRUE(ParseHostAndPort("listen", elsewhere, &parts).ok());
    EXPECT_FALSE(parts.is_loopback) << elsewhere;
  }
}

TEST(ServerOptionsTest, WhatOthersCanReachWantsTlsAndCredentials) {
  ServerOptions options;
  options.engine.model = "m";
  options.listen = "192.0.2.1:50051";
  const auto error = [&] { return std::string(ValidateOptions(options).message()); };
  EXPECT_THAT(error(), HasSubstr("expected TLS (tls.certificate, tls.private_key) and credentials "
                                 "(auth.token_file or tls.client_ca), or allow_insecure: true"));
  options.tls.certificate = "c";
  EXPECT_THAT(error(), HasSubstr("tls.private_key: not given, but tls.certificate is"));
  options.tls.private_key = "k";
  EXPECT_THAT(error(), HasSubstr("expected credentials (auth.token_file or tls.client_ca), or"));
  options.tls.client_ca = "a";
  EXPECT_EQ(error(), "");
  options.tls.client_ca.clear();
  options.token_file = "t";
  EXPECT_EQ(error(), "");
  options.tls = {};
  EXPECT_THAT(error(), HasSubstr("expected TLS (tls.certificate, tls.private_key), or"));
  options.allow_insecure = true;
  EXPECT_EQ(error(), "");
  options.tls.client_ca = "a";
  EXPECT_THAT(error(), HasSubstr("tls.certificate: not given, but tls.client_ca is"));
}

absl::StatusOr<CommandLine> Parse(std::vector<const char*> arguments) {
  arguments.insert(arguments.begin(), "mambad");
  return ParseCommandLine(static_cast<int>(arguments.size()), arguments.data());
}

TEST(CommandLineTest, FlagsWinOverTheFile) {
  const std::string path = testing::TempDir() + "/command_line_test.yaml";
  std::ofstream(path) << "model: from_file\nlisten: \"127.0.0.1:1\"\ncompute: {threads: 3}\n";
  const auto command =
      Parse({"--config", path.c_str(), "--listen", "127.0.0.1:0", "--draft", "small"});
  ASSERT_TRUE(command.ok()) << command.status();
  EXPECT_EQ(command->options.engine.model, "from_file");
  EXPECT_EQ(command->options.engine.draft_model, "small");
  EXPECT_EQ(command->options.listen, "127.0.0.1:0");
  EXPECT_EQ(command->options.engine.threads, 3);
}

TEST(CommandLineTest, BadOptionsAreNamed) {
  EXPECT_THAT(std::string(Parse({}).status().message()), HasSubstr("model: not given"));
  EXPECT_THAT(std::string(Parse({"--modle", "x"}).status().message()),
              HasSubstr("--modle: no such option; did you mean --model?"));
  EXPECT_THAT(std::string(Parse({"--model", "x", "--threads", "x"}).status().message()),
              HasSubstr("--threads: \"x\" is not a whole number"));
  EXPECT_THAT(std::string(Parse({"--model"}).status().message()),
              HasSubstr("--model needs a value behind it"));
  EXPECT_THAT(std::string(Parse({"--model", "x", "--threads", "-1"}).status().message()),
              HasSubstr("compute.threads"));
  for (const char* fraction : {"1.5", "-0.1", "x"}) {
    EXPECT_THAT(
        std::string(Parse({"--model", "x", "--memory-fraction", fraction}).status().message()),
        HasSubstr(absl::StrCat("--memory-fraction: \"", fraction, "\" is not a number")));
  }
  for (const char* device : {"tpu", "cuda:", "cuda:x", "cuda:-1", "cuda:1x", "cpu:0"}) {
    EXPECT_THAT(std::string(Parse({"--model", "x", "--device", device}).status().message()),
                HasSubstr("compute.device: expected auto or cpu or cuda or cuda:N, found \""));
  }
  EXPECT_TRUE(Parse({"--model", "x", "--device", "cuda:3"}).ok());
  EXPECT_THAT(std::string(Parse({"--model", "x", "--listen", "[::1]:5", "--metrics", "[::1]:5"})
                              .status()
                              .message()),
              HasSubstr("metrics.listen: [::1]:5 is what listen names, too"));
  EXPECT_TRUE(Parse({"--model", "x", "--listen", "[::1]:0", "--metrics", "[::1]:0"}).ok());
  EXPECT_THAT(std::string(Parse({"--model", "x", "--metrics", "9"}).status().message()),
              HasSubstr("metrics.listen"));
  EXPECT_EQ(Parse({"--config", "/nonexistent.yaml"}).status().code(), absl::StatusCode::kNotFound);
}

TEST(CommandLineTest, AShareOfTheMemoryIsANumberUpToOne) {
  EXPECT_EQ(Parse({"--model", "x", "--memory-fraction", "0.85"})->options.engine.memory_fraction,
            0.85);
  EXPECT_EQ(Parse({"--model", "x"})->options.engine.memory_fraction, 0);
  ServerOptions options;
  ASSERT_TRUE(ReadOptions("batching: {memory_fraction: 0.5}", "test.yaml", &options).ok());
  EXPECT_EQ(options.engine.memory_fraction, 0.5);
  EXPECT_THAT(ErrorOf("batching: {memory_fraction: 1.5}"),
              "test.yaml:1: batching.memory_fraction: 1.5 given, allowed 0 to 1");
  EXPECT_THAT(ErrorOf("batching: {memory_fraction: most}"),
              "test.yaml:1: batching.memory_fraction: expected a number, found \"most\"");
  EXPECT_THAT(ErrorOf("batching: {memory_fraction: nan}"), HasSubstr("allowed 0 to 1"));
}

TEST(CommandLineTest, AChatTemplatesFileMustBeThere) {
  const std::string path = testing::TempDir() + "/command_line_test.jinja";
  std::ofstream(path) << "{% if it is broken, it is so where it is used";
  const std::string config = testing::TempDir() + "/command_line_template_test.yaml";
  std::ofstream(config) << "model: x\nchat_template: \"" << path << "\"\n";
  EXPECT_EQ(Parse({"--config", config.c_str()})->options.engine.chat_template, path);
  EXPECT_EQ(Parse({"--model", "x", "--chat-template", path.c_str()})->options.engine.chat_template,
            path);
  for (const std::string& wrong : {testing::TempDir() + "/none.jinja", testing::TempDir()}) {
    const absl::Status status =
        Parse({"--config", config.c_str(), "--chat-template", wrong.c_str(), "--check-config"})
            .status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(status.message()), HasSubstr("chat_template: " + wrong));
  }
}

TEST(CommandLineTest, PrintsWhatIsAskedFor) {
  EXPECT_THAT(Parse({"--version"})->text, HasSubstr("mambad "));
  for (const char* flag : {"--config", "--model", "--draft", "--listen", "--metrics", "--device",
                           "--threads", "--memory-fraction", "--chat-template"}) {
    EXPECT_THAT(Parse({"--help"})->text, HasSubstr(flag));
  }
  EXPECT_EQ(Parse({"--model", "x", "--check-config"})->action, CommandLine::Action::kCheckConfig);
}

}  // namespace
}  // namespace mambad::server
