"""A browser without a screen, told what to do over Chromium's DevTools protocol.

Pages see nothing but this machine: whatever they load from elsewhere fails and stands in `Page.errors`.
"""

import base64
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next((found for name in NAMES if (found := shutil.which(name))), None)
FLAGS = [
    "--headless=new",
    "--no-sandbox",  # which containers do not allow; the pages are our own
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-breakpad",
    "--no-first-run",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
    "--remote-debugging-port=0",
]
needs_chromium = pytest.mark.skipif(
    PROGRAM is None, reason=f"no browser: none of {', '.join(NAMES)} is on the path (Debian: apt-get install chromium)"
)


class Page:
    """One tab. `errors` is what its console, its scripts and its loads reported as wrong, since it was opened."""

    def __init__(self, connection: websocket.WebSocket, width: int, height: int) -> None:
        self.errors: list[str] = []
        self._connection, self._session, self._last, self._loaded = connection, None, 0, False
        self._requests: dict[str, str] = {}
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        """Give the page this size in CSS pixels. Below 600 it is shown as on a telephone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.send("Emulation.setDeviceMetricsOverride", **size)

    def open(self, address: str | Path, timeout: float = 30) -> None:
        """Open an address or a file and wait until it is loaded. Forgets the errors of the page before."""
        if isinstance(address, Path) or ":" not in address:
            address = Path(address).resolve().as_uri()
        self.send("Page.navigate", url="about:blank")  # so that the same page again, at an anchor, is loaded anew
        self.wait("location.href == 'about:blank' && document.readyState == 'complete'", timeout)
        self.errors.clear()
        self._loaded = False
        problem = self.send("Page.navigate", timeout, url=address).get("errorText")
        if problem:
            raise RuntimeError(f"{address} does not open: {problem}")
        self._until(lambda: self._loaded, timeout, f"the load of {address}")

    def evaluate(self, script: str, timeout: float = 30) -> object:
        """Evaluate an expression of JavaScript, promises awaited."""
        told = {"expression": script, "returnByValue": True, "awaitPromise": True}
        answer = self.send("Runtime.evaluate", timeout, **told)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{script}: {_thrown(answer['exceptionDetails'])}")
        return answer["result"].get("value")

    def wait(self, script: str, timeout: float = 30) -> object:
        """Wait until an expression of JavaScript is true, and return its value."""
        return self._until(lambda: self.evaluate(script), timeout, script)

    def press(self, key: str, code: int) -> None:
        """Press and let go of a key that writes nothing, such as Tab (9) or Enter (13)."""
        for kind in ("rawKeyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def screenshot(self, path: str | Path, *, whole: bool = False) -> None:
        """Write what can be seen (or the whole page) as a PNG."""
        answer = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(answer["data"]))

    def send(self, method: str, timeout: float = 30, **arguments: object) -> dict:
        """Send a command of the protocol and return its result. What the page reports meanwhile is noted."""
        self._last += 1
        number = self._last
        message = {"id": number, "method": method, "params": arguments}
        self._connection.send(json.dumps(message | ({"sessionId": self._session} if self._session else {})))
        end = time.monotonic() + timeout
        while True:
            answer = self._receive(end, method)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _receive(self, end: float, what: str) -> dict:
        """The next message, noted if it is an event."""
        self._connection.settimeout(max(end - time.monotonic(), 0.01))
        try:
            message = json.loads(self._connection.recv())
        except websocket.WebSocketTimeoutException:
            raise TimeoutError(f"no end of {what}; errors of the page: {self.errors}") from None
        if "method" in message:
            self._note(message["method"], message["params"])
        return message

    def _until(self, condition, timeout: float, what: str) -> object:
        """Ask again and again, and return the first answer that is true."""
        end = time.monotonic() + timeout
        while not (answer := condition()):
            if time.monotonic() > end:
                raise TimeoutError(f"no end of {what}; errors of the page: {self.errors}")
            time.sleep(0.05)
            self.send("Runtime.evaluate", max(end - time.monotonic(), 1), expression="0")  # receives events as well
        return answer

    def _note(self, event: str, told: dict) -> None:
        """Keep what an event says is wrong."""
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Page.javascriptDialogOpening":  # the page waits for an answer: give it without awaiting its own
            self._last += 1
            answer = {"id": self._last, "method": "Page.handleJavaScriptDialog", "params": {"accept": True}}
            self._connection.send(json.dumps(answer | {"sessionId": self._session}))
            if told["type"] != "beforeunload":
                self.errors.append(f"dialog: {told['message']}")
        elif event == "Runtime.exceptionThrown":
            self.errors.append(f"exception: {_thrown(told['exceptionDetails'])}")
        elif event == "Runtime.consoleAPICalled" and told["type"] in ("error", "assert"):
            texts = [str(one.get("value", one.get("description", one["type"]))) for one in told["args"]]
            self.errors.append(f"console: {' '.join(texts)}")
        elif event == "Log.entryAdded" and told["entry"]["level"] == "error" and told["entry"]["source"] != "network":
            self.errors.append(f"log: {told['entry']['text']} {told['entry'].get('url', '')}".strip())
        elif event == "Network.requestWillBeSent":
            self._requests[told["requestId"]] = told["request"]["url"]
        elif event == "Network.responseReceived" and told["response"]["status"] >= 400:
            self.errors.append(f"load: {told['response']['status']} {told['response']['url']}")
        elif event == "Network.loadingFailed" and not told.get("canceled"):
            self.errors.append(f"load: {told['errorText']} {self._requests.get(told['requestId'], '')}".strip())


def _thrown(details: dict) -> str:
    """What an exception says, with the place."""
    text = details.get("exception", {}).get("description") or details["text"]
    return f"{text} ({details.get('url', 'the page')}:{details['lineNumber'] + 1})"


@contextmanager
def browser(width: int = 1280, height: int = 900) -> Iterator[Page]:
    """A tab of a browser of its own, ended afterwards whatever happens.

    Yields:
        The tab.
    """
    if PROGRAM is None:
        raise RuntimeError("There is no Chromium on the path: mark the test with needs_chromium")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [PROGRAM, *FLAGS, f"--user-data-dir={folder}", f"--window-size={width},{height}", "about:blank"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        home = os.environ | {"HOME": folder, "TMPDIR": folder}  # where it keeps more than its profile
        process = subprocess.Popen(command, start_new_session=True, env=home, **quiet)
        try:
            address = _address(process, Path(folder) / "DevToolsActivePort")
            connection = websocket.create_connection(
                address, timeout=30, suppress_origin=True, http_no_proxy=["127.0.0.1"]
            )
            try:
                yield Page(connection, width, height)
            finally:
                connection.close(timeout=1)
        finally:
            _end(process)


def _address(process: subprocess.Popen, file: Path, timeout: float = 60) -> str:
    """Where the browser that was started listens."""
    end = time.monotonic() + timeout
    while not (file.is_file() and len(lines := file.read_text().split()) == 2):
        if process.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"{PROGRAM} does not start (exit status {process.poll()})")
        time.sleep(0.02)
    return f"ws://127.0.0.1:{lines[0]}{lines[1]}"


def _end(process: subprocess.Popen) -> None:
    """End the browser, then what it may have left behind."""
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(timeout=5)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
