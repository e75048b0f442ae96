#!/usr/bin/env python3
"""Checks that the tree keeps its shape: who includes whom, what lies on top, how long files get, what names say, how much
models in the box weigh.

    check_structure.py [ROOT]      checks the repository ROOT (default: the one this file is in); exit 1 on violations
    check_structure.py --self-test plants every kind of violation in trees of its own and wants each one found

Reads only files that git knows or would add; without git, everything but build folders.
"""

import fnmatch
import os
import re
import subprocess
import sys
import tempfile

# ---- the rules ------------------------------------------------------------------------------------------------------

# What may lie on top of the repository.
TOP_LEVEL = {
    "CMakeLists.txt", "CMakePresets.json", "Dockerfile", "README.md", "LICENSE",
    ".clang-format", ".clang-tidy", ".gitignore", ".gitattributes", ".dockerignore", ".ci",
    "proto", "server", "engine", "kernels", "trainer", "deploy", "tests",
}

# For each folder, the longest prefix counts: which of our headers (path patterns; `*` stays inside one folder, `**` does
# not) and which foreign libraries its files may include. The standard library and POSIX are always allowed.
RULES = {
    "kernels": (["kernels/**"], ["highway", "simd"]),
    # The two backends must not know each other.
    "kernels/cpu": (["kernels/*.h", "kernels/cpu/**"], ["highway", "simd"]),
    "kernels/cuda": (["kernels/*.h", "kernels/cuda/**"], ["cuda"]),
    "engine": (["engine/**", "kernels/*.h"], ["absl", "json"]),
    "engine/json": (["engine/json/**"], ["absl", "json"]),
    "engine/checkpoint": (["engine/checkpoint/**", "engine/digest/**", "engine/json/**"], ["absl", "json"]),
    "engine/digest": (["engine/digest/**"], ["absl", "openssl"]),
    "engine/text": (["engine/text/**", "engine/json/**"], ["absl", "json", "sentencepiece", "pcre2", "utf8proc"]),
    # A language of its own: nothing of tokenizers, models or conversations.
    "engine/text/jinja": (["engine/text/jinja/**"], ["absl", "utf8proc"]),
    "server": (
        ["server/**", "engine/digest/*.h", "engine/engine.h", "engine/field_errors.h", "engine/json/*.h", "engine/memory_plan.h",
         "engine/mutex.h", "engine/options.h", "engine/parameter_checks.h", "engine/request.h", "engine/retry_delay.h", "engine/session.h",
         "engine/steady_time.h", "engine/text/*.h",
         "mambad/v1/*.pb.h", "vllm/**", "google/rpc/*.pb.h", "grpc/health/v1/*.pb.h"],
        ["absl", "json", "grpc", "protobuf", "yaml", "prometheus", "spdlog", "cli11", "openssl", "edit", "compression"]),
    "proto": ([], []),
    "trainer": (
        ["trainer/**", "engine/checkpoint/**", "engine/digest/*.h", "engine/json/**", "engine/text/**", "kernels/*.h",
         "kernels/cpu/training/*.h", "kernels/cpu/machine.h", "kernels/cpu/thread_pool.h", "kernels/cuda/training/*.h"],
        ["absl", "json", "torch", "yaml", "cli11", "cuda", "compression", "sentencepiece"]),
    # What the tool of deploy/ shares with the trainer: built where there is no LibTorch.
    "trainer/formats": (
        ["trainer/formats/**", "engine/checkpoint/**", "engine/digest/*.h", "engine/json/**"], ["absl", "json"]),
    "deploy": (["deploy/**", "trainer/formats/*.h"], ["absl", "cli11"]),
    # Clients as others would write them: of ours they know the wire contract alone.
    "deploy/examples": (["mambad/v1/*.pb.h"], ["grpc"]),
}
# Tests may include anything.
UNRULED = ("tests",)

