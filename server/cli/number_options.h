// Options whose values are numbers, read as people write them: decimal, no wrapping, no octal.

#ifndef MAMBAD_SERVER_CLI_NUMBER_OPTIONS_H_
#define MAMBAD_SERVER_CLI_NUMBER_OPTIONS_H_

#include <CLI/CLI.hpp>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace mambad::cli {

// Of the range that a flag itself has; what the server allows, it says itself.
template <typename Number>
struct NumberRange {
  Number least = std::numeric_limits<Number>::lowest();
  Number most = std::numeric_limits<Number>::max();
};

// Empty, or why `text` is no Number within `range`.
template <typename Number>
std::string ReadNumber(const std::string& text, const NumberRange<Number>& range, Number* number) {
  constexpr bool kWhole = std::is_integral_v<Number>;
  bool good = false;
  if constexpr (kWhole) {
    good = absl::SimpleAtoi(text, number);
  } else if constexpr (std::is_same_v<Number, float>) {
    good = absl::SimpleAtof(text, number);
  } else {
    good = absl::SimpleAtod(text, number);
  }
  // A whole number that its type cannot hold.
  const bool is_digits = kWhole && text.find_first_not_of("-0123456789") == std::string::npos;
  constexpr NumberRange<Number> kAll;
  if (good && !(*number < range.least) && !(*number > range.most)) return "";
  std::string problem =
      absl::StrCat("\"", text, "\" is not a ", kWhole ? "whole number" : "number");
  if (range.least != kAll.least && range.most == kAll.most && !std::is_unsigned_v<Number>) {
    absl::StrAppend(&problem, " of at least ", range.least);
  } else if (good || is_digits || std::is_unsigned_v<Number> || range.most != kAll.most) {
    absl::StrAppend(&problem, " from ", range.least, " to ", range.most);
  }
  return problem;
}

// `target`: an arithmetic type or std::optional of one; outlives parsing.
template <typename Target, typename Number = Target>
CLI::Option* AddNumberAs(CLI::App* app, const std::string& name, Target* target,
                         const std::string& help, const NumberRange<Number>& range) {
  CLI::Option* option = app->add_option_function<std::string>(
      name,
      [=](const std::string& text) {
        Number number{};
        const std::string problem = ReadNumber(text, range, &number);
        if (!problem.empty()) throw CLI::ValidationError(name, problem);
        *target = number;
      },
      help);
  return option->type_name(std::is_integral_v<Number> ? "N" : "X");
}

template <typename Number>
CLI::Option* AddNumber(CLI::App* app, const std::string& name, std::optional<Number>* target,
                       const std::string& help,
                       const std::type_identity_t<NumberRange<Number>>& range = {}) {
  return AddNumberAs<std::optional<Number>, Number>(app, name, target, help, range);
}

template <typename Number>
CLI::Option* AddNumber(CLI::App* app, const std::string& name, Number* target,
                       const std::string& help,
                       const std::type_identity_t<NumberRange<Number>>& range = {}) {
  return AddNumberAs<Number, Number>(app, name, target, help, range);
}

}  // namespace mambad::cli

#endif  // MAMBAD_SERVER_CLI_NUMBER_OPTIONS_H_
