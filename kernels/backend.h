// The whole hardware contract: what a device must do so that the engine can serve a model on it.
// About a dozen fused operations, memory, and one ordering rule.
//
// Symbols: d width of the residual stream; R rows of a step (tokens of all its sequences); S
// sequences of a step; V (padded) vocabulary. I inner width, N state size, G groups, r dt rank, W
// convolution taps; H, K query and key/value heads, hd head width. The equations are in
// kernels/README.md.
//
// ORDER. Operations run in the order they are called. They may still be running when the call
// returns: host memory that they read or write must stay untouched until Synchronize().
//
// ROUNDS. Operations called between BeginRound and EndRound only describe a round: drafts, verify,
// accept. Nothing else is called there, and nothing outside it depends on an effect of them before
// EndRound, so that a device may make one program of the whole round; a backend may as well run
// each operation at once. An operation's host-side arguments (pointers, counts that size a launch)
// never depend on a result of the same round; everything that does (tokens, accepted counts, random
// draws) is read from backend memory. There are two kinds of rounds:
//
//   prompts  any rows; every count is exact. Never recorded.
//   decode   a right row of each sequence, and its drafts. All calls with all their host-side
//            arguments follow from the RoundShape alone, for as long as the backend lives: it may
//            be recorded once and replayed. Its counts are upper bounds; how much there is stands
//            in backend memory, and costs no more than it is. Backend memory, matrices, layers
//            and workspaces that the rounds of a shape name stay where they are for as long.
//
// Operations may be called outside of rounds, as in one of prompts.
//
// EXACTNESS. A row's result never depends on which other rows, sequences or how many of them share
// the call, nor on the number of threads. Replay, verify, single steps and (on the CPU) prefill run
// the same instructions.
//
// THREAD. One thread drives a backend at a time (the engine thread); Memory() may be asked by any.
// Several models may share one backend.
//
// ERRORS. Wrong shapes or types are bugs of the caller: the process dies with words. Nothing here
// allocates except Allocate, AllocateHost, Pack and CreateWorkspace.

#ifndef MAMBAD_KERNELS_BACKEND_H_
#define MAMBAD_KERNELS_BACKEND_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/buffer.h"
#include "kernels/tensor.h"

namespace mambad::kernels {

// Rows of a window that may turn out wrong, at most: the longest draft.
inline constexpr int kMaxWindowRows = 16;
inline constexpr int kMaxConvolutionWidth = 8;
inline constexpr int kPageTokens = 16;  // tokens a page of keys and values holds
inline constexpr int kMaxStopIds = 32;  // eos and stop ids a sequence may have
inline constexpr int kMaxAlternatives = 32;
// Logit of a token that a draft never proposes. Beside any other logit its probability is exactly
// 0; where a bias leaves nothing else, such tokens still make a distribution among themselves.
inline constexpr float kUnproposedLogit = -1e30f;

// ---- weights ------------------------------------------------------------------------------------

// A weight matrix [rows, columns] of y = W x in the backend's own packed layout. Immutable after
// Pack.
struct WeightMatrix {
  int64_t rows = 0, columns = 0;
  ElementType type = ElementType::kFloat32;
  int parts = 1;  // how many threads the packing had in mind; the backend's own
  Buffer packed;
};

// Delivers rows [begin, end) of a matrix, row-major, to host memory; called from several threads at
// once for different rows. Exactly the one that fits the packed type is called.
struct MatrixSource {
  std::function<void(int64_t begin, int64_t end, float* out)> float32;
  std::function<void(int64_t begin, int64_t end, uint16_t* out)> bfloat16;
};

// RMSNorm: y = x / sqrt(mean(x^2) + epsilon) * weight, float32; without a weight, times 1.
struct NormWeights {
  const float* weight = nullptr;  // backend memory
  float epsilon = 1e-5f;
};

// Mamba-1, standard and MambaInLlama; h += W_out mixer(RMSNorm(h)).
//
// Rows of `in`, standard (source_width 0): x [I], z [I]. `select` gives dt_low [r], B [N], C [N]
// from the convolved x, each RMS-normalised without weight where selection_norm says so (Falcon
// Mamba). MambaInLlama (source_width > 0): x [source_width], z [I], B [source_width],
// C [I], dt_low [r]; no `select`; x and B are repeated to I numbers by whole groups of N
// (repeat-interleave); channel c belongs to group c / N of G = I / N.
struct MambaLayer {
  int inner_width = 0, state_size = 0, dt_rank = 0, convolution_width = 4, groups = 1,
      source_width = 0;
  bool repeat_before_convolution = true;
  bool selection_norm = false;
  float selection_norm_epsilon = 0;
  NormWeights norm;
  const WeightMatrix* in = nullptr;
  const float* in_bias = nullptr;   // [rows of in] or nullptr
  const float* out_bias = nullptr;  // [d] or nullptr
  const WeightMatrix* select = nullptr;
  const WeightMatrix* dt = nullptr;   // [I, r]
  const WeightMatrix* out = nullptr;  // [d, I]
  // [channels, W]; channels is I, or source_width when the repeat is after
  const float* convolution = nullptr;
  const float* convolution_bias = nullptr;  // [channels] or nullptr
  const float* dt_bias = nullptr;           // [I]; already doubled where the layout means it twice
  const float* a = nullptr;     // A = -exp(A_log), [I padded to 16 / 16][N][16] as the checkpoint
  const float* skip = nullptr;  // D, [I]

