#!/usr/bin/env python3
"""What speculation gains and never loses: tokens a second with and without it, over streams that run together.

    tests/bench/speculation.py --model PATH [--draft PATH] [--streams N,N...] [--temperature T,T...]
                               [--speculation MODE] [--draft-length K] [--max-tokens N] [--repeat N]
                               [--prompts FILE [--chat]] [--threads N] [--mambactl PROGRAM] NAME=DAEMON...

Each daemon named is started with the model, one after the other; `mambactl bench` then asks it for answers without
speculation and with MODE (auto unless given), in turn, after one run of each that does not count. Prints a table in
Markdown: medians of the repetitions, the ratio of both, the share of drafts that were accepted, and tokens a round.
--prompts is a file as `mambactl bench` reads it; without it the prompts are six beginnings of stories. An otherwise idle
machine is up to you.
"""

import argparse
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BEGINNINGS = ("Once upon a time there was a little dog", "Lily and Tom went to the park", "The old man had a red boat",
              "One day a bird", "Mia did not want to share her toys", "It was a cold morning and the farmer")


class Daemon:
    """The program `binary` on a free port, ready when the constructor returns."""

    def __init__(self, binary, options):
        command = [binary, "--model", options.model, "--listen", "127.0.0.1:0", "--metrics", ""]
        if options.draft:
            command += ["--draft", options.draft]
        if options.threads:
            command += ["--threads", str(options.threads)]
        self.settings = tempfile.NamedTemporaryFile("w", suffix=".yaml")
        self.settings.write(f"batching:\n  max_sequences: {max(options.streams)}\n")
        self.settings.flush()
        command += ["--config", self.settings.name]
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        if " ready: grpc " not in line:
            self.process.wait()
            self.log.seek(0)
            sys.exit(f"{binary} does not start: {self.log.read()[-2000:]}")
        words = line.replace(",", "").split()
        self.address = words[words.index("grpc") + 1]

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()


def bench(daemon, options, prompts, streams, temperature, mode):
    """One run of the load client; its figures."""
    command = [options.mambactl, "--address", daemon.address, "--json", "bench", "--prompts", prompts,
               "--concurrency", str(streams), "--requests", str(max(options.requests, 2 * streams)),
               "--max-tokens", str(options.max_tokens), "--ignore-eos", "--temperature", str(temperature), "--seed", "7",
               "--speculation", mode]
    if options.chat:
        command += ["--chat", "--turns", "1"]
    if options.draft_length is not None and mode != "off":
        command += ["--draft-length", str(options.draft_length)]
    figures = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    if set(figures["codes"]) != {"OK"}:
        sys.exit(f"calls failed: {figures['codes']}")
    return figures


def measure(daemon, options, prompts, streams, temperature):
    """Of both ways in turn: median tokens a second of each, drafted, accepted and tokens a round of the second."""
    modes = ("off", options.speculation)
    for mode in modes:
        bench(daemon, options, prompts, streams, temperature, mode)
    runs = {mode: [] for mode in modes}
    for _ in range(options.repeat):
        for mode in modes:
            runs[mode].append(bench(daemon, options, prompts, streams, temperature, mode))
    speculative = runs[options.speculation]
    drafted, accepted, tokens = (sum(run[key] for run in speculative) for key in ("drafted", "accepted", "completion_tokens"))
    speeds = [statistics.median(run["tokens_per_second"] for run in runs[mode]) for mode in modes]
    # A round keeps the accepted drafts and one token more.
    return *speeds, accepted / max(1, drafted), tokens / max(1, tokens - accepted)


def numbers(kind):
    return lambda text: [kind(part) for part in text.split(",")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("daemons", nargs="+", metavar="NAME=DAEMON")
    parser.add_argument("--model", required=True)
    parser.add_argument("--draft")
    parser.add_argument("--streams", type=numbers(int), default=[1, 4, 16, 64])
    parser.add_argument("--temperature", type=numbers(float), default=[0.0])
    parser.add_argument("--speculation", default="auto")
    parser.add_argument("--draft-length", type=int)
    parser.add_argument("--max-tokens", type=int, default=200)
    parser.add_argument("--requests", type=int, default=12, help="a run's, at least two a stream")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--prompts")
    parser.add_argument("--chat", action="store_true")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--mambactl", default=str(ROOT / "build/bin/mambactl"))
    options = parser.parse_args()
    os.environ.setdefault("no_proxy", "127.0.0.1,localhost")

    print("| daemon | streams | temperature | plain, tokens/s | with speculation | ratio | accepted | tokens a round |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as beginnings:
        beginnings.write("\n".join(BEGINNINGS) + "\n")
        beginnings.flush()
        for named in options.daemons:
            name, _, binary = named.partition("=")
            daemon = Daemon(binary, options)
            for temperature in options.temperature:
                for streams in options.streams:
                    plain, speculative, share, a_round = measure(daemon, options, options.prompts or beginnings.name, streams,
                                                                 temperature)
                    print(f"| {name} | {streams} | {temperature:g} | {plain:,.0f} | {speculative:,.0f} | "
                          f"{speculative / plain:.2f} | {share:.2f} | {a_round:.2f} |", flush=True)
            daemon.stop()


if __name__ == "__main__":
    main()
