#include "engine/text/pre_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/match.h"

namespace mambad::text {

const std::string_view kGpt2Pattern =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

namespace {

struct Part {
  size_t begin, end;
  bool matched;
};

// Matches and the text between them, in order. An empty match cuts, and is an empty part: no piece
// comes of it.
void ListParts(size_t length, const std::vector<Match>& matches, bool invert,
               std::vector<Part>* parts) {
  parts->clear();
  size_t at = 0;
  for (const Match& match : matches) {
    if (match.begin > at) parts->push_back({at, match.begin, invert});
    parts->push_back({match.begin, match.end, !invert});
    at = match.end;
  }
  if (at < length) parts->push_back({at, length, invert});
}

void Arrange(std::string_view text, const std::vector<Part>& parts, SplitBehavior behavior,
             std::vector<std::string_view>* pieces) {
  const size_t first = pieces->size();
  bool join_next = false;  // the last piece wants what follows
  bool last_matched = false;
  for (const Part& part : parts) {
    const std::string_view piece = text.substr(part.begin, part.end - part.begin);
    bool join = false;
    const bool has_last = pieces->size() > first;
    switch (behavior) {
      case SplitBehavior::kRemoved:
        if (part.matched) continue;
        break;
      case SplitBehavior::kIsolated:
        break;
      case SplitBehavior::kMergedWithPrevious:
        join = has_last && part.matched && !last_matched;
        break;
      case SplitBehavior::kMergedWithNext:
        join = join_next && !part.matched;
        join_next = part.matched;
        break;
      case SplitBehavior::kContiguous:
        join = has_last && part.matched && last_matched;
        break;
    }
    last_matched = part.matched;
    if (join) {
      pieces->back() =
          std::string_view(pieces->back().data(), pieces->back().size() + piece.size());
    } else {
      pieces->push_back(piece);
    }
  }
  pieces->erase(std::remove_if(pieces->begin() + static_cast<std::ptrdiff_t>(first), pieces->end(),
                               [](std::string_view piece) { return piece.empty(); }),
                pieces->end());
}

std::string MarkSpaces(std::string_view piece, bool at_start, bool goes_on,
                       const MetaspaceStep& step) {
  std::string marked;
  marked.reserve(piece.size() + step.marker.size());
  for (const char c : piece) {
    if (c == ' ') {
      marked.append(step.marker);
    } else {
      marked.push_back(c);
    }
  }
  const bool wanted = step.prepend == MetaspaceStep::Prepend::kAlways ||
                      (step.prepend == MetaspaceStep::Prepend::kFirst && at_start);
  if (wanted && !goes_on && !absl::StartsWith(marked, step.marker)) marked.insert(0, step.marker);
  return marked;
}

void CutBefore(std::string_view text, std::string_view marker,
               std::vector<std::string_view>* pieces) {
  while (!text.empty()) {
    const size_t end = std::min(text.find(marker, 1), text.size());
    pieces->push_back(text.substr(0, end));
    text.remove_prefix(end);
  }
}

}  // namespace

absl::Status PreTokenizer::Split(std::string_view text, bool at_start, Pieces* result,
                                 bool goes_on) const {
  result->changed.clear();
  result->pieces.assign(text.empty() ? 0 : 1, text);
  std::vector<std::string_view> before;
  std::vector<Match> matches;
  std::vector<Part> parts;
  for (const PreTokenizerStep& step : steps_) {
    before.swap(result->pieces);
    result->pieces.clear();
    bool first = at_start, bare = goes_on;
    for (const std::string_view piece : before) {
      switch (step.kind) {
        case PreTokenizerStep::Kind::kSplit: {
          matches.clear();
          const SplitStep& split = step.split.front();
          const absl::Status status = split.pattern.FindAll(piece, &matches);
          if (!status.ok()) return status;
          ListParts(piece.size(), matches, split.invert, &parts);
          Arrange(piece, parts, split.behavior, &result->pieces);
          break;
        }
        case PreTokenizerStep::Kind::kMetaspace:
          result->changed.push_back(MarkSpaces(piece, first, bare, step.metaspace));
          if (step.metaspace.split) {
            CutBefore(result->changed.back(), step.metaspace.marker, &result->pieces);
          } else {
            result->pieces.push_back(result->changed.back());
          }
          break;
        case PreTokenizerStep::Kind::kPrefixSpace:
          if (piece.front() == ' ' || bare) {
            result->pieces.push_back(piece);
          } else {
            result->changed.push_back(" " + std::string(piece));
            result->pieces.push_back(result->changed.back());
          }
          break;
      }
      first = bare = false;
    }
    if (step.kind == PreTokenizerStep::Kind::kSplit && at_start) {  // its beginning may be removed
      at_start = !result->pieces.empty() && result->pieces.front().data() == before.front().data();
    }
  }
  return absl::OkStatus();
}

}  // namespace mambad::text
