// A line of JSON Lines.

#ifndef MAMBAD_TRAINER_JSON_RECORD_H_
#define MAMBAD_TRAINER_JSON_RECORD_H_

#include <string>

#include "nlohmann/json.hpp"

namespace mambad::trainer {

// The object on the line, as Python's json reads it: NaN is null, and the infinities are numbers
// (engine/json/json_text.h). null where the line is no object.
nlohmann::json ReadJsonRecord(const std::string& line);

}  // namespace mambad::trainer

#endif  // MAMBAD_TRAINER_JSON_RECORD_H_
