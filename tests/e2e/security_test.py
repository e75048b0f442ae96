#!/usr/bin/env python3
"""Who may connect, who may call, and how much of it: TLS, certificates of clients, tokens, their change while the daemon runs,
and that nothing of a prompt or a token is told.

    security_test.py --binary PROGRAM --mambactl PROGRAM --model MODEL

"""

import argparse
import json
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import unittest

import grpc
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import certificates
import daemon_process

OPTIONS = pb = None  # set by main: the arguments, the generated messages
SECONDS = 60  # that anything may take on a machine that does much else
LONG = 1900  # tokens
MARKER = "Xylophagous-quokka-4711"  # what must not be told


def make_request(max_tokens=3, **fields):
    request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1, 2, 3]), **fields)
    request.stopping.max_tokens = max_tokens
    return request


def make_long_request():
    """Of an answer that is larger than what may lie unread: it goes on for as long as its reader wants."""
    request = make_request(LONG)
    request.output.logprobs = 20
    return request


def bearer(token):
    return (("authorization", f"Bearer {token}"),)


def wait_until(condition, what):
    end = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {SECONDS} s: {what}")
        time.sleep(0.05)


class SecurityCase(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.own_folder = tempfile.TemporaryDirectory()
        cls.folder = pathlib.Path(cls.own_folder.name)
        cls.authority = certificates.Authority(cls.folder, "authority")
        cls.stranger = certificates.Authority(cls.folder, "stranger")
        cls.certificate, cls.key = cls.authority.issue("first")

    @classmethod
    def tearDownClass(cls):
        cls.own_folder.cleanup()

    def start(self, *extra, config=""):
        """A daemon that is gone after the test."""
        if config:
            path = pathlib.Path(tempfile.mkstemp(dir=self.folder, suffix=".yaml")[1])
            path.write_text(config)
            extra = ("--config", str(path), *extra)
        daemon = daemon_process.Daemon(OPTIONS.binary, OPTIONS.model, None, tuple(map(str, extra)))
        self.addCleanup(daemon.kill)
        return daemon

    def tls(self, certificate=None, key=None):
        return "--tls-certificate", certificate or self.certificate, "--tls-key", key or self.key

    def copies(self):
        """The server's certificate and key under names that a test may write to."""
        folder = pathlib.Path(tempfile.mkdtemp(dir=self.folder))
        self.replace(folder / "cert.pem", self.certificate)
        self.replace(folder / "key.pem", self.key)
        return folder / "cert.pem", folder / "key.pem"

    def replace(self, path, source):
        """As those who renew certificates do: another file in the old one's place."""
        beside = path.with_suffix(".new")
        beside.write_bytes(pathlib.Path(source).read_bytes())
        beside.rename(path)

    def channel(self, daemon, authority=None, certificate=None, key=None):
        def read(path):
            return pathlib.Path(path).read_bytes() if path else None

        credentials = grpc.ssl_channel_credentials(read((authority or self.authority).certificate), read(key),
                                                   read(certificate))
        channel = grpc.secure_channel(daemon.address, credentials, options=[("grpc.use_local_subchannel_pool", 1)])
        self.addCleanup(channel.close)
        return channel

    def stub(self, daemon, **arguments):
        return daemon_process.stubs.GenerationStub(self.channel(daemon, **arguments))

    def assert_code(self, code, call, *arguments, **options):
        """What the failed call says."""
        with self.assertRaises(grpc.RpcError) as failed:
            answer = call(*arguments, timeout=SECONDS, **options)
            for _ in answer if hasattr(answer, "__next__") else ():
                pass
        self.assertEqual(failed.exception.code(), code, failed.exception.details())
        return failed.exception

    def assert_no_connection(self, stub):
        self.assert_code(grpc.StatusCode.UNAVAILABLE, stub.GenerateOnce, make_request())

    def assert_serves(self, stub, **options):
        answer = stub.GenerateOnce(make_request(), timeout=SECONDS, **options)
        self.assertEqual(answer.completion.usage.completion_tokens, 3)

    def client(self, daemon, *arguments, code=0, token=None):
        """What mambactl printed, to standard output or, when it failed, to standard error."""
        surroundings = {name: value for name, value in os.environ.items() if name != "MAMBAD_TOKEN"}
        if token:
            surroundings["MAMBAD_TOKEN"] = token
        ended = subprocess.run([OPTIONS.mambactl, *(("--address", daemon.address) if daemon else ()),
                                *map(str, arguments)], capture_output=True, text=True, timeout=SECONDS, env=surroundings)
        self.assertEqual(ended.returncode, code, ended.stderr)
        return ended.stdout if code == 0 else ended.stderr

    def served_subject(self, daemon):
        """Whose certificate the daemon shows now."""
        host, port = daemon.address.rsplit(":", 1)
        return certificates.subject(ssl.get_server_certificate((host, int(port)), timeout=SECONDS))

    def log(self, daemon):
        return "".join(daemon.errors)


class TlsTest(SecurityCase):
    def test_calls_go_over_tls_and_nothing_else(self):
        daemon = self.start(*self.tls())
        self.assert_serves(self.stub(daemon))
        self.assert_no_connection(self.stub(daemon, authority=self.stranger))
        self.assert_no_connection(daemon.generation)  # in plain text
        self.assertIn("fake", self.client(daemon, "--ca", self.authority.certificate, "info"))
        self.assertIn("wants TLS: add --tls", self.client(daemon, "info", code=1))
        self.assertRegex(self.client(daemon, "--ca", self.stranger.certificate, "info", code=1),
                         "the certificate of .* is not trusted: ")
        self.assertEqual(daemon.stop(), 0)
        self.assertIn("security: TLS; callers are not asked who they are", self.log(daemon))
        self.assertIn("TLS: certificate of CN=first until 2050-01-01", self.log(daemon))

    def test_versions_of_tls_that_are_broken_are_refused(self):
        daemon = self.start(*self.tls())
        host, port = daemon.address.rsplit(":", 1)
        for version, good in ((ssl.TLSVersion.TLSv1, False), (ssl.TLSVersion.TLSv1_1, False),
                              (ssl.TLSVersion.TLSv1_2, True), (ssl.TLSVersion.TLSv1_3, True)):
            context = ssl.create_default_context(cafile=self.authority.certificate)
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.set_alpn_protocols(["h2"])
            context.minimum_version = context.maximum_version = version
            with socket.create_connection((host, int(port)), timeout=SECONDS) as plain:
                if good:
                    with context.wrap_socket(plain, server_hostname="localhost") as connection:
                        self.assertEqual(connection.selected_alpn_protocol(), "h2")
                else:
                    with self.assertRaises(OSError):
                        context.wrap_socket(plain, server_hostname="localhost")

    def test_a_client_without_tls_is_told_what_a_server_without_it_is(self):
        daemon = self.start()
        words = self.client(daemon, "--ca", self.authority.certificate, "info", code=1)
        self.assertIn("does not speak TLS", words)

    def test_clients_must_show_certificates_where_an_authority_is_named(self):
        daemon = self.start(*self.tls(), "--tls-client-ca", self.authority.certificate)
        good = self.authority.issue("client-one")
        self.assert_serves(self.stub(daemon, certificate=good[0], key=good[1]))
        self.assert_no_connection(self.stub(daemon))
        for wrong in (self.stranger.issue("client-two"),
                      self.authority.issue("client-three", "20200101000000Z", "20210101000000Z")):
            self.assert_no_connection(self.stub(daemon, certificate=wrong[0], key=wrong[1]))
        flags = ("--ca", self.authority.certificate)
        self.assertIn("fake", self.client(daemon, *flags, "--cert", good[0], "--key", good[1], "info"))
        self.assertIn("--cert FILE --key FILE", self.client(daemon, *flags, "info", code=1))
        self.assert_code(grpc.StatusCode.INVALID_ARGUMENT, self.stub(daemon, certificate=good[0], key=good[1]).GenerateOnce,
                         make_request(max_tokens=-1))
        self.assertEqual(daemon.stop(), 0)
        self.assertIn('principal="certificate:client-one"', self.log(daemon))
        self.assertIn("callers must show a certificate", self.log(daemon))

    def test_a_new_certificate_is_used_and_streams_go_on(self):
        certificate, key = self.copies()
        daemon = self.start(*self.tls(certificate, key))
        self.assertEqual(self.served_subject(daemon), "first")
        stream = self.stub(daemon).Generate(make_long_request(), timeout=SECONDS)
        tokens = len(next(stream).token_ids)
        second = self.authority.issue("second")
        self.replace(certificate, second[0])
        self.replace(key, second[1])
        daemon.process.send_signal(signal.SIGHUP)
        wait_until(lambda: self.served_subject(daemon) == "second", "the new certificate")
        self.assertTrue(stream.is_active())
        tokens += sum(len(message.token_ids) for message in stream)
        self.assertEqual((stream.code(), tokens), (grpc.StatusCode.OK, LONG))
        # And without being told.
        third = self.authority.issue("third")
        self.replace(certificate, third[0])
        self.replace(key, third[1])
        wait_until(lambda: self.served_subject(daemon) == "third", "the new certificate, by itself")
        self.assert_serves(self.stub(daemon))
        self.assertNotIn("not reloaded", self.log(daemon))

    def test_a_broken_new_certificate_leaves_the_old_one(self):
        certificate, key = self.copies()
        daemon = self.start(*self.tls(certificate, key))
        other = self.authority.issue("other")
        expired = self.authority.issue("expired", "20200101000000Z", "20210101000000Z")
        rubbish = self.folder / "rubbish"
        rubbish.write_text("rubbish")
        for source, words in ((other[0], "does not belong to the certificate"), (rubbish, "no certificate in it"),
                              (expired[0], "has expired")):
            self.replace(certificate, source)
            daemon.process.send_signal(signal.SIGHUP)
            wait_until(lambda: any("not reloaded: tls." in line and words in line for line in daemon.errors), words)
            self.assertEqual(self.served_subject(daemon), "first")
            self.assert_serves(self.stub(daemon))
        certificate.unlink()
        wait_until(lambda: any("cannot be read" in line for line in daemon.errors), "that the file is gone")
        self.assert_serves(self.stub(daemon))
        self.assertRegex(daemon.metrics(), r'mambad_credential_reloads_total\{result="refused"\} [4-9]')
        self.replace(certificate, other[0])
        self.replace(key, other[1])
        wait_until(lambda: self.served_subject(daemon) == "other", "the good one after them")

    def test_checking_the_configuration_names_file_and_fault(self):
        garbage, empty = self.folder / "garbage.pem", self.folder / "empty.pem"
        garbage.write_text("-----BEGIN CERTIFICATE-----\nbm90IGEgY2VydGlmaWNhdGU=\n-----END CERTIFICATE-----\n")
        empty.write_text("")
        other = self.authority.issue("another")
        expired = self.authority.issue("old", "20200101000000Z", "20210101000000Z")
        early = self.authority.issue("early", "20400101000000Z", "20500101000000Z")
        weak = self.authority.issue("weak", key=("rsa:1024",))
        locked = certificates.encrypted(self.key, self.folder / "locked.key")
        tokens = self.folder / "bad_tokens"
        tokens.write_text(f"# tokens\n{MARKER}\n")
        good = dict(zip(("--tls-certificate", "--tls-key"), (self.certificate, self.key)))
        for flags, words in (
                ({"--tls-certificate": self.folder / "none"}, "tls.certificate: {}: cannot be read: No such file"),
                ({"--tls-certificate": self.folder}, "tls.certificate: {}: is not a file"),
                ({"--tls-certificate": empty}, "tls.certificate: {}: no certificate in it"),
                ({"--tls-certificate": garbage}, "tls.certificate: {}: certificate 1 in it is broken"),
                ({"--tls-certificate": expired[0], "--tls-key": expired[1]},
                 "tls.certificate: {}: the certificate of CN=old has expired on 2021-01-01 00:00:00 UTC"),
                ({"--tls-certificate": early[0], "--tls-key": early[1]}, "tls.certificate: {}: the certificate of CN=early is not valid before"),
                ({"--tls-certificate": weak[0], "--tls-key": weak[1]}, "tls.certificate: {}: the certificate cannot be used (ee key too small)"),
                ({"--tls-key": other[1]}, "tls.private_key: {}: the key does not belong to the certificate"),
                ({"--tls-key": locked}, "tls.private_key: {}: the key is encrypted"),
                ({"--tls-key": self.certificate}, "tls.private_key: {}: no private key in it"),
                ({"--tls-client-ca": empty}, "tls.client_ca: {}: no certificate in it"),
                ({"--tls-client-ca": expired[0]}, "tls.client_ca: {}: the certificate of CN=old has expired"),
                ({"--token-file": self.folder / "none"}, "auth.token_file: {}: cannot be read"),
                ({"--token-file": tokens}, "auth.token_file: {}:2: expected ID PRINCIPAL")):
            ended = self.check({**good, **flags})
            self.assertEqual(ended.returncode, 2, words)
            self.assertIn(words.format(next(iter(flags.values()))), ended.stderr)
            self.assertEqual(ended.stderr.count("\n"), 1)
            self.assertNotIn(MARKER, ended.stderr)
        self.assertEqual(self.check(good).returncode, 0)
        for flag, words in (("--tls-certificate", "tls.private_key: not given"), ("--tls-key", "tls.certificate: not given"),
                            ("--tls-client-ca", "tls.certificate: not given")):
            self.assertIn(words, self.check({flag: self.certificate}).stderr)

    def check(self, flags, *more):
        return subprocess.run([OPTIONS.binary, "--check-config", "--model", OPTIONS.model, *more,
                               *(str(word) for pair in flags.items() for word in pair)],
                              capture_output=True, text=True, timeout=SECONDS)

    def test_what_others_can_reach_wants_tls_and_credentials(self):
        tls = dict(zip(("--tls-certificate", "--tls-key"), (self.certificate, self.key)))
        tokens = self.folder / "tokens"
        self.client(None, "token", "create", "--file", tokens, "--principal", "alice")
        for address in ("0.0.0.0:0", "[::]:0", "127.evil.example:0"):
            where = {"--listen": address}
            for flags, missing in ((where, "TLS (tls.certificate, tls.private_key) and credentials"),
                                   ({**where, **tls}, "expected credentials (auth.token_file or tls.client_ca)"),
                                   ({**where, "--token-file": tokens}, "expected TLS (tls.certificate, tls.private_key), or")):
                ended = self.check(flags)
                self.assertEqual(ended.returncode, 2)
                self.assertIn("can be reached from other machines", ended.stderr)
                self.assertIn(missing, ended.stderr)
                self.assertEqual(self.check(flags, "--allow-insecure").returncode, 0)
            self.assertEqual(self.check({**where, **tls, "--token-file": tokens}).returncode, 0)
            self.assertEqual(self.check({**where, **tls, "--tls-client-ca": self.authority.certificate}).returncode, 0)
        # Said at the start.
        open_one = daemon_process.Daemon(OPTIONS.binary, OPTIONS.model, None, ("--allow-insecure",), listen="0.0.0.0:0")
        self.addCleanup(open_one.kill)
        self.assertEqual(open_one.stop(), 0)
        self.assertIn("can be reached from other machines: no TLS, what passes can be read; no credentials, everyone there "
                      "may call (allow_insecure)", self.log(open_one))
        closed = self.start()
        self.assertEqual(closed.stop(), 0)
        self.assertIn("security: no TLS; callers are not asked who they are", self.log(closed))
        self.assertNotIn("can be reached", self.log(closed))


class TokenTest(SecurityCase):
    def setUp(self):
        self.tokens = pathlib.Path(tempfile.mkdtemp(dir=self.folder)) / "tokens"

    def create(self, principal, *flags):
        """A new token."""
        return self.client(None, "token", "create", "--file", self.tokens, "--principal", principal, *flags).strip()

    def start_with_tokens(self, *extra, **arguments):
        return self.start("--token-file", self.tokens, *extra, **arguments)

    def test_nothing_is_allowed_without_a_token(self):
        token = self.create("alice", "--scopes", "generate,admin")
        expired = self.create("bob", "--days", "0")
        user = self.create("carol")
        daemon = self.start_with_tokens()
        calls = ((daemon.generation.GenerateOnce, make_request()), (daemon.generation.Generate, make_request()),
                 (daemon.generation.Score, pb.ScoreRequest(token_ids=pb.TokenIds(ids=[1, 2]))),
                 (daemon.generation.Tokenize, pb.TokenizeRequest(text="a")),
                 (daemon.generation.Detokenize, pb.DetokenizeRequest(token_ids=[1])),
                 (daemon.generation.GetModelInfo, pb.GetModelInfoRequest()),
                 (daemon.generation.GetLoad, pb.GetLoadRequest()))
        reflection = reflection_pb2_grpc.ServerReflectionStub(daemon.channel).ServerReflectionInfo
        unknown = daemon.channel.unary_unary("/no.such.Service/Call", request_serializer=bytes, response_deserializer=bytes)
        ask = reflection_pb2.ServerReflectionRequest(list_services="")
        wrong = token[:-1] + ("0" if token[-1] != "0" else "1")
        for metadata in ((), bearer(wrong), bearer(expired), bearer(""), bearer(token) + bearer(token),
                         (("authorization", token),), (("authorization", f"Basic {token}"),)):
            for call, request in (*calls, (unknown, b"")):
                failed = self.assert_code(grpc.StatusCode.UNAUTHENTICATED, call, request, metadata=metadata)
                self.assertNotIn(token[-20:], failed.details())
            self.assert_code(grpc.StatusCode.UNAUTHENTICATED, reflection, iter([ask]), metadata=metadata)
        for call, request in calls:
            answer = call(request, timeout=SECONDS, metadata=bearer(token))
            for _ in answer if hasattr(answer, "__next__") else ():
                pass
        self.assertTrue(list(reflection(iter([ask]), timeout=SECONDS, metadata=bearer(token))))
        # What the scopes do not reach.
        for call, request in ((daemon.generation.GetLoad, pb.GetLoadRequest()), (unknown, b"")):
            self.assert_code(grpc.StatusCode.PERMISSION_DENIED, call, request, metadata=bearer(user))
        self.assert_code(grpc.StatusCode.PERMISSION_DENIED, reflection, iter([ask]), metadata=bearer(user))
        health = health_pb2_grpc.HealthStub(daemon.channel)
        self.assertEqual(health.Check(health_pb2.HealthCheckRequest(), timeout=SECONDS).status, 1)
        metrics = daemon.metrics()
        self.assertIn('mambad_calls_refused_total{reason="unauthenticated"}', metrics)
        self.assertIn('mambad_calls_refused_total{reason="permission_denied"} 3', metrics)
        self.assertNotIn("alice", metrics)

    def test_the_client_shows_its_token(self):
        token = self.create("alice", "--scopes", "generate")
        daemon = self.start_with_tokens(*self.tls())
        file = self.folder / "my_token"
        file.write_text(token + "\n")
        ca = ("--ca", self.authority.certificate)
        self.assertIn("fake", self.client(daemon, *ca, "--token-file", file, "info"))
        self.assertIn("fake", self.client(daemon, *ca, "info", token=token))
        self.assertIn("wants a token: --token-file FILE", self.client(daemon, *ca, "info", code=1))
        self.assertIn("has the scopes generate; this call wants admin", self.client(daemon, *ca, "load", code=1, token=token))
        self.assertIn("SERVING", self.client(daemon, *ca, "health"))
        words = self.client(daemon, *ca, "--token-file", self.key, "info", code=2)
        self.assertIn("not a token of mambad", words)
        self.assertNotIn("PRIVATE", words)
        # Not where others can read it.
        words = self.client(None, "--address", "192.0.2.1:1", "info", code=2, token=token)
        self.assertIn("would cross the network", words)

    def test_the_file_holds_no_token_and_is_private(self):
        token = self.create("alice", "--days", "1", "--max-calls", "2", "--tokens-per-minute", "1000")
        other = json.loads(self.client(None, "--json", "token", "create", "--file", self.tokens, "--principal", "bob"))
        text = self.tokens.read_text()
        self.assertEqual(self.tokens.stat().st_mode & 0o777, 0o600)
        self.assertNotIn(token.rpartition("_")[2], text)
        self.assertNotIn(other["token"].rpartition("_")[2], text)
        listed = self.client(None, "token", "list", "--file", self.tokens)
        self.assertRegex(listed, r"(?m)^\w{16}  alice  generate  expires 20\S+  max_calls 2  tokens_per_minute 1000$")
        self.client(None, "token", "revoke", other["id"], "--file", self.tokens)
        self.assertNotIn("bob", self.tokens.read_text())
        self.assertIn("alice", self.tokens.read_text())
        self.assertEqual(self.tokens.stat().st_mode & 0o777, 0o600)
        self.assertIn("no token of this id", self.client(None, "token", "revoke", other["id"], "--file", self.tokens, code=2))
        self.assertIn("--principal", self.client(None, "token", "create", "--file", self.tokens, "--principal", "a b", code=2))

    def test_a_revoked_token_ends_its_stream_and_no_other(self):
        alice, bob = self.create("alice"), self.create("bob")
        daemon = self.start_with_tokens(config="batching:\n  max_sequences: 2\n")
        stub = daemon.generation
        of_alice = stub.Generate(make_long_request(), timeout=SECONDS, metadata=bearer(alice))
        of_bob = stub.Generate(make_long_request(), timeout=SECONDS, metadata=bearer(bob))
        next(of_alice), next(of_bob)
        once = stub.GenerateOnce.future(make_request(LONG), timeout=SECONDS, metadata=bearer(alice))  # waits for its turn
        self.client(None, "token", "revoke", alice.split("_")[1], "--file", self.tokens)
        daemon.process.send_signal(signal.SIGHUP)
        with self.assertRaises(grpc.RpcError) as failed:
            for _ in of_alice:
                pass
        for error in (failed.exception, once.exception()):
            self.assertEqual(error.code(), grpc.StatusCode.UNAUTHENTICATED)
            self.assertIn("was revoked", error.details())
        for _ in of_bob:
            pass
        self.assertEqual(of_bob.code(), grpc.StatusCode.OK)
        self.assert_code(grpc.StatusCode.UNAUTHENTICATED, stub.GenerateOnce, make_request(), metadata=bearer(alice))
        # A new one counts without being told.
        carol = self.create("carol", "--scopes", "generate,admin")
        wait_until(lambda: self.is_allowed(stub, carol), "the new token")
        # A broken file changes nothing, but for a line in the log.
        with self.tokens.open("a") as file:
            file.write(f"{MARKER}\n")
        wait_until(lambda: any("not reloaded: auth.token_file" in line for line in daemon.errors), "the broken file")
        self.assert_serves(stub, metadata=bearer(carol))
        load = stub.GetLoad(pb.GetLoadRequest(), metadata=bearer(carol))
        self.assertEqual((load.running, load.waiting, load.slots_used), (0, 0, 0))
        self.assertEqual(daemon.stop(), 0)
        self.assertIn('principal="bob"', self.log(daemon))
        self.assertNotIn(MARKER, self.log(daemon))

    def is_allowed(self, stub, token):
        try:
            stub.GetModelInfo(pb.GetModelInfoRequest(), timeout=SECONDS, metadata=bearer(token))
        except grpc.RpcError as error:
            self.assertEqual(error.code(), grpc.StatusCode.UNAUTHENTICATED)
            return False
        return True

    def test_a_token_that_expires_ends_its_stream(self):
        token = self.create("alice", "--days", str(10 / 86400))
        expires = time.time() + 10
        daemon = self.start_with_tokens(config="batching:\n  max_sequences: 1\n")
        stream = daemon.generation.Generate(make_long_request(), timeout=SECONDS, metadata=bearer(token))
        next(stream)
        # It waits for the stream's slot, unless the connection has taken the whole answer in; then another one does.
        error = None
        while error is None:
            waits = daemon.generation.GenerateOnce.future(make_request(LONG), timeout=SECONDS, metadata=bearer(token))
            error = waits.exception()
        self.assertIn("has expired", error.details())
        self.assertGreater(time.time(), expires - 1.5)  # whole seconds are kept
        self.assertEqual(waits.code(), grpc.StatusCode.UNAUTHENTICATED)
        try:
            for _ in stream:
                pass
        except grpc.RpcError:
            self.assertEqual(stream.code(), grpc.StatusCode.UNAUTHENTICATED)

    def test_a_principal_has_its_own_limits(self):
        alice = self.create("alice", "--max-calls", "2")
        bob = self.create("bob", "--tokens-per-minute", "600")
        daemon = self.start_with_tokens()
        stub = daemon.generation
        streams = [stub.Generate(make_long_request(), timeout=SECONDS, metadata=bearer(alice)) for _ in range(2)]
        for stream in streams:
            next(stream)
        failed = self.assert_code(grpc.StatusCode.RESOURCE_EXHAUSTED, stub.GenerateOnce, make_request(), metadata=bearer(alice))
        self.assertIn("2 calls of alice are running, at most 2", failed.details())
        self.assertIn(error_details_pb2.RetryInfo, daemon_process.details_of(failed))
        for stream in streams:
            stream.cancel()
        wait_until(lambda: self.is_served(stub, alice), "room after the streams")
        self.assert_serves(stub, metadata=bearer(bob))
        self.assertEqual(stub.GenerateOnce(make_request(630), timeout=SECONDS, metadata=bearer(bob))
                         .completion.usage.completion_tokens, 630)
        failed = self.assert_code(grpc.StatusCode.RESOURCE_EXHAUSTED, stub.GenerateOnce, make_request(), metadata=bearer(bob))
        self.assertIn("bob has used its 600 tokens a minute", failed.details())
        delay = daemon_process.details_of(failed)[error_details_pb2.RetryInfo].retry_delay
        seconds = delay.seconds + delay.nanos * 1e-9
        self.assertTrue(0.1 < seconds < 60, seconds)
        time.sleep(seconds)
        self.assert_serves(stub, metadata=bearer(bob))

    def is_served(self, stub, token):
        try:
            self.assert_serves(stub, metadata=bearer(token))
        except grpc.RpcError as error:
            self.assertEqual(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            return False
        return True


class LimitsTest(SecurityCase):
    def test_calls_are_bounded_over_all_connections(self):
        daemon = self.start(config="network:\n  max_calls: 2\n")
        stubs = []
        for _ in range(3):
            channel = grpc.insecure_channel(daemon.address, options=[("grpc.use_local_subchannel_pool", 1)])
            self.addCleanup(channel.close)
            stubs.append(daemon_process.stubs.GenerationStub(channel))
        streams = [stub.Generate(make_long_request(), timeout=SECONDS) for stub in stubs[:2]]
        for stream in streams:
            next(stream)
        failed = self.assert_code(grpc.StatusCode.RESOURCE_EXHAUSTED, stubs[2].GenerateOnce, make_request())
        self.assertIn("3 calls are open, at most 2", failed.details())
        self.assertIn(error_details_pb2.RetryInfo, daemon_process.details_of(failed))
        for stream in streams:
            self.assertEqual(sum(len(message.token_ids) for message in stream) > 0, True)
        wait_until(lambda: not self.is_full(stubs[2]), "room after the streams")

    def is_full(self, stub):
        try:
            self.assert_serves(stub)
        except grpc.RpcError as error:
            self.assertEqual(error.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
            return True
        return False

    def test_nothing_of_a_prompt_or_a_token_is_told(self):
        tokens = self.folder / "tokens_of_the_silent"
        token = self.client(None, "token", "create", "--file", tokens, "--principal", "alice").strip()
        secret = token.rpartition("_")[2]
        for form in ("plain", "json"):
            daemon = self.start("--token-file", tokens, config=f"log:\n  format: {form}\n  level: debug\n")
            self.fail_in_many_ways(daemon, token)
            told = daemon.metrics()
            self.assertEqual(daemon.stop(), 0)
            told += self.log(daemon)
            self.assertIn("INVALID_ARGUMENT", told)  # the calls did fail, and were told of
            for word in (MARKER, MARKER.lower(), secret, secret[:24], secret[-24:]):
                self.assertNotIn(word, told)

    def fail_in_many_ways(self, daemon, token):
        stub, known = daemon.generation, bearer(token)
        conversation = pb.Conversation(messages=[pb.Message(role=MARKER, content=MARKER)])
        requests = [pb.GenerateRequest(text=MARKER), pb.GenerateRequest(conversation=conversation),
                    pb.GenerateRequest(text=MARKER, session_id=MARKER), pb.GenerateRequest(text=MARKER * 100000),
                    pb.GenerateRequest(text=MARKER, request_id=f"{MARKER}\n{MARKER}"),
                    pb.GenerateRequest(text=MARKER, request_id="r" * 1000 + MARKER)]
        for fields in ({"max_tokens": -1}, {"stop_strings": [MARKER] * 100}, {"stop_strings": [MARKER * 100]},
                       {"stop_strings": [""], "max_tokens": 1}, {"max_tokens": 3, "stop_strings": [MARKER]}):
            requests.append(pb.GenerateRequest(text=MARKER, stopping=pb.Stopping(**fields)))
        for fields in ({"temperature": -1}, {"top_p": 7}, {"logit_bias": {-5: 1.0}}):
            requests.append(pb.GenerateRequest(text=MARKER, sampling=pb.Sampling(**fields)))
        wrong = [(), bearer(MARKER), bearer(token[:-1] + "x"), (("authorization", MARKER),), bearer(token) * 2,
                 (("authorization", f"Basic {token}"),)]
        large = ((MARKER.lower(), MARKER * 1000),)
        for request in requests:
            for metadata in (known, known + large, *wrong):
                for timeout in (SECONDS, 0.002):
                    for call in (stub.GenerateOnce, stub.Generate):
                        self.try_call(call, request, metadata, timeout)
        for metadata in (known, *wrong):
            self.try_call(stub.Tokenize, pb.TokenizeRequest(text=MARKER * 1000000), metadata)
            self.try_call(stub.Score, pb.ScoreRequest(text=MARKER), metadata)
            for path in (f"/{MARKER}/{MARKER}", "/mambad.v1.Generation/" + MARKER, "/mambad.v1.Generation/Generate",
                         "/grpc.health.v1.Health/Check"):
                call = daemon.channel.unary_unary(path, request_serializer=bytes, response_deserializer=bytes)
                self.try_call(call, MARKER.encode(), metadata)

    def try_call(self, call, request, metadata, timeout=SECONDS):
        try:
            answer = call(request, timeout=timeout, metadata=metadata)
            for _ in answer if hasattr(answer, "__next__") else ():
                pass
        except grpc.RpcError:
            pass


def main():
    global OPTIONS, pb
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--mambactl", required=True)
    parser.add_argument("--model", required=True)
    OPTIONS, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        pb = daemon_process.make_stubs(folder)
        unittest.main(argv=[sys.argv[0], *rest], verbosity=2)


if __name__ == "__main__":
    main()
