// The template language: each expected text is what Jinja2 3.1.6 makes of the template, with the
// settings that transformers uses for chat templates. Hostile templates end in errors, soon.
#include <chrono>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "engine/text/chat_template.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace mambad::text {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<std::string> Render(std::string_view source) {
  absl::StatusOr<ChatTemplate> parsed = ChatTemplate::Parse(source);
  if (!parsed.ok()) return parsed.status();
  ChatTemplate::Variables variables;
  variables.bos_token = "<s>";
  variables.eos_token = "</s>";
  return parsed->Render({{"user", "q1"}, {"assistant", "a1"}}, variables);
}

std::string Repeat(std::string_view text, int times) {
  std::string result;
  for (int i = 0; i < times; ++i) result += text;
  return result;
}

struct Example {
  const char* source;
  const char* expected;
};

TEST(JinjaTest, RendersAsTheReference) {
  const Example examples[] = {
      {"  {% if true %}  \n  a\n  {%- endif %}\n{{- 'b' }}", "  \n  ab"},
      {"{% if true +%}\na{%+ endif %}  {# c #}  \n  {# c -#}   b", "\na    \nb"},
      {"{{ x }}|{{ none }}|{{ true }}|{{ 1.0 }}|{{ 1e22 }}|{{ 0.1 + 0.2 }}|{{ [1, 'a', none, {'k':"
       " \"it's\"}] }}|{{ (1,) }}",
       "|None|True|1.0|1e+22|0.30000000000000004|[1, 'a', None, {'k': \"it's\"}]|(1,)"},
      {"{% raw %}{{ x }}{% endraw %}|{%- raw -%}  {% a %}  {%- endraw -%}  c", "{{ x }}|{% a %}c"},
      {"a\r\nb\rc\n\n", "a\nb\nc\n"},
      {"{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7 / 2 }} {{ 7.5 // 2 }} {{ -7.5 % "
       "2 }} {{ 2 * 'ab' }} {{ [1] + [2] }} {{ 1 ~ 'a' ~ none }}",
       "3 -4 2 -2 3.5 3.0 0.5 abab [1, 2] 1aNone"},
      {"{{ 'abc'[1] }}{{ 'abc'[-1] }}{{ 'aé你🎉'[::-1] }}{{ 'abc'[5] }}{{ [1,2,3][1:] }}{{ (1,2,3)[:"
       "-1] }}{{ 'abcdef'[4:1:-2] }}",
       "bc🎉你éa[2, 3](1, 2)ec"},
      {"{{ 'é\\n\\x41\\u4f60\\q\\\\' }}{{ 'a' 'b' }}{{ \"\\\"'\" }}", "é\nA你\\q\\ab\"'"},
      {"{{ 1 if false }}|{{ 1 if true }}|{{ 'a' if 0 else 'b' if 0 else 'c' }}", "|1|c"},
      {"{{ 1 < 2 < 3 }} {{ 1 < 3 < 2 }} {{ not 1 == 2 }} {{ 'a' in 'abc' }} {{ 'x' not in ['y'] }}"
       " {{ 1 and 'b' }} {{ 0 or '' or 'z' }} {{ 1 == 1.0 == true }}",
       "True False True True True b z True"},
      {"{% for i in [1,2,3] %}{{ loop.index }}{{ loop.index0 }}{{ loop.first }}{{ loop.last }}{{ l"
       "oop.length }}{{ loop.previtem }}{{ loop.nextitem }};{% else %}none{% endfor %}",
       "10TrueFalse32;21FalseFalse313;32FalseTrue32;"},
      {"{% for i in [] %}x{% else %}none{% endfor %}{% for i in range(6) if i is odd %}{{ i }}{{ l"
       "oop.length }}{% endfor %}",
       "none133353"},
      {"{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}={{ v }};{% endfor %}{% for k, v in {'c':"
       " 3}|items %}{{ k }}{{ v }}{% endfor %}",
       "a=1;b=2;c3"},
      {"{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{"
       "% endif %}{{ i }}{% endfor %}",
       "013"},
      {"{% for i in [1] %}{% break %}{% else %}x{% endfor %}", "x"},
      {"{% set x = 1 %}{% for i in [1,2] %}{% set x = x + i %}{{ x }}{% endfor %}{{ x }}", "231"},
      {"{% set ns = namespace(n=0) %}{% for i in [1,2] %}{% set ns.n = ns.n + i %}{% endfor %}{{ n"
       "s.n }}{{ ns.missing is defined }}",
       "3False"},
      {"{% set a, b = 1, 'two' %}{{ a }}{{ b }}{% set (c, d) = 'xy' %}{{ c }}{{ d }}", "1twoxy"},
      {"{% set t %} <{{ 1 + 1 }}> {% endset %}[{{ t }}]{% set u | trim | upper %} abc {% endset %}"
       "[{{ u }}]",
       "[ <2> ][ABC]"},
      {"{% macro f(a, b='B') %}{{ a }}-{{ b }};{% endmacro %}{{ f(1) }}{{ f(1, 2) }}{{ f(b=3, a=4)"
       " }}{{ f() }}",
       "1-B;1-2;4-3;-B;"},
      {"{% set g = 'G' %}{% macro f() %}{{ g }}{% endmacro %}{% for i in [1] %}{% set g = 'H' %}{{"
       " f() }}{% endfor %}",
       "G"},
      {"{% generation %}{% set x = 1 %}a{% endgeneration %}{{ x }}", "a"},
      {"{{ {'a': [1, 2.5, true, none, \"é\\\"\\n\"], 'b': {}} | tojson }}{{ [] | tojson(indent=2) "
       "}}",
       "{\"a\": [1, 2.5, true, null, \"é\\\"\\n\"], \"b\": {}}[]"},
      {"{{ {'b': [1, {'c': []}], 'a': 2} | tojson(indent=2, sort_keys=true) }}{{ [1,2] | tojson(se"
       "parators=(',', ':')) }}{{ '<&>é' | tojson(ensure_ascii=true) }}",
       "{\n  \"a\": 2,\n  \"b\": [\n    1,\n    {\n      \"c\": []\n    }\n  ]\n}[1,2]\"<&>\\u00e9"
       "\""},
      {"{{ messages | map(attribute='role') | join(',') }}{{ messages | selectattr('role', 'equalt"
       "o', 'user') | list | length }}{{ messages | rejectattr('role', 'eq', 'user') | map(attribu"
       "te='content') | list }}",
       "user,assistant1['a1']"},
      {"{{ [3, none, 'x', 0] | select | list }}{{ [1, none] | reject('none') | list }}{{ ['a', 'b'"
       "] | map('upper') | join }}",
       "[3, 'x'][1]AB"},
      {"{{ ' a ' | trim }}|{{ 'xxaxx' | trim('x') }}|{{ 'aXb' | lower }}|{{ 'ab cd-ef' | title }}|"
       "{{ \"it's ab\" .title() }}|{{ 'aB' | capitalize }}|{{ 'aaa' | replace('a', 'b', 2) }}|{{ '"
       "12' | int + 1 }}|{{ '4.7' | int }}|{{ 'x' | int(9) }}|{{ 3 | string + '1' }}|{{ '1.5' | fl"
       "oat }}",
       "a|a|axb|Ab Cd-Ef|It'S Ab|Ab|bba|13|4|9|31|1.5"},
      {"{{ 'abc' | first }}{{ [1,2] | last }}{{ [] | first }}{{ 'abc' | reverse }}{{ 'abc' | list "
       "}}{{ 'é你' | length }}{{ -3 | abs }}{{ missing | default('d') }}{{ '' | default('e', true) "
       "}}{{ '' | d('f') }}",
       "a2cba['a', 'b', 'c']23de"},
      {"{{ 'a,b,,c'.split(',') }}{{ ' a  b '.split() }}{{ 'a b c'.split(none, 1) }}{{ 'abc'.starts"
       "with(('x', 'a')) }}{{ 'abc'.endswith('c') }}{{ '-'.join(['a', 'b']) }}{{ 'xax'.strip('x') "
       "}}{{ ' a '.lstrip() }}|{{ 'aab'.count('a') }}{{ 'aab'.find('b') }}",
       "['a', 'b', '', 'c']['a', 'b']['a', 'b c']TrueTruea-baa |22"},
      {"{{ {'a': 1}.get('a') }}{{ {'a': 1}.get('b', 2) }}{{ {'a': 1}.a }}{{ {'items': 1}['items'] "
       "}}{{ {'a': 1}.keys() | list }}{{ {'a': 1}.values() | list }}{{ dict(x=1) }}",
       "1211['a'][1]{'x': 1}"},
      {"{{ 1 is defined }}{{ y is undefined }}{{ none is none }}{{ 'a' is string }}{{ {} is mappin"
       "g }}{{ [] is sequence }}{{ 1 is iterable }}{{ 1.5 is number }}{{ true is boolean }}{{ 2 is"
       " even }}{{ 3 is divisibleby(3) }}{{ 1 is in [1] }}{{ 1 is eq 1 }}{{ 1 is not true }}{{ 2 i"
       "s gt 1 }}",
       "TrueTrueTrueTrueTrueTrueFalseTrueTrueTrueTrueTrueTrueTrueTrue"},
      {"{{ missing == other }}{{ missing | length }}{{ missing | list }}{{ 'a' in missing }}{{ mis"
       "sing ~ 'x' }}{% for i in missing %}x{% endfor %}{{ none.x }}{{ [].x }}{{ 'a'['b'] }}",
       "True0[]Falsex"},
      {"{{ range(3) | list }}{{ range(5, 0, -2) | list }}{{ range(4) | length }}{{ tools }}{{ docu"
       "ments is none }}{{ add_generation_prompt }}",
       "[0, 1, 2][5, 3, 1]4NoneTrueTrue"},
      {"{{ messages[0].content }}{{ messages[-1]['content'] }}{{ messages[0] }}{{ messages[9] is d"
       "efined }}{% set messages = messages[1:] %}{{ messages | length }}",
       "q1a1{'role': 'user', 'content': 'q1'}False1"},
      {"{{ 'a\\nb\\t\\'\"\\\\é\342\200\213' | list }}{{ [\"it's\"] }}{{ ['\"'] }}{{ [\"'\\\"\"] }}",
       "['a', '\\n', 'b', '\\t', \"'\", '\"', '\\\\', 'é', '\\u200b'][\"it's\"]['\"']['\\'\"']"},
      {"{% if 0 %}a{% elif '' %}b{% elif [] %}c{% elif {} %}d{% else %}e{% endif %}{% print 5 %}",
       "e5"},
  };
  for (const Example& example : examples) {
    const absl::StatusOr<std::string> text = Render(example.source);
    ASSERT_TRUE(text.ok()) << example.source << "\n" << text.status();
    EXPECT_EQ(*text, example.expected) << example.source;
  }
}

