#include "engine/text/detokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/text/utf8.h"

namespace mambad::text {
namespace {

constexpr size_t kUsualBytes = 256;  // of one call
// In these, at the end of a text, an unfinished character begins: three of its bytes at most.
constexpr size_t kTokensOfCharacter = 8;

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
  for (std::string& stop : options.stop_strings) {
    longest_stop_ = std::max(longest_stop_, stop.size());
    std::vector<size_t> borders = BordersOf(stop);
    StopMatcher matcher;
    matcher.text = std::move(stop);
    matcher.borders = std::move(borders);
    stops_.push_back(std::move(matcher));
  }
  bytes_.reserve(kUsualBytes);
  text_.reserve(kUsualBytes + longest_stop_);
  if (longest_stop_ == 0) return;
  hidden_bytes_.reserve(kUsualBytes);
  hidden_.reserve(longest_stop_ +
                  1);  // all but the first lie whole within reach, a byte each or more
}

void Detokenizer::GoOnFrom(absl::Span<const TokenId> before) {
  before.remove_prefix(before.size() - std::min(before.size(), kTokensOfCharacter));
  for (const TokenId id : before) {
    if (tokenizer_->IsSpecial(id)) {
      bytes_.clear();
    } else {
      tokenizer_->AppendTokenBytes(id, &bytes_);
    }
  }
  std::string whole;
  bytes_.erase(0, AppendValidUtf8(bytes_, /*final=*/false, &whole));
}

Detokenizer::Output Detokenizer::Push(absl::Span<const TokenId> ids) {
  text_.erase(0, released_);
  released_ = 0;
  if (over_) return {};
  for (size_t i = 0; i < ids.size(); ++i) {
    if (AppendToken(ids[i])) return Release(i + 1, false);
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

bool Detokenizer::AppendToken(TokenId id) {
  if (skip_special_ && tokenizer_->IsSpecial(id)) return AppendHidden(id);
  const size_t before = bytes_.size();
  tokenizer_->AppendTokenBytes(id, &bytes_);
  if (strip_space_ && bytes_.size() != before) {
    strip_space_ = false;
    if (bytes_[before] == ' ') bytes_.erase(before, 1);
  }
  return Advance(/*final=*/false);
}

bool Detokenizer::Advance(bool final) {
  const size_t from = text_.size();
  bytes_.erase(0, AppendValidUtf8(bytes_, final, &text_));
  return FindStop(from);
}

bool Detokenizer::StopMatcher::Feed(char byte, size_t* count) const {
  while (*count > 0 && (*count == text.size() || text[*count] != byte)) *count = borders[*count];
  if (text[*count] == byte) ++*count;
  return *count == text.size();
}

// Feeds the text from `from` on to all matchers. At the first byte where one completes, the text is
// cut behind it or before the stop string.
bool Detokenizer::FindStop(size_t from) {
  if (stops_.empty()) return false;
  for (size_t at = from; at < text_.size(); ++at) {
    ++whole_length_;
    for (size_t i = 0; i < stops_.size(); ++i) {
      StopMatcher& stop = stops_[i];
      if (stop.Feed(text_[at], &stop.matched)) Choose(i, stop.text.size());
      if (!skip_special_ || !stop.Feed(text_[at], &stop.matched_whole)) continue;
      const std::optional<size_t> visible = Visible(stop.text.size(), false);
      if (visible.has_value()) Choose(i, *visible);
    }
    if (stop_ != kNoStop) {
      Cut(at + 1);
      return true;
    }
  }
  ForgetHidden();
  return false;
}

// A special token that is left out: only stop strings that spell it see it.
bool Detokenizer::AppendHidden(TokenId id) {
  if (stops_.empty()) return false;
  hidden_bytes_.clear();
  tokenizer_->AppendTokenBytes(id, &hidden_bytes_);
  if (hidden_bytes_.empty()) return false;
  ForgetHidden();
  hidden_.push_back({whole_length_, whole_length_ + hidden_bytes_.size()});
  for (const char byte : hidden_bytes_) {
    ++whole_length_;
    for (size_t i = 0; i < stops_.size(); ++i) {
      StopMatcher& stop = stops_[i];
      const bool complete = stop.Feed(byte, &stop.matched_whole);
      if (!complete || whole_length_ != hidden_.back().end) continue;
      const std::optional<size_t> visible = Visible(stop.text.size(), false);
      if (visible.has_value()) Choose(i, *visible);
    }
  }
  if (stop_ == kNoStop) return false;
  Cut(text_.size());
  return true;
}

void Detokenizer::Choose(size_t stop, size_t visible_bytes) {
  if (stop_ != kNoStop && stops_[stop].text.size() <= stops_[stop_].text.size()) return;
  stop_ = static_cast<int>(stop);
  stop_visible_ = visible_bytes;
}

// Ends the text where the stop string that was chosen does, at `end`, or where it begins.
void Detokenizer::Cut(size_t end) {
  text_.resize(end - stop_visible_);
  if (include_stop_) text_.append(stops_[stop_].text);
}

std::optional<size_t> Detokenizer::Visible(size_t length, bool may_begin_inside) const {
  const size_t begin = whole_length_ - length;
  size_t visible = length;
  for (const HiddenToken& token : hidden_) {
    if (token.end <= begin) continue;
    if (token.begin < begin && !may_begin_inside) return std::nullopt;
    visible -= std::min(token.end, whole_length_) - std::max(token.begin, begin);
  }
  return visible;
}

void Detokenizer::ForgetHidden() {
  size_t gone = 0;
  while (gone < hidden_.size() && hidden_[gone].end + longest_stop_ <= whole_length_) ++gone;
  hidden_.erase(hidden_.begin(), hidden_.begin() + static_cast<std::ptrdiff_t>(gone));
}

Detokenizer::Output Detokenizer::Release(size_t kept_tokens, bool final) {
  over_ = final || stop_ != kNoStop;
  size_t held = 0;
  if (!over_) {
    for (const StopMatcher& stop : stops_) {
      held = std::max(held, stop.matched);
      if (skip_special_) {
        held = std::max(held, Visible(stop.matched_whole, true).value_or(0));
      }
    }
  }
  released_ = text_.size() - held;
  return {std::string_view(text_).substr(0, released_), stop_, kept_tokens};
}

}  // namespace mambad::text
