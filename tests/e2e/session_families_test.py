#!/usr/bin/env python3
"""Invariant 3 over the wire: one conversation has the bits of single calls over its whole text, whatever becomes of its
session between two turns or in the midst of one. For every family of models, at two temperatures, with and without drafts.

    session_families_test.py --binary build/bin/mambad --mambactl build/bin/mambactl \
        --write-model build/bin/write_formula_model
"""

import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile
import unittest

import daemon_process
from daemon_process import make_stubs
from session_talk import Talk, fill_slots, start_daemon

OPTIONS = pb = None  # set by main: the arguments, the generated messages

# What each family is served with as its draft.
FAMILIES = {
    "mamba": "mamba2",
    "mamba2_groups": "mamba",
    "hybrid_mamba": "hybrid_mamba2",
    "hybrid_mamba2": "mamba2",
    "llama_tied": "mamba",
}


LONG = 1200  # tokens of an answer that is not over before its caller has seen the first of them


def added(turn):
    """Ids of a turn; every formula model has as many."""
    numbers = random.Random(turn)
    return [numbers.randrange(3, 50) for _ in range(5 + 9 * (turn % 4))]


class SessionFamilies(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.path = pathlib.Path(self.folder.name)
        self.daemons = []

    def tearDown(self):
        for daemon in self.daemons:
            daemon.kill()
        self.folder.cleanup()

    def model(self, name):
        folder = self.path / name
        if not folder.exists():
            subprocess.run([OPTIONS.write_model, name, str(folder)], check=True)
            # Room for a long answer.
            config = folder / "config.json"
            config.write_text(config.read_text().replace('"max_position_embeddings": 512', '"max_position_embeddings": 2048'))
        return folder

    def start(self, name, family):
        daemon = start_daemon(OPTIONS.binary, self.path / f"{family}-{name}", self.model(family),
                              self.model(FAMILIES[family]), extra=["--threads", "1"])
        self.daemons.append(daemon)
        return daemon

    def restarted(self, daemon, name, family, kills):
        daemon.kill() if kills else self.assertEqual(daemon.stop(), 0)
        daemon.kill()
        self.daemons.remove(daemon)
        return self.start(name, family)

    def tier(self, talk, name):
        self.assertEqual(talk.facts().tier, daemon_process.session_pb.Session.Tier.Value(name))

    def move(self, talk, one, other, *command):
        shown = subprocess.run([OPTIONS.mambactl, "--address", one.address, "--json", "sessions", *command],
                               stdout=subprocess.PIPE, check=True)
        if command[0] == "export":
            shown = subprocess.run([OPTIONS.mambactl, "--address", other.address, "--json", "sessions", "import",
                                    command[-1]], stdout=subprocess.PIPE, check=True)
        talk.daemon, talk.session = other, json.loads(shown.stdout)["session_id"]

    def converse(self, family, temperature, mode):
        """The daemons are the test's: `one` keeps, parks and forks, is closed and killed, `two` takes over."""
        pb2 = daemon_process.session_pb
        one, two = self.one, self.two
        talk = Talk(one, temperature, mode, added, answer=12)
        talk.take_turn(self, 0)
        self.tier(talk, "SLOT")
        self.assertGreater(talk.take_turn(self, 1, stream=True).usage.cached_tokens, 0)  # hot
        fill_slots(one, [5, 6])
        self.tier(talk, "HOST")
        self.assertGreater(talk.take_turn(self, 2).usage.cached_tokens, 0)
        mark = one.sessions.Checkpoint(pb2.CheckpointSessionRequest(session_id=talk.session))
        for kills in (False, True):
            one = self.one = talk.daemon = self.restarted(one, "one", family, kills)
            self.tier(talk, "DISK")
            self.assertGreater(talk.take_turn(self, 3 + kills).usage.cached_tokens, 0)
        # Two branches, one of which is taken back to where it was before both ends of the process.
        forked = one.sessions.Fork(pb2.ForkSessionRequest(session_id=talk.session))
        self.assertEqual(list(forked.checkpoints), list(mark.checkpoints))
        fork = talk.branch(forked.session_id)
        talk.take_turn(self, 5)
        fork.take_turn(self, 6)
        back = one.sessions.Rewind(pb2.RewindSessionRequest(session_id=fork.session, position=mark.position))
        self.assertEqual(back.state_digest, mark.state_digest)
        fork.ids, fork.position = fork.ids[:mark.position], mark.position
        self.assertGreater(fork.take_turn(self, 7).usage.cached_tokens, 0)
        # Through a file, and in the midst of an answer.
        self.move(talk, one, two, "export", talk.session, str(self.path / "record"))
        self.assertGreater(talk.take_turn(self, 8).usage.cached_tokens, 0)
        rest = fork.cut_turn(self, 9, LONG)
        self.move(fork, one, two, "move", fork.session, "--to", two.address)
        fork.finish_turn(self, 9, rest)
        fork.take_turn(self, 10)
        for each in (talk, fork):
            two.sessions.Delete(pb2.DeleteSessionRequest(session_id=each.session))

    def walk(self, family):
        self.one, self.two = self.start("one", family), self.start("two", family)
        for temperature in (0, 0.8):
            for mode in (pb.Speculation.OFF, pb.Speculation.DRAFT_MODEL):
                with self.subTest(family=family, temperature=temperature, mode=mode):
                    self.converse(family, temperature, mode)

    def test_invariant_3_mamba_1(self):
        self.walk("mamba")

    def test_invariant_3_mamba_2(self):
        self.walk("mamba2_groups")

    def test_invariant_3_hybrid_of_mamba_1(self):
        self.walk("hybrid_mamba")

    def test_invariant_3_hybrid_of_mamba_2(self):
        self.walk("hybrid_mamba2")

    def test_invariant_3_llama(self):
        self.walk("llama_tied")


def main():
    global OPTIONS, pb
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--mambactl", required=True)
    parser.add_argument("--write-model", required=True)
    OPTIONS, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        pb = make_stubs(folder)
        unittest.main(argv=[sys.argv[0], *rest])


if __name__ == "__main__":
    main()
