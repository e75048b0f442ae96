#include "server/cli/token_table.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "server/cli/terminal_text.h"

namespace mambad::cli {
namespace {

// A longer piece moves the rest of its own line only.
constexpr size_t kWidestPiece = 20;

std::string Alternative(const v1::TokenLogprob::Alternative& entry, bool has_pieces) {
  return has_pieces
             ? absl::StrFormat("%d %s %.4f", entry.id(), QuotePiece(entry.piece()), entry.logprob())
             : absl::StrFormat("%d %.4f", entry.id(), entry.logprob());
}

}  // namespace

std::string TokenTable(int64_t first_position,
                       const google::protobuf::RepeatedPtrField<v1::TokenLogprob>& logprobs) {
  const bool has_pieces = std::any_of(logprobs.begin(), logprobs.end(),
                                      [](const auto& entry) { return !entry.piece().empty(); });
  const bool has_alternatives =
      std::any_of(logprobs.begin(), logprobs.end(),
                  [](const auto& entry) { return entry.alternatives_size() > 0; });
  std::vector<std::string> pieces;
  size_t width = 5;  // of its name
  for (const v1::TokenLogprob& entry : logprobs) {
    pieces.push_back(QuotePiece(entry.piece()));
    width = std::max(width, std::min(DisplayWidth(pieces.back()), kWidestPiece));
  }
  std::string table = absl::StrFormat("%8s %8s  ", "position", "id");
  if (has_pieces) absl::StrAppend(&table, PadRight("piece", width), " ");
  absl::StrAppendFormat(&table, "%10s%s\n", "logprob", has_alternatives ? "   alternatives" : "");
  for (int i = 0; i < logprobs.size(); ++i) {
    const v1::TokenLogprob& entry = logprobs[i];
    absl::StrAppendFormat(&table, "%8d %8d  ", first_position + i, entry.id());
    if (has_pieces) absl::StrAppend(&table, PadRight(pieces[static_cast<size_t>(i)], width), " ");
    absl::StrAppendFormat(&table, "%10.5f", entry.logprob());
    for (const auto& alternative : entry.alternatives())
      absl::StrAppend(&table, "   ", Alternative(alternative, has_pieces));
    table += '\n';
  }
  return table;
}

}  // namespace mambad::cli
