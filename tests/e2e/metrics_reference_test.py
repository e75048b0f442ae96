#!/usr/bin/env python3
"""server/METRICS.md against the code: every family that a running daemon tells stands there with its type, labels and words,
and nothing else does.

    metrics_reference_test.py --binary build/bin/fake_mambad --mambactl build/bin/mambactl            checks it
    metrics_reference_test.py --binary ... --mambactl ... --write                                     writes its table
"""

import argparse
import difflib
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.request

from certificates import Authority
from server_process import ServerProcess

PAGE = pathlib.Path(__file__).resolve().parents[2] / "server/METRICS.md"
HEAD = "| metric | type | labels | what it tells |\n|---|---|---|---|\n"


def describe(text):
    """The table of a scrape, by name; of our own families."""
    rows = {}
    for line in text.splitlines():
        if found := re.match(r"# (HELP|TYPE) (mambad_\S+) (.*)", line):
            kind, name, words = found.groups()
            rows.setdefault(name, {"labels": set()})[kind] = words
        elif found := re.match(r"(mambad_\w+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? \S+$", line):
            name = found.group(1) if found.group(1) in rows else line.split("{")[0].split(" ")[0]
            rows[name]["labels"] |= set(re.findall(r'(\w+)="', found.group(2) or "")) - {"le"}
    return HEAD + "".join(
        f"| `{name}` | {row['TYPE']} | {', '.join(f'`{label}`' for label in sorted(row['labels']))} | {row['HELP']} |\n"
        for name, row in sorted(rows.items()))


def scrape(binary, mambactl):
    """What a daemon tells that has TLS and tokens, and has answered a call and refused another."""
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        authority = Authority(folder, "authority")
        certificate, key = authority.issue("server")
        tokens = folder / "tokens"
        token = subprocess.run([mambactl, "token", "create", "--file", tokens, "--principal", "reader"], check=True,
                               capture_output=True, text=True, timeout=60).stdout.strip()
        (folder / "token").write_text(token, encoding="utf-8")
        server = ServerProcess(binary, "fake", extra=["--tls-certificate", certificate, "--tls-key", key,
                                                      "--token-file", tokens])
        try:
            for tokens_wanted, code in (("3", 0), ("0", 1)):
                call = subprocess.run([mambactl, "generate", "--address", server.address, "--ca", authority.certificate,
                                       "--token-file", folder / "token", "--prompt", "hello", "--max-tokens", tokens_wanted],
                                      capture_output=True, text=True, timeout=60)
                if call.returncode != code:
                    sys.exit(f"--max-tokens {tokens_wanted}: {call.returncode}: {call.stderr}")
            with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=60) as answer:
                return answer.read().decode()
        finally:
            server.stop()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--mambactl", required=True)
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    table = describe(scrape(arguments.binary, arguments.mambactl))
    page = PAGE.read_text(encoding="utf-8")
    written = page[page.index(HEAD):]
    if arguments.write:
        PAGE.write_text(page[:page.index(HEAD)] + table, encoding="utf-8")
    elif written != table:
        print("server/METRICS.md is not what a daemon tells; this test's --write makes it so:")
        print("".join(difflib.unified_diff(written.splitlines(True), table.splitlines(True), "the page", "the daemon", n=0)))
        sys.exit(1)
    print(table.count("\n") - 2, "families")


if __name__ == "__main__":
    main()
