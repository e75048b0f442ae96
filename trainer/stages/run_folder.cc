#include "trainer/stages/run_folder.h"

#include <algorithm>
#include <exception>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <optional>
#include <set>
#include <sstream>
#include <stdexcept>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "trainer/text_file.h"

namespace mambad::trainer {
namespace {

namespace fs = std::filesystem;

constexpr char kWayOut[] = "give another output, or overwrite: true (--overwrite) to replace it";

// With them a run that diverged is led on from its last good state, and none may rise above what
// the run was begun with; of clip_norm 0 is the highest.
const std::set<std::string>& Lowered() {
  static const std::set<std::string> keys = {"learning_rate", "rest_learning_rate",
                                             "acceptance_learning_rate", "clip_norm"};
  return keys;
}

// Settings that only say how long, how often, where or on how many threads.
const std::set<std::string>& Free() {
  static const std::set<std::string> keys = {"output",
                                             "overwrite",
                                             "device",
                                             "threads",
                                             "tokens",
                                             "log_every",
                                             "evaluate_every",
                                             "save_every",
                                             "save_seconds",
                                             "keep_states",
                                             "most_seconds",
                                             "evaluate_rows",
                                             "stored",
                                             "proposed_tokens",
                                             "divergence_factor",
                                             "activation_checkpointing"};
  return keys;
}

std::string ReadFile(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// ---- what lies in a folder ---------------------------------------------------------------------

bool IsEmptyOrAbsent(const std::string& path) {
  std::error_code error;
  return !fs::exists(path, error) || (fs::is_directory(path, error) && fs::is_empty(path, error));
}

bool IsModel(const fs::path& directory) {
  std::error_code error;
  return fs::exists(directory / "config.json", error);
}

bool IsPart(const std::string& name) {
  return name == "divergence" || name == "acceptance" || absl::StartsWith(name, "phase-");
}

// The newest of the saved states of a run and its parts: "step 75" or "phase-2, step 40".
std::optional<std::string> NewestState(const std::string& folder) {
  std::optional<std::string> newest;
  fs::file_time_type newest_time;
  std::error_code error;
  const auto look = [&](const fs::path& states, const std::string& part) {
    for (const auto& entry : fs::directory_iterator(states, error)) {
      int64_t step = 0;
      const std::string name = entry.path().filename();
      if (!absl::StartsWith(name, "step-") || !absl::SimpleAtoi(name.substr(5), &step)) continue;
      const fs::file_time_type time = entry.last_write_time(error);
      if (newest && time <= newest_time) continue;
      newest = absl::StrCat(part, part.empty() ? "" : ", ", "step ", step);
      newest_time = time;
    }
  };
  look(fs::path(folder) / "states", "");
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (entry.is_directory(error)) look(entry.path() / "states", entry.path().filename());
  }
  return newest;
}

// The first model in a run's folder, its own or a part's.
std::optional<std::string> ModelOfRun(const std::string& folder) {
  if (IsModel(fs::path(folder) / "model")) return folder + "/model";
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    if (IsPart(entry.path().filename()) && IsModel(entry.path() / "model")) {
      return entry.path().string() + "/model";
    }
  }
  return std::nullopt;
}

bool IsOfRun(const fs::path& path) {
  static const std::set<std::string> names = {
      "config.yaml",     "metrics.jsonl",    "inputs.json", "report.md",
      "evaluation.json", "generated.jsonl",  "states",      "tokens",
      "model",           "model.unfinished", "shards",      "text"};
  const std::string name = path.filename();
  return names.count(name) > 0 || IsPart(name) || absl::StartsWith(name, "events.out.tfevents.") ||
         path.extension() == ".svg";
}

// What a run writes before its work begins, and nobody misses: text that did not become tokens to
// its end has no index.
bool IsOfBeginning(const fs::path& path) {
  std::error_code error;
  const std::string name = path.filename();
  if (name == "config.yaml" || name == "inputs.json") return true;
  if (!fs::is_directory(path, error)) return false;
  if (name != "tokens") return fs::is_empty(path, error);
  for (const auto& store : fs::directory_iterator(path, error)) {
    if (fs::exists(store.path() / "index.json", error)) return false;
  }
  return true;
}

// "pretrain" of a config.yaml that the trainer wrote; else "".
std::string CommandOf(const std::string& settings) {
  std::string first = settings.substr(0, settings.find('\n'));
  return absl::StartsWith(first, "# trainer ") ? first.substr(10) : "";
}

// ---- settings that differ ----------------------------------------------------------------------

std::string KeyOf(absl::string_view line) {
  return std::string(absl::StripLeadingAsciiWhitespace(line.substr(0, line.find(':'))));
}

std::vector<std::string> LinesWithout(const std::string& settings,
                                      const std::vector<const std::set<std::string>*>& left_out) {
  std::vector<std::string> lines;
  for (const absl::string_view line : absl::StrSplit(settings, '\n')) {
    const std::string key = KeyOf(line);
    // A setting that came later counts as absent as long as nobody uses it.
    const bool drops = absl::StartsWith(line, "# from ") || key == "overwrite" ||
                       line == "chat_template: \"\"" ||
                       std::any_of(left_out.begin(), left_out.end(),
                                   [&](const auto* keys) { return keys->count(key) > 0; });
    if (!drops) lines.emplace_back(line);
  }
  return lines;
}

// "expected "a", found "b"": the first line that differs; "" when none does.
std::string FirstDifference(const std::vector<std::string>& before,
                            const std::vector<std::string>& now) {
  for (size_t i = 0; i < std::max(before.size(), now.size()); ++i) {
    const std::string was = i < before.size() ? before[i] : "";
    const std::string is = i < now.size() ? now[i] : "";
    if (was == is) continue;
    return absl::StrFormat("expected \"%s\", found \"%s\"", absl::StripAsciiWhitespace(was),
                           absl::StripAsciiWhitespace(is));
  }
  return "";
}

// What stands behind the key in a line of settings.
std::map<std::string, std::string> LoweredValues(const std::string& settings) {
  std::map<std::string, std::string> values;
  for (const absl::string_view line : absl::StrSplit(settings, '\n')) {
    const std::string key = KeyOf(line);
    if (Lowered().count(key) == 0) continue;
    values[key] = std::string(absl::StripAsciiWhitespace(line.substr(line.find(':') + 1)));
  }
  return values;
}

std::vector<std::string> History(const std::string& settings) {
  std::vector<std::string> lines;
  for (const absl::string_view line : absl::StrSplit(settings, '\n')) {
    if (absl::StartsWith(line, "# from ")) lines.emplace_back(line);
  }
  return lines;
}

// What the run was begun with: before the first change, if there was one.
std::string BegunWith(const std::string& key, const std::string& last,
                      const std::vector<std::string>& history) {
  for (const std::string& line : history) {
    const std::string mark = ": " + key + ": ";
    const size_t at = line.find(mark);
    if (at == std::string::npos) continue;
    const size_t begin = at + mark.size();
    return line.substr(begin, line.find(" -> ", begin) - begin);
  }
  return last;
}

double Height(const std::string& key, const std::string& value) {
  double number = 0;
  if (!absl::SimpleAtod(value, &number)) return 0;
  return key == "clip_norm" && number == 0 ? std::numeric_limits<double>::infinity() : number;
}

// Lines of history: those of `before` and what changes now. Throws where something rises.
std::vector<std::string> NewHistory(const std::string& path, const std::string& before,
                                    const std::string& now, const std::string& state) {
  std::vector<std::string> history = History(before);
  const auto old_values = LoweredValues(before);
  for (const auto& [key, value] : LoweredValues(now)) {
    const auto old_value = old_values.find(key);
    if (old_value == old_values.end() || old_value->second == value) continue;
    const std::string begun = BegunWith(key, old_value->second, history);
    if (Height(key, value) > Height(key, begun)) {
      throw std::runtime_error(absl::StrFormat(
          "%s: a run that goes on may lower %s, not raise it: expected at most %s, with which it "
          "was begun, found %s; give another output",
          path, key, begun, value));
    }
    history.push_back(
        absl::StrFormat("# from %s: %s: %s -> %s", state, key, old_value->second, value));
  }
  return history;
}

// ---- what is overwritten must not be read ------------------------------------------------------

bool LiesIn(const std::string& path, const std::string& folder) {
  std::error_code error;
  const fs::path inner = fs::weakly_canonical(path, error), outer = fs::canonical(folder, error);
  if (error) return false;
  const auto [end, ignored] = std::mismatch(outer.begin(), outer.end(), inner.begin(), inner.end());
  return end == outer.end();
}

// Throws when a setting names `output` or something in it.
void RequireNothingRead(const std::string& output, const DescribeFunction& describe) {
  std::error_code error;
  for (const auto& [key, text] : TextsOf(describe)) {
    if (text.empty() || key == "output" || key == "data.tokens" || !fs::exists(text, error))
      continue;
    if (!fs::exists(output, error) || !LiesIn(text, output)) continue;
    const bool same = fs::equivalent(text, output, error);
    throw std::runtime_error(absl::StrCat("output: ", output, ": ", same ? "is the " : "the ", key,
                                          same ? " too" : " lies in it",
                                          ": name another directory"));
  }
}

// What there is in `output`, which is not empty, as people would say it; "": what the same command
// made of the same settings.
std::string Found(const std::string& output, const std::string& command,
                  const std::string& settings, const char* thing) {
  const std::string before = ReadFile(output + "/config.yaml"), by = CommandOf(before);
  if (!by.empty() && by != command) return absl::StrFormat("%s that `trainer %s` made", thing, by);
  if (!by.empty()) {
    static const std::set<std::string> places = {"output"};
    const std::string difference =
        FirstDifference(LinesWithout(before, {&places}), LinesWithout(settings, {&places}));
    return difference.empty()
               ? ""
               : absl::StrFormat("%s that `trainer %s` made with other settings (%s)", thing, by,
                                 difference);
  }
  fs::path own = fs::path(output).lexically_normal();
  if (!own.has_filename()) own = own.parent_path();
  const std::string run = own.parent_path().string();
  const std::string run_command = CommandOf(ReadFile(run + "/config.yaml"));
  if (!run_command.empty()) {
    return absl::StrFormat("the %s of the run of `trainer %s` in %s",
                           absl::StripPrefix(thing, "a "), run_command, run);
  }
  return absl::StrFormat("%s without a config.yaml that tells how it was made", thing);
}

[[noreturn]] void RefuseToReplace(const std::string& output, const std::string& found) {
  throw std::runtime_error(absl::StrFormat("output: %s: holds %s; %s", output, found, kWayOut));
}

std::string SettingsText(const std::string& command, const DescribeFunction& describe) {
  return "# trainer " + command + "\n" + WriteSettings(describe);
}

}  // namespace

