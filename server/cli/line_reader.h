// Lines that a person types, or that a pipe brings.

#ifndef MAMBAD_SERVER_CLI_LINE_READER_H_
#define MAMBAD_SERVER_CLI_LINE_READER_H_

#include <memory>
#include <string>

#include "server/cli/interrupts.h"

namespace mambad::cli {

struct TypedLine {
  enum class Kind {
    kLine,
    kEnd,          // Ctrl-D, or the end of the pipe
    kInterrupted,  // Ctrl-C
  };
  Kind kind = Kind::kEnd;
  std::string text;  // without the line break; of kInterrupted, what had been typed
};

class LineReader {
 public:
  virtual ~LineReader() = default;
  // Blocks. The prompt is shown to people only.
  virtual TypedLine Read(const std::string& prompt) = 0;
};

// Of standard input, with the prompt on standard error. Where both are a terminal that can move
// its cursor, lines are edited and earlier ones come back with the arrow keys; they are kept in
// memory alone. `interrupts` outlives the reader.
std::unique_ptr<LineReader> MakeLineReader(bool is_terminal, Interrupts* interrupts);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_LINE_READER_H_
