#!/usr/bin/env python3
"""The trainer on two GPUs against one: the same losses, tokens a second, memory, and what a process that is killed does.

    tests/gpu/two_gpus.py [OPTIONS] FOLDER

FOLDER holds `teacher`, a model directory with attention, and conversations that it wrote, train.jsonl and valid.jsonl (also .xz).
Half of its attention becomes Mamba-2, is aligned and then distilled: on one GPU with twice the accumulation, and on two, which
torchrun of this Python starts. What was run lies in FOLDER/runs afterwards and must not be there before.

Exit status: 0 when one and two agree (held-out divergence within 1 %), and when after a kill or a signal the others end with a
line of their own and the same command goes on to the same numbers (on a GPU, whose attention adds in no fixed order, within 1 %);
else 1. Results are printed as they come. With --device cpu two processes of one machine do the same over Gloo, which shows
everything but NCCL and speed.
"""

import argparse
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

BEGIN = time.monotonic()


def say(words):
    print(f"[{time.monotonic() - BEGIN:6.1f}] {words}", flush=True)


class MemoryWatch:
    """The most memory that was held on each GPU, in MiB, since the last question."""

    def __init__(self):
        self.most = {}
        self.process = subprocess.Popen(
            ["nvidia-smi", "--query-gpu=index,memory.used", "--format=csv,noheader,nounits", "-lms", "100"],
            stdout=subprocess.PIPE, text=True)
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            index, used = line.split(",")
            self.most[int(index)] = max(self.most.get(int(index), 0), int(used))

    def ask(self):
        most, self.most = self.most, {}
        return [most[index] for index in sorted(most)]