  int convolution_channels() const {
    return source_width > 0 && !repeat_before_convolution ? source_width : inner_width;
  }
};

// Mamba-2, standard and MambaInLlama. Rows of `in`: z [I], x [X], B [Y], C [G N], dt [heads], where
// standard has X = I and Y = G N, MambaInLlama X = Y = source_width and G = heads. The convolution
// runs over x, B, C before the repeat (or after it: repeat_before_convolution).
struct Mamba2Layer {
  int inner_width = 0, state_size = 0, heads = 0, groups = 1, convolution_width = 4,
      source_width = 0;
  bool repeat_before_convolution = false;
  float dt_minimum = 0, dt_maximum = 0;
  NormWeights norm;
  const WeightMatrix* in = nullptr;
  const WeightMatrix* out = nullptr;
  const float* in_bias = nullptr;      // [rows of in] or nullptr
  const float* out_bias = nullptr;     // [d] or nullptr
  const float* convolution = nullptr;  // [channels, W]
  const float* convolution_bias = nullptr;
  const float* dt_bias = nullptr;  // [heads]
  const float* a = nullptr;        // [heads], A = -exp(A_log)
  const float* skip = nullptr;     // D, [heads]
  NormWeights gated_norm;          // weight [I], in groups of I / G, after the gate

