#!/usr/bin/env python3
"""The examples of deploy/examples, by the commands of its README as they stand there, against a daemon. Packages are not
fetched: this Python has them.

    examples_test.py --binary build/bin/mambad --model PATH [--chat]
"""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from server_process import ServerProcess, closed_port

ROOT = pathlib.Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "deploy/examples"


def check(holds, words):
    if not holds:
        raise AssertionError(words)


def commands(title):
    """The commands of the README's section, one each; continued lines are one."""
    section = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", (EXAMPLES / "README.md").read_text(encoding="utf-8"),
                        re.S | re.M).group(1)
    lines = "\n".join(line[4:] for line in section.splitlines() if line.startswith("    "))
    return lines.replace("\\\n", " ").splitlines()


def run(command, folder, expected=0):
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, timeout=600,
                          env=dict(os.environ, no_grpc_proxy="127.0.0.1"))
    check(done.returncode == expected, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout, done.stderr


def check_python(folder, address, chat):
    # The environment is this one.
    install, make, ask = commands("Python")
    check("pip install grpcio grpcio-tools" in install, install)
    here = lambda command: command.replace("build/client/bin/python", sys.executable)
    (folder / "build/client").mkdir(parents=True)
    run(here(make), folder)
    ask = here(ask).replace("ask.py", f"ask.py --address {address}")
    text, told = run(ask, folder)
    check(len(text.strip()) > 20, f"an answer: {text!r}")
    check(re.search(r"^(LENGTH|EOS): \d+ tokens, \d+ of \d+ drafts accepted$", told, re.M), told)
    _, told = run(ask + " --max-tokens 0", folder, expected=1)
    check(told.startswith("INVALID_ARGUMENT: stopping.max_tokens"), told)
    _, told = run(ask.replace(address, closed_port()), folder, expected=1)
    check(told.startswith("UNAVAILABLE: "), told)
    if not chat:
        return
    text, _ = run(ask + " --chat", folder)
    check(text.strip(), "an answer to a question")
    text, _ = run(f"PYTHONPATH=build/client {sys.executable} deploy/examples/keep_session.py {address} 'My name is Ada.' "
                  "'What is my name?'", folder)
    prompts = [tuple(map(int, found)) for found in re.findall(r"\[(\d+) tokens of prompt, (\d+) of them kept", text)]
    check(len(prompts) == 2 and prompts[0][1] == 0 < prompts[1][1] < prompts[1][0], prompts)


def check_cpp(folder, address):
    *make, ask = commands("C++")
    check(len(make) == 3, make)
    for command in make:
        run(command, folder)
    text, _ = run(f"{ask} {address}", folder)
    check(len(text.strip()) > 20, f"an answer: {text!r}")
    _, told = run(f"{ask} {closed_port()}", folder, expected=1)
    check(told.startswith("code 14: "), told)
    run("build/client/ask", folder, expected=2)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--chat", action="store_true", help="it is a chat model")
    arguments = parser.parse_args()
    named = re.findall(r"\]\(([a-z_]+\.\w+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    there = {path.name for path in EXAMPLES.iterdir()} - {"README.md", "ask.cc"}
    check(set(named) == there, f"the README names {named}, there are {there}")
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for part in ("proto", "deploy"):
            (folder / part).symlink_to(ROOT / part)
        server = ServerProcess(arguments.binary, arguments.model)
        try:
            check_python(folder, server.address, arguments.chat)
            check_cpp(folder, server.address)
        finally:
            code = server.stop()
        check(code == 0, f"exit code {code}")
    print("the examples work")


if __name__ == "__main__":
    main()
