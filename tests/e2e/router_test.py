#!/usr/bin/env python3
"""Replicas of mambad behind a router that speaks OpenAI's HTTP interface: SMG, as deploy/openai.sh starts it, and OpenAI's own
client before it.

    router_test.py --binary build/bin/mambad --models deploy/models/stories [--gguf FILE]
"""

import argparse
import concurrent.futures
import hashlib
import io
import json
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time
import unittest
import zipfile

import openai
import tokenizers
from smg_grpc_proto import vllm_engine_pb2_grpc
from smg_grpc_proto.generated import common_pb2

import daemon_process
from daemon_process import Daemon, make_stubs
from openai_endpoint import Endpoint

OPTIONS = pb = None  # set by main: the arguments, the generated messages
ROOT = pathlib.Path(__file__).resolve().parents[2]
PROMPTS = ["Once upon a time", "One day, a little girl named Lily", "  Two spaces and\na line", "Straße, café, 中文 🌊",
           "<s>not the beginning</s>", ""]
TEMPLATE = "{{ bos_token }}{% for message in messages %}{{ message.content }} {% endfor %}"


class RouterCase(unittest.TestCase):
    def setUp(self):
        self.daemons, self.endpoint = [], None

    def tearDown(self):
        if self.endpoint is not None:
            self.endpoint.stop()
        for daemon in self.daemons:
            daemon.kill()

    def check_tokenizer(self, daemon, prompts):
        """What GetTokenizer gives is to the tokenizers library what the daemon's own is; its configuration."""
        chunks = list(vllm_engine_pb2_grpc.VllmEngineStub(daemon.channel).GetTokenizer(common_pb2.GetTokenizerRequest()))
        archive = b"".join(chunk.data for chunk in chunks)
        self.assertEqual(chunks[-1].sha256, hashlib.sha256(archive).hexdigest())
        with zipfile.ZipFile(io.BytesIO(archive)) as files:
            self.assertIsNone(files.testzip())
            self.assertEqual(files.namelist(), ["tokenizer.json", "tokenizer_config.json"])
            tokenizer = tokenizers.Tokenizer.from_str(files.read("tokenizer.json").decode())
            config = json.loads(files.read("tokenizer_config.json"))
        for prompt in prompts:
            ids = list(daemon.generation.Tokenize(pb.TokenizeRequest(text=prompt)).token_ids)
            self.assertEqual(tokenizer.encode(prompt).ids, ids, prompt)
            self.assertEqual(tokenizer.decode(ids),
                             daemon.generation.Detokenize(pb.DetokenizeRequest(token_ids=ids)).text, prompt)
        return config


