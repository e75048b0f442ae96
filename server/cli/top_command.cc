// mambactl top: the server's load, again and again.

#include <poll.h>

#include <cstdio>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "server/cli/commands.h"
#include "server/cli/connection.h"
#include "server/cli/interrupts.h"
#include "server/cli/json_output.h"
#include "server/cli/load_view.h"
#include "server/cli/number_options.h"

namespace mambad::cli {
namespace {

constexpr size_t kBarColumns = 48;  // and the rest of a line, in a terminal of 100 columns
constexpr double kUsualCallSeconds = 5;
// The cursor in the first line; from it to the end of the line, or of the screen, nothing.
constexpr char kHome[] = "\x1b[H", kClearLine[] = "\x1b[K\n", kClearRest[] = "\x1b[J";

struct TopFlags {
  double interval = 1;       // seconds
  std::optional<int> count;  // of loads; absent: until Ctrl-C
};

// Over what stood there: a screen that is cleared first would flicker.
void Draw(const std::string& text) {
  std::string screen = kHome;
  for (const char c : text) c == '\n' ? screen += kClearLine : screen += c;
  screen += kClearRest;
  std::fwrite(screen.data(), 1, screen.size(), stdout);
  std::fflush(stdout);
}

int Top(const ClientOptions& given, const TopFlags& flags) {
  ClientOptions options = given;
  if (options.timeout_seconds <= 0) options.timeout_seconds = kUsualCallSeconds;
  Connection connection(options);
  if (const auto failed = connection.Open()) return *failed;
  const bool draws = options.shows_text && !options.json;
  const std::string title = absl::StrCat("mambad at ", connection.address(), "  (Ctrl-C leaves)");
  LoadView view(kBarColumns);
  Interrupts interrupts;
  for (int told = 0; !flags.count.has_value() || told < *flags.count; ++told) {
    if (told > 0) {
      pollfd interrupt = {interrupts.descriptor(), POLLIN, 0};
      poll(&interrupt, 1, static_cast<int>(flags.interval * 1000));
      if (interrupts.Take()) return kExitInterrupted;
      connection.Refresh();
    }
    grpc::ClientContext context;
    connection.Prepare(&context);
    v1::GetLoadResponse load;
    const grpc::Status status = connection.stub()->GetLoad(&context, {}, &load);
    if (!status.ok() && !draws) return connection.Report(status, {});
    // Who looks on sees it come back.
    if (status.ok()) view.Add(load);
    const std::string trouble =
        status.ok() ? "" : absl::StrCat(connection.Describe(status, {}, false), "\n");
    if (draws) {
      Draw(absl::StrCat(view.Text(title), trouble));
    } else if (options.json) {
      PrintJson(load);
    } else {
      std::printf("%s\n", LoadLine(load).c_str());
      std::fflush(stdout);
    }
  }
  return kExitGood;
}

}  // namespace

void AddTopCommand(CLI::App* app, const ClientOptions* options, Command* chosen) {
  CLI::App* top = app->add_subcommand("top", "Shows load, speed and acceptance as they change");
  auto flags = std::make_shared<TopFlags>();
  AddNumber(top, "--interval", &flags->interval, "Seconds between two looks (default 1)",
            {0.1, 3600})
      ->type_name("SECONDS");
  AddNumber(top, "--count", &flags->count, "Looks so often, then leaves (default: until Ctrl-C)",
            {1, 1000000000});
  top->footer(
      "In a terminal a page that is drawn anew, elsewhere one line a look; with --json one "
      "object,\n"
      "as load has it. Wants the scope admin where callers show tokens.");
  top->callback([=] { *chosen = [=] { return Top(*options, *flags); }; });
}

}  // namespace mambad::cli
