// mambactl token: the daemon's file of tokens. Needs no server.

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/number_options.h"
#include "server/cli/whole_file.h"
#include "server/security/token_file.h"

namespace mambad::cli {
namespace {

using server::TokenEntry;

struct TokenFlags {
  std::string file, principal, scopes = "generate", id;
  std::optional<double> days;
  std::optional<int64_t> max_calls, tokens_per_minute;
};

// "never", or the second.
std::string Expiry(const TokenEntry& entry) {
  if (entry.expires == absl::InfiniteFuture()) return "never";
  return absl::FormatTime("%Y-%m-%dT%H:%M:%SZ", entry.expires, absl::UTCTimeZone());
}

nlohmann::ordered_json ToJson(const TokenEntry& entry) {
  nlohmann::ordered_json line = {{"id", entry.id},
                                 {"principal", entry.principal},
                                 {"scopes", server::FormatScopes(entry.scopes)}};
  if (entry.expires != absl::InfiniteFuture()) line["expires"] = Expiry(entry);
  if (entry.max_calls > 0) line["max_calls"] = entry.max_calls;
  if (entry.tokens_per_minute > 0) line["tokens_per_minute"] = entry.tokens_per_minute;
  return line;
}

// Adds a line at the end, which is made where there is none; the file is its owner's alone when it
// is new. Empty, or why not.
std::string AddLine(const std::string& path, const std::string& line) {
  const int file = open(path.c_str(), O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0) return std::strerror(errno);
  struct stat what {};
  char last = '\n';
  bool good = fstat(file, &what) == 0;
  if (good && what.st_size > 0) good = pread(file, &last, 1, what.st_size - 1) == 1;
  // In one piece: the daemon may look at any moment.
  const std::string text = absl::StrCat(last == '\n' ? "" : "\n", line);
  good = good && write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
         fsync(file) == 0;
  const int error = errno;
  if (close(file) != 0 && good) return std::strerror(errno);
  return good ? "" : std::strerror(error);
}

// Puts `text` in the file's place, with its rights. Empty, or why not.
std::string Replace(const std::string& path, const std::string& text) {
  const std::string beside = path + ".new";
  struct stat what {};
  if (stat(path.c_str(), &what) != 0) return std::strerror(errno);
  const int file =
      open(beside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, what.st_mode & 0777);
  if (file < 0) return absl::StrCat(beside, ": ", std::strerror(errno));
  // The daemon may run as another user, who must still be able to read it.
  bool good = fchmod(file, what.st_mode & 0777) == 0;
  if (fchown(file, what.st_uid, what.st_gid) != 0) good = good && what.st_uid == geteuid();
  good = good && write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
         fsync(file) == 0;
  const bool closed = close(file) == 0;
  if (good && closed && rename(beside.c_str(), path.c_str()) == 0) return "";
  const std::string problem = std::strerror(errno);
  unlink(beside.c_str());
  return problem;
}

absl::StatusOr<std::vector<TokenEntry>> ReadEntries(const std::string& path, std::string* text) {
  if (const std::string problem = ReadWholeFile(path, text); !problem.empty())
    return absl::InvalidArgumentError(problem);
  return server::ParseTokenFile(path, *text);
}

int RefuseToken(absl::string_view flag, absl::string_view problem) {
  return ReportBadInput(absl::StrCat(flag, ": ", problem));
}

int Create(const ClientOptions& options, const TokenFlags& flags) {
  TokenEntry entry;
  if (!server::IsPrincipal(flags.principal))
    return RefuseToken("--principal", "expected 1 to 64 letters, digits or any of ._@-");
  entry.principal = flags.principal;
  const absl::StatusOr<unsigned> scopes = server::ParseScopes(flags.scopes);
  if (!scopes.ok()) return RefuseToken("--scopes", scopes.status().message());
  entry.scopes = *scopes;
  if (flags.days) entry.expires = absl::Now() + *flags.days * absl::Hours(24);
  entry.max_calls = flags.max_calls.value_or(0);
  entry.tokens_per_minute = flags.tokens_per_minute.value_or(0);
  // A file that the daemon would refuse is not made longer.
  std::string text;
  if (access(flags.file.c_str(), F_OK) == 0) {
    if (const auto before = ReadEntries(flags.file, &text); !before.ok())
      return RefuseToken("--file", before.status().message());
  }
  const absl::StatusOr<std::string> token = server::MakeToken(&entry);
  if (!token.ok()) return RefuseToken("token", token.status().message());
  if (const std::string problem = AddLine(flags.file, server::FormatTokenEntry(entry));
      !problem.empty()) {
    return RefuseToken("--file", absl::StrCat(flags.file, ": ", problem));
  }
  if (options.json) {
    nlohmann::ordered_json line = ToJson(entry);
    line["token"] = *token;
    std::printf("%s\n", line.dump().c_str());
  } else {
    std::printf("%s\n", token->c_str());
    std::fprintf(stderr,
                 "mambactl: %s has a new token %s, kept in %s as a hash: it is not shown again\n",
                 entry.principal.c_str(), entry.id.c_str(), flags.file.c_str());
  }
  return kExitGood;
}

int ListTokens(const ClientOptions& options, const TokenFlags& flags) {
  std::string text;
  const auto entries = ReadEntries(flags.file, &text);
  if (!entries.ok()) return RefuseToken("--file", entries.status().message());
  for (const TokenEntry& entry : *entries) {
    if (options.json) {
      std::printf("%s\n", ToJson(entry).dump().c_str());
      continue;
    }
    std::string limits;
    if (entry.max_calls > 0) absl::StrAppend(&limits, "  max_calls ", entry.max_calls);
    if (entry.tokens_per_minute > 0)
      absl::StrAppend(&limits, "  tokens_per_minute ", entry.tokens_per_minute);
    const bool is_over = entry.expires <= absl::Now();
    std::printf("%s  %s  %s  %s %s%s\n", entry.id.c_str(), entry.principal.c_str(),
                server::FormatScopes(entry.scopes).c_str(), is_over ? "expired" : "expires",
                Expiry(entry).c_str(), limits.c_str());
  }
  return kExitGood;
}

int Revoke(const TokenFlags& flags) {
  std::string text;
  const auto entries = ReadEntries(flags.file, &text);
  if (!entries.ok()) return RefuseToken("--file", entries.status().message());
  std::string rest;
  int removed = 0;
  for (const absl::string_view line : absl::StrSplit(absl::StripSuffix(text, "\n"), '\n')) {
    const absl::string_view words = absl::StripLeadingAsciiWhitespace(line);
    if (absl::StartsWith(words, absl::StrCat(flags.id, " ")) ||
        absl::StartsWith(words, absl::StrCat(flags.id, "\t"))) {
      ++removed;
    } else {
      absl::StrAppend(&rest, line, "\n");
    }
  }
  if (removed == 0)
    return RefuseToken("ID", absl::StrCat("no token of this id in ", flags.file,
                                          " (mambactl token list shows them)"));
  const std::string problem = Replace(flags.file, rest);
  if (!problem.empty()) return RefuseToken("--file", absl::StrCat(flags.file, ": ", problem));
  std::fprintf(stderr, "mambactl: the token %s is revoked\n", flags.id.c_str());
  return kExitGood;
}

}  // namespace

void AddTokenCommand(CLI::App* app, const ClientOptions* options, Command* chosen) {
  CLI::App* token = app->add_subcommand("token",
                                        "Who may call a server: makes, lists and revokes "
                                        "tokens in its file");
  token->require_subcommand(1);
  auto flags = std::make_shared<TokenFlags>();
  CLI::App* create = token->add_subcommand("create", "A new token: printed once, kept as a hash");
  CLI::App* list = token->add_subcommand("list", "The tokens in a file, without their secrets");
  CLI::App* revoke = token->add_subcommand("revoke", "Takes a token out of a file");
  for (CLI::App* command : {create, list, revoke}) {
    command->add_option("--file", flags->file, "The file that the server's auth.token_file names")
        ->required()
        ->type_name("FILE");
  }
  create->add_option("--principal", flags->principal, "Whose it is: a name, told in logs")
      ->required()
      ->type_name("NAME");
  create
      ->add_option("--scopes", flags->scopes,
                   "Any of generate, sessions and admin, with commas (default generate)")
      ->type_name("SCOPES");
  AddNumber(create, "--days", &flags->days, "Expires so long from now (default: never)", {0, 36500})
      ->type_name("DAYS");
  AddNumber(create, "--max-calls", &flags->max_calls,
            "Calls of the principal at a time (default: as many as anybody)", {1, 1 << 20});
  AddNumber(create, "--tokens-per-minute", &flags->tokens_per_minute,
            "Tokens of prompts and answers that the principal may take (default: no bound)",
            {1, int64_t{1} << 40});
  revoke->add_option("id", flags->id, "The token's id: the digits between mbd_ and the next _")
      ->required()
      ->type_name("ID");
  create->callback([=] { *chosen = [=] { return Create(*options, *flags); }; });
  list->callback([=] { *chosen = [=] { return ListTokens(*options, *flags); }; });
  revoke->callback([=] { *chosen = [=] { return Revoke(*flags); }; });
}

}  // namespace mambad::cli