# Foreign headers, by the first pattern that fits.
LIBRARIES = [
    ("absl", ["absl/**"]),
    ("json", ["nlohmann/**"]),
    ("highway", ["hwy/**"]),
    ("simd", ["immintrin.h", "x86intrin.h", "cpuid.h", "arm_neon.h", "arm_sve.h"]),
    ("sentencepiece", ["sentencepiece_*.h"]),
    ("pcre2", ["pcre2.h"]),
    ("utf8proc", ["utf8proc.h"]),
    ("grpc", ["grpc/**", "grpcpp/**"]),
    ("protobuf", ["google/protobuf/**"]),
    ("yaml", ["yaml-cpp/**"]),
    ("prometheus", ["prometheus/**"]),
    ("spdlog", ["spdlog/**"]),
    ("cli11", ["CLI/**"]),
    ("openssl", ["openssl/**"]),
    ("edit", ["histedit.h"]),
    ("torch", ["torch/**", "ATen/**", "c10/**"]),
    ("cuda", ["cuda*.h", "cublas*.h", "nccl.h", "cub/**", "cuda/**", "cooperative_groups*"]),
    ("compression", ["zlib.h", "lzma.h"]),
    ("compiler", ["sanitizer/*.h"]),
    ("posix", ["unistd.h", "fcntl.h", "sched.h", "signal.h", "pthread.h", "poll.h", "string.h", "strings.h", "stdio.h", "malloc.h",
               "stdlib.h", "stdint.h", "stddef.h", "math.h", "errno.h", "time.h", "dirent.h", "netdb.h", "termios.h",
               "dlfcn.h", "getopt.h", "spawn.h", "langinfo.h", "sys/*.h", "netinet/*.h", "arpa/*.h", "linux/*.h"]),
]

MAX_LINES = 600
MAX_COLUMNS = 100  # of C++
# Longer on purpose, by path, each with why.
LONG_FILES = {}
SOURCE_SUFFIXES = (".h", ".cc", ".cpp", ".cu", ".cuh", ".py", ".sh", ".proto")
CXX_SUFFIXES = (".h", ".cc", ".cpp", ".cu", ".cuh")
TEXT_SUFFIXES = SOURCE_SUFFIXES + (".md", ".txt", ".cmake", ".yaml", ".yml", ".json")

# Where the wall clock may be asked, which may step: whatever waits or times out goes by engine/steady_time.h.
WALL_CLOCK = re.compile(r"\babsl::Now\(\)")
ON_STEADY_TIME = ("engine/**", "server/*", "server/network/*")
ON_THE_WALL_CLOCK = {
    "engine/steady_time.h": "names it",
    "server/daemon.cc": "gRPC's own deadlines",
    "server/request_log.cc": "when a line was written",
}

# What a folder may weigh in all, bytes: every clone carries it.
MAX_BYTES = {
    "deploy/models": 36_000_000,
    "deploy/models/stories/target": 10_000_000,
    "deploy/models/stories/draft": 2_000_000,
}

# Put together here, so that this file does not find itself.
UNFINISHED = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "XX" + "X"]) + r")\b")
EMPTY_NAMES = {"util", "utils", "helper", "helpers", "common", "misc", "stuff"}
# Data that others wrote keeps their words.
FOREIGN_DATA = ("**/testdata/**", "tests/fuzz/corpus/**", "tests/golden/**")

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')
# Highway's way of compiling one file for many instruction sets.
INCLUDES_ITSELF = re.compile(r'^\s*#\s*define\s+HWY_TARGET_INCLUDE\s+"([^"]+)"')

# ---- the checks -----------------------------------------------------------------------------------------------------


def matches(path, pattern):
    """Whether path fits pattern: `**` any path, `*` any name part."""
    regex = re.escape(pattern)
    regex = regex.replace(r"\*\*/", "(?:.*/)?").replace(r"\*\*", ".*").replace(r"\*", "[^/]*")
    return re.fullmatch(regex, path) is not None


