#!/usr/bin/env python3
"""The installed systemd unit: systemd reads it without a word, it starts the program that was installed with the
configuration that was, its drain fits into its time, and it is as closed as deploy/README.md says.

    systemd_unit_test.py --build FOLDER

Ends with 77 where systemd-analyze is not installed.
"""

import argparse
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run(*command):
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120)


def installed_unit(build, prefix):
    result = run("cmake", "--install", build, "--prefix", prefix)
    assert result.returncode == 0, result.stderr
    assert "u mambad " in (prefix / "lib/sysusers.d/mambad.conf").read_text()
    return prefix / "lib/systemd/system/mambad.service"


def check_programs(unit, prefix):
    program, flag, configuration = re.search(r"^ExecStart=(.*)$", unit.read_text(), re.M).group(1).split()
    assert program == str(prefix / "bin/mambad"), f"{unit}: starts {program}"
    assert flag == "--config" and configuration == str(prefix / "etc/mambad/mambad.yaml"), f"{unit}: with {configuration}"
    assert run(program, "--version").returncode == 0 and pathlib.Path(configuration).is_file()
    drain = int(re.search(r"^drain_timeout: (\d+)s$", pathlib.Path(configuration).read_text(), re.M).group(1))
    patience = int(re.search(r"^TimeoutStopSec=(\d+)$", unit.read_text(), re.M).group(1))
    assert patience > drain, f"{unit}: killed after {patience} s, while calls may go on for {drain} s"


def check_with_systemd(unit):
    result = run("systemd-analyze", "verify", unit)
    assert result.returncode == 0 and not result.stderr, f"systemd-analyze verify: {result.stderr}"
    broken = unit.with_name("broken.service")
    broken.write_text(unit.read_text().replace("ProtectHome=yes", "ProtectHomes=yes"))
    assert "ProtectHomes" in run("systemd-analyze", "verify", broken).stderr, "a wrong key was not found"

    told = float(re.search(r"systemd-analyze security.*?([0-9.]+) of 10", (ROOT / "deploy/README.md").read_text(),
                           re.S).group(1))
    result = run("systemd-analyze", "security", "--offline=true", "--no-pager", unit)
    found = float(re.search(r"Overall exposure level for \S+: ([0-9.]+)", result.stdout).group(1))
    assert found <= told, f"systemd-analyze security: {found}, deploy/README.md says {told}\n{result.stdout}"
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", required=True, type=pathlib.Path)
    build = parser.parse_args().build
    if not shutil.which("systemd-analyze"):
        print("skipped, for want of systemd-analyze")
        sys.exit(77)
    with tempfile.TemporaryDirectory() as folder:
        prefix = pathlib.Path(folder) / "opt"
        unit = installed_unit(build, prefix)
        check_programs(unit, prefix)
        print(f"mambad.service: systemd takes it; exposure {check_with_systemd(unit)} of 10")


if __name__ == "__main__":
    main()
