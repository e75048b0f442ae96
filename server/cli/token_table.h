// Tokens with their log-probabilities as a table for people.

#ifndef MAMBAD_SERVER_CLI_TOKEN_TABLE_H_
#define MAMBAD_SERVER_CLI_TOKEN_TABLE_H_

#include <google/protobuf/repeated_ptr_field.h>

#include <cstdint>
#include <string>

#include "mambad/v1/generation.pb.h"

namespace mambad::cli {

// A line with the columns' names, then one a token: position (counted from `first_position`), id,
// piece in quotes, log-probability, and its alternatives where there are any. Without a tokenizer
// the pieces are left out.
std::string TokenTable(int64_t first_position,
                       const google::protobuf::RepeatedPtrField<v1::TokenLogprob>& logprobs);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_TOKEN_TABLE_H_
