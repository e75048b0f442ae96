"""A Chromium without a window, driven through a pipe by the protocol of its developer tools: needs nothing of Python but
its standard library.

    with Browser(program, folder) as browser:
        browser.open("http://127.0.0.1:9464/")
        browser.wait("document.title === 'mambad'")
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time


def find_chromium():
    """The program, or None where none is installed."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chromium-headless-shell"):
        if path := shutil.which(name):
            return path
    return None


class Browser:
    """One page. `problems` has what its console said of errors, refused loads among them."""

    def __init__(self, program, folder):
        """`folder`: an empty one for what the browser keeps."""
        read_end, self.to_browser = os.pipe()
        self.from_browser, write_end = os.pipe()
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
                   "--disable-background-networking", "--disable-extensions", f"--user-data-dir={folder}",
                   "--no-proxy-server", "--remote-debugging-pipe", "about:blank"]

        def arrange():  # descriptors 3 and 4 are the protocol's; neither may be overwritten before it is copied
            ends = os.dup(read_end), os.dup(write_end)
            spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(4)]
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)
            del spare

        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL, preexec_fn=arrange, close_fds=False)
        os.close(read_end)
        os.close(write_end)
        self.received = b""
        self.number = 0
        self.session = None
        self.problems = []
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.call(domain + ".enable")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.to_browser)
        os.close(self.from_browser)

    def _next(self, end):
        while b"\0" not in self.received:
            ready, _, _ = select.select([self.from_browser], [], [], max(end - time.monotonic(), 0))
            if not ready:
                raise TimeoutError("the browser said nothing")
            more = os.read(self.from_browser, 1 << 16)
            if not more:
                raise RuntimeError("the browser is gone")
            self.received += more
        message, self.received = self.received.split(b"\0", 1)
        return json.loads(message)

    def _note(self, message):
        parameters = message.get("params", {})
        if message.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.problems.append(parameters["entry"]["text"])
        if message.get("method") == "Runtime.exceptionThrown":
            self.problems.append(json.dumps(parameters["exceptionDetails"]))

    def call(self, method, seconds=60, **parameters):
        """The result of a method of the protocol."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.to_browser, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + seconds
        while True:
            answer = self._next(end)
            self._note(answer)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, address):
        result = self.call("Page.navigate", url=address)
        if result.get("errorText"):
            raise RuntimeError(f"{address}: {result['errorText']}")
        self.wait("document.readyState === 'complete'")

    def evaluate(self, expression):
        """What the script says, as Python's value of it."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True,
                           userGesture=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def wait(self, condition, seconds=60):
        """Until the script is true."""
        end = time.monotonic() + seconds
        while not self.evaluate(condition):
            if time.monotonic() > end:
                raise AssertionError(f"does not come true: {condition}\n{self.evaluate('document.body.innerText')}")
            time.sleep(0.1)

    def screenshot(self, path, width=1100, height=1250, dark=False):
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        image = self.call("Page.captureScreenshot", format="png")
        with open(path, "wb") as file:
            file.write(base64.b64decode(image["data"]))
