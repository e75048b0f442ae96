#!/usr/bin/env python3
"""The command line of mambad-models: it writes over nothing unasked, and says how it is used.

    mambad_models_test.py MAMBAD_MODELS

What it makes of models is tested where that is done (tests/trainer/formats). Needs no package.
"""

import os
import subprocess
import sys
import tempfile

SECONDS = 60  # far beyond what it takes on a busy machine


def main():
    program = os.path.abspath(sys.argv[1])
    failures = []

    def run(*arguments):
        done = subprocess.run([program, *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=SECONDS)
        return done.returncode, done.stdout + done.stderr

    def expect(what, good, found):
        if not good:
            failures.append(what)
            print(f"FAILED {what}: {found}")

    found = run("--help")
    expect("help", found[0] == 0 and "Usage: mambad-models" in found[1] and program not in found[1], found)
    found = run("--version")
    expect("version", found[0] == 0 and found[1].startswith("mambad-models "), found)
    for arguments, words in (([], "assemble or pack"), (["asemble"], '"asemble": expected a command, assemble or pack'),
                             (["assemble"], "--teacher is required"),
                             (["pack", "--most-distance", "far"], "--most-distance"),
                             (["assemble", "--teacher", "a", "--parts", "b", "--output", "c", "--overwite"],
                              '"--overwite": not expected here')):
        found = run(*arguments)
        expect(f"words for {arguments}", found[0] == 2 and words in found[1] and
               found[1].startswith("mambad-models: ") and found[1].count("\n") == 1, found)
    for arguments in ([], ["assemble"], ["unknown"], ["assemble", "--teacher", "a", "--parts", "b", "--outptu", "c"]):
        found = run(*arguments)
        expect(f"wrong usage {arguments}", found[0] == 2 and program not in found[1], found)
    with tempfile.TemporaryDirectory() as top:
        model, empty, file = (os.path.join(top, name) for name in ("model", "empty", "file"))
        os.mkdir(model)
        os.mkdir(empty)
        for path in (os.path.join(model, "config.json"), file):
            with open(path, "w") as out:
                out.write("precious")
        inputs = {"assemble": ["--teacher", "none", "--parts", "none"],
                  "pack": ["--teacher", "none", "--model", "none"]}
        for command, output in (("assemble", model), ("assemble", file), ("pack", file), ("pack", model)):
            found = run(command, *inputs[command], "--output", output)
            expect(f"{command} over {output}", found[0] == 2 and "--overwrite" in found[1] and output in found[1],
                   found)
        # Here it goes on to the inputs, which are not there.
        for output in (empty, os.path.join(top, "new")):
            found = run("assemble", *inputs["assemble"], "--output", output)
            expect(f"assemble to {output}", found[0] == 1 and "none" in found[1], found)
        found = run("assemble", *inputs["assemble"], "--output", model, "--overwrite")
        expect("assemble --overwrite", found[0] == 1 and "none" in found[1], found)
        for path in (os.path.join(model, "config.json"), file):
            with open(path) as kept:
                expect(f"{path} kept", kept.read() == "precious", "changed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