  int head_width() const { return inner_width / heads; }
  int convolution_channels() const {
    return source_width > 0 && !repeat_before_convolution ? 2 * source_width + groups * state_size
                                                          : inner_width + 2 * groups * state_size;
  }
};

// From position `context` on (0: never) frequency i is divided by
// (factor (position + 1) / context - (factor - 1))^(2i / (hd - 2)): dynamic NTK scaling.
struct RotaryGrowth {
  int64_t context = 0;
  double factor = 1;
};

// Grouped-query attention with rotary embedding; h += W_out Attn(RMSNorm(h)). Rows of `in`: query
// [H hd], key [K hd], value [K hd]. Biases are added first, then query and key heads are
// normalised, then rotated.
struct AttentionLayer {
  int query_heads = 0, key_value_heads = 0, head_width = 0;
  int sliding_window = 0;  // tokens, the current one counted; 0: none
  float score_factor = 1;  // scores are q k / sqrt(hd) times this
  RotaryGrowth growth;
  NormWeights norm;
  NormWeights query_norm, key_norm;  // [hd] of each head; weight nullptr: not normalised
  const float* in_bias = nullptr;    // [rows of in] or nullptr
  const float* out_bias = nullptr;   // [d] or nullptr
  const WeightMatrix* in = nullptr;
  const WeightMatrix* out = nullptr;  // [d, H hd]
  // [hd / 2], scaling applied: angle = position * inverse_frequency[i]
  const float* inverse_frequency = nullptr;
};

// h += W_down(SiLU(W_gate u) * W_up u), u = RMSNorm(h). Rows of `in`: gate [F], up [F].
struct MlpLayer {
  int mlp_width = 0;
  NormWeights norm;
  const WeightMatrix* in = nullptr;
  const WeightMatrix* out = nullptr;
  const float* in_bias = nullptr;   // [2 F] or nullptr
  const float* out_bias = nullptr;  // [d] or nullptr
};

// ---- per-sequence state -------------------------------------------------------------------------

// What a recurrent layer keeps for one sequence (one slot), as offsets in floats into a slot's
// block:
//   checkpoint  the state after all rows that were folded into it. Mamba-1
//               [I padded to 16 / 16][N][16]; Mamba-2 [heads][N][P]
//   working     the state after the window's last row; only where a model extends its window row by
//               row (a draft model)
//   ring        the last inputs before the convolution, [ring_rows][channels]; the row of position
//               p is p % ring_rows
//   replay      replay_rows rows of what a row feeds the recurrence, as verify computed it: Mamba-1
//               x [I], delta [I], B [G N]; Mamba-2 x [I], dt [heads], B [G N] (after convolution,
//               before dt's bias)
//
// With k rows in a window that may turn out wrong, k rows are kept by a step that folds, so that
// replay_rows is k at least. A device that runs some rows again sooner than it stores a state says
// how many may wait (waiting_rows), and replay_rows reaches for them. ring_rows is W - 1 + k: when
// the last row written was that of position q, the next call begins at q - k + 1 or later, its taps
// reach back to q - k - W + 2, and from there to q are W - 1 + k positions.
struct RecurrentSlotLayout {
  int64_t checkpoint = 0, working = -1, ring = 0, replay = 0;  // working -1: not kept
  int64_t replay_row = 0;                                      // floats a replay row takes
  int window_rows = 0;                                         // k, 0 .. kMaxWindowRows
  int waiting_rows = 0;  // that may wait, those of the call counted, if it is not to fold; 0: none
  int replay_rows = 0;   // the larger of both
  int ring_rows = 0;
  int64_t floats = 0;  // of the whole block, a multiple of 16
};

// One layer's state of all slots: slot s begins at data + s * slot_stride.
struct RecurrentState {
  float* data = nullptr;
  int64_t slot_stride = 0;  // floats, a multiple of 16: a slot's layers may lie side by side
  RecurrentSlotLayout layout;