def library_of(header):
    """The foreign library a header belongs to; None: unknown. Standard C++ headers have neither folder nor suffix."""
    if re.fullmatch(r"[a-z_0-9]+", header):
        return "standard"
    for name, patterns in LIBRARIES:
        if any(matches(header, pattern) for pattern in patterns):
            return name
    return None


def rule_of(path):
    """The folder whose rule governs path; None: no rule."""
    folders = [folder for folder in RULES if path.startswith(folder + "/")]
    return max(folders, key=len) if folders else None


def check_include(path, line, header):
    """Violations of one include."""
    folder = rule_of(path)
    if folder is None:
        return []
    ours, libraries = RULES[folder]
    where = f"{path}:{line}: includes {header}"
    if any(matches(header, pattern) for pattern in ours):
        return []
    if header.split("/")[0] in TOP_LEVEL or header.endswith(".pb.h"):
        return [f"{where}: {folder} may include of ours only {', '.join(ours) or 'nothing'}"]
    library = library_of(header)
    if library is None:
        return [f"{where}: neither a path from the repository's root nor a library this check knows"]
    if library in ("standard", "compiler", "posix") or library in libraries:
        return []
    return [f"{where}: {folder} may not use {library} (it may: {', '.join(libraries) or 'none'})"]


def check_cxx(path, text):
    found = []
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        include = INCLUDE.match(line)
        if include:
            found += check_include(path, number, include.group(2))
        if (WALL_CLOCK.search(line) and path not in ON_THE_WALL_CLOCK
                and any(matches(path, pattern) for pattern in ON_STEADY_TIME)):
            found.append(f"{path}:{number}: the wall clock may step: SteadyNow()")
        # A text in quotes may be longer: clang-format leaves it whole.
        if len(line) > MAX_COLUMNS and '"' not in line:
            found.append(f"{path}:{number}: {len(line)} columns, over {MAX_COLUMNS}")
    if path.endswith(".h") and not path.endswith("-inl.h"):
        guard = "MAMBAD_" + re.sub(r"[^A-Za-z0-9]", "_", path).upper() + "_"
        if f"#ifndef {guard}" not in lines:
            found.append(f"{path}: include guard should be {guard}")
    return found


def check_file(path, text):
    """Violations inside one file."""
    found = []
    if any(matches(path, pattern) for pattern in FOREIGN_DATA):
        return found
    stem = os.path.basename(path).split(".")[0].lower()
    if path.endswith(SOURCE_SUFFIXES) and EMPTY_NAMES & set(re.split(r"[_-]", stem)):
        found.append(f"{path}: the name says nothing about the content")
    if path.endswith(CXX_SUFFIXES):
        found += check_cxx(path, text)
    if path.endswith(SOURCE_SUFFIXES) and path not in LONG_FILES:
        length = text.count("\n")
        if length > MAX_LINES:
            found.append(f"{path}: {length} lines, over {MAX_LINES}: cut it where it has a joint")
    if path.endswith(TEXT_SUFFIXES):
        for number, line in enumerate(text.split("\n"), 1):
            if UNFINISHED.search(line):
                found.append(f"{path}:{number}: unfinished: {line.strip()}")
    return found


def check_weights(root, paths):
    """Violations of the bounds on whole folders."""
    found = []
    for folder, most in MAX_BYTES.items():
        inside = [os.path.join(root, path) for path in paths if path.startswith(folder + "/")]
        weight = sum(os.path.getsize(path) for path in inside if os.path.isfile(path))
        if weight > most:
            found.append(f"{folder}: {weight} bytes in all, allowed {most}")
    return found