// ---- a run's folder ----------------------------------------------------------------------------

RunFolder::RunFolder(const std::string& path)
    : path_(path), exceptions_(std::uncaught_exceptions()) {
  std::error_code error;
  made_ = fs::create_directories(path, error);
  if (error) throw std::runtime_error(path + ": cannot be made: " + error.message());
  if (IsModel(path)) {
    throw std::runtime_error(absl::StrFormat(
        "output: %s: is a model's directory, and a run wants a folder of its own: give another "
        "output",
        path));
  }
  lock_ = std::make_unique<RunLock>(path);
  goes_on_ = NewestState(path).has_value();
}

RunFolder::~RunFolder() {
  lock_.reset();
  if (!made_ || std::uncaught_exceptions() <= exceptions_) return;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(path_, error)) {
    if (!IsOfBeginning(entry.path())) return;
  }
  if (!error) fs::remove_all(path_, error);
}

std::string RunFolder::KeepSettings(const std::string& command, const DescribeFunction& describe,
                                    bool overwrite) {
  const std::string path = path_ + "/config.yaml", settings = SettingsText(command, describe);
  const std::string before = ReadFile(path), by = CommandOf(before);
  const std::optional<std::string> model = ModelOfRun(path_), state = NewestState(path_);
  std::error_code error;
  std::string found;
  if (!by.empty() && by != command) {
    for (const auto& entry : fs::directory_iterator(path_, error)) {
      const std::string name = entry.path().filename();
      // Text as tokens is any command's.
      if (!IsOfRun(entry.path()) || IsOfBeginning(entry.path()) || name == "tokens") continue;
      found = absl::StrFormat("output: %s: holds a run of `trainer %s`", path_, by);
    }
  } else if (by.empty() && model) {
    found = absl::StrFormat("output: %s: holds a model in %s and no config.yaml of a run", path_,
                            *model);
  } else if (model || state) {
    const std::string difference = FirstDifference(LinesWithout(before, {&Free(), &Lowered()}),
                                                   LinesWithout(settings, {&Free(), &Lowered()}));
    if (!difference.empty()) {
      found = path + ": a run of other settings was begun here: " + difference;
    }
  }
  std::string told;
  if (!found.empty()) {
    if (!overwrite) throw std::runtime_error(found + "; " + kWayOut);
    RequireNothingRead(path_, describe);
    std::vector<fs::path> going;
    for (const auto& entry : fs::directory_iterator(path_, error)) {
      if (IsOfRun(entry.path())) going.push_back(entry.path());
    }
    for (const fs::path& entry : going) fs::remove_all(entry, error);
    if (error) throw std::runtime_error(path_ + ": cannot be emptied: " + error.message());
    goes_on_ = false;
    told = "overwrite: removed what was there: " + found;
  }
  std::vector<std::string> history;
  if (found.empty() && state) history = NewHistory(path, before, settings, *state);
  std::string kept = settings;
  for (auto line = history.rbegin(); line != history.rend(); ++line) {
    kept.insert(kept.find('\n') + 1, *line + "\n");
  }
  WriteText(path, kept);
  return told;
}

