#!/usr/bin/env python3
"""Time to the first token of a conversation's second turn, by where its session's state lies, beside one call over the
whole text and one over the new tokens alone.

    session_tiers.py --binary build/bin/mambad --model DIRECTORY_OR_GGUF [--draft ...] [--tokens 4000] [--new 32] [--repeat 5]

Needs grpcio and its tools. Times are the client's: from the call to the first message with a token. `slot` goes on from
the slot in which the last turn ended, `host` after another call took all slots, `disk` after the daemon was restarted,
`text` from tokens alone.
"""

import argparse
import pathlib
import random
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "e2e"))

import daemon_process
from daemon_process import Daemon, make_stubs
from session_talk import fill_slots

ANSWER = 8  # tokens of a turn's answer


class Tiers:
    def __init__(self, options, folder):
        self.options, self.folder = options, pathlib.Path(folder)
        self.random = random.Random(3)
        self.daemon = None
        self.start()
        self.vocabulary = self.daemon.generation.GetModelInfo(daemon_process.pb.GetModelInfoRequest()).model.vocabulary

    def start(self):
        if self.daemon:
            self.daemon.kill()
        config = self.folder / "mambad.yaml"
        config.write_text(f"sessions:\n  directory: {self.folder}/sessions\nbatching:\n  max_sequences: 2\n"
                          f"  max_context: {self.options.tokens + 40 * (self.options.new + ANSWER)}\n", encoding="utf-8")
        self.daemon = Daemon(self.options.binary, self.options.model, self.options.draft, ["--config", str(config)])
        self.call(self.tokens(self.options.new) if hasattr(self, "vocabulary") else [5, 6])  # warm

    def tokens(self, count):
        return [self.random.randrange(3, self.vocabulary) for _ in range(count)]

    def call(self, ids, session=None, keep=False):
        """Seconds to the first token, and the completion."""
        pb = daemon_process.pb
        request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids), keep_session=keep)
        if session:
            request.session_id = session
        request.stopping.max_tokens = ANSWER
        request.stopping.ignore_eos = True
        begin, first, last = time.monotonic(), None, None
        for message in self.daemon.generation.Generate(request):
            if first is None and message.token_ids:
                first = time.monotonic() - begin
            last = message
        return first, last.completion

    def conversation(self):
        self.text = self.tokens(self.options.tokens)
        return self.call(self.text, keep=True)[1].session_id

    def turn(self, session, tier):
        pb2 = daemon_process.session_pb
        facts = self.daemon.sessions.Get(pb2.GetSessionRequest(session_id=session))
        found = pb2.Session.Tier.Name(facts.tier).lower()
        if found != tier:
            sys.exit(f"the session's state is in {found}, not in {tier}")
        return self.call(self.tokens(self.options.new), session, keep=True)

    def restored(self, tier):
        """Seconds that states took to come back from there, and how often one did."""
        found = {line.split()[0]: float(line.split()[1]) for line in self.daemon.metrics().splitlines()
                 if line.startswith("mambad_session_restore_seconds_")}
        return [found.get(f'mambad_session_restore_seconds_{what}{{tier="{tier}"}}', 0) for what in ("sum", "count")]

    def state_bytes(self, session):
        return self.daemon.sessions.Get(daemon_process.session_pb.GetSessionRequest(session_id=session)).state_bytes

    def measure(self):
        pb2, new = daemon_process.session_pb, self.options.new
        session = self.conversation()

        def on_slot():
            return self.turn(session, "slot")

        def on_host():
            fill_slots(self.daemon, self.tokens(4), count=2)
            return self.turn(session, "host")

        def on_disk():
            self.start()
            return self.turn(session, "disk")

        def on_text():
            made = self.daemon.sessions.Create(pb2.CreateSessionRequest(
                token_ids=daemon_process.pb.TokenIds(ids=self.text)))
            return self.turn(made.session_id, "text")

        def fresh():
            return self.call(self.text + self.tokens(new))

        def alone():
            return self.call(self.tokens(new))

        print(f"{self.options.tokens} tokens, then {new} new ones; milliseconds to the first token")
        print(f"the session's state: {self.state_bytes(session) / 1e6:.1f} MB")
        print("tier      median     least      most  prompt  cached  restore: median, least")
        for name, run, repeat in (("slot", on_slot, self.options.repeat), ("host", on_host, self.options.repeat),
                                  ("disk", on_disk, min(3, self.options.repeat)), ("text", on_text, 2),
                                  ("fresh", fresh, 2), ("new only", alone, self.options.repeat)):
            times, usage, restored = [], None, []
            for _ in range(repeat):
                before = self.restored(name)
                seconds, done = run()
                after = self.restored(name)
                if after[1] == 1 and name == "disk":  # of a daemon that began anew
                    before = [0, 0]
                if after[1] > before[1]:
                    restored.append(1e3 * (after[0] - before[0]) / (after[1] - before[1]))
                times.append(1e3 * seconds)
                usage = done.usage
            print(f"{name:8} {statistics.median(times):8.1f}  {min(times):8.1f}  {max(times):8.1f}  {usage.prompt_tokens:6d}"
                  f"  {usage.cached_tokens:6d}  {statistics.median(restored or [0]):15.1f}  {min(restored or [0]):5.1f}", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--draft")
    parser.add_argument("--tokens", type=int, default=4000)
    parser.add_argument("--new", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make_stubs(folder)
        tiers = Tiers(options, folder)
        try:
            tiers.measure()
        finally:
            tiers.daemon.kill()


if __name__ == "__main__":
    main()
