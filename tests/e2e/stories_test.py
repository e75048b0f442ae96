#!/usr/bin/env python3
"""The story model of this repository with its draft, over the wire: what speculation must not change, what it reports, text,
seeds and the ends of the context.

    stories_test.py --binary build/bin/mambad --models deploy/models/stories --mambactl build/bin/mambactl
"""

import argparse
import concurrent.futures
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import unittest

import grpc
from google.rpc import error_details_pb2

from daemon_process import Daemon, details_of, make_stubs

OPTIONS = pb = None  # set by main: the arguments, the generated messages

PROMPTS = [
    "Once upon a time",
    "Lily and Tom went to the park. They saw",
    "One day, a little dog named Max",
    "\"Can I play with you?\" asked",
    "The",
    "There was a big tree. In the tree there was a nest. In the nest there was a bird. The bird saw the dog, and the dog saw "
    "the bird. The bird said to the dog, \"Do you want to play?\" The dog said to the bird,",
]
SHORT_CONTEXT = 48


def start_daemon(extra=()):
    models = pathlib.Path(OPTIONS.models)
    return Daemon(OPTIONS.binary, str(models / "target"), str(models / "draft"), extra)


def make_request(prompt, max_tokens, mode=None, draft_length=None):
    """Greedy, unless changed."""
    request = pb.GenerateRequest(text=prompt)
    request.sampling.temperature = 0
    request.stopping.max_tokens = max_tokens
    if mode is not None:
        request.speculation.mode = mode
    if draft_length is not None:
        request.speculation.draft_length = draft_length
    return request


def ways_to_draft():
    """What may be asked of speculation; the first asks for none."""
    ways = [(pb.Speculation.OFF, None), (pb.Speculation.AUTO, None)]
    return ways + [(mode, length) for mode in (pb.Speculation.DRAFT_MODEL, pb.Speculation.PROMPT_LOOKUP)
                   for length in (None, 1, 4, 8)]


class Answer:
    """A stream, put together."""

    def __init__(self, messages):
        messages = list(messages)
        self.text = "".join(message.text for message in messages)
        self.ids = [token for message in messages for token in message.token_ids]
        self.completion = messages[-1].completion

    def content(self):
        return self.text, self.ids, self.completion.finish_reason


class StoriesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.daemon = start_daemon()
        cls.generation = cls.daemon.generation
        cls.info = cls.generation.GetModelInfo(pb.GetModelInfoRequest())
        cls.pool = concurrent.futures.ThreadPoolExecutor(len(PROMPTS))

    @classmethod
    def tearDownClass(cls):
        cls.pool.shutdown()
        code = cls.daemon.stop()
        assert code == 0, f"exit code {code}: {cls.daemon.errors[-5:]}"

    def stream(self, request):
        return Answer(self.generation.Generate(request))

    def stream_together(self, requests):
        """Answers to requests that run beside each other."""
        return list(self.pool.map(self.stream, requests))

    def counter(self, name):
        return float(re.search(rf"^mambad_{name} (\S+)$", self.daemon.metrics(), re.MULTILINE).group(1))

    def test_both_models_are_served(self):
        self.assertEqual(self.info.model.family, "hybrid")
        self.assertEqual(self.info.draft_model.family, "mamba2")
        self.assertEqual(self.info.draft_model.vocabulary, self.info.model.vocabulary)
        self.assertLess(self.info.draft_model.parameters, self.info.model.parameters)
        self.assertTrue(self.info.has_tokenizer)
        self.assertTrue(self.info.prompt_lookup)
        self.assertEqual(self.counter("speculation_enabled"), 1)
        self.assertEqual(self.counter("self_check_failures_total"), 0)

    def test_speculation_changes_no_byte(self):
        plain = [self.stream(make_request(prompt, 96, pb.Speculation.OFF)) for prompt in PROMPTS]
        self.assertGreater(sum(len(answer.ids) for answer in plain), 96)
        for mode, length in ways_to_draft():
            requests = [make_request(prompt, 96, mode, length) for prompt in PROMPTS]
            for prompt, answer, wanted in zip(PROMPTS, self.stream_together(requests), plain):
                with self.subTest(prompt=prompt, mode=pb.Speculation.Mode.Name(mode), draft_length=length):
                    self.assertEqual(answer.content(), wanted.content())
            once = self.generation.GenerateOnce(requests[0])
            self.assertEqual((once.text, list(once.token_ids)), (plain[0].text, plain[0].ids))

    def test_large_texts_hold_nobody_up(self):
        text = ("Once upon a time there was a dragon. " * 110_000)[:4_000_000]
        large = pb.TokenizeRequest(text=text)
        ids = self.generation.Tokenize(pb.TokenizeRequest(text="Once upon a time")).token_ids
        calls = [self.generation.Tokenize.future(large) for _ in range(6)]
        while self.generation.GetLoad(pb.GetLoadRequest()).text_waiting < 2:
            self.assertFalse(all(call.done() for call in calls))
            time.sleep(0.01)
        load = self.generation.GetLoad(pb.GetLoadRequest())
        self.assertGreaterEqual(load.waiting, load.text_waiting)
        self.assertGreater(load.text_waiting_bytes, 4_000_000)
        self.assertGreater(self.counter("text_requests_waiting"), 0)
        request = make_request(None, 1)
        request.token_ids.ids.extend(ids)
        self.generation.GenerateOnce(request)
        self.generation.GenerateOnce(make_request("Once", 1))
        self.assertGreater(self.generation.GetLoad(pb.GetLoadRequest()).text_waiting, 0)  # long before they are done
        for call in calls:
            call.cancel()
        # What waits is dropped at once, and what is at work soon: a call takes seconds.
        end = time.monotonic() + 2
        while self.generation.GetLoad(pb.GetLoadRequest()).text_waiting and time.monotonic() < end:
            time.sleep(0.01)
        self.assertEqual(self.generation.GetLoad(pb.GetLoadRequest()).text_waiting, 0)

    def test_a_large_text_gives_its_memory_back(self):
        self.generation.Tokenize(pb.TokenizeRequest(text="Once"))
        before = self.daemon.resident_bytes()
        text = ("Once upon a time there was a dragon. " * 110_000)[:4_000_000]
        count = len(self.generation.Tokenize(pb.TokenizeRequest(text=text)).token_ids)
        self.assertGreater(count, 900_000)
        end = time.monotonic() + 10
        while self.daemon.resident_bytes() > before + 16_000_000 and time.monotonic() < end:
            time.sleep(0.1)
        self.assertLess(self.daemon.resident_bytes(), before + 16_000_000)

    def test_accepted_drafts_are_reported(self):
        names = {"drafted": "spec_decode_num_draft_tokens_total", "accepted": "spec_decode_num_accepted_tokens_total",
                 "rounds": "spec_decode_num_drafts_total"}
        before = {name: self.counter(metric) for name, metric in names.items()}
        generated = self.counter("generation_tokens_total")
        answers = [self.stream(make_request(prompt, 64, pb.Speculation.DRAFT_MODEL, 4)) for prompt in PROMPTS]
        for answer in answers:
            report = answer.completion.speculation
            self.assertLessEqual(report.accepted, report.drafted)
            self.assertEqual(sum(report.accepted_per_position), report.accepted)
            self.assertLessEqual(len(report.accepted_per_position), 4)
            kept = sum(tokens * rounds for tokens, rounds in enumerate(report.tokens_per_round))
            self.assertEqual(kept, answer.completion.usage.completion_tokens)
            self.assertEqual(answer.completion.usage.completion_tokens, len(answer.ids))
        reports = [answer.completion.speculation for answer in answers]
        self.assertGreater(sum(report.accepted for report in reports), 0)
        for name, metric in names.items():
            self.assertEqual(self.counter(metric) - before[name], sum(getattr(report, name) for report in reports), metric)
        self.assertEqual(self.counter("generation_tokens_total") - generated, sum(len(answer.ids) for answer in answers))
        load = self.generation.GetLoad(pb.GetLoadRequest())
        self.assertTrue(load.speculation_enabled)
        self.assertGreater(load.acceptance_rate, 0)
        off = self.stream(make_request(PROMPTS[0], 16, pb.Speculation.OFF))
        self.assertEqual(off.completion.speculation.drafted, 0)

    def test_a_seed_repeats_what_was_drawn(self):
        def sampled(prompt, seed, mode, length):
            request = make_request(prompt, 48, mode, length)
            request.sampling.temperature = 1
            request.sampling.seed = seed
            return request

        # With a draft model the length is fixed: measured times choose others, and where drafts begin decides what is drawn.
        plain = None
        for mode, length in ((pb.Speculation.OFF, None), (pb.Speculation.DRAFT_MODEL, 4), (pb.Speculation.PROMPT_LOOKUP, None)):
            with self.subTest(mode=pb.Speculation.Mode.Name(mode)):
                requests = [sampled(prompt, 7, mode, length) for prompt in PROMPTS]
                alone = [self.stream(request).content() for request in requests]
                plain = plain or alone
                if mode == pb.Speculation.PROMPT_LOOKUP:
                    self.assertEqual(alone, plain)
                self.assertEqual([answer.content() for answer in self.stream_together(requests)], alone)
                other = self.stream(sampled(PROMPTS[0], 8, mode, length))
                self.assertNotEqual(other.ids, alone[0][1])
                self.assertEqual(other.completion.seed, 8)

    def test_text_is_what_the_tokens_say(self):
        for prompt in PROMPTS:
            with self.subTest(prompt=prompt):
                request = make_request(prompt, 96)
                answer = self.stream(request)
                for trace in ("\ufffd", "\u2581", "<0x", "<s>", "</s>", "<unk>"):
                    self.assertNotIn(trace, answer.text)
                prompt_ids = self.generation.Tokenize(pb.TokenizeRequest(text=prompt)).token_ids
                self.assertEqual(len(prompt_ids), answer.completion.usage.prompt_tokens)
                # Spaces between the prompt and the answer, and between parts of it, are where the tokens have them.
                whole = self.generation.Detokenize(pb.DetokenizeRequest(token_ids=list(prompt_ids) + answer.ids))
                self.assertEqual(whole.text, prompt + answer.text)
                self.assertIn(" ", answer.text)
                request.output.echo = True
                self.assertEqual(self.stream(request).text, prompt + answer.text)
                request.output.echo = False
                # A stop string ends the text before it, whatever was drafted beyond it.
                word = answer.text.split()[2]
                request.stopping.stop_strings.append(word)
                request.speculation.mode = pb.Speculation.DRAFT_MODEL
                stopped = self.stream(request)
                self.assertEqual(stopped.text, answer.text[:answer.text.index(word)])
                self.assertEqual((stopped.completion.finish_reason, stopped.completion.stop_string), (pb.STOP, word))

    def test_there_is_no_chat(self):
        self.assertFalse(self.info.has_chat_template)
        request = pb.GenerateRequest()
        request.conversation.messages.add(role="user", content="Hello")
        with self.assertRaises(grpc.RpcError) as caught:
            self.generation.GenerateOnce(request)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.FAILED_PRECONDITION)
        self.assertIn("chat template", caught.exception.details())

    def test_the_client_tells_tokens_speed_and_drafts(self):
        result = subprocess.run(
            [OPTIONS.mambactl, "--address", self.daemon.address, "generate", "--prompt", "-", "--echo", "--max-tokens", "32",
             "--temperature", "0", "--speculation", "draft-model", "--draft-length", "4"],
            input=PROMPTS[0], capture_output=True, text=True, timeout=120, check=True)
        wanted = self.stream(make_request(PROMPTS[0], 32))
        self.assertEqual(result.stdout, f"{PROMPTS[0]}{wanted.text}\n")
        self.assertRegex(result.stderr, rf"^\[(EOS|LENGTH), \d+ prompt \+ {len(wanted.ids)} answer tokens, \d+ tokens/s, \d+ of \d+ drafts accepted\]\n$")


