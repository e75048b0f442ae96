#include "server/cli/manual.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"

namespace mambad::cli {
namespace {

// ---- what there is ------------------------------------------------------------------------------

std::vector<const CLI::Option*> OptionsOf(const CLI::App& app) {
  std::vector<const CLI::Option*> options;
  for (const CLI::Option* option : app.get_options()) {
    if (option->nonpositional() && !option->get_group().empty()) options.push_back(option);
  }
  return options;
}

std::vector<const CLI::Option*> ArgumentsOf(const CLI::App& app) {
  std::vector<const CLI::Option*> arguments;
  for (const CLI::Option* option : app.get_options())
    if (!option->nonpositional()) arguments.push_back(option);
  return arguments;
}

std::vector<const CLI::App*> CommandsOf(const CLI::App& app) {
  std::vector<const CLI::App*> commands;
  for (const CLI::App* command : app.get_subcommands({}))
    if (!command->get_group().empty()) commands.push_back(command);
  return commands;
}

std::vector<std::string> NamesOf(const CLI::Option& option) {
  std::vector<std::string> names;
  for (const std::string& name : option.get_snames()) names.push_back(absl::StrCat("-", name));
  for (const std::string& name : option.get_lnames()) names.push_back(absl::StrCat("--", name));
  return names;
}

// "app" and the names that lead from it to a command.
std::string Path(const std::string& above, const CLI::App& app) {
  return above.empty() ? app.get_name() : absl::StrCat(above, " ", app.get_name());
}

bool TakesValue(const CLI::Option& option) { return option.get_items_expected_max() > 0; }

std::string Plain(const std::string& text) { return absl::StrReplaceAll(text, {{"\n", " "}}); }

// ---- manual pages -------------------------------------------------------------------------------

// A line's first character may not be one of roff's controls.
std::string Roff(const std::string& text) {
  std::string escaped = absl::StrReplaceAll(text, {{"\\", "\\e"}, {"-", "\\-"}});
  std::vector<std::string> lines;
  for (absl::string_view line : absl::StrSplit(escaped, '\n')) {
    const bool is_control = absl::StartsWith(line, ".") || absl::StartsWith(line, "'");
    lines.push_back(absl::StrCat(is_control ? "\\&" : "", line));
  }
  return absl::StrJoin(lines, "\n");
}

void AppendOptions(const CLI::App& app, std::string* page) {
  for (const CLI::Option* argument : ArgumentsOf(app)) {
    absl::StrAppend(page, ".TP\n\\fI", Roff(argument->get_name(true)), "\\fR\n",
                    Roff(Plain(argument->get_description())), "\n");
  }
  for (const CLI::Option* option : OptionsOf(app)) {
    // That every command has it is said once.
    if (option == app.get_help_ptr() && app.get_parent() != nullptr) continue;
    absl::StrAppend(page, ".TP\n\\fB", Roff(absl::StrJoin(NamesOf(*option), ", ")), "\\fR");
    if (TakesValue(*option)) absl::StrAppend(page, " \\fI", Roff(option->get_type_name()), "\\fR");
    absl::StrAppend(page, "\n", Roff(Plain(option->get_description())), "\n");
  }
}

// Lines as they stand.
void AppendFooter(const CLI::App& app, std::string* page) {
  if (!app.get_footer().empty())
    absl::StrAppend(page, ".PP\n.nf\n", Roff(app.get_footer()), "\n.fi\n");
}

// How a command of this path is called, and what it is for.
std::string Heading(const CLI::App& command, const std::string& path) {
  std::string usage = path;
  for (const CLI::Option* argument : ArgumentsOf(command))
    absl::StrAppend(&usage, " ", argument->get_name(true));
  const std::string what = Plain(command.get_description());
  return absl::StrCat(".SS ", Roff(usage), "\n", Roff(what), ".\n");
}

void AppendCommands(const CLI::App& app, const std::string& above, std::string* page) {
  for (const CLI::App* command : CommandsOf(app)) {
    const std::string path = Path(above, *command);
    absl::StrAppend(page, Heading(*command, path));
    AppendOptions(*command, page);
    AppendFooter(*command, page);
    AppendCommands(*command, path, page);
  }
}

// ---- completion ---------------------------------------------------------------------------------

// A case a command, in words that bash and zsh read alike: what may be said at this place, and
// which options of it take a value. `above`: what every command inherits.
void AppendCases(const CLI::App& app, const std::string& path, const std::string& above,
                 std::string* script) {
  std::vector<std::string> words, values;
  for (const CLI::App* command : CommandsOf(app)) words.push_back(command->get_name());
  for (const CLI::Option* option : OptionsOf(app)) {
    for (const std::string& name : NamesOf(*option)) {
      words.push_back(name);
      if (TakesValue(*option)) values.push_back(name);
    }
  }
  absl::StrAppend(script, "    '", path, "') candidates='", absl::StrJoin(words, " "), above,
                  "' valued='", absl::StrJoin(values, " "), "' ;;\n");
  for (const CLI::App* command : CommandsOf(app)) {
    std::string inherited = above;
    // What the program itself takes may stand behind a command, too.
    if (above.empty()) {
      for (const CLI::Option* option : OptionsOf(app))
        absl::StrAppend(&inherited, " ", absl::StrJoin(NamesOf(*option), " "));
    }
    AppendCases(*command, Path(path, *command), inherited, script);
  }
}

std::string CasesOf(const CLI::App& app) {
  std::string cases;
  AppendCases(app, app.get_name(), "", &cases);
  return cases;
}

// In these scripts NAME is the program's name, CASES what CasesOf gives. The row of words that are
// commands decides; options may stand between them.
constexpr char kBash[] = R"(# bash completion of NAME, made by itself
_NAME() {
  local place='NAME' word candidates valued i IFS=$' \t\n'
  for ((i = 1; i <= COMP_CWORD; ++i)); do
    candidates='' valued=''
    case $place in
CASES    esac
    word=${COMP_WORDS[i]}
    if ((i < COMP_CWORD)) && [[ $word != -* && " $candidates " == *" $word "* ]]; then place+=" $word"; fi
  done
  IFS=$'\n'
  if [[ " $valued " != *" ${COMP_WORDS[COMP_CWORD - 1]} "* ]]; then
    COMPREPLY=($(IFS=$' \t\n'; compgen -W "$candidates" -- "$word"))
    ((${#COMPREPLY[@]} == 0)) || return 0
  fi
  COMPREPLY=($(compgen -f -- "$word"))
}
complete -o filenames -F _NAME NAME
)";

// Its last lines serve a file that zsh loads by its first line, and one that is sourced.
constexpr char kZsh[] = R"(#compdef NAME
# zsh completion of NAME, made by itself
_NAME() {
  local place='NAME' word candidates valued i
  for ((i = 2; i <= CURRENT; ++i)); do
    candidates='' valued=''
    case $place in
CASES    esac
    word=${words[i]}
    if ((i < CURRENT)) && [[ $word != -* && " $candidates " == *" $word "* ]]; then place+=" $word"; fi
  done
  if [[ " $valued " != *" ${words[CURRENT-1]} "* ]]; then
    compadd -- ${=candidates} && return
  fi
  _files
}
if [[ ${funcstack[1]} == _NAME ]]; then _NAME "$@"; else compdef _NAME NAME; fi
)";

std::string FishQuoted(const std::string& text) {
  return absl::StrCat("'", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"'", "\\'"}}), "'");
}

