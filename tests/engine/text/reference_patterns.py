"""Regular expressions of tokenizers: those of released models, and random ones of every construct that is read."""

import random
import unicodedata

import reference_documents as documents

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CASED_TAIL = TAIL.replace(r"[\r\n]*", r"[\r\n/]*", 1)
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
HAN = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
OLD_HAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
BLOOM = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"
SIGNED = r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+|"""
KIMI_UPPER, KIMI_LOWER = UPPER[:-1] + r"&&[^\p{Han}]]", LOWER[:-1] + r"&&[^\p{Han}]]"

# Letters with a case, as they were known to who made the model.
DEEPSEEK_LETTERS = r"\s?[" + "".join(chr(code) for code in range(0x1E944) if unicodedata.category(chr(code)) in ("Lu", "Ll", "Lt") and not any(
    low <= code <= high for low, high in [
        (0x560, 0x588), (0x10C7, 0x10FF), (0x1C80, 0x1C8A), (0x2D00, 0x2D2D), (0xA790, 0xA7FA), (0xAB30, 0xAB68),
        (0x10570, 0x105BC), (0x10D50, 0x10D85), (0x16E40, 0x16E7F), (0x1D400, 0x1DFFF)])) + "]+"
NAMES = "P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So L Lu Ll Lt Lm Lo LC M Mc Me N Nd Nl No Z Zs Cc Cf Co Alphabetic Lowercase Uppercase Emoji Word".split()
SCRIPTS = "Arabic Common Cyrillic Devanagari Greek Han Hiragana Inherited Kannada Katakana Lao Latin Myanmar Thai".split()
BRACKETS = "alnum alpha digit graph lower print punct space upper word".split()
PROPERTIES = ([r"\p{%s}+" % name for name in NAMES + SCRIPTS] + ["[[:%s:]]+" % name for name in BRACKETS] +
              [r"\s+", r"\w+", r"\d+", r"[^\w]+", r"\P{L}+", r"[^\p{L}\p{N}]+", r"\p{C}", r"\p{Cn}", r"\p{Assigned}+", r"\b"])


def cased(upper, lower, ending):
    return f"[^\\r\\n\\p{{L}}\\p{{N}}]?{upper}*{lower}+{ending}|[^\\r\\n\\p{{L}}\\p{{N}}]?{upper}+{lower}*{ending}|"


# Name in a GGUF file -> patterns of that family's tokenizer.json, each cutting what the one before left.
RULES = {
    "gpt-2": [GPT2], "olmo": [GPT2], "trillion": [GPT2],
    "llama-bpe": [documents.LLAMA3_PATTERN], "smaug-bpe": [documents.LLAMA3_PATTERN], "falcon3": [documents.LLAMA3_PATTERN],
    "pixtral": [documents.LLAMA3_PATTERN], "dbrx": [documents.LLAMA3_PATTERN],
    "qwen2": [documents.QWEN2_PATTERN], "stablelm2": [documents.QWEN2_PATTERN], "megrez": [documents.QWEN2_PATTERN],
    "qwen35": [CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "gpt-4o": [documents.O200K_PATTERN], "llama4": [documents.O200K_PATTERN],
    "tekken": [cased(UPPER, LOWER, "") + r"\p{N}|" + CASED_TAIL],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", OLD_HAN, r"\p{N}"],
    "deepseek-llm": [r"[\r\n]", DEEPSEEK_LETTERS, r"\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+", r"\s+$", OLD_HAN, r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", HAN, SIGNED + r" ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "smollm": [r"\p{N}", GPT2],
    "bloom": [BLOOM], "viking": [BLOOM, r"\p{N}"],
    "kimi-k2": [r"[\p{Han}]+|" + cased(KIMI_UPPER, KIMI_LOWER, CONTRACTIONS + "?") + r"\p{N}{1,3}|" + TAIL],
    "bailingmoe": [r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"],
    "seed-coder": [CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+"],
    "exaone-moe": [CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|"
                   r"\s*[\r\n]|\s+(?!\S)|\s+"],
    "superbpe": [r"\p{N}+", r"(?=(\d{3})+(?!\d))"],
    "tiny_aya": [r"\d{1,3}(?=(?:\d{3})*\b)", documents.O200K_PATTERN],
}

FIXED = [
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
    r"\p{N}{2}+", r"\p{N}{,3}", r"\d{2,3}++", r"\p{N}{2}?", r"\p{N}{1,2}?", r"a**", r"a{,}|b{|c}", r"\h+", r"\H+", r"\R", r"\R+",
    r"\N+", r"\O\O", r"\b", r"\B", r"\A.", r".\z", r".\Z", r"^.", r".$", r"\s*$", r"\G.", r"[\S]+", r"[^\S\n]+", r"[\W_]+", r"[^\W]+",
    r"[^\D]+", r"[a-z&&[^aeiou]]+", r"[^a-z&&[^aeiou]]+", r"[a-f[0-9]]+", r"[^a-f[0-9]]+", r"[]a]", r"[^]a]+", r"[a-c-e]+", r"[.\-]",
    r"[[:alpha:]]+", r"[[:^space:]]+", r"[[:upper:][:digit:]]+", r"[[:punct:]]+", r"[[:graph:]]+", r"[[:print:]]+", r"[[:word:]]+",
    r"[[:alnum:]]+", r"[[:cntrl:]]+", r"[[:blank:]]+", r"[[:xdigit:]]+", r"[[:lower:]]+", r"[[:ascii:]]+", r"\p{Punct}+", r"\p{Alpha}+",
    r"\p{^Alpha}+", r"\P{Alpha}+", r"\p{Letter}+", r"\p{Word}+", r"\p{Space}+", r"\p{lu}", r"\p{LC}+", r"\p{Han}+", r"\p{Hiragana}+",
    r"\p{Greek}+", r"\p{Any}", r"[\p{L}\p{N}]+", r"[^\P{L}]+", r"a(?i)b|c", r"(?i)the|it", r"(?m).+", r"(?m-i:.)", r"(?i)[a-f]+",
    r"(?<=a)b", r"(?<!\s)\s", r"(?>a|ab)c", r"(?<n>a|b)", r"(?=\d{3})", r"x*", r"(?:)", r"\v|\f|\t|\e|\a", r"\x41|\x{e9}|\u0062",
]

LITERALS = ["a", "b", "B", "1", "2", " ", "\u00e9", "\u8a9e", "\\.", "\\n", "-", "'", "_"]
SETS = [r"\s", r"\S", r"\w", r"\W", r"\d", r"\D", r"\h", r"\p{L}", r"\P{L}", r"\p{^N}", r"\p{Lu}", r"\p{M}"]
CLASS_PARTS = ["a-c", "0-9", "\\]", "x", "\u00e9", "\\n", " ", "_", "[:alpha:]", "[:^digit:]", "[b1]", "[^a]"]
POINTS = ["^", "$", r"\b", r"\B", r"\A", r"\z", r"\Z"]
QUANTIFIERS = ["*", "+", "?", "*?", "+?", "??", "*+", "++", "?+", "{2}", "{1,2}", "{,2}", "{2,}", "{1,2}?", "{1,2}+", "{2}+", "{,1}+"]


def random_pattern(source):
    """A pattern that the tokenizers library reads too, short enough not to run away on short texts."""
    return _pattern(source, 0)


def _pattern(source, depth):
    pick = source.choice

    def atom():
        kind = source.random()
        if kind < 0.35:
            return pick(LITERALS)
        if kind < 0.55:
            return pick(SETS)
        if kind < 0.6:
            return pick([".", r"\R", r"\N"])
        if kind < 0.8 or depth > 1:
            inside = "".join(pick(CLASS_PARTS + SETS) for _ in range(source.randint(1, 3)))
            cut = "&&" + pick(["[^b]", r"\w", "a-z0-9"]) if source.random() < 0.15 else ""
            return "[" + pick(["", "^"]) + inside + cut + "]"
        return pick(["(?:", "(", "(?i:", "(?>"]) + _pattern(source, depth + 1) + ")"

    def piece():
        kind = source.random()
        if kind < 0.06:
            return pick(POINTS)
        if kind < 0.12 and depth < 2:
            return pick(["(?=", "(?!"]) + _pattern(source, depth + 1) + ")"
        if kind < 0.16:
            return pick(["(?<=", "(?<!"]) + pick(LITERALS + SETS) + ")"
        return atom() + (pick(QUANTIFIERS) if source.random() < 0.45 else "")

    branches = [[piece() for _ in range(source.randint(1, 3))] for _ in range(pick([1, 1, 1, 2, 3]))]
    return "|".join("".join(branch) for branch in branches)


def short_texts(source, count):
    letters = ["a", "b", "B", "c", "x", "1", "2", "12", " ", "  ", "\n", "\r\n", "\t", "\u00e9", "e\u0301", "\u8a9e", "_", "-", ".", "'",
               "\u00a0", "\u0660", "\u00bd", "\u2028", "\U0001f600"]
    return ["".join(source.choice(letters) for _ in range(source.randint(0, 14))) for _ in range(count)]