// ---- a model's directory -----------------------------------------------------------------------

void RequireFreeOutput(const std::string& output, const std::string& command,
                       const DescribeFunction& describe, bool overwrite) {
  RequireNothingRead(output, describe);
  if (IsEmptyOrAbsent(output)) return;
  std::error_code error;
  if (!fs::is_directory(output, error)) {
    throw std::runtime_error(
        absl::StrFormat("output: %s: expected a directory, found a file", output));
  }
  if (!IsModel(output)) {
    throw std::runtime_error(absl::StrFormat(
        "output: %s: expected a new directory or a model to replace, found other files", output));
  }
  const std::string found = Found(output, command, SettingsText(command, describe), "a model");
  if (!found.empty() && !overwrite) RefuseToReplace(output, found);
}

void RequireFreeTokenizerOutput(const std::string& output, const std::string& command,
                                const DescribeFunction& describe, bool overwrite) {
  std::error_code error;
  if (IsModel(output)) {
    throw std::runtime_error(absl::StrFormat(
        "output: %s: is a model's directory, whose tokenizer must remain: give another output",
        output));
  }
  const fs::path folder = output;
  if (!fs::exists(folder / "tokenizer.model", error) &&
      !fs::exists(folder / "tokenizer.json", error)) {
    const std::string by = CommandOf(ReadFile(output + "/config.yaml"));
    if (!by.empty() && by != command) {
      throw std::runtime_error(absl::StrFormat(
          "output: %s: holds a run of `trainer %s`: give another output", output, by));
    }
    return;
  }
  const std::string found = Found(output, command, SettingsText(command, describe), "a tokenizer");
  if (!found.empty() && !overwrite) RefuseToReplace(output, found);
}

void ReplaceDirectory(const std::string& output,
                      const std::function<void(const std::string& directory)>& fill) {
  fs::path finished = fs::path(output).lexically_normal();
  if (!finished.has_filename()) finished = finished.parent_path();
  const std::string unfinished = finished.string() + ".unfinished";
  std::error_code error;
  fs::remove_all(unfinished, error);
  try {
    fill(unfinished);
  } catch (...) {
    fs::remove_all(unfinished, error);
    throw;
  }
  fs::remove_all(finished, error);
  fs::rename(unfinished, finished, error);
  if (error) throw std::runtime_error(output + ": cannot be written: " + error.message());
}

}  // namespace mambad::trainer
