#include "engine/text/jinja/format_specification.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

#include "absl/strings/ascii.h"
#include "engine/text/jinja/format.h"
#include "engine/text/jinja/message.h"
#include "engine/text/jinja/unicode.h"

namespace mambad::text::jinja {
namespace {

constexpr int64_t kMaximumPrecision = 1000;  // digits of a number

// `prefix` is the sign and what marks a base; padding by "=" goes between it and the body.
std::string Pad(Runtime& runtime, const std::string& prefix, std::string_view body,
                const FormatSpecification& how, char absent_align) {
  const int64_t length = static_cast<int64_t>(CountCharacters(prefix) + CountCharacters(body));
  const int64_t missing = std::max<int64_t>(0, how.width - length);
  if (!runtime.SpendBytes(missing * how.fill.size() + body.size())) return "";
  auto fill = [&how](int64_t times) {
    std::string text;
    for (int64_t i = 0; i < times; ++i) text += how.fill;
    return text;
  };
  const char align = how.align == '\0' ? absent_align : how.align;
  if (align == '<') return prefix + std::string(body) + fill(missing);
  if (align == '=') return prefix + fill(missing) + std::string(body);
  const int64_t left = align == '^' ? missing / 2 : missing;
  return fill(left) + prefix + std::string(body) + fill(missing - left);
}

std::string SignOf(bool is_negative, const FormatSpecification& how) {
  if (is_negative) return "-";
  return how.sign == '-' ? "" : std::string(1, how.sign);
}

// How many of the number's characters are digits before the point.
size_t CountWholeDigits(const std::string& number, int every) {
  size_t digits = 0;
  while (digits < number.size() &&
         absl::ascii_isxdigit(static_cast<unsigned char>(number[digits])) &&
         (every == 4 || number[digits] <= '9')) {
    ++digits;
  }
  return digits;
}

// A number's digits with separators between those before the point; zeros that fill the width are
// grouped, too.
std::string GroupAndFill(std::string number, const std::string& prefix,
                         const FormatSpecification& how, int every) {
  if (how.grouping == '\0') return number;
  size_t digits = CountWholeDigits(number, every);
  if (how.align == '=' && how.fill == "0") {
    const int64_t others = static_cast<int64_t>(prefix.size() + number.size() - digits);
    int64_t wanted = static_cast<int64_t>(digits);
    while (others + wanted + (wanted - 1) / every < how.width) ++wanted;
    number.insert(0, static_cast<size_t>(wanted) - digits, '0');
    digits = static_cast<size_t>(wanted);
  }
  std::string grouped;
  for (size_t i = 0; i < digits; ++i) {
    if (i > 0 && (digits - i) % every == 0) grouped.push_back(how.grouping);
    grouped.push_back(number[i]);
  }
  return grouped + number.substr(digits);
}

// printf's digits of a number that is finite and not negative.
std::string Digits(double number, char type, int64_t precision, bool alternate) {
  const char format[] = {'%',
                         alternate ? '#' : '.',
                         alternate ? '.' : '*',
                         alternate ? '*' : type,
                         alternate ? type : '\0',
                         '\0'};
  const int size = std::snprintf(nullptr, 0, format, static_cast<int>(precision), number);
  std::string text(static_cast<size_t>(size) + 1, '\0');
  std::snprintf(text.data(), text.size(), format, static_cast<int>(precision), number);
  text.pop_back();
  return text;
}

// A float without a type: as str() has it, or with a precision its significant digits and at least
// one behind the point.
std::string PlainDigits(Runtime& runtime, double number, const FormatSpecification& how) {
  if (how.precision < 0) return ToText(runtime, Value::Float(number));
  std::string text = Digits(number, 'g', std::max<int64_t>(how.precision, 1), how.alternate);
  if (text.find('e') != std::string::npos) return text;
  // Python goes over to an exponent one digit earlier here, so that a digit behind the point fits.
  const size_t point = text.find('.');
  const size_t whole = point == std::string::npos ? text.size() : point;
  if (number >= 1 && static_cast<int64_t>(whole) >= std::max<int64_t>(how.precision, 1)) {
    std::string scientific =
        Digits(number, 'e', std::max<int64_t>(how.precision, 1) - 1, how.alternate);
    const size_t exponent = scientific.find('e');
    std::string mantissa = scientific.substr(0, exponent);
    if (mantissa.find('.') != std::string::npos && !how.alternate) {
      mantissa.erase(mantissa.find_last_not_of('0') + 1);
      if (mantissa.ends_with('.')) mantissa.pop_back();
    }
    return mantissa + scientific.substr(exponent);
  }
  return point == std::string::npos ? text + ".0" : text;
}

}  // namespace

int64_t ReadFormatNumber(Runtime& runtime, std::string_view text, size_t* at) {
  int64_t number = -1;
  const size_t start = *at;
  while (*at < text.size() && text[*at] >= '0' && text[*at] <= '9') {
    number = std::max<int64_t>(number, 0) * 10 + (text[(*at)++] - '0');
    if (*at - start > 6) {
      runtime.Fail("a width or precision of more than six digits");
      return 0;
    }
  }
  return number;
}

std::string FormatText(Runtime& runtime, std::string_view text, const FormatSpecification& how) {
  if (how.precision >= 0) {
    size_t end = 0;
    for (int64_t i = 0; i < how.precision && end < text.size(); ++i) {
      end += CharacterBytes(text, end);
    }
    text = text.substr(0, end);
  }
  return Pad(runtime, "", text, how, '<');
}

std::string FormatInteger(Runtime& runtime, int64_t number, const FormatSpecification& how) {
  if (how.type == 'c') {
    if (number < 0 || number > 0x10FFFF || (number >= 0xD800 && number <= 0xDFFF)) {
      runtime.Fail(Message("no character has the number ", number));
      return "";
    }
    std::string character;
    AppendUtf8(static_cast<uint32_t>(number), &character);
    return Pad(runtime, "", character, how, '<');
  }
  const int base = how.type == 'x' || how.type == 'X' ? 16
                   : how.type == 'o'                  ? 8
                   : how.type == 'b'                  ? 2
                                                      : 10;
  const std::string_view alphabet = how.type == 'X' ? "0123456789ABCDEF" : "0123456789abcdef";
  // Unsigned: the least number has no positive counterpart.
  uint64_t rest = number < 0 ? -static_cast<uint64_t>(number) : static_cast<uint64_t>(number);
  std::string digits;
  do {
    digits.push_back(alphabet[rest % base]);
    rest /= base;
  } while (rest > 0);
  // As printf has it for "%".
  while (how.precision > static_cast<int64_t>(digits.size())) digits.push_back('0');
  std::reverse(digits.begin(), digits.end());
  std::string prefix = SignOf(number < 0, how);
  if (how.alternate && base != 10) prefix += std::string("0") + how.type;
  digits = GroupAndFill(std::move(digits), prefix, how, base == 10 ? 3 : 4);
  return Pad(runtime, prefix, digits, how, '>');
}

std::string FormatFloat(Runtime& runtime, double number, const FormatSpecification& how) {
  if (how.precision > kMaximumPrecision) {
    runtime.Fail(Message("a precision of more than ", kMaximumPrecision, " digits"));
    return "";
  }
  const std::string prefix = SignOf(std::signbit(number) && !std::isnan(number), how);
  const bool is_percentage = how.type == '%';
  const char type = is_percentage ? 'f' : how.type == 'n' ? 'g' : how.type;
  const double magnitude = std::fabs(is_percentage ? number * 100 : number);
  std::string digits;
  if (!std::isfinite(magnitude)) {
    digits = std::isnan(magnitude) ? "nan" : "inf";
    if (type == 'E' || type == 'F' || type == 'G') digits = digits == "nan" ? "NAN" : "INF";
  } else if (type == '\0') {
    digits = PlainDigits(runtime, magnitude, how);
  } else {
    digits = Digits(magnitude, type, how.precision < 0 ? 6 : how.precision, how.alternate);
  }
  digits = GroupAndFill(std::move(digits), prefix, how, 3);
  if (is_percentage) digits += "%";
  return Pad(runtime, prefix, digits, how, '>');
}

}  // namespace mambad::text::jinja
