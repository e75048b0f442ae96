#!/usr/bin/env python3
"""The command-line client as people and scripts meet it: what it prints where, exit codes, words for everything that can go
wrong. Against the story model of this repository, and against places where no server is.

    mambactl_test.py --mambad PROGRAM --mambactl PROGRAM --models deploy/models/stories
"""

import argparse
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from server_process import ServerProcess, closed_port, foreign_server

OPTIONS = None  # set by main: the arguments
SECONDS = 120  # that a command may take on a machine that does much else
# What no message may show: gRPC's source positions, its words for the network, the wire's names.
FOREIGN_WORDS = re.compile(r"\.cc:\d+|ipv4:|UNKNOWN:|ares|sampling\.|stopping\.|output\.|libprotobuf|token_ids|stop_strings")


def run(*arguments, address=None, text_input=None, **more):
    """One mambactl; standard input is empty unless given."""
    where = ["--address", address] if address is not None else []
    return subprocess.run([OPTIONS.mambactl, *where, *arguments], input=text_input if text_input is not None else "",
                          capture_output=True, encoding="utf-8", timeout=SECONDS, check=False, **more)


class MambactlCase(unittest.TestCase):
    def assert_fails(self, result, code, *words):
        """It ended with `code`, and said these words in lines of mambactl's own on standard error, nothing on the other."""
        self.assertEqual((result.returncode, result.stdout), (code, ""), result.stderr)
        for line in result.stderr.splitlines():
            self.assertTrue(line.startswith("mambactl: "), result.stderr)
        self.assertNotRegex(result.stderr, FOREIGN_WORDS)
        for word in words:
            self.assertIn(word, result.stderr)


