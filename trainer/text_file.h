#ifndef MAMBAD_TRAINER_TEXT_FILE_H_
#define MAMBAD_TRAINER_TEXT_FILE_H_

#include <string>

namespace mambad::trainer {

// Writes `text` to the file `path`, which is replaced whole or stays as it was. Throws
// std::runtime_error with the path and the system's reason.
void WriteText(const std::string& path, const std::string& text);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_TEXT_FILE_H_
