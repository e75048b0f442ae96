// What a command line says of itself, for others to read: manual pages, and completion by
// shells, made from the very definitions that flags are read by.

#ifndef MAMBAD_SERVER_CLI_MANUAL_H_
#define MAMBAD_SERVER_CLI_MANUAL_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace mambad::cli {

// A page of section 1 (man(7)) about `app`, its options, its commands and theirs. `version`: of
// the program.
std::string ManualPage(const CLI::App& app, const std::string& version);

// What `shell` of Completion may be; the first is the one that is meant where none is said.
const std::vector<std::string>& CompletionShells();

// A script for this shell, which completes `app`'s commands, their options, and files.
std::string Completion(const CLI::App& app, const std::string& shell);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_MANUAL_H_
