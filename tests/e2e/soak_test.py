#!/usr/bin/env python3
"""A daemon under mixed load for a long time: streams, cancels, deadlines, slow readers, sessions, bad requests, clients that
are killed. Every answer that was finished is held against its reference, memory must be flat once it is warm, and in the end
nothing may be left behind: no slot, page, session, file or descriptor.

    soak_test.py --binary build/bin/mambad --models deploy/models/stories --mambactl build/bin/mambactl [--minutes 30]

Without --minutes half a minute of load, whose memory is looked at only for gross leaks: it is not warm by then.
"""

import argparse
import collections
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time
import traceback

import grpc

import daemon_process
import http2_client
import malformed_requests

CONFIG = """
batching: {max_sequences: 6, max_waiting: 12}
sessions: {directory: SESSIONS, host_memory_bytes: 4194304}
prefix_cache: {host_memory_bytes: 4194304}
stream: {max_pending_bytes: 2048, stall_timeout: 2s}
log: {level: warning}
"""
PROMPTS = ["Once upon a time there was a little dragon", "One day Lily found", "The sun", "Tom and his dog went to the park",
           "In the deep forest", "\"Why?\" asked the bear"]
WORKERS = 8
SHORT_SECONDS, SHORT_GROWTH = 30, 0.25
LONG_GROWTH = 0.02
# What a call may end with besides OK, where it is asked for more than there is room for.
NO_ROOM = grpc.StatusCode.RESOURCE_EXHAUSTED
Code = grpc.StatusCode

OPTIONS = pb = session_pb = None  # set by main: the arguments, the generated messages


class Reference:
    """A request and what its answer must be: that of a server that does nothing else, without drafts."""

    def __init__(self, daemon, number):
        self.request = pb.GenerateRequest(text=PROMPTS[number % len(PROMPTS)])
        self.request.sampling.temperature = (0, 0.8, 1.2)[number % 3]
        self.request.sampling.seed = number
        self.request.stopping.max_tokens = 8 + 9 * (number % 8)
        self.request.stopping.ignore_eos = True
        plain = pb.GenerateRequest()
        plain.CopyFrom(self.request)
        plain.speculation.mode = pb.Speculation.OFF
        answer = daemon.generation.GenerateOnce(plain)
        self.text, self.ids = answer.text, list(answer.token_ids)

    def with_mode(self, choices):
        request = pb.GenerateRequest()
        request.CopyFrom(self.request)
        request.speculation.mode = choices.choice([pb.Speculation.AUTO, pb.Speculation.OFF, pb.Speculation.DRAFT_MODEL,
                                                   pb.Speculation.PROMPT_LOOKUP])
        return request


class Conversation:
    """Turns of one text, and what single calls over the whole text answer."""

    def __init__(self, daemon, number):
        self.turns, self.answers, self.requests = [], [], []
        whole = []
        for turn in range(3):
            text = PROMPTS[(number + turn) % len(PROMPTS)]
            added = list(daemon.generation.Tokenize(pb.TokenizeRequest(text=text, add_special_tokens=turn == 0)).token_ids)
            request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=whole + added))
            request.sampling.temperature = 0.8 * (number % 2)
            request.sampling.seed = 1000 * number + turn
            request.stopping.max_tokens = 12
            request.stopping.ignore_eos = True
            request.speculation.mode = pb.Speculation.OFF
            answer = list(daemon.generation.GenerateOnce(request).token_ids)
            turned = pb.GenerateRequest()
            turned.CopyFrom(request)
            turned.token_ids.ids[:] = added
            turned.speculation.ClearField("mode")
            turned.keep_session = True
            self.requests.append(turned)
            self.answers.append(answer)
            whole += added + answer


