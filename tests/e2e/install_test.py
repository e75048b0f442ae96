#!/usr/bin/env python3
"""The installed layout serves: `cmake --install` into an empty folder, then the programs there alone.

    install_test.py --build FOLDER
"""

import argparse
import pathlib
import re
import select
import subprocess
import tempfile


def run(*command, **options):
    """Its output; an error with what it said when it fails."""
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, **options)
    assert result.returncode == 0, f"{command} ended with {result.returncode}:\n{result.stdout}{result.stderr}"
    return result.stdout


def serve(prefix):
    """Starts the installed daemon with the installed configuration on the installed story model, and asks it."""
    models = prefix / "share/mambad/models/stories"
    daemon = subprocess.Popen(
        [prefix / "bin/mambad", "--config", prefix / "etc/mambad/mambad.yaml", "--model", models / "target", "--draft",
         models / "draft", "--listen", "127.0.0.1:0", "--metrics", ""], stdout=subprocess.PIPE, text=True)
    try:
        assert select.select([daemon.stdout], [], [], 120)[0], "not ready within 120 s"
        address = re.search(r"grpc (\S+)", daemon.stdout.readline()).group(1)
        return run(prefix / "bin/mambactl", "--address", address, "generate", "--prompt", "Once upon a time",
                   "--max-tokens", "8")
    finally:
        daemon.terminate()
        assert daemon.wait(60) == 0, "the drain failed"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True, type=pathlib.Path)
    build = parser.parse_args().build
    with tempfile.TemporaryDirectory() as folder:
        prefix = pathlib.Path(folder) / "opt"
        run("cmake", "--install", build, "--prefix", prefix)
        for name in ("LICENSE", "README.md"):
            assert list(prefix.glob(f"share/doc/*/{name}")), f"{name} was not installed"
        for program in ("mambad", "mambactl"):
            page = (prefix / f"share/man/man1/{program}.1").read_text(encoding="utf-8")
            assert page.startswith(f".TH {program.upper()} 1 "), page[:80]
            run("bash", "-c", f"source {prefix}/share/bash-completion/completions/{program} && complete -p {program}")
            for place, words in ((f"zsh/site-functions/_{program}", f"#compdef {program}\n"),
                                 (f"fish/vendor_completions.d/{program}.fish", f"# fish completion of {program},")):
                script = (prefix / "share" / place).read_text(encoding="utf-8")
                assert script.startswith(words), f"{place}: {script[:80]}"
        for path in prefix.rglob("*"):
            assert not path.name.startswith("."), f"{path} is of no use there"
        for program in ("mambad", "mambactl", "mambad-models"):
            run(prefix / "bin" / program, "--help")
        answer = serve(prefix)
        assert answer.strip(), "an empty answer"

        # What an operator wrote stays.
        configuration = prefix / "etc/mambad/mambad.yaml"
        configuration.write_text("model: mine\n")
        run("cmake", "--install", build, "--prefix", prefix)
        assert configuration.read_text() == "model: mine\n", "the configuration was written over"
    print("installed, served, left what was there")


if __name__ == "__main__":
    main()
