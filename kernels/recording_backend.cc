#include "kernels/recording_backend.h"

#include <functional>
#include <map>
#include <sstream>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels/call_checks.h"

namespace mambad::kernels {
namespace {

// A host-side argument of a call, as its name and a number.
struct Argument {
  const char* name;
  int64_t value;
};
using Arguments = std::vector<Argument>;

template <typename T>
int64_t Number(T value) {
  if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<intptr_t>(value);
  } else {
    return static_cast<int64_t>(value);
  }
}

// Each by all its members: the bindings count them.
Arguments ArgumentsOf(const Batch& batch) {
  const auto& [sequences, rows, row_begin, slot, position, replay, fold, keep_from, keep_at, resume,
               tokens, pages, pages_per_sequence, logit_rows, logit_count, max_position,
               keeps_working] = batch;
  return {{"sequences", sequences},
          {"rows", rows},
          {"row_begin", Number(row_begin)},
          {"slot", Number(slot)},
          {"position", Number(position)},
          {"replay", Number(replay)},
          {"fold", Number(fold)},
          {"keep_from", Number(keep_from)},
          {"keep_at", Number(keep_at)},
          {"resume", Number(resume)},
          {"tokens", Number(tokens)},
          {"pages", Number(pages)},
          {"pages_per_sequence", pages_per_sequence},
          {"logit_rows", Number(logit_rows)},
          {"logit_count", logit_count},
          {"max_position", max_position},
          {"keeps_working", keeps_working}};
}

Arguments ArgumentsOf(const SamplingTables& tables) {
  const auto& [states, counts, bias, vocabulary, padded_vocabulary] = tables;
  return {{"states", Number(states)},
          {"counts", Number(counts)},
          {"bias", Number(bias)},
          {"vocabulary", vocabulary},
          {"padded_vocabulary", padded_vocabulary}};
}

Arguments ArgumentsOf(const DraftSampling& request) {
  const auto& [sequences, slot, logit_row, position, step, tokens, token_row, next_tokens,
               next_row] = request;
  return {{"sequences", sequences},
          {"slot", Number(slot)},
          {"logit_row", Number(logit_row)},
          {"position", Number(position)},
          {"step", step},
          {"tokens", Number(tokens)},
          {"token_row", Number(token_row)},
          {"next_tokens", Number(next_tokens)},
          {"next_row", Number(next_row)}};
}

Arguments ArgumentsOf(const Acceptance& request) {
  const auto& [sequences, slot, logit_begin, draft_length, token_row, tokens, position, limit,
               logprobs] = request;
  return {{"sequences", sequences},
          {"slot", Number(slot)},
          {"logit_begin", Number(logit_begin)},
          {"draft_length", Number(draft_length)},
          {"token_row", Number(token_row)},
          {"tokens", Number(tokens)},
          {"position", Number(position)},
          {"limit", Number(limit)},
          {"logprobs", logprobs}};
}

Arguments ArgumentsOf(const AcceptanceResult& result) {
  const auto& [accepted, kept, tokens, stopped, logprobs, alternative_ids, alternative_logprobs] =
      result;
  return {{"accepted", Number(accepted)},
          {"kept", Number(kept)},
          {"kept tokens", Number(tokens)},
          {"stopped", Number(stopped)},
          {"kept logprobs", Number(logprobs)},
          {"alternative_ids", Number(alternative_ids)},
          {"alternative_logprobs", Number(alternative_logprobs)}};
}

Arguments ArgumentsOf(const RecurrentState& state) {
  const auto& [data, slot_stride, layout] = state;
  return {{"state", Number(data)}, {"slot_stride", slot_stride}, {"slot floats", layout.floats}};
}

Arguments ArgumentsOf(const KeyValueState& state) {
  const auto& [keys, values, layout] = state;
  const auto& [type, key_bytes, value_bytes] = layout;
  return {{"keys", Number(keys)},
          {"values", Number(values)},
          {"type", Number(type)},
          {"key_bytes", key_bytes},
          {"value_bytes", value_bytes}};
}

// Things that the caller keeps where they are, by their places.
Arguments PlaceOf(const char* name, const void* place) { return {{name, Number(place)}}; }

template <typename... More>
Arguments Join(Arguments first, const More&... more) {
  (first.insert(first.end(), more.begin(), more.end()), ...);
  return first;
}

struct Call {
  const char* operation = nullptr;
  Arguments arguments;
  std::function<void()> check;
  std::function<void(Backend&)> run;
};

std::string Words(const RoundShape& shape) {
  std::ostringstream words;
  words << "a decode round of " << shape.sequences << " sequences, " << shape.draft_length
        << (shape.draft_model ? " drafts of a model, " : " drafts, ") << "context " << shape.context
        << (shape.logprobs ? ", log-probabilities" : "");
  return words.str();
}

struct ShapeLess {
  static auto Key(const RoundShape& shape) {
    const auto& [kind, draft_model, logprobs, sequences, draft_length, context] = shape;
    return std::tuple(kind, draft_model, logprobs, sequences, draft_length, context);
  }
  bool operator()(const RoundShape& a, const RoundShape& b) const { return Key(a) < Key(b); }
};

class RecordingBackend : public Backend {
 public:
  explicit RecordingBackend(std::unique_ptr<Backend> backend)
      : backend_(std::move(backend)), checks_(*backend_) {}

