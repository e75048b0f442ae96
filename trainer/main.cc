// trainer <command> --config file.yaml

#include <unistd.h>

#include <algorithm>
#include <array>
#include <climits>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "trainer/stages/stage.h"
#include "trainer/stop_signal.h"

namespace {

using mambad::trainer::Command;

constexpr int kUserFault = 2;    // settings, files, data, a loss that diverged
constexpr int kOtherFault = 1;   // a failed device call, a bug
constexpr int kSignalled = 128;  // and the signal's number: stopped by it, with all saved

constexpr char kExitCodes[] =
    "Exit codes: 0 done, or stopped in time by loop.most_seconds; 1 a failure of the device or of "
    "the trainer;\n2 settings, files or data, or a loss that diverged; 130 stopped by SIGINT and "
    "143 by SIGTERM, with all\nthat is needed to go on saved.";

// Errors of LibTorch carry a backtrace behind their first line.
void SayError(const std::string& what) {
  std::fprintf(stderr, "trainer: error: %s\n", what.substr(0, what.find('\n')).c_str());
}

// Letters to insert, leave out or change to come from one word to the other.
size_t Distance(const std::string& one, const std::string& other) {
  std::vector<size_t> row(other.size() + 1);
  for (size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (size_t i = 0; i < one.size(); ++i) {
    size_t diagonal = row[0]++;
    for (size_t j = 0; j < other.size(); ++j) {
      const size_t changed = diagonal + (one[i] == other[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({row[j + 1] + 1, row[j] + 1, changed});
    }
  }
  return row.back();
}

// "; did you mean "pretrain"?" where one of `words` is near.
std::string Suggestion(const std::string& word, const std::vector<std::string>& words) {
  const std::string* nearest = nullptr;
  size_t nearest_distance = std::max<size_t>(2, word.size() / 3) + 1;
  for (const std::string& candidate : words) {
    const size_t distance = Distance(word, candidate);
    if (distance >= nearest_distance) continue;
    nearest_distance = distance;
    nearest = &candidate;
  }
  return nearest == nullptr ? "" : "; did you mean \"" + *nearest + "\"?";
}

// The library would only say that one is missing.
[[noreturn]] void RefuseWithoutCommand(const std::vector<Command>& commands) {
  std::string names;
  for (const Command& command : commands) names += (names.empty() ? "" : ", ") + command.name;
  throw std::runtime_error("a command is missing; expected one of " + names +
                           " (trainer --help tells what they do)");
}

void CheckCommand(const std::vector<Command>& commands, const std::string& word) {
  if (word.starts_with('-')) return;  // an option
  std::string names;
  std::vector<std::string> words;
  for (const Command& command : commands) {
    if (command.name == word) return;
    words.push_back(command.name);
    names += (names.empty() ? "" : ", ") + command.name;
  }
  throw std::runtime_error("\"" + word + "\": no such command; expected one of " + names +
                           Suggestion(word, words));
}

// The library would say of a misspelt option that --config is missing.
void CheckOptions(const std::vector<std::string>& words) {
  static const std::vector<std::string> options = {"--config", "--overwrite", "--help"};
  for (size_t i = 1; i < words.size(); ++i) {
    const std::string word = words[i].substr(0, words[i].find('='));
    const bool known =
        word == "-h" || std::find(options.begin(), options.end(), word) != options.end();
    if (known) {
      i += words[i] == "--config";  // and its file
    } else if (word.starts_with('-')) {
      throw std::runtime_error("\"" + word + "\": no such option; expected --config FILE, " +
                               "--overwrite or --help" + Suggestion(word, options));
    } else {
      throw std::runtime_error("\"" + word + "\": not expected here; settings are given by " +
                               "--config FILE");
    }
  }
}

// While one thread waits for another, OpenMP's runtime lets it spin for milliseconds, which takes
// the processor from the one that it waits for when other programs run beside: a hundred times
// slower. It reads its settings before main, so the program begins once more with threads that
// sleep while they wait.
void BeginWithThreadsThatSleep(char** argv) {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr || std::getenv("GOMP_SPINCOUNT") != nullptr) return;
  // By its name, which `ps` and `pkill` know it by.
  std::array<char, PATH_MAX> path = {};
  if (readlink("/proc/self/exe", path.data(), path.size() - 1) <= 0) return;
  setenv("OMP_WAIT_POLICY", "passive", 0);
  execv(path.data(), argv);  // where that fails, go on with those that spin
}

int Run(int argc, char** argv) {
  CLI::App app("Makes the models that mambad serves.", "trainer");
  app.set_version_flag("--version", "trainer " MAMBAD_VERSION);
  app.require_subcommand(1);
  app.footer(kExitCodes);
  std::string config_path;
  bool overwrite = false;
  const std::vector<Command> commands = mambad::trainer::Commands();
  for (const Command& command : commands) {
    CLI::App* sub = app.add_subcommand(command.name, command.purpose);
    sub->add_option("--config", config_path, "YAML file with the settings below")->required();
    sub->add_flag("--overwrite", overwrite, "as `overwrite: true` in the file");
    sub->footer(
        [&command] { return "Settings, as \"key: default  # meaning\":\n" + command.explain(); });
    sub->callback([&] { command.run(config_path, overwrite); });
  }
  const std::vector<std::string> words(argv + 1, argv + argc);
  if (words.empty()) RefuseWithoutCommand(commands);
  CheckCommand(commands, words[0]);
  if (!words[0].starts_with('-')) CheckOptions(words);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& wish) {
    return app.exit(wish);  // help or version
  } catch (const CLI::ParseError& error) {
    if (words[0].starts_with('-')) {
      SayError("\"" + words[0] + "\": no such option; expected a command, --help or --version");
    } else {
      SayError(std::string(error.what()) + " (trainer " + words[0] + " --help tells more)");
    }
    return kUserFault;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  BeginWithThreadsThatSleep(argv);
  try {
    return Run(argc, argv);
  } catch (const mambad::trainer::Stopped& stopped) {
    return kSignalled + stopped.signal();  // what is saved where has been said
  } catch (const std::runtime_error& error) {
    SayError(error.what());
    return kUserFault;
  } catch (const std::exception& error) {
    SayError(error.what());
    return kOtherFault;
  }
}
