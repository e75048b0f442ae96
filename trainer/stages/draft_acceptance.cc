#include "trainer/stages/draft_acceptance.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "trainer/counter_random.h"
#include "trainer/modules/decode_state.h"
#include "trainer/stages/document_rows.h"

namespace mambad::trainer {
namespace {

using at::Tensor;

// The part of a document before its first answer, or its first tokens where it has none.
std::vector<WrittenAnswer> Prompts(const TokenStore& store, const AcceptanceOptions& options) {
  std::vector<WrittenAnswer> prompts;
  const int64_t count = std::min(options.prompts, store.documents());
  for (int64_t document = 0; document < count; ++document) {
    const int64_t length = store.Length(document);
    if (length == 0) continue;
    std::vector<int64_t> tokens(length);
    std::vector<uint8_t> trained(length);
    store.Read(document, 0, length, tokens.data(), trained.data());
    int64_t end = std::find(trained.begin(), trained.end(), 1) - trained.begin();
    if (end == 0 || end == length) end = std::min(length, options.prompt_tokens);
    tokens.resize(end);
    prompts.push_back({std::move(tokens), end});
  }
  if (prompts.empty()) throw std::runtime_error("held-out text: no documents to take prompts from");
  return prompts;
}

// The next token of each place from logits [places, vocabulary].
std::vector<int64_t> Choose(const Tensor& logits, const AcceptanceOptions& options, int64_t step) {
  Tensor chosen;
  if (options.temperature == 0) {
    chosen = logits.argmax(-1);
  } else {
    const int64_t places = logits.size(0);
    Tensor draws = at::empty({places, 1}, at::kFloat);
    for (int64_t place = 0; place < places; ++place) {
      draws.data_ptr<float>()[place] = static_cast<float>(
          CounterRandom(options.seed, static_cast<uint64_t>(place)).Uniform(step));
    }
    const Tensor sums = at::softmax(logits / options.temperature, -1).cumsum(-1);
    // The last sum is not quite 1; a draw above it belongs to the last token.
    const Tensor wanted = draws.to(logits.device()) * sums.narrow(1, sums.size(1) - 1, 1);
    chosen = sums.le(wanted).sum(-1).clamp_max(logits.size(1) - 1);
  }
  const Tensor host = chosen.to(at::kCPU).contiguous();
  return {host.data_ptr<int64_t>(), host.data_ptr<int64_t>() + host.numel()};
}

// The head that a draft proposes from when it is served. Row i is the token whose id is ids[i].
struct ProposingHead {
  Tensor head, ids;

