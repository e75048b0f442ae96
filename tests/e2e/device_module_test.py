#!/usr/bin/env python3
"""A device's module, loaded by the daemon: one that serves, those that cannot be used, none, and a device that is lost. The module
is a fake one that computes on the CPU. Needs nothing but Python.

    device_module_test.py --mambad FILE --mambactl FILE --modules FOLDER --models FOLDER

--modules: a folder for each kind of libmambad_cuda.so; --models: the story models.
"""

import argparse
import http.client
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import unittest

OPTIONS = None
MODULE = "libmambad_cuda.so"


class DeviceModuleTest(unittest.TestCase):
    def setUp(self):
        self.folder = pathlib.Path(tempfile.mkdtemp())
        (self.folder / "bin").mkdir()
        self.program = self.folder / "bin" / "mambad"
        # The program looks beside itself, wherever a link to it lies.
        shutil.copy(OPTIONS.mambad, self.program)
        shutil.copy(OPTIONS.mambad.parent / "libmambad_sentencepiece.so", self.folder / "bin")

    def tearDown(self):
        shutil.rmtree(self.folder)

    def install(self, kind, place="bin"):
        (self.folder / place).mkdir(parents=True, exist_ok=True)
        shutil.copy(OPTIONS.modules / kind / MODULE, self.folder / place)
        return self.folder / place / MODULE

    def command(self, device, *words):
        metrics = () if "--metrics" in words else ("--metrics", "")
        return [str(self.program), "--device", device, "--model", str(OPTIONS.models / "target"), "--threads", "1",
                "--listen", "127.0.0.1:0", *metrics, *words]

    def refusals(self, device, environment=None):
        """The line with which it refuses, checking and starting."""
        lines = []
        for words in (("--check-config",), ()):
            result = subprocess.run(self.command(device, *words), capture_output=True, text=True, timeout=120,
                                    env={**os.environ, **(environment or {})})
            self.assertEqual((result.returncode, result.stdout), (2, ""), result.stderr)
            refusals = [line for line in result.stderr.splitlines() if line.startswith("mambad: ")]
            self.assertEqual(len(refusals), 1, result.stderr)
            lines.append(refusals[0])
        self.assertEqual(lines[0], lines[1])
        return lines[0]

    def serve(self, device, environment=None, *words):
        """A daemon that serves, and its address; metrics_address, where `words` ask for one."""
        log = open(self.folder / "log", "w", encoding="utf-8")
        self.addCleanup(log.close)
        process = subprocess.Popen(self.command(device, *words), stdout=subprocess.PIPE, stderr=log, text=True,
                                   env={**os.environ, **(environment or {})})
        self.addCleanup(lambda: (process.kill(), process.wait(), process.stdout.close()))
        line = process.stdout.readline()
        ready = re.search(r" ready: grpc (\S+?)(?:, metrics (\S+))?$", line.strip())
        self.assertIsNotNone(ready, self.log())
        self.metrics_address = ready.group(2)
        return process, ready.group(1)

    @staticmethod
    def fetch(address, path):
        """What the metrics port answers, whatever its code."""
        connection = http.client.HTTPConnection(address, timeout=30)
        connection.request("GET", path)
        text = connection.getresponse().read().decode()
        connection.close()
        return text

    def log(self):
        return (self.folder / "log").read_text()

    def mambactl(self, address, *words):
        return subprocess.run([str(OPTIONS.mambactl), "--address", address, *words], capture_output=True, text=True,
                              timeout=120)

    def generate(self, address):
        return self.mambactl(address, "generate", "--prompt", "Once upon a time", "--max-tokens", "8")

    def stop(self, process):
        process.terminate()
        self.assertEqual(process.wait(60), 0, self.log())

    def test_serves_on_the_device_that_is_named_or_there(self):
        for place, device, index in (("bin", "cuda", 0), ("bin", "cuda:12", 12), ("lib/mambad", "auto", 0)):
            module = self.install("good", place)
            process, address = self.serve(device)
            self.assertEqual(self.generate(address).returncode, 0)
            self.assertIn(f", computes on fake device {index}\n", self.mambactl(address, "info").stdout)
            self.stop(process)
            self.assertIn(f"device: fake device {index}; 16 sequences together", self.log())
            module.unlink()

    def test_a_devices_own_memory_is_filled_up_to_its_share_or_too_small(self):
        self.install("good")
        process, _ = self.serve("cuda", {"MAMBAD_FAKE_MEMORY": str(4 << 30)}, "--metrics", "127.0.0.1:0")
        metrics = self.fetch(self.metrics_address, "/metrics")
        self.stop(process)
        self.assertRegex(self.log(), r"device: fake device 0; 64 sequences together, context 1024 tokens")
        self.assertRegex(self.log(), r"memory: .* planned of 4\.29 GB free: .*, keys and values .* \(65536 tokens\)")
        for line in ('mambad_device_info{device="fake device 0"} 1', 'mambad_device_memory_bytes{state="free"} 4294967296',
                     'mambad_device_memory_bytes{state="used"} 0', 'mambad_recorded_rounds 0',
                     'mambad_round_recordings_total 0', 'mambad_step_seconds_count{phase="target"}'):
            self.assertIn(line, metrics)
        self.assertRegex(metrics, r'mambad_planned_memory_bytes\{part="weights"\} \d{7}')

        shares = {}
        for fraction in ("0.9", "0.5"):
            process, _ = self.serve("cuda", {"MAMBAD_FAKE_MEMORY": "60000000"}, "--memory-fraction", fraction)
            self.stop(process)
            shares[fraction] = int(re.search(r"(\d+) sequences together", self.log()).group(1))
        self.assertLess(shares["0.5"], shares["0.9"])
        self.assertLess(shares["0.9"], 64)
        self.assertRegex(self.refusals("cuda", {"MAMBAD_FAKE_MEMORY": "1000000"}),
                         r"too little memory: [\d.]+ MB are needed \(weights .*\), 1\.00 MB are free: serve a smaller model")

    def test_without_a_module_auto_is_the_cpu_and_cuda_an_error(self):
        process, _ = self.serve("auto")
        self.stop(process)
        self.assertIn("device: CPU, ", self.log())
        self.assertNotIn("cuda", self.log())
        self.assertIn(f"compute.device: cuda:1 given, but {MODULE} was not found: ", self.refusals("cuda:1"))
        line = self.refusals("cuda")
        self.assertIn(f"compute.device: cuda given, but {MODULE} was not found: looked for as {self.folder}/bin/{MODULE}, as "
                      f"{self.folder}/lib/mambad/{MODULE} and where the system looks for libraries: put the module", line)

    def test_a_module_that_cannot_be_used_is_named_with_the_reason(self):
        for kind, words in (("other_contract", "is of another build (contract something else, the program's is "),
                            ("no_entry", "is no module of mambad: it has no MambadCreateBackend"),
                            ("no_device", "no fake device: the machine has none")):
            with self.subTest(kind=kind):
                module = self.install(kind)
                named = "" if kind == "no_device" else f"{module} "
                self.assertIn(f"compute.device: cuda given, but {named}{words}", self.refusals("cuda"))
        module.write_bytes(b"not a library")
        self.assertIn(f"compute.device: cuda given, but {module} cannot be loaded: ", self.refusals("cuda"))

    def test_auto_says_why_a_module_is_not_used(self):
        self.install("no_device")
        process, _ = self.serve("auto")
        self.stop(process)
        self.assertIn("device: CPU, ", self.log())
        self.assertRegex(self.log(), "warning compute.device: auto: no fake device: the machine has none: computed on the CPU")

    def test_a_lost_device_ends_the_process_to_be_started_again(self):
        self.install("good")
        sign = self.folder / "lost"
        process, address = self.serve("cuda", {"MAMBAD_FAKE_LOST": str(sign)}, "--metrics", "127.0.0.1:0")
        self.assertEqual(self.generate(address).returncode, 0)
        self.assertEqual(self.fetch(self.metrics_address, "/healthz"), "ok\n")
        states = []

        def watch():
            try:
                while process.poll() is None:
                    states.append(self.fetch(self.metrics_address, "/healthz"))
            except (OSError, http.client.HTTPException):
                pass  # it has ended
        watcher = threading.Thread(target=watch)
        watcher.start()
        sign.touch()
        self.assertEqual(self.generate(address).returncode, 1)
        self.assertEqual(process.wait(60), 4, self.log())
        watcher.join()
        # Readiness goes before the process does, and does not come back.
        self.assertEqual(list(dict.fromkeys(states))[-1], "failed\n", states[-20:])
        self.assertEqual(states.index("failed\n"), len(states) - states.count("failed\n"))
        self.assertRegex(self.log(), "error the device is lost: fake device: fell off the bus")


def main():
    parser = argparse.ArgumentParser()
    for name in ("--mambad", "--mambactl", "--modules", "--models"):
        parser.add_argument(name, required=True, type=pathlib.Path)
    global OPTIONS
    OPTIONS, rest = parser.parse_known_args()
    for name, path in list(vars(OPTIONS).items()):
        setattr(OPTIONS, name, path.resolve())
    unittest.main(argv=["device_module_test.py", *rest])


if __name__ == "__main__":
    main()
