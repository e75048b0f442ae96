#!/usr/bin/env python3
"""Compiles what has locks with clang's thread-safety analysis: every access to a guarded member must hold its mutex.

    check_thread_safety.py CLANG BUILD   checks engine/ and server/ of the repository this file is in, with the flags of
                                         BUILD/compile_commands.json; exit 1 on violations
    check_thread_safety.py CLANG --self-test
                                         plants every kind of violation and wants each one found

Locks are those of engine/mutex.h: the analysis knows no others, so others are violations. Files that reach that header
by no include have nothing to analyse and are left out.
"""

import concurrent.futures
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
FOLDERS = ("engine/", "server/")
LOCKS = "engine/mutex.h"
UNKNOWN_LOCK = re.compile(r"\b(std::(\w+_)?mutex|std::condition_variable\w*|absl::Mutex|pthread_mutex_t)\b")
# A lock that a library takes and gives back by itself.
LIBRARY_LOCK = re.compile(r"spdlog::sinks::base_sink<std::mutex>")
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"', re.MULTILINE)
FLAGS = ["-fsyntax-only", "-Wno-everything", "-Wthread-safety", "-Wthread-safety-beta", "-Werror"]


def read(root, path):
    full = os.path.join(root, path)
    if not os.path.isfile(full):
        return ""
    with open(full, encoding="utf-8") as file:
        return file.read()


def has_locks(root, path, seen):
    """Whether path reaches the header of locks by includes of ours."""
    if path == LOCKS:
        return True
    if path in seen:
        return False
    seen.add(path)
    return any(has_locks(root, header, seen) for header in INCLUDE.findall(read(root, path)))


def unknown_locks(root):
    found = []
    for top in FOLDERS:
        for folder, _, names in os.walk(os.path.join(root, top)):
            for name in sorted(names):
                path = os.path.relpath(os.path.join(folder, name), root)
                if not name.endswith((".h", ".cc")) or path == LOCKS:
                    continue
                for number, line in enumerate(read(root, path).split("\n"), 1):
                    lock = UNKNOWN_LOCK.search(LIBRARY_LOCK.sub("", line.split("//")[0]))
                    if lock:
                        found.append(f"{path}:{number}: {lock.group(0)}: a lock the analysis does not know; "
                                     f"{LOCKS} has one it knows")
    return found


def wanted_flags(command):
    """Of the build's own command what decides the meaning of the source."""
    flags = []
    words = iter(command)
    for word in words:
        if word in ("-isystem", "-I", "-D"):
            flags += [word, next(words)]
        elif word.startswith(("-I", "-D", "-std=", "-isystem")):
            flags.append(word)
    return flags


def compile_one(clang, root, entry):
    """What clang says of one file; empty: nothing."""
    words = shlex.split(entry["command"])
    command = [clang, *wanted_flags(words), *FLAGS, entry["file"]]
    done = subprocess.run(command, cwd=entry["directory"], capture_output=True, text=True)
    return done.stderr if done.returncode != 0 else ""


def check(clang, root, entries):
    """Violations as texts, and how many files were compiled."""
    chosen = {}
    for entry in entries:
        path = os.path.relpath(os.path.join(entry["directory"], entry["file"]), root)
        if path.startswith(FOLDERS) and path.endswith(".cc") and has_locks(root, path, set()):
            chosen.setdefault(path, entry)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        said = list(pool.map(lambda entry: compile_one(clang, root, entry), chosen.values()))
    return unknown_locks(root) + [text for text in said if text], len(chosen)


# ---- self-test ------------------------------------------------------------------------------------------------------

GOOD = """#include "engine/mutex.h"
class Counter {
 public:
  void Add() { mambad::MutexLock lock(&mutex_); %s; }
  int Read() { %s }
 private:
  void AddLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { ++count_; }
  mambad::Mutex mutex_;
  int count_ ABSL_GUARDED_BY(mutex_) = 0;
};
void Use() { Counter counter; counter.Add(); counter.Read(); }
"""
LOCKED_READ = "mambad::MutexLock lock(&mutex_); return count_;"
CASES = [
    (GOOD % ("++count_", LOCKED_READ), None),
    (GOOD % ("AddLocked()", LOCKED_READ), None),
    (GOOD % ("++count_", "return count_;"), "reading variable 'count_' requires holding mutex 'mutex_'"),
    (GOOD % ("++count_", "AddLocked(); return 0;"), "requires holding mutex 'mutex_' exclusively"),
    (GOOD % ("mambad::MutexLock again(&mutex_)", LOCKED_READ), "already held"),
    (GOOD % ("++count_", "mutex_.Lock(); return count_;"), "still held at the end of function"),
    ("#include <mutex>\nstd::mutex lock;\n", "a lock the analysis does not know"),
]


def self_test(clang):
    failed = 0
    for text, wanted in CASES:
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(os.path.join(root, "engine"))
            headers = [LOCKS, *(each for each in INCLUDE.findall(read(ROOT, LOCKS)) if each.startswith(FOLDERS))]
            for path, content in (*((each, read(ROOT, each)) for each in headers), ("engine/a.cc", text)):
                with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                    file.write(content)
            command = f"c++ -std=c++20 -I{root} -c {root}/engine/a.cc"
            entries = [{"directory": root, "file": f"{root}/engine/a.cc", "command": command}]
            found, _ = check(clang, root, entries)
            if (wanted is None and found) or (wanted and not any(wanted in each for each in found)):
                failed += 1
                print(f"wanted {wanted}, found {found} in:\n{text}")
    print(f"thread safety: {len(CASES) - failed} of {len(CASES)} planted cases are judged rightly")
    return failed


def main():
    clang, build = sys.argv[1], sys.argv[2]
    if build == "--self-test":
        return 1 if self_test(clang) else 0
    with open(os.path.join(build, "compile_commands.json"), encoding="utf-8") as file:
        found, count = check(clang, ROOT, json.load(file))
    for text in found:
        print(text)
    if count == 0:
        print("thread safety: no file with locks found")
        return 1
    print(f"thread safety: {count} files with locks, {len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