// `begin`: of a rule of fish, which says where it holds.
void AppendFishOptions(const CLI::App& app, const std::string& begin, std::string* script) {
  for (const CLI::Option* option : OptionsOf(app)) {
    absl::StrAppend(script, begin);
    for (const std::string& name : option->get_snames()) absl::StrAppend(script, " -s ", name);
    for (const std::string& name : option->get_lnames()) absl::StrAppend(script, " -l ", name);
    absl::StrAppend(script, TakesValue(*option) ? " -r" : "", " -d ",
                    FishQuoted(Plain(option->get_description())), "\n");
  }
}

// `paths`: of all commands, quoted, for a switch.
void AppendFishCommands(const CLI::App& app, const std::string& path, const std::string& program,
                        std::string* paths, std::string* script) {
  const std::string begin = absl::StrCat("complete -c ", program, " -n \"__", program, "_at '");
  for (const CLI::App* command : CommandsOf(app)) {
    const std::string below = Path(path, *command);
    absl::StrAppend(paths, " '", below, "'");
    absl::StrAppend(script, begin, path, "'\" -f -a ", command->get_name(), " -d ",
                    FishQuoted(Plain(command->get_description())), "\n");
    AppendFishOptions(*command, absl::StrCat(begin, below, "'\""), script);
    AppendFishCommands(*command, below, program, paths, script);
  }
}

std::string FishCompletion(const CLI::App& app) {
  const std::string name = app.get_name();
  std::string paths, rules;
  AppendFishOptions(app, absl::StrCat("complete -c ", name), &rules);
  AppendFishCommands(app, name, name, &paths, &rules);
  std::string script = absl::StrCat("# fish completion of ", name, ", made by itself\n");
  if (!paths.empty()) {
    const std::string at = R"(function __NAME_at
  set -l place NAME
  for word in (commandline -opc)[2..-1]
    switch "$place $word"
      casePATHS
        set place "$place $word"
    end
  end
  test "$place" = "$argv[1]"
end
)";
    absl::StrAppend(&script, absl::StrReplaceAll(at, {{"NAME", name}, {"PATHS", paths}}));
  }
  return script + rules;
}

}  // namespace

std::string ManualPage(const CLI::App& app, const std::string& version) {
  const std::string name = app.get_name();
  // "mambad: what it is"
  std::string what = app.get_description();
  if (const size_t colon = what.find(": "); colon != std::string::npos)
    what = what.substr(colon + 2);
  std::string page =
      absl::StrCat(".TH ", absl::AsciiStrToUpper(name), " 1 \"\" \"", name, " ", version, "\"\n",
                   ".SH NAME\n", Roff(name), " \\- ", Roff(what), "\n", ".SH SYNOPSIS\n\\fB",
                   Roff(name), "\\fR [\\fIOPTION\\fR...]",
                   CommandsOf(app).empty() ? "" : " \\fICOMMAND\\fR ...", "\n", ".SH OPTIONS\n");
  AppendOptions(app, &page);
  if (!CommandsOf(app).empty()) {
    absl::StrAppend(&page, ".SH COMMANDS\n");
    AppendCommands(app, name, &page);
  }
  if (!app.get_footer().empty())
    absl::StrAppend(&page, ".SH NOTES\n.nf\n", Roff(app.get_footer()), "\n.fi\n");
  return page;
}

const std::vector<std::string>& CompletionShells() {
  static const auto* shells = new std::vector<std::string>{"bash", "zsh", "fish"};
  return *shells;
}

std::string Completion(const CLI::App& app, const std::string& shell) {
  if (shell == "fish") return FishCompletion(app);
  return absl::StrReplaceAll(shell == "zsh" ? kZsh : kBash,
                             {{"NAME", app.get_name()}, {"CASES", CasesOf(app)}});
}

}  // namespace mambad::cli