  std::string Description() const override { return backend_->Description(); }
  std::string Numerics(ElementType weights, ElementType key_values) const override {
    return backend_->Numerics(weights, key_values);
  }
  ElementType UsualKeyValues() const override { return backend_->UsualKeyValues(); }
  ElementType Activations(ElementType weights) const override {
    return backend_->Activations(weights);
  }
  std::vector<std::string> Warnings() const override { return backend_->Warnings(); }
  int64_t FreeBytes() const override { return backend_->FreeBytes(); }
  RecurrentSlotLayout SlotLayout(const MambaLayer& layer, int window_rows,
                                 bool keeps_working) const override {
    return backend_->SlotLayout(layer, window_rows, keeps_working);
  }
  RecurrentSlotLayout SlotLayout(const Mamba2Layer& layer, int window_rows,
                                 bool keeps_working) const override {
    return backend_->SlotLayout(layer, window_rows, keeps_working);
  }
  KeyValueLayout PageLayout(const AttentionLayer& layer, ElementType type) const override {
    return backend_->PageLayout(layer, type);
  }

  Buffer Allocate(size_t bytes) override {
    OutsideOfRounds("Allocate");
    Buffer buffer = backend_->Allocate(bytes);
    checks_.Allocated(buffer);
    return buffer;
  }
  Buffer AllocateHost(size_t bytes) override {
    OutsideOfRounds("AllocateHost");
    return backend_->AllocateHost(bytes);
  }
  void Write(void* device, const void* host, size_t bytes) override {
    OutsideOfRounds("Write");
    backend_->Write(device, host, bytes);
  }
  void Read(void* host, const void* device, size_t bytes) override {
    OutsideOfRounds("Read");
    backend_->Read(host, device, bytes);
  }
  void Copy(void* to, const void* from, size_t bytes) override {
    OutsideOfRounds("Copy");
    backend_->Copy(to, from, bytes);
  }
  void Fill(float* device, float value, size_t count) override {
    OutsideOfRounds("Fill");
    backend_->Fill(device, value, count);
  }
  void Synchronize() override {
    OutsideOfRounds("Synchronize");
    backend_->Synchronize();
  }
  WeightMatrix Pack(int64_t rows, int64_t columns, ElementType type,
                    const MatrixSource& source) override {
    OutsideOfRounds("Pack");
    return backend_->Pack(rows, columns, type, source);
  }
  std::unique_ptr<Workspace> CreateWorkspace(const WorkspaceShape& shape) override {
    OutsideOfRounds("CreateWorkspace");
    return backend_->CreateWorkspace(shape);
  }
  RoundTimes TakeRoundTimes() override {
    OutsideOfRounds("TakeRoundTimes");
    return backend_->TakeRoundTimes();
  }

  bool BeginRound(const RoundShape& shape) override;
  void BeginVerify() override;
  void EndRound() override;

  void Embed(const Batch& batch, const WeightMatrix& embedding, Workspace& workspace) override;
  void Mamba(const Batch& batch, const MambaLayer& layer, const RecurrentState& state,
             Workspace& workspace) override;
  void Mamba2(const Batch& batch, const Mamba2Layer& layer, const RecurrentState& state,
              Workspace& workspace) override;
  void Attention(const Batch& batch, const AttentionLayer& layer, const KeyValueState& state,
                 Workspace& workspace) override;
  void Mlp(const Batch& batch, const MlpLayer& layer, Workspace& workspace) override;
  void Head(const Batch& batch, const NormWeights& norm, const WeightMatrix& head,
            Workspace& workspace) override;
  void HeadOfTokens(const Batch& batch, const NormWeights& norm, const WeightMatrix& head,
                    const int32_t* tokens, Workspace& workspace) override;
  void SampleDrafts(const DraftSampling& request, const SamplingTables& tables,
                    const Workspace& draft) override;
  void Accept(const Acceptance& request, const SamplingTables& tables, const Workspace& target,
              const AcceptanceResult& result) override;
  void Score(const TokenScoring& request, const SamplingTables& tables,
             const Workspace& target) override;