class Soak:
    def __init__(self, daemon, folder):
        self.daemon, self.folder = daemon, folder
        self.references = [Reference(daemon, number) for number in range(24)]
        self.conversations = [Conversation(daemon, number) for number in range(6)]
        info = daemon.generation.GetModelInfo(pb.GetModelInfoRequest())
        self.malformed = malformed_requests.cases(pb, info)
        self.lock = threading.Lock()
        self.done = collections.Counter()  # by what was done and how it ended
        self.times = collections.defaultdict(list)
        self.problems = []
        self.ends = threading.Event()

    # ---- what clients do ---------------------------------------------------------------------------------------------

    def expect(self, true, what):
        if not true:
            raise AssertionError(what)

    def stream(self, stub, choices):
        reference = choices.choice(self.references)
        start, last, ids, text = time.monotonic(), None, [], ""
        for message in stub.Generate(reference.with_mode(choices), timeout=120):
            now = time.monotonic()
            self.note("itl" if last else "ttft", now - (last or start))
            last = now
            ids += message.token_ids
            text += message.text
        self.expect((ids, text) == (reference.ids, reference.text), f"{reference.request}: {text!r} is not {reference.text!r}")
        self.note("e2e", time.monotonic() - start)

    def once(self, stub, choices):
        reference = choices.choice(self.references)
        answer = stub.GenerateOnce(reference.with_mode(choices), timeout=120)
        self.expect(list(answer.token_ids) == reference.ids, f"{reference.request}: {answer.text!r}")

    def cancel(self, stub, choices):
        reference = choices.choice(self.references)
        call = stub.Generate(reference.with_mode(choices), timeout=120)
        ids = []
        for _ in range(choices.randrange(4)):
            message = next(call, None)
            ids += message.token_ids if message else []
        call.cancel()
        self.expect(ids == reference.ids[:len(ids)], f"{reference.request}: began with {ids}")

    def deadline(self, stub, choices):
        reference = choices.choice(self.references)
        try:
            answer = stub.GenerateOnce(reference.with_mode(choices), timeout=choices.uniform(0.002, 0.2))
        except grpc.RpcError as error:
            if error.code() != Code.DEADLINE_EXCEEDED:
                raise
            return
        self.expect(list(answer.token_ids) == reference.ids, f"{reference.request}: {answer.text!r}")

    def slow_reader(self, stub, choices):
        """Reads what is large at leisure, but reads: it gets all."""
        reference = choices.choice(self.references)
        request = reference.with_mode(choices)
        request.output.logprobs = 20
        ids = []
        for message in stub.Generate(request, timeout=120):
            ids += message.token_ids
            time.sleep(0.01)
        self.expect(ids == reference.ids, f"{request}: {ids}")

    def stuck_reader(self, _, choices):
        """Reads nothing at all, and is cancelled; or leaves before."""
        connection = http2_client.Connection(self.daemon.address)
        connection.send(http2_client.frame(http2_client.SETTINGS, 0, 0, b"\0\4\0\0\0\0"))  # first window 0
        for stream in range(1, 1 + 2 * choices.randrange(1, 4), 2):
            body = choices.choice(self.references).with_mode(choices).SerializeToString()
            connection.open_stream(stream, http2_client.call_headers(choices.choice(["Generate", "GenerateOnce"])))
            connection.send(http2_client.frame(http2_client.DATA, http2_client.END_STREAM, stream,
                                               b"\0" + len(body).to_bytes(4, "big") + body))
        end = time.monotonic() + choices.choice([0, 0.1, 3])
        while time.monotonic() < end and not connection.ended:
            connection.read(0.1)
        connection.close()

    def killed_client(self, _, choices):
        client = subprocess.Popen([OPTIONS.mambactl, "--address", self.daemon.address, "generate", "--prompt", choices.choice(PROMPTS),
                                   "--ignore-eos", "--max-tokens", "400"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(choices.uniform(0, 0.3))
        client.kill()
        client.wait()

    def bad_request(self, stub, choices):
        case = choices.choice(self.malformed)
        try:
            call = getattr(stub, case.method)(case.request, timeout=120)
            if case.method == "Generate":
                list(call)
        except grpc.RpcError as error:
            self.expect(error.code().name in (case.code, NO_ROOM.name), f"{case}: {error}")
            return
        raise AssertionError(f"{case} was answered")

    def bad_bytes(self, _, choices):
        connection = http2_client.Connection(self.daemon.address)
        body = choices.randbytes(choices.randrange(200))
        connection.open_stream(1, http2_client.call_headers(choices.choice(["Generate", "Tokenize", "Score", "No"])))
        connection.send(http2_client.frame(http2_client.DATA, http2_client.END_STREAM, 1,
                                           b"\0" + len(body).to_bytes(4, "big") + body))
        connection.read(0.2)
        connection.close()

    def burst(self, stub, choices):
        """More at once than there is room for: each is answered, or told when to come back."""
        references = [choices.choice(self.references) for _ in range(24)]
        calls = [stub.GenerateOnce.future(reference.with_mode(choices), timeout=120) for reference in references]
        for reference, call in zip(references, calls):
            if call.code() == Code.OK:
                self.expect(list(call.result().token_ids) == reference.ids, f"{reference.request}: {call.result().text!r}")
                continue
            self.expect(call.code() == NO_ROOM, f"{call.code()}: {call.details()}")
            self.expect(daemon_process.retry_seconds(call) is not None, "refused without a hint")
            with self.lock:
                self.done["refused in a burst"] += 1

    def retried(self, stub, choices):
        """A call whose caller leaves and asks again: it is told one answer, and one session is kept."""
        sessions = daemon_process.session_stubs.SessionsStub(stub.channel)
        reference = choices.choice(self.references)
        request = reference.with_mode(choices)
        request.request_id = f"{choices.getrandbits(128):032x}"
        request.keep_session = choices.random() < 0.5
        for _ in range(choices.randrange(3)):
            call = stub.Generate(request, timeout=120)
            for _ in range(choices.randrange(4)):
                next(call, None)
            call.cancel()
        done = stub.GenerateOnce(request, timeout=120)
        if request.keep_session:
            session = sessions.Get(session_pb.GetSessionRequest(session_id=done.completion.session_id), timeout=120)
            sessions.Delete(session_pb.DeleteSessionRequest(session_id=session.session_id), timeout=120)
            self.expect(session.position == done.completion.position, f"{session} after {done.completion}")
        self.expect(list(done.token_ids) == reference.ids, f"{request}: {done.text!r}")

    def look(self, stub, _):
        stub.GetLoad(pb.GetLoadRequest(), timeout=120)
        stub.Tokenize(pb.TokenizeRequest(text=PROMPTS[0] * 20), timeout=120)
        self.expect("mambad_requests_running" in self.daemon.metrics(), "the metrics say nothing")

    def session(self, stub, choices):
        """A conversation in a session, which is forked, exported and taken back on its way."""
        sessions = daemon_process.session_stubs.SessionsStub(stub.channel)
        conversation = choices.choice(self.conversations)
        kept = []
        try:
            session = self.turn(stub, conversation, 0, None, kept)
            sessions.Checkpoint(session_pb.CheckpointSessionRequest(session_id=session), timeout=120)
            position = sessions.Get(session_pb.GetSessionRequest(session_id=session), timeout=120).position
            how = choices.randrange(4)
            if how == 1:
                session = sessions.Fork(session_pb.ForkSessionRequest(session_id=session), timeout=120).session_id
                kept.append(session)
            elif how == 2:
                self.turn(stub, conversation, 1, session, kept)
                sessions.Rewind(session_pb.RewindSessionRequest(session_id=session, position=position), timeout=120)
            elif how == 3:
                pieces = [piece.piece for piece in sessions.Export(session_pb.ExportSessionRequest(session_id=session), timeout=120)]
                session = sessions.Import((session_pb.ImportSessionRequest(piece=piece) for piece in pieces), timeout=120).session_id
                kept.append(session)
            for turn in (1, 2):
                self.turn(stub, conversation, turn, session, kept)
        finally:
            for each in kept:
                sessions.Delete(session_pb.DeleteSessionRequest(session_id=each), timeout=120)

    def turn(self, stub, conversation, number, session, kept):
        request = pb.GenerateRequest()
        request.CopyFrom(conversation.requests[number])
        if session:
            request.session_id = session
        while True:
            try:
                answer = stub.GenerateOnce(request, timeout=120)
                break
            except grpc.RpcError as error:
                if error.code() != NO_ROOM:
                    raise
                time.sleep(daemon_process.retry_seconds(error) or 1)
        if not session:
            kept.append(answer.completion.session_id)
        self.expect(list(answer.token_ids) == conversation.answers[number], f"turn {number}: {answer.text!r}")
        return answer.completion.session_id

    # ---- the run -----------------------------------------------------------------------------------------------------

    def note(self, name, seconds):
        with self.lock:
            self.times[name].append(seconds)

    def work(self, seed):
        choices = random.Random(seed)
        actions = [self.stream] * 8 + [self.once] * 4 + [self.cancel] * 3 + [self.deadline] * 3 + [self.session] * 3 + [self.retried] * 3 + [
            self.slow_reader, self.stuck_reader, self.killed_client, self.bad_request, self.bad_request, self.bad_bytes, self.burst, self.look]
        while not (self.ends.is_set() or self.problems):
            # Now and then a client is a new one.
            with grpc.insecure_channel(self.daemon.address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel:
                stub = daemon_process.stubs.GenerationStub(channel)
                stub.channel = channel
                for _ in range(choices.randrange(1, 40)):
                    if self.ends.is_set() or self.problems:
                        break
                    self.act(choices.choice(actions), stub, choices)

    def act(self, action, stub, choices):
        how = "OK"
        try:
            action(stub, choices)
        except grpc.RpcError as error:
            how = error.code().name
            if error.code() != NO_ROOM:
                self.problems.append(f"{action.__name__}: {error.code()}: {error.details()}")
        except Exception:
            how = "WRONG"
            self.problems.append(f"{action.__name__}: {traceback.format_exc()}")
        with self.lock:
            self.done[f"{action.__name__} {how}"] += 1

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.daemon.process.pid}/fd"))

    def session_files(self):
        """What is gone is removed by a thread of its own, a little later."""
        return list((self.folder / "sessions").glob("*.session*"))

    def run(self, seconds):
        """Samples of resident bytes, once in a hundredth of the time."""
        threads = [threading.Thread(target=self.work, args=(seed,)) for seed in range(WORKERS)]
        for thread in threads:
            thread.start()
        samples, end = [], time.monotonic() + seconds
        try:
            while time.monotonic() < end and not self.problems:
                time.sleep(seconds / 100)
                samples.append(self.daemon.resident_bytes())
        finally:
            self.ends.set()
            for thread in threads:
                thread.join()
        return samples

    def check_nothing_is_left(self, descriptors):
        self.expect(not self.problems, "\n".join(self.problems))
        left = self.daemon.sessions.List(session_pb.ListSessionsRequest()).sessions
        self.expect(not left, f"sessions are left: {left}")
        load = self.daemon.wait_until_idle()
        self.expect((load.running, load.waiting, load.slots_used, load.pages_used, load.state_bytes) == (0, 0, 0, 0, 0), load)
        end = time.monotonic() + 60
        while (self.session_files() or self.descriptors() > descriptors) and time.monotonic() < end:
            time.sleep(0.2)
        self.expect(not self.session_files(), f"files of sessions are left: {self.session_files()}")
        self.expect(self.descriptors() <= descriptors, f"{self.descriptors()} descriptors, {descriptors} before")
        # The daemon is as good as new.
        for reference in self.references:
            answer = self.daemon.generation.GenerateOnce(reference.request)
            self.expect(list(answer.token_ids) == reference.ids, "another answer than before the load")

    def report(self, seconds, samples):
        print(f"{seconds:.0f} s of load:", ", ".join(f"{count} {what}" for what, count in sorted(self.done.items())))
        for name, values in self.times.items():
            values.sort()
            at = [values[min(len(values) - 1, int(share * len(values)))] * 1e3 for share in (0.5, 0.9, 0.99)]
            print(f"{name}: p50 {at[0]:.1f}, p90 {at[1]:.1f}, p99 {at[2]:.1f}, max {values[-1] * 1e3:.1f} ms of {len(values)}")
        print("resident MB:", " ".join(f"{sample / 1e6:.1f}" for sample in samples[::10] + samples[-1:]))


def growth_of(samples):
    """From the warm quarter to the last one: of the means, as a share."""
    quarter = len(samples) // 4
    warm, last = samples[quarter:2 * quarter], samples[-quarter:]
    return sum(last) / len(last) / (sum(warm) / len(warm)) - 1


def main():
    global OPTIONS, pb, session_pb
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("binary", "models", "mambactl"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--minutes", type=float, help="of load; also holds memory to a growth of 2 %%")
    OPTIONS = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        pb = daemon_process.make_stubs(name)
        session_pb = daemon_process.session_pb
        (folder / "mambad.yaml").write_text(CONFIG.replace("SESSIONS", name + "/sessions"), encoding="utf-8")
        models = pathlib.Path(OPTIONS.models)
        daemon = daemon_process.Daemon(OPTIONS.binary, str(models / "target"), str(models / "draft"),
                                       ["--config", str(folder / "mambad.yaml")])
        try:
            soak = Soak(daemon, folder)
            descriptors = soak.descriptors()
            seconds = 60 * OPTIONS.minutes if OPTIONS.minutes else SHORT_SECONDS
            samples = soak.run(seconds)
            soak.report(seconds, samples)
            soak.check_nothing_is_left(descriptors)
            growth, most = growth_of(samples), LONG_GROWTH if OPTIONS.minutes else SHORT_GROWTH
            print(f"resident memory grew by {100 * growth:.2f} %, allowed {100 * most:g} %")
            soak.expect(growth < most, "memory is not flat")
            code = daemon.stop()
            soak.expect(code == 0, f"exit {code}")
            errors = [line for line in daemon.errors if "error" in line.lower()]
            soak.expect(not errors, f"the log has errors: {errors[:5]}")
        finally:
            daemon.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
