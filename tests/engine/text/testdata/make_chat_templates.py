#!/usr/bin/env python3
"""Writes chat_templates.json beside itself: templates, variables, and the text that Jinja2 makes of them, set up as
Hugging Face transformers sets it up for chat templates. Needs jinja2 3.1.6 or later; the values were made with 3.1.6.

    make_chat_templates.py
"""

import datetime
import json
import pathlib

import jinja2
import jinja2.ext
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2026, 7, 4, 13, 5, 9, 1234)  # what strftime_now tells; the test says the same


class Generation(jinja2.ext.Extension):
    """{% generation %}: the body, as it is."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


ENVIRONMENT = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"])
ENVIRONMENT.filters["tojson"] = to_json
ENVIRONMENT.globals["raise_exception"] = raise_exception
ENVIRONMENT.globals["strftime_now"] = NOW.strftime

# ---- whole templates --------------------------------------------------------------------------------------------------

TEMPLATES = {
    "markers": """{% for message in messages %}
{{ '<|begin|>' + message['role'] + '\\n' + message['content'] | trim + '<|end|>' + '\\n' }}
{% endfor %}
{% if add_generation_prompt %}
{{ '<|begin|>assistant\\n' }}
{%- endif %}
""",
    "alternating": """{{ bos_token }}
{%- if messages[0].role == 'system' -%}
    {%- set opening = '[' ~ messages[0].content.strip() ~ ']' -%}
    {%- set turns = messages[1:] -%}
{%- else -%}
    {%- set opening = '' -%}
    {%- set turns = messages -%}
{%- endif -%}
{%- for turn in turns -%}
    {%- if (turn.role == 'user') != (loop.index0 is even) -%}
        {{- raise_exception('Turns must go ' ~ 'user, assistant, user, ...') -}}
    {%- endif -%}
    {%- if turn.role == 'user' -%}
        {{- 'Q: ' + (opening + ' ' if loop.first and opening else '') + turn.content -}}
    {%- elif turn.role == 'assistant' -%}
        {{- ' A: ' + turn['content'].rstrip() + eos_token -}}
    {%- else -%}
        {{- raise_exception('A turn of ' + turn.role + ' is not known') -}}
    {%- endif -%}
{%- endfor -%}
""",
    "dated": """{%- set day = date_string if date_string is defined else strftime_now('%d %b %Y') -%}
<date>{{ day }}</date>
{%+ if true %}  kept{% endif +%}

