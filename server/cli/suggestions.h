// What was meant by a word that is none, and what is wrong with an option.

#ifndef MAMBAD_SERVER_CLI_SUGGESTIONS_H_
#define MAMBAD_SERVER_CLI_SUGGESTIONS_H_

#include <string>
#include <vector>

namespace mambad::cli {

// Letters to insert, remove, change, or swap with their neighbour to make `to` of `from`.
int EditDistance(const std::string& from, const std::string& to);

// "; did you mean NAME?" for the nearest of `names`, if it is near; else empty.
std::string DidYouMean(const std::string& word, const std::vector<std::string>& names);

// What CLI11 says of an option whose value is missing, is no number or was given too often, in
// words; anything else as it stands.
std::string OptionProblem(const std::string& words);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_SUGGESTIONS_H_
