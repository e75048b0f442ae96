#!/usr/bin/env python3
"""The daemon on this machine's GPU, called over gRPC: what speculation, company and cancelled neighbours must not change, and
how it ends.

    daemon_check.py --mambad PROGRAM --models FOLDER --descriptors FILE [--device cuda] [--streams 64]

FOLDER has `target` and `draft`, the story models. FILE describes the messages, so that no code is made from .proto files here:
protoc --include_imports --descriptor_set_out=FILE -I proto mambad/v1/generation.proto. Asks for the packages grpcio and protobuf.
Exit status 1 where anything is wrong.
"""

import argparse
import concurrent.futures
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PROMPTS = [
    "Once upon a time",
    "Lily and Tom went to the park. They saw",
    "One day, a little dog named Max",
    "The",
    "There was a big tree. In the tree there was a nest. In the nest there was a bird. The bird saw the dog, and the dog saw "
    "the bird. The bird said to the dog, \"Do you want to play?\" The dog said to the bird,",
]
MODES = {"off": 2, "draft-model": 3, "prompt-lookup": 4, "auto": 1}
TOKENS = 200
failures = []


def expect(right, what):
    if not right:
        failures.append(what)
        print("WRONG:", what, flush=True)


class Messages:
    def __init__(self, path):
        files = descriptor_pb2.FileDescriptorSet.FromString(pathlib.Path(path).read_bytes())
        self.pool = descriptor_pool.DescriptorPool()
        for file in files.file:
            self.pool.Add(file)

    def __getattr__(self, name):
        return message_factory.GetMessageClass(self.pool.FindMessageTypeByName("mambad.v1." + name))


class Daemon:
    def __init__(self, options, messages, extra=()):
        models = pathlib.Path(options.models)
        self.messages = messages
        self.log = tempfile.TemporaryFile(mode="w+")
        self.process = subprocess.Popen(
            [options.mambad, "--device", options.device, "--model", str(models / "target"), "--draft", str(models / "draft"),
             "--listen", "127.0.0.1:0", "--metrics", "", *extra], stdout=subprocess.PIPE, stderr=self.log, text=True)
        begin = time.monotonic()
        line = self.process.stdout.readline()
        if " ready: grpc " not in line:
            self.process.wait()
            self.log.seek(0)
            sys.exit(f"not ready: {line!r}\n{self.log.read()}")
        print(f"ready after {time.monotonic() - begin:.1f} s")
        words = line.replace(",", "").split()
        self.channel = grpc.insecure_channel(words[words.index("grpc") + 1])
        service = "/mambad.v1.Generation/"
        self.generate = self.channel.unary_stream(
            service + "Generate", request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=messages.GenerateResponse.FromString)
        self.get_load = self.channel.unary_unary(
            service + "GetLoad", request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=messages.GetLoadResponse.FromString)

    def request(self, prompt, mode, temperature, seed=7, draft_length=None, tokens=TOKENS):
        request = self.messages.GenerateRequest(text=prompt)
        request.sampling.temperature = temperature
        request.sampling.seed = seed
        request.stopping.max_tokens = tokens
        request.speculation.mode = MODES[mode]
        if draft_length is not None:
            request.speculation.draft_length = draft_length
        return request

    def text(self, request):
        return "".join(response.text for response in self.generate(request))

    def cancel_after(self, request, messages):
        """Reads so many messages of a stream, then hangs up."""
        stream = self.generate(request)
        try:
            for count, _ in enumerate(stream):
                if count + 1 >= messages:
                    stream.cancel()
        except grpc.RpcError as error:
            return error.code() == grpc.StatusCode.CANCELLED
        return True  # it had ended before

    def is_idle(self, seconds=10):
        end = time.monotonic() + seconds
        while True:
            load = self.get_load(self.messages.GetLoadRequest())
            if not (load.running or load.waiting or load.slots_used or load.pages_used):
                return True
            if time.monotonic() > end:
                return False
            time.sleep(0.02)

    def tail(self):
        self.log.seek(0)
        return self.log.read()[-2000:]