class WithoutServerTest(MambactlCase):
    """Everything that needs none."""

    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        pathlib.Path(cls.folder.name, "some.json").touch()

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_alone_it_lists_its_commands(self):
        result = run()
        self.assertEqual((result.returncode, result.stdout), (2, ""))
        for command in ("generate", "replay", "chat", "score", "tokenize", "detokenize", "info", "load", "health", "bench", "top"):
            self.assertRegex(result.stderr, rf"(?m)^  {command} +\w")
            help_text = run(command, "--help")
            self.assertEqual((help_text.returncode, help_text.stderr), (0, ""))
            self.assertIn(f"mambactl {command}", help_text.stdout)
            self.assertIn("of every command: mambactl --help", help_text.stdout)
            self.assertNotIn("Exit codes", help_text.stdout)
        everything = run("--help")
        self.assertEqual(everything.returncode, 0)
        for words in ("Exit codes: 0", "JSON:", "--wait", "--address", "127.0.0.1:50051"):
            self.assertIn(words, everything.stdout)

    def test_version(self):
        self.assertRegex(run("--version").stdout, r"^mambactl \d+\.\d+\.\d+\n$")

    def test_manual_pages_tell_every_command_and_option(self):
        page = run("manual").stdout
        self.assertTrue(page.startswith('.TH MAMBACTL 1 "" "mambactl '), page[:80])
        plain = page.replace("\\-", "-")
        for command in ("generate", "sessions move ID", "token create", "top", "completion"):
            self.assertRegex(plain, rf"(?m)^\.SS mambactl {command}")
        options = set(re.findall(r"--[a-z][a-z-]+", run("generate", "--help").stdout + run("--help").stdout))
        self.assertGreater(len(options), 30)
        for option in options:
            self.assertRegex(plain, rf"\\fB(--?[a-z-]+, )*{option}(, --[a-z-]+)*\\fR")
        page = subprocess.run([OPTIONS.mambad, "--manual"], capture_output=True, text=True, check=True).stdout
        for option in re.findall(r"(?m)^  (--[a-z-]+)", subprocess.run([OPTIONS.mambad, "--help"], capture_output=True,
                                                                       text=True, check=True).stdout):
            self.assertIn(f"\\fB{option}\\fR", page.replace("\\-", "-"), option)
        # roff's own words of complaint.
        formatter = next((program for program in ("groff", "mandoc") if shutil.which(program)), None)
        if formatter is not None:
            flags = ["-man", "-ww", "-Tutf8"] if formatter == "groff" else ["-Tlint"]
            done = subprocess.run([formatter, *flags], input=run("manual").stdout, capture_output=True, text=True, check=False)
            self.assertEqual(done.stderr, "")

    def check_completion(self, shell, complete):
        """`complete(asked, words)`: what the shell puts in the place of the last word, by the script that `asked` prints."""
        def client(*words):
            return complete([os.path.abspath(OPTIONS.mambactl), "completion", shell], ["mambactl", *words])

        def daemon(*words):
            return complete([os.path.abspath(OPTIONS.mambad), f"--completion={shell}"], ["mambad", *words])

        self.assertIn("generate", client(""))
        self.assertEqual(client("sess"), ["sessions"])
        self.assertEqual(client("sessions", "mo"), ["move"])
        self.assertEqual(client("--json", "sessions", "move", "--other"), ["--other-numerics"])
        self.assertIn("--max-tokens", client("generate", "--max-"))
        self.assertEqual(client("generate", "--addr"), ["--address"])
        self.assertEqual(client("generate", "--messages", "so"), ["some.json"])
        self.assertEqual(daemon("--mod"), ["--model", "--model-name"])
        self.assertEqual(daemon("--model", "so"), ["some.json"])

    def in_shell(self, command, *arguments):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=True, cwd=self.folder.name)
        self.assertEqual(done.stderr, "")
        return done.stdout

    def test_bash_completes_commands_options_and_files(self):
        def complete(asked, words):
            script = (f'source <({shlex.join(asked)}); COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _{words[0]}; '
                      'printf "%s\\n" "${COMPREPLY[@]}"')
            return self.in_shell(["bash", "-c", script, "bash"], *words).split()

        self.check_completion("bash", complete)
        # It is the one that is meant where no shell is said.
        self.assertEqual(run("completion").stdout, run("completion", "bash").stdout)
        said = [subprocess.run([OPTIONS.mambad, flag], capture_output=True, text=True, check=True).stdout
                for flag in ("--completion", "--completion=bash")]
        self.assertEqual(*said)
        self.assert_fails(run("completion", "tcsh"), 2, "tcsh not in {bash,zsh,fish}")

    @unittest.skipUnless(shutil.which("zsh"), "for want of zsh")
    def test_zsh_completes_commands_options_and_files(self):
        # zsh completes at terminals alone: what its functions are given is printed here instead.
        surroundings = """
            compadd() {
              local candidate none=1
              shift
              for candidate; do [[ $candidate != ${words[CURRENT]}* ]] || { print -r -- $candidate; none=0; }; done
              return none
            }
            _files() { print -rl -- ${words[CURRENT]}*(N) }
            compdef() { [[ $1 == _$2 ]] }
            """

        def complete(asked, words):
            script = f'{surroundings}\nsource <({shlex.join(asked)}) && words=("$@") CURRENT=$#; _{words[0]}'
            return self.in_shell(["zsh", "-f", "-c", script, "zsh"], *words).split()

        self.check_completion("zsh", complete)

    @unittest.skipUnless(shutil.which("fish"), "for want of fish")
    def test_fish_completes_commands_options_and_files(self):
        def complete(asked, words):
            line = shlex.join(words[:-1]) + " " + words[-1]
            said = self.in_shell(["fish", "--no-config", "-c", f"{shlex.join(asked)} | source; complete -C {shlex.quote(line)}"])
            return [candidate.split("\t")[0] for candidate in said.splitlines()]

        self.check_completion("fish", complete)

    def test_typing_errors_find_what_was_meant(self):
        self.assert_fails(run("genrate"), 2, 'no command "genrate"', "did you mean generate?")
        self.assert_fails(run("qqqqqqqq"), 2, 'no command "qqqqqqqq"', "mambactl --help")
        self.assertNotIn("did you mean", run("qqqqqqqq").stderr)
        self.assert_fails(run("generate", "--promt", "x"), 2, "no option --promt of mambactl generate", "did you mean --prompt?")
        self.assert_fails(run("genrate", "--prompt", "x"), 2, 'no command "genrate"', "did you mean generate?")
        self.assert_fails(run("--adress", "a", "info"), 2, "no option --adress", "did you mean --address?")
        self.assert_fails(run("generate", "--max-tokns=4", "--prompt", "x"), 2, "--max-tokns", "did you mean --max-tokens?")
        self.assert_fails(run("generate", "--prompt", "one", "two"), 2, '"two" belongs to no option')
        self.assert_fails(run("info", "load"), 2)

    def test_numbers(self):
        for flag, value, words in (
                ("--seed", "-5", '"-5" is not a whole number from 0 to 18446744073709551615'),
                ("--seed", "18446744073709551616", "is not a whole number"), ("--max-tokens", "ten", '"ten" is not a whole number'),
                ("--temperature", "warm", '"warm" is not a number'), ("--n", "1.5", '"1.5" is not a whole number'),
                ("--top-k", "99999999999", "from -2147483648 to 2147483647"), ("--timeout", "-1", "from 0 to 86400"),
                ("--wait", "soon", '"soon" is not a number')):
            self.assert_fails(run("generate", "--prompt", "x", flag, value), 2, f"{flag}: ", words)

    def test_bad_input(self):
        missing = "/no/such/folder/prompt.txt"
        for arguments, words in (
                (["generate"], "give --prompt, --prompt-file, --user, --messages or --token-ids"),
                (["score"], "give --prompt, --prompt-file or --token-ids"),
                (["tokenize"], "give --prompt, --prompt-file, --user or --messages"), (["detokenize"], "give --token-ids"),
                (["generate", "--prompt", "a", "--user", "b"], "--prompt and --user do not go together"),
                (["generate", "--system", "a", "--prompt", "b"], "--system goes with --user"),
                (["generate", "--prompt-file", missing], f"--prompt-file: {missing}: No such file or directory"),
                (["generate", "--messages", missing], f"--messages: {missing}: No such file or directory"),
                (["tokenize", "--messages", missing], f"--messages: {missing}: No such file or directory"),
                (["generate", "--messages", "[{"], "--messages: not valid JSON: line 1, column 3: "),
                (["tokenize", "--messages", '[{"role": "user"}]'], "--messages: message 1 is not"),
                (["generate", "--messages", '{"role": "user"}'], "--messages: expected a list"),
                (["generate", "--messages", "[]"], "--messages: the list has no message"),
                (["generate", "--token-ids", "1,two"], '--token-ids: "1,two": expected numbers'),
                (["generate", "--prompt", "x", "--logit-bias", "4"], '--logit-bias: "4": expected a token id and a number'),
                (["generate", "--prompt", "x", "--stop-token-ids", "x"], '--stop-token-ids: "x": expected numbers'),
                (["generate", "--prompt", "x", "--speculation", "sometimes"], '--speculation: "sometimes" is none of auto, off'),
                (["generate", "--prompt"], "--prompt needs a value behind it"),
                (["info", "--timeout"], "--timeout needs a value behind it"),
                (["bench", "--prompts", missing], f"--prompts: {missing}: No such file or directory"),
                (["bench", "--prompts", "/"], "--prompts: /: Is a directory"),
                (["bench", "--prompts", "/dev/null"], "--prompts: /dev/null: holds no prompt"),
                (["bench", "--prompt-tokens", "3", "--prompt", "x"], "give only one of"),
                (["chat", "--n", "3"], "no option --n of mambactl chat"),
                (["chat", "--echo"], "no option --echo of mambactl chat"),
                (["chat", "--prompt-logprobs", "1"], "no option --prompt-logprobs of mambactl chat")):
            with self.subTest(arguments=arguments):
                self.assert_fails(run(*arguments), 2, words)

    def test_text_that_is_not_utf8(self):
        for flag in ("--prompt", "--user", "--stop", "--system", "--request-id"):
            more = [] if flag in ("--prompt", "--user") else ["--user" if flag == "--system" else "--prompt", "x"]
            self.assert_fails(run("generate", *more, flag, b"ab\xffc"), 2, f"{flag}: not UTF-8: byte 0xff at offset 2")
        with tempfile.NamedTemporaryFile() as file:
            file.write("Gr\u00fc\u00dfe ".encode() + b"\xed\xa0\x80")  # a surrogate
            file.flush()
            self.assert_fails(run("generate", "--prompt-file", file.name), 2, "not UTF-8: byte 0xed at offset 8")

    def test_addresses_that_are_none(self):
        for address, words in (("", "--address: empty; expected HOST:PORT"), ("http://127.0.0.1:50051", 'the scheme "http:"'),
                               ("unix:/tmp/socket", 'the scheme "unix:"'), ("host:port", 'the port is "port"'),
                               ("host:0", "allowed 1 to 65535"), ("host:65536", "allowed 1 to 65535"), ("host:", "allowed 1 to 65535"),
                               ("[::1", "the bracket is not closed"), ("a b:1", "a space"), ("host:1/x", "a path")):
            with self.subTest(address=address):
                self.assert_fails(run("info", address=address), 2, words)

    def test_nobody_there(self):
        address = closed_port()
        for command in (["info"], ["load"], ["health"], ["chat"], ["bench"], ["generate", "--prompt", "x"],
                        ["score", "--prompt", "x"], ["tokenize", "--prompt", "x"], ["detokenize", "--token-ids", "1"]):
            self.assert_fails(run(*command, address=address), 1, f"no server at {address}: is mambad running?", "--address")
        as_json = run("--json", "info", address=address)
        self.assertEqual((as_json.returncode, as_json.stderr), (1, ""))
        self.assertEqual(json.loads(as_json.stdout)["error"]["code"], "UNAVAILABLE")

    def test_surroundings_say_nothing(self):
        # A proxy of the surroundings is not asked: the address given is.
        address = closed_port()
        surroundings = {**os.environ, "http_proxy": "http://127.0.0.1:1", "grpc_proxy": "http://127.0.0.1:1", "no_proxy": ""}
        self.assert_fails(run("info", address=address, env=surroundings), 1, f"no server at {address}")

    def test_no_such_host(self):
        self.assert_fails(run("info", address="no-such-host.invalid"), 1, 'no host "no-such-host.invalid" is known')

    def test_a_server_of_another_kind(self):
        with foreign_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as address:
            self.assert_fails(run("info", address=address), 1, f"{address} is a web server", "metrics")
        with foreign_server(b"SSH-2.0-OpenSSH_9.2\r\n") as address:
            self.assert_fails(run("info", address=address), 1, f"{address} answers, but does not speak gRPC")
        with foreign_server(b"") as address:
            self.assert_fails(run("info", address=address), 1, f"{address} takes connections and closes them")
        with foreign_server(b"\x15\x03\x01\x00\x02\x02\x46") as address:
            self.assert_fails(run("info", address=address), 1, f"{address} wants TLS")

    def test_a_server_that_never_answers(self):
        with foreign_server(None) as address:
            begin = time.monotonic()
            result = run("info", "--timeout", "1", address=address)
            took = time.monotonic() - begin
            self.assert_fails(result, 1, f"{address} takes connections but says nothing")
            # 1 s was asked for; what is above it is a busy machine's.
            self.assertLess(took, 8)
            self.assertEqual(run("info", address=address).returncode, 1)  # and it ends without a limit of ours, too

    def test_wait_ends(self):
        address = closed_port()
        begin = time.monotonic()
        self.assert_fails(run("--wait", "0.5", "health", address=address), 1, "waited 0.5 s: no server at")
        self.assertGreaterEqual(time.monotonic() - begin, 0.5)