{% for m in messages if m.role != 'system' %}
{{ loop.index }}/{{ loop.length }}{{ ' first' if loop.first }}{{ ' last' if loop.last }}: {{ m.content }}
{% else %}
nobody spoke
{% endfor %}
{{- pad_token | default('no pad') }}{{ bos_token is defined }}{{ tools is none }}{{ nothing is undefined }}
""",
    "thinking": """{%- set ns = namespace(last_user=-1, wanted=true) %}
{%- for m in messages[::-1] %}
    {%- set at = (messages | length - 1) - loop.index0 %}
    {%- if ns.wanted and m.role == 'user' and m.content is string and not (m.content.startswith('<reply>') and m.content.endswith('</reply>')) %}
        {%- set ns.wanted = false %}
        {%- set ns.last_user = at %}
    {%- endif %}
{%- endfor %}
{%- for m in messages %}
    {%- set content = m.content if m.content is string else '' %}
    {%- set thought = '' %}
    {%- if m.reasoning_content is defined and m.reasoning_content is not none %}
        {%- set thought = m.reasoning_content %}
    {%- elif '</think>' in content %}
        {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {%- if loop.index0 > ns.last_user and (loop.last or thought) %}
        {{- m.role ~ ': (' ~ thought.strip('\\n') ~ ') ' ~ content ~ '\\n' }}
    {%- else %}
        {{- m.role ~ ': ' ~ content ~ '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}assistant: {% if enable_thinking is defined and enable_thinking is false %}(){% endif %}{% endif %}
""",
    "tools": """{%- macro type_of(schema) -%}
    {%- if schema.type is string -%}
        {%- if schema.type == 'array' and schema['items'] -%}
            {{- type_of(schema['items']) ~ '[]' -}}
        {%- elif schema.type == 'object' and schema.properties -%}
            { {%- for key, value in schema.properties.items() -%}
                {{- key ~ ': ' ~ type_of(value) ~ (', ' if not loop.last) -}}
            {%- endfor -%} }
        {%- else -%}
            {{- schema.type -}}
        {%- endif -%}
    {%- elif schema.type is sequence -%}
        {{- schema.type | join(' | ') -}}
    {%- else -%}
        any
    {%- endif -%}
{%- endmacro -%}
{%- macro signature(function, required=[]) -%}
    {{- function.name }}({% for name, schema in (function.parameters.properties or {}) | items -%}
        {{- name ~ ('' if name in required else '?') ~ ': ' ~ type_of(schema) ~ (' = ' ~ schema.default | tojson if 'default' in schema) ~ (', ' if not loop.last else '') -}}
    {%- endfor -%})
{%- endmacro -%}
{%- if tools %}
{{- 'You may call:\\n' }}
{%- for tool in tools | selectattr('function') | map(attribute='function') %}
# {{ signature(tool, required=tool.parameters.required) }}
{{ tool.description | default('-', true) | indent(2, first=true) }}
{%- endfor %}

{{ (tools | map(attribute='function.name') | sort | join(', ')) }}
{{- tools | tojson(indent=2) }}
{%- endif %}
{%- for m in messages %}
{%- if m.tool_calls %}
{%- for call in m.tool_calls %}
{{ call.function.name }} <- {{ call.function.arguments | tojson if call.function.arguments is mapping else call.function.arguments }}
{%- for key, value in call.function.arguments | dictsort %}
  {{ '%-6s| %s' % (key, value if value is string else value | tojson | safe) }}
{%- endfor %}
{%- endfor %}
{%- elif m.role == 'tool' %}
{{ '{name:>8} -> {content!r}'.format(name=m.name, content=m.content) }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %} (no more){% endif %}
{%- else %}
{{ m.role }}: {{ m.content }}
{%- endif %}
{%- endfor %}
""",
    "parts": """{%- macro show(content) -%}
    {%- if content is string -%}
        {{- content -}}
    {%- else -%}
        {%- for part in content -%}
            {%- if part.type == 'text' -%}{{ part.text | trim }}{%- elif part.type in ['image', 'audio'] -%}<{{ part.type }} {{ loop.index }}>{%- else -%}{%- continue -%}{%- endif -%}
            {{- ' ' if not loop.last -}}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro -%}
{%- for m in messages -%}
    {%- set name %}{{ m.name | default(m.role) | upper }}{% endset -%}
    {{- loop.cycle('>', '<') ~ ' ' ~ name ~ (' again' if loop.previtem and loop.previtem.role == m.role) ~ ': ' -}}
    {%- generation -%}{{ show(m.content) }}{%- endgeneration -%}
    {{- '\\n' -}}
    {%- if loop.nextitem is undefined -%}(end){%- endif -%}
{%- endfor -%}
""",
    "blocks": """{%- macro frame(title, width=5) -%}
[{{ title | center(width) }}|{{ caller(title | length) }}|{{ varargs | join('+') }}|{{ kwargs | dictsort | map('join', '=') | join(';') }}]
{%- endmacro -%}
{%- set options = {'width': 7, 'b': 2, 'a': 1} -%}
{%- for role, group in messages | groupby('role') %}
{% call(size) frame(role, 9, 'x', *['y', 'z'], **{'k': loop.index}) %}{{ group | map(attribute='content') | map('trim') | join('/') }} {{ size }}{% endcall %}
{%- endfor %}
{% filter replace('e', '3') | upper %}
{{- messages | map(attribute='content') | first }}{% endfilter %}
{% with a = 1, b = options.b %}{{ a + b }}{% endwith %}{{ a is defined }}
{% for n in [1, [2, [3, 4]], 5] recursive %}{{ '(' ~ loop(n) ~ ')' if n is iterable else n * loop.depth }}{% endfor %}

{% for m in messages %}{% if loop.changed(m.role) %}{{ m.role[:1] }}{% endif %}{% if loop.index == 3 %}{% break %}{% endif %}{% endfor %}
{% set pieces = [] %}{% for w in ['x', 'y'] %}{% set pieces = pieces + [w] %}{% endfor %}{{ pieces }}{{ options.keys() | list }}
{% block foot %}{{ options.width }}{% endblock %}
""",
}

USER = {"role": "user", "content": "  What's <this> & \"that\"? é\n"}
CONVERSATIONS = {
    "one": [USER],
    "with a system message": [{"role": "system", "content": "Be brief. "}, USER],
    "turns": [USER, {"role": "assistant", "content": "<think>\nhm, hm\n</think>\n\nThis.  "}, {"role": "user", "content": "And now?"}],
    "twice the same role": [USER, USER, {"role": "assistant", "content": "Yes"}],
    "unknown role": [{"role": "ghost", "content": "boo"}],
    "none": [],
}
PARTS = [{"role": "user", "name": "ann", "content": [{"type": "text", "text": " look "}, {"type": "image"}, {"type": "video"}, {"type": "audio"}]},
         {"role": "user", "content": "and?"}, {"role": "assistant", "content": [{"type": "text", "text": "seen"}]}]
TOOLS = [{"type": "function", "function": {"name": "weather", "description": "Tells the weather.\nIn a town \u00e9.", "parameters": {
    "type": "object", "required": ["town"], "properties": {
        "town": {"type": "string"}, "days": {"type": "integer", "default": 3}, "unit": {"type": ["string", "null"]},
        "spots": {"type": "array", "items": {"type": "object", "properties": {"x": {"type": "number"}, "y": {}}}}}}}},
         {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}, "required": []}}}]
CALLS = [USER, {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": {
    "name": "weather", "arguments": {"town": "K\u00f6ln", "days": 2, "exact": True, "x": None, "ratio": 0.5, "l": [1, "a"]}}}]},
         {"role": "tool", "name": "weather", "content": "{\"t\": 20}"}, {"role": "assistant", "content": "20 degrees"}]

# ---- one construct each -----------------------------------------------------------------------------------------------

VARIABLES = {
    "messages": [{"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}], "tools": None, "documents": None,
    "add_generation_prompt": True, "bos_token": "<s>", "s": "h\u00e9LLo w\u00f6rld \u00df", "n": -7, "f": 2.5, "l": [3, 1, 2],
    "d": {"b": 1, "A": 2, "c": [1, 2]}, "lines": "a\nb\n\nc",
    "users": [{"n": "Bob", "a": 3}, {"n": "al", "a": 1}, {"n": "Cy", "a": 3}]}

CONSTRUCTS = r"""
{{ s|upper }} {{ s|title }} {{ s|capitalize }} {{ s.swapcase() }} {{ s.casefold() }} {{ 'ΑΣ ΌΔΟΣ'|lower }} {{ 'ǆx ﬁt'.title() }} {{ 'ﬃ'|upper }}
{{ '<b>'|safe }}{{ ('<b>'|safe) + '<i>' }}{{ '<a>' + ('<b>'|safe) }}{{ '<a>' ~ ('<b>'|safe) }}{{ ('<%s>'|safe) % '<i>' }}{{ ('<a>'|safe).join(['<', '>']) }}
{{ d|dictsort }}{{ d|dictsort(true) }}{{ d|dictsort(by='key', reverse=true) }}{{ {'x': 2, 'y': 1}|dictsort(by='value') }}
{{ l|sort }}{{ l|sort(reverse=true) }}{{ ['b', 'A', 'c']|sort }}{{ ['b', 'A', 'c']|sort(case_sensitive=true) }}{{ users|sort(attribute='a,n')|map(attribute='n')|join(',') }}{{ users|sort(attribute='a', reverse=true)|map(attribute='n')|list }}
{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1) }}|{{ m(1, 2, 3, 4, 5, z=1) }}|{{ m(*[1, 2], **{'c': 5}) }}
{% macro m(a) %}[{{ caller('x') }}{{ a }}]{% endmacro %}{% call(u) m(1) %}{{ u }}!{% endcall %}{% macro k() %}{{ caller is defined }}{% endmacro %}{{ k() }}
{% for x in [1, 1, 2, 2, 3] %}{{ loop.changed(x) }}{{ loop.cycle('a', 'b') }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.last }}{{ loop.length }}{{ loop.revindex }};{% endfor %}
{% for x in range(10) if x is odd %}{% if x == 5 %}{% continue %}{% elif x > 7 %}{% break %}{% endif %}{{ x }}/{{ loop.index }}/{{ loop.last }}{% else %}none{% endfor %}
{% set ns = namespace(go=true) %}{% for x in [1, 2, 3] if ns.go %}{% set ns.go = false %}{{ x }}{% endfor %}
{% for x in [1, 2] %}{% macro f() %}<{{ x }}>{% endmacro %}{{ f() }}{% endfor %}{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}
{% macro f(x) %}<{{ x }}>{% endmacro %}{% set all = [] + [f] %}{% set all = all + [f] %}{% for m in all %}{{ m(loop.index) }}{% endfor %}{% set ns = namespace(m=f) %}{{ ns.m(3) }}{{ {'f': f}.f(4) }}
{{ '%s %d %5.2f %-5s| %05d %x %r %%' % ('a', 3, 2.456, 'b', 42, 255, 'q') }} {{ '%(a)s' % {'a': 1} }} {{ '%s' % [1] }} {{ '%+d %e %g %c' % (5, 12345.678, 0.00001, 'z') }}
{{ '{} {}'.format(1, 'b') }} {{ '{a:>5}|{b:<5}|{c:^7}|{d:05.1f}|{e:,}|{f!r}'.format(a=1, b='x', c='mid', d=2.25, e=1234567, f='q') }} {{ '{0[0]} {1.x}'.format([9], {'x': 1}) }} {{ '{:{}}|'.format('w', 4) }}
{{ '{:,.2f} {:%} {:e} {:g} {:x} {:#x} {:b} {:+d} {:08.3f} {:_}'.format(12345.678, 0.25, 12345.678, 0.00001, 255, 255, 5, 3, 3.14159, 1234567) }} {{ '{:.3} {:.10} {:10.3} {} {:5}'.format(3.14159, 1.0, 'abcdef', 1e16, true) }}
{{ 'a,b,c'.rsplit(',', 1) }}{{ 'a b  c '.split() }}{{ lines.splitlines() }}{{ 'xabcx'.strip('x') }}{{ 'abc'.partition('b') }}{{ 'abcbd'.rpartition('b') }}{{ 'abc'.removeprefix('a') }}{{ 'abc'.removesuffix('c') }}
{{ '5'.zfill(3) }} {{ '-5'.zfill(4) }} {{ 'abcab'.find('b', 2) }} {{ 'abcab'.rfind('b') }} {{ 'abcab'.index('c') }} {{ 'abcab'.count('ab') }} {{ 'abc'.startswith(('x', 'a')) }} {{ 'abc'.endswith('c', 1) }} {{ 'éab'.find('b') }}
{{ '12'.isdigit() }}{{ 'ab'.isalpha() }}{{ 'AB'.isupper() }}{{ 'ab'.islower() }}{{ ' '.isspace() }}{{ 'Ab Cd'.istitle() }}{{ 'a1'.isalnum() }}{{ ''.isdigit() }}{{ '²'.isdigit() }}{{ '½'.isnumeric() }}{{ 'a_b'.isidentifier() }}{{ 'é'.isascii() }}
{{ 'abc'.center(8, '*') }} {{ 'abc'.ljust(5) }}| {{ 'abc'.rjust(5, '.') }} {{ 'a\tb'.expandtabs(4) }} {{ 'ab'|center(7) }}|
{{ 7 // 2 }} {{ -7 // 2 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 2 ** 10 }} {{ 2 ** -1 }} {{ -2 ** 2 }} {{ 7 / 2 }} {{ 7.5 // 2 }} {{ -7.5 % 2 }} {{ 0.1 + 0.2 }} {{ 1e16 }} {{ 1e15 }} {{ 123456789.123 }}
{{ users|groupby('a')|list }}{% for g in users|groupby('a') %}{{ g.grouper }}{{ g.list|length }}{% endfor %}{% for k, v in users|groupby('n') %}{{ k }}{% endfor %}
{{ [1, 2, 3, 4, 5]|batch(2)|list }}{{ [1, 2, 3]|batch(2, 'x')|list }}{{ [1, 2, 3, 4, 5]|slice(3)|list }}{{ [1, 2, 3, 4, 5]|slice(3, 'x')|list }}{{ [1, 2, 2, 'a', 'A']|unique|list }}
{{ lines|indent }}|{{ lines|indent(2, true) }}|{{ lines|indent('>', blank=true) }}|{{ 'a b-c d_e'|wordcount }}
{{ 2.5|round }} {{ 3.5|round }} {{ 2.675|round(2) }} {{ 2.1|round(method='ceil') }} {{ 42|round }} {{ 2.19|round(1, 'floor') }}
{{ '0x1A'|int(base=16) }} {{ '12abc'|int(5) }} {{ '42.7'|int }} {{ '1_000'|int }} {{ ' 5 '|int }} {{ 'inf'|float }} {{ '1e3'|float }} {{ none|int }} {{ true|int }} {{ 'z'|float(1.5) }}
{{ [1, 2, 3]|sum }} {{ users|sum(attribute='a') }} {{ [3, 1, 2]|min }} {{ ['b', 'A']|max }} {{ []|max }} {{ users|max(attribute='a') }} {{ -3|abs }} {{ 'abc'|reverse }} {{ [1, 2]|reverse|list }}
{{ '<a & "b">'|e }} {{ '<a>'|escape|escape }} {{ '<a>'|escape|forceescape }} {{ 'a b/c?é'|urlencode }} {{ {'a': 1, 'b c': 'd&e'}|urlencode }} {{ {'class': 'x', 'id': none, 't': 'a"b'}|xmlattr }} {{ "%s-%s"|format(1, 'b') }}
{{ 'lorem ipsum dolor'|truncate(9) }} {{ 'lorem ipsum dolor'|truncate(9, true, '..', 0) }} {{ 'lorem'|truncate(3) }}
{{ d|tojson }} {{ d|tojson(indent=2) }} {{ {'b': 1, 'a': 'é'}|tojson(ensure_ascii=true, sort_keys=true) }} {{ [1, 2]|tojson(separators=(',', ':')) }} {{ {1: 2, none: 4, 1.5: 1}|tojson }}
{{ range(3) }} {{ range(1, 10, 3) }} {{ d.keys() }} {{ d.values() }} {{ d.items() }} {{ namespace(a=1, b='x') }} {{ dict(a=1) }} {{ dict([('a', 1)], b=2) }}
{{ 'abcdef'[::2] }} {{ 'abcdef'[::-1] }} {{ l[1:] }} {{ l[::-1] }} {{ (1, 2, 3)[1:] }} {{ l[5] }} {{ l[5:] }} {{ d['zz'] }} {{ 'héé'[1] }} {{ l[1, 2] }}
{{ strftime_now('%Y-%m-%d %H:%M:%S.%f %j %a %A %b %B %y %p %I %% %z|%Z|%Q %e %-d %U %w %c %x %X') }}
{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|first }}{{ messages|rejectattr('role', 'in', ['user'])|list }}{{ [1, none, 0, 2]|select|list }}{{ [1, 2, 3]|select('>', 1)|list }}{{ [[3, 1], [2]]|map('sort')|list }}{{ [{'a': 1}, {}]|map(attribute='a', default='q')|list }}
{% set j = joiner('|') %}{{ j() }}a{{ j() }}b{{ j() }}c{% set c = cycler('o', 'e') %}{{ c.next() }}{{ c.next() }}{{ c.current }}{{ c.next() }}
{{ 'a' is string }}{{ d is mapping }}{{ l is sequence }}{{ s is lower }}{{ 'AB' is upper }}{{ x is undefined }}{{ 4 is divisibleby 2 }}{{ 1 is sameas true }}{{ 'upper' is filter }}{{ 'odd' is test }}{{ ('a'|safe) is escaped }}{{ 1 is in [1, 2] }}{{ 1.0 is float }}{{ range is callable }}
{% set m = l|map('string') %}{{ m|first }}{{ m|list }}{{ m|list }}{% set m = l|map('string') %}{% for x in m %}{{ x }}{% break %}{% endfor %}{{ m|list }}
{{ d.nope }}{{ d.nope|default('q') }}{{ ''|default('z', true) }}{{ d.items is defined }}{{ l.append is defined }}{{ s.__class__ }}{{ ns is defined }}
{{ 1 if false }}{{ 1 if true else 2 }}{{ 1 < 2 < 3 }}{{ 1 in l and 'a' not in 'xyz' }}{{ 'a' 'b' }}{{ 1 ~ 'a' ~ none ~ true }}{{ (1,) + (2,) }}{{ 'ab' * 3 }}{{ [1] * 2 }}{{ true + 1 }}
{% print 'a', 1 %}{{ f }}{% macro f() %}{% endmacro %}{{ f }}{% for i in [1, 2] %}{{ loop }}{% endfor %}
{% if tools %}{{ 1|nosuch }}{{ 1 is nosuch }}{% include 'x' %}{% import 'y' as z %}{% from 'y' import a, b as c with context %}{% endif %}ok
{% set a, b = 1, (2, 3) %}{{ a }}{{ b }}{% set (c, d2) = b %}{{ c }}{{ d2 }}{% for (a, b), c in [((1, 2), 3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{{ l.index(1) }}{{ l.count(3) }}{{ l.copy() }}{{ d.get('b') }}{{ d.get('z', 5) }}{{ d.get('q') }}{{ 5.0.is_integer() }}{{ d|attr('items') is callable }}{{ d|attr('b') is defined }}
{{ 1_000 + 0x1f + 0b11 + 0o17 }} {{ 1.5e3 }} {{ 'a\nb\x41\u00e9\\ \'' }} {{ "tab\t" }} {{ '\d' }}
{{ users|join('-', attribute='n') }} {{ 'abc'|join('.') }} {{ [1, '<a>'|safe, '<b>']|join(',') }} {{ [none, true, 1.0, 'a', x] }}
{{ [1, 2] == [1, 2] }}{{ (1, 2) == [1, 2] }}{{ {'a': 1} == {'a': 1.0} }}{{ '1' == 1 }}{{ [1, 2] < [1, 3] }}{{ x == y }}
{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}{% for i in [1] %}{% set x = 3 %}{% endfor %}{{ x }}{% macro f() %}{{ x }}{% endmacro %}{% set x = 4 %}{{ f() }}
{% autoescape false %}<{% endautoescape %}{% generation %}{{ s }}{% endgeneration %}{% block b %}[{{ s }}]{% endblock %}
{% set größe = 3 %}{{ größe }}
{% filter upper|replace('A', 'o') %}aba{% endfilter %}{% filter indent(2, first=true) %}a{{ '\n' }}b{% endfilter %}{% filter escape %}<{% endfilter %}{% filter list|first %}xy{% endfilter %}{% filter default(none) %}q{% endfilter %}
{% filter length %}abc{% endfilter %}
{% filter first %}{% endfilter %}
{% set x %}{% filter int %}5{% endfilter %}{% endset %}{{ x }}
{% if false %}{% filter int %}5{% endfilter %}{{ [1] is test }}{{ n[1:] }}{% endif %}ok
{{ 'odd' is test }}{{ none is filter }}{{ (1,) is test }}{{ x is test }}{{ range is filter }}{{ 5 is test }}
{{ ['odd'] is test }}
{{ d is filter }}
{{ n[1:] }}
{{ d[:1] }}
{{ l['a':] }}
{{ -2 ** n }}
{{ -2 ** users|length }} {{ -1 ** d.b }} {{ (-3) ** l[2] }} {{ +-2.5 ** d.b }} {{ -2 ** 2 }} {{ -2 ** (1 + 1) }} {{ -2 ** ('2'|int) }} {{ -n ** 2 }} {{ --2 ** l[0] }} {{ -2 ** l[2] ** 2 }}
{{ 5[1:]|default('x') }}{{ none[1:] is defined }}{{ {'a': 1}[1:] or 'y' }}{{ 'abc'['a':] is defined }}{{ 'abc'[1:] }}{{ [1, 2][:1] }}
{{ n[1:]|default('x') }}
{{ d.values() is filter }}{{ range(2) is test }}{{ (l|map('string')) is filter }}{{ {d.values(): 1}|length }}
{{ d.keys() is filter }}
{{ (d.items(),) is test }}
{{ {d.keys(): 1} }}
{{ [d.items()]|unique|list }}
a{% raw %}
a{#
a{#-
a{%- raw -%}
{% raw %}x
{#x
{{ l[::0] }}
{%- set ns = namespace(found=false, n=0) -%}{%- for m in messages -%}{%- if m.role == 'assistant' -%}{%- set ns.found = true -%}{%- set ns.n = ns.n + loop.index0 -%}{%- endif -%}{%- endfor -%}{{ ns.found }} {{ ns.n }}
{%- set loop_messages = messages[1:] if messages[0]['role'] == 'system' else messages -%}{{ loop_messages|length }}{{ messages[-1].content }}{{ messages[:-1]|length }}{{ messages[::-1][0]['role'] }}{{ (messages|last).role }}
{{ messages[0].get('tool_calls') }}{{ messages[0].get('tool_calls', []) }}{{ 'tool_calls' in messages[0] }}{{ messages[0].tool_calls is defined and messages[0].tool_calls }}{{ messages[0]['x'] is none }}
{% if tools is not none and tools|length > 0 %}t{% elif tools is iterable %}i{% else %}-{% endif %}{% if not tools %}none{% endif %}{{ tools or [] }}{{ (tools or []) is sequence }}
{% macro render(item, depth=0, sep=', ') %}{{ '  ' * depth }}{{ item }}{{ sep }}{% endmacro %}{{ render('a') }}{{ render('b', sep='') }}{{ render(depth=1, item='c') }}
{% macro outer() %}<{{ caller(1, b=2) }}>{% endmacro %}{% call(a, b=0, c=3) outer() %}{{ a }}{{ b }}{{ c }}{% endcall %}
{% macro args() %}{{ varargs|length }}{{ kwargs.a }}{{ kwargs|length }}{% endmacro %}{{ args(1, 2, a='k') }}{{ args.name }}
{% macro fact(n) %}{{ 1 if n <= 1 else n * fact(n - 1)|int }}{% endmacro %}{{ fact(5) }}
{{ {'z': [1, {'a': none}], 'é': 'ü\n"\\'}|tojson }}|{{ {'z': [1, {'a': none}], 'é': 'ü'}|tojson(indent=4) }}|{{ [[], {}, [[]]]|tojson(indent=1) }}
{{ {'b': 1, 'a': {'d': 1, 'c': 2}}|tojson(sort_keys=true, indent=2, separators=(', ', ' = ')) }}|{{ 'é😀\u2028'|tojson(ensure_ascii=true) }}|{{ '<&\'>'|tojson }}|{{ [1.0, 1e20, 1e-7, 0.1, -0.0, true, none]|tojson }}
{{ d.items()|list|tojson }}{{ l|map('string')|list|tojson }}{{ (1, 'a')|tojson }}{{ range(3)|list|tojson(separators=(',', ':')) }}{{ {true: 1, 2.5: 2}|tojson }}
{{ l|map('string')|tojson }}
{{ range(3)|tojson }}
{{ namespace(a=1)|tojson }}
{{ strftime_now('%d %B %Y') }}{{ strftime_now('') }}{{ strftime_now('é %%') }}{{ strftime_now('%b %d, %Y')|upper }}
{% if strftime_now is defined %}{{ strftime_now('%Y') }}{% else %}2024{% endif %}{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}{{ date_string }}
{% for x in [3, 1, 2] %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.depth0 }}{{ loop.previtem is defined }}{{ loop.nextitem is defined }};{% endfor %}
{% for a in [1, 2] %}{% set outer = loop %}{% for b in [1, 2] %}{{ outer.index }}.{{ loop.index }}{{ ' ' if not (outer.last and loop.last) }}{% endfor %}{% endfor %}
{% for x in [] %}x{% else %}empty{% endfor %}{% for x in [1] if x > 1 %}x{% else %}none{% endfor %}{% for k, v in {}.items() %}x{% else %}nothing{% endfor %}
{% for x in range(5) %}{% if x is odd %}{% continue %}{% endif %}{{ x }}{% if x >= 2 %}{% break %}{% endif %}{% endfor %}{% for x in 'abc' %}{{ x }}{{ ',' if not loop.last }}{% endfor %}{% for k in d %}{{ k }}{% endfor %}
{% for x in [1, 2] recursive %}{{ x }}{{ loop.depth }}{% if loop.depth < 3 and x == 2 %}({{ loop([1, 2]) }}){% endif %}{% endfor %}
{{ 'abcdef'[-1:0:-2] }}{{ 'abcdef'[:-3:-1] }}{{ 'abcdef'[10:1:-1] }}{{ l[-2:] }}{{ l[:-1] }}{{ l[2:0:-1] }}{{ [1, 2, 3, 4][::-2] }}{{ (1, 2, 3)[::-1] }}{{ range(10)[2:8:3]|list }}{{ 'héé'[::-1] }}{{ l[none:none] }}
{{ users|selectattr('a', 'gt', 1)|map(attribute='n')|join(', ') }}{{ users|selectattr('zz', 'defined')|list }}{{ users|rejectattr('a', '==', 3)|map(attribute='n')|list }}{{ users|selectattr('n', 'in', ['al'])|list|length }}{{ users|map(attribute='zz', default='-')|join }}
{{ messages|selectattr('role', '==', 'user')|list|length }}{{ (messages|selectattr('role', 'equalto', 'assistant')|last).content }}{{ messages|map(attribute='role')|unique|join('/') }}{{ messages|map(attribute='content')|map('upper')|join }}{{ messages|map('length')|sum }}
{{ users|groupby('a')|map('first')|list }}{% for group in users|groupby('a', default=0) %}{{ group.grouper }}:{{ group.list|map(attribute='n')|join('+') }} {% endfor %}{{ users|groupby('n', case_sensitive=true)|map(attribute=0)|list }}
{{ ['b', 'B', 'a']|unique|list }}{{ ['b', 'B', 'a']|unique(case_sensitive=true)|list }}{{ users|unique(attribute='a')|map(attribute='n')|list }}{{ [1, 1.0, true]|unique|list }}{{ users|min(attribute='n') }}{{ ['b', 'A']|min(case_sensitive=true) }}
{% for row in [1, 2, 3, 4, 5]|batch(2, '-') %}{{ row|join('|') }};{% endfor %}{% for column in range(7)|slice(3) %}{{ column }}{% endfor %}{{ 'abc'|batch(2)|map('join')|list }}
{{ '  a b '.strip() }}|{{ 'xxaxx'.lstrip('x') }}|{{ 'a\n\n'.rstrip('\n') }}|{{ 'a--b'.split('--') }}|{{ 'a b c'.split(none, 1) }}|{{ 'a</think>b</think>c'.split('</think>')[-1] }}|{{ 'a'.split('') if false }}|{{ 'aXbX'.replace('X', '', 1) }}|{{ 'k=v=w'.split('=', maxsplit=1) }}
{{ 'a-b_c d'.title() }}{{ "they're"|title }}{{ "they're".title() }}{{ 'ÀÉ'.lower() }}{{ 'straße'.upper() }}{{ 'ΣΑΣ'.lower() }}{{ 'ŉ'.capitalize() }}{{ 'İI'.lower() }}{{ 'ǅ'.swapcase() }}{{ 'éa'|capitalize }}{{ 'ß'.casefold() }}{{ 'ﬀ'|title }}
{{ 'Hello'.startswith('He') and not 'Hello'.endswith(('x', 'y')) }}{{ 'abc'.find('z') }}{{ 'a,b'.partition(',')[2] }}{{ 'ab'.join(['1', '2']) }}{{ 'abc' in 'xabcx' }}{{ '' in 'a' }}{{ 'a' not in ['b'] }}{{ 'b' in d }}{{ 1 in (1, 2) }}{{ none in [none] }}
{{ none is none }}{{ 'a' is iterable }}{{ 5 is iterable }}{{ d is iterable }}{{ d is sequence }}{{ (1,) is sequence }}{{ 'a' is sequence }}{{ true is number }}{{ true is integer }}{{ true is boolean }}{{ 1.0 is integer }}{{ [] is mapping }}{{ x is string }}{{ x is iterable }}{{ none is mapping }}{{ range(2) is sequence }}
{{ 3 is divisibleby(3) }}{{ 3 is not divisibleby 2 }}{{ 1 is eq 1 }}{{ 1 is ne 2 }}{{ 2 is ge 2 }}{{ none is sameas none }}{{ 'a' is in 'abc' }}{{ 3 is odd and 4 is even }}{{ 'abc' is lower }}{{ not x is defined }}{{ x is not defined or false }}
{{ 2 ** 3 ** 2 }} {{ -2 ** 2 }} {{ 7 // -2 }} {{ -7 % 5 }} {{ 7.5 % -2 }} {{ 1 / 3 }} {{ 6 / 3 }} {{ 2 ** 0.5 }} {{ 10 // 3 * 3 + 10 % 3 }} {{ 1 + 2 ~ 3 }} {{ 2 * 'ab' }} {{ [0] * 3 }} {{ 5 - -3 }} {{ +true }} {{ 1e3 // 7 }}
{{ 1 < 2 <= 2 < 3 }}{{ 3 > 2 > 2 }}{{ 1 == 1.0 == true }}{{ 'a' < 'b' }}{{ 'Z' < 'a' }}{{ [1, 2] < [1, 2, 0] }}{{ 1 < 2 in [2] }}{{ 'a' != 'b' == 'b' }}{{ not 1 == 2 }}{{ 'é' > 'z' }}
{{ 'x' if true }}{{ 'x' if false }}{{ ('x' if false) is defined }}{{ 'a' if false else 'b' if false else 'c' }}{{ ('-' if false) ~ 'k' }}{{ [1 if true else 2, 3 if false else 4] }}{{ 'y' if x is defined and x.y }}
{{ ('x' if false) + 'k' }}
  {%- if true -%}  a  {%- else -%} b {%- endif %}  c  {%+ if true %} d {% endif +%} e {#- gone -#} f {# kept #} g {{- ' h ' -}} i
 {% if true %} x {% endif %} {% raw %} {{ y }} {% if %}{% endraw %} {%- raw -%}  z  {%- endraw -%}  w{# {{ 1 }} {% if %} #}|{{ '{{' }}{{ "}}" }}{{ '{%' }}
{% generation %}{{ s }}{% generation %}in{% endgeneration %}{% set gx = 1 %}{% endgeneration %}{{ gx is defined }}{%- generation -%}  a  {%- endgeneration -%}{% for m in messages %}{% generation %}{{ m.content }}{{ loop.index }}{% endgeneration %}{% endfor %}
{% set text %}a{{ 1 }}{% for m in messages %}{{ m.role }}{% endfor %}{% endset %}{{ text|length }}{{ text }}{% set up | upper | replace('B', 'x') %}abc{% endset %}{{ up }}{% set n2 | length %}abcd{% endset %}{{ n2 + 1 }}
{% set a = b = 1 %}
{% set a.b = 1 %}
{% set ns = namespace(role='system', content='s') %}{% set all = [ns] + messages %}{% for m in all %}{{ m.role }}:{{ m.content }};{% endfor %}{% set ns.content = 't' %}{{ all[0].content }}{{ all[0]['role'] }}{{ {'n': ns}.n.role }}{{ all|length }}{{ ns in all }}{{ [namespace(a=[1])] }}{{ (ns,)|map(attribute='content')|join }}
{{ [namespace(a=1)]|tojson }}
{% set ns = namespace({'a': 1}, b=2) %}{{ ns.a }}{{ ns.b }}{{ ns.zz is defined }}{{ ns['a'] }}{% set ns.list = [] %}{% set ns.list = ns.list + [1] %}{{ ns.list }}
{{ dict(a=1, **{'b': 2}) }}{{ dict(d, b=9) }}{{ {'a': 1, 'a': 2} }}{{ {'a': {'b': {'c': 1}}}.a.b.c }}{{ d|length }}{{ d|list }}{{ d.c[-1] }}{{ d['c'][0] }}{{ d|items|list }}{{ x|items|list }}
{{ [1, [2, 'a"b', "c'd", none, true, 1.5], {'k': (1,)}] }}{{ ['\n\t\\', 'é', '\x07', '\u2028', '😀'] }}{{ {'a': [x]} }}{{ '%r' % 'é' }}{{ [1, 2]|string }}
{{ 'a'|default('b') }}{{ x|default }}{{ x|default('b')|upper }}{{ none|default('n') }}{{ none|default('n', true) }}{{ x.y|default('deep') }}{{ false|d('f', boolean=true) }}{{ d.zz|default({})|length }}
{{ x.y.z|default('deeper') }}
{{ 'lines\nof\n\ntext'|indent(4) }}|{{ 'a\nb'|indent(width=2, first=true, blank=false) }}|{{ ' x '|trim }}|{{ 'xyx'|trim('x') }}|{{ 'a'|replace('a', 'b') }}|{{ 'aaa'|replace('a', 'b', 2) }}|{{ 'ab'|list }}
{{ '%s is %d and %.2f' % ('x', 3, 2.5) }}{{ '%05.1f|%-6s|%+d|%x|%%' % (2.25, 'ab', 3, 255) }}{{ '{:>4}|{:<4}|{:^4}|{:04d}|{:.1%}'.format('a', 'b', 'c', 7, 0.256) }}{{ '{0}{1}{0}'.format('a', 'b') }}{{ '{{}}'.format() }}{{ '%s' % ((1, 2),) }}
{{ raise_exception('Only user and assistant roles are supported!') }}
{% if messages|length > 1 %}{{ raise_exception('Expected ' ~ 1 ~ ', got ' + messages|length|string) }}{% endif %}
{{ raise_exception() }}
{{ l|first }}{{ l|last }}{{ []|first is defined }}{{ [[1, 2], [3]]|sum(start=[]) }}{{ l|sum }}{{ l|length }}{{ l|count }}{{ 'a'|length }}{{ l|join }}{{ ['a', 1, none]|join('-') }}{{ d|join(',') }}{{ l|reverse|list }}{{ 'abc'|last }}
{{ '3'|int + 1 }}{{ '3.9'|int }}{{ 3.9|int }}{{ 'x'|int(-1) }}{{ '0b11'|int(base=2) }}{{ '1.5'|float }}{{ 'x'|float }}{{ 3|float }}{{ 3.0|string }}{{ 1e100 }}{{ 10|abs }}{{ true|string }}{{ 12345678901234567 }}
{{ raise_exception('no ' ~ 'way') }}
{{ x.y }}
{{ x + 'a' }}
{{ 1 + 'a' }}
{{ l.append(1) }}
{{ d.update({'a': 1}) }}
{{ ''.__class__.__mro__ }}
{{ [1, 'a']|sort }}
{{ '%s %s' % (1,) }}
{{ '%s' % (1, 2) }}
{{ '%d' % 'a' }}
{{ '{} {1}'.format(1) }}
{{ '{}'.format() }}
{{ 'abc'.index('x') }}
{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}
{% macro f(a) %}{% endmacro %}{{ f(b=1) }}
{% for x in [[1]] %}{{ loop(x) }}{% endfor %}
{{ missing() }}
{{ 5|list }}
{{ 1 // 0 }}
{{ x|tojson }}
{{ range(1000000) }}
{% include 'x' %}
""".strip().split("\n")


def render(source, variables):
    """The text, the template's own exception, or that it fails."""
    try:
        return {"text": ENVIRONMENT.from_string(source).render(**variables)}
    except jinja2.exceptions.TemplateError as error:
        own = type(error) is jinja2.exceptions.TemplateError
        return {"exception": error.message} if own else {"fails": True}
    except Exception:  # whatever Python raises, the template fails
        return {"fails": True}


def cases():
    """(template's name, variables) of the whole templates."""
    tokens = {"tools": None, "documents": None, "bos_token": "<s>", "eos_token": "</s>"}
    for name in TEMPLATES:
        for conversation in CONVERSATIONS.values():
            for prompt in (True, False):
                yield name, {**tokens, "messages": conversation, "add_generation_prompt": prompt}
    yield "dated", {**tokens, "messages": [USER], "add_generation_prompt": True, "date_string": "1 May", "pad_token": "<p>"}
    yield "thinking", {**tokens, "messages": CONVERSATIONS["turns"], "add_generation_prompt": True, "enable_thinking": False}
    yield "thinking", {**tokens, "messages": [USER, {"role": "assistant", "content": "x", "reasoning_content": "\nr\n"}], "add_generation_prompt": False}
    yield "tools", {**tokens, "messages": CALLS, "tools": TOOLS, "add_generation_prompt": True}
    yield "tools", {**tokens, "messages": CALLS[:3], "add_generation_prompt": True}
    yield "parts", {**tokens, "messages": PARTS, "add_generation_prompt": True}


def main():
    made = [{"template": name, "variables": variables, **render(TEMPLATES[name], variables)} for name, variables in cases()]
    constructs = [{"source": source, **render(source, VARIABLES)} for source in CONSTRUCTS]
    about = f"Made by make_chat_templates.py with Jinja2 {jinja2.__version__}."
    table = {"about": about, "templates": TEMPLATES, "cases": made, "variables": VARIABLES, "constructs": constructs}
    path = pathlib.Path(__file__).with_name("chat_templates.json")
    path.write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{path}: {len(made)} renders of {len(TEMPLATES)} templates, {len(constructs)} constructs")


if __name__ == "__main__":
    main()
