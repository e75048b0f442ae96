#!/usr/bin/env python3
"""The sample configurations of deploy/ for proxies, with the proxies themselves before two replicas on the story model:
conversations stay where their sessions are, and nothing is lost when a replica is taken away under load.

    proxies_test.py --binary build/bin/mambad --models deploy/models/stories --mambactl build/bin/mambactl \\
        --nginx PATH --haproxy PATH
"""

import argparse
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import grpc

import daemon_process
from daemon_process import make_stubs
from server_process import closed_port
from session_talk import start_daemon

OPTIONS = pb = None  # set by main: the arguments, the generated messages
DEPLOY = pathlib.Path(__file__).resolve().parents[2] / "deploy"
KEYS = [f"conversation-{i}" for i in range(8)]


def libraries_of(program):
    """Where its libraries lie, if it was unpacked instead of installed."""
    folders = sorted({str(path.parent) for path in pathlib.Path(program).parents[2].glob("usr/lib/*/*.so*")})
    return dict(os.environ, LD_LIBRARY_PATH=":".join(folders)) if folders and not program.startswith("/usr/") else None


class Proxy:
    """A proxy between its clients and two daemons, with the sample configuration but for its places."""

    def __init__(self, folder, daemons):
        self.folder, self.daemons = pathlib.Path(folder), daemons
        self.address = closed_port()
        text = (DEPLOY / self.sample).read_text(encoding="utf-8")
        metrics = [daemon.metrics_address.rsplit(":", 1)[1] for daemon in daemons]
        for old, new in [("127.0.0.1:50050", self.address), ("127.0.0.1:50051", daemons[0].address),
                         ("127.0.0.1:50061", daemons[1].address), *self.places(metrics)]:
            if old not in text:
                raise RuntimeError(f"{self.sample} has no {old}")
            text = text.replace(old, new)
        self.config = self.folder / self.sample
        self.config.write_text(text, encoding="utf-8")
        self.process = subprocess.Popen(self.command(), env=libraries_of(self.program()))
        self.channel = grpc.insecure_channel(self.address)
        grpc.channel_ready_future(self.channel).result(timeout=30)
        self.generation = daemon_process.stubs.GenerationStub(self.channel)

    def stop(self):
        self.channel.close()
        self.process.terminate()
        self.process.wait(timeout=30)


class Nginx(Proxy):
    sample = "nginx.conf"

    def program(self):
        return OPTIONS.nginx

    def places(self, _metrics):
        temporary = "".join(f"    {kind}_temp_path {self.folder}/{kind};\n"
                            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        return [("/run/mambad-nginx.pid", f"{self.folder}/pid"), ("http {\n", "http {\n" + temporary)]

    def command(self, *more):
        user = ["user root;"] if os.geteuid() == 0 else []
        settings = " ".join(["daemon off;", *user])
        return [self.program(), "-p", str(self.folder), "-c", str(self.config), "-e", "stderr",
                *(more or ("-g", settings))]

    def drain_first(self):
        text = self.config.read_text(encoding="utf-8")
        line = f"server {self.daemons[0].address} "
        self.config.write_text(text.replace(line, line + "down "), encoding="utf-8")
        subprocess.run(self.command("-s", "reload"), env=libraries_of(self.program()), check=True)
        time.sleep(1)  # until new workers have taken over


class Haproxy(Proxy):
    sample = "haproxy.cfg"

    def program(self):
        return OPTIONS.haproxy

    def places(self, metrics):
        return [("/run/mambad-haproxy.sock", f"{self.folder}/socket"), ("port 9464", f"port {metrics[0]}"),
                ("port 9474", f"port {metrics[1]}")]

    def command(self):
        return [self.program(), "-f", str(self.config)]

    def drain_first(self):
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(f"{self.folder}/socket")
            control.sendall(b"set server mambad/one state drain\n")
            answer = control.recv(4096).decode().strip()
        if answer:
            raise RuntimeError(answer)


class Conversation:
    """Turns of one session, which its client sends with one key."""

    def __init__(self, proxy, key):
        self.proxy, self.metadata = proxy, [("mambad-route", key)]
        self.ids, self.session = [], ""

    def take_turn(self, ids):
        request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids), keep_session=True)
        request.stopping.max_tokens = 12
        request.stopping.ignore_eos = True
        if self.session:
            request.session_id = self.session
        answer = self.proxy.generation.GenerateOnce(request, metadata=self.metadata, timeout=30)
        self.ids += list(ids) + list(answer.token_ids)
        self.session = answer.completion.session_id
        return list(answer.token_ids)

    def expected(self, daemon, ids):
        """The same turn as one call over the whole text, without a session."""
        request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=self.ids + list(ids)))
        request.stopping.max_tokens = 12
        request.stopping.ignore_eos = True
        return list(daemon.generation.GenerateOnce(request, timeout=30).token_ids)


