"""Texts that tokenizers have come to differ on, and random ones made of the same material. All are valid UTF-8.

NEWER came with Unicode 15, 15.1 and 16.
"""

import random
import unicodedata

CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'T", "'RE", "'Ve", "'M", "'lL", "'D", "\u2019s", "\u2019T",
                "'\u017f", "'\u212a", "''s", "'"]
SPACES = [" ", "  ", "\t", "\n", "\r\n", "\r", "\n\n", " \n ", "\u00a0", "\u0085", "\u2003", "\u2028", "\u3000", "\x0b", "\x0c",
          "\u200b", "\u180e", "\ufeff", "\x1c", "\x1f"]
NUMBERS = ["0", "7", "42", "123", "1234", "3.14", "1,000,000", "\u0663\u0664", "\u096a\u0968", "\u00bd", "\u2167", "\u00b2", "\u3289",
           "\U0001d7d8", "\u4e09"]
SCRIPTS = {
    "latin": ["the", "The", "ABC", "HTTPServer", "caf\u00e9", "na\u00efve", "stra\u00dfe", "\u0130stanbul", "\u0131", "\u01c5", "\ufb01x",
              "\u1e9e"],
    "greek": ["\u03ba\u03cc\u03c3\u03bc\u03b5", "\u03a3\u03af\u03c3\u03c5\u03c6\u03bf\u03c2", "\u1f80"],
    "cyrillic": ["\u043f\u0440\u0438\u0432\u0435\u0442", "\u041c\u0418\u0420", "\u0419"],
    "arabic": ["\u0645\u0631\u062d\u0628\u0627", "\u0627\u0644\u0639\u064e\u0631\u064e\u0628\u0650\u064a\u0651\u0629", "\u0640", "\u060c"],
    "hebrew": ["\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd"],
    "devanagari": ["\u0928\u092e\u0938\u094d\u0924\u0947", "\u0915\u094d\u0937\u093f", "\u0958", "\u0964"],
    "thai": ["\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35"],
    "cjk": ["\u4f60\u597d", "\u4e16\u754c\u3002", "\uf900", "\U00020000", "\u3053\u3093\u306b\u3061\u306f", "\u30d1\u309a\u30fc",
            "\uff76\uff9e"],
    "hangul": ["\ud55c\uad6d", "\u1112\u1161\u11ab"],
}
EMOJI = ["\U0001f600", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd", "\u2764\ufe0f", "\U0001f1e9\U0001f1ea",
         "1\ufe0f\u20e3", "\U0001f3f4\U000e0067\U000e007f"]
MARKS = ["e\u0301", "a\u0323\u0307", "a\u0307\u0323", "\u0344", "o\u0328\u0304", "\u0301", "\u20dd", "\u0300" * 5, "\u1100\u1161",
         "\u212b", "\u2126", "\u0f73\u0f71"]
SIGNS = ["!", "...", "$", "<", ">=", "~^|", "()", "_", "__init__", "-", "\u2014", "\u00ab\u00bb", "\u2581", "\u0120", "\u010a", "@#%&*", "/\\",
         "<0x0A>", "{}", "\u00d7", "\u20ac"]
NEWER = ["\U0001fae8", "\U0001fa77", "\U0001fadc", "\U0001fae9", "\U0001cc00", "\U00031350\U000323af", "\U0002ebf0", "\U0001e4d0\U0001e4ec",
         "\U0001e4f1", "\U00011f04\U00011f34", "\U00010d4a\U00010d69", "\U00010d50", "\U00010d70", "\U00010d41\U00010d42", "\u1c89\u1c8a",
         "\ua7cb\ua7dc", "\u0897", "\u0cf3", "\u1b4e", "\U00010d6e", "\U0001e5ff", "\u31ef", "\U0001d2c5", "\U0001e035", "\U00011f50"]
CONTROLS = ["\x00", "\x01", "\x07", "\x08", "\x1b[0m", "\x7f", "\u0080", "\u009f", "\u200d", "\u200e", "\ue000", "\ufffd", "\ufffe", "\U0010ffff"]

