#!/usr/bin/env python3
"""Sessions over the wire, on the story model with its draft: a conversation whose session is kept, parked, killed with its
daemon, moved, forked and taken back has the bits of single calls over the whole text.

    sessions_test.py --binary build/bin/mambad --models deploy/models/stories --mambactl build/bin/mambactl [--kills 100]
"""

import argparse
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import grpc

import daemon_process
from daemon_process import make_stubs
from session_talk import Talk, fill_slots, start_daemon

OPTIONS = pb = None  # set by main: the arguments, the generated messages

TURNS = ["Once upon a time there was a little dragon", " The dragon said", " Then Lily", " In the end", " But", " So they"]


def tokens_of(daemon, turn):
    """What a turn adds to the text."""
    text = TURNS[turn % len(TURNS)]
    return list(daemon.generation.Tokenize(pb.TokenizeRequest(text=text, add_special_tokens=turn == 0)).token_ids)


def new_talk(daemon, temperature, mode):
    talk = Talk(daemon, temperature, mode, None)
    talk.added = lambda turn: tokens_of(talk.daemon, turn)
    return talk


class SessionsTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.daemons = []

    def tearDown(self):
        for daemon in self.daemons:
            daemon.kill()
        self.folder.cleanup()

    def start(self, name="one", **settings):
        folder = pathlib.Path(self.folder.name) / name
        models = pathlib.Path(OPTIONS.models)
        daemon = start_daemon(OPTIONS.binary, folder, models / "target", models / "draft", **settings)
        self.daemons.append(daemon)
        return daemon

    def each(self):
        for temperature in (0, 0.8):
            for mode in (pb.Speculation.OFF, pb.Speculation.AUTO, pb.Speculation.DRAFT_MODEL):
                yield temperature, mode

    def test_kept_parked_and_killed(self):
        pb2 = daemon_process.session_pb
        daemon = self.start()
        for temperature, mode in self.each():
            with self.subTest(temperature=temperature, mode=mode):
                talk = new_talk(daemon, temperature, mode)
                for turn in range(6):
                    done = talk.take_turn(self, turn, stream=turn % 2 == 1)
                    if turn > 0:
                        self.assertGreater(done.usage.cached_tokens, 0)
                    if turn == 1:
                        fill_slots(daemon, [300])
                        self.assertEqual(talk.facts().tier, pb2.Session.HOST)
                    if turn == 3:
                        daemon.kill()
                        daemon = talk.daemon = self.start()
                        self.assertEqual(talk.facts().tier, pb2.Session.DISK)
                        self.assertEqual(talk.facts().position, talk.position)

    def test_exported_imported_forked_and_taken_back(self):
        pb2 = daemon_process.session_pb
        one, two = self.start("one"), self.start("two")
        for temperature, mode in self.each():
            with self.subTest(temperature=temperature, mode=mode):
                talk = new_talk(one, temperature, mode)
                talk.take_turn(self, 0)
                talk.take_turn(self, 1)
                kept = one.sessions.Checkpoint(pb2.CheckpointSessionRequest(session_id=talk.session))
                self.assertEqual(list(kept.checkpoints), [talk.position])
                # Two branches.
                fork = talk.branch(one.sessions.Fork(pb2.ForkSessionRequest(session_id=talk.session)).session_id)
                self.assertNotEqual(fork.session, talk.session)
                talk.take_turn(self, 2)
                fork.take_turn(self, 3)
                fork.take_turn(self, 4)
                # Taken back.
                session = one.sessions.Rewind(pb2.RewindSessionRequest(session_id=talk.session, position=kept.position))
                self.assertEqual(session.state_digest, kept.state_digest)
                talk.ids, talk.position = talk.ids[:kept.position], kept.position
                talk.take_turn(self, 3)
                # Moved.
                moved = subprocess.run([OPTIONS.mambactl, "--address", one.address, "--json", "sessions", "move",
                                        talk.session, "--to", two.address], stdout=subprocess.PIPE, check=True)
                with self.assertRaises(grpc.RpcError) as caught:
                    talk.facts()
                self.assertEqual(caught.exception.code(), grpc.StatusCode.NOT_FOUND)
                talk.daemon, talk.session = two, json.loads(moved.stdout)["session_id"]
                done = talk.take_turn(self, 5)
                self.assertGreater(done.usage.cached_tokens, 0)

    def test_cut_by_the_end_of_the_server(self):
        """A stream that SIGTERM cuts says where its session stands, and its answer goes on in another process with the bits
        that it would have had."""
        for kept_before in (True, False):
            with self.subTest(kept_before=kept_before):
                daemon = self.start(drain_timeout="0s")
                talk = new_talk(daemon, 0.8, pb.Speculation.AUTO)
                if kept_before:
                    talk.take_turn(self, 0)
                added = talk.added(1)
                expected = talk.single(1, 400)
                request = talk.kept(1, added)
                request.stopping.max_tokens = 400
                answer, last = [], None
                with self.assertRaises(grpc.RpcError) as caught:
                    for message in daemon.generation.Generate(request):
                        if not answer:
                            daemon.process.send_signal(signal.SIGTERM)
                        answer += list(message.token_ids)
                        last = message
                self.assertEqual(caught.exception.code(), grpc.StatusCode.UNAVAILABLE)
                talk.session = last.completion.session_id
                self.assertIn(f"session {talk.session} is kept at position {last.completion.position}, "
                              f"state_digest {last.completion.state_digest}", caught.exception.details())
                self.assertEqual(answer, expected[:len(answer)])
                self.assertEqual(last.completion.finish_reason, pb.CANCELLED)
                talk.ids += added + answer
                self.assertEqual(last.completion.position, len(talk.ids))
                self.assertEqual(daemon.process.wait(timeout=60), 0)
                daemon.kill()
                talk.daemon = self.start()
                self.assertEqual(talk.facts().state_digest, last.completion.state_digest)
                talk.finish_turn(self, 1, expected[len(answer):])
                talk.take_turn(self, 2)
                talk.daemon.kill()

    def test_text_at_the_borders_of_turns(self):
        """A text that goes on has no space of its own before it, and a character may begin in one turn and end in the next."""
        daemon = self.start()
        request = pb.GenerateRequest(text="Once upon a time", keep_session=True)
        request.stopping.max_tokens = 6
        request.stopping.ignore_eos = True
        first = daemon.generation.GenerateOnce(request).completion
        # Alone, SentencePiece would put the space there.
        spaced = daemon.generation.Tokenize(pb.TokenizeRequest(text="The dragon", add_special_tokens=False)).token_ids
        request.session_id = first.session_id
        for text, ids in ((" The dragon", list(spaced)), ("\n", None)):
            request.text = text
            request.keep_session = False
            by_text = daemon.generation.GenerateOnce(request)
            if ids is None:
                ids = [token for token in daemon.generation.Tokenize(
                    pb.TokenizeRequest(text=text, add_special_tokens=False)).token_ids][1:]
            request.token_ids.ids[:] = ids
            by_ids = daemon.generation.GenerateOnce(request)
            self.assertEqual(by_text.completion.usage.prompt_tokens, first.position + len(ids))
            self.assertEqual(by_text.token_ids, by_ids.token_ids)
        # An answer that stops in a stop string: the session stands behind the token that completed it.
        whole = daemon.generation.GenerateOnce(pb.GenerateRequest(session_id=first.session_id, stopping={"max_tokens": 20}))
        stop = whole.text[len(whole.text) // 2:len(whole.text) // 2 + 3]
        stopped = daemon.generation.GenerateOnce(pb.GenerateRequest(
            session_id=first.session_id, keep_session=True, stopping={"max_tokens": 20, "stop_strings": [stop]}))
        self.assertEqual(stopped.completion.finish_reason, pb.STOP)
        self.assertEqual(stopped.text, whole.text[:whole.text.index(stop)])
        count = len(stopped.token_ids)
        self.assertEqual(list(stopped.token_ids), list(whole.token_ids)[:count])
        self.assertEqual(stopped.completion.position, first.position + count)
        rest = daemon.generation.GenerateOnce(pb.GenerateRequest(session_id=first.session_id,
                                                                 stopping={"max_tokens": 20 - count}))
        self.assertEqual(list(rest.token_ids), list(whole.token_ids)[count:])

    def test_checkpoints_outlive_a_kill(self):
        pb2 = daemon_process.session_pb
        daemon = self.start()
        talk = new_talk(daemon, 0.8, pb.Speculation.AUTO)
        talk.take_turn(self, 0)
        mark = daemon.sessions.Checkpoint(pb2.CheckpointSessionRequest(session_id=talk.session))
        talk.take_turn(self, 1)
        daemon.kill()
        daemon = talk.daemon = self.start()
        self.assertEqual(list(talk.facts().checkpoints), [mark.position])
        back = daemon.sessions.Rewind(pb2.RewindSessionRequest(session_id=talk.session, position=mark.position))
        self.assertEqual(back.state_digest, mark.state_digest)
        talk.ids, talk.position = talk.ids[:mark.position], mark.position
        self.assertGreater(talk.take_turn(self, 2).usage.cached_tokens, 0)

    def test_what_is_deleted_stays_so(self):
        """However soon after the answer the server is killed."""
        daemon = self.start()
        for turn in range(5):
            talk = new_talk(daemon, 0, pb.Speculation.OFF)
            talk.take_turn(self, turn)
            daemon.sessions.Delete(daemon_process.session_pb.DeleteSessionRequest(session_id=talk.session))
            daemon.kill()
            daemon = self.start()
            self.assertEqual(len(daemon.sessions.List(daemon_process.session_pb.ListSessionsRequest()).sessions), 0)

    def test_metrics(self):
        pb2 = daemon_process.session_pb
        daemon = self.start()

        def value(name):
            lines = [line for line in daemon.metrics().splitlines() if line.startswith(name + " ")]
            self.assertEqual(len(lines), 1, name)
            return float(lines[0].split()[-1])

        def sessions():
            return [int(value(f'mambad_sessions{{tier="{tier}"}}')) for tier in ("text", "slot", "host", "disk")]

        self.assertEqual(sessions(), [0, 0, 0, 0])
        talk = new_talk(daemon, 0, pb.Speculation.OFF)
        talk.take_turn(self, 0)
        self.assertEqual(sessions(), [0, 1, 0, 0])
        self.assertGreater(value('mambad_state_bytes{tier="disk"}'), 1000)
        self.assertGreater(value("mambad_snapshot_bytes_total"), 1000)
        fill_slots(daemon, [300])
        self.assertEqual(sessions(), [0, 0, 1, 0])
        self.assertEqual(value("mambad_session_parks_total"), 1)
        self.assertGreater(value('mambad_state_bytes{tier="host"}'), 1000)
        talk.take_turn(self, 1)
        self.assertEqual(value("mambad_session_restores_total"), 1)
        self.assertEqual(value('mambad_session_restore_seconds_count{tier="host"}'), 1)
        daemon.kill()
        daemon = talk.daemon = self.start()
        self.assertEqual(sessions(), [0, 0, 0, 1])
        talk.take_turn(self, 2)
        self.assertEqual(value('mambad_session_restore_seconds_count{tier="disk"}'), 1)
        daemon.sessions.Delete(pb2.DeleteSessionRequest(session_id=talk.session))
        self.assertEqual(sessions(), [0, 0, 0, 0])
        self.assertEqual(value("mambad_session_evictions_total"), 0)

    def test_refusals(self):
        pb2 = daemon_process.session_pb
        daemon = self.start()
        talk = new_talk(daemon, 0, pb.Speculation.OFF)
        talk.take_turn(self, 0)

        def code(call):
            with self.assertRaises(grpc.RpcError) as caught:
                call()
            return caught.exception.code()

        request = talk.request(1, talk.added(1), pb.Speculation.OFF)
        request.session_id = "nothing"
        self.assertEqual(code(lambda: daemon.generation.GenerateOnce(request)), grpc.StatusCode.NOT_FOUND)
        self.assertEqual(code(lambda: daemon.sessions.Rewind(
            pb2.RewindSessionRequest(session_id=talk.session, position=3))), grpc.StatusCode.FAILED_PRECONDITION)
        # A second call while one uses it.
        request.session_id = talk.session
        request.stopping.max_tokens = 1000
        stream = daemon.generation.Generate(request)
        next(stream)
        self.assertEqual(code(lambda: daemon.generation.GenerateOnce(request)), grpc.StatusCode.ABORTED)
        self.assertEqual(code(lambda: daemon.sessions.Delete(
            pb2.DeleteSessionRequest(session_id=talk.session))), grpc.StatusCode.ABORTED)
        stream.cancel()
        # What was not to be kept has changed nothing, once the call is over.
        end = time.monotonic() + 20
        while talk.facts().in_use and time.monotonic() < end:
            time.sleep(0.02)
        self.assertEqual(talk.facts().position, talk.position)
        talk.take_turn(self, 1)
        # A record of something else.
        chunks = [pb2.ImportSessionRequest(piece=b"MAMBADS1" + b"\xff" * 200)]
        self.assertEqual(code(lambda: daemon.sessions.Import(iter(chunks))), grpc.StatusCode.INVALID_ARGUMENT)
        self.assertEqual(code(lambda: daemon.sessions.Import(iter([]))), grpc.StatusCode.INVALID_ARGUMENT)
        daemon.sessions.Delete(pb2.DeleteSessionRequest(session_id=talk.session))
        self.assertEqual(len(daemon.sessions.List(pb2.ListSessionsRequest()).sessions), 0)
        self.assertEqual(daemon.wait_until_idle().state_bytes, 0)

    def test_a_second_principal_cannot_read_list_fork_or_end_anothers_session(self):
        pb2 = daemon_process.session_pb
        tokens = pathlib.Path(self.folder.name) / "tokens"

        def bearer(principal, scopes="generate,sessions"):
            token = subprocess.run([OPTIONS.mambactl, "token", "create", "--file", str(tokens), "--principal", principal,
                                    "--scopes", scopes], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
            return (("authorization", f"Bearer {token}"),)

        def failure(code, call, request, metadata):
            with self.assertRaises(grpc.RpcError) as caught:
                answer = call(request, timeout=30, metadata=metadata)
                for _ in answer if hasattr(answer, "__next__") else ():
                    pass
            self.assertEqual(caught.exception.code(), code, caught.exception.details())
            return caught.exception

        def calls(session, position):
            yield sessions.Get, pb2.GetSessionRequest(session_id=session)
            yield sessions.Fork, pb2.ForkSessionRequest(session_id=session)
            yield sessions.Checkpoint, pb2.CheckpointSessionRequest(session_id=session)
            yield sessions.Rewind, pb2.RewindSessionRequest(session_id=session, position=position)
            yield sessions.Export, pb2.ExportSessionRequest(session_id=session)
            yield sessions.Delete, pb2.DeleteSessionRequest(session_id=session)
            yield daemon.generation.GenerateOnce, request(session_id=session, keep_session=True)

        def request(tokens=4, **fields):
            return pb.GenerateRequest(token_ids=pb.TokenIds(ids=[5, 6]), stopping={"max_tokens": tokens, "ignore_eos": True},
                                      **fields)

        alice, bob, carol = bearer("alice"), bearer("bob"), bearer("carol", "generate")
        daemon = self.start(extra=["--token-file", str(tokens)])
        sessions = daemon.sessions
        kept = daemon.generation.GenerateOnce(request(keep_session=True), metadata=alice).completion
        mark = sessions.Checkpoint(pb2.CheckpointSessionRequest(session_id=kept.session_id), metadata=alice)
        # As of one that nobody has, to the letter; and not even whether it is being used.
        stream = daemon.generation.Generate(request(900, session_id=kept.session_id), metadata=alice)
        next(stream)
        for (call, asked), (_, other) in zip(calls(kept.session_id, mark.position), calls("0" * 32, mark.position)):
            found = failure(grpc.StatusCode.NOT_FOUND, call, asked, bob)
            nothing = failure(grpc.StatusCode.NOT_FOUND, call, other, bob)
            self.assertEqual(found.details(), nothing.details())
            self.assertEqual(found.trailing_metadata(), nothing.trailing_metadata())
        stream.cancel()
        self.assertEqual(len(sessions.List(pb2.ListSessionsRequest(), metadata=bob).sessions), 0)
        for call, asked in (*list(calls(kept.session_id, mark.position))[:6], (sessions.List, pb2.ListSessionsRequest())):
            failure(grpc.StatusCode.PERMISSION_DENIED, call, asked, carol)
        mine = sessions.List(pb2.ListSessionsRequest(), metadata=alice).sessions
        self.assertEqual([(s.session_id, s.state_digest) for s in mine], [(kept.session_id, kept.state_digest)])

    def test_killed_at_random_moments(self):
        """Every session and checkpoint that was acknowledged comes back whole, and what is torn goes with a line."""
        pb2 = daemon_process.session_pb
        random.seed(5)
        acknowledged = {}  # session -> its writer, position, digest
        marks = {}  # session -> positions
        writes = removed = 0

        def writer(daemon, seed):
            """Turns of three tokens and three of the answer, on one session after another; each fifth one is marked."""
            nonlocal writes
            mine = [session for session, (owner, position, _) in acknowledged.items() if owner == seed and position < 120]
            session = mine[-1] if mine else None
            try:
                while True:
                    request = self.small_turn(seed)
                    request.keep_session = True
                    if session:
                        request.session_id = session
                    done = daemon.generation.GenerateOnce(request).completion
                    session = done.session_id
                    acknowledged[session] = seed, done.position, done.state_digest
                    writes += 1
                    if done.position % 30 == 0:
                        marked = daemon.sessions.Checkpoint(pb2.CheckpointSessionRequest(session_id=session))
                        marks.setdefault(session, set()).add(marked.position)
                    if done.position >= 120:
                        session = None
            except grpc.RpcError:
                return

        for kill in range(OPTIONS.kills):
            daemon = self.start()
            self.check_acknowledged(daemon, acknowledged, marks, kill)
            writers = [threading.Thread(target=writer, args=(daemon, seed)) for seed in range(3)]
            for thread in writers:
                thread.start()
            time.sleep(random.uniform(0.01, 0.3))
            daemon.process.kill()
            for thread in writers:
                thread.join()
            daemon.kill()
            removed += sum(": removed" in line for line in daemon.errors)
            self.daemons.remove(daemon)
        daemon = self.start()
        self.check_acknowledged(daemon, acknowledged, marks, OPTIONS.kills)
        self.check_bits(daemon, acknowledged)
        print(f"{OPTIONS.kills} kills, {writes} answers kept in {len(acknowledged)} sessions, "
              f"{sum(map(len, marks.values()))} checkpoints, {removed} torn files removed", file=sys.stderr)

    def small_turn(self, seed, before=()):
        request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[*before, 5 + seed, 9, 20]))
        request.stopping.max_tokens = 3
        request.stopping.ignore_eos = True
        request.sampling.temperature = 0.8
        request.sampling.seed = 7
        return request

    def check_acknowledged(self, daemon, acknowledged, marks, kill):
        found = {s.session_id: s for s in daemon.sessions.List(daemon_process.session_pb.ListSessionsRequest()).sessions}
        for session, (seed, position, digest) in acknowledged.items():
            self.assertIn(session, found, f"kill {kill}")
            # One that was being written may be further, or as it was.
            self.assertIn(found[session].position, (position, position + 6))
            if found[session].position == position:
                self.assertEqual(found[session].state_digest, digest)
            self.assertLessEqual(marks.get(session, set()), set(found[session].checkpoints))
            acknowledged[session] = seed, found[session].position, found[session].state_digest

    def check_bits(self, daemon, acknowledged):
        """All texts are those of single calls, and go on as these do."""
        pb2 = daemon_process.session_pb
        texts = {}  # by writer: of one turn, of two and so on
        for session, (seed, position, digest) in acknowledged.items():
            turns = texts.setdefault(seed, [[]])
            while len(turns) <= position // 6 + 1:
                request = self.small_turn(seed, turns[-1])
                turns.append(list(request.token_ids.ids) + list(daemon.generation.GenerateOnce(request).token_ids))
            text, after = turns[position // 6], turns[position // 6 + 1]
            made = daemon.sessions.Create(pb2.CreateSessionRequest(token_ids=pb.TokenIds(ids=text)))
            self.assertEqual(made.state_digest, digest)
            daemon.sessions.Delete(pb2.DeleteSessionRequest(session_id=made.session_id))
            request = self.small_turn(seed)
            request.session_id = session
            answer = daemon.generation.GenerateOnce(request)
            self.assertEqual(list(answer.token_ids), after[-3:])
            self.assertGreater(answer.completion.usage.cached_tokens, 0)


def main():
    global OPTIONS, pb
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--models", required=True)
    parser.add_argument("--mambactl", required=True)
    parser.add_argument("--kills", type=int, default=5)
    OPTIONS, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        pb = make_stubs(folder)
        unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
