"""mambad as a process of a test, and the Python stubs to call it with.

Needs grpcio, grpcio-tools and googleapis-common-protos. Stubs are made from the .proto files at run time.
"""

import pathlib
import signal
import subprocess
import sys
import threading
import time
import urllib.request

import grpc
import grpc_tools
from google.rpc import error_details_pb2, status_pb2
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[2]
pb = stubs = session_pb = session_stubs = None  # the generated modules


def make_stubs(folder):
    """Generates the modules into `folder`, a temporary one; returns the messages'."""
    global pb, stubs, session_pb, session_stubs
    code = protoc.main([
        "protoc", f"-I{ROOT / 'proto'}", f"-I{pathlib.Path(grpc_tools.__file__).parent / '_proto'}",
        f"--python_out={folder}", f"--grpc_python_out={folder}", "mambad/v1/generation.proto", "mambad/v1/session.proto"])
    if code != 0:
        sys.exit("protoc failed")
    sys.path.insert(0, str(folder))
    from mambad.v1 import generation_pb2, generation_pb2_grpc, session_pb2, session_pb2_grpc
    pb, stubs = generation_pb2, generation_pb2_grpc
    session_pb, session_stubs = session_pb2, session_pb2_grpc
    return pb


class Daemon:
    """The program `binary` on free ports, ready when the constructor returns.

    `stderr`: a descriptor that takes its log instead of `errors`; `prepare` is called in its process before it starts.
    """

    def __init__(self, binary, model, draft=None, extra=(), stderr=None, prepare=None, listen="127.0.0.1:0",
                 metrics="127.0.0.1:0"):
        command = [binary, "--model", model, "--listen", listen, "--metrics", metrics]
        if draft:
            command += ["--draft", draft]
        self.process = subprocess.Popen(command + list(extra), stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE if stderr is None else stderr, text=True,
                                        preexec_fn=prepare)
        self.errors = []
        self.error_reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr or ()), daemon=True)
        self.error_reader.start()
        self.ready_line = self.process.stdout.readline()
        if " ready: grpc " not in self.ready_line:
            self.process.wait()
            self.error_reader.join()
            raise RuntimeError(f"not ready: {self.ready_line!r} {self.errors}")
        words = self.ready_line.replace(",", "").split()
        self.address = words[words.index("grpc") + 1]
        self.metrics_address = words[words.index("metrics") + 1]
        self.channel = grpc.insecure_channel(self.address, options=[("grpc.max_receive_message_length", -1)])
        self.generation = stubs.GenerationStub(self.channel)
        self.sessions = session_stubs.SessionsStub(self.channel)

    def resident_bytes(self):
        with open(f"/proc/{self.process.pid}/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmRSS:"):
                    return int(line.split()[1]) * 1024
        raise RuntimeError("no VmRSS")

    def metrics(self):
        """The text of the metrics endpoint."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics") as answer:
            return answer.read().decode()

    def wait_until_idle(self, seconds=30):
        end = time.monotonic() + seconds
        while True:
            load = self.generation.GetLoad(pb.GetLoadRequest())
            idle = not (load.running or load.waiting or load.slots_used or load.pages_used or load.state_bytes)
            if idle or time.monotonic() > end:
                return load
            time.sleep(0.02)

    def stop(self):
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        self.error_reader.join()
        self._close_pipes()
        return code

    def kill(self):
        """Ends what is still there."""
        if self.process.poll() is None:
            self.channel.close()
            self.process.kill()
            self.process.wait()
        self.error_reader.join()
        self._close_pipes()

    def _close_pipes(self):
        for pipe in (self.process.stdout, self.process.stderr):
            if pipe is not None:
                pipe.close()


def details_of(error):
    """The google.rpc details of a failed call, by message type."""
    found = {}
    for key, value in error.trailing_metadata() or ():
        if key != "grpc-status-details-bin":
            continue
        status = status_pb2.Status()
        status.ParseFromString(value)
        assert status.code == error.code().value[0]
        for detail in status.details:
            for kind in (error_details_pb2.BadRequest, error_details_pb2.RetryInfo):
                message = kind()
                if detail.Unpack(message):
                    found[kind] = message
    return found


def retry_seconds(error):
    """After which a refused call may come again; None: it was not told."""
    told = details_of(error).get(error_details_pb2.RetryInfo)
    return None if told is None else told.retry_delay.ToMilliseconds() / 1e3