FIXED = [
    "", " ", "  ", "\n", "a", " a", "a ", "\u2581", "\u2581a", " \u2581", "Hello world", " Hello world", "  Hello  world  ",
    "Hello,  y'all! How are you \U0001f601 ?\n\n\nFine.", "I'll I'LL you'Re THEY'VE we'd 'tis don't DON'T o'clock",
    "def f(x):\n\treturn x  # comment\n\n\n    if a == 10:\r\n        pass\r\n", "http://example.com/a?b=c&d=%20#e",
    "\u00e9 e\u0301 \uac00 \u1100\u1161 \u2126 \ufb01", "3 33 333 3333 33333 333333 3333333", "\t\t\t \n \t\n  x", "a" * 300, " " * 200,
    "\n" * 150, "1" * 150, "!" * 150, "\U0001f600" * 40, "\u4f60\u597d" * 60, " \n" * 60 + "end", "x" + " " * 70 + "y",
]


def known_code_points():
    """Characters that had their present category in Unicode 3.2: no two libraries' tables disagree on them."""
    old = unicodedata.ucd_3_2_0
    return [chr(code) for code in range(1, 0x30000)
            if not 0xD800 <= code <= 0xDFFF and unicodedata.category(chr(code)) != "Cn"
            and old.category(chr(code)) == unicodedata.category(chr(code))]


def characters_by_block():
    """All of Unicode once, the large blocks of one kind thinned out."""
    large = [(0x3401, 0x4DBE), (0x4E01, 0x9FFE), (0xAC01, 0xD7A2), (0x17001, 0x187F6), (0x20001, 0x2A6DE), (0x2A701, 0x2B738),
             (0x2B741, 0x2B81C), (0x2B821, 0x2CEA0), (0x2CEB1, 0x2EBDF), (0x2EBF1, 0x2EE5C), (0x30001, 0x31349), (0x31351, 0x323AE),
             (0x323B1, 0xDFFFF), (0xE0200, 0x10FFFD)]
    kept = (code for code in range(0x110000) if code % 251 == 0 or not any(low <= code <= high for low, high in large))
    return "".join(chr(code) for code in kept if not 0xD800 <= code <= 0xDFFF)


WORDS, EVERYTHING = 4, 6  # kinds of random texts: without and with arbitrary characters


def random_texts(seed, count, kinds=EVERYTHING):
    """`count` texts: words of one script, of all, with spaces between, runs of one thing, code points, bytes."""
    random_source = random.Random(seed)
    pick = random_source.choice
    code_points = known_code_points()
    words = [word for script in SCRIPTS.values() for word in script]
    everything = [CONTRACTIONS, SPACES, NUMBERS, words, EMOJI, MARKS, SIGNS, CONTROLS, NEWER]

    def one_script():
        script = SCRIPTS[pick(list(SCRIPTS))]
        return "".join(pick(script) + pick(SPACES[:3] + SIGNS + CONTRACTIONS) for _ in range(random_source.randint(1, 12)))

    def mixture():
        return "".join(pick(pick(everything)) for _ in range(random_source.randint(1, 30)))

    def spaced_mixture():
        return " ".join(pick(pick(everything)) for _ in range(random_source.randint(1, 20)))

    def runs():
        return "".join(pick(pick(everything)) * random_source.randint(1, 40) for _ in range(random_source.randint(1, 4)))

    def soup():
        return "".join(pick(code_points) for _ in range(random_source.randint(1, 40)))

    def byte_soup():
        return bytes(random_source.randrange(256) for _ in range(random_source.randint(1, 60))).decode("utf-8", "ignore")

    makers = [one_script, mixture, spaced_mixture, runs, soup, byte_soup][:kinds]
    return [makers[index % len(makers)]() for index in range(count)]


def with_tokens_between(seed, texts, tokens):
    """Each text with some of `tokens` put in, some of them touching words or white space."""
    random_source = random.Random(seed)
    result = []
    for text in texts:
        for _ in range(random_source.randint(1, 4)):
            at = random_source.randint(0, len(text))
            before, after = random_source.choice(["", "", " ", " \n", "a", "\u0301", "\u200d", "\u2167"]), random_source.choice(
                ["", "", " ", "\t ", "\n ", "     ", "a", "_", "\u0903", "\u24b6"])
            text = text[:at] + before + random_source.choice(tokens) + after + text[at:]
        result.append(text)
    return result
