#!/usr/bin/env python3
"""A real Python client against a running mambad.

    client_test.py --binary build/bin/mambad --model DIR [--draft DIR] [--mambactl build/bin/mambactl]

Needs grpcio, grpcio-tools, grpcio-health-checking, grpcio-reflection and googleapis-common-protos. Stubs are made from the
.proto files at run time, into a temporary folder.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import unittest

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import malformed_requests
from daemon_process import Daemon, details_of, make_stubs

OPTIONS = pb = None  # set by main: the arguments, the generated messages


def start_daemon():
    return Daemon(OPTIONS.binary, OPTIONS.model, OPTIONS.draft)


class ClientTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = start_daemon()
        cls.generation = cls.daemon.generation
        cls.info = cls.generation.GetModelInfo(pb.GetModelInfoRequest())

    @classmethod
    def tearDownClass(cls):
        code = cls.daemon.stop()
        assert code == 0, f"exit code {code}: {cls.daemon.errors[-5:]}"

    def request(self, max_tokens=24):
        request = pb.GenerateRequest()
        if self.info.has_tokenizer:
            request.text = "Once upon a time"
        else:
            request.token_ids.ids.extend([1, 2, 3])
        request.sampling.temperature = 0
        request.stopping.max_tokens = max_tokens
        return request

    def long_request(self):
        # What is left of the context, whatever the model would like to say.
        request = self.request(max_tokens=self.info.limits.context)
        request.stopping.ignore_eos = True
        return request

    def test_stream_is_the_whole_answer(self):
        messages = list(self.generation.Generate(self.request()))
        whole = self.generation.GenerateOnce(self.request())
        self.assertEqual("".join(m.text for m in messages), whole.text)
        self.assertEqual([i for m in messages for i in m.token_ids], list(whole.token_ids))
        self.assertGreater(len(whole.token_ids), 0)
        self.assertTrue(messages[-1].HasField("completion"))
        self.assertFalse(any(m.HasField("completion") for m in messages[:-1]))
        self.assertEqual(messages[-1].completion.usage, whole.completion.usage)
        self.assertEqual(whole.completion.usage.completion_tokens, len(whole.token_ids))
        self.assertIn(whole.completion.finish_reason, (pb.EOS, pb.LENGTH))

    def test_speculation_changes_nothing(self):
        texts = set()
        modes = [pb.Speculation.AUTO, pb.Speculation.OFF]
        if self.info.prompt_lookup:
            modes.append(pb.Speculation.PROMPT_LOOKUP)
        if self.info.HasField("draft_model"):
            modes.append(pb.Speculation.DRAFT_MODEL)
        for mode in modes:
            request = self.request(64)
            request.speculation.mode = mode
            texts.add(tuple(self.generation.GenerateOnce(request).token_ids))
        self.assertEqual(len(texts), 1)

    def test_seed_repeats_a_sampled_answer(self):
        request = self.request()
        request.sampling.temperature = 1
        request.speculation.mode = pb.Speculation.OFF
        first = self.generation.GenerateOnce(request)
        request.sampling.seed = first.completion.seed
        # A draft model, which keeps the distribution only, is not among them.
        for mode in (pb.Speculation.OFF, pb.Speculation.PROMPT_LOOKUP):
            request.speculation.mode = mode
            again = self.generation.GenerateOnce(request)
            self.assertEqual(list(first.token_ids), list(again.token_ids))

    def test_samples(self):
        request = self.request()
        request.output.n = min(3, self.info.limits.n)
        indices = {m.index for m in self.generation.Generate(request) if m.HasField("completion")}
        self.assertEqual(indices, set(range(request.output.n)))

    def test_logprobs(self):
        request = self.request(4)
        request.output.logprobs = 2
        answer = self.generation.GenerateOnce(request)
        self.assertEqual([entry.id for entry in answer.logprobs], list(answer.token_ids))
        for entry in answer.logprobs:
            self.assertEqual(len(entry.alternatives), 2)
            self.assertLessEqual(entry.logprob, 0)

    def test_pieces_of_logprobs(self):
        request = self.request(4)
        request.output.logprobs = 2
        request.output.prompt_logprobs = 1
        answer = self.generation.GenerateOnce(request)
        if not self.info.has_tokenizer:
            self.assertEqual({entry.piece for entry in [*answer.logprobs, *answer.prompt_logprobs]}, {b""})
            return
        prompt = self.generation.Tokenize(pb.TokenizeRequest(text=request.text))
        self.assertEqual([entry.piece for entry in answer.prompt_logprobs], list(prompt.pieces[1:]))
        scored = self.generation.Score(pb.ScoreRequest(text=request.text, alternatives=2))
        self.assertEqual([entry.piece for entry in scored.logprobs], list(prompt.pieces[1:]))
        for entry in [*answer.logprobs, *scored.logprobs]:
            for alternative in entry.alternatives:
                self.assertTrue(alternative.piece)
                if alternative.id == entry.id:
                    self.assertEqual(alternative.piece, entry.piece)

    def test_score(self):
        ids = list(self.generation.GenerateOnce(self.request(8)).token_ids)
        if len(ids) < 3:
            self.skipTest("the model ends its answer at once")
        answer = self.generation.Score(pb.ScoreRequest(token_ids=pb.TokenIds(ids=ids), **{"from": 2}))
        self.assertEqual([entry.id for entry in answer.logprobs], ids[2:])

    def test_a_score_takes_the_whole_context(self):
        ids = [1 + i % 2 for i in range(self.info.limits.context)]
        answer = self.generation.Score(pb.ScoreRequest(token_ids=pb.TokenIds(ids=ids)))
        self.assertEqual([entry.id for entry in answer.logprobs], ids[1:])

    def test_what_is_no_text_is_named(self):
        calls = {
            "text": ("Generate", pb.GenerateRequest, b"\x0a\x03ab\xff"),
            "request_id": ("GenerateOnce", pb.GenerateRequest, b"\x62\x02\xc0\xaf"),
            "stopping.stop_strings[0]": ("GenerateOnce", pb.GenerateRequest, b"\x2a\x03\x1a\x01\x80"),
            "conversation.messages[0].content": ("Tokenize", pb.TokenizeRequest, b"\x12\x05\x0a\x03\x12\x01\xf5"),
        }
        for field, (method, _, data) in calls.items():
            call = self.daemon.channel.unary_stream(f"/mambad.v1.Generation/{method}", lambda x: x, lambda x: x)
            with self.subTest(field=field), self.assertRaises(grpc.RpcError) as caught:
                list(call(data))
            self.assertEqual(caught.exception.code().name, "INVALID_ARGUMENT", caught.exception.details())
            violations = details_of(caught.exception)[error_details_pb2.BadRequest].field_violations
            self.assertEqual([violation.field for violation in violations], [field])

    def test_deadlines_beyond_all_clocks_are_none(self):
        for seconds in (1e9, 7e9):
            self.assertTrue(self.generation.GenerateOnce(self.request(2), timeout=seconds).HasField("completion"))

    def test_tokenize_and_back(self):
        if not self.info.has_tokenizer:
            self.skipTest("the model has no tokenizer")
        text = "Once upon a time"
        tokens = self.generation.Tokenize(pb.TokenizeRequest(text=text))
        self.assertEqual(len(tokens.token_ids), len(tokens.pieces))
        back = self.generation.Detokenize(pb.DetokenizeRequest(token_ids=tokens.token_ids))
        self.assertEqual(back.text.strip(), text)

    def test_cancel_half_way(self):
        call = self.generation.Generate(self.long_request())
        for _ in range(3):
            next(call)
        call.cancel()
        with self.assertRaises(grpc.RpcError) as caught:
            for _ in call:
                pass
        self.assertEqual(caught.exception.code(), grpc.StatusCode.CANCELLED)
        self.assertEqual(self.daemon.wait_until_idle().slots_used, 0)

    def test_deadline(self):
        with self.assertRaises(grpc.RpcError) as caught:
            list(self.generation.Generate(self.long_request(), timeout=0.05))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        self.assertEqual(self.daemon.wait_until_idle().slots_used, 0)

    def test_health_and_reflection(self):
        health = health_pb2_grpc.HealthStub(self.daemon.channel)
        for service in ("", "mambad.v1.Generation"):
            answer = health.Check(health_pb2.HealthCheckRequest(service=service))
            self.assertEqual(answer.status, health_pb2.HealthCheckResponse.SERVING)
        reflection = reflection_pb2_grpc.ServerReflectionStub(self.daemon.channel)
        question = reflection_pb2.ServerReflectionRequest(list_services="")
        answer = next(reflection.ServerReflectionInfo(iter([question])))
        names = {service.name for service in answer.list_services_response.service}
        self.assertLessEqual({"mambad.v1.Generation", "grpc.health.v1.Health"}, names)

    def test_metrics(self):
        self.generation.GenerateOnce(self.request(3))
        text = self.daemon.metrics()
        self.assertIn("mambad_generation_tokens_total ", text)
        self.assertIn("mambad_time_to_first_token_seconds_bucket", text)

    def test_malformed_requests(self):
        cases = malformed_requests.cases(pb, self.info)
        self.assertEqual(len({(c.method, c.request.SerializeToString(deterministic=True)) for c in cases}), len(cases))
        for case in cases:
            with self.subTest(method=case.method, field=case.field, request=str(case.request)[:200]):
                with self.assertRaises(grpc.RpcError) as caught:
                    answer = getattr(self.generation, case.method)(case.request)
                    if case.method == "Generate":
                        list(answer)
                self.assertEqual(caught.exception.code().name, case.code, caught.exception.details())
                bad_request = details_of(caught.exception).get(error_details_pb2.BadRequest)
                self.assertIsNotNone(bad_request, caught.exception.details())
                self.assertIn(case.field, [violation.field for violation in bad_request.field_violations])
                self.assertTrue(bad_request.field_violations[0].description)
        if self.info.has_tokenizer and self.info.has_chat_template:
            self.assertGreaterEqual(len(cases), 200)
        print(f"{len(cases)} malformed requests answered", file=sys.stderr)
        self.assertEqual(self.daemon.wait_until_idle().slots_used, 0)

    def test_bytes_that_are_no_message(self):
        method = self.daemon.channel.unary_unary("/mambad.v1.Generation/GenerateOnce")
        for raw in (b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x22\x05\x0d", b"\x0a\x02\xc3\x28", os.urandom(64) + b"\xff"):
            with self.assertRaises(grpc.RpcError) as caught:
                method(raw)
            # gRPC's own answer, before any code of the daemon; it differs between versions.
            self.assertIn(caught.exception.code().name, ("INTERNAL", "INVALID_ARGUMENT", "UNIMPLEMENTED"))
        self.assertTrue(self.generation.GenerateOnce(self.request(2)).HasField("completion"))

    def test_many_cancelled_streams_leave_nothing(self):
        request = self.long_request()

        def run(count):
            for i in range(count):
                call = self.generation.Generate(request)
                for _ in range(i % 4):  # some before the first message, some later
                    next(call)
                call.cancel()

        def run_all(count):
            threads = [threading.Thread(target=run, args=(count // 4,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return self.daemon.wait_until_idle()

        run_all(400)
        # Slots, pages and buffers of threads are touched for the first time now and then, whenever most of them are in use; a
        # leak grows every time.
        for _ in range(3):
            before = self.daemon.resident_bytes()
            load = run_all(1000)
            growth = self.daemon.resident_bytes() - before
            if growth < 4 << 20:
                break
        self.assertEqual((load.running, load.waiting, load.slots_used, load.pages_used, load.state_bytes), (0,) * 5)
        print(f"resident memory after 1,000 cancelled streams: {growth / 1024:+.0f} KiB", file=sys.stderr)
        # A leak of 4 KiB a stream would show.
        if not OPTIONS.shadow_memory:
            self.assertLess(growth, 4 << 20)


class LifeTest(unittest.TestCase):
    def test_drain_finishes_running_calls(self):
        daemon = start_daemon()
        info = daemon.generation.GetModelInfo(pb.GetModelInfoRequest())
        request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1, 2, 3]))
        request.stopping.max_tokens = min(200, info.limits.context - 3)
        request.stopping.ignore_eos = True
        call = daemon.generation.Generate(request)
        ids = list(next(call).token_ids)
        daemon.process.send_signal(signal.SIGTERM)
        for message in call:
            ids.extend(message.token_ids)
        self.assertEqual(len(ids), request.stopping.max_tokens)
        daemon.channel.close()
        self.assertEqual(daemon.process.wait(timeout=60), 0)
        daemon.process.stdout.close()
        daemon.error_reader.join()
        daemon.process.stderr.close()

    def test_bad_starts_exit_2_with_one_line(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
            config.write("limits:\n  sampels: 3\n")
            config.flush()
            for arguments, words in ((["--model", "missing"], "missing"), (["--no-such-flag"], "--no-such-flag"), ([], "model"),
                                     (["--config", config.name], "limits.sampels"),
                                     (["--model", OPTIONS.model, "--listen", "nowhere"], "listen")):
                with self.subTest(arguments=arguments):
                    result = subprocess.run([OPTIONS.binary, "--metrics", ""] + arguments, capture_output=True, text=True,
                                            timeout=60, check=False)
                    self.assertEqual(result.returncode, 2)
                    self.assertEqual(result.stdout, "")
                    self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
                    self.assertIn(words, result.stderr)

    def test_mambactl(self):
        if not OPTIONS.mambactl:
            self.skipTest("no --mambactl given")
        daemon = start_daemon()

        def mambactl(*arguments):
            return subprocess.run([OPTIONS.mambactl, "--address", daemon.address, *arguments], capture_output=True,
                                  text=True, timeout=120, check=False)
        for arguments in (["generate", "--token-ids", "1,2,3", "--max-tokens", "5"], ["--json", "info"], ["load"], ["health"],
                          ["score", "--token-ids", "1,2,3"],
                          ["bench", "--prompt-tokens", "5", "--max-tokens", "5", "--requests", "4", "--json"]):
            result = mambactl(*arguments)
            self.assertEqual(result.returncode, 0, (arguments, result.stderr))
            self.assertTrue(result.stdout.strip(), arguments)
        refused = mambactl("generate", "--token-ids", "1", "--temperature", "-3")
        self.assertEqual(refused.returncode, 1)
        self.assertIn("--temperature", refused.stderr)
        self.assertEqual(mambactl("generate", "--nonsense").returncode, 2)
        self.assertEqual(daemon.stop(), 0)


def main():
    global OPTIONS, pb
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--draft")
    parser.add_argument("--mambactl")
    parser.add_argument("--shadow-memory", action="store_true",
                        help="resident memory holds a sanitizer's shadow: its growth is printed, not judged")
    OPTIONS, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        pb = make_stubs(folder)
        unittest.main(argv=[sys.argv[0]] + rest)


if __name__ == "__main__":
    main()