class ContextTest(unittest.TestCase):
    """A context so short that its end is soon reached."""

    @classmethod
    def setUpClass(cls):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
            config.write(f"batching:\n  max_context: {SHORT_CONTEXT}\n")
            config.flush()
            cls.daemon = start_daemon(["--config", config.name])
        cls.generation = cls.daemon.generation

    @classmethod
    def tearDownClass(cls):
        assert cls.daemon.stop() == 0

    def refused(self, request):
        """The field that is named, and what is said of it."""
        with self.assertRaises(grpc.RpcError) as caught:
            list(self.generation.Generate(request))
        self.assertEqual(caught.exception.code(), grpc.StatusCode.INVALID_ARGUMENT)
        violations = details_of(caught.exception)[error_details_pb2.BadRequest].field_violations
        self.assertEqual(len(violations), 1)
        return violations[0].field, violations[0].description

    def test_what_does_not_fit_is_refused_with_numbers(self):
        long = "the cat " * SHORT_CONTEXT
        count = len(self.generation.Tokenize(pb.TokenizeRequest(text=long)).token_ids)
        self.assertEqual(self.refused(make_request(long, 1)),
                         ("text", f"{count} tokens given, allowed 1 to {SHORT_CONTEXT - 1}"))
        self.assertEqual(self.refused(make_request("The", SHORT_CONTEXT + 1)),
                         ("stopping.max_tokens", f"{SHORT_CONTEXT + 1} given, allowed 1 to {SHORT_CONTEXT}"))

    def test_answers_end_with_the_context_drafted_or_not(self):
        first = self.generation.Tokenize(pb.TokenizeRequest(text=PROMPTS[0])).token_ids[0]
        for prompt in range(SHORT_CONTEXT - 10, SHORT_CONTEXT):
            answers = []
            for mode, length in ways_to_draft():
                request = make_request(None, SHORT_CONTEXT, mode, length)
                request.token_ids.ids.extend([first, *range(100, 99 + prompt)])
                request.stopping.ignore_eos = True
                answers.append(Answer(self.generation.Generate(request)).content())
            self.assertEqual(len(answers[0][1]), SHORT_CONTEXT - prompt)
            self.assertEqual(answers[0][2], pb.LENGTH)
            for answer in answers[1:]:
                self.assertEqual(answer, answers[0])


def main():
    global OPTIONS, pb
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("binary", "models", "mambactl"):
        parser.add_argument(f"--{name}", required=True)
    OPTIONS, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        pb = make_stubs(folder)
        unittest.main(argv=[sys.argv[0]] + rest)


if __name__ == "__main__":
    main()
