// tokenize_lines DIRECTORY: the tokenizer of a model directory for tests in other languages.
//
// One JSON object a line from standard input, one back for each:
//   {"text": T, "add_special": B, "parse_special": B} -> {"ids": [...], "decoded": D, "plain": P}
//   {"ids": [...]}                                    -> {"decoded": D, "plain": P}
// `decoded` keeps special tokens, `plain` leaves them out. What is refused gives {"error": E}, a
// tokenizer that cannot be opened a single one.
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "engine/text/tokenizer.h"

namespace mambad::text {
namespace {

using Json = nlohmann::json;

Json ErrorOf(const absl::Status& status) { return {{"error", std::string(status.message())}}; }

Json Answer(const Tokenizer& tokenizer, const Json& request) {
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