class Load:
    """Streams through the proxy, one after another on some threads, until told to stop."""

    def __init__(self, proxy, threads=3):
        self.proxy, self.over, self.ended, self.errors = proxy, False, 0, []
        self.threads = [threading.Thread(target=self.run, args=(i,), daemon=True) for i in range(threads)]
        for thread in self.threads:
            thread.start()

    def run(self, number):
        request = pb.GenerateRequest(text="Once upon a time")
        request.stopping.max_tokens = 60
        request.stopping.ignore_eos = True
        for turn in range(10000):
            if self.over:
                return
            try:
                tokens = 0
                for message in self.proxy.generation.Generate(request, metadata=[("mambad-route", f"{number}.{turn}")],
                                                              timeout=60):
                    tokens += len(message.token_ids)
                if tokens != 60:
                    self.errors.append(f"{tokens} tokens")
                self.ended += 1
            except grpc.RpcError as error:
                self.errors.append(f"{error.code()} {error.details()}")

    def stop(self):
        self.over = True
        for thread in self.threads:
            thread.join(timeout=60)


class ProxyCases:
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        models = pathlib.Path(OPTIONS.models)
        self.daemons = []
        for name in ("one", "two"):
            self.daemons.append(start_daemon(OPTIONS.binary, pathlib.Path(self.folder.name) / name, models / "target",
                                             models / "draft", extra=["--threads", "1"]))
        self.proxy = self.make_proxy(self.folder.name, self.daemons)

    def tearDown(self):
        self.proxy.stop()
        for daemon in self.daemons:
            daemon.kill()
        self.folder.cleanup()

    def tokens(self, text):
        return list(self.daemons[1].generation.Tokenize(pb.TokenizeRequest(text=text)).token_ids)

    def sessions_of(self, daemon):
        return [session.session_id for session in daemon.sessions.List(daemon_process.session_pb.ListSessionsRequest()).sessions]

    def move_all(self, source, target):
        """As an operator does it: by mambactl. The new ids by the old ones."""
        moved = {}
        for session in self.sessions_of(source):
            done = subprocess.run([OPTIONS.mambactl, "--address", source.address, "--json", "sessions", "move", session, "--to",
                                   target.address], check=True, capture_output=True, text=True)
            moved[session] = json.loads(done.stdout)["session_id"]
        return moved

    def test_conversations_stay_and_move(self):
        talks = [Conversation(self.proxy, key) for key in KEYS]
        first, second = self.tokens("Once upon a time there was a little dragon"), self.tokens("Then Lily said")[1:]
        for number, talk in enumerate(talks):
            talk.take_turn(first + self.tokens(str(number))[1:])
        # Both have some, and whoever goes on finds its own.
        counts = [len(self.sessions_of(daemon)) for daemon in self.daemons]
        self.assertEqual(sum(counts), len(KEYS))
        self.assertGreater(min(counts), 0)
        # In another order: replicas in turn would fit the first one.
        for talk in reversed(talks):
            expected = talk.expected(self.daemons[1], second)
            self.assertEqual(talk.take_turn(second), expected)

        load = Load(self.proxy)
        time.sleep(1)
        self.proxy.drain_first()
        # What runs there comes to its end; new calls go to the other replica.
        deadline = time.monotonic() + 30
        while self.daemons[0].generation.GetLoad(pb.GetLoadRequest()).running and time.monotonic() < deadline:
            time.sleep(0.1)
        self.assertEqual(self.daemons[0].generation.GetLoad(pb.GetLoadRequest()).running, 0)
        digests = {session.session_id: session.state_digest for session in
                   self.daemons[0].sessions.List(daemon_process.session_pb.ListSessionsRequest()).sessions}
        moved = self.move_all(self.daemons[0], self.daemons[1])
        self.assertEqual(len(moved), counts[0])
        there = {session.session_id: session.state_digest for session in
                 self.daemons[1].sessions.List(daemon_process.session_pb.ListSessionsRequest()).sessions}
        for old, new in moved.items():
            self.assertEqual(there[new], digests[old])
        self.assertEqual(self.daemons[0].stop(), 0)
        for talk in talks:
            talk.session = moved.get(talk.session, talk.session)
            expected = talk.expected(self.daemons[1], second)
            self.assertEqual(talk.take_turn(second), expected)
        load.stop()
        self.assertEqual(load.errors, [])
        self.assertGreater(load.ended, 3)


class NginxTest(ProxyCases, unittest.TestCase):
    make_proxy = staticmethod(lambda folder, daemons: Nginx(folder, daemons))


class HaproxyTest(ProxyCases, unittest.TestCase):
    make_proxy = staticmethod(lambda folder, daemons: Haproxy(folder, daemons))


def main():
    global OPTIONS, pb
    parser = argparse.ArgumentParser()
    for name in ("binary", "models", "mambactl", "nginx", "haproxy"):
        parser.add_argument(f"--{name}", required=True)
    OPTIONS, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        pb = make_stubs(folder)
        unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