  float* slot(int s) const { return data + s * slot_stride; }
};

// How one attention layer's keys and values lie in a page: the backend's own. Numbers are rounded
// to `type` once, to the nearest (even among two), when they are appended.
struct KeyValueLayout {
  ElementType type = ElementType::kFloat32;  // or kBFloat16
  int64_t key_bytes = 0, value_bytes = 0;    // of one page, multiples of 64
};

// One attention layer's keys and values of all pages; those of page p begin at keys + p * key_bytes
// and at values + p * value_bytes. The CPU's pages:
//   keys    [K][hd][kPageTokens]: transposed, a page's scores are one pass
//   values  [K][kPageTokens][hd]
struct KeyValueState {
  std::byte* keys = nullptr;
  std::byte* values = nullptr;
  KeyValueLayout layout;
};

// ---- one step -----------------------------------------------------------------------------------

// The rows of one forward pass, ragged: sequence s owns rows [row_begin[s], row_begin[s + 1]), T of
// them. All arrays are in backend memory. What every recurrent layer does with sequence s, in this
// order:
//
//   load    the checkpoint; resume[s] = 1: the working state
//   run     the first replay[s] replay rows, then rows 0 .. T-1 of the call
//   store   fold[s] = 1: the checkpoint, as it is after row keep_from[s] - 1 of the call (0: after
//           the replay rows). keeps_working and T > keep_from[s]: the working state, after row T-1
//   keep    rows keep_from[s] .. T-1 of the call in replay rows keep_at[s], keep_at[s] + 1, ...
//
// Kept rows come instead of rows that were kept there before. A row is run with the same bits
// whether it comes from the call or from a replay row, and a state is the same whether it was
// stored in between or not; so what may be said of a sequence that has m rows waiting in its
// replay rows, all of them right, is a matter of speed alone:
//
//                                        replay  fold  keep_from  keep_at  resume  wait afterwards
//   prompt chunk                         m       1     T          -        0       0
//   verify, folding                      m       1     1          0        0       drafts accepted
//   verify, not folding                  m       0     0          m        0       m + 1 + accepted
//   fold only, T = 0                     m       1     0          -        0       0
//   draft model: what it has not read    m       1     T          -        0       0
//   draft model: draft 1                 0       0     0          0        0
//   draft model: draft j                 0       0     0          j - 1    1       those accepted
//
// Row 0 of a verify is the last kept token, which is right whatever becomes of the drafts. Not
// folding reads the state and does not write it, for which m rows are run again.
//
// In a decode round S and R are upper bounds: sequences that there are not stand behind those that
// there are, with slot -1, no rows, and 0 in the other arrays; row_begin[S] is the rows that there
// are.
struct Batch {
  int sequences = 0;                   // S
  int rows = 0;                        // R
  const int32_t* row_begin = nullptr;  // [S + 1]
  const int32_t* slot = nullptr;       // [S], each once; -1: no sequence
  // [S], absolute position of the sequence's first row of this call
  const int32_t* position = nullptr;
  const int32_t* replay = nullptr;     // [S], 0 .. replay_rows; resume 1: 0
  const int32_t* fold = nullptr;       // [S], 0 or 1; resume 1: 0
  const int32_t* keep_from = nullptr;  // [S], 0 .. T; fold 0: 0
  const int32_t* keep_at = nullptr;    // [S], 0 .. replay_rows - (T - keep_from); fold 0 and resume
                                       // 0: replay or beyond
  const int32_t* resume = nullptr;     // [S], 0 or 1
  const int32_t* tokens = nullptr;     // [R]
  // [slots, pages_per_sequence]: page of position p is pages[slot][p / kPageTokens]
  const int32_t* pages = nullptr;
  int pages_per_sequence = 0;
  // [logit_count]: rows whose logits Head computes, in this order; -1, behind all others: none
  const int32_t* logit_rows = nullptr;
  int logit_count = 0;
  int64_t max_position = 0;  // no row stands beyond this position
  bool keeps_working = false;
};

// Activations and scratch of one model's forward pass, sized at open.
class Workspace {
 public:
  virtual ~Workspace() = default;
  RowsView residual;  // [max_rows, d]
  RowsView logits;    // [max_logit_rows, V]
};

struct WorkspaceShape {
  int max_rows = 0, max_logit_rows = 0, max_sequences = 0;
  int64_t width = 0, vocabulary = 0;  // V, padded
  int64_t max_projection = 0;         // the widest `in` of all layers, rows
  int64_t max_inner = 0;              // the widest of I, H hd, F, convolution channels + I
  int64_t max_selection = 0;          // the widest `select` of Mamba-1: rows, r + 2 N
  int64_t max_context = 0;            // positions an attention row may see
  // Layers that a decode round runs through; a draft model's come once a draft, in rounds of all
  // draft lengths on average.
  int64_t round_layers = 0;
};

// ---- sampling -----------------------------------------------------------------------------------

// How one slot's tokens are chosen; plain data in backend memory, written at admission. The token
// of a row is a function of its logits, of this and of its position alone: temperature 0 takes the
// most likely id; otherwise each id i that top_k, top_p and min_p leave, of weight
// w_i = e^((x_i - max) / temperature), arrives at -log(1 - u_i) / w_i, and the first one is the
// token (lowest id among equals). u_i = (word + 1/2) / 2^32, word i % 4 of
// Philox4x32-10(counter {i / 4, position, sample, 0}, key seed).
struct SamplingState {
  float temperature = 0, top_p = 1, min_p = 0;
  int32_t top_k = 0;
  float repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  uint64_t seed = 0;
  uint32_t sample = 0;    // of one request's, 0 ..: the same seed, other draws
  int32_t stop_from = 0;  // stop ids cannot be sampled for positions below this one (min_tokens)
  int32_t stop_count = 0;
  // eos and stop ids: the sequence is cut after the first one kept
  int32_t stop_ids[kMaxStopIds] = {};
  // Log-probabilities of kept tokens: -1 none, else how many alternatives of each, at most
  // kMaxAlternatives.
  int32_t alternatives = -1;
  int32_t counts_row = -1;  // row of SamplingTables::counts; -1: no penalties
  int32_t bias_row = -1;    // row of SamplingTables::bias; -1: none
};

struct SamplingTables {
  SamplingState* states = nullptr;  // [slots]
  // [rows, V]: low 31 bits occurrences in the answer; top bit: stands in the prompt
  int32_t* counts = nullptr;
  float* bias = nullptr;      // [rows, V]: added to the logit; -infinity: not allowed
  int vocabulary = 0;         // ids that may be sampled
  int padded_vocabulary = 0;  // V
};

// Draws the next draft of each sequence from its row of draft logits and writes it where the verify
// reads it, by the rule and with the noise by which Accept draws the target's token of that
// position.
struct DraftSampling {
  int sequences = 0;              // S; in a decode round at most
  const int32_t* slot = nullptr;  // [S]
  // [S], row of the draft workspace's logits; -1: nothing is drawn here
  const int32_t* logit_row = nullptr;
  const int32_t* position = nullptr;  // [S], absolute position of the token drawn
  int step = 0;                       // 0 .. : which draft of the round
  int32_t* tokens = nullptr;          // the verify batch's tokens
  // [S], where this draft goes; drafts before it stand in the rows before it
  const int32_t* token_row = nullptr;
  int32_t* next_tokens = nullptr;     // the next draft batch's tokens, or nullptr
  const int32_t* next_row = nullptr;  // [S], where in it; -1: nowhere
};

// Draws the target's token of each row for as long as the draft after it is the same, and the one
// after the last such draft; cuts at stop ids. Drafts decide how many tokens come, never which.
struct Acceptance {
  int sequences = 0;                     // S; in a decode round at most
  const int32_t* slot = nullptr;         // [S]; -1: nothing to accept here
  const int32_t* logit_begin = nullptr;  // [S], the target workspace's logits row of window row 0
  // [S], k: drafts stand in tokens[token_row[s] + 1 ..]; logits has k + 1 rows
  const int32_t* draft_length = nullptr;
  const int32_t* token_row = nullptr;  // [S]
  const int32_t* tokens = nullptr;     // the verify batch's tokens
  const int32_t* position = nullptr;   // [S], absolute position of the first token to keep
  const int32_t* limit = nullptr;      // [S], tokens that may be kept, >= 1 (token limits)
  bool logprobs = false;               // of the slots that ask for them; false: no slot asks
};

// What a round gives back, [S] each.
struct AcceptanceResult {
  int32_t* accepted = nullptr;         // drafts accepted by the rule, before the cut
  int32_t* kept = nullptr;             // tokens kept after the cut, 1 .. k + 1
  int32_t* tokens = nullptr;           // [S, kMaxWindowRows + 1]
  int32_t* stopped = nullptr;          // 1: the last kept token is a stop id
  float* logprobs = nullptr;           // [S, kMaxWindowRows + 1], of slots that ask for them
  int32_t* alternative_ids = nullptr;  // [S, kMaxWindowRows + 1, kMaxAlternatives]
  float* alternative_logprobs = nullptr;
};

// Log-probabilities of given tokens under rows of logits: softmax over the real vocabulary, no
// sampling parameters.
struct TokenScoring {
  int count = 0;
  const int32_t* logit_row = nullptr;  // [count]
  const int32_t* token = nullptr;      // [count]
  int alternatives = 0;
  float* logprobs = nullptr;           // [count]
  int32_t* alternative_ids = nullptr;  // [count, kMaxAlternatives]
  float* alternative_logprobs = nullptr;
};

// ---- the backend --------------------------------------------------------------------------------

enum class RoundKind : uint8_t { kPrompts, kDecode };

// What the calls of a decode round follow from. A round of prompts has nothing but its kind.
struct RoundShape {
  RoundKind kind = RoundKind::kPrompts;
  bool draft_model = false;  // makes the drafts, or some of them
  bool logprobs = false;     // as Acceptance::logprobs
  int sequences = 0;         // at most; of few different numbers
  int draft_length = 0;      // the longest of its sequences' drafts
  int64_t context = 0;       // rows stand at positions below; of few different numbers