def check_speculation(daemon):
    """The texts of `off`, by temperature and prompt."""
    plain = {}
    for temperature in (0, 0.8):
        for prompt in PROMPTS:
            text = plain[temperature, prompt] = daemon.text(daemon.request(prompt, "off", temperature))
            expect(len(text) > 40, f"only {len(text)} bytes after {prompt!r}")
            for mode in MODES:
                for length in (None,) if mode in ("off", "auto") else (None, 1, 4, 8):
                    other = daemon.text(daemon.request(prompt, mode, temperature, draft_length=length))
                    expect(other == text, f"temperature {temperature}, {mode}, draft length {length}, {prompt!r}: another text")
    expect(plain[0, PROMPTS[0]] != plain[0.8, PROMPTS[0]], "temperature changes nothing")
    print("each prompt alone, every way to draft: compared", flush=True)
    return plain


def check_streams(daemon, streams, plain):
    """Streams beside each other, a third of them cancelled: the others' texts are what they are alone."""
    def one(i):
        prompt, mode, temperature = PROMPTS[i % len(PROMPTS)], list(MODES)[i // 2 % len(MODES)], (0, 0.8)[i % 2]
        request = daemon.request(prompt, mode, temperature)
        if i % 3 == 2:
            return daemon.cancel_after(request, 1 + i % 40), f"stream {i}: not cancelled"
        return daemon.text(request) == plain[temperature, prompt], f"stream {i}, {mode}, temperature {temperature}: another text"

    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(streams) as pool:
        for right, what in pool.map(one, range(4 * streams)):
            expect(right, what)
    expect(daemon.is_idle(), "slots or pages are left over")
    print(f"{4 * streams} streams, {streams} together, a third cancelled: {time.monotonic() - begin:.1f} s", flush=True)


def check_rate(daemon, streams):
    """Tokens a second through gRPC, for comparison with the engine alone."""
    for together in (1, streams):
        rates = []
        for seed in range(4):
            requests = [daemon.request(PROMPTS[0], "off", 0.8, seed=seed * streams + i) for i in range(together)]
            for request in requests:
                request.stopping.ignore_eos = True
            begin = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(together) as pool:
                list(pool.map(daemon.text, requests))
            rates.append(together * TOKENS / (time.monotonic() - begin))
        print(f"{together} streams, plain: {statistics.median(rates):.0f} tokens/s (this client reads them)", flush=True)


def check_drain(daemon):
    """SIGTERM while streams run: they end whole, the process with 0."""
    texts, started = [], threading.Barrier(9)

    def read():
        stream = daemon.generate(daemon.request(PROMPTS[0], "auto", 0))
        first = next(stream).text
        started.wait()
        texts.append(first + "".join(response.text for response in stream))

    readers = [threading.Thread(target=read) for _ in range(8)]
    for reader in readers:
        reader.start()
    started.wait(timeout=30)
    daemon.process.send_signal(signal.SIGTERM)
    for reader in readers:
        reader.join(timeout=30)
    code = daemon.process.wait(timeout=60)
    expect(code == 0, f"exit status {code} after SIGTERM")
    expect(len(texts) == 8 and len(set(texts)) == 1, f"{len(texts)} of 8 streams ended whole, {len(set(texts))} texts")
    print("SIGTERM: drained", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("mambad", "models", "descriptors"):
        parser.add_argument("--" + name, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--streams", type=int, default=64)
    options = parser.parse_args()
    daemon = Daemon(options, Messages(options.descriptors))
    try:
        plain = check_speculation(daemon)
        check_streams(daemon, options.streams, plain)
        check_rate(daemon, options.streams)
        check_drain(daemon)
    finally:
        if daemon.process.poll() is None:
            daemon.process.kill()
        if failures:
            print(daemon.tail())
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