class RouterTest(RouterCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.template = pathlib.Path(cls.folder.name) / "template.jinja"
        cls.template.write_text(TEMPLATE, encoding="utf-8")

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def start(self, count, router=()):
        models = pathlib.Path(OPTIONS.models)
        for _ in range(count):
            self.daemons.append(Daemon(OPTIONS.binary, str(models / "target"), str(models / "draft"),
                                       ["--threads", "1", "--model-name", "stories", "--chat-template", str(self.template)]))
        workers = ",".join(f"grpc://{daemon.address}" for daemon in self.daemons)
        self.endpoint = Endpoint("--workers", workers, router=router)
        return self.endpoint

    def expected(self, prompt, tokens, **sampling):
        """What a replica answers by itself."""
        request = pb.GenerateRequest(text=prompt)
        request.stopping.max_tokens = tokens
        request.sampling.temperature = 0
        for name, value in sampling.items():
            setattr(request.sampling, name, value)
        return self.daemons[0].generation.GenerateOnce(request)

    def running(self):
        return sum(daemon.generation.GetLoad(pb.GetLoadRequest()).running for daemon in self.daemons
                   if daemon.process.poll() is None)

    def wait_until(self, condition, seconds=20):
        deadline = time.monotonic() + seconds
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            time.sleep(0.05)

    def test_answers_are_the_replicas(self):
        endpoint = self.start(1)
        self.assertEqual(endpoint.model, "stories")
        wanted = self.expected("Once upon a time", 40)
        answer = endpoint.complete(max_tokens=40)
        self.assertEqual(answer.choices[0].text.strip(), wanted.text.strip())
        self.assertEqual(answer.choices[0].finish_reason, "length")
        self.assertEqual(answer.usage.completion_tokens, 40)
        self.assertEqual(answer.usage.prompt_tokens, wanted.completion.usage.prompt_tokens)

        with self.subTest("streamed"):
            pieces, usage, reason = [], None, None
            for chunk in endpoint.complete(max_tokens=40, stream=True, stream_options={"include_usage": True}):
                pieces += [choice.text for choice in chunk.choices]
                reason = next((choice.finish_reason for choice in chunk.choices if choice.finish_reason), reason)
                usage = chunk.usage or usage
            self.assertEqual("".join(pieces).strip(), wanted.text.strip())
            self.assertGreater(len(pieces), 3)
            self.assertEqual(reason, "length")
            self.assertEqual(usage.completion_tokens, 40)
        with self.subTest("samples with a seed"):
            settings = {"temperature": 1, "seed": 7, "max_tokens": 20}
            texts = [choice.text for choice in endpoint.complete(n=2, **settings).choices]
            self.assertEqual(len(set(texts)), 2)
            self.assertEqual(texts, [choice.text for choice in endpoint.complete(n=2, **settings).choices])
        with self.subTest("stop string"):
            word = wanted.text.split()[6]
            answer = endpoint.complete(max_tokens=40, stop=[word]).choices[0]
            self.assertEqual(answer.finish_reason, "stop")
            self.assertEqual(answer.text.strip(), wanted.text.split(word)[0].strip())
        with self.subTest("conversation"):
            said = [{"role": "user", "content": "Once upon a time"}]
            chat = pb.GenerateRequest(conversation=pb.Conversation(messages=[pb.Message(**said[0])]))
            chat.stopping.max_tokens = 30
            chat.sampling.temperature = 0
            wanted = self.daemons[0].generation.GenerateOnce(chat)
            answer = endpoint.client.chat.completions.create(model="stories", messages=said, temperature=0, max_tokens=30,
                                                             logprobs=True, top_logprobs=2)
            self.assertEqual(answer.choices[0].message.content.strip(), wanted.text.strip())
            self.assertEqual(answer.usage.prompt_tokens, wanted.completion.usage.prompt_tokens)
            self.assertEqual(len(answer.choices[0].logprobs.content), 30)
            pieces = [choice.delta.content or "" for chunk in endpoint.client.chat.completions.create(
                model="stories", messages=said, temperature=0, max_tokens=30, stream=True) for choice in chunk.choices]
            self.assertEqual("".join(pieces).strip(), wanted.text.strip())
        with self.subTest("refusals"):
            with self.assertRaises(openai.APIStatusError) as refused:
                endpoint.complete(prompt="Once upon a time " * 400, max_tokens=5)
            self.assertIn(refused.exception.status_code, (400, 413, 422))
            with self.assertRaises(openai.APIStatusError):
                endpoint.client.completions.create(model="another", prompt="Once", max_tokens=5)

    def test_who_goes_away_is_not_answered_on(self):
        endpoint = self.start(2)
        streams = [endpoint.complete(max_tokens=900, stream=True, temperature=1, seed=i) for i in range(4)]
        for stream in streams:
            next(iter(stream))
        self.assertGreater(self.running(), 0)
        began = time.monotonic()
        for stream in streams:
            stream.close()
        self.wait_until(lambda: self.running() == 0, seconds=5)
        self.assertLess(time.monotonic() - began, 5)

    def test_one_is_killed_and_one_is_drained_under_load(self):
        endpoint = self.start(3, router=("--policy", "round_robin"))
        over = threading.Event()

        def ask_on(number):
            ended, failed = 0, []
            while not over.is_set():
                try:
                    answer = list(endpoint.complete(max_tokens=40, stream=True, seed=number))
                    # A stream that was cut ends without a reason.
                    if any(choice.finish_reason for chunk in answer for choice in chunk.choices):
                        ended += 1
                    else:
                        failed.append((time.monotonic(), "cut"))
                except openai.APIError as error:
                    failed.append((time.monotonic(), str(error)))
            return ended, failed

        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            callers = [pool.submit(ask_on, number) for number in range(6)]
            try:
                time.sleep(2)
                drained = self.daemons[1]
                for daemon in self.daemons:
                    self.wait_until(lambda of=daemon: of.generation.GetLoad(pb.GetLoadRequest()).running > 0)
                drained.process.send_signal(signal.SIGTERM)
                self.assertEqual(drained.process.wait(timeout=30), 0)
                time.sleep(2)
                killed = time.monotonic()
                self.daemons[0].process.kill()
                time.sleep(4)
            finally:
                over.set()
            results = [caller.result(timeout=60) for caller in callers]
        ended = sum(result[0] for result in results)
        failures = [failure for result in results for failure in result[1]]
        self.assertGreater(ended, 20)
        # A drained one loses nothing; of the killed one's, at most what ran there.
        self.assertEqual([words for when, words in failures if when < killed], [])
        self.assertLessEqual(len(failures), 6, failures)
        self.assertFalse([words for when, words in failures if when > killed + 2.5], failures)
        self.assertEqual(endpoint.complete(max_tokens=5).usage.completion_tokens, 5)

    def test_tokenizers_read_texts_as_the_daemon_does(self):
        models = pathlib.Path(OPTIONS.models)
        self.daemons.append(Daemon(OPTIONS.binary, str(models / "target"), None,
                                   ["--threads", "1", "--chat-template", str(self.template)]))
        self.assertEqual(self.check_tokenizer(self.daemons[0], PROMPTS)["chat_template"], TEMPLATE)

    def test_the_script_starts_replicas_of_its_own(self):
        self.endpoint = Endpoint("--mambad", OPTIONS.binary, "--replicas", "2")
        self.assertEqual(self.endpoint.model, "target")
        self.assertEqual(self.endpoint.complete(max_tokens=8).usage.completion_tokens, 8)
        replicas = self.endpoint.replicas()
        self.assertEqual(len(replicas), 2)
        self.endpoint.stop()
        self.endpoint = None
        for process in replicas:
            self.assertFalse(os.path.exists(f"/proc/{process}"))


class ChatModelTest(RouterCase):
    """A model in one file, with a vocabulary of bytes and a chat template."""

    def test_it_is_talked_to(self):
        daemon = Daemon(OPTIONS.binary, OPTIONS.gguf, None, ["--threads", "1", "--model-name", "chat"])
        self.daemons.append(daemon)
        source = (ROOT / "server/daemon.cc").read_text(encoding="utf-8")
        self.assertIn("<|im_start|>", self.check_tokenizer(daemon, PROMPTS[:-1] + [source])["chat_template"])
        self.endpoint = Endpoint("--workers", f"grpc://{daemon.address}")
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Name a colour."}]
        request = pb.GenerateRequest(conversation=pb.Conversation(messages=[pb.Message(**said) for said in messages]))
        request.stopping.max_tokens = 12
        request.sampling.temperature = 0
        wanted = daemon.generation.GenerateOnce(request)
        answer = self.endpoint.client.chat.completions.create(model="chat", messages=messages, temperature=0, max_tokens=12)
        self.assertEqual(answer.usage.prompt_tokens, wanted.completion.usage.prompt_tokens)
        self.assertEqual(answer.choices[0].message.content, wanted.text)


def main():
    global OPTIONS, pb
    parser = argparse.ArgumentParser()
    for name in ("binary", "models"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--gguf", help="a small model with a chat template: then with that alone")
    OPTIONS, rest = parser.parse_known_args()
    OPTIONS.binary = str(pathlib.Path(OPTIONS.binary).resolve())
    with tempfile.TemporaryDirectory() as folder:
        pb = make_stubs(folder)
        unittest.main(argv=[sys.argv[0], *(rest or ["ChatModelTest" if OPTIONS.gguf else "RouterTest"])])


if __name__ == "__main__":
    main()
