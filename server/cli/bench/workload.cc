#include "server/cli/bench/workload.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace mambad::cli {
namespace {

// The name of a stream of random tokens: of block `id` of a trace, or of one conversation's turn.
uint64_t BlockStream(int64_t id) { return uint64_t{1} << 63 | static_cast<uint64_t>(id); }
uint64_t TurnStream(int64_t talk, int64_t turn) {
  return static_cast<uint64_t>(talk) << 16 | static_cast<uint64_t>(turn);
}

void AppendRandom(uint64_t seed, uint64_t stream, int64_t count, int32_t vocabulary,
                  std::vector<int32_t>* ids) {
  std::seed_seq words{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32),
                      static_cast<uint32_t>(stream), static_cast<uint32_t>(stream >> 32)};
  std::mt19937_64 random(words);
  for (int64_t i = 0; i < count; ++i)
    ids->push_back(static_cast<int32_t>(random() % static_cast<uint64_t>(vocabulary)));
}

}  // namespace

int64_t Workload::Scaled(int64_t tokens) const {
  return std::max<int64_t>(1, std::llround(options_.scale * static_cast<double>(tokens)));
}

std::vector<int32_t> Workload::RandomTokens(const PromptEntry& entry, uint64_t stream) const {
  std::vector<int32_t> ids;
  const auto length = static_cast<size_t>(Scaled(entry.prompt_tokens));
  const int64_t block_tokens = Scaled(kBlockTokens);
  for (const int64_t block : entry.blocks) {
    if (ids.size() >= length) break;
    AppendRandom(options_.seed, BlockStream(block), block_tokens, options_.vocabulary, &ids);
  }
  if (ids.size() < length) {
    AppendRandom(options_.seed, stream, static_cast<int64_t>(length - ids.size()),
                 options_.vocabulary, &ids);
  }
  ids.resize(length);
  return ids;
}

Talk Workload::TalkAt(int64_t index) const {
  Talk talk;
  const double share = options_.kept_share;
  const auto number = static_cast<double>(index);
  talk.is_kept = std::floor((number + 1) * share) > std::floor(number * share);
  if (options_.entries.empty()) {
    for (int turn = 0; turn < std::max(1, options_.turns) && options_.random_tokens > 0; ++turn) {
      AppendRandom(options_.seed, TurnStream(index, turn), options_.random_tokens,
                   options_.vocabulary, &talk.turns.emplace_back().token_ids);
    }
  } else {
    ReadEntries(index, &talk);
  }
  return talk;
}

void Workload::ReadEntries(int64_t index, Talk* talk) const {
  const auto entry_at = [&](int64_t place) -> const PromptEntry& {
    return options_.entries[static_cast<size_t>(place) % options_.entries.size()];
  };
  const PromptEntry& first = entry_at(index);
  if (first.answer_tokens) talk->answer_tokens = Scaled(*first.answer_tokens);
  if (first.turns.size() > 1) {
    for (const std::string& turn : first.turns) talk->turns.emplace_back().text = turn;
    if (options_.turns > 0 && talk->turns.size() > static_cast<size_t>(options_.turns))
      talk->turns.resize(static_cast<size_t>(options_.turns));
    return;
  }
  const int64_t wanted = std::max(1, options_.turns);
  for (int64_t turn = 0; turn < wanted; ++turn) {
    const PromptEntry& entry = entry_at(index * wanted + turn);
    Turn& said = talk->turns.emplace_back();
    if (entry.turns.empty()) {
      said.token_ids = RandomTokens(entry, TurnStream(index, turn));
    } else {
      said.text = entry.turns.front();
    }
  }
}

v1::GenerateRequest TalkRequests::Next() {
  v1::GenerateRequest request = base_;
  const bool goes_on = !session_id_.empty();
  if (next_ < talk_.turns.size()) {
    const Turn& turn = talk_.turns[next_];
    if (chat_) {
      v1::Message* message = conversation_.add_messages();
      message->set_role("user");
      message->set_content(turn.text);
      *request.mutable_conversation() = conversation_;  // whole, with a session too
    } else if (turn.token_ids.empty()) {
      text_ += turn.text;
      request.set_text(goes_on ? turn.text : text_);
    } else {
      token_ids_.insert(token_ids_.end(), turn.token_ids.begin(), turn.token_ids.end());
      const std::vector<int32_t>& sent = goes_on ? turn.token_ids : token_ids_;
      request.mutable_token_ids()->mutable_ids()->Add(sent.begin(), sent.end());
    }
  }
  ++next_;
  if (talk_.answer_tokens) {
    request.mutable_stopping()->set_max_tokens(*talk_.answer_tokens);
    request.mutable_stopping()->set_ignore_eos(true);
  }
  if (talk_.is_kept) request.set_keep_session(true);
  if (goes_on) request.set_session_id(session_id_);
  return request;
}

void TalkRequests::Answered(const std::string& text, const std::vector<int32_t>& token_ids,
                            const std::string& session_id) {
  text_ += text;
  token_ids_.insert(token_ids_.end(), token_ids.begin(), token_ids.end());
  v1::Message* message = conversation_.add_messages();
  message->set_role("assistant");
  message->set_content(text);
  if (talk_.is_kept) session_id_ = session_id;
}

std::vector<double> DrawArrivals(double rate, uint64_t seed, int64_t count,
                                 std::optional<double> seconds) {
  std::mt19937_64 random(seed);
  std::exponential_distribution<double> gap(rate);
  std::vector<double> arrivals;
  for (double arrival = 0; static_cast<int64_t>(arrivals.size()) < count; arrival += gap(random)) {
    if (seconds && arrival > *seconds) break;
    arrivals.push_back(arrival);
  }
  return arrivals;
}

}  // namespace mambad::cli