class ServedTest(MambactlCase):
    @classmethod
    def setUpClass(cls):
        models = pathlib.Path(OPTIONS.models)
        cls.server = ServerProcess(OPTIONS.mambad, str(models / "target"), str(models / "draft"))

    @classmethod
    def tearDownClass(cls):
        code = cls.server.stop()
        assert code == 0, f"exit code {code}: {cls.server.errors[-5:]}"

    def ask(self, *arguments, **more):
        return run(*arguments, address=self.server.address, **more)

    def done(self, *arguments, **more):
        result = self.ask(*arguments, **more)
        self.assertEqual(result.returncode, 0, (arguments, result.stdout, result.stderr))
        return result

    def test_the_port_for_metrics_is_told_from_the_other(self):
        self.assert_fails(run("health", address=self.server.metrics_address), 1, "is a web server", "metrics")

    def test_refused_fields_are_flags(self):
        for arguments, words in (
                (["--temperature", "101"], ["--temperature: 101 given, allowed 0 to 100"]),
                (["--temperature", "nan"], ["--temperature: nan given"]),
                (["--top-k", "-1"], ["--top-k: -1 tokens given"]), (["--n", "0"], ["--n: 0 samples given"]),
                (["--stop", ""], ["--stop, number 1: 0 bytes given, allowed 1 to 256"]),
                (["--stop", "a", "--stop", "b" * 300], ["--stop, number 2: 300 bytes given"]),
                (["--stop-token-ids", "1,5000"], ["--stop-token-ids, number 2: "]),
                (["--logit-bias", "5000:1"], ["--logit-bias, token 5000: "]),
                (["--logprobs", "1000"], ["--logprobs: 1000 alternatives given"]),
                (["--max-tokens", "0"], ["--max-tokens: 0 tokens given"]), (["--priority", "101"], ["--priority: 101 given"]),
                (["--max-tokens", "5", "--min-tokens", "6"], ["--min-tokens: 6 tokens given, allowed 0 to 5"]),
                (["--draft-length", "-1"], ["--draft-length: -1 tokens given"]),
                (["--request-id", "x" * 200], ["--request-id: 200 characters given"]),
                (["--temperature", "-1", "--top-p", "2"], ["--temperature: -1 given", "--top-p: 2 given"])):
            with self.subTest(arguments=arguments):
                result = self.ask("generate", "--prompt", "x", *arguments)
                self.assert_fails(result, 1, *words)
                self.assertEqual(len(result.stderr.splitlines()), len(words))  # each thing once
        self.assert_fails(self.ask("generate", "--prompt", ""), 1, "--prompt: ")
        self.assert_fails(self.ask("generate", "--token-ids", ""), 1, "--token-ids: ")
        self.assert_fails(self.ask("generate", "--token-ids", "1,-4"), 1, "--token-ids, number 2: ", "-4 given")
        self.assert_fails(self.ask("generate", "--prompt", "word " * 1500), 1, "--prompt: ", " tokens given, allowed 1 to 1023")
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("word " * 1500)
            file.flush()
            self.assert_fails(self.ask("generate", "--prompt-file", file.name), 1, "--prompt-file: ", " tokens given")
        self.assert_fails(self.ask("generate", "--prompt", "-", text_input="a" * (5 << 20)), 1,
                          "larger than the server takes", "vs. 4194304", "limits.message_bytes")
        self.assert_fails(self.ask("score", "--prompt", "The sky", "--from", "77"), 1, "--from: 77 given")
        self.assert_fails(self.ask("score", "--prompt", "The sky", "--alternatives", "-1"), 1, "--alternatives: -1 alternatives")
        self.assert_fails(self.ask("detokenize", "--token-ids", "99999"), 1, "--token-ids, number 1: ", "99999 given")
        self.assert_fails(self.ask("bench", "--prompt-tokens", "2000", "--requests", "0"), 2, "--requests: ")

    def test_refused_fields_in_json_have_both_names(self):
        result = self.ask("--json", "generate", "--prompt", "x", "--temperature", "101")
        self.assertEqual((result.returncode, result.stderr), (1, ""))
        error = json.loads(result.stdout)["error"]
        self.assertEqual(error["code"], "INVALID_ARGUMENT")
        self.assertEqual(error["fields"], [{"field": "sampling.temperature", "flag": "--temperature",
                                            "description": "101 given, allowed 0 to 100"}])

    def test_no_chat_template(self):
        for command in (["chat"], ["generate", "--user", "Hello"], ["tokenize", "--user", "Hello"]):
            result = self.ask(*command, text_input="Hello\n")
            self.assert_fails(result, 1, "no chat template", "--prompt")

    def test_text_goes_out_and_the_rest_to_standard_error(self):
        result = self.done("generate", "--prompt", "Once upon", "--max-tokens", "8", "--temperature", "0")
        self.assertEqual(result.stdout, " a time, there was a little girl\n")
        self.assertRegex(result.stderr, r"^\[LENGTH, 3 prompt \+ 8 answer tokens, \d+ tokens/s, [^,]+\]\n$")
        self.assertNotIn("\033", result.stderr)
        off = self.done("generate", "--prompt", "Once upon", "--max-tokens", "8", "--speculation", "off", "--once")
        self.assertEqual(off.stdout, result.stdout)
        self.assertIn(", speculation off]", off.stderr)

    def test_ways_to_give_a_prompt(self):
        wanted = self.done("generate", "--prompt", "Lily saw\n", "--max-tokens", "6").stdout
        self.assertEqual(self.done("generate", "--prompt", "-", "--max-tokens", "6", text_input="Lily saw\n").stdout, wanted)
        with tempfile.NamedTemporaryFile("w") as file:
            file.write("Lily saw\n")
            file.flush()
            self.assertEqual(self.done("generate", "--prompt-file", file.name, "--max-tokens", "6").stdout, wanted)
        ids = self.done("tokenize", "--prompt", "Lily saw\n").stdout.strip()
        self.assertEqual(self.done("generate", "--token-ids", ids, "--max-tokens", "6").stdout, wanted)
        # What the shell keeps of a dash at the beginning is text.
        self.done("generate", "--prompt", "--temperature", "--max-tokens", "2")

    def test_the_seed_is_told_and_repeats(self):
        ask = ["generate", "--prompt", "One day", "--max-tokens", "30", "--temperature", "1", "--speculation", "off"]
        first = self.done(*ask)
        seed = re.search(r", seed (\d+)\]$", first.stderr.strip()).group(1)
        self.assertEqual(self.done(*ask, "--seed", seed).stdout, first.stdout)
        as_json = self.done("--json", *ask, "--seed", "18446744073709551615").stdout.splitlines()
        self.assertEqual(json.loads(as_json[-1])["completion"]["seed"], 18446744073709551615)

    def test_a_recorded_answer_is_made_again_and_compared(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "answer.json")
            ask = ["generate", "--prompt", "One day", "--max-tokens", "30", "--temperature", "1", "--n", "2"]
            for more in ([], ["--once"], ["--json"], ["--once", "--json"], ["--speculation", "off"]):
                told = self.done(*ask, *more, "--receipt", path)
                again = self.done("replay", path)
                self.assertEqual(again.stdout, "sample 1: equal, 30 tokens\nsample 2: equal, 30 tokens\n", told.stderr)
            with open(path, encoding="utf-8") as file:
                text = file.read()
            self.assertEqual(self.done("replay", "-", text_input=text).stdout, again.stdout)
            self.assertEqual(json.loads(self.done("--json", "replay", text).stdout),
                             {"equal": True, "samples": [{"index": i, "equal": True, "tokens": 30} for i in (0, 1)],
                              "changes": []})

    def test_a_replay_tells_where_an_answer_differs_and_why(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "answer.json")
            self.done("generate", "--prompt", "Once upon", "--max-tokens", "8", "--receipt", path)
            with open(path, encoding="utf-8") as file:
                record = json.load(file)
            answer = record["answers"][0]
            wanted = answer["token_ids"][2]
            answer["token_ids"][2] = 411
            receipt = answer["completion"].pop("receipt")
            result = self.ask("replay", json.dumps(record))
            self.assertEqual((result.returncode, result.stderr), (3, ""))
            self.assertRegex(result.stdout, rf'^sample 1: differs from token 3 of 8 on: recorded 411 ".*", now {wanted} ","\n$')
            del answer["token_ids"]
            answer["completion"]["receipt"] = {**receipt, "numerics": "by hand", "answer_digest": "0" * 64}
            result = self.ask("replay", json.dumps(record))
            self.assertEqual(result.returncode, 3)
            self.assertRegex(result.stdout, r"^sample 1: differs; .*\ncomputed by other rules: recorded by hand, now cpu-")
            answer["completion"]["receipt"]["answer_digest"] = receipt["answer_digest"]
            result = self.ask("replay", json.dumps(record))
            self.assertEqual((result.returncode, result.stdout.splitlines()[0]), (0, "sample 1: equal"))
            self.assert_fails(self.ask("replay", os.path.join(folder, "none")), 2, "none: No such file")
            self.assert_fails(self.ask("replay", "{}"), 2, "the record: expected")

    def test_samples_are_told_apart(self):
        ask = ["generate", "--prompt", "One day", "--max-tokens", "20", "--temperature", "1", "--n", "3", "--seed", "4",
               "--speculation", "off"]
        for more in ([], ["--once"]):
            result = self.done(*ask, *more)
            heads = re.findall(r"(?m)^--- sample (\d) of 3$", result.stdout)
            self.assertEqual(heads, ["1", "2", "3"])
            self.assertEqual(re.findall(r"(?m)^\[sample (\d): ", result.stderr), ["1", "2", "3"])
        samples = json.loads(self.done("--json", *ask, "--once").stdout)
        texts = [samples["text"]] + [sample["text"] for sample in samples["further_samples"]]
        self.assertEqual(result.stdout, "".join(f"--- sample {i + 1} of 3\n{text}\n" for i, text in enumerate(texts)))

    def test_logprobs_are_a_table_with_pieces(self):
        ask = ["generate", "--prompt", "Once upon", "--max-tokens", "3", "--logprobs", "2", "--prompt-logprobs", "1"]
        for more in ([], ["--once"]):
            result = self.done(*ask, *more)
            self.assertEqual(result.stdout, " a time,\n")
            lines = result.stderr.splitlines()
            self.assertEqual([lines[0], lines[4]], ["prompt", "answer"])
            self.assertEqual(lines[1].split(), ["position", "id", "piece", "logprob", "alternatives"])
            self.assertRegex(lines[3], r'^ +2 +440  " upon" +-\d\.\d{5}   440 " upon" -\d\.\d{4}$')
            self.assertRegex(lines[6], r'^ +3 +261  " a" +-\d\.\d{5}   261 " a" -\d\.\d{4}   \d+ "[^"]+" -\d+\.\d{4}$')
        pieces = [entry["piece"] for line in self.done("--json", *ask).stdout.splitlines()
                  for entry in json.loads(line)["logprobs"]]
        self.assertEqual(pieces, [" a", " time", ","])

    def test_score_has_pieces(self):
        result = self.done("score", "--prompt", "The \"sky\"\nis", "--alternatives", "1")
        self.assertEqual(result.stderr, "")
        lines = result.stdout.splitlines()
        self.assertEqual(lines[0].split(), ["position", "id", "piece", "logprob", "alternatives"])
        self.assertIn('"\\n"', result.stdout)  # a line break does not break the table
        scored = json.loads(self.done("--json", "score", "--prompt", "The \"sky\"\nis").stdout)
        self.assertEqual(len(lines), 2 + len(scored["logprobs"]))
        self.assertEqual("".join(entry["piece"] for entry in scored["logprobs"]).strip(), "The \"sky\"\nis")
        self.assertAlmostEqual(scored["total_logprob"], sum(entry["logprob"] for entry in scored["logprobs"]), places=4)

    def test_bytes_of_half_a_character_in_json(self):
        answer = json.loads(self.done("--json", "tokenize", "--prompt", "<\u732b>").stdout)
        whole = b"".join(bytes(p) if isinstance(p, list) else p.encode() for p in answer["pieces"])
        self.assertIn("<\u732b>".encode(), whole)
        self.assertTrue(any(isinstance(piece, list) for piece in answer["pieces"]))
        table = self.done("tokenize", "--prompt", "<\u732b>", "--pieces").stdout
        self.assertRegex(table, r'"\\x[0-9a-f]{2}"')

    def test_info_and_load_are_for_people(self):
        info = self.done("info").stdout
        for words in ("4.72 M parameters", "9.46 MB", "context      1,024 tokens", "draft model", "no chat template",
                      "temperature 0", f"{self.server.address}, computes on "):
            self.assertIn(words, info)
        load = self.done("load").stdout
        for words in ("requests     0 running, 0 waiting", "acceptance ", "slots        0 of 16"):
            self.assertIn(words, load)
        facts = json.loads(self.done("info", "--json").stdout)
        self.assertEqual((facts["model"]["parameters"], facts["has_chat_template"]), (4717124, False))
        self.assertEqual(json.loads(self.done("load", "--json").stdout)["slots_total"], 16)

    def test_top_looks_again_and_again(self):
        lines = self.done("top", "--count", "3", "--interval", "0.1").stdout.splitlines()
        self.assertEqual(len(lines), 3)
        for line in lines:
            self.assertRegex(line, r"^serving: tokens/s \d+\.\d, acceptance \S+, running \d+, waiting 0, slots 0 of \d+, wait ")
        loads = [json.loads(line) for line in self.done("--json", "top", "--count", "2", "--interval", "0.1").stdout.splitlines()]
        self.assertEqual(len(loads), 2)
        self.assertIn("slots_total", loads[0])
        self.assert_fails(self.ask("top", "--interval", "0"), 2, "--interval")
        # In a terminal, a page.
        leader, terminal = os.openpty()
        with subprocess.Popen([OPTIONS.mambactl, "--address", self.server.address, "top", "--interval", "0.1"],
                              stdin=subprocess.DEVNULL, stdout=terminal, stderr=terminal) as shown:
            os.close(terminal)
            screen = b""
            while screen.count(b"tokens/s") < 3:
                screen += os.read(leader, 4096)
            shown.send_signal(signal.SIGINT)
            self.assertEqual(shown.wait(timeout=SECONDS), 130)
        os.close(leader)
        self.assertIn(b"\x1b[H", screen)
        self.assertNotIn(b"\x1b[2J", screen)

    def test_health(self):
        self.assertEqual(self.done("health").stdout, "SERVING\n")
        self.assertEqual(self.done("health", "--service", "mambad.v1.Generation").stdout, "SERVING\n")
        self.assert_fails(self.ask("health", "--service", "no.such.Service"), 1, 'the server has no "no.such.Service"')

    def test_timeout(self):
        result = self.ask("generate", "--prompt", "x", "--ignore-eos", "--timeout", "0.001")
        self.assertEqual(result.returncode, 1)
        self.assertRegex(result.stderr, r"within 0\.001 s|says nothing|does not answer|broke off")

    def test_bench_needs_nothing_said(self):
        result = self.done("bench", "--requests", "4", "--max-tokens", "4")
        self.assertIn("random prompts of 32 tokens, answers of at most 4 tokens", result.stderr)
        for words in ("first token (TTFT)", "each further token (TPOT)", "requests   4 of 4 done", "drafts "):
            self.assertIn(words, result.stdout)
        again = self.done("bench", "--requests", "2", "--max-tokens", "2", "--prompts", "-", text_input="One\nTwo\n")
        self.assertIn("2 of 2 done", again.stdout)
        open_loop = self.done("--json", "bench", "--requests", "5", "--rate", "50", "--max-tokens", "2", "--prompt", "The cat")
        self.assertEqual(json.loads(open_loop.stdout)["codes"], {"OK": 5})
        refused = self.ask("bench", "--requests", "2", "--prompt-tokens", "2000")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("failed     2 INVALID_ARGUMENT: --prompt-tokens: 2000 tokens given", refused.stdout)

    def test_an_answer_that_cannot_be_written_is_no_success(self):
        with open("/dev/full", "w", encoding="utf-8") as full:
            result = subprocess.run([OPTIONS.mambactl, "--address", self.server.address, "info"], stdout=full,
                                    stderr=subprocess.PIPE, encoding="utf-8", timeout=SECONDS, check=False)
        self.assertEqual((result.returncode, result.stderr), (1, "mambactl: standard output: No space left on device\n"))

    def test_default_port(self):
        # Nothing may listen there, or another's server: the words tell which place was asked.
        result = run("info", "--timeout", "2", address="127.0.0.254")
        if result.returncode != 0:
            self.assertIn("127.0.0.254:50051", result.stderr)


class WaitTest(MambactlCase):
    def test_a_client_that_waits_meets_a_server_that_comes_later(self):
        address = closed_port()
        models = pathlib.Path(OPTIONS.models)
        answers = []
        client = threading.Thread(target=lambda: answers.append(run("--wait", "60", "health", address=address)))
        client.start()
        time.sleep(0.5)  # the client finds nobody at first
        server = ServerProcess(OPTIONS.mambad, str(models / "target"), listen=address)
        client.join()
        self.assertEqual(server.stop(), 0)
        self.assertEqual((answers[0].returncode, answers[0].stdout), (0, "SERVING\n"), answers[0].stderr)


def main():
    global OPTIONS
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("mambad", "mambactl", "models"):
        parser.add_argument(f"--{name}", required=True)
    OPTIONS, rest = parser.parse_known_args()
    unittest.main(argv=[sys.argv[0]] + rest)


if __name__ == "__main__":
    main()