def check_tree(root):
    """All violations of the repository at root, as lines."""
    paths = list_files(root)
    found = []
    for entry in sorted({path.split("/")[0] for path in paths} - TOP_LEVEL):
        found.append(f"{entry}: does not belong on top of the repository")
    for path in paths:
        if not path.endswith(TEXT_SUFFIXES) or not os.path.isfile(os.path.join(root, path)):
            continue
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as file:
            found += check_file(path, file.read())
    for path in sorted(LONG_FILES):
        full = os.path.join(root, path)
        if os.path.isfile(full) and sum(1 for _ in open(full, encoding="utf-8")) <= MAX_LINES:
            found.append(f"{path}: is not over {MAX_LINES} lines any more: take it off the list of long files")
    found += check_weights(root, paths)
    return found, paths


def list_files(root):
    command = ["git", "-c", "safe.directory=*", "-C", root, "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n")
        return sorted(path for path in listed if path and os.path.lexists(os.path.join(root, path)))
    except (OSError, subprocess.CalledProcessError):
        pass
    paths = []
    for folder, folders, files in os.walk(root):
        folders[:] = [name for name in folders if name not in (".git", ".cache", "__pycache__")
                      and not (folder == root and fnmatch.fnmatch(name, "build*"))]
        paths += [os.path.relpath(os.path.join(folder, name), root) for name in files]
    return sorted(paths)


# ---- the check of the checks ----------------------------------------------------------------------------------------

