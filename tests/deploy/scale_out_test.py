#!/usr/bin/env python3
"""A service of two replicas in one story: behind the router of deploy/openai.sh, watched by Prometheus with the shipped
dashboard and alerts, one replica is upgraded, one is killed and started again, and one is drained for good, all under load.

    scale_out_test.py --mambad PROGRAM --mambactl PROGRAM --models FOLDER [--seconds N] [--drain-timeout 30s]

`--seconds`: of load between what happens, 4 of them (4 by default; 60 make it minutes). Every stream is counted: it ends
whole, equal to what a replica says by itself, or with an error, which the kill alone may cause. Conversations on the
replicas' own interface keep their sessions throughout. A shorter --drain-timeout cuts streams, and the test must find it.
Ends with 77 where Prometheus, smg or openai is not installed.
"""

import argparse
import collections
import importlib.util
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "e2e"))
if not shutil.which("prometheus") or not all(map(importlib.util.find_spec, ("grpc_tools", "smg", "openai"))):
    print("skipped, for want of Prometheus, or of Python's grpcio-tools, smg and openai")
    sys.exit(77)
import daemon_process  # noqa: E402  (beside the end-to-end tests)
from openai_endpoint import Endpoint  # noqa: E402
from prometheus_process import Prometheus  # noqa: E402
from server_process import closed_port  # noqa: E402
from session_talk import Talk, start_daemon  # noqa: E402
from shipped_monitoring import panel_queries, scrape_configuration  # noqa: E402

OPTIONS = None  # set by main
CALLERS = 6
PROMPTS = ["Once upon a time", "One day, a little girl named Lily", "The dog saw a big red ball"]
# Panels of what these replicas have not, or of what need not happen: their queries are answered as well, maybe by nothing.
MAYBE_EMPTY = {"Days until certificates end", "Credentials", "Prompts that begin like others", "Callers refused",
               "Calls that failed", "Queue"}
# These have some all the time that streams run, whichever replica is gone.
FIRST_ROW = {"Daemons that answer", "Tokens a second", "Drafts accepted", "First token, 19 of 20", "Slots in use"}

Ask = collections.namedtuple("Ask", "prompt tokens temperature seed")
ASKS = [Ask(prompt, tokens, temperature, 11 + place) for place, prompt in enumerate(PROMPTS)
        for tokens, temperature in ((40, 0), (120, 1))]
# `end`: whole, differs, cut (without a reason or an error), error.
Stream = collections.namedtuple("Stream", "began ended end words")


class Replica:
    """A daemon at one place, whatever program runs there."""

    def __init__(self, folder, binary):
        self.folder, self.listen, self.metrics = folder, closed_port(), closed_port()
        self.start(binary)

    def start(self, binary):
        models = pathlib.Path(OPTIONS.models)
        self.daemon = start_daemon(
            binary, self.folder, models / "target", models / "draft", OPTIONS.drain_timeout,
            extra=["--threads", "1", "--model-name", "stories"], listen=self.listen, metrics=self.metrics)

    def running(self):
        return self.daemon.generation.GetLoad(daemon_process.pb.GetLoadRequest()).running

    def answered(self):
        """Requests that came to their end there since its start."""
        return sum(float(line.split()[-1]) for line in self.daemon.metrics().splitlines()
                   if line.startswith("mambad_request_success_total"))


class Load:
    """Streams through the router, one after another on some threads, until told to stop."""

    def __init__(self, endpoint, references):
        self.endpoint, self.references = endpoint, references
        self.started, self.streams, self.lock, self.over = 0, [], threading.Lock(), threading.Event()
        self.threads = [threading.Thread(target=self.run, args=(place,), daemon=True) for place in range(CALLERS)]
        for thread in self.threads:
            thread.start()

    def run(self, place):
        while not self.over.is_set():
            ask = ASKS[place % len(ASKS)]
            place += 1
            with self.lock:
                self.started += 1
            stream = self.one(ask)
            with self.lock:
                self.streams.append(stream)
            if stream.end != "whole":
                time.sleep(0.2)  # as clients do

    def one(self, ask):
        began, pieces, reason = time.monotonic(), [], None
        try:
            for chunk in self.endpoint.complete(prompt="<s>" + ask.prompt, max_tokens=ask.tokens, stream=True,
                                                temperature=ask.temperature, seed=ask.seed):
                for choice in chunk.choices:
                    pieces.append(choice.text)
                    reason = choice.finish_reason or reason
        except Exception as error:  # judged with all the others
            return Stream(began, time.monotonic(), "error", f"{type(error).__name__}: {error}")
        said = ("".join(pieces).strip(), reason)
        end = "cut" if reason is None else "whole" if said == self.references[ask] else "differs"
        return Stream(began, time.monotonic(), end, f"{ask}: {said}")

    def wholes(self):
        with self.lock:
            return sum(stream.end == "whole" for stream in self.streams)

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(timeout=90)


