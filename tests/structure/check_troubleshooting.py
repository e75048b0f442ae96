#!/usr/bin/env python3
"""Checks that the messages which server/TROUBLESHOOTING.md explains are messages of the programs: what stands in code marks in
the first column of its tables, or in its text, and reads as words. "..." stands for what differs.

    check_troubleshooting.py [ROOT]
"""

import pathlib
import re
import sys

PAGE = "server/TROUBLESHOOTING.md"
LITERAL = r'"((?:[^"\\\n]|\\.)*)"'
# What other programs say, keys, flags, commands and names: not sentences of ours.
FOREIGN = {"failed to connect"}
SENTENCE = re.compile(r"[A-Za-z(]+[,:)]* [a-z]+ |\.\.\.|^unknown key|^speculation: ")


def literals(root):
    """All string literals of the programs' sources, those that stand side by side as one, in one text."""
    texts = []
    for folder in ("server", "engine", "kernels"):
        for path in sorted((root / folder).rglob("*.cc")):
            source = path.read_text(encoding="utf-8")
            for run in re.finditer(rf"{LITERAL}(?:\s*{LITERAL})*", source):
                texts.append("".join(re.findall(LITERAL, run.group(0))).replace('\\"', '"'))
    return "\n".join(texts)


def messages(page):
    """The quoted messages: first cells of tables, and of text outside of them."""
    for line in page.splitlines():
        place = line.split(" | ")[0] if line.startswith("|") else line
        for quoted in re.findall(r"`([^`]+)`", place):
            if SENTENCE.search(quoted) and quoted not in FOREIGN and not quoted.startswith(("mambad ", "mambactl ", "ssh ")):
                yield quoted


def main():
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).resolve().parents[2])
    said = literals(root)
    found = list(messages((root / PAGE).read_text(encoding="utf-8")))
    unknown = [(message, piece) for message in found for piece in re.split(r"\s*\.\.\.\s*", message) if piece and piece not in said]
    for message, piece in unknown:
        print(f"{PAGE}: no program says {piece!r} of {message!r}")
    if len(found) < 15:
        print(f"{PAGE}: only {len(found)} messages were found in it")
    print(len(found), "messages")
    sys.exit(1 if unknown or len(found) < 15 else 0)


if __name__ == "__main__":
    main()
