// tokenize_lines DIRECTORY: the tokenizer of a model directory for tests in other languages.
//
// One JSON object a line from standard input, one back for each:
//   {"text": T, "add_special": B, "parse_special": B} -> {"ids": [...], "decoded": D, "plain": P}
//   {"ids": [...]}                                    -> {"decoded": D, "plain": P}
//   {"pattern": P, "text": T} -> {"matches": [[begin, end], ...]}, offsets in bytes
//   {"rule": R, "text": T}    -> {"pieces": [...]}: how the GGUF pre-tokenizer R cuts the text
// `decoded` keeps special tokens, `plain` leaves them out. What is refused gives {"error": E}, a
// tokenizer that cannot be opened a single one.
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "engine/text/pre_tokenizer.h"
#include "engine/text/pre_tokenizer_names.h"
#include "engine/text/regex.h"
#include "engine/text/tokenizer.h"
#include "engine/text/tokenizer_components.h"

namespace mambad::text {
namespace {

using Json = nlohmann::json;

Json ErrorOf(const absl::Status& status) { return {{"error", std::string(status.message())}}; }

Json Matches(const std::string& pattern, const std::string& text) {
  const absl::StatusOr<Regex> regex = Regex::Compile(pattern);
  if (!regex.ok()) return ErrorOf(regex.status());
  std::vector<Match> matches;
  if (absl::Status status = regex->FindAll(text, &matches); !status.ok()) return ErrorOf(status);
  Json answer = {{"matches", Json::array()}};
  for (const Match& match : matches) answer["matches"].push_back({match.begin, match.end});
  return answer;
}

Json PiecesOf(const std::string& name, const std::string& text) {
  const std::optional<ByteLevelRule> rule = FindByteLevelRule(name);
  if (!rule.has_value()) return {{"error", "unknown rule " + name}};
  std::vector<PreTokenizerStep> steps;
  for (const std::string_view pattern : rule->patterns) {
    absl::StatusOr<PreTokenizerStep> step = IsolateMatches(pattern);
    if (!step.ok()) return ErrorOf(step.status());
    steps.push_back(*std::move(step));
  }
  Pieces pieces;
  const PreTokenizer pre_tokenizer(std::move(steps));
  if (absl::Status status = pre_tokenizer.Split(text, true, &pieces); !status.ok()) {
    return ErrorOf(status);
  }
  Json answer = {{"pieces", Json::array()}};
  for (const std::string_view piece : pieces.pieces) answer["pieces"].push_back(piece);
  return answer;
}

Json Answer(const Tokenizer& tokenizer, const Json& request) {
  if (request.contains("pattern")) return Matches(request["pattern"], request["text"]);
  if (request.contains("rule")) return PiecesOf(request["rule"], request["text"]);
  Json answer = Json::object();
  std::vector<TokenId> ids;
  if (request.contains("text")) {
    const absl::StatusOr<std::vector<TokenId>> encoded = tokenizer.Encode(
        request["text"].get<std::string>(),
        {.add_special_tokens = request["add_special"], .parse_special = request["parse_special"]});
    if (!encoded.ok()) return ErrorOf(encoded.status());
    ids = *encoded;
    answer["ids"] = ids;
  } else {
    ids = request["ids"].get<std::vector<TokenId>>();
  }
  answer["decoded"] = tokenizer.Decode(ids, /*skip_special=*/false);
  answer["plain"] = tokenizer.Decode(ids, /*skip_special=*/true);
  return answer;
}

int AnswerAll(const char* directory) {
  const auto tokenizer = OpenTokenizer(directory);
  if (!tokenizer.ok()) {
    std::cout << ErrorOf(tokenizer.status()) << "\n";
    return EXIT_SUCCESS;
  }
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << Answer(**tokenizer, Json::parse(line)) << "\n";
  }
  return EXIT_SUCCESS;
}

}  // namespace
}  // namespace mambad::text

int main(int argc, char** argv) {
  if (argc != 2) {
    std::cerr << "usage: tokenize_lines DIRECTORY\n";
    return 2;
  }
  std::ios::sync_with_stdio(false);
  return mambad::text::AnswerAll(argv[1]);
}