class Process:
    """A program, and its lines with the times at which they came."""

    def __init__(self, command, environment):
        self.lines = []
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                        errors="replace")
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self):
        for line in self.process.stdout:
            self.lines.append((time.monotonic(), line.rstrip("\n")))

    def wait(self, seconds):
        """Its status, or None when it had to be killed."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.terminate()  # torchrun then ends those that it started
            time.sleep(3)
            self.process.kill()
            self.process.wait()
            status = None
        self.reader.join(5)
        return status

    def said(self, pattern):
        return [line for _, line in self.lines if re.search(pattern, line)]


class Runs:
    """Runs of one folder: how each is started, and what it left."""

    def __init__(self, options):
        self.options = options
        self.folder = pathlib.Path(options.folder).resolve()
        self.runs = self.folder / "runs"
        self.runs.mkdir()
        self.failed = []
        self.memory = MemoryWatch() if options.device == "cuda" else None

    def check(self, holds, words):
        say(f"{'ok    ' if holds else 'FAILED'} {words}")
        if not holds:
            self.failed.append(words)

    def data(self):
        found = {}
        for name in ("train", "valid"):
            files = sorted(self.folder.glob(f"{name}.jsonl*"))
            if not files:
                sys.exit(f"{self.folder}: {name}.jsonl: no such file")
            found[name] = [str(files[0])]
        return {**found, "tokens": str(self.runs / "tokens"), "row_tokens": self.options.row_tokens, "loss_on": "all"}

    def config(self, name, settings):
        path = self.runs / f"{name}.yaml"
        path.write_text(json.dumps({"output": str(self.runs / name), **settings}, indent=1), encoding="utf-8")
        return path

    def training(self, name, steps, rows, accumulation=1, rate=1e-3, log_every=10, **settings):
        loop = {"steps": steps, "micro_batch": rows, "accumulation": accumulation, "log_every": log_every,
                "save_every": settings.pop("save_every", 0), "evaluate_rows": self.options.held_out_rows}
        return self.config(name, {"teacher": str(self.folder / "teacher"), "device": self.options.device, "data": self.data(),
                                  "optimizer": {"learning_rate": rate}, "loop": loop, **settings})

    def start(self, command, name, **variables):
        environment = {**os.environ, **{key: str(value) for key, value in variables.items()}}
        if self.options.device == "cpu":
            environment["OMP_NUM_THREADS"] = "1"
        return Process([self.options.trainer, command, "--config", str(self.runs / f"{name}.yaml")], environment)

    def alone(self, command, name):
        return [self.start(command, name, CUDA_VISIBLE_DEVICES=0)]

    def by_torchrun(self, command, name, restarts=0):
        return [Process([sys.executable, "-m", "torch.distributed.run", "--standalone", "--no-python", "--nproc-per-node", "2",
                         "--max-restarts", str(restarts), self.options.trainer, command, "--config",
                         str(self.runs / f"{name}.yaml")], {**os.environ, "OMP_NUM_THREADS": "1"})]

    def by_variables(self, command, name):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        return [self.start(command, name, RANK=rank, LOCAL_RANK=rank, WORLD_SIZE=2, LOCAL_WORLD_SIZE=2,
                           MASTER_ADDR="127.0.0.1", MASTER_PORT=port) for rank in range(2)]

    def finish(self, processes, name, expected=0):
        """To its end: seconds that it took from now on. Prints all that was said where the end is another than expected."""
        begin = time.monotonic()
        statuses = [process.wait(self.options.patience) for process in processes]
        if any(status != expected for status in statuses):
            self.check(False, f"{name}: status {statuses}, expected {expected}")
            for number in self.trainers(name).values():
                os.kill(number, signal.SIGKILL)
            for process in processes:
                print("\n".join(line for _, line in process.lines[-40:]), flush=True)
        return time.monotonic() - begin

    def lines(self, name):
        path = self.runs / name / "metrics.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def held_out(self, name, metric="divergence"):
        values = [line[f"valid_{metric}"] for line in self.lines(name) if f"valid_{metric}" in line]
        return values[-1] if values else float("nan")

    def losses(self, name):
        return {line["step"]: line["loss"] for line in self.lines(name) if "loss" in line}

    def rate(self, name):
        """Tokens a second, of the median line behind the first third."""
        rates = [line["tokens_per_second"] for line in self.lines(name) if "tokens_per_second" in line]
        rates = sorted(rates[max(1, len(rates) // 3):])
        return rates[len(rates) // 2] if rates else float("nan")

    def state_bytes(self, name):
        states = sorted((self.runs / name / "states").glob("step-*"))
        return [path.stat().st_size for path in sorted(states[-1].glob("*.safetensors"))] if states else []

    def wait_for_step(self, name, step, processes):
        """Until it has told a step of that number and saved one; false when it has ended before."""
        end = time.monotonic() + self.options.patience
        while time.monotonic() < end:
            if any(process.process.poll() is not None for process in processes):
                return False
            lines = self.lines(name)
            if lines and lines[-1]["step"] >= step and list((self.runs / name / "states").glob("step-*")):
                return True
            time.sleep(0.02)
        return False

    def trainers(self, name):
        """Process numbers of the trainers that work on a run, by rank."""
        found = {}
        for folder in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
                variables = (folder / "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            ranks = [int(value[5:]) for value in variables if value.startswith(b"RANK=")]  # torchrun itself has none
            if ranks and str(self.runs / f"{name}.yaml").encode() in words:
                found[ranks[0]] = int(folder.name)
        return found

    def tell(self, name, seconds):
        words = f"{name}: {seconds:.1f} s, {self.rate(name):,.0f} tokens/s"
        if self.memory:
            words += f", most memory held {self.memory.ask()} MiB"
        sizes = [round(size / 2**20, 1) for size in self.state_bytes(name)]
        say(f"{words}, state files {sizes} MiB; held out: divergence {self.held_out(name):.5f}, perplexity "
            f"{self.held_out(name, 'perplexity'):.4f}, ratio {self.held_out(name, 'perplexity_ratio'):.4f}")


def strange_lines(processes):
    """What is said where an end is not in order."""
    return [line for process in processes for line in process.said(r"(?i)warn|error|leak|nccl|not left in order|^\[?[WE]\d{4}")
            if "NCCL version" not in line]


def prepare(runs):
    """A student whose mixers have learned what their attention layers gave."""
    options = runs.options
    runs.config("student", {"teacher": str(runs.folder / "teacher"), "start": {"mixer": "mamba2"},
                            **({"replaced": options.replaced} if options.replaced else {"attention_percent": 50})})
    runs.finish(runs.alone("initialize", "student"), "student")
    runs.training("aligned", options.align_steps, options.wide_rows, rate=2e-3, student=str(runs.runs / "student"))
    seconds = runs.finish(runs.alone("align", "aligned"), "aligned")
    runs.tell("aligned", seconds)


def same_losses(runs):
    """One GPU with twice the accumulation and two see the same rows."""
    options = runs.options
    student = str(runs.runs / "aligned/model")
    runs.training("one", options.steps, options.rows, accumulation=2, student=student)
    runs.training("two", options.steps, options.rows, student=student)
    runs.tell("one", runs.finish(runs.alone("distill", "one"), "one"))
    processes = runs.by_torchrun("distill", "two")
    runs.tell("two", runs.finish(processes, "two"))
    one, two = runs.losses("one"), runs.losses("two")
    say("step, loss of one, of two, difference:")
    shown = sorted(one)[:3] + sorted(one)[3::max(1, len(one) // 12)]
    for step in sorted({*shown, max(one, default=0)}):
        if step in one and step in two:
            print(f"    {step:6d} {one[step]:.6f} {two[step]:.6f} {100 * (two[step] / one[step] - 1):+.2f} %", flush=True)
    both = runs.held_out("one"), runs.held_out("two")
    runs.check(abs(both[1] / both[0] - 1) < 0.01,
               f"held-out divergence of one {both[0]:.5f}, of two {both[1]:.5f}: {100 * (both[1] / both[0] - 1):+.2f} %")
    strange = strange_lines(processes)
    runs.check(not strange, f"the end of two was in order, without warnings {strange[:5]}")
    report = [at for at, line in processes[0].lines if "distill: wrote" in line]
    say(f"from the last line to the end of the program: {time.monotonic() - report[-1] if report else float('nan'):.1f} s at most")


def speed(runs):
    """As many rows as a GPU is full with, and everything trained, where most has to be sent."""
    options = runs.options
    for name, settings in (("mixers", {}), ("all", {"trained": "all"})):
        rates = []
        for processes, start in ((1, runs.alone), (2, runs.by_torchrun)):
            run = f"speed_{name}_{processes}"
            runs.training(run, options.speed_steps, options.wide_rows, student=str(runs.runs / "aligned/model"), **settings)
            runs.tell(run, runs.finish(start("distill", run), run))
            rates.append(runs.rate(run))
        say(f"{name} trained, {options.wide_rows} rows a process: two are {rates[1] / rates[0]:.3f} times one, "
            f"{100 * rates[1] / rates[0] / 2:.1f} % of linear")


def goes_on(runs, name):
    """Whether the numbers are those of the run that nothing befell."""
    other, own = runs.held_out("two"), runs.held_out(name)
    allowed = 0.01 if runs.options.device == "cuda" else 0
    runs.check(abs(own / other - 1) <= allowed, f"{name}: held-out divergence {own:.5f}, undisturbed {other:.5f}: "
               f"{100 * (own / other - 1):+.2f} %")
    first, second = runs.losses("two"), runs.losses(name)
    apart = [step for step in first if first[step] != second.get(step)]
    models = [(runs.runs / run / "model/model.safetensors").read_bytes() for run in ("two", name)
              if (runs.runs / run / "model/model.safetensors").exists()]
    say(f"{name}: {len(first) - len(apart)} of {len(first)} losses have the same digits, the model is "
        f"{'the same' if len(models) == 2 and models[0] == models[1] else 'not the same'} to the bit")


def disturbed(runs, name, start):
    """A run like `two` that is at half of its steps."""
    options = runs.options
    # A line of metrics ends where a state is saved: where lines end without that too.
    runs.training(name, options.steps, options.rows, student=str(runs.runs / "aligned/model"),
                  save_every=max(1, options.steps // 80) * 10)
    processes = start("distill", name)
    if not runs.wait_for_step(name, options.steps // 2, processes):
        runs.check(False, f"{name}: never came to step {options.steps // 2}")
    return processes


def in_order(runs, name):
    """The same command again, to its end, where process 0 serves the store."""
    processes = runs.by_variables("distill", name)
    runs.finish(processes, name)
    strange = strange_lines(processes)
    runs.check(not strange, f"{name}: the second start ended in order, without warnings {strange[:5]}")


def killed_under_torchrun(runs):
    """torchrun starts the group again: its store still holds what the first one said."""
    processes = disturbed(runs, "killed", lambda command, name: runs.by_torchrun(command, name, restarts=1))
    os.kill(runs.trainers("killed")[1], signal.SIGKILL)
    at, step = time.monotonic(), runs.lines("killed")[-1]["step"]
    runs.finish(processes, "killed")
    said = processes[0].said(r"^trainer: error|goes on from|SIGTERM")
    say(f"killed: process 1 at step {step}; then: {said}")
    begun = [came for came, line in processes[0].lines if "goes on from" in line]
    if begun:
        say(f"killed: goes on {begun[0] - at:.1f} s after the kill")
    runs.check(bool(processes[0].said("process 0 of 2 lost another one")), "killed: the other process says whom it lost")
    runs.check(bool(processes[0].said("goes on from step")), "killed: the second start goes on from a state")
    goes_on(runs, "killed")


def killed_without_torchrun(runs):
    """The process that serves the store is killed, and nobody tells the other one."""
    processes = disturbed(runs, "orphaned", runs.by_variables)
    at = time.monotonic()
    processes[0].process.kill()
    status = processes[1].wait(60)
    say(f"orphaned: process 0 killed; process 1 ended after {time.monotonic() - at:.1f} s with status {status}: "
        f"{processes[1].said('.')[-3:]}")
    runs.check(status not in (None, 0) and bool(processes[1].said("process 1 of 2 lost another one")),
               "orphaned: the other process says whom it lost, and ends with a status that is not 0")
    processes[0].wait(10)
    in_order(runs, "orphaned")
    goes_on(runs, "orphaned")


def stopped(runs):
    """A signal to one process stops both."""
    processes = disturbed(runs, "stopped", runs.by_variables)
    processes[1].process.send_signal(signal.SIGTERM)
    seconds = runs.finish(processes, "stopped", expected=143)
    strange = strange_lines(processes)
    runs.check(not strange, f"stopped: both ended {seconds:.1f} s after a signal to one, without warnings {strange[:5]}")
    in_order(runs, "stopped")
    goes_on(runs, "stopped")


PARTS = [same_losses, speed, killed_under_torchrun, killed_without_torchrun, stopped]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder")
    add("--trainer", default=str(pathlib.Path(__file__).resolve().parents[2] / "build/bin/trainer"), help="the program")
    add("--device", choices=["cuda", "cpu"], default="cuda")
    add("--replaced", type=lambda text: [int(number) for number in text.split(",")], help="layers; default: half, as published")
    add("--align-steps", type=int, default=150)
    add("--steps", type=int, default=300, help="of each run of the comparison")
    add("--speed-steps", type=int, default=60, help="of each run that is timed")
    add("--rows", type=int, default=8, help="a process takes at once in the comparison")
    add("--wide-rows", type=int, default=32, help="likewise where speed is measured, and in alignment")
    add("--row-tokens", type=int, default=1024)
    add("--held-out-rows", type=int, default=160)
    add("--only", action="append", choices=[part.__name__ for part in PARTS], help="of the parts; may be given several times")
    add("--seconds", type=float, default=1e9, help="no part is begun later than that")
    add("--patience", type=float, default=120, help="seconds that a run may take")
    options = parser.parse_args()
    runs = Runs(options)
    prepare(runs)
    for part in PARTS:
        if options.only and part.__name__ not in options.only:
            continue
        if time.monotonic() - BEGIN > options.seconds:
            runs.check(False, f"{part.__name__}: no time was left for it")
            continue
        try:
            part(runs)
        except (OSError, KeyError, IndexError, ValueError, ZeroDivisionError) as error:
            runs.check(False, f"{part.__name__}: {error!r}")
    say(f"failed: {runs.failed}" if runs.failed else "all is well")
    sys.exit(1 if runs.failed else 0)


if __name__ == "__main__":
    main()