  bool operator==(const RoundShape&) const = default;
};

// What the last round took, in seconds, on the device: up to BeginVerify (0 without it), from there
// on, and all of it, with what launching took.
struct RoundTimes {
  double draft = 0, verify = 0, whole = 0;
};

// What a device says of its memory, bytes; -1: it does not say.
struct DeviceMemory {
  int64_t total = -1;      // in use or not
  int64_t free = -1;       // may still be taken
  bool dedicated = false;  // nothing else of the machine needs it: what is free may be filled
};

// Decode rounds that a device keeps to start them again as a whole; 0 where it keeps none.
struct RecordedRounds {
  int64_t recordings = 0;  // made so far
  int kept = 0;            // now
};

// Made by kernels/backend_factory.h, which is also told what to do when the device is lost.
// Allocate, AllocateHost, Pack and CreateWorkspace throw std::bad_alloc when there is no more
// memory; they are called while an engine is opened, and by nobody else.
class Backend {
 public:
  virtual ~Backend() = default;
  // Device and instruction set, for logs and benchmarks.
  virtual std::string Description() const = 0;
  // By what rules a model whose matrices are `weights` is computed, with keys and values kept as
  // `key_values`: equal tags, equal weights and equal calls give equal bits, on every machine.
  // "cpu-avx2/weights-bf16/activations-f32/kv-f32"
  virtual std::string Numerics(ElementType weights, ElementType key_values) const = 0;
  // What activations are rounded to before a product with such weights; kFloat32: not rounded.
  virtual ElementType Activations(ElementType weights) const = 0;

