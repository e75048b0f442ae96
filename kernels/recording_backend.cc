#include "kernels/recording_backend.h"

#include <algorithm>
#include <cstddef>
#include <functional>
#include <map>
#include <sstream>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/call_arguments.h"
#include "kernels/call_checks.h"

namespace mambad::kernels {
namespace {

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
  DeviceMemory Memory() const override { return backend_->Memory(); }
  int64_t AllocatedBytes(int64_t bytes) const override { return backend_->AllocatedBytes(bytes); }
  int64_t PackedBytes(int64_t rows, int64_t columns, ElementType type) const override {
    return backend_->PackedBytes(rows, columns, type);
  }
  int64_t WorkspaceBytes(const WorkspaceShape& shape) const override {
    return backend_->WorkspaceBytes(shape);
  }
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
    const auto* from = static_cast<const std::byte*>(host);
    written_.push_back({from, std::vector<std::byte>(from, from + bytes)});
    backend_->Write(device, host, bytes);
  }
  void Read(void* host, const void* device, size_t bytes) override {
    OutsideOfRounds("Read");
    read_.push_back({static_cast<std::byte*>(host), std::vector<std::byte>(bytes)});
    backend_->Read(read_.back().numbers.data(), device, bytes);
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
    for (const Written& written : written_) {
      if (!std::equal(written.numbers.begin(), written.numbers.end(), written.host))
        DieWith("Write: host memory was changed before Synchronize");
    }
    for (const BeingRead& read : read_)
      std::copy(read.numbers.begin(), read.numbers.end(), read.host);
    written_.clear();
    read_.clear();
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
  // Its own: what stands below it records when it is told to.
  RecordedRounds Recorded() const override {
    const auto kept = static_cast<int>(recorded_.size());
    return {kept, kept};
  }
  bool RunsAhead() const override { return backend_->RunsAhead(); }

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
  struct Round {
    std::vector<Call> calls;
    int64_t rounds = 0;
  };

  struct Written {
    const std::byte* host;
    std::vector<std::byte> numbers;  // as they were
  };
  struct BeingRead {
    std::byte* host;
    std::vector<std::byte> numbers;  // that it gets
  };

  void OutsideOfRounds(const char* operation) const {
    if (in_round_) DieWith(std::string(operation) + " inside a round");
  }
  bool decodes() const { return in_round_ && shape_.kind == RoundKind::kDecode; }
  void Take(Call call);
  void Compare(size_t at, const Call& call, const Call& before) const;

  const std::unique_ptr<Backend> backend_;
  CallChecks checks_;
  std::vector<Written> written_;  // since the last Synchronize
  std::vector<BeingRead> read_;
  std::map<RoundShape, Round, ShapeLess> recorded_;
  bool in_round_ = false;
  RoundShape shape_;         // of the round at hand
  Round* known_ = nullptr;   // what is kept of its shape
  bool replays_ = false;     // it is not described
  std::vector<Call> calls_;  // described so far
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