struct Rejected {
  std::string source;
  absl::StatusCode code;
  const char* message;
};

void ExpectRejected(const std::vector<Rejected>& cases) {
  for (const Rejected& rejected : cases) {
    const absl::Status status = Render(rejected.source).status();
    EXPECT_EQ(status.code(), rejected.code) << rejected.source << "\n" << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(rejected.message)) << rejected.source;
  }
}

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kUnknown = absl::StatusCode::kUnimplemented;

TEST(JinjaTest, NamesWhatIsWrongAndWhere) {
  ExpectRejected({
      {"a\n  {{ 1 + }}", kInvalid, "line 2, column 10: expected an expression, found '}}'"},
      {"{% if 1 %}", kInvalid, "expected '{% endif %}', found the end of the template"},
      {"{% endif %}", kInvalid, "unexpected tag 'endif'"},
      {"{{ 'a }}", kInvalid, "line 1, column 4: missing end of string"},
      {"{{ (1 }}", kInvalid, "expected ')'"},
      {"{{ 1 ) }}", kInvalid, "unexpected ')'"},
      {"{{ $ }}", kInvalid, "unexpected character"},
      {"{{ 1", kInvalid, "missing end of tag"},
      {"x {# y", kInvalid, "line 1, column 3: missing end of comment"},
      {"{% raw %}x", kInvalid, "missing end of raw block"},
      {"{% break %}", kInvalid, "'break' outside a loop"},
      {"{% set true = 1 %}", kInvalid, "cannot assign to 'true'"},
      {"{{ range(1, stop=2) }}", kInvalid, "no argument named 'stop'"},
      {"ab\n{{ missing.x }}", kInvalid, "line 2, column 11: 'missing' is undefined"},
      {"{{ missing + 'x' }}", kInvalid, "'missing' is undefined"},
      {"{{ missing() }}", kInvalid, "'missing' is undefined"},
      {"{{ strftime_now(1) }}", kInvalid, "'strftime_now' needs a string"},
      {"{{ [].append(1) }}", kInvalid, "'append' is undefined"},
      {"{{ {}.update({}) }}", kInvalid, "'update' is undefined"},
      {"{{ ''.__class__.__mro__ }}", kInvalid, "'__class__' is undefined"},
      {"{% call f() %}{% endcall %}", kInvalid, "'f' is undefined"},
      {"{% call 1 %}{% endcall %}", kInvalid, "expected a call"},
      {"{% for x in [[1]] %}{{ loop(x) }}{% endfor %}", kInvalid, "not marked 'recursive'"},
      {"{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", kInvalid,
       "takes at most 1 arguments, found 2"},
      {"{% macro f(a) %}{% endmacro %}{{ f(b=2) }}", kInvalid, "has no argument 'b'"},
      {"{{ range(*5) }}", kInvalid, "a int cannot be gone through"},
      {"{{ dict(**[1]) }}", kInvalid, "'**' needs a dict, found list"},
      {"{{ dict(a=1, **{'a': 2}) }}", kInvalid, "argument 'a' is given twice"},
      {"{{ '%s %s' % 1 }}", kInvalid, "not enough values"},
      {"{{ '%s' % (1, 2) }}", kInvalid, "more values than the format takes"},
      {"{{ '{}'.format() }}", kInvalid, "no value number 0"},
      {"{{ '{:q}'.format(1) }}", kInvalid, "format 'q' for a int"},
      {"{{ [1, 'a'] | sort }}", kInvalid, "no order between"},
      {"{{ 'abc'.index('x') }}", kInvalid, "not found"},
      {"{{ 0 ** -1 }}", kInvalid, "zero to a negative power"},
      {"{{ 1 + 'a' }}", kInvalid, "operator '+' between int and str"},
      {"{{ 1 // 0 }}", kInvalid, "division by zero"},
      {"{{ 1 < 'a' }}", kInvalid, "no order between int and str"},
      {"{{ missing | tojson }}", kInvalid, "a undefined cannot be written as JSON"},
      {"{% set a, b = [1] %}", kInvalid, "cannot assign 1 values to 2 names"},
      {"{% set x = 1 %}{% set x.y = 2 %}", kInvalid, "'x' is no namespace"},
      {"{{ 'a'[::0] }}", kInvalid, "step of zero"},
  });
}