# path -> (content or, as a number, its bytes; words that the violation must contain, None: must be clean)
PLANTED = [
    ("kernels/cpu/a.cc", '#include <vector>\n#include "kernels/backend.h"\n#include "hwy/highway.h"\n', None),
    ("kernels/a.cc", '#include "engine/options.h"\n', "kernels may include of ours only"),
    ("kernels/cpu/b.cc", '#include "absl/status/status.h"\n', "may not use absl"),
    ("kernels/cpu/c.cc", '#include "kernels/cuda/check.h"\n', "kernels/cpu may include of ours only"),
    ("kernels/cpu/d.cc", "#include <torch/torch.h>\n", "may not use torch"),
    ("engine/checkpoint/a.cc", '#include "kernels/tensor.h"\n', "engine/checkpoint may include"),
    ("engine/checkpoint/b.cc", '#include "engine/options.h"\n', "engine/checkpoint may include"),
    ("engine/text/a.cc", '#include "engine/request.h"\n', "engine/text may include"),
    ("engine/text/jinja/a.cc", '#include "engine/text/tokenizer.h"\n', "engine/text/jinja may include of ours only"),
    ("engine/text/jinja/b.cc", '#include <nlohmann/json.hpp>\n', "engine/text/jinja may not use json"),
    ("engine/text/b.cc", "#include <pcre2.h>\n#include <sys/mman.h>\n", None),
    ("engine/model/a.cc", '#include "kernels/backend.h"\n#include "engine/text/tokenizer.h"\n', None),
    ("engine/a.cc", '#include "kernels/cpu/linear.h"\n', "engine may include of ours only"),
    ("engine/b.cc", '#include "server/daemon.h"\n', "engine may include of ours only"),
    ("engine/c.cc", "#include <grpcpp/grpcpp.h>\n", "may not use grpc"),
    ("engine/d.cc", '#include "mambad/v1/generation.pb.h"\n', "engine may include of ours only"),
    ("server/a.cc", '#include "engine/engine.h"\n#include "mambad/v1/generation.grpc.pb.h"\n#include <CLI/CLI.hpp>\n', None),
    ("server/a.cc", '#include "grpc/health/v1/health.grpc.pb.h"\n', None),
    ("engine/e.cc", '#include "grpc/health/v1/health.grpc.pb.h"\n', "engine may include of ours only"),
    ("server/b.cc", '#include "kernels/backend.h"\n', "server may include of ours only"),
    ("server/c.cc", '#include "engine/engine_core.h"\n', "server may include of ours only"),
    ("server/cli/d.cc", '#include "engine/state/state_pool.h"\n', "server may include of ours only"),
    ("trainer/a.cc", '#include "engine/engine.h"\n', "trainer may include of ours only"),
    ("trainer/b.cc", "#include <grpcpp/grpcpp.h>\n", "may not use grpc"),
    ("trainer/formats/a.cc", "#include <ATen/ATen.h>\n", "trainer/formats may not use torch"),
    ("trainer/formats/b.cc", '#include "trainer/corpus.h"\n', "trainer/formats may include of ours only"),
    ("deploy/a.cc", '#include "trainer/corpus.h"\n', "deploy may include of ours only"),
    ("server/e.cc", '#include "daemon.h"\n', "neither a path from the repository's root"),
    ("server/f.cc", "#include <boost/asio.hpp>\n", "neither a path from the repository's root"),
    ("tests/engine/a_test.cc", '#include "kernels/cpu/linear.h"\n#include <gtest/gtest.h>\n', None),
    ("engine/right.h", "#ifndef MAMBAD_ENGINE_RIGHT_H_\n", None),
    ("engine/wrong.h", "#ifndef ENGINE_WRONG_H\n", "include guard should be MAMBAD_ENGINE_WRONG_H_"),
    ("engine/string_utils.cc", "\n", "name says nothing"),
    ("engine/long.cc", "\n" * (MAX_LINES + 1), "lines, over"),
    ("engine/full.cc", "\n" * MAX_LINES, None),
    ("engine/wide.cc", "// " + "x" * (MAX_COLUMNS - 2) + "\n", "101 columns, over 100"),
    ("engine/narrow.cc", "// " + "x" * (MAX_COLUMNS - 3) + "\n", None),
    ("engine/quoted.cc", '  "' + "x" * MAX_COLUMNS + '",\n', None),
    ("server/network/clock.cc", "const absl::Time end = absl::Now() + patience;\n", "the wall clock may step"),
    ("engine/clock.cc", "if (absl::Now() > end) {\n", "the wall clock may step"),
    ("server/request_log.cc", "Format(absl::Now());\n", None),
    ("server/cli/clock.cc", "absl::Now();\n", None),
    ("engine/late.cc", "// TO" + "DO: later\n", "unfinished"),
    ("deploy/late.sh", "# FIX" + "ME\n", "unfinished"),
    ("notes.txt", "\n", "does not belong on top"),
    ("scripts/run.sh", "\n", "does not belong on top"),
    ("tests/fuzz/corpus/x/seed.json", "TO" + "DO\n", None),
    ("deploy/models/any/model.gguf", 36_000_000, None),
    ("deploy/models/any/model.gguf", 36_000_001, "deploy/models: 36000001 bytes in all, allowed 36000000"),
    ("deploy/models/stories/target/model.safetensors", 10_000_001, "stories/target: 10000001 bytes in all"),
    ("deploy/models/stories/draft/model.safetensors", 2_000_001, "stories/draft: 2000001 bytes in all"),
]


def self_test():
    failures = []
    for path, content, wanted in PLANTED:
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(os.path.join(root, os.path.dirname(path)), exist_ok=True)
            with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                if isinstance(content, int):
                    file.truncate(content)
                else:
                    file.write(content)
            found, _ = check_tree(root)
            if wanted is None and found:
                failures.append(f"{path}: should be clean, but: {found}")
            if wanted is not None and (len(found) != 1 or wanted not in found[0]):
                failures.append(f"{path}: wanted one line with '{wanted}', got: {found}")
    return failures


def main(arguments):
    if arguments == ["--self-test"]:
        failures = self_test()
        print("\n".join(failures) if failures else f"self-test: {len(PLANTED)} planted trees judged rightly")
        return 1 if failures else 0
    root = arguments[0] if arguments else os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    found, paths = check_tree(os.path.abspath(root))
    if not paths:
        found = [f"{root}: no files found"]
    print("\n".join(found) if found else f"structure: {len(paths)} files keep the rules")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
