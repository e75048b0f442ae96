"""A mambad, or the fake of it, as a process of a test that asks nothing of Python but its standard library; and places
where none is, for clients that look for one there."""

import contextlib
import signal
import socket
import subprocess
import threading


class ServerProcess:
    """The program `binary` on free ports, ready when the constructor returns."""

    def __init__(self, binary, model, draft=None, listen="127.0.0.1:0", extra=()):
        command = [binary, "--model", model, "--listen", listen, "--metrics", "127.0.0.1:0", "--threads", "1"]
        if draft:
            command += ["--draft", draft]
        self.process = subprocess.Popen(command + list(extra), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.errors = []
        self.error_reader = threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True)
        self.error_reader.start()
        for line in self.process.stdout:
            if " ready: grpc " in line:
                break
        else:
            self.process.wait()
            self.error_reader.join()
            raise RuntimeError(f"not ready: {self.errors}")
        words = line.replace(",", "").split()
        self.address = words[words.index("grpc") + 1]
        self.metrics_address = words[words.index("metrics") + 1]

    def stop(self):
        """The exit code; what the server said on standard error is in `errors`."""
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout=60)
        self.error_reader.join()
        self.process.stdout.close()
        self.process.stderr.close()
        return code


def closed_port():
    """The address of a port where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


@contextlib.contextmanager
def foreign_server(answer):
    """The address of a TCP server that answers every connection with these bytes and closes it; None: it never answers."""
    listener = socket.create_server(("127.0.0.1", 0))
    kept = []

    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            if answer is None:
                kept.append(connection)
                continue
            with connection:
                connection.recv(1)
                connection.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield "127.0.0.1:%d" % listener.getsockname()[1]
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in kept:
            connection.close()
        thread.join(timeout=10)
