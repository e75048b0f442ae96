// trainer <command> --config file.yaml

#include <cstdio>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "trainer/stages/stage.h"

namespace {

constexpr int kUserFault = 2;   // settings, files, data, a loss that diverged
constexpr int kOtherFault = 1;  // a failed device call, a bug

// Errors of LibTorch carry a backtrace behind their first line.
void SayError(const std::string& what) {
  std::fprintf(stderr, "trainer: error: %s\n", what.substr(0, what.find('\n')).c_str());
}

// The library would only say that one is missing.
void CheckCommand(const std::vector<mambad::trainer::Command>& commands, const std::string& word) {
  if (word.starts_with('-')) return;  // an option
  std::string names;
  for (const mambad::trainer::Command& command : commands) {
    if (command.name == word) return;
    names += (names.empty() ? "" : ", ") + command.name;
  }
  throw std::runtime_error("\"" + word + "\": no such command; expected one of " + names);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Makes the models that mambad serves.", "trainer");
  app.set_version_flag("--version", "trainer " MAMBAD_VERSION);
  app.require_subcommand(1);
  std::string config_path;
  std::vector<mambad::trainer::Command> commands = mambad::trainer::Commands();
  for (const mambad::trainer::Command& command : commands) {
    CLI::App* sub = app.add_subcommand(command.name, command.purpose);
    sub->add_option("--config", config_path, "YAML file with the settings below")->required();
    sub->footer(
        [&command] { return "Settings, as \"key: default  # meaning\":\n" + command.explain(); });
    sub->callback([&command, &config_path] { command.run(config_path); });
  }
  try {
    CheckCommand(commands, argc > 1 ? argv[1] : "-");
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    const int code = app.exit(error);
    return code == 0 ? 0 : kUserFault;
  } catch (const std::runtime_error& error) {
    SayError(error.what());
    return kUserFault;
  } catch (const std::exception& error) {
    SayError(error.what());
    return kOtherFault;
  }
  return 0;
}
