"""Debian's Chromium without a window, driven over a pair of pipes by its DevTools protocol: no driver is installed."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
AXE = Path(__file__).parents[2] / ".cache" / "npm" / "node_modules" / "axe-core" / "axe.min.js"
TRIES, PAUSE = 2400, 0.05


class Browser:
    """One tab."""

    def __init__(self, process: int, reads: int, writes: int) -> None:
        self.process = process
        self.complaints: list[str] = []
        """What the console called an error: exceptions, and what the page's policy forbids."""
        self.requests: list[str] = []
        """URLs of everything that was asked for."""
        self._reads, self._writes, self._held, self._last = reads, writes, b"", 0
        self._session: str | None = None
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Runtime", "Log", "Page", "Network"):
            self._call(f"{domain}.enable")

    def picture(self) -> bytes:
        """A PNG of what is to be seen."""
        return base64.b64decode(self._call("Page.captureScreenshot", format="png")["data"])

    def open(self, url: str) -> None:
        self._call("Page.navigate", url=url)
        self.wait(f"location.href.startsWith({json.dumps(url)}) && document.readyState === 'complete'")

    def narrow(self) -> None:
        """Be as wide as a phone."""
        self.size(390, 844, mobile=True)

    def size(self, width: int, height: int, *, mobile: bool = False) -> None:
        """Be so many pixels wide and high."""
        self._call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def dark(self, on: bool) -> None:
        """Ask for the dark colours, or the light ones."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def faults(self) -> list[Any]:
        """What axe-core finds serious, with the elements; it is put into the page as it is."""
        if not self.run("typeof axe !== 'undefined'"):
            self._call("Runtime.evaluate", expression=AXE.read_text())
        found = "violations.filter((one) => ['serious', 'critical'].includes(one.impact))"
        told = "[one.id, ...one.nodes.map((node) => node.html + ' ' + node.failureSummary)]"
        return self.run(f"axe.run(document).then(({{violations}}) => {found}.map((one) => {told}))")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, (script, found["exceptionDetails"])
        return found["result"].get("value")

    def wait(self, script: str, tries: int = TRIES) -> None:
        """Until an expression is true, as JavaScript takes it."""
        for _ in range(tries):
            if self.run(f"Boolean({script})"):
                return
            time.sleep(PAUSE)
        raise AssertionError((script, self.run("document.body.innerText"), self.complaints))

    def click(self, selector: str) -> None:
        self.wait(f"document.querySelector({json.dumps(selector)})")
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def type(self, selector: str, text: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).focus()")
        self._call("Input.insertText", text=text)

    def press_enter(self) -> None:
        for kind in ("keyDown", "keyUp"):
            self._call(
                "Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", windowsVirtualKeyCode=13, text="\r"
            )

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._writes, json.dumps(message).encode() + b"\0")
        while True:
            said = self._next()
            if said.get("id") == self._last:
                assert "error" not in said, (method, said)
                return said["result"]
            self._note(said)

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            part = os.read(self._reads, 1 << 16)
            assert part, "the browser has ended"
            self._held += part
        message, self._held = self._held.split(b"\0", 1)
        return json.loads(message)

    def _note(self, said: dict[str, Any]) -> None:
        match said.get("method"), said.get("params"):
            case "Runtime.exceptionThrown", {"exceptionDetails": details}:
                self.complaints.append(str(details))
            case "Log.entryAdded", {"entry": {"level": "error", **entry}}:
                self.complaints.append(str(entry))
            case "Network.requestWillBeSent", {"request": {"url": url}}:
                self.requests.append(url)
            case _:
                pass


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser whose profile is in a folder."""
    there, writes = os.pipe()
    reads, back = os.pipe()
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    options += ["--hide-scrollbars"]  # of the machine that it runs on
    # Chromium reads file 3 and writes file 4.
    script = f'exec "$@" 3<&{there} 4>&{back}'
    command = [str(CHROMIUM), *options, "--remote-debugging-pipe", f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(
        ["bash", "-c", script, "bash", *command], pass_fds=(there, back), stderr=subprocess.DEVNULL
    )
    os.close(there)
    os.close(back)
    try:
        yield Browser(process.pid, reads, writes)
    finally:
        process.kill()
        process.wait()
        os.close(reads)
        os.close(writes)
