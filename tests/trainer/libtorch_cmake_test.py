#!/usr/bin/env python3
"""What configuring says of a LibTorch whose companions are not all there, on one made here of empty libraries.

    libtorch_cmake_test.py CMAKE COMPILER
"""

import pathlib
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
CMAKE, COMPILER = "", ""

PROJECT = f"""cmake_minimum_required(VERSION 3.25)
project(alone LANGUAGES CXX)
set(MAMBAD_TORCH_DIR ${{CMAKE_SOURCE_DIR}}/torch/torch)
set(MAMBAD_CUDA_FOUND ON)
include({ROOT}/trainer/libtorch.cmake)
message(STATUS "found: ${{MAMBAD_TORCH_FOUND}}")
"""


class LibTorchCMake(unittest.TestCase):
    def setUp(self):
        self.temporary = tempfile.TemporaryDirectory()
        self.addCleanup(self.temporary.cleanup)
        self.folder = pathlib.Path(self.temporary.name)
        (self.folder / "CMakeLists.txt").write_text(PROJECT, encoding="utf-8")
        self.library("torch/nvidia/cu13/lib/libcudart.so.13")
        self.library("torch/nvidia/cusparselt/lib/libcusparseLt.so.0")
        for name, needs in (("c10", []), ("c10_cuda", ["nvidia/cu13/lib/libcudart.so.13"]), ("torch_cpu", []),
                            ("torch_cuda", ["nvidia/cusparselt/lib/libcusparseLt.so.0"])):
            self.library(f"torch/torch/lib/lib{name}.so", needs)

    def library(self, path, needs=()):
        target = self.folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        folders = ":".join(f"$ORIGIN/../../{pathlib.PurePath(need).parent}" for need in needs)
        subprocess.run([COMPILER, "-shared", "-x", "c++", "/dev/null", "-x", "none", "-o", str(target), "-fPIC",
                        f"-Wl,-soname,{target.name}", "-Wl,--no-as-needed", "-Wl,--disable-new-dtags",
                        *[str(self.folder / "torch" / need) for need in needs], f"-Wl,-rpath,{folders}"], check=True)

    def configure(self, trainer):
        return subprocess.run([CMAKE, "-S", str(self.folder), "-B", str(self.folder / "build"), f"-DMAMBAD_TRAINER={trainer}",
                               f"-DCMAKE_CXX_COMPILER={COMPILER}"], capture_output=True, text=True, timeout=300)

    def test_companions(self):
        whole = self.configure("AUTO")
        self.assertEqual(whole.returncode, 0, whole.stderr)
        self.assertIn("found: ON", whole.stdout)
        # What was seen once is not looked for again: a folder of one's own for each state.
        (self.folder / "build").rename(self.folder / "earlier")
        (self.folder / "torch/nvidia/cusparselt/lib/libcusparseLt.so.0").unlink()
        left_out = self.configure("AUTO")
        self.assertEqual(left_out.returncode, 0, left_out.stderr)
        self.assertIn("found: OFF", left_out.stdout)
        words = " ".join(left_out.stderr.split())
        self.assertIn("THE TRAINER IS LEFT OUT", words)
        self.assertIn("libcusparseLt.so.0", words)
        self.assertIn("trainer/setup.sh", words)
        self.assertIn(f"python3 -m pip install --no-deps --target {self.folder}/torch nvidia-cusparselt-cu13==0.8.0", words)
        refused = self.configure("ON")
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("without which the trainer would not start", " ".join(refused.stderr.split()))
        # And once they are there, configuring again is enough.
        self.library("torch/nvidia/cusparselt/lib/libcusparseLt.so.0")
        self.assertIn("found: ON", self.configure("ON").stdout)

    def test_no_torch(self):
        (self.folder / "torch").rename(self.folder / "elsewhere")
        self.assertIn("found: OFF", self.configure("AUTO").stdout)
        refused = self.configure("ON")
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("trainer/setup.sh fetches LibTorch", " ".join(refused.stderr.split()))


if __name__ == "__main__":
    COMPILER = sys.argv.pop()
    CMAKE = sys.argv.pop()
    unittest.main(verbosity=2)