class Watch:
    """The dashboard's queries, asked again and again as somebody does who looks at it."""

    def __init__(self, prometheus):
        self.prometheus, self.queries = prometheus, list(panel_queries())
        self.rounds, self.failures, self.answered = 0, [], set()
        self.blind = []  # rounds in which a panel of FIRST_ROW had no numbers any more
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        while not self.over.is_set():
            self.rounds += 1
            for title, query in self.queries:
                self.ask(title, query)
            self.over.wait(1)

    def ask(self, title, query):
        try:
            numbers = self.prometheus.numbers(query, 3)
        except Exception as error:  # told by the main thread
            self.failures.append(f"{title}: {error!r}")
            return
        if numbers:
            self.answered.add((title, query))
        elif title in FIRST_ROW and (title, query) in self.answered:
            self.blind.append(f"round {self.rounds}, {title}")

    def empty(self):
        """Titles of panels of which a query never had numbers."""
        return {title for title, query in self.queries if (title, query) not in self.answered}

    def stop(self):
        self.over.set()
        self.thread.join(timeout=60)


def newer_program(folder):
    """A copy of the daemon whose version is another one."""
    old = subprocess.run([OPTIONS.mambad, "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
    new = old[:-1] + ("9" if old[-1] != "9" else "8")
    program = folder / "new" / "mambad"
    program.parent.mkdir()
    for library in pathlib.Path(OPTIONS.mambad).parent.glob("libmambad_*.so"):
        (program.parent / library.name).symlink_to(library)
    content = pathlib.Path(OPTIONS.mambad).read_bytes()
    program.write_bytes(content.replace(f"\0{old}\0".encode(), f"\0{new}\0".encode()))
    program.chmod(0o755)
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    assert said == f"mambad {new}\n", said
    return str(program), new


class ScaleOutTest(unittest.TestCase):
    def setUp(self):
        name = tempfile.TemporaryDirectory()
        self.addCleanup(name.cleanup)
        self.folder = pathlib.Path(name.name)
        self.replicas = []
        for name in ("one", "two"):
            self.replicas.append(Replica(self.folder / name, OPTIONS.mambad))
            self.addCleanup(lambda replica=self.replicas[-1]: replica.daemon.kill())
        self.prometheus = Prometheus(self.folder, scrape_configuration([replica.metrics for replica in self.replicas]))
        self.addCleanup(self.prometheus.stop)
        workers = ",".join(f"grpc://{replica.listen}" for replica in self.replicas)
        self.endpoint = Endpoint("--workers", workers, router=("--policy", "round_robin"))
        self.addCleanup(self.endpoint.stop)

    def reference(self, ask):
        """The text and the reason of its end, by a replica alone."""
        request = daemon_process.pb.GenerateRequest(text=ask.prompt)
        request.stopping.max_tokens = ask.tokens
        request.sampling.temperature, request.sampling.seed = ask.temperature, ask.seed
        answer = self.replicas[0].daemon.generation.GenerateOnce(request)
        cut = answer.completion.finish_reason == daemon_process.pb.LENGTH
        return answer.text.strip(), "length" if cut else "stop"

    def talk(self, replica, number):
        """A conversation on a session, of two turns so far."""
        tokens = daemon_process.pb.TokenizeRequest
        words = [list(replica.daemon.generation.Tokenize(tokens(text=text)).token_ids)
                 for text in (f"Once there were {number} dragons", "Then Lily said")]
        talk = Talk(replica.daemon, number % 2, daemon_process.pb.Speculation.AUTO,
                    lambda turn: words[0] if turn == 0 else words[1][1:])
        talk.turns = 0
        for _ in range(2):
            self.take_turn(talk)
        return talk

    def take_turn(self, talk):
        talk.take_turn(self, talk.turns)
        talk.turns += 1

    def kept(self, talks, facts, replica):
        """The sessions stand at `replica` where they stood, and go on there."""
        for talk, before in zip(talks, facts):
            talk.daemon = replica.daemon
            now = talk.facts()
            self.assertEqual((now.position, now.state_digest), (before.position, before.state_digest))
            self.take_turn(talk)

    def wait_for(self, condition, what, seconds=30):
        deadline = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), deadline, what)
            time.sleep(0.02)

    def wait_for_router(self, replica):
        """Until it sends this one its share again."""
        before = replica.answered()
        self.wait_for(lambda: replica.answered() > before + CALLERS, "the router does not come back to a replica")

    def drain(self, replica):
        """Ended while it has streams of the router; it finishes them."""
        self.wait_for(lambda: replica.running() > 1, "the router sends nothing there")
        replica.daemon.channel.close()
        replica.daemon.process.send_signal(signal.SIGTERM)
        self.assertEqual(replica.daemon.process.wait(timeout=60), 0)
        replica.daemon.kill()  # what there is to close

    def load_on(self):
        """For a while; answers come."""
        before = self.load.wholes()
        time.sleep(OPTIONS.seconds)
        self.wait_for(lambda: self.load.wholes() > before, "no stream ends any more")

    def upgrade(self, replica, talks):
        program, version = newer_program(self.folder)
        facts = [talk.facts() for talk in talks]
        self.drain(replica)
        replica.start(program)
        self.assertIn(f"mambad {version} ready", replica.daemon.ready_line)
        self.kept(talks, facts, replica)
        self.wait_for_router(replica)
        query = f'up{{instance="{replica.metrics}"}}'
        self.wait_for(lambda: 1 in self.prometheus.numbers(query, 1), "Prometheus does not see an upgraded replica")

    def kill(self, replica, talks):
        """The time when it was; then the replica is started again."""
        facts = [talk.facts() for talk in talks]
        self.wait_for(lambda: replica.running() > 1, "the router sends nothing there")
        killed = time.monotonic()
        replica.daemon.kill()
        self.load_on()
        replica.start(OPTIONS.mambad)
        self.kept(talks, facts, replica)
        self.wait_for_router(replica)
        return killed

    def move(self, talks, source, target):
        for talk in talks:
            done = subprocess.run([OPTIONS.mambactl, "--address", source.listen, "--json", "sessions", "move", talk.session,
                                   "--to", target.listen], check=True, capture_output=True, text=True)
            talk.session = json.loads(done.stdout)["session_id"]
        left = source.daemon.sessions.List(daemon_process.session_pb.ListSessionsRequest()).sessions
        self.assertEqual([session.session_id for session in left], [])

    def judge(self, load, killed):
        """The sums, in words."""
        ends = collections.Counter(stream.end for stream in load.streams)
        lost = [stream for stream in load.streams if stream.end != "whole"]
        said = "\n".join(f"{stream.began - killed:.2f} to {stream.ended - killed:.2f} s after the kill, {stream.end}: "
                         f"{stream.words}" for stream in lost[:20])
        self.assertEqual(load.started, sum(ends.values()))
        self.assertEqual(ends["differs"], 0, said)
        for stream in lost:
            # Those that ran when a replica was killed, and nobody else's.
            self.assertLess(stream.began, killed, said)
            self.assertGreater(stream.ended, killed, said)
        self.assertLessEqual(len(lost), CALLERS, said)
        self.assertEqual(ends["cut"], 0, said)
        self.assertGreater(ends["error"], 0, "nothing ran where a replica was killed")
        self.assertGreater(ends["whole"], 5 * CALLERS)
        return f"{load.started} streams: {ends['whole']} whole, {ends['error']} ended by the kill with an error"

    def test_upgrade_kill_and_drain_under_load(self):
        one, two = self.replicas
        references = {ask: self.reference(ask) for ask in ASKS}
        talks_one, talks_two = ([self.talk(replica, number) for number in (2, 3)] for replica in (one, two))
        watch, self.load = Watch(self.prometheus), Load(self.endpoint, references)
        try:
            self.load_on()
            self.upgrade(one, talks_one)
            self.load_on()
            killed = self.kill(two, talks_two)
            facts = [talk.facts() for talk in talks_two]
            self.move(talks_two, two, one)
            self.drain(two)
            self.kept(talks_two, facts, one)
            self.load_on()
        finally:
            self.load.stop()
            watch.stop()
        sums = self.judge(self.load, killed)
        for talk in talks_one + talks_two:
            self.take_turn(talk)
        self.assertEqual(watch.failures, [])
        self.assertEqual(watch.blind, [])
        self.assertLessEqual(watch.empty(), MAYBE_EMPTY)
        self.assertGreater(watch.rounds, 5)
        print(f"{sums}; {len(talks_one + talks_two)} sessions kept; {len(watch.queries)} queries of panels answered in each "
              f"of {watch.rounds} rounds")


def main():
    global OPTIONS
    parser = argparse.ArgumentParser()
    for name in ("--mambad", "--mambactl", "--models"):
        parser.add_argument(name, required=True)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--drain-timeout", default="30s")
    OPTIONS, rest = parser.parse_known_args()
    OPTIONS.mambad = str(pathlib.Path(OPTIONS.mambad).resolve())
    with tempfile.TemporaryDirectory() as folder:
        daemon_process.make_stubs(folder)
        unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
