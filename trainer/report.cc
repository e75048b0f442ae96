#include "trainer/report.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <sstream>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "nlohmann/json.hpp"
#include "trainer/text_file.h"

extern char** environ;

namespace mambad::trainer {
namespace {

using nlohmann::json;
namespace filesystem = std::filesystem;

// What a metrics.jsonl holds, column by column.
struct RunHistory {
  std::string name;                             // "" for the run itself
  std::vector<std::string> training, held_out;  // names of metrics, in the order of their coming
  std::map<std::string, PlotLine> lines;        // x: millions of tokens
  std::vector<std::pair<int64_t, std::map<std::string, double>>> evaluations;
  int64_t steps = 0;
  double tokens = 0, rate = 0;
};

void Note(const std::string& name, std::vector<std::string>* names) {
  if (std::find(names->begin(), names->end(), name) == names->end()) names->push_back(name);
}

double NumberOf(const json& value) {
  if (value.is_number()) return value.get<double>();
  return std::numeric_limits<double>::quiet_NaN();
}

void AddLine(const json& object, RunHistory* history) {
  const int64_t step = object["step"].get<int64_t>();
  history->steps = std::max(history->steps, step);
  std::map<std::string, double> evaluation;
  if (object.contains("tokens")) history->tokens = NumberOf(object["tokens"]);
  if (object.contains("tokens_per_second")) history->rate = NumberOf(object["tokens_per_second"]);
  for (const auto& [name, value] : object.items()) {
    if (name == "step" || name == "tokens" || name == "tokens_per_second") continue;
    PlotLine& line = history->lines[name];
    line.name = name;
    line.x.push_back(history->tokens / 1e6);
    line.y.push_back(NumberOf(value));
    const bool held_out = absl::StartsWith(name, "valid_");
    Note(name, held_out ? &history->held_out : &history->training);
    if (held_out) evaluation[name] = NumberOf(value);
  }
  if (!evaluation.empty()) history->evaluations.emplace_back(step, std::move(evaluation));
}

bool ReadHistory(const std::string& folder, const std::string& name, RunHistory* history) {
  std::ifstream in(folder + "/metrics.jsonl", std::ios::binary);
  if (!in) return false;
  history->name = name;
  std::string line;
  while (std::getline(in, line)) {
    const json object = json::parse(line, nullptr, false);
    if (object.is_object() && object.contains("step") && object["step"].is_number_integer()) {
      AddLine(object, history);
    }
  }
  return history->steps > 0;
}

std::string ReadText(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// The teacher's perplexity beside the model's, where the ratio of both is known.
void AddTeacher(const RunHistory& history, std::vector<PlotLine>* lines) {
  const auto own = history.lines.find("valid_perplexity"),
             ratio = history.lines.find("valid_perplexity_ratio");
  if (ratio == history.lines.end() || ratio->second.y.size() != own->second.y.size()) return;
  PlotLine teacher = own->second;
  teacher.name = "teacher";
  for (size_t i = 0; i < teacher.y.size(); ++i) teacher.y[i] /= ratio->second.y[i];
  lines->push_back(std::move(teacher));
}

// A list of what the metrics are that do not say it themselves.
std::string Legend(const RunHistory& history) {
  std::string text;
  std::vector<std::string> names = history.training;
  for (const std::string& name : history.held_out) Note(name.substr(6), &names);
  for (const std::string& name : names) {
    const std::string meaning = MetricMeaning(name);
    if (!meaning.empty()) text += "- `" + name + "`: " + meaning + "\n";
  }
  return text;
}

std::string SectionOf(const RunHistory& history, const std::string& folder, bool* drew_all) {
  std::string text;
  if (!history.name.empty()) text += "## " + history.name + "\n\n";
  text += absl::StrFormat("%s steps, %s million tokens, at the end %s tokens a second.\n\n",
                          ReportNumber(static_cast<double>(history.steps)),
                          ReportNumber(history.tokens / 1e6), ReportNumber(history.rate));
  ReportTable last{{"training, at the end", "value"}, {}};
  for (const std::string& name : history.training) {
    last.rows.push_back({name, ReportNumber(history.lines.at(name).y.back())});
  }
  text += MarkdownTable(last) + "\n";
  if (!history.evaluations.empty()) {
    ReportTable table{{"held out, after step"}, {}};
    for (const std::string& name : history.held_out) table.columns.push_back(name.substr(6));
    for (const auto& [step, values] : history.evaluations) {
      std::vector<std::string> row = {std::to_string(step)};
      for (const std::string& name : history.held_out) {
        const auto found = values.find(name);
        row.push_back(found == values.end() ? "" : ReportNumber(found->second));
      }
      table.rows.push_back(std::move(row));
    }
    text += MarkdownTable(table) + "\n";
  }
  const std::string legend = Legend(history);
  if (!legend.empty()) text += legend + "\n";
  const auto draw = [&](const std::string& metric, const char* what, const char* axis) {
    const auto line = history.lines.find(metric);
    if (line == history.lines.end() || line->second.x.size() < 2) return;
    const std::string file = (history.name.empty() ? "" : history.name + "-") + metric + ".svg";
    std::vector<PlotLine> lines = {line->second};
    lines[0].name = "model";
    if (metric == "valid_perplexity") AddTeacher(history, &lines);
    const std::string title = (history.name.empty() ? "" : history.name + ": ") + what;
    if (DrawPlot(folder + "/" + file, title, "million tokens of training", axis, lines)) {
      text += "![" + title + "](" + file + ")\n\n";
    } else {
      *drew_all = false;
    }
  };
  draw("loss", "loss on the training text", "loss");
  draw("valid_divergence", "divergence from the teacher on held-out text", "nats a token");
  draw("valid_perplexity", "perplexity on held-out text", "perplexity");
  return text;
}

}  // namespace

std::string ReportNumber(double value) {
  if (!std::isfinite(value))
    return std::isnan(value) ? "NaN" : value > 0 ? "infinite" : "-infinite";
  const double size = std::fabs(value);
  if (size != 0 && (size < 1e-3 || size >= 1e15)) return absl::StrFormat("%.3e", value);
  const int decimals = size >= 1000 || value == std::floor(value)
                           ? 0
                           : std::clamp(3 - static_cast<int>(std::floor(std::log10(size))), 0, 6);
  std::string digits = absl::StrFormat("%.*f", decimals, size);
  for (size_t place = digits.find('.') == std::string::npos ? digits.size() : digits.find('.');
       place > 3; place -= 3) {
    digits.insert(place - 3, ",");
  }
  return (value < 0 ? "-" : "") + digits;
}

std::string MetricMeaning(const std::string& name) {
  static const std::map<std::string, std::string> meanings = {
      {"loss", "what is minimised, a mean over the steps since the line before"},
      {"worst", "the loss of the layer that is worst aligned"},
      {"divergence", "KL(teacher || model), nats a token; 0: the same distribution"},
      {"cross_entropy", "of the text's own tokens, nats a token"},
      {"agreement",
       "share of tokens for which model and teacher find the same next token most probable"},
      {"overlap",
       "probability that both distributions share: of drafts sampled at temperature 1 no greater "
       "share is accepted"},
      {"perplexity", "exp of the cross entropy"},
      {"perplexity_ratio", "perplexity over the teacher's; 1: as good"},
      {"accuracy", "share of pairs in which the chosen answer is preferred"},
      {"margin", "by how much the chosen answer is preferred, beta times the log ratio"},
      {"gradient_norm", "of all parameters together, before clipping"},
      {"learning_rate_factor", "share of the peak learning rate"}};
  const auto found = meanings.find(name.starts_with("valid_") ? name.substr(6) : name);
  return found == meanings.end() ? "" : found->second;
}

std::string MarkdownTable(const ReportTable& table) {
  std::vector<size_t> widths;
  for (const std::string& column : table.columns)
    widths.push_back(std::max<size_t>(3, column.size()));
  for (const auto& row : table.rows) {
    for (size_t i = 0; i < widths.size(); ++i) widths[i] = std::max(widths[i], row.at(i).size());
  }
  const auto line = [&](const std::vector<std::string>& cells) {
    std::string text = "|";
    for (size_t i = 0; i < widths.size(); ++i) {
      const std::string padding(widths[i] - cells[i].size(), ' ');
      text += " " + (i == 0 ? cells[i] + padding : padding + cells[i]) + " |";
    }
    return text + "\n";
  };
  std::string text = line(table.columns) + "|";
  for (size_t i = 0; i < widths.size(); ++i) {
    text += (i == 0 ? ":" : "-") + std::string(widths[i], '-') + (i == 0 ? "-" : ":") + "|";
  }
  text += "\n";
  for (const auto& row : table.rows) text += line(row);
  return text;
}

bool DrawPlot(const std::string& path, const std::string& title, const std::string& x_name,
              const std::string& y_name, const std::vector<PlotLine>& lines) {
  const auto quoted = [](const std::string& text) {
    return "'" + absl::StrReplaceAll(text, {{"'", "''"}}) + "'";
  };
  std::string script = "set terminal svg size 640,400 noenhanced\nset output " + quoted(path) +
                       "\nset grid\nset xlabel " + quoted(x_name) + "\nset ylabel " +
                       quoted(y_name) + "\nset title " + quoted(title) + "\n";
  if (lines.size() == 1) script += "set nokey\n";
  std::string plot = "plot ";
  for (size_t i = 0; i < lines.size(); ++i) {
    script += absl::StrFormat("$line%d << END_OF_LINE\n", i);
    for (size_t point = 0; point < lines[i].x.size(); ++point) {
      if (!std::isfinite(lines[i].y[point])) continue;
      script += absl::StrFormat("%.9g %.9g\n", lines[i].x[point], lines[i].y[point]);
    }
    script += "END_OF_LINE\n";
    plot +=
        absl::StrFormat("%s$line%d using 1:2 with linespoints pointtype 7 pointsize 0.3 title %s",
                        i == 0 ? "" : ", ", i, quoted(lines[i].name));
  }
  script += plot + "\n";
  const std::string script_path = path + ".gnuplot";
  std::ofstream(script_path, std::ios::binary) << script;
  std::error_code error;
  filesystem::remove(path, error);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 1, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  char program[] = "gnuplot";
  std::string argument = script_path;
  std::array<char*, 3> arguments = {program, argument.data(), nullptr};
  pid_t child = 0;
  const int failed = posix_spawnp(&child, program, &actions, nullptr, arguments.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  int status = 1;
  if (failed == 0) waitpid(child, &status, 0);
  filesystem::remove(script_path, error);
  return failed == 0 && status == 0 && filesystem::exists(path, error);
}

std::string WriteRunReport(const std::string& folder) {
  const std::string config = ReadText(folder + "/config.yaml");
  const std::string command = config.substr(0, config.find('\n'));
  std::string text =
      "# " + (absl::StartsWith(command, "# ") ? command.substr(2) : "A run") + "\n\n";
  std::vector<std::string> parts;
  std::error_code error;
  for (const auto& entry : filesystem::directory_iterator(folder, error)) {
    if (entry.is_directory(error)) parts.push_back(entry.path().filename());
  }
  std::sort(parts.begin(), parts.end());
  parts.insert(parts.begin(), "");
  bool drew_all = true;
  for (const std::string& part : parts) {
    RunHistory history;
    if (ReadHistory(part.empty() ? folder : folder + "/" + part, part, &history)) {
      text += SectionOf(history, folder, &drew_all);
    }
  }
  if (!drew_all)
    text += "Plots are missing: gnuplot, which draws them, was not found or failed.\n\n";
  text += "## Settings\n\n```yaml\n" + config + "```\n";
  const std::string path = folder + "/report.md";
  WriteText(path, text);
  return path;
}

}  // namespace mambad::trainer
