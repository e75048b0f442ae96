#include "engine/checkpoint/end_of_turn.h"

#include <algorithm>
#include <set>
#include <string_view>

namespace mambad::checkpoint {
namespace {

constexpr int32_t kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6;

constexpr std::string_view kBetweenBars[] = {"<|eot_id|>",
                                             "<|eom_id|>",
                                             "<|im_end|>",
                                             "<|end|>",
                                             "<|endoftext|>",
                                             "<|return|>",
                                             "<|end_of_text|>",
                                             "<|call|>",
                                             "<|calls|>",
                                             "<|flush|>",
                                             "<|tool_response>",
                                             "<turn|>",
                                             "<｜end▁of▁sentence｜>"};
constexpr std::string_view kOthers[] = {"</s>",  "<end_of_turn>", "<EOT>", "_<EOT>",
                                        "[EOT]", "[EOS]",         "<eos>", "<end_of_utterance>",
                                        "[e~["};

bool IsAmong(std::string_view piece, const auto& list) {
  return std::find(std::begin(list), std::end(list), piece) != std::end(list);
}

}  // namespace

std::vector<int32_t> EndsBySpelling(const std::vector<std::string>& pieces,
                                    const std::vector<int32_t>& types) {
  std::vector<int32_t> ends;
  std::set<std::string_view> spellings;
  for (size_t id = 0; id < pieces.size(); ++id) {
    const int32_t type = types.empty() ? kControl : types[id];
    if (type == kUnused || type == kByte) continue;
    const bool special = type == kControl || type == kUserDefined;
    if (!IsAmong(pieces[id], kBetweenBars) && !(special && IsAmong(pieces[id], kOthers))) continue;
    if (!spellings.insert(pieces[id]).second) continue;  // the first id keeps the spelling
    ends.push_back(static_cast<int32_t>(id));
  }
  const auto drop = [&](std::string_view piece) {
    std::erase_if(ends, [&](int32_t id) { return pieces[id] == piece; });
  };
  const bool calls = spellings.contains("<|call|>") || spellings.contains("<|calls|>");
  if (calls && (spellings.contains("<|return|>") || spellings.contains("<|flush|>")))
    drop("<|end|>");
  if (spellings.contains("<|tool_response>")) drop("</s>");
  return ends;
}

}  // namespace mambad::checkpoint