TEST(JinjaTest, NamesConstructsThatItDoesNotKnow) {
  ExpectRejected({
      {"{{ 1 | nosuch }}", kUnknown, "line 1, column 8: filter 'nosuch' is not supported"},
      {"{{ 1 is nosuch }}", kUnknown, "test 'nosuch' is not supported"},
      {"{% include 'x' %}", kUnknown, "tag 'include' is not supported"},
      {"{% extends 'x' %}", kUnknown, "tag 'extends' is not supported"},
      {"{% import 'x' as y %}", kUnknown, "tag 'import' is not supported"},
      {"{% from 'x' import y with context %}", kUnknown, "tag 'from' is not supported"},
      {"{% do [1] %}", kUnknown, "tag 'do' is not supported"},
      {"{% autoescape true %}{% endautoescape %}", kUnknown, "escaping of all output"},
      {"{{ lipsum() }}", kUnknown, "function 'lipsum'"},
      {"{{ 'a'.encode() }}", kUnknown, "attribute 'encode' of a str"},
      {"{{ 9223372036854775807 + 1 }}", kUnknown, "beyond 64 bits"},
      {"{{ 10 ** 19 }}", kUnknown, "beyond 64 bits"},
      {"{{ 99999999999999999999 }}", kUnknown, "beyond 64 bits"},
      {"{{ '\\N{BULLET}' }}", kUnknown, "the escape \\N"},
      {"{{ [1] | map('string') }}", kUnknown, "printing the result of a filter"},
      {"{% set ns = namespace() %}{% set ns.a = ns %}", kUnknown, "a namespace in a namespace"},
      {"{% set ns = namespace() %}{% set ns.a = [{'b': [ns]}] %}", kUnknown,
       "a namespace in a namespace"},
      {"{{ namespace(a=(1, namespace())) }}", kUnknown, "a namespace in a namespace"},
      {"{{ [1, 2] | map('nosuch') }}", kUnknown, "filter 'nosuch'"},
      {"{{ [1, 2] | select('nosuch') }}", kUnknown, "test 'nosuch'"},
  });
}

