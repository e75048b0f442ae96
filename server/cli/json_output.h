// Messages as JSON for programs.

#ifndef MAMBAD_SERVER_CLI_JSON_OUTPUT_H_
#define MAMBAD_SERVER_CLI_JSON_OUTPUT_H_

#include <google/protobuf/message.h>

#include <string>

namespace mambad::cli {

// One JSON object on one line, with the field names of the proto and defaults spelled out; optional
// fields and messages that are absent are left out. Whole numbers of every size are numbers (a seed
// needs all 64 bits), enumerators their names, floats the shortest digits that read back the same;
// NaN and infinities are strings. Bytes are a string where they are UTF-8, else a list of numbers 0
// to 255. Nothing is escaped but what JSON demands.
std::string ToJson(const google::protobuf::Message& message);

// The same with a line break, on standard output, at once.
void PrintJson(const google::protobuf::Message& message);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_JSON_OUTPUT_H_
