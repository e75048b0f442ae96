#!/usr/bin/env python3
"""mambactl chat at a terminal (a pseudo-terminal) and over a pipe: Ctrl-C, line editing, commands, ends. Against the fake
engine, whose answers can be computed and go on until the context is full, and against a chat model where one is named.

    chat_test.py --fake PROGRAM --mambactl PROGRAM [--mambad PROGRAM --model GGUF]
"""

import argparse
import json
import os
import pathlib
import pty
import re
import select
import signal
import subprocess
import sys
import tempfile
import time
import unittest

from server_process import ServerProcess

OPTIONS = None  # set by main: the arguments
SECONDS = 120  # that anything may take on a machine that does much else
CONTEXT = 2048  # of the fake engine


def fake_text(prompt, tokens):
    """What the fake engine answers: letters that follow from the bytes of the prompt."""
    return "".join(chr(ord("a") + (sum(prompt.encode()) + i) % 26) for i in range(tokens))


class Terminal:
    """mambactl at a terminal of its own. What it shows is gathered in `shown`, without colours and the cursor's ways."""

    def __init__(self, *arguments, **surroundings):
        self.child, self.terminal = pty.fork()
        if self.child == 0:
            os.environ.update({"TERM": "xterm", "LANG": "C", **surroundings})
            os.execv(OPTIONS.mambactl, [OPTIONS.mambactl, *arguments])
        self.raw = b""
        self.read_to = 0

    @property
    def shown(self):
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]", "", self.raw.decode(errors="replace")).replace("\r\n", "\n")

    def read_some(self):
        """False when the program has ended."""
        try:
            data = os.read(self.terminal, 65536)
        except OSError:
            return False
        self.raw += data
        return bool(data)

    def wait_for(self, pattern):
        """Reads on until the pattern is shown, after what was waited for before; the match."""
        end = time.monotonic() + SECONDS
        while True:
            match = re.compile(pattern, re.S).search(self.shown, self.read_to)
            if match:
                self.read_to = match.end()
                return match
            ready, _, _ = select.select([self.terminal], [], [], max(0, end - time.monotonic()))
            if not ready or not self.read_some():
                raise AssertionError(f"{pattern!r} was not shown: {self.shown[self.read_to:]!r}")

    def type(self, keys):
        os.write(self.terminal, keys.encode() if isinstance(keys, str) else keys)

    def wait_end(self):
        """The exit code."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            ready, _, _ = select.select([self.terminal], [], [], 1)
            if ready and not self.read_some():
                break
        _, status = os.waitpid(self.child, 0)
        os.close(self.terminal)
        return os.waitstatus_to_exitcode(status)


def pipe(*arguments, text_input):
    return subprocess.run([OPTIONS.mambactl, *arguments], input=text_input, capture_output=True, encoding="utf-8",
                          timeout=SECONDS, check=False)


class ChatCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = ServerProcess(OPTIONS.fake, "fake")

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        assert code == 0, f"exit code {code}: {cls.server.errors[-5:]}"

    def command(self, *arguments):
        return ["--address", self.server.address, "chat", *arguments]


class TerminalTest(ChatCase):
    def start(self, *arguments, **surroundings):
        terminal = Terminal(*self.command(*arguments), **surroundings)
        self.greeting = terminal.wait_for(r"^(.*?)\n> $").group(1)
        return terminal

    def ask(self, terminal, text):
        terminal.type(text + "\r")
        answer = terminal.wait_for(r"\n(.*?)\n\[([A-Z]+), [^\]]*\]\n> ").group(1)
        # What arrives between two lines is shown by the terminal too. The scripted answers are of one line.
        return answer.removeprefix(text + "\n") if text == "/retry" else answer.rpartition("\n")[2]

    def test_greeting_and_conversation(self):
        terminal = self.start("--max-tokens", "5")
        self.assertIn("chat with fake", self.greeting)
        self.assertIn("2,048 tokens", self.greeting)
        for words in ("Ctrl-C", "/help", "Ctrl-D"):
            self.assertIn(words, self.greeting)
        first = self.ask(terminal, "Hello")
        self.assertEqual(first, fake_text("[user]Hello[assistant]", 5))
        second = self.ask(terminal, "Again")
        self.assertEqual(second, fake_text(f"[user]Hello[assistant]{first}[user]Again[assistant]", 5))
        terminal.type("\x04")
        self.assertEqual(terminal.wait_end(), 0)
        self.assertTrue(terminal.shown.endswith("\n"))

    def test_ctrl_c_stops_the_answer_alone(self):
        terminal = self.start("--max-tokens", "2000")
        terminal.type("Go on\r")
        terminal.wait_for("[a-z]{9}")
        terminal.type("\x03")
        terminal.wait_for(r"\(stopped; what came of the answer is kept\)\n> ")
        terminal.type("/stats\r")
        terminal.wait_for(r"\(no answer yet\)\n> ")
        # The conversation goes on where it was stopped, the question and what came of its answer in it.
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "chat.json")
            terminal.type(f"/save {path}\r")
            terminal.wait_for(r"\(2 messages written to ")
            messages = json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
        self.assertEqual(messages[0], {"role": "user", "content": "Go on"})
        kept = messages[1]["content"]
        self.assertEqual(kept, fake_text("[user]Go on[assistant]", len(kept)))
        self.assertGreaterEqual(len(kept), 9)
        # A signal that comes from elsewhere than the keyboard does the same.
        terminal.type("More\r")
        terminal.wait_for("More\n[a-z]{9}")
        os.kill(terminal.child, signal.SIGINT)
        terminal.wait_for(r"\(stopped; [^)]*\)\n> ")
        terminal.type("/quit\r")
        self.assertEqual(terminal.wait_end(), 0)

    def test_ctrl_c_at_the_prompt(self):
        terminal = self.start()
        terminal.type("half a line")
        terminal.wait_for("half a line")
        terminal.type("\x03")
        terminal.wait_for("\n> ")  # dropped, nothing more
        terminal.type("\x03")
        terminal.wait_for(r"Ctrl-C once more or Ctrl-D leaves[^\n]*\n> ")
        terminal.type("/reset\r")
        terminal.wait_for(r"new conversation\)\n> ")
        terminal.type("\x03")
        terminal.wait_for("once more[^\n]*\n> ")
        terminal.type("\x03")
        self.assertEqual(terminal.wait_end(), 130)
        self.assertNotIn("[a-z]{9}", terminal.shown)

    def test_lines_are_edited_and_come_back(self):
        terminal = self.start("--max-tokens", "3")
        wanted = fake_text("[user]Hallo[assistant]", 3)
        self.assertEqual(self.ask(terminal, "Hxllo\x1b[D\x1b[D\x1b[D\x1b[D\x1b[3~a"), wanted)
        self.ask(terminal, "Other")
        terminal.type("/reset\r")
        terminal.wait_for("conversation\\)\n> ")
        self.assertEqual(self.ask(terminal, "\x1b[A\x1b[A\x1b[A"), wanted)  # past /reset and Other
        terminal.type("/reset\r")
        terminal.wait_for("conversation\\)\n> ")
        # Whole characters are taken back, also where the surroundings name no encoding.
        self.assertEqual(self.ask(terminal, "Gr\u00fc\u732b\x7f\u00df"), fake_text("[user]Gr\u00fc\u00df[assistant]", 3))
        terminal.type("\x04")
        self.assertEqual(terminal.wait_end(), 0)

    def test_commands(self):
        terminal = self.start("--max-tokens", "4", "--system", "Be brief")

        def command(text, answer):
            terminal.type(text + "\r")
            terminal.wait_for(answer + r"[^\n]*\n> ")

        terminal.type("/help\r")
        terminal.wait_for("/system.*/retry.*/undo.*/reset.*/stats.*/save.*/quit.*\n> ")
        command("/hepl", r'there is no command "/hepl"; did you mean /help\?')
        command("/nothing", r'there is no command "/nothing" \(/help lists them')
        command("/undo now", "/undo takes nothing behind it")
        command("/undo", "nothing to take back")
        command("/retry", "nothing was asked yet")
        command("/save", "/save needs a file's name")
        command("/save /no/such/folder/x", "No such file or directory")
        command("/system", "system message: Be brief")
        self.assertEqual(self.ask(terminal, "One"), fake_text("[system]Be brief[user]One[assistant]", 4))
        self.assertEqual(self.ask(terminal, "/retry"), "> One\n" + fake_text("[system]Be brief[user]One[assistant]", 4))
        command("/system Be long", "holds from the next answer on")
        command("/undo", r'\(taken back: "One"\)')
        self.assertEqual(self.ask(terminal, "Two"), fake_text("[system]Be long[user]Two[assistant]", 4))
        command("/stats", "1 question, [0-9]+ of 2,048 tokens of context used\n0 of [0-9]+ tokens had been read before, "
                "kept in session [0-9a-f]{32}")
        command("/reset", "a new conversation")
        self.assertEqual(self.ask(terminal, " /slash"), fake_text("[system]Be long[user] /slash[assistant]", 4))
        with tempfile.NamedTemporaryFile() as taken:
            command(f"/save {taken.name}", "File exists")
        terminal.type("/exit\r")
        self.assertEqual(terminal.wait_end(), 0)

    def test_branches_on_kept_sessions(self):
        terminal = self.start("--max-tokens", "4")

        def command(text, answer):
            terminal.type(text + "\r")
            terminal.wait_for(answer + r"[^\n]*\n> ")

        def said(*turns):
            text = ""
            for turn in turns:
                text += f"[user]{turn}[assistant]"
                answer = fake_text(text, 4)
                text += answer
            return answer

        def cached(least, most):
            terminal.type("/stats\r")
            shown = terminal.wait_for(r"([0-9]+) of [0-9]+ tokens had been read before, kept in session [^\n]*\n> ")
            self.assertTrue(least <= int(shown.group(1)) <= most, shown.group(0))

        self.assertEqual(self.ask(terminal, "One"), said("One"))
        cached(0, 0)
        self.assertEqual(self.ask(terminal, "Two"), said("One", "Two"))
        first, second = len("[user]One[assistant]") + 4, len("[user]One[assistant][user]Two[assistant]") + 8
        cached(first - 1, first)
        command("/fork", r"\(branch 2 of 2, 2 questions so far")
        self.assertEqual(self.ask(terminal, "Three"), said("One", "Two", "Three"))
        cached(second - 1, second)
        command("/fork 1", r"\(branch 1 of 2, 2 questions so far")
        self.assertEqual(self.ask(terminal, "Four"), said("One", "Two", "Four"))
        cached(second - 1, second)
        command("/fork 3", r'/fork: "3" given, allowed 1 to 2')
        command("/rewind", r'  1  "One"\n  2  "Two"\n  3  "Four"\n\(/rewind N takes back')
        command("/rewind 4", r'/rewind: "4" given, allowed 0 to 3')
        command("/rewind 1", r"\(taken back: 2 questions\)")
        self.assertEqual(self.ask(terminal, "Five"), said("One", "Five"))
        cached(first - 1, first)  # from a mark
        command("/fork 2", r"\(branch 2 of 2, 3 questions so far")
        command("/undo", r'\(taken back: "Three"\)')
        self.assertEqual(self.ask(terminal, "Six"), said("One", "Two", "Six"))
        # A session that is gone is no loss.
        listed = subprocess.run([OPTIONS.mambactl, "--address", self.server.address, "--json", "sessions", "list"], stdout=subprocess.PIPE, check=True, text=True)
        ids = [json.loads(line)["session_id"] for line in listed.stdout.splitlines()]
        self.assertEqual(len(ids), 2)
        for each in ids:
            subprocess.run([OPTIONS.mambactl, "--address", self.server.address, "sessions", "delete", each], check=True)
        self.assertEqual(self.ask(terminal, "Seven"), said("One", "Two", "Six", "Seven"))
        cached(0, 0)
        terminal.type("/quit\r")
        self.assertEqual(terminal.wait_end(), 0)
        listed = subprocess.run([OPTIONS.mambactl, "--address", self.server.address, "sessions", "list"], stdout=subprocess.PIPE, check=True, text=True)
        self.assertEqual(listed.stdout, "")

    def test_a_full_context_is_said_in_words(self):
        terminal = self.start()
        terminal.type("Fill it\r")
        terminal.wait_for(r"\[LENGTH, [^\]]*\]\n\(cut off: the context of 2,048 tokens is full; /undo[^\n]*\n> ")
        terminal.type("More\r")
        terminal.wait_for(r"mambactl: the conversation: \d+ tokens given, allowed 1 to 2047\n"
                          r"\(the conversation no longer fits: /undo [^\n]*\n> ")
        terminal.type("/undo\r")
        terminal.wait_for("question without an answer is taken back[^\n]*\n> ")
        terminal.type("/undo\r")
        terminal.wait_for(r'taken back: "Fill it"[^\n]*\n> ')
        terminal.type("\x04")
        self.assertEqual(terminal.wait_end(), 0)

    def test_a_failed_answer_can_be_asked_for_again(self):
        server = ServerProcess(OPTIONS.fake, "fake")
        terminal = Terminal("--address", server.address, "chat", "--max-tokens", "4")
        terminal.wait_for("\n> $")
        self.assertEqual(server.stop(), 0)
        terminal.type("Hello\r")
        terminal.wait_for(rf"mambactl: no server at {server.address}: is mambad running\?[^\n]*\n\(the question is not part[^\n]*\n> ")
        again = ServerProcess(OPTIONS.fake, "fake", listen=server.address)
        terminal.type("/retry\r")
        terminal.wait_for("> Hello\n" + fake_text("[user]Hello[assistant]", 4) + "\n")
        terminal.wait_for("\n> ")
        terminal.type("\x04")
        self.assertEqual(terminal.wait_end(), 0)
        self.assertEqual(again.stop(), 0)

    def test_colour(self):
        for surroundings, dim in (({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)):
            terminal = Terminal(*self.command(), **surroundings)
            terminal.wait_for("\n> $")
            terminal.type("/quit\n")
            self.assertEqual(terminal.wait_end(), 0)
            self.assertEqual(b"\x1b[2m" in terminal.raw, dim, surroundings)

    def test_a_hint_at_chat_for_people_alone(self):
        terminal = Terminal("--address", self.server.address, "generate", "--prompt", "x", "--max-tokens", "2")
        self.assertEqual(terminal.wait_end(), 0)
        self.assertIn("this is a chat model", terminal.shown)
        quiet = pipe("--address", self.server.address, "generate", "--prompt", "x", "--max-tokens", "2", text_input="")
        self.assertNotIn("chat model", quiet.stderr)


class PipeTest(ChatCase):
    def test_every_line_is_a_question(self):
        result = pipe(*self.command("--max-tokens", "3"), text_input="One\n\n/stats\nTwo")
        self.assertEqual(result.returncode, 0, result.stderr)
        first = fake_text("[user]One[assistant]", 3)
        second = fake_text(f"[user]One[assistant]{first}[user]Two[assistant]", 3)
        self.assertEqual(result.stdout, f"{first}\n{second}\n")
        self.assertIn("tokens of context used", result.stderr)
        self.assertNotIn("> ", result.stderr)

    def test_nothing_said(self):
        result = pipe(*self.command(), text_input="")
        self.assertEqual((result.returncode, result.stdout), (0, ""))
        self.assertTrue(result.stderr.endswith("\n"))

    def test_json(self):
        result = pipe("--json", *self.command("--max-tokens", "3"), text_input="One\n")
        self.assertEqual("".join(json.loads(line)["text"] for line in result.stdout.splitlines()),
                         fake_text("[user]One[assistant]", 3))
        self.assertEqual((result.returncode, result.stderr), (0, ""))

    def test_the_first_failure_ends_it(self):
        result = pipe(*self.command("--temperature", "200"), text_input="One\nTwo\n")
        self.assertEqual(result.returncode, 1)
        self.assertEqual(result.stderr.count("--temperature: 200 given, allowed 0 to 100"), 1)

    def test_bytes_that_are_no_text(self):
        result = subprocess.run([OPTIONS.mambactl, *self.command()], input=b"a\xffb\n", capture_output=True, timeout=SECONDS,
                                check=False)
        self.assertEqual(result.returncode, 2)
        self.assertIn(b"not UTF-8: byte 0xff at offset 1", result.stderr)

    def test_interrupts(self):
        process = subprocess.Popen([OPTIONS.mambactl, *self.command("--max-tokens", "2000")], stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdin.write(b"One\n")
        process.stdin.flush()
        self.assertTrue(process.stdout.read(9))
        process.send_signal(signal.SIGINT)  # in the answer: it stops
        for line in process.stderr:
            if b"(stopped; " in line:
                break
        # Waiting for a line, it leaves. One that comes before it waits belongs to the answer still.
        end = time.monotonic() + SECONDS
        while process.poll() is None and time.monotonic() < end:
            process.send_signal(signal.SIGINT)
            time.sleep(0.05)
        process.communicate(timeout=SECONDS)
        # A shell says 130 of both: the last signal may have come when mambactl was leaving.
        self.assertIn(process.returncode, (130, -signal.SIGINT))


class ModelTest(unittest.TestCase):
    """A chat model that was not made for tests."""

    def test_conversation(self):
        if not OPTIONS.model:
            self.skipTest("no --model given")
        server = ServerProcess(OPTIONS.mambad, OPTIONS.model)
        result = pipe("--address", server.address, "chat", "--temperature", "0", "--max-tokens", "20",
                      text_input="What is the capital of France?\nAnd of Italy?\n")
        once = pipe("--address", server.address, "generate", "--user", "What is the capital of France?", "--temperature", "0",
                    "--max-tokens", "20", text_input="")
        self.assertEqual(server.stop(), 0)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn("Paris", result.stdout)
        self.assertTrue(result.stdout.startswith(once.stdout))


def main():
    global OPTIONS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("fake", "mambactl"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("mambad", "model"):
        parser.add_argument(f"--{name}")
    OPTIONS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0]] + rest)


if __name__ == "__main__":
    main()
