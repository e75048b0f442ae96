#include "server/start_report.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace mambad::server {
namespace {

// "140.2 M"
std::string Count(int64_t number) {
  constexpr const char* kUnits[] = {"", " k", " M", " B"};
  double value = static_cast<double>(number);
  size_t unit = 0;
  for (; value >= 1000 && unit < 3; ++unit) value /= 1000;
  return unit == 0 ? absl::StrCat(number) : absl::StrFormat("%.1f%s", value, kUnits[unit]);
}

std::string DescribeModel(const char* role, const ModelInfo& model) {
  const std::string attention =
      model.attention_layers > 0 && model.attention_layers < model.layers
          ? absl::StrFormat(" (%d of them attention)", model.attention_layers)
          : "";
  return absl::StrFormat(
      "%s: %s: %s, %d layers%s of width %d, %s parameters, %s as %s, vocabulary %d, computed by %s",
      role, model.path, model.family, model.layers, attention, model.width, Count(model.parameters),
      BytesForPeople(model.weight_bytes), model.weight_type, model.vocabulary, model.numerics);
}

std::string DescribeMemory(const MemoryPlan& plan, const EngineOptions& options) {
  std::string line = absl::StrCat("memory: ", BytesForPeople(plan.total()), " planned");
  if (plan.free >= 0) absl::StrAppend(&line, " of ", BytesForPeople(plan.free), " free");
  absl::StrAppend(&line, ": weights ", BytesForPeople(plan.weights));
  if (plan.states > 0) absl::StrAppend(&line, ", states ", BytesForPeople(plan.states));
  if (plan.keys_and_values > 0) {
    absl::StrAppend(&line, ", keys and values ", BytesForPeople(plan.keys_and_values), " (",
                    options.kv_cache_tokens, " tokens)");
  }
  return absl::StrCat(line, ", tables ", BytesForPeople(plan.tables), ", work space ",
                      BytesForPeople(plan.workspace));
}

std::string DescribeText(const Engine& engine) {
  const std::vector<TokenId>& ends = engine.model().eos_ids;
  return absl::StrCat("text: ", engine.tokenizer() != nullptr ? "tokenizer" : "no tokenizer", ", ",
                      engine.chat_template() != nullptr ? "chat template" : "no chat template",
                      ", ",
                      ends.empty() ? "no end of text: answers end by length"
                                   : absl::StrCat("ends at ", absl::StrJoin(ends, ", ")));
}

std::string DescribeSpeculation(const Engine& engine) {
  const EngineOptions& options = engine.options();
  if (!options.speculation) return "speculation: off";
  if (!engine.self_check().ok()) return "speculation: switched off";
  std::vector<std::string> drafters;
  if (engine.draft_model() != nullptr) drafters.push_back("draft model");
  if (options.prompt_lookup) drafters.push_back("prompt lookup");
  if (drafters.empty()) return "speculation: nothing drafts";
  return absl::StrCat("speculation: ", absl::StrJoin(drafters, " and "), ", up to ",
                      options.max_draft_length,
                      " tokens a round; the self-check gave equal answers with and without");
}

}  // namespace

std::vector<std::string> StartReport(const Engine& engine) {
  const EngineOptions& options = engine.options();
  std::vector<std::string> lines = {DescribeModel("model", engine.model())};
  if (engine.draft_model() != nullptr) {
    lines.push_back(DescribeModel("draft model", *engine.draft_model()));
  }
  lines.push_back(absl::StrFormat(
      "device: %s; %d sequences together, context %d tokens, %d rows a step", engine.device(),
      options.max_sequences, options.max_context, options.max_step_rows));
  lines.push_back(DescribeMemory(engine.memory(), options));
  lines.push_back(DescribeText(engine));
  lines.push_back(DescribeSpeculation(engine));
  return lines;
}

std::vector<std::string> StartWarnings(const Engine& engine) {
  std::vector<std::string> lines = engine.warnings();
  if (const absl::Status check = engine.self_check(); !check.ok()) {
    lines.push_back(absl::StrCat("the self-check failed, so speculation is switched off: ",
                                 std::string(check.message())));
  }
  return lines;
}

}  // namespace mambad::server
