#include "server/cli/suggestions.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace mambad::cli {

int EditDistance(const std::string& from, const std::string& to) {
  // Three rows of the table: of the letter before the last, of the last, of this one.
  std::vector<int> older(to.size() + 1), old(to.size() + 1), row(to.size() + 1);
  for (size_t j = 0; j <= to.size(); ++j) row[j] = static_cast<int>(j);
  for (size_t i = 1; i <= from.size(); ++i) {
    std::swap(older, old);
    std::swap(old, row);
    row[0] = static_cast<int>(i);
    for (size_t j = 1; j <= to.size(); ++j) {
      const int change = old[j - 1] + (from[i - 1] != to[j - 1]);
      row[j] = std::min({old[j] + 1, row[j - 1] + 1, change});
      const bool swapped = i > 1 && j > 1 && from[i - 1] == to[j - 2] && from[i - 2] == to[j - 1];
      if (swapped) row[j] = std::min(row[j], older[j - 2] + 1);
    }
  }
  return row[to.size()];
}

std::string DidYouMean(const std::string& word, const std::vector<std::string>& names) {
  constexpr size_t kLongestWord = 64;  // longer ones are no typing errors
  if (word.size() > kLongestWord) return "";
  const std::string* nearest = nullptr;
  int least = 0;
  for (const std::string& name : names) {
    const int distance = EditDistance(word, name);
    if (nearest != nullptr && distance >= least) continue;
    nearest = &name;
    least = distance;
  }
  if (nearest == nullptr) return "";
  const int letters = static_cast<int>(word.size());
  if (least > std::max(1, letters / 3)) return "";
  return absl::StrCat("; did you mean ", *nearest, "?");
}

std::string OptionProblem(const std::string& words) {
  // "--prompt: 1 required TEXT missing", "--prompt: At Most 1 required but received 2",
  // "Could not convert: --threads = x"
  const std::string kMissing = ": 1 required ", kOften = ": At Most 1 required but received ",
                    kNoNumber = "Could not convert: ", kIs = " = ";
  if (const size_t colon = words.find(kMissing); colon != std::string::npos) {
    return absl::StrCat(words.substr(0, colon), " needs a value behind it");
  }
  if (const size_t colon = words.find(kOften); colon != std::string::npos) {
    return absl::StrCat(words.substr(0, colon), ": given ", words.substr(colon + kOften.size()),
                        " times, once is expected");
  }
  const size_t is = words.find(kIs);
  if (absl::StartsWith(words, kNoNumber) && is != std::string::npos) {
    return absl::StrCat(words.substr(kNoNumber.size(), is - kNoNumber.size()), ": \"",
                        words.substr(is + kIs.size()), "\" is not a whole number");
  }
  return words;
}

}  // namespace mambad::cli
