// What mambactl top shows: the server's load as some lines of text, its latest course as bars.

#ifndef MAMBAD_SERVER_CLI_LOAD_VIEW_H_
#define MAMBAD_SERVER_CLI_LOAD_VIEW_H_

#include <cstddef>
#include <deque>
#include <string>

#include "mambad/v1/generation.pb.h"

namespace mambad::cli {

// Not thread-safe.
class LoadView {
 public:
  // `columns`: as many loads as are kept, and the width of the bars.
  explicit LoadView(size_t columns) : columns_(columns) {}

  void Add(const v1::GetLoadResponse& load);

  // Lines that end with a line break each. `title`: above them.
  std::string Text(const std::string& title) const;

 private:
  std::string Row(const char* name, double now, const std::string& value,
                  double (*of)(const v1::GetLoadResponse&), double full) const;

  const size_t columns_;
  std::deque<v1::GetLoadResponse> loads_;  // the latest is last
};

// A character an entry, from " " for 0 to "█" for `full` and beyond; `full` 0: for the highest.
std::string Bars(const std::deque<double>& values, double full);

// One line: what programs and logs of a shell keep of a load.
std::string LoadLine(const v1::GetLoadResponse& load);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_LOAD_VIEW_H_
