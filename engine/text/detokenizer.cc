#include "engine/text/detokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/text/utf8.h"

namespace mambad::text {
namespace {

constexpr size_t kUsualBytes = 256;  // of one call

std::vector<size_t> BordersOf(std::string_view text) {
  std::vector<size_t> borders(text.size() + 1, 0);
  size_t border = 0;
  for (size_t i = 1; i < text.size(); ++i) {
    while (border > 0 && text[border] != text[i]) border = borders[border];
    if (text[border] == text[i]) ++border;
    borders[i + 1] = border;
  }
  return borders;
}

}  // namespace

absl::StatusOr<Detokenizer> Detokenizer::Create(const Tokenizer* tokenizer, Options options) {
  for (size_t i = 0; i < options.stop_strings.size(); ++i) {
    const std::string& stop = options.stop_strings[i];
    if (stop.empty() || !CheckUtf8(stop).ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("stop_strings[", i, "]: expected ",
                       stop.empty() ? "some text, found none" : "valid UTF-8"));
    }
  }
  return Detokenizer(tokenizer, std::move(options));
}

Detokenizer::Detokenizer(const Tokenizer* tokenizer, Options options)
    : tokenizer_(tokenizer),
      skip_special_(options.skip_special),
      include_stop_(options.include_stop),
      strip_space_(options.at_start_of_text && tokenizer->strips_leading_space()) {
  size_t longest = 0;
  for (std::string& stop : options.stop_strings) {
    longest = std::max(longest, stop.size());
    std::vector<size_t> borders = BordersOf(stop);
    stops_.push_back({std::move(stop), std::move(borders), 0});
  }
  bytes_.reserve(kUsualBytes);
  text_.reserve(kUsualBytes + longest);
}

Detokenizer::Output Detokenizer::Push(absl::Span<const TokenId> ids) {
  text_.erase(0, released_);
  released_ = 0;
  if (over_) return {};
  for (size_t i = 0; i < ids.size(); ++i) {
    AppendToken(ids[i]);
    if (Advance(/*final=*/false)) return Release(i + 1, false);
  }
  return Release(ids.size(), false);
}

Detokenizer::Output Detokenizer::Finish() {
  text_.erase(0, released_);
  released_ = 0;
  if (over_) return {};
  Advance(/*final=*/true);
  return Release(0, true);
}

void Detokenizer::AppendToken(TokenId id) {
  if (skip_special_ && tokenizer_->IsSpecial(id)) return;
  const size_t before = bytes_.size();
  tokenizer_->AppendTokenBytes(id, &bytes_);
  if (!strip_space_ || bytes_.size() == before) return;
  strip_space_ = false;
  if (bytes_[before] == ' ') bytes_.erase(before, 1);
}

bool Detokenizer::Advance(bool final) {
  const size_t from = text_.size();
  bytes_.erase(0, AppendValidUtf8(bytes_, final, &text_));
  return FindStop(from);
}

// Feeds the text from `from` on to all matchers. At the first byte where one completes, the text is
// cut behind it or before the stop string.
bool Detokenizer::FindStop(size_t from) {
  if (stops_.empty()) return false;
  for (size_t at = from; at < text_.size(); ++at) {
    for (size_t i = 0; i < stops_.size(); ++i) {
      StopMatcher& stop = stops_[i];
      while (stop.matched > 0 &&
             (stop.matched == stop.text.size() || stop.text[stop.matched] != text_[at])) {
        stop.matched = stop.borders[stop.matched];
      }
      if (stop.text[stop.matched] == text_[at]) ++stop.matched;
      const bool complete = stop.matched == stop.text.size();
      if (complete && (stop_ == kNoStop || stop.text.size() > stops_[stop_].text.size())) {
        stop_ = static_cast<int>(i);
      }
    }
    if (stop_ != kNoStop) {
      text_.resize(at + 1 - (include_stop_ ? 0 : stops_[stop_].text.size()));
      return true;
    }
  }
  return false;
}

Detokenizer::Output Detokenizer::Release(size_t kept_tokens, bool final) {
  over_ = final || stop_ != kNoStop;
  size_t held = 0;
  if (!over_) {
    for (const StopMatcher& stop : stops_) held = std::max(held, stop.matched);
  }
  released_ = text_.size() - held;
  return {std::string_view(text_).substr(0, released_), stop_, kept_tokens};
}

}  // namespace mambad::text
