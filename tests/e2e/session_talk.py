"""A conversation on a session, beside what one call over its whole text gives."""

import pathlib
import time

import daemon_process
from daemon_process import Daemon


def start_daemon(binary, folder, model, draft, drain_timeout="30s", settings="", extra=(), **places):
    """On the sessions of `folder`; `settings`: more of sessions' keys, by lines; `places`: as Daemon has them."""
    folder = pathlib.Path(folder)
    folder.mkdir(exist_ok=True)
    config = folder / "mambad.yaml"
    config.write_text(f"drain_timeout: {drain_timeout}\nsessions:\n  directory: {folder}/sessions\n{settings}"
                      "batching:\n  max_sequences: 3\n", encoding="utf-8")
    return Daemon(binary, str(model), draft and str(draft), ["--config", str(config), *extra], **places)


class Talk:
    """`added(turn)`: the ids that a turn puts to the text."""

    def __init__(self, daemon, temperature, mode, added, answer=24):
        self.daemon, self.temperature, self.mode, self.added, self.answer = daemon, temperature, mode, added, answer
        self.ids, self.session, self.position = [], None, 0

    def branch(self, session):
        """The same text on another session."""
        other = Talk(self.daemon, self.temperature, self.mode, self.added, self.answer)
        other.ids, other.session, other.position = list(self.ids), session, self.position
        return other

    def request(self, turn, ids, mode):
        pb = daemon_process.pb
        request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids)) if ids else pb.GenerateRequest()
        request.sampling.temperature = self.temperature
        request.sampling.seed = 100 + turn
        request.sampling.repetition_penalty = 1.1
        request.stopping.max_tokens = self.answer
        request.stopping.ignore_eos = True
        request.speculation.mode = mode
        return request

    def single(self, turn, answer=None):
        """The answer of one call, without a session and without drafts."""
        whole = self.request(turn, self.ids + self.added(turn), daemon_process.pb.Speculation.OFF)
        whole.stopping.max_tokens = answer or self.answer
        return list(self.daemon.generation.GenerateOnce(whole).token_ids)

    def kept(self, turn, ids):
        """A request whose answer the session takes in."""
        request = self.request(turn, ids, self.mode)
        request.keep_session = True
        if self.session:
            request.session_id = self.session
        return request

    def take_turn(self, test, turn, stream=False):
        expected, added = self.single(turn), self.added(turn)
        request = self.kept(turn, added)
        if stream:
            messages = list(self.daemon.generation.Generate(request))
            answer = [token for message in messages for token in message.token_ids]
            done = messages[-1].completion
        else:
            message = self.daemon.generation.GenerateOnce(request)
            answer, done = list(message.token_ids), message.completion
        test.assertEqual(answer, expected)
        self.take_in(test, added + answer, done)
        test.assertEqual(done.usage.prompt_tokens, len(self.ids) - len(answer))
        return done

    def take_in(self, test, ids, done):
        self.ids += ids
        self.session, self.position = done.session_id, done.position
        test.assertEqual(done.position, len(self.ids))
        session = self.facts()
        test.assertEqual((session.position, session.state_digest), (done.position, done.state_digest))

    def cut_turn(self, test, turn, answer):
        """A turn of `answer` tokens that its caller breaks off; what it would have said from there on. A busy machine may let
        it be over first: then there is another one, and so on."""
        for _ in range(10):
            rest = self.try_to_cut(test, turn, answer)
            if rest:
                return rest
        return test.fail("turns are over before they can be cut")

    def try_to_cut(self, test, turn, answer):
        expected, added = self.single(turn, answer), self.added(turn)
        request = self.kept(turn, added)
        request.stopping.max_tokens = answer
        stream, read = self.daemon.generation.Generate(request), []
        for message in stream:
            read += list(message.token_ids)
            if len(read) > 8:
                stream.cancel()
                break
        end = time.monotonic() + 30
        while self.facts().in_use and time.monotonic() < end:
            time.sleep(0.01)
        # It stands where the engine stopped, which may be beyond what was read.
        said = self.facts().position - len(self.ids) - len(added)
        test.assertGreaterEqual(said, len(read))
        test.assertEqual(read, expected[:len(read)])
        self.ids += added + expected[:said]
        self.position = len(self.ids)
        return expected[said:]

    def finish_turn(self, test, turn, expected):
        """Goes on with an answer that was cut: the same bits."""
        request = self.kept(turn, [])
        request.stopping.max_tokens = len(expected)
        message = self.daemon.generation.GenerateOnce(request)
        test.assertEqual(list(message.token_ids), expected)
        self.take_in(test, expected, message.completion)

    def facts(self):
        return self.daemon.sessions.Get(daemon_process.session_pb.GetSessionRequest(session_id=self.session))


def fill_slots(daemon, ids, count=3):
    """A call whose samples take all slots, so that sessions leave theirs."""
    pb = daemon_process.pb
    request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=ids))
    request.output.n = count
    request.stopping.max_tokens = 4
    request.stopping.ignore_eos = True
    daemon.generation.GenerateOnce(request)
