#include "trainer/train_config.h"

#include <algorithm>
#include <limits>
#include <stdexcept>

#include "absl/strings/str_format.h"

namespace mambad::trainer {
namespace {

using Need = Settings::Need;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr int64_t kMostLayers = 1024;

constexpr char kTextFiles[] =
    "files: JSON Lines {\"text\"}, {\"messages\"}, {\"prompt\",\"completion\"}, "
    "{\"prompt\",\"chosen\",\"rejected\"}, or plain text; .gz and .xz too";

constexpr char kOverwrite[] =
    "what another command or other settings made in output is replaced; also: --overwrite";
constexpr char kChatTemplate[] =
    "file with a Jinja chat template, for {\"messages\"}; it goes with the model; empty: ";

// How text becomes rows of tokens.
void DescribeRows(Settings* s, DataConfig* c) {
  s->Text("tokens", &c->tokens, Need::kOptional,
          "folder for the text as tokens, may be shared by runs; empty: <output>/tokens");
  s->Whole("row_tokens", &c->row_tokens, 2, 1 << 20, "tokens in a row of packed documents");
  s->Choice("loss_on", &c->loss_on, {"answers", "all"},
            "tokens that count in the loss: those of answers and plain text, or all");
  s->Text("separator", &c->separator, Need::kOptional,
          "line between documents of plain text; empty: a file is one document");
  s->Flag("prompts_are_chat", &c->prompts_are_chat,
          "a {\"prompt\"} is the user's turn of the chat template");
  s->Flag("append_end_of_text", &c->append_end_of_text,
          "plain text and completions end with the end-of-text token");
  s->Flag("skip_malformed", &c->skip_malformed,
          "records that are malformed are counted and left out, not an error");
  s->Whole("maximum_tokens", &c->maximum_tokens, 0, Settings::kNoBound,
           "longer documents are cut to that many tokens; 0: no bound");
}

void DescribeData(Settings* s, DataConfig* c) {
  s->Section("data", "text to train on and to hold out", [&] {
    s->Texts("train", &c->train, Need::kRequired, kTextFiles);
    s->Texts("valid", &c->valid, Need::kOptional, "held-out files, of the same kinds");
    DescribeRows(s, c);
  });
}

// For commands that train nothing.
void DescribeHeldOut(Settings* s, DataConfig* c, Need need) {
  s->Section("data", "text to measure on", [&] {
    s->Texts("valid", &c->valid, need, kTextFiles);
    DescribeRows(s, c);
  });
}

void DescribeOptimizer(Settings* s, OptimizerConfig* c, const char* learning_rate) {
  s->Section("optimizer", "AdamW, fp32 masters", [&] {
    s->Real("learning_rate", &c->learning_rate, 0, 10, learning_rate);
    s->Real("weight_decay", &c->weight_decay, 0, 10, "of matrices only");
    s->Real("beta1", &c->beta1, 0, 0.999999, "decay of the mean gradient");
    s->Real("beta2", &c->beta2, 0, 0.9999999, "decay of the mean squared gradient");
    s->Real("epsilon", &c->epsilon, 1e-16, 1, "added to the root of the mean squared gradient");
    s->Real("clip_norm", &c->clip_norm, 0, kInfinity,
            "bound of the norm of the whole gradient; 0: none");
  });
}

// `whole_model`: the backward pass goes through all blocks.
void DescribeLoop(Settings* s, LoopConfig* c, bool whole_model = true) {
  s->Section("loop", "steps, saving, evaluation", [&] {
    s->Whole("steps", &c->steps, 1, 1'000'000'000, "optimizer steps");
    s->Whole("warmup_steps", &c->warmup_steps, LoopConfig::kShareOfSteps, 1'000'000'000,
             absl::StrFormat("steps in which the learning rate rises; then half a cosine; -1: a "
                             "tenth of the steps, %d at most",
                             c->most_warmup_steps)
                 .c_str());
    s->Real("final_fraction", &c->final_fraction, 0, 1, "of the learning rate at the last step");
    s->Whole("micro_batch", &c->micro_batch, 1, 1 << 20,
             "rows (preference: pairs) a process takes at once");
    s->Whole("accumulation", &c->accumulation, 1, 1 << 20,
             "micro-batches a process takes per step");
    if (whole_model) {
      s->Flag("activation_checkpointing", &c->activation_checkpointing,
              "recompute blocks in the backward pass: less memory, a third more work");
    }
    s->Whole("log_every", &c->log_every, 1, Settings::kNoBound, "steps between metrics");
    s->Whole("evaluate_every", &c->evaluate_every, 0, Settings::kNoBound,
             "steps between evaluations on data.valid; 0: at the end only");
    s->Whole("evaluate_rows", &c->evaluate_rows, 1, Settings::kNoBound,
             "rows of held-out text (preference: pairs) an evaluation takes, at most");
    s->Whole("save_every", &c->save_every, 0, Settings::kNoBound,
             "steps between saved states; 0: by time, on a signal and at the end only");
    s->Real("save_seconds", &c->save_seconds, 0, kInfinity,
            "seconds after which a state is saved whatever save_every says; 0: none is");
    s->Whole("keep_states", &c->keep_states, 1, 1000, "saved states that remain");
    s->Real("most_seconds", &c->most_seconds, 0, kInfinity,
            "seconds after which this start saves and stops, whatever part it is in; 0: no bound");
    s->Real(
        "divergence_factor", &c->divergence_factor, 0, kInfinity,
        "the run stops when three losses in a row are this many times the lowest smoothed one; 0: "
        "never");
    s->Choice("stored", &c->stored, {"bf16", "fp32"}, "element type of the model that is written");
  });
}

void DescribeLayers(Settings* s, LayerChoiceConfig* c) {
  s->Real(
      "attention_percent", &c->attention_percent, 0, 100,
      "layers that keep attention: 75, 50 (odd ones), 25 (3, 7, 11, ...), 12.5 (7, 15, ...), 0");
  s->Wholes("replaced", &c->replaced, 0, kMostLayers - 1,
            "layers that give up attention, from 0; wins over attention_percent when not empty");
}

void DescribeStart(Settings* s, MixerStartConfig* c) {
  s->Section("start", "how replaced layers begin", [&] {
    s->Choice("mixer", &c->mixer, {"mamba", "mamba2"}, "what takes the place of attention");
    s->Flag("from_attention", &c->from_attention,
            "matrices from query, key, value and output; false: random, for comparison");
    s->Flag("identity_start", &c->identity_start,
            "the convolution passes its input on and z is small; false: both random, as published");
    s->Flag("corrected_head_order", &c->corrected_head_order,
            "mamba: rows ordered so that every channel meets its own key/value head; false: as "
            "published");
    s->Whole("state_size", &c->state_size, 0, 1024,
             "numbers of state a channel; 0: 16 for mamba, the head width for mamba2");
    s->Text("trained_mixers", &c->trained_mixers, Need::kOptional,
            "hybrid whose trained mixers new layers take, instead of beginning anew");
  });
}

void DescribeNewModel(Settings* s, NewModelConfig* c, const char* meaning) {
  s->Section("model", meaning, [&] {
    s->Choice("family", &c->family, {"llama", "mamba", "mamba2"}, "kind of blocks");
    s->Whole("width", &c->width, 1, 1 << 16, "numbers in the residual stream");
    s->Whole("layers", &c->layers, 1, kMostLayers, "blocks");
    s->Whole("mlp_width", &c->mlp_width, 0, 1 << 20, "llama; 0: 8/3 of the width");
    s->Whole("query_heads", &c->query_heads, 0, 1024, "llama; 0: width / 64");
    s->Whole("key_value_heads", &c->key_value_heads, 0, 1024, "llama; 0: as query_heads");
    s->Whole("head_width", &c->head_width, 0, 1024, "llama; 0: width / query_heads");
    s->Whole("inner_width", &c->inner_width, 0, 1 << 20, "mamba, mamba2; 0: twice the width");
    s->Whole("state_size", &c->state_size, 0, 1024, "0: 16 for mamba, 64 for mamba2");
    s->Whole("heads", &c->heads, 0, 4096, "mamba2; 0: inner_width / 64");
    s->Whole("groups", &c->groups, 1, 4096, "mamba2: groups of B and C");
    s->Real("rope_theta", &c->rope_theta, 1, 1e12, "llama");
    s->Whole("context", &c->context, 2, 1 << 24, "llama: tokens");
    s->Real("norm_epsilon", &c->norm_epsilon, 1e-12, 1e-2, "of the norms");
    s->Flag("tied_head", &c->tied_head, "the output head is the embedding");
  });
}

constexpr char kTeacher[] = "model directory of the teacher";
constexpr char kStudent[] = "model directory to start from";

}  // namespace

int64_t LoopConfig::WarmupSteps() const {
  return warmup_steps != kShareOfSteps ? warmup_steps : std::min(most_warmup_steps, steps / 10);
}

void RequireWarmup(const LoopConfig& loop, const std::string& steps_key) {
  if (loop.WarmupSteps() <= loop.steps) return;
  throw std::runtime_error(
      absl::StrFormat("loop.warmup_steps: expected at most %s, which is %d, found %d: the learning "
                      "rate would never come to its peak",
                      steps_key, loop.steps, loop.warmup_steps));
}

PretrainConfig::PretrainConfig() {
  optimizer.weight_decay = 0.1;
  loop.most_warmup_steps = 200;
  loop.final_fraction = 0.1;
}

AlignConfig::AlignConfig() {
  optimizer.learning_rate = 2e-3;
  data.row_tokens = 512;
  data.loss_on = TargetTokens::kAll;
}

DistillConfig::DistillConfig() { optimizer.learning_rate = 1e-3; }

FinetuneConfig::FinetuneConfig() {
  optimizer.learning_rate = 1e-4;
  data.row_tokens = 2048;
}

PreferenceConfig::PreferenceConfig() {
  optimizer.learning_rate = 5e-7;
  optimizer.beta2 = 0.999;
  data.row_tokens = 1024;
  loop.final_fraction = 0;
}

DraftConfig::DraftConfig() {
  optimizer.learning_rate = 2e-3;
  data.loss_on = TargetTokens::kAll;
}

void DescribeRun(Settings* s, RunConfig* c) {
  s->Text("output", &c->output, Need::kRequired,
          "folder of the run; a run that was stopped goes on");
  s->Choice("device", &c->device, {"auto", "cpu", "cuda"}, "auto: cuda where there is one");
  s->Choice("compute", &c->compute, {"auto", "fp32", "bf16"},
            "type of weights and activations; auto: bf16 on cuda, fp32 on the CPU");
  s->Whole("threads", &c->threads, 0, 4096,
           "CPU threads; 0: as many as are fastest, measured at the start");
  s->Whole("seed", &c->seed, 0, Settings::kNoBound, "of every random number");
  s->Flag("overwrite", &c->overwrite, kOverwrite);
}

void Describe(Settings* s, TokenizerConfig* c) {
  s->Text("output", &c->output, Need::kRequired, "directory that gets tokenizer.model");
  s->Texts("train", &c->train, Need::kRequired, "text files; .gz and .xz too");
  s->Text("separator", &c->separator, Need::kOptional, "line between documents");
  s->Whole("vocabulary", &c->vocabulary, 264, 1 << 20, "pieces, special ones and bytes included");
  s->Real("character_coverage", &c->character_coverage, 0.9, 1, "share of characters with a piece");
  s->Flag("byte_fallback", &c->byte_fallback, "characters without a piece become bytes");
  s->Whole("most_sentences", &c->most_sentences, 1, Settings::kNoBound, "lines that are looked at");
  s->Whole("threads", &c->threads, 1, 1024, "CPU threads");
  s->Flag("overwrite", &c->overwrite, kOverwrite);
}

void Describe(Settings* s, PretrainConfig* c) {
  DescribeRun(s, &c->run);
  s->Text("tokenizer", &c->tokenizer, Need::kRequired, "directory with the tokenizer");
  s->Text("chat_template", &c->chat_template, Need::kOptional,
          (std::string(kChatTemplate) + "the tokenizer directory's own, if any").c_str());
  DescribeNewModel(s, &c->model, "what is made");
  s->Flag("hybrid", &c->hybrid, "llama only: some layers get a Mamba mixer");
  s->Section("layers", "hybrid: which layers", [&] { DescribeLayers(s, &c->layers); });
  DescribeStart(s, &c->start);
  DescribeData(s, &c->data);
  DescribeOptimizer(s, &c->optimizer, "peak learning rate");
  DescribeLoop(s, &c->loop);
}

void Describe(Settings* s, InitializeConfig* c) {
  s->Text("teacher", &c->teacher, Need::kRequired,
          "model directory of the teacher, or of a hybrid of it whose trained mixers are kept");
  s->Text("output", &c->output, Need::kRequired, "directory that gets the hybrid model");
  DescribeLayers(s, &c->layers);
  DescribeStart(s, &c->start);
  s->Choice("stored", &c->stored, {"bf16", "fp32"}, "element type of the model that is written");
  s->Whole("seed", &c->seed, 0, Settings::kNoBound, "of every random number");
  s->Flag("overwrite", &c->overwrite, kOverwrite);
}

void Describe(Settings* s, LayersConfig* c) {
  DescribeRun(s, &c->run);
  s->Text("teacher", &c->teacher, Need::kRequired, kTeacher);
  s->Text("student", &c->student, Need::kRequired,
          "hybrid with all the layers recurrent that might be, aligned to the teacher");
  DescribeHeldOut(s, &c->data, Need::kRequired);
  s->Whole("rows", &c->rows, 1, Settings::kNoBound, "rows of data.valid, at most");
  s->Whole("micro_batch", &c->micro_batch, 1, 1 << 20, "rows at once");
}

void Describe(Settings* s, AlignConfig* c) {
  DescribeRun(s, &c->run);
  s->Text("teacher", &c->teacher, Need::kRequired, kTeacher);
  s->Text("student", &c->student, Need::kRequired, "hybrid made by initialize from that teacher");
  s->Choice("loss", &c->loss, {"relative_squared_error", "distance"},
            "of a mixer's output against its attention layer's; distance: as published");
  DescribeData(s, &c->data);
  DescribeOptimizer(s, &c->optimizer, "peak learning rate of mixers; published: 1e-3");
  DescribeLoop(s, &c->loop, /*whole_model=*/false);
}

void Describe(Settings* s, ReplacementPhase* c) {
  DescribeLayers(s, &c->layers);
  s->Whole("steps", &c->steps, 1, 1'000'000'000, "optimizer steps of this phase");
}

void Describe(Settings* s, DistillConfig* c) {
  DescribeRun(s, &c->run);
  s->Text("teacher", &c->teacher, Need::kRequired, kTeacher);
  s->Text("student", &c->student, Need::kOptional,
          "hybrid to start from; empty: the first phase starts from the teacher");
  s->Choice("trained", &c->trained, {"mixers", "all"},
            "mixers only (MLPs, norms and embeddings frozen), or everything");
  s->Real("divergence_weight", &c->divergence_weight, 0, 1e6, "of KL(teacher || student) a token");
  s->Real("cross_entropy_weight", &c->cross_entropy_weight, 0, 1e6,
          "of the cross entropy of the text's own token");
  s->Real("temperature", &c->temperature, 0.01, 100, "of both distributions in the divergence");
  s->Real("rest_learning_rate", &c->rest_learning_rate, 0, 10,
          "trained: all; peak for everything but mixers; published: 7e-6 to 2e-5");
  s->Items("phases", &c->phases,
           "progressive replacement: each phase replaces more layers, keeps the trained mixers and "
           "trains its own number of steps (loop.steps is not used)");
  DescribeStart(s, &c->start);
  DescribeData(s, &c->data);
  DescribeOptimizer(s, &c->optimizer, "peak for mixers; published: 8e-5 (mixers), 2e-5 (all)");
  DescribeLoop(s, &c->loop);
}

void Describe(Settings* s, FinetuneConfig* c) {
  DescribeRun(s, &c->run);
  s->Text("student", &c->student, Need::kRequired, kStudent);
  s->Text("chat_template", &c->chat_template, Need::kOptional,
          (std::string(kChatTemplate) + "the student's own").c_str());
  s->Real("rest_learning_rate", &c->rest_learning_rate, 0, 10,
          "peak for everything but Mamba mixers");
  DescribeData(s, &c->data);
  DescribeOptimizer(s, &c->optimizer, "peak for Mamba mixers");
  DescribeLoop(s, &c->loop);
}

void Describe(Settings* s, PreferenceConfig* c) {
  DescribeRun(s, &c->run);
  s->Text("student", &c->student, Need::kRequired,
          "model directory to start from; as it stands it is the reference too");
  s->Real("beta", &c->beta, 1e-6, 100, "of the preference loss; published: 0.01 or 0.1");
  s->Real("epochs", &c->epochs, 0, 1e6,
          "passes over the pairs; sets loop.steps and a tenth of them to warm up; 0: loop.steps");
  s->Whole("prompt_tokens", &c->prompt_tokens, 0, (1 << 20) - 1,
           "tokens of a prompt that remain, its last ones, where a pair is longer than a row; 0: "
           "half a row, as published (512 of 1024)");
  DescribeData(s, &c->data);
  DescribeOptimizer(s, &c->optimizer, "peak learning rate; published: 5e-7");
  DescribeLoop(s, &c->loop);
}

void Describe(Settings* s, DraftConfig* c) {
  DescribeRun(s, &c->run);
  s->Text("target", &c->target, Need::kRequired, "model directory that the draft speeds up");
  s->Text("draft", &c->draft, Need::kOptional, "draft to start from; empty: a new one");
  s->Whole("copied_layers", &c->copied_layers, 0, kMostLayers,
           "a new draft is that many first layers of the target; 0: made from `model`");
  DescribeNewModel(s, &c->model, "a new draft");
  s->Flag("projected_embedding", &c->projected_embedding,
          "a new draft's embedding is the target's times a trained projection");
  s->Whole("proposed_tokens", &c->proposed_tokens, 0, Settings::kNoBound,
           "tokens that it proposes when served, the most frequent of data.train; 0: all");
  s->Whole("acceptance_steps", &c->acceptance_steps, 0, 1'000'000'000,
           "steps on the acceptance loss after loop.steps on the divergence");
  s->Real("acceptance_learning_rate", &c->acceptance_learning_rate, 0, 10, "peak in those steps");
  DescribeData(s, &c->data);
  DescribeOptimizer(s, &c->optimizer, "peak learning rate on the divergence");
  DescribeLoop(s, &c->loop);
}

void Describe(Settings* s, EvaluateConfig* c) {
  DescribeRun(s, &c->run);
  s->Text("model", &c->model, Need::kRequired, "model directory");
  s->Text("teacher", &c->teacher, Need::kOptional,
          "compared with: divergence, perplexity ratio, agreement of the best token");
  s->Text("draft", &c->draft, Need::kOptional, "its acceptance by the model");
  DescribeHeldOut(s, &c->data, Need::kOptional);
  s->Whole("rows", &c->rows, 1, Settings::kNoBound, "rows of data.valid, at most");
  s->Whole("micro_batch", &c->micro_batch, 1, 1 << 20, "rows at once");
  s->Whole("draft_tokens", &c->draft_tokens, 1, 32, "tokens a draft proposes at once");
  s->Whole("draft_prompts", &c->draft_prompts, 1, Settings::kNoBound,
           "documents of data.valid that answers are written to");
  s->Whole("prompt_tokens", &c->prompt_tokens, 1, 1 << 20,
           "of a document that count as its prompt, where it has no answer of its own");
  s->Whole("answer_tokens", &c->answer_tokens, 1, 1 << 20, "that the model writes to each");
  s->Text("preference", &c->preference, Need::kOptional,
          "file of preference pairs; half a row remains of a prompt where a pair is too long");
  s->Text("reference", &c->reference, Need::kOptional,
          "model that margins are told against; empty: none");
  s->Real("beta", &c->beta, 1e-6, 100, "of the margin");
  s->Text("choices", &c->choices, Need::kOptional,
          "file of {\"prompt\", \"choices\": [...], \"answer\": index}");
}

void Describe(Settings* s, PlanConfig* c) {
  s->Text("output", &c->output, Need::kOptional, "file for the plan; empty: printed only");
  s->Text("model", &c->model, Need::kRequired, "directory with config.json; no weights needed");
  s->Text("teacher", &c->teacher, Need::kOptional, "likewise, when a teacher runs beside");
  s->Flag("hybrid", &c->hybrid, "the model's attention is replaced as follows");
  DescribeLayers(s, &c->layers);
  DescribeStart(s, &c->start);
  s->Choice("trained", &c->trained, {"mixers", "all"}, "what has gradients and optimizer state");
  s->Whole("accelerators", &c->accelerators, 1, 1 << 20, "GPUs");
  s->Real("memory_gib", &c->memory_gib, 0.001, 1e6, "of one, GiB");
  s->Real("peak_teraflops", &c->peak_teraflops, 1e-6, 1e6, "of one, bf16 without sparsity");
  s->Real("utilisation", &c->utilisation, 0.001, 1, "share of the peak that is reached");
  s->Real("price_per_hour", &c->price_per_hour, 0, 1e6, "of one GPU, in US dollars");
  s->Whole("row_tokens", &c->row_tokens, 2, 1 << 20, "tokens in a row");
  s->Whole("micro_batch", &c->micro_batch, 1, 1 << 20, "rows a GPU takes at once");
  s->Flag("activation_checkpointing", &c->activation_checkpointing,
          "recompute blocks in the backward pass");
  s->Real("tokens", &c->tokens, 1, 1e18, "of the whole run");
  s->Flag("overwrite", &c->overwrite,
          "a file at output that is no plan is replaced; also: --overwrite");
}

}  // namespace mambad::trainer