  // What keys and values are kept as where nobody says.
  virtual ElementType UsualKeyValues() const = 0;

  // Why this device may be slower than it could be, here and now: lines for the operator, with the
  // setting to change. Mostly empty.
  virtual std::vector<std::string> Warnings() const = 0;

  // Any thread.
  virtual DeviceMemory Memory() const = 0;
  // Memory, zeroed, aligned to 64 bytes at least. Nothing of one backend outlives it.
  virtual Buffer Allocate(size_t bytes) = 0;
  // The same of the host's, which Write and Read reach fastest.
  virtual Buffer AllocateHost(size_t bytes) = 0;
  virtual void Write(void* device, const void* host, size_t bytes) = 0;  // in order with operations
  virtual void Read(void* host, const void* device, size_t bytes) = 0;   // valid after Synchronize
  virtual void Copy(void* to, const void* from, size_t bytes) = 0;       // device to device
  virtual void Fill(float* device, float value, size_t count) = 0;
  virtual void Synchronize() = 0;

  // Weights. `rows` x `columns` numbers come from `source`.
  virtual WeightMatrix Pack(int64_t rows, int64_t columns, ElementType type,
                            const MatrixSource& source) = 0;
  virtual std::unique_ptr<Workspace> CreateWorkspace(const WorkspaceShape& shape) = 0;
  // Bytes of the device's memory that Allocate, Pack and CreateWorkspace take, the last with what
  // recorded rounds over it will take at most. Nothing is taken.
  virtual int64_t AllocatedBytes(int64_t bytes) const = 0;
  virtual int64_t PackedBytes(int64_t rows, int64_t columns, ElementType type) const = 0;
  virtual int64_t WorkspaceBytes(const WorkspaceShape& shape) const = 0;
  // Of slots whose windows have at most `window_rows` rows that may turn out wrong, and no more of
  // anything.
  virtual RecurrentSlotLayout SlotLayout(const MambaLayer& layer, int window_rows,
                                         bool keeps_working) const = 0;
  virtual RecurrentSlotLayout SlotLayout(const Mamba2Layer& layer, int window_rows,
                                         bool keeps_working) const = 0;

