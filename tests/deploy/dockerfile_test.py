#!/usr/bin/env python3
"""The image, as far as it can be seen without an engine: hadolint finds nothing in the Dockerfile, and the file system that
it makes of a build is small, lacks nothing, and serves as the image's user out of a root that nobody can write to.

    dockerfile_test.py [--build FOLDER]    without it only the Dockerfile is looked at

Ends with 77 where hadolint is not installed.
"""

import argparse
import contextlib
import os
import pathlib
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Of the image without the module for GPUs; and of that module, which is built for several of them there.
MOST_BYTES = 120_000_000
USER = 10001


def run(*command, **options):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=120, **options)
    assert result.returncode == 0, f"{command} ended with {result.returncode}: {result.stdout}{result.stderr}"
    return result.stdout


def lint(hadolint):
    # Versions of packages are the distribution's.
    run(hadolint, "--ignore", "DL3008", ROOT / "Dockerfile")
    text = (ROOT / "Dockerfile").read_text()
    with tempfile.NamedTemporaryFile("w", suffix="Dockerfile") as broken:
        broken.write(text.replace("RUN cmake", "RUN cd build && cmake"))
        broken.flush()
        assert subprocess.run([hadolint, "--ignore", "DL3008", broken.name], capture_output=True).returncode != 0
    # Whoever builds may choose the bases, and has a version of each where he does not.
    bases = [name for name in re.findall(r"^FROM (\S+)", text, re.M) if name != "scratch"]
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", text, re.M))
    assert {"cpu", "gpu", "trainer"} <= stages
    for base in bases:
        argument = re.fullmatch(r"\$\{(\w+)\}", base)
        assert base in stages or argument, f"FROM {base}"
        if argument:
            assert re.search(rf"^ARG {argument.group(1)}=\S+:\S+$", text, re.M), f"no version of {base}"


def make_image(build, image):
    """What the Dockerfile does behind the build, and folders that an engine adds."""
    run("cmake", "--install", build, "--prefix", "/usr", "--strip", env=os.environ | {"DESTDIR": str(image)})
    run(ROOT / "deploy/image_files.sh", image)
    # What this build may have for the GPUs of this machine says nothing about the image's.
    (image / "usr/lib/mambad/libmambad_cuda.so").unlink(missing_ok=True)
    size = sum(path.lstat().st_size for path in image.rglob("*"))
    assert size < MOST_BYTES, f"{size} bytes"
    programs = {path.name for path in (image / "usr/bin").iterdir()}
    assert programs == {"mambad", "mambactl", "tini"}, programs
    unlicensed = {path.name for path in (image / "var/lib/dpkg/status.d").iterdir()} - \
        {path.parent.name for path in image.glob("usr/share/doc/*/copyright")}
    assert not unlicensed, unlicensed
    for name in ("proc", "dev"):
        (image / name).mkdir()
    return size


@contextlib.contextmanager
def container(image, *command):
    """The command as process 1 of process and mount namespaces of its own, its root read-only."""
    script = ('mount --bind "$0" "$0" && mount -t proc proc "$0/proc" && mount --bind /dev "$0/dev" && '
              f'mount -o remount,bind,ro "$0" && exec chroot --userspec={USER}:{USER} "$0" "$@"')
    process = subprocess.Popen(["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, image, *command],
                               stdout=subprocess.PIPE, text=True, env={"PATH": "/usr/bin:/usr/sbin:/sbin:/bin"})
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


def serve(image):
    models = "/usr/share/mambad/models/stories"
    entry = re.search(r"^ENTRYPOINT (\[\"tini\", \"--\", \"mambad\".*\])$", (ROOT / "Dockerfile").read_text(), re.M).group(1)
    command = [word for word in re.findall(r'"([^"]*)"', entry)]
    with container(image, *command, "--model", f"{models}/target", "--draft", f"{models}/draft", "--listen", "127.0.0.1:0",
                   "--metrics", "") as process:
        assert select.select([process.stdout], [], [], 60)[0], "not ready within 60 s"
        address = re.search(r"grpc (\S+)", process.stdout.readline()).group(1)
        client = ["chroot", f"--userspec={USER}:{USER}", image, "mambactl"]
        assert "SERVING" in run(*client, "health", "--address", address)
        assert run(*client, "generate", "--address", address, "--prompt", "Once upon a time", "--max-tokens", "8").strip()
        # The init hands the signal on, and the daemon's exit code back.
        children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[0]), signal.SIGTERM)
        assert process.wait(timeout=60) == 0, "the drain failed"


def can_contain():
    """Whether this process may make namespaces and mount."""
    return os.geteuid() == 0 and subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"],
                                                capture_output=True).returncode == 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build", type=pathlib.Path)
    build = parser.parse_args().build
    hadolint = shutil.which("hadolint", path=f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}")
    if not hadolint:
        print("skipped, for want of hadolint")
        sys.exit(77)
    lint(hadolint)
    if not build or not can_contain() or not shutil.which("tini-static"):
        print("the Dockerfile is good; what it makes was not tried, for want of a build, of rights, or of tini")
        return
    with tempfile.TemporaryDirectory() as folder:
        image = pathlib.Path(folder) / "image"
        size = make_image(build, image)
        serve(image)
    print(f"the Dockerfile is good; the image without the module for GPUs has {size / 1e6:.1f} MB, and serves")


if __name__ == "__main__":
    main()
