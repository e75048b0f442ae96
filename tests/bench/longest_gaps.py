#!/usr/bin/env python3
"""How long readers wait between two tokens at worst, while others make trouble: of each daemon named, in turn.

    tests/bench/longest_gaps.py [--model PATH] [--context N] [--streams N] [--seconds S] NAME=DAEMON...

Streams of ordinary answers run all the time; beside them, one after the other: nothing; a log that nobody reads, with
calls that fill it; a reader that stops in the middle of a long answer; a prompt of 130,000 tokens (or as many as the
model's context has) with eight samples, for as long as is measured. Models without a tokenizer do, such as those of
make_gguf.py. Needs what the end-to-end tests need. An otherwise idle machine is up to you.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import threading
import time

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/e2e"))
import daemon_process  # noqa: E402

LONG_PROMPT, SAMPLES = 130_000, 8


class Streams:
    """`count` readers that ask for one answer after the other, and the gaps between the messages of an answer."""

    def __init__(self, daemon, count):
        self.daemon, self.gaps, self.stopping = daemon, [], False
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._read, args=(i,)) for i in range(count)]
        for thread in self.threads:
            thread.start()

    def _read(self, index):
        pb = daemon_process.pb
        while not self.stopping:
            request = generate([11 + index, 5, 7], 400)
            request.speculation.mode = pb.Speculation.OFF
            last = None
            try:
                for _ in self.daemon.generation.Generate(request, timeout=120):
                    now = time.monotonic()
                    if last is not None:
                        with self.lock:
                            self.gaps.append((now, now - last))
                    last = now
            except grpc.RpcError as error:
                print("a stream ended:", error.code().name, error.details(), file=sys.stderr)
                return

    def during(self, trouble, seconds):
        """Milliseconds: the 99th percentile and the longest of the gaps that end while `trouble` runs."""
        with self.lock:
            self.gaps.clear()
        end = time.monotonic() + seconds
        trouble()
        time.sleep(max(0.0, end - time.monotonic()))
        with self.lock:
            gaps = sorted(gap for _, gap in self.gaps)
        return 1e3 * gaps[int(0.99 * len(gaps))], 1e3 * gaps[-1], len(gaps)

    def stop(self):
        self.stopping = True
        for thread in self.threads:
            thread.join()


def generate(ids, tokens):
    request = daemon_process.pb.GenerateRequest()
    request.token_ids.ids.extend(ids)
    request.stopping.max_tokens = tokens
    request.stopping.ignore_eos = True
    return request


def small_calls(daemon, count):
    """Calls that are refused, each a line or two of the log."""
    pb = daemon_process.pb
    for _ in range(count):
        try:
            request = generate([1], 1)
            request.sampling.temperature = -1
            daemon.generation.GenerateOnce(request, timeout=60)
        except grpc.RpcError:
            pass


def stopped_reader(daemon):
    """A channel of its own with a small window; two messages are read, then none."""
    channel = grpc.insecure_channel(daemon.address, options=[("grpc.use_local_subchannel_pool", 1)])
    call = daemon_process.stubs.GenerationStub(channel).Generate(generate([1, 2, 3], 900), timeout=120)
    next(call), next(call)
    return channel, call


def long_prompt(daemon, context):
    """The call, which goes on."""
    request = generate([3 + i * 7919 % 500 for i in range(min(LONG_PROMPT, context - 8))], 4)
    request.sampling.temperature = 1.0
    request.output.n = SAMPLES
    return daemon.generation.GenerateOnce.future(request, timeout=600)


def measure(name, binary, model, streams, seconds, context, folder):
    settings = pathlib.Path(folder) / "mambad.yaml"
    settings.write_text(f"batching: {{max_sequences: {streams + SAMPLES + 1}, max_context: {context}}}\n",
                        encoding="ascii")
    options = ["--config", str(settings)]
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    rows = []
    for trouble in ("none", "a log that nobody reads", "a reader that stops", "130,000 tokens, n = 8"):
        unread = trouble == "a log that nobody reads"
        daemon = daemon_process.Daemon(binary, model, extra=options, stderr=write_end if unread else None)
        readers = Streams(daemon, streams)
        time.sleep(1)
        kept = []
        if trouble == "none":
            action = lambda: None
        elif unread:
            action = lambda: small_calls(daemon, 2000)
        elif trouble == "a reader that stops":
            action = lambda: kept.append(stopped_reader(daemon))
        else:
            action = lambda: kept.append((None, long_prompt(daemon, context)))
        ninety_nine, longest, count = readers.during(action, seconds)
        rows.append((trouble, ninety_nine, longest, count))
        print(f"{name:10s} {trouble:26s} {ninety_nine:9.1f} {longest:9.1f} {count:8d}", flush=True)
        for channel, call in kept:
            call.cancel()
            if channel is not None:
                channel.close()
        if unread:
            os.close(read_end)  # its lines are lost from here on
        readers.stop()
        daemon.stop()
    os.close(write_end)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=str(ROOT / "deploy/models/stories/target"))
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--context", type=int, default=1024, help="tokens; what the model has, or %d" % (LONG_PROMPT + 8192))
    parser.add_argument("daemons", nargs="+", metavar="NAME=DAEMON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        daemon_process.make_stubs(folder)
        print(f"{'daemon':10s} {'beside them':26s} {'p99, ms':>9s} {'worst, ms':>9s} {'gaps':>8s}")
        for daemon in arguments.daemons:
            name, _, binary = daemon.partition("=")
            measure(name, binary, arguments.model, arguments.streams, arguments.seconds, arguments.context, folder)


if __name__ == "__main__":
    main()
