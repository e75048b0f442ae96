// What was meant by a word that is none.

#ifndef MAMBAD_SERVER_CLI_SUGGESTIONS_H_
#define MAMBAD_SERVER_CLI_SUGGESTIONS_H_

#include <string>
#include <vector>

namespace mambad::cli {

// Letters to insert, remove, change, or swap with their neighbour to make `to` of `from`.
int EditDistance(const std::string& from, const std::string& to);

// "; did you mean NAME?" for the nearest of `names`, if it is near; else empty.
std::string DidYouMean(const std::string& word, const std::vector<std::string>& names);

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_SUGGESTIONS_H_