TEST(JinjaTest, NeedsNothingOfWhatIsNotReached) {
  for (const char* unknown :
       {"{{ 1 | nosuch }}", "{{ 1 is nosuch }}", "{% include 'x' ignore missing %}",
        "{% import 'x' as y without context %}", "{% extends a.b %}", "{% trans count=1 %}",
        "{{ lipsum() }}", "{{ 'a'.encode() }}", "{{ 99999999999999999999 }}", "{{ '\\N{BULLET}' }}",
        "{% do x %}", "{{ missing.a.b }}", "{{ 1 // 0 }}"}) {
    const std::string source =
        std::string("a{% if tools %}") + unknown + "{% endif %}{{ 'b' if true else 1 | nosuch }}";
    const absl::StatusOr<std::string> text = Render(source);
    ASSERT_TRUE(text.ok()) << source << "\n" << text.status();
    EXPECT_EQ(*text, "ab") << source;
  }
}

TEST(JinjaTest, RaisesTheTemplatesOwnWordsAlone) {
  const absl::Status status =
      Render("{{ raise_exception('Roles ' ~ 'must alternate!') }}").status();
  EXPECT_EQ(status.code(), kInvalid);
  EXPECT_EQ(status.message(), "Roles must alternate!");
}

TEST(JinjaTest, BoundsNesting) {
  for (const std::string& source :
       {"{{ " + Repeat("(", 50000) + "1" + Repeat(")", 50000) + " }}",
        "{{ " + Repeat("[", 50000) + Repeat("]", 50000) + " }}",
        "{{ " + Repeat("not ", 50000) + "1 }}", "{{ " + Repeat("-", 50000) + "1 }}",
        "{{ " + Repeat("1+", 50000) + "1 }}", "{{ x" + Repeat(".a", 50000) + " }}",
        "{{ x" + Repeat("[0]", 50000) + " }}", "{{ x" + Repeat("|trim", 40000) + " }}",
        "{{ " + Repeat("1 if 0 else ", 10000) + "1 }}",
        Repeat("{% if 1 %}", 10000) + Repeat("{% endif %}", 10000),
        "{% set " + Repeat("(", 50000) + "x" + Repeat(")", 50000) + " = 1 %}",
        Repeat("{% filter e %}", 8000) + Repeat("{% endfilter %}", 8000),
        Repeat("{% with %}", 10000) + Repeat("{% endwith %}", 10000),
        "{{ 'a' | map(" + Repeat("'map', ", 20000) + "'trim') | list }}",
        "{{ " + Repeat("2 ** ", 20000) + "1 }}",
        std::string(
            "{% macro f() %}{{ caller }}{% call f() %}{% endcall %}{% endmacro %}{{ f() }}"),
        std::string("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}"),
        std::string("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"),
        std::string("{% set ns = namespace(l=[]) %}{% for i in range(99) %}"
                    "{% set ns.l = [ns.l] %}{% endfor %}")}) {
    const absl::Status status = Render(source).status();
    EXPECT_EQ(status.code(), kInvalid) << source.substr(0, 60);
    EXPECT_THAT(std::string(status.message()), HasSubstr("nested too deeply"))
        << source.substr(0, 60);
  }
}

