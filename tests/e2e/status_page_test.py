#!/usr/bin/env python3
"""The page of the metrics port in a real browser: what it shows while the daemon works, its box, and what other sites can
have the browser do. Left out, and said so, where no Chromium is installed.

    status_page_test.py --mambad build/bin/mambad --fake build/bin/fake_mambad --models deploy/models/stories \
        [--screenshots FOLDER]
"""

import argparse
import http.server
import json
import pathlib
import sys
import tempfile
import threading
import urllib.request

from browser import Browser, find_chromium
from server_process import ServerProcess

LEFT_OUT = 77  # ctest's code for it, set in CMakeLists.txt


def check(holds, words):
    if not holds:
        raise AssertionError(words)


def ask(address, prompt, tokens):
    """The answer's text, by plain HTTP."""
    body = json.dumps({"text": prompt, "stopping": {"max_tokens": tokens, "ignore_eos": True}}).encode()
    request = urllib.request.Request(f"http://{address}/generate", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return "".join(json.loads(line).get("text", "") for line in answer)


def serve_site(page):
    """Another site: its port. It shows this page to everyone."""
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def check_status(browser, server):
    browser.open(f"http://{server.metrics_address}/")
    browser.wait("document.getElementById('state').textContent === 'serving'")
    texts = []
    load = threading.Thread(target=lambda: texts.extend(ask(server.metrics_address, "Once upon a time", 900) for _ in range(12)))
    load.start()
    browser.wait("Number(document.getElementById('speed').textContent) > 10")
    load.join()
    check(len(set(texts)) == 1 and len(texts[0]) > 500, texts)
    browser.wait("document.querySelectorAll('#positions tr').length >= 8")
    browser.wait("/^[0-9]+ %$/.test(document.getElementById('acceptance').textContent)")
    browser.wait("document.querySelector('#latencies tr td:last-child').textContent === '12'")
    shares = browser.evaluate("[...document.querySelectorAll('#positions .bar')].map((bar) => parseFloat(bar.style.width))")
    check(shares[0] > 20 and all(a >= b for a, b in zip(shares, shares[1:])), f"{shares}: later drafts are accepted less often")


def check_box(browser, server, screenshots):
    browser.evaluate("byId('prompt').value = 'The little dragon'; byId('tokens').value = 60; byId('send').click()")
    browser.wait("/^(LENGTH|EOS): /.test(byId('told').textContent)")
    shown = browser.evaluate("byId('answer').textContent")
    body = json.dumps({"text": "The little dragon", "stopping": {"max_tokens": 60}, "sampling": {"temperature": 0}}).encode()
    request = urllib.request.Request(f"http://{server.metrics_address}/generate", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        told = "".join(json.loads(line).get("text", "") for line in answer)
    check(shown == told and len(shown) > 50, f"the page shows {shown!r}, the server told {told!r}")
    if screenshots:
        browser.screenshot(f"{screenshots}/status_page.png", height=1450)
        browser.screenshot(f"{screenshots}/status_page_narrow.png", width=420, height=2600, dark=True)
    # The story model has no chat template: the refusal is shown, as text.
    browser.evaluate("byId('kind').value = 'chat'; byId('prompt').value = '<img src=x onerror=alert(1)>'; byId('send').click()")
    browser.wait("byId('told').classList.contains('bad')")
    check("FAILED_PRECONDITION" in browser.evaluate("byId('told').textContent"), "a failed call is told as such")
    browser.evaluate("byId('kind').value = 'text'")


def check_chat_and_stop(browser, server):
    """On an engine that takes its time: two seconds for this answer."""
    browser.open(f"http://{server.metrics_address}/")
    browser.evaluate("byId('kind').value = 'chat'; byId('prompt').value = 'hello'; byId('tokens').value = 2000;"
                     "byId('send').click()")
    browser.wait("byId('answer').textContent.length > 0")
    check(not browser.evaluate("byId('stop').disabled"), "an answer that is under way can be stopped")
    browser.evaluate("byId('stop').click()")
    browser.wait("!byId('send').disabled")
    check(browser.evaluate("byId('told').textContent") == "Stopped.", "what is stopped is told as such")
    wait_for(lambda: metric(server, 'mambad_request_failure_total{code="CANCELLED"}') == 1
             and metric(server, "mambad_requests_running") == 0, "the engine stops, too")


def metric(server, name):
    with urllib.request.urlopen(f"http://{server.metrics_address}/metrics", timeout=30) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith(name + " "):
                return float(line.split()[-1])
    return 0


def wait_for(condition, words):
    pause = threading.Event()
    for _ in range(300):
        if condition():
            return
        pause.wait(0.1)
    raise AssertionError(words)


def check_other_sites(browser, server):
    """A page elsewhere reads nothing, has nothing generated, and cannot put ours into a frame."""
    site = serve_site(b"<!doctype html><title>elsewhere</title>")
    try:
        browser.open(f"http://127.0.0.1:{site.server_address[1]}/")
        before = metric(server, "mambad_prompt_tokens_total")
        for options in ("{}", "{method: 'POST', body: '{\"text\": \"a\"}'}",
                        "{method: 'POST', body: '{\"text\": \"a\"}', headers: {'Content-Type': 'application/json'}}",
                        "{method: 'POST', body: '{\"text\": \"a\"}', mode: 'no-cors'}"):
            path = "/generate" if "POST" in options else "/metrics"
            outcome = browser.evaluate(
                f"fetch('http://{server.metrics_address}{path}', {options}).then((r) => r.text()).catch((e) => e.name)")
            check(outcome in ("TypeError", ""), f"{options}: another site was told {outcome!r}")
        check(metric(server, "mambad_prompt_tokens_total") == before, "another site had something generated")
        framed = browser.evaluate(f"""new Promise((done) => {{
            const frame = document.createElement('iframe');
            frame.onload = () => done(frame.contentDocument === null ? 'foreign' : 'own');
            frame.src = 'http://{server.metrics_address}/';
            document.body.append(frame);
        }})""")
        check(framed == "foreign", framed)
        check(any("frame-ancestors" in problem or "X-Frame-Options" in problem or "refused" in problem.lower()
                  for problem in browser.problems), browser.problems)
    finally:
        site.shutdown()
        site.server_close()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mambad", required=True)
    parser.add_argument("--fake", required=True)
    parser.add_argument("--models", required=True)
    parser.add_argument("--screenshots", help="a folder to leave pictures in")
    arguments = parser.parse_args()
    program = find_chromium()
    if program is None:
        print("left out: no Chromium is installed (Debian: chromium)")
        sys.exit(LEFT_OUT)
    with tempfile.TemporaryDirectory() as folder:
        config = pathlib.Path(folder, "mambad.yaml")
        config.write_text("metrics: {page: prompt}\n", encoding="utf-8")
        extra = ["--config", str(config)]
        servers = [ServerProcess(arguments.mambad, f"{arguments.models}/target", f"{arguments.models}/draft", extra=extra),
                   ServerProcess(arguments.fake, "fake", extra=extra)]
        try:
            with Browser(program, f"{folder}/browser") as browser:
                check_status(browser, servers[0])
                check_box(browser, servers[0], arguments.screenshots)
                check_chat_and_stop(browser, servers[1])
                # Nothing on the page was refused by its own policy.
                check(browser.problems == [], browser.problems)
                check_other_sites(browser, servers[0])
        finally:
            codes = [server.stop() for server in servers]
        check(codes == [0, 0], f"exit codes {codes}")
    print("the page works in", program)


if __name__ == "__main__":
    main()