 private:
  // The calls of a decode round, and how many rounds of its shape came after the first.
  struct Recorded {
    std::vector<Call> calls;
    int64_t rounds = 0;
  };

  void OutsideOfRounds(const char* operation) const {
    if (in_round_) DieWith(std::string(operation) + " inside a round");
  }
  bool decodes() const { return in_round_ && shape_.kind == RoundKind::kDecode; }
  void Take(Call call);
  void Compare(size_t at, const Call& call, const Call& before) const;

  const std::unique_ptr<Backend> backend_;
  CallChecks checks_;
  std::map<RoundShape, Recorded, ShapeLess> recorded_;
  bool in_round_ = false;
  RoundShape shape_;           // of the round at hand
  Recorded* known_ = nullptr;  // what is kept of its shape
  bool replays_ = false;       // it is not described
  std::vector<Call> calls_;    // described so far
};

// ---- rounds -------------------------------------------------------------------------------------

bool RecordingBackend::BeginRound(const RoundShape& shape) {
  OutsideOfRounds("BeginRound");
  in_round_ = true;
  shape_ = shape;
  calls_.clear();
  const auto found = recorded_.find(shape);
  known_ = found == recorded_.end() ? nullptr : &found->second;
  replays_ = known_ != nullptr && known_->rounds++ % 2 == 0;
  return !replays_;
}

// Outside of rounds a call is made at once.
void RecordingBackend::Take(Call call) {
  if (!in_round_) {
    call.check();
    return call.run(*backend_);
  }
  if (replays_) DieWith(std::string(call.operation) + ": " + Words(shape_) + " was known");
  if (known_ != nullptr) {
    const size_t at = calls_.size();
    if (at >= known_->calls.size())
      DieWith(std::string(call.operation) + ": " + Words(shape_) + " had fewer calls");
    Compare(at, call, known_->calls[at]);
  }
  calls_.push_back(std::move(call));
}

void RecordingBackend::Compare(size_t at, const Call& call, const Call& before) const {
  const std::string where = "call " + std::to_string(at) + " of " + Words(shape_) + ": ";
  if (std::string(call.operation) != before.operation) {
    DieWith(where + call.operation + ", before it was " + before.operation);
  }
  for (size_t i = 0; i < call.arguments.size(); ++i) {
    const Argument &now = call.arguments[i], &then = before.arguments[i];
    if (now.value == then.value) continue;
    DieWith(where + call.operation + ": " + now.name + " is " + std::to_string(now.value) +
            ", before it was " + std::to_string(then.value));
  }
}

void RecordingBackend::EndRound() {
  if (!in_round_) DieWith("EndRound without BeginRound");
  if (known_ != nullptr && !replays_ && calls_.size() < known_->calls.size()) {
    DieWith(std::string(known_->calls[calls_.size()].operation) + " is missing: " + Words(shape_) +
            " had more calls");
  }
  const std::vector<Call>& calls = replays_ ? known_->calls : calls_;
  for (const Call& call : calls) call.check();
  if (backend_->BeginRound(shape_)) {
    for (const Call& call : calls) call.run(*backend_);
  }
  backend_->EndRound();
  if (known_ == nullptr && decodes()) recorded_[shape_].calls = std::move(calls_);
  in_round_ = replays_ = false;
  known_ = nullptr;
}

void RecordingBackend::BeginVerify() {
  Take({"BeginVerify", {}, [] {}, [](Backend& backend) { backend.BeginVerify(); }});
}

// ---- operations ---------------------------------------------------------------------------------

void RecordingBackend::Embed(const Batch& batch, const WeightMatrix& embedding,
                             Workspace& workspace) {
  Take(
      {"Embed",
       Join(ArgumentsOf(batch), PlaceOf("embedding", &embedding), PlaceOf("workspace", &workspace)),
       [this, batch, vocabulary = embedding.rows, bounds = decodes()] {
         checks_.Check("Embed", batch, bounds);
         checks_.CheckTokens("Embed", batch, vocabulary);
       },
       [batch, &embedding, &workspace](Backend& backend) {
         backend.Embed(batch, embedding, workspace);
       }});
}

void RecordingBackend::Mamba(const Batch& batch, const MambaLayer& layer,
                             const RecurrentState& state, Workspace& workspace) {
  Take({"Mamba",
        Join(ArgumentsOf(batch), PlaceOf("layer", &layer), ArgumentsOf(state),
             PlaceOf("workspace", &workspace)),
        [this, batch, state, bounds = decodes()] {
          checks_.Check("Mamba", batch, bounds);
          checks_.CheckSlots("Mamba", batch, state);
        },
        [batch, &layer, state, &workspace](Backend& backend) {
          backend.Mamba(batch, layer, state, workspace);
        }});
}

void RecordingBackend::Mamba2(const Batch& batch, const Mamba2Layer& layer,
                              const RecurrentState& state, Workspace& workspace) {
  Take({"Mamba2",
        Join(ArgumentsOf(batch), PlaceOf("layer", &layer), ArgumentsOf(state),
             PlaceOf("workspace", &workspace)),
        [this, batch, state, bounds = decodes()] {
          checks_.Check("Mamba2", batch, bounds);
          checks_.CheckSlots("Mamba2", batch, state);
        },
        [batch, &layer, state, &workspace](Backend& backend) {
          backend.Mamba2(batch, layer, state, workspace);
        }});
}

void RecordingBackend::Attention(const Batch& batch, const AttentionLayer& layer,
                                 const KeyValueState& state, Workspace& workspace) {
  Take({"Attention",
        Join(ArgumentsOf(batch), PlaceOf("layer", &layer), ArgumentsOf(state),
             PlaceOf("workspace", &workspace)),
        [this, batch, state, bounds = decodes()] {
          checks_.Check("Attention", batch, bounds);
          checks_.CheckPages("Attention", batch, state);
        },
        [batch, &layer, state, &workspace](Backend& backend) {
          backend.Attention(batch, layer, state, workspace);
        }});
}

void RecordingBackend::Mlp(const Batch& batch, const MlpLayer& layer, Workspace& workspace) {
  Take({"Mlp", Join(ArgumentsOf(batch), PlaceOf("layer", &layer), PlaceOf("workspace", &workspace)),
        [this, batch, bounds = decodes()] { checks_.Check("Mlp", batch, bounds); },
        [batch, &layer, &workspace](Backend& backend) { backend.Mlp(batch, layer, workspace); }});
}

void RecordingBackend::Head(const Batch& batch, const NormWeights& norm, const WeightMatrix& head,
                            Workspace& workspace) {
  Take({"Head",
        Join(ArgumentsOf(batch), PlaceOf("norm", &norm), PlaceOf("head", &head),
             PlaceOf("workspace", &workspace)),
        [this, batch, &workspace, bounds = decodes()] {
          checks_.Check("Head", batch, bounds);
          checks_.CheckLogits("Head", batch, workspace, bounds);
        },
        [batch, &norm, &head, &workspace](Backend& backend) {
          backend.Head(batch, norm, head, workspace);
        }});
}

void RecordingBackend::HeadOfTokens(const Batch& batch, const NormWeights& norm,
                                    const WeightMatrix& head, const int32_t* tokens,
                                    Workspace& workspace) {
  Take({"HeadOfTokens",
        Join(ArgumentsOf(batch), PlaceOf("norm", &norm), PlaceOf("head", &head),
             PlaceOf("head's tokens", tokens), PlaceOf("workspace", &workspace)),
        [this, batch, &workspace, bounds = decodes()] {
          checks_.Check("HeadOfTokens", batch, bounds);
          checks_.CheckLogits("HeadOfTokens", batch, workspace, bounds);
        },
        [batch, &norm, &head, tokens, &workspace](Backend& backend) {
          backend.HeadOfTokens(batch, norm, head, tokens, workspace);
        }});
}

void RecordingBackend::SampleDrafts(const DraftSampling& request, const SamplingTables& tables,
                                    const Workspace& draft) {
  Take({"SampleDrafts",
        Join(ArgumentsOf(request), ArgumentsOf(tables), PlaceOf("workspace", &draft)),
        [this, request, tables, &draft] { checks_.Check(request, tables, draft); },
        [request, tables, &draft](Backend& backend) {
          backend.SampleDrafts(request, tables, draft);
        }});
}

void RecordingBackend::Accept(const Acceptance& request, const SamplingTables& tables,
                              const Workspace& target, const AcceptanceResult& result) {
  Take({"Accept",
        Join(ArgumentsOf(request), ArgumentsOf(tables), PlaceOf("workspace", &target),
             ArgumentsOf(result)),
        [this, request, tables, &target] { checks_.Check(request, tables, target); },
        [request, tables, &target, result](Backend& backend) {
          backend.Accept(request, tables, target, result);
        }});
}

// Rounds that score are never recorded.
void RecordingBackend::Score(const TokenScoring& request, const SamplingTables& tables,
                             const Workspace& target) {
  if (decodes()) DieWith("Score in " + Words(shape_));
  Take({"Score",
        {},
        [this, request, &target] { checks_.Check(request, target); },
        [request, tables, &target](Backend& backend) { backend.Score(request, tables, target); }});
}

}  // namespace

std::unique_ptr<Backend> CreateRecordingBackend(std::unique_ptr<Backend> backend) {
  return std::make_unique<RecordingBackend>(std::move(backend));
}

}  // namespace mambad::kernels
