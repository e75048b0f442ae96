#!/usr/bin/env python3
"""What clients, operators and surroundings do to a daemon that must not take it down: descriptors, logs, signals, floods.

    robustness_test.py --binary build/bin/mambad --model MODEL [--draft MODEL] [--shadow-memory]

Times that are promised (a drain without calls: half a second) are checked with much room, because machines are busy; what
failed before hung for good, or for whole timeouts of a minute and more.
"""

import argparse
import gzip
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import urllib.error
import urllib.request
import zlib

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

import daemon_process
import http2_client

OPTIONS = pb = None  # set by main: the arguments, the generated messages
LONG_DRAIN = "drain_timeout: 10m\n"


def make_request(max_tokens=3, **fields):
    request = pb.GenerateRequest(token_ids=pb.TokenIds(ids=[1, 2, 3]), **fields)
    request.stopping.max_tokens = max_tokens
    return request


class RobustnessTest(unittest.TestCase):
    def start(self, config="", **arguments):
        """A daemon that is gone after the test."""
        extra = []
        if config:
            file = tempfile.NamedTemporaryFile("w", suffix=".yaml")
            self.addCleanup(file.close)
            file.write(config)
            file.flush()
            extra = ["--config", file.name]
        daemon = daemon_process.Daemon(OPTIONS.binary, OPTIONS.model, OPTIONS.draft, extra, **arguments)
        self.addCleanup(daemon.kill)
        return daemon

    def new_stub(self, daemon):
        channel = grpc.insecure_channel(daemon.address, options=[("grpc.use_local_subchannel_pool", 1)])
        self.addCleanup(channel.close)
        return daemon_process.stubs.GenerationStub(channel)

    def assert_serves(self, daemon, stub=None):
        stub = stub or self.new_stub(daemon)
        answer = stub.GenerateOnce(make_request(), timeout=60, wait_for_ready=True)
        self.assertEqual(answer.completion.usage.completion_tokens, 3)

    def connect(self, address):
        host, port = address.rsplit(":", 1)
        connection = socket.create_connection((host, int(port)), timeout=20)
        self.addCleanup(connection.close)
        return connection

    def fetch(self, daemon, path, timeout=20):
        """Code and text."""
        try:
            with urllib.request.urlopen(f"http://{daemon.metrics_address}{path}", timeout=timeout) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, daemon, name):
        for line in self.fetch(daemon, "/metrics")[1].splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
        self.fail(f"no metric {name}")

    # ---- connections -------------------------------------------------------------------------------------------------

    def test_more_connections_than_descriptors(self):
        daemon = self.start(prepare=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256)))
        self.assert_serves(daemon, daemon.generation)
        idle = [self.connect(daemon.address) for _ in range(500)]
        self.assert_serves(daemon, daemon.generation)
        self.assertLess(self.metric(daemon, "process_open_fds"), 256)
        refused = 'mambad_connections_refused_total{reason="connections_of_peer"}'
        end = time.monotonic() + 60  # those that the system has taken reach the daemon one after another
        while self.metric(daemon, refused) == 0 and time.monotonic() < end:
            time.sleep(0.1)
        self.assertGreater(self.metric(daemon, refused), 0)
        for connection in idle:
            connection.close()
        self.assert_serves(daemon)
        self.assertEqual(daemon.stop(), 0)

    def test_the_limit_of_descriptors_is_raised(self):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        hard = 4096 if hard == resource.RLIM_INFINITY else min(hard, 4096)
        daemon = self.start(prepare=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (128, hard)))
        self.assertEqual(self.metric(daemon, "process_max_fds"), hard)

    def test_silent_connections_are_closed(self):
        daemon = self.start("network:\n  handshake_timeout: 1s\n")
        silent = self.connect(daemon.address)
        while silent.recv(4096):  # the server's settings; an error would be a time-out
            pass
        self.assert_serves(daemon)

    def test_a_daemon_that_cannot_accept_any_more_ends_with_a_reason(self):
        if b"__ubsan_handle" in pathlib.Path(OPTIONS.binary).read_bytes():
            self.skipTest("UndefinedBehaviorSanitizer takes descriptors itself to look whether memory is readable")
        daemon = self.start()
        # Fewer than are open: as if something else in the process had taken them all.
        resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE, (8, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
        end = time.monotonic() + 120  # it is patient for 30 s
        while daemon.process.poll() is None and time.monotonic() < end:
            try:
                self.connect(daemon.address)
            except OSError:
                pass
            time.sleep(0.5)
        self.assertEqual(daemon.process.wait(timeout=30), 4)
        daemon.error_reader.join()
        self.assertIn("no connection could be accepted for 30s: Too many open files", "".join(daemon.errors))

    # ---- the log -----------------------------------------------------------------------------------------------------

    def test_a_log_that_nobody_reads_holds_up_nothing(self):
        read_end, write_end = os.pipe()
        self.addCleanup(os.close, read_end)
        daemon = self.start(stderr=write_end)
        os.close(write_end)
        bad = make_request(max_tokens=-1)
        for start in range(0, 20000, 500):  # some 5 MB of lines
            for call in [daemon.generation.GenerateOnce.future(bad, timeout=60) for _ in range(500)]:
                self.assertEqual(call.code(), grpc.StatusCode.INVALID_ARGUMENT, call.details())
            if self.metric(daemon, "mambad_log_dropped_lines_total") > 0:
                break
        self.assertGreater(self.metric(daemon, "mambad_log_dropped_lines_total"), 0)
        self.assert_serves(daemon)
        start = time.monotonic()
        self.assertEqual(daemon.stop(), 0)
        self.assertLess(time.monotonic() - start, 30)

    def test_every_line_of_a_json_log_is_json(self):
        daemon = self.start("log:\n  format: json\n  level: debug\n")
        raw = daemon.channel.unary_unary("/mambad.v1.Generation/GenerateOnce")
        for message in (b"\x0a\x02\xff\xfe", b"\xff\xff\xff", b"\x0a\x05a"):  # a text that is no UTF-8; no messages
            with self.assertRaises(grpc.RpcError):
                raw(message, timeout=20)
        with self.assertRaises(grpc.RpcError):
            daemon.generation.GenerateOnce(make_request(max_tokens=-1, request_id="order-7"), timeout=20)
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", http2_client.PREFACE + b"\xff" * 100):
            connection = self.connect(daemon.address)
            connection.sendall(garbage)
            connection.shutdown(socket.SHUT_WR)
            try:
                while connection.recv(4096):
                    pass
            except ConnectionError:
                pass
        daemon.process.send_signal(signal.SIGHUP)
        self.assert_serves(daemon)
        self.assertEqual(daemon.stop(), 0)
        lines = [json.loads(line) for line in daemon.errors]
        for line in lines:
            self.assertIn("time", line)
            self.assertIn(line["level"], ("debug", "info", "warning", "error"))
        refused = [line for line in lines if line.get("request_id") == "order-7"]
        self.assertEqual([line["code"] for line in refused], ["INVALID_ARGUMENT"])
        self.assertEqual(refused[0]["field"], "stopping.max_tokens")
        self.assertIn("-1", refused[0]["reason"])
        self.assertTrue(refused[0]["peer"].startswith("ipv4:127.0.0.1:"))
        self.assertTrue(any("SIGHUP" in line.get("message", "") for line in lines))

    def test_errors_of_the_start_are_json_too(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
            config.write("log:\n  format: json\n")
            config.flush()
            ended = subprocess.run(
                [OPTIONS.binary, "--config", config.name, "--model", "/no/such/model", "--listen", "192.0.2.1:0", "--allow-insecure"],
                capture_output=True, text=True, timeout=60)
        self.assertEqual(ended.returncode, 2)
        line = json.loads(ended.stderr)
        self.assertIn("listen: cannot listen on 192.0.2.1:0: Cannot assign requested address", line["message"])
        self.assertIn("model: /no/such/model: No such file or directory", line["message"])

    def test_a_refused_setting_of_a_json_log_is_json_too(self):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as config:
            config.write("log:\n  format: json\n")
            config.flush()
            ended = subprocess.run([OPTIONS.binary, "--config", config.name, "--model", "/no/such/model", "--tls-key", "key.pem"],
                                   capture_output=True, text=True, timeout=60)
        self.assertEqual(ended.returncode, 2)
        line = json.loads(ended.stderr)
        self.assertEqual(line["level"], "error")
        self.assertIn("tls.", line["message"])

    # ---- ends --------------------------------------------------------------------------------------------------------

    def test_a_drain_waits_for_no_streams_but_ours(self):
        daemon = self.start(LONG_DRAIN)
        watch = health_pb2_grpc.HealthStub(daemon.channel).Watch(health_pb2.HealthCheckRequest())
        self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.SERVING)
        never = threading.Event()
        self.addCleanup(never.set)

        def questions():
            yield reflection_pb2.ServerReflectionRequest(list_services="")
            never.wait()

        answers = reflection_pb2_grpc.ServerReflectionStub(daemon.channel).ServerReflectionInfo(questions())
        self.assertTrue(next(answers).HasField("list_services_response"))
        half_open = http2_client.Connection(daemon.address)  # never answers a ping
        self.addCleanup(half_open.close)
        silent = self.connect(daemon.address)
        start = time.monotonic()
        daemon.process.send_signal(signal.SIGTERM)
        self.assertEqual(next(watch).status, health_pb2.HealthCheckResponse.NOT_SERVING)
        self.assertEqual(daemon.process.wait(timeout=60), 0)
        self.assertLess(time.monotonic() - start, 30)
        silent.close()

    def test_a_drain_lets_calls_finish_and_answers_whoever_asks(self):
        daemon = self.start(LONG_DRAIN)
        request = make_request(max_tokens=200)
        request.stopping.ignore_eos = True
        other = self.new_stub(daemon)
        self.assert_serves(daemon, other)
        calls = [daemon.generation.GenerateOnce.future(request, timeout=120) for _ in range(20)]
        while other.GetLoad(pb.GetLoadRequest(), timeout=60).running == 0 and not calls[0].done():
            time.sleep(0.01)
        daemon.process.send_signal(signal.SIGTERM)
        for call in calls:
            # Those that were accepted are finished; none is lost in between.
            code = call.code()
            self.assertIn(code, (grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE), call.details())
            if code == grpc.StatusCode.OK:
                self.assertEqual(call.result().completion.usage.completion_tokens, 200)
        self.assertIn(grpc.StatusCode.OK, [call.code() for call in calls])
        self.assertEqual(daemon.process.wait(timeout=60), 0)

    def test_a_second_signal_ends_at_once(self):
        daemon = self.start(LONG_DRAIN + "stream:\n  stall_timeout: 10m\n  max_pending_bytes: 1\n")
        # A reader that never reads holds the drain.
        reader = http2_client.Connection(daemon.address)
        self.addCleanup(reader.close)
        reader.send(http2_client.frame(http2_client.SETTINGS, 0, 0, b"\0\4\0\0\0\0"))  # first window 0
        request = make_request(max_tokens=100)
        request.stopping.ignore_eos = True
        body = request.SerializeToString()
        reader.open_stream(1, http2_client.call_headers("Generate"))
        reader.send(http2_client.frame(http2_client.DATA, http2_client.END_STREAM, 1,
                                       b"\0" + len(body).to_bytes(4, "big") + body))
        while self.metric(daemon, "mambad_requests_running") == 0:
            time.sleep(0.01)
        # As a terminal and a program between send it: once for us.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            daemon.process.send_signal(number)
        while self.fetch(daemon, "/healthz") != (503, "draining\n"):
            time.sleep(0.01)
        time.sleep(1.5)
        self.assertIsNone(daemon.process.poll())
        daemon.process.send_signal(signal.SIGINT)
        self.assertEqual(daemon.process.wait(timeout=30), 3)

    def test_hang_up_is_no_end(self):
        daemon = self.start()
        for _ in range(3):
            daemon.process.send_signal(signal.SIGHUP)
        self.assert_serves(daemon)
        self.assertEqual(daemon.stop(), 0)

    # ---- the metrics port --------------------------------------------------------------------------------------------

    def test_silent_peers_do_not_delay_a_scrape(self):
        daemon = self.start()
        held = [self.connect(daemon.metrics_address) for _ in range(200)]
        for connection in held[::2]:
            try:
                connection.sendall(b"GET /metrics HTTP/1.1\r\nHost:")
            except OSError:
                pass  # closed for want of room
        for _ in range(5):
            self.assertEqual(self.fetch(daemon, "/metrics", timeout=5)[0], 200)
        self.assertEqual(self.fetch(daemon, "/healthz"), (200, "ok\n"))
        self.assertIn("/metrics", self.fetch(daemon, "/")[1])
        self.assertEqual(self.fetch(daemon, "/other")[0], 404)

    def test_metrics_are_what_prometheus_expects(self):
        daemon = self.start()
        self.assert_serves(daemon)
        text = self.fetch(daemon, "/metrics")[1]
        for line in text.splitlines():
            if line and not line.startswith("#"):
                self.assertRegex(line, r"^(mambad|process)_[a-z0-9_]+({.*})? \S+$")
        promtool = shutil.which("promtool")
        if promtool is None:
            self.skipTest("promtool is not installed (Debian package prometheus)")
        checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60)
        self.assertEqual((checked.returncode, checked.stdout + checked.stderr), (0, ""))

    # ---- floods ------------------------------------------------------------------------------------------------------

    def test_far_deadlines_are_none(self):
        daemon = self.start()
        for hours in (2_100_000, 2_562_047, 99_999_999):
            connection = http2_client.Connection(daemon.address)
            self.addCleanup(connection.close)
            body = make_request().SerializeToString()
            connection.open_stream(1, http2_client.call_headers("GenerateOnce", [("grpc-timeout", f"{hours}H")]))
            connection.send(http2_client.frame(http2_client.DATA, http2_client.END_STREAM, 1,
                                               b"\0" + len(body).to_bytes(4, "big") + body))
            connection.read_until_end()
            self.assertEqual(connection.ended, "answered")
        _, text = self.fetch(daemon, "/metrics")
        self.assertIn('mambad_grpc_calls_total{code="OK",method="GenerateOnce"} 3', text)

    def test_messages_without_end_are_cut_off(self):
        daemon = self.start("network:\n  memory_quota_bytes: 33554432\n")
        self.assert_serves(daemon, daemon.generation)
        before = daemon.resident_bytes()
        connection = http2_client.Connection(daemon.address)
        self.addCleanup(connection.close)
        connection.open_stream(1, http2_client.call_headers("GenerateOnce"))
        size = 300 << 20
        connection.send(http2_client.frame(http2_client.DATA, 0, 1, b"\0" + size.to_bytes(4, "big")))
        sent = connection.send_data(1, size)
        self.assertLess(sent, size)
        if not OPTIONS.shadow_memory:
            self.assertLess(daemon.resident_bytes() - before, 128 << 20)
        self.assert_serves(daemon)

    def test_headers_without_end_are_cut_off(self):
        daemon = self.start()
        self.assert_serves(daemon, daemon.generation)
        before = daemon.resident_bytes()
        for value in (b"a" * (1 << 20), b"a" * (64 << 20)):
            connection = http2_client.Connection(daemon.address)
            self.addCleanup(connection.close)
            block = http2_client.call_headers("GenerateOnce", [("x-big", value)])
            connection.open_stream(1, block[:16384], flags=http2_client.END_STREAM)
            for at in range(16384, len(block), 16384):
                connection.send(http2_client.frame(http2_client.CONTINUATION, 0, 1, block[at:at + 16384]))
                connection.read(0)
                if connection.ended:
                    break
            if not connection.ended:
                connection.send(http2_client.frame(http2_client.CONTINUATION, http2_client.END_HEADERS, 1))
            connection.read_until_end()
            self.assertIsNotNone(connection.ended)
            connection.close()
        if not OPTIONS.shadow_memory:
            self.assertLess(daemon.resident_bytes() - before, 128 << 20)
        with self.assertRaises(grpc.RpcError) as caught:
            daemon.generation.GenerateOnce(make_request(), metadata=[("x-big", "a" * 100_000)], timeout=60)
        self.assertEqual(caught.exception.code(), grpc.StatusCode.RESOURCE_EXHAUSTED)
        self.assert_serves(daemon)

    def test_large_headers_that_come_before_the_settings_are_refused(self):
        daemon = self.start()
        for method in ("Generate", "GenerateOnce", "Tokenize", "GetLoad"):
            connection = http2_client.Connection(daemon.address, acknowledges=False)
            self.addCleanup(connection.close)
            block = http2_client.call_headers(method, [(f"x-big-{i}", b"a" * 15000) for i in range(4)])
            connection.open_stream(1, block[:16384], flags=0)
            for at in range(16384, len(block), 16384):
                last = at + 16384 >= len(block)
                connection.send(http2_client.frame(http2_client.CONTINUATION,
                                                   http2_client.END_HEADERS if last else 0, 1, block[at:at + 16384]))
            connection.send(http2_client.frame(http2_client.DATA, http2_client.END_STREAM, 1, bytes(5)))
            connection.read_until_end()
            self.assertEqual(connection.ended, "answered")
            self.assertRegex(connection.answer, rb"the call's metadata has 60\d\d\d bytes, allowed at most 16384")
        _, text = self.fetch(daemon, "/metrics")
        self.assertIn('mambad_grpc_calls_total{code="RESOURCE_EXHAUSTED",method="GetLoad"} 1', text)

    def test_compressed_messages_are_refused_before_they_are_inflated(self):
        daemon = self.start()
        self.assert_serves(daemon, daemon.generation)
        before = daemon.resident_bytes()
        inflated = pb.TokenizeRequest(text="a" * (200 << 20)).SerializeToString()
        for compress, name in ((gzip.compress, "gzip"), (zlib.compress, "deflate")):
            compressed = compress(inflated)
            body = b"\1" + len(compressed).to_bytes(4, "big") + compressed
            connection = http2_client.Connection(daemon.address)
            self.addCleanup(connection.close)
            connection.open_stream(1, http2_client.call_headers("Tokenize", [("grpc-encoding", name)]))
            connection.send_data(1, len(body), content=body)
            connection.read_until_end()
            self.assertIsNotNone(connection.ended)
            with open(f"/proc/{daemon.process.pid}/status", encoding="ascii") as status:
                peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024
            if not OPTIONS.shadow_memory:
                self.assertLess(peak - before, 100 << 20, name)
        for compression in (grpc.Compression.Gzip, grpc.Compression.Deflate):
            with self.assertRaises(grpc.RpcError) as caught:
                daemon.generation.GenerateOnce(make_request(), compression=compression, timeout=60)
            self.assertEqual(caught.exception.code(), grpc.StatusCode.UNIMPLEMENTED)
        self.assert_serves(daemon)

    # ---- ports -------------------------------------------------------------------------------------------------------

    def test_a_taken_port_is_named_with_the_way_out(self):
        daemon = self.start()
        for flag, address in (("--listen", daemon.address), ("--metrics", daemon.metrics_address)):
            key = flag.replace("--", "").replace("metrics", "metrics.listen")
            ports = {"--listen": "127.0.0.1:0", "--metrics": "127.0.0.1:0", flag: address}
            ended = subprocess.run([OPTIONS.binary, "--model", OPTIONS.model, *sum(ports.items(), ())],
                                   capture_output=True, text=True, timeout=60)
            self.assertEqual(ended.returncode, 2)
            self.assertTrue(ended.stderr.startswith(
                f"mambad: {key}: cannot listen on {address}: Address already in use "
                f"(another mambad? choose another with {flag})"), ended.stderr)
        self.assert_serves(daemon)


def main():
    global OPTIONS, pb
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--draft")
    parser.add_argument("--shadow-memory", action="store_true", help="memory is not what the program asks for (sanitizers)")
    OPTIONS, rest = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        pb = daemon_process.make_stubs(folder)
        unittest.main(argv=[sys.argv[0], *rest], verbosity=2)


if __name__ == "__main__":
    main()