  virtual KeyValueLayout PageLayout(const AttentionLayer& layer, ElementType type) const = 0;

  // Rounds. True: what is called until EndRound describes it. False, of a decode round only: its
  // shape is known; nothing but EndRound is called, which starts it.
  virtual bool BeginRound(const RoundShape& shape) = 0;
  // What was called so far in this round made drafts, what follows verifies them: for the times.
  virtual void BeginVerify() = 0;
  virtual void EndRound() = 0;
  // Of the last round; after Synchronize.
  virtual RoundTimes TakeRoundTimes() = 0;
  virtual RecordedRounds Recorded() const = 0;
  // Rounds run on when EndRound has returned. Then readers are told about a round while the next
  // one runs, else before it begins.
  virtual bool RunsAhead() const = 0;

  // The forward pass; each adds to workspace.residual rows [0, batch.rows).
  virtual void Embed(const Batch& batch, const WeightMatrix& embedding,
                     Workspace& workspace) = 0;  // sets residual
  virtual void Mamba(const Batch& batch, const MambaLayer& layer, const RecurrentState& state,
                     Workspace& workspace) = 0;
  virtual void Mamba2(const Batch& batch, const Mamba2Layer& layer, const RecurrentState& state,
                      Workspace& workspace) = 0;
  virtual void Attention(const Batch& batch, const AttentionLayer& layer,
                         const KeyValueState& state, Workspace& workspace) = 0;
  virtual void Mlp(const Batch& batch, const MlpLayer& layer, Workspace& workspace) = 0;
  // Final norm and head over batch.logit_rows; logits row i belongs to logit_rows[i].
  virtual void Head(const Batch& batch, const NormWeights& norm, const WeightMatrix& head,
                    Workspace& workspace) = 0;
  // The same with a head of some tokens only, [n, d], n <= V: row i gives the logit of token
  // tokens[i], bit for bit what Head gives it; all others get kUnproposedLogit. `tokens` [n]:
  // backend memory, ascending, each once, below V.
  virtual void HeadOfTokens(const Batch& batch, const NormWeights& norm, const WeightMatrix& head,
                            const int32_t* tokens, Workspace& workspace) = 0;

  // Sampling.
  virtual void SampleDrafts(const DraftSampling& request, const SamplingTables& tables,
                            const Workspace& draft) = 0;
  // Also adds the kept tokens to the counts of slots with penalties.
  virtual void Accept(const Acceptance& request, const SamplingTables& tables,
                      const Workspace& target, const AcceptanceResult& result) = 0;
  virtual void Score(const TokenScoring& request, const SamplingTables& tables,
                     const Workspace& target) = 0;
};

}  // namespace mambad::kernels

#endif  // MAMBAD_KERNELS_BACKEND_H_