TEST(JinjaTest, BoundsWorkAndMemory) {
  const std::string grow =
      "{% set ns = namespace(l=[1], k=[1]) %}{% for i in range(45) %}"
      "{% set ns.l = [ns.l, ns.l] %}{% set ns.k = [ns.k, ns.k] %}{% endfor %}";
  const std::string round = "{% for i in range(100000) %}";
  const auto start = std::chrono::steady_clock::now();
  ExpectRejected({
      {Repeat(" ", 300000), kInvalid, "300000 bytes"},
      {grow + "{{ ns.l }}", kInvalid, "takes more than"},
      {grow + "{{ ns.l == ns.k }}", kInvalid, "takes more than"},
      {grow + "{{ ns.l | tojson }}", kInvalid, "takes more than"},
      {round + round + "{% endfor %}{% endfor %}", kInvalid, "takes more than"},
      {round + "{{ 'a' * 1000 }}{% endfor %}", kInvalid, "a text of more than"},
      {"{{ 'a' * 1000000000000 }}", kInvalid, "a text of more than"},
      {"{{ [1] * 1000000000000 }}", kInvalid, "takes more than"},
      {"{{ range(10000000000) }}", kInvalid, "range of more than"},
      {"{{ ('a' * 1000000) | replace('a', 'b' * 1000) }}", kInvalid, "too long"},
      {"{{ ('a' * 1000000) | join('b' * 1000) }}", kInvalid, "a text of more than"},
      {"{% set ns = namespace(s='') %}" + round + "{% set ns.s = ns.s ~ 'aaaaaaaa' %}{% endfor %}",
       kInvalid, "bytes of text"},
      {"{{ '%999999s' % 'a' }}{{ '%9999999s' % 'a' }}", kInvalid, "more than six digits"},
      {round + "{{ '%999999s' % 'a' }}{% endfor %}", kInvalid, "text of more than"},
      {round + "{{ '{:0999999,}'.format(1) }}{% endfor %}", kInvalid, "text of more than"},
      {"{{ '{:9999999}'.format(1) }}", kInvalid, "more than six digits"},
      {"{{ '{:.999999f}'.format(1.0) }}", kInvalid, "precision of more than"},
      {"{{ '{:.2000}'.format(1.0) }}", kInvalid, "precision of more than"},
      {"{{ 'a'.center(1000000000000) }}", kInvalid, "text of more than"},
      {"{{ 'a'.zfill(1000000000000) }}", kInvalid, "text of more than"},
      {"{{ '\\t'.expandtabs(1000000000) }}", kInvalid, "more than 1000 columns"},
      {"{{ ('\\t' * 1000000).expandtabs(1000) }}", kInvalid, "text of more than"},
      {"{{ ('a\\n' * 100000) | indent(10001) }}", kInvalid, "more than 10000 columns"},
      {"{{ ('a\\n' * 100000) | indent(10000) }}", kInvalid, "text of more than"},
      {"{{ [1] | batch(1000000000, 1) | list }}", kInvalid, "takes more than"},
      {"{{ [1] | slice(1000000000) | list }}", kInvalid, "takes more than"},
      {"{{ range(100000) | unique | list }}", kInvalid, "takes more than"},
      {"{{ ('<' * 5000000) | e }}", kInvalid, "text of more than"},
      {"{{ ('<' * 5000000) | e | e | string | e | string | e }}", kInvalid, "text of more than"},
      {"{{ strftime_now('%999d' * 100) }}", kInvalid, "too long"},
      {"{{ strftime_now('%c' * 100000) }}", kInvalid, "too long"},
      {"{{ 2 ** 1000000000000 }}", kUnknown, "beyond 64 bits"},
      {round + "{% macro f() %}{% endmacro %}{% endfor %}" + round +
           "{% macro f() %}{% endmacro %}{% endfor %}" + round +
           "{% macro f() %}{% endmacro %}{% endfor %}",
       kInvalid, "takes more than"},
      {"{% macro f(a) %}{{ f(*a, *a) }}{% endmacro %}", kInvalid, "'*' after another"},
      {"{% set a = 'a' * 1000000 %}" + round + "{% set b = a[i] %}{% endfor %}", kInvalid,
       "bytes of text"},
  });
  // Generous, for slow and busy machines; without the bounds none of these would end.
  EXPECT_LT(std::chrono::steady_clock::now() - start,
            std::chrono::seconds(60) * MAMBAD_TEST_SLOWDOWN);
}

