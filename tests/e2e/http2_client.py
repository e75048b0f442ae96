"""As much HTTP/2 as a hostile client needs: frames as they come, nothing checked."""

import select
import socket
import struct
import time

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RESET, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS = 1, 1, 4


def frame(kind, flags, stream, payload=b""):
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def _length(value):
    """HPACK's integer in seven bits and more, the first of them clear."""
    if value < 127:
        return bytes([value])
    out, value = bytes([127]), value - 127
    while value >= 128:
        out, value = out + bytes([value % 128 | 128]), value // 128
    return out + bytes([value])


def header(name, value):
    """A literal that is not indexed; neither part is compressed."""
    name, value = name.encode(), value if isinstance(value, bytes) else value.encode()
    return b"\0" + _length(len(name)) + name + _length(len(value)) + value


def call_headers(method, extra=()):
    pairs = [(":method", "POST"), (":scheme", "http"), (":path", "/mambad.v1.Generation/" + method),
             (":authority", "test"), ("te", "trailers"), ("content-type", "application/grpc"), *extra]
    return b"".join(header(name, value) for name, value in pairs)


class Connection:
    """Sends what it is told to; reads in between, and knows what it may send."""

    def __init__(self, address, acknowledges=True):
        host, port = address.rsplit(":", 1)
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        self.socket.sendall(PREFACE + frame(SETTINGS, 0, 0))
        self.buffer = b""
        self.window = {0: 65535}  # 0: the connection's
        self.first_window = 65535
        self.acknowledges = acknowledges  # the server's settings
        self.answer = b""  # the headers that ended the stream, as they came
        self.ended = None  # why nothing more may be sent: "reset", "goaway", "closed"

    def open_stream(self, stream, block, flags=END_HEADERS):
        self.window[stream] = self.first_window
        self.send(frame(HEADERS, flags, stream, block))

    def send(self, data):
        try:
            self.socket.sendall(data)
        except OSError:
            self.ended = self.ended or "closed"

    def send_data(self, stream, size, seconds=60, content=None):
        """Up to `size` bytes, those of `content` or any, as fast as the windows allow; how many."""
        sent, end = 0, time.monotonic() + seconds
        while sent < size and not self.ended and time.monotonic() < end:
            room = min(self.window[0], self.window[stream], 16384, size - sent)
            if room <= 0:
                self.read(1)
                continue
            self.send(frame(DATA, 0, stream, b"a" * room if content is None else content[sent:sent + room]))
            self.window[0] -= room
            self.window[stream] -= room
            sent += room
            self.read(0)
        return sent

    def read(self, seconds):
        """What has come, or comes within the time."""
        while not self.ended and select.select([self.socket], [], [], seconds)[0]:
            try:
                data = self.socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                self.ended = "closed"
            self.buffer += data
            while len(self.buffer) >= 9 and len(self.buffer) >= 9 + int.from_bytes(self.buffer[:3], "big"):
                size = int.from_bytes(self.buffer[:3], "big")
                self._take(self.buffer[3], self.buffer[4], int.from_bytes(self.buffer[5:9], "big"),
                           self.buffer[9:9 + size])
                self.buffer = self.buffer[9 + size:]
            seconds = 0

    def read_until_end(self, seconds=60):
        end = time.monotonic() + seconds
        while not self.ended and time.monotonic() < end:
            self.read(1)

    def _take(self, kind, flags, stream, payload):
        if kind == SETTINGS and not flags & ACK:
            for at in range(0, len(payload), 6):
                name, value = struct.unpack(">HI", payload[at:at + 6])
                if name == 4:  # the streams' first window
                    for key in self.window:
                        if key:
                            self.window[key] += value - self.first_window
                    self.first_window = value
            if self.acknowledges:
                self.send(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            self.send(frame(PING, ACK, 0, payload))
        elif kind == WINDOW_UPDATE and stream in self.window:
            self.window[stream] += int.from_bytes(payload, "big")
        elif kind == RESET:
            self.ended = "reset"
        elif kind == GOAWAY:
            self.ended = "goaway"
        elif kind == HEADERS and flags & END_STREAM:
            self.ended, self.answer = "answered", payload

    def close(self):
        self.socket.close()
