#!/usr/bin/env python3
"""The sample configurations are ones that mambad takes: each is checked by the daemon program itself, with the files that
it names put where it looks.

    configuration_test.py --mambad PROGRAM --mambactl PROGRAM --models FOLDER
"""

import argparse
import pathlib
import re
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
import certificates  # noqa: E402  (beside the end-to-end tests)

SAMPLES = ROOT / "deploy" / "configurations"


def place_files(folder, mambactl, models):
    """What samples name, under `folder`; returns what to write instead of a path's beginning."""
    files = folder / "etc"
    files.mkdir()
    certificate, key = certificates.Authority(files, "proxies").issue("server")
    certificate.rename(files / "certificate.pem")
    key.rename(files / "key.pem")
    subprocess.run([mambactl, "token", "create", "--file", folder / "etc/tokens", "--principal", "a"], check=True,
                   stdout=subprocess.DEVNULL)
    return {"/etc/mambad/": f"{files}/", "/var/lib/mambad/": f"{folder}/", "/srv/models/": f"{models}/",
            "/usr/share/mambad/models/stories/": f"{models}/",
            # The chart's.
            "/run/mambad/tls/tls.crt": f"{files}/certificate.pem", "/run/mambad/tls/tls.key": f"{files}/key.pem",
            "/run/mambad/tls/ca.crt": f"{files}/proxies.pem", "/run/mambad/auth/": f"{files}/", " /models/": f" {models}/"}


def check(mambad, text, folder):
    """The exit code of --check-config on the computer at hand, whichever device it has, and what was said."""
    path = folder / "checked.yaml"
    path.write_text(text)
    result = subprocess.run([mambad, "--config", path, "--check-config", "--device", "cpu"], capture_output=True,
                            text=True, timeout=60)
    return result.returncode, result.stdout + result.stderr


def main():
    parser = argparse.ArgumentParser()
    for name in ("--mambad", "--mambactl", "--models"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    samples = sorted(SAMPLES.glob("*.yaml"))
    assert len(samples) >= 3, f"{SAMPLES}: no samples"
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        places = place_files(folder, options.mambactl, options.models)
        for sample in samples:
            text = sample.read_text()
            for path, instead in places.items():
                text = text.replace(path, instead)
            named = re.findall(r'(?m)^[^#\n]*:\s+"?(/[^\s"]+)', text)
            foreign = [path for path in named if not path.startswith((str(folder), options.models))]
            assert not foreign, f"{sample.name}: names files that no test knows: {foreign}"
            code, said = check(options.mambad, text, folder)
            assert code == 0, f"{sample.name}: --check-config ended with {code}: {said}"
            # What is wrong in one would be found.
            code, said = check(options.mambad, text + "\nbatch_size: 4\n", folder)
            assert code == 2 and "batch_size" in said, f"{sample.name}: an unknown key was not found: {code}, {said}"
            print(f"{sample.name}: good")


if __name__ == "__main__":
    main()
