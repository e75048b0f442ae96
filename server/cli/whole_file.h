// Files that are read or written at once.

#ifndef MAMBAD_SERVER_CLI_WHOLE_FILE_H_
#define MAMBAD_SERVER_CLI_WHOLE_FILE_H_

#include <string>

namespace mambad::cli {

// The whole file, "-": standard input. Empty, or why not, with the system's reason.
std::string ReadWholeFile(const std::string& path, std::string* text);

// `replaces`: another file of that name; else it is an error. Empty, or why not.
std::string WriteWholeFile(const std::string& path, const std::string& text, bool replaces);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_WHOLE_FILE_H_