  explicit ProposingHead(const LanguageModel& draft) : head(draft.Head()) {
    const std::vector<int32_t>& proposed = draft.proposed_tokens();
    ids = proposed.empty() ? at::arange(head.size(0), at::kLong)
                           : at::empty({static_cast<int64_t>(proposed.size())}, at::kLong);
    std::copy(proposed.begin(), proposed.end(), ids.data_ptr<int64_t>());
    ids = ids.to(head.device());
    if (!proposed.empty()) head = head.index_select(0, ids);
  }
};

// Logits of some rows at a time, so that whole rows of probabilities take a bounded room.
constexpr int64_t kRowsAtOnce = 512;

// Of each token y that the target drew, the probability that the draft, which races with the same
// noise, drew it too: 1 / sum_j max(p_j, q_j p_y / q_y). `draft_hidden`, `target_hidden`: divided
// by the temperature.
Tensor SharedNoiseAcceptance(const Tensor& target_hidden, const Tensor& target_head,
                             const Tensor& draft_hidden, const ProposingHead& proposing,
                             const Tensor& targets) {
  std::vector<Tensor> accepted;
  for (int64_t row = 0; row < targets.size(0); row += kRowsAtOnce) {
    const int64_t rows = std::min(kRowsAtOnce, targets.size(0) - row);
    const auto softmax = [&](const Tensor& hidden, const Tensor& head) {
      return at::softmax(at::mm(hidden.narrow(0, row, rows), head.t()).to(at::kFloat), -1);
    };
    const Tensor p = softmax(target_hidden, target_head);
    Tensor q = at::zeros_like(p);
    q.index_copy_(1, proposing.ids, softmax(draft_hidden, proposing.head));
    const Tensor tokens = targets.narrow(0, row, rows).unsqueeze(1);
    const Tensor q_y = q.gather(1, tokens);
    const Tensor ratio = p.gather(1, tokens) / q_y.clamp_min(1e-37);
    const Tensor sum = at::maximum(p, q * ratio).sum(-1);
    accepted.push_back(sum.reciprocal() * q_y.squeeze(1).gt(0));
  }
  return at::cat(accepted);
}

// Of each token the probability that the draft proposes it, given that the target drew it; at
// temperature 0 whether the draft finds it most probable. 0 for tokens that it does not propose.
Tensor AcceptanceOf(const LanguageModel& target, const LanguageModel& draft,
                    const TokenBatch& batch, double temperature) {
  const auto rows = [](const Tensor& hidden) { return hidden.reshape({-1, hidden.size(-1)}); };
  const Tensor targets = batch.target_ids.view({-1});
  const Tensor draft_hidden = rows(draft.Hidden(batch));
  const ProposingHead proposing(draft);
  Tensor accepted;
  if (temperature == 0) {
    std::vector<Tensor> best;
    for (const Tensor& part : draft_hidden.split(kRowsAtOnce)) {
      best.push_back(at::mm(part, proposing.head.t()).argmax(-1));
    }
    accepted = proposing.ids.index_select(0, at::cat(best)).eq(targets).to(at::kFloat);
  } else {
    // Dividing the head's input divides its logits.
    accepted = SharedNoiseAcceptance(rows(target.Hidden(batch)) / temperature, target.Head(),
                                     draft_hidden / temperature, proposing, targets);
  }
  return accepted.to(at::kCPU).to(at::kFloat).view(batch.target_ids.sizes()).contiguous();
}

}  // namespace

std::vector<WrittenAnswer> WriteAnswers(const LanguageModel& model, const TokenStore& store,
                                        const AcceptanceOptions& options) {
  at::NoGradGuard no_grad;
  std::vector<WrittenAnswer> answers = Prompts(store, options);
  int64_t longest = 0;
  for (const WrittenAnswer& answer : answers) longest = std::max(longest, answer.prompt_tokens);
  const auto places = static_cast<int64_t>(answers.size());
  DecodeState state(&model, places, longest + options.answer_tokens);
  for (int64_t place = 0; place < places; ++place) state.Reset(place);
  std::vector<bool> ended(places, false);
  const std::vector<int32_t>& ends = model.config().eos_ids;
  for (int64_t step = 0; step + 1 < longest + options.answer_tokens; ++step) {
    std::vector<int64_t> fed(places, -1);
    bool any = false;
    for (int64_t place = 0; place < places; ++place) {
      const WrittenAnswer& answer = answers[place];
      if (ended[place] || step >= answer.prompt_tokens + options.answer_tokens - 1) continue;
      fed[place] = answer.tokens[step];
      any = true;
    }
    if (!any) break;
    const std::vector<int64_t> next = Choose(state.Step(fed), options, step);
    for (int64_t place = 0; place < places; ++place) {
      WrittenAnswer& answer = answers[place];
      if (fed[place] < 0 || step + 1 < answer.prompt_tokens) continue;
      ended[place] = std::find(ends.begin(), ends.end(), next[place]) != ends.end();
      if (!ended[place]) answer.tokens.push_back(next[place]);
    }
  }
  return answers;
}

SpeculationCounts MeasureAcceptance(const LanguageModel& target, const LanguageModel& draft,
                                    const TokenStore& store, const AcceptanceOptions& options) {
  at::NoGradGuard no_grad;
  std::vector<std::vector<float>> acceptance;
  for (const WrittenAnswer& answer : WriteAnswers(target, store, options)) {
    const auto length = static_cast<int64_t>(answer.tokens.size());
    if (length <= answer.prompt_tokens) continue;
    const PackedBatch row = DocumentRows({{answer.tokens, answer.prompt_tokens}});
    const Tensor probabilities =
        AcceptanceOf(target, draft, MoveToDevice(row, target.device()), options.temperature);
    // What stands at a column is told of the token after it.
    const float* first = probabilities.data_ptr<float>() + answer.prompt_tokens - 1;
    acceptance.emplace_back(first, first + (length - answer.prompt_tokens));
  }
  return SimulateSpeculation(acceptance, options.draft_tokens, options.seed);
}

}  // namespace mambad::trainer