TEST(JinjaTest, FindsTextInLinearTime) {
  const absl::StatusOr<std::string> text = Render(
      "{% set a = 'a' * 2000000 %}{% set b = 'a' * 1000000 ~ 'b' %}{{ b in a }}"
      "{{ a.rfind('b' ~ 'a' * 1000000) }}{{ a.rsplit(b) | length }}"
      "{{ a.rfind('a' * 1000000) }}{{ a.rpartition('b' ~ a)[0] | length }}");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text, "False-1110000000");
}

TEST(JinjaTest, PassesInvalidUtf8On) {
  const absl::StatusOr<std::string> text =
      Render("\xFF{{ '\xC3' | length }}{{ ' \xE4\xBD ' | trim }}{{ '\xF0\x9F' | reverse }}");
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(*text,
            "\xFF"
            "1\xE4\xBD\x9F\xF0");
}

TEST(JinjaTest, RendersOnManyThreadsAtOnce) {
  const absl::StatusOr<ChatTemplate> parsed = ChatTemplate::Parse(
      "{% macro f(x) %}<{{ x }}>{% endmacro %}{% for m in messages %}{{ f(m.content) }}{% endfor "
      "%}");
  ASSERT_TRUE(parsed.ok());
  std::vector<std::thread> threads;
  std::vector<std::string> texts(4);
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&, thread] {
      for (int round = 0; round < 200; ++round) {
        texts[thread] = *parsed->Render({{"user", std::to_string(thread)}}, {});
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(texts, ::testing::ElementsAre("<0>", "<1>", "<2>", "<3>"));
}

}  // namespace
}  // namespace mambad::text
