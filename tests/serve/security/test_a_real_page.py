"""A hostile page in a real browser, whose user runs a server without a key: nothing of what it sends is stored."""

import json
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx2
import pytest

from talktune.store.overview import overview
from talktune.store.store import Store

from ..conftest import serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HI = {"messages": [{"role": "user", "content": "Hi"}]}
# Everything that a page may send without asking, and some of what it may not, from itself and from a frame whose
# origin is null.
PAGE = """<body><script>
const chat = JSON.stringify({messages: [{role: "user", content: "from the page"}]});
const praise = JSON.stringify({id: "ANSWER", thumbs: "up"});
const attack = `
  const sent = [];
  for (const base of BASES) for (const [path, body] of [["chat/completions", CHAT], ["feedback", PRAISE]]) {
    const url = base + "/v1/" + path;
    for (const type of ["text/plain", "application/x-www-form-urlencoded", "application/json"])
      for (const mode of ["no-cors", "cors"])
        sent.push(fetch(url, {method: "POST", mode, headers: {"content-type": type}, body}));
    sent.push(fetch(url, {method: "POST", mode: "no-cors", body: new Blob([body])}));
    navigator.sendBeacon(url, new Blob([body], {type: "text/plain"}));
    const target = document.body.appendChild(document.createElement("iframe"));
    target.name = "t" + document.querySelectorAll("iframe").length;
    const form = document.body.appendChild(document.createElement("form"));
    Object.assign(form, {method: "POST", enctype: "text/plain", action: url, target: target.name});
    const input = form.appendChild(document.createElement("input"));
    input.name = body.slice(0, -1) + ', "x": "';
    input.value = '"}';
    form.submit();
  }
  Promise.allSettled(sent).then(() => setTimeout(() => parent.postMessage("done", "*"), 300));
`.replaceAll("BASES", JSON.stringify(["TARGET", "REBOUND"]))
 .replaceAll("CHAT", JSON.stringify(chat)).replaceAll("PRAISE", JSON.stringify(praise));
let done = 0;
addEventListener("message", () => { if (++done == 2) fetch("/done"); });
const frame = document.body.appendChild(document.createElement("iframe"));
frame.sandbox = "allow-scripts allow-forms";
frame.srcdoc = "<body><script>" + attack + "<" + "/script>";
new Function(attack)();
</script>"""


@dataclass
class Site:
    """A web server: it gives a page, and counts what is posted to it."""

    page: str = ""
    url: str = ""
    posts: list[tuple[str, str, str]] = field(default_factory=list[tuple[str, str, str]])
    """Origin, type and path."""
    done: threading.Event = field(default_factory=threading.Event)
    """Set when the page has sent all that it has."""


@contextmanager
def site() -> Iterator[Site]:
    made = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = made.page.encode()
            if self.path == "/done":
                made.done.set()
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            made.posts.append((self.headers["Origin"], self.headers["Content-Type"] or "", self.path))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    made.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield made
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def visit(page: Site, target: str, answer: str, profile: Path) -> None:
    """Open the page as http://evil.example, which names this machine: a name that was bound anew."""
    port, own = target.rpartition(":")[2], page.url.rpartition(":")[2]
    rebound = f"http://evil.example:{port}"
    page.page = PAGE.replace("TARGET", target).replace("REBOUND", rebound).replace("ANSWER", answer)
    command = [str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    command += ["--host-resolver-rules=MAP evil.example 127.0.0.1", "--remote-debugging-port=0"]
    page.done.clear()
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        [*command, f"http://evil.example:{own}/"], stdout=quiet, stderr=quiet, start_new_session=True
    ) as browser:
        try:
            assert page.done.wait(120), "the page did not come to its end"
        finally:
            os.killpg(browser.pid, signal.SIGKILL)


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_nothing_of_a_page_is_stored(engine: Any, tmp_path: Path) -> None:
    with site() as page, site() as open_to_all:
        visit(page, open_to_all.url, "x", tmp_path / "a")
        origins = {origin for origin, *_ in open_to_all.posts}
        kinds = {kind.partition(";")[0] for _, kind, _ in open_to_all.posts}
        # What is harmless there does arrive where nobody looks at it.
        assert {"null", f"http://evil.example:{page.url.rpartition(':')[2]}"} <= origins
        assert {"text/plain", "application/x-www-form-urlencoded"} <= kinds
        with serving(tmp_path / "s.db", "--upstream", engine.url) as server:
            own = httpx2.post(f"{server.url}/v1/chat/completions", json=HI, timeout=30).json()["id"]
            visit(page, server.url, own, tmp_path / "b")
            praise = partial(httpx2.post, f"{server.url}/v1/feedback", timeout=30)
            store = Store(tmp_path / "s.db")
            assert [c.messages[0].content for c in store.export()] == ["Hi"]
            assert overview(store)["feedback"] == 0
            # The same word from here counts: the page was told the right answer.
            assert praise(content=json.dumps({"id": own, "thumbs": "up"})).status_code == 200
            assert overview(store)["feedback"] == 1
            store.close()
    assert len(engine.asked) == 1
