"""A browser without a screen: the system's Chromium, driven by Playwright.

Pages see nothing but this machine: whatever they load from elsewhere fails and stands in `Page.errors`.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome")
PROGRAM = next((found for name in NAMES if (found := shutil.which(name))), None)
ONLY_HERE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1"
FLAGS = ["--disable-gpu", "--no-proxy-server", ONLY_HERE]
needs_chromium = pytest.mark.skipif(
    PROGRAM is None, reason=f"no browser: none of {', '.join(NAMES)} is on the path (Debian: apt-get install chromium)"
)


class Page:
    """One tab. `errors` is what its console, its scripts and its loads reported as wrong, since it was opened.

    `tab` is Playwright's page, to click and type in.
    """

    def __init__(self, tab: Any, width: int, height: int) -> None:
        self.errors: list[str] = []
        self.tab, self._devtools = tab, tab.context.new_cdp_session(tab)
        tab.on("console", self._note_console)
        tab.on("dialog", self._note_dialog)
        tab.on("pageerror", lambda error: self.errors.append(f"exception: {error}"))
        tab.on("requestfailed", self._note_failure)
        tab.on("response", self._note_response)
        self.resize(width, height)

    def resize(self, width: int, height: int) -> None:
        """Give the page this size in CSS pixels. Below 600 it is shown as on a telephone."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._devtools.send("Emulation.setDeviceMetricsOverride", size)

    def open(self, address: str | Path, timeout: float = 30) -> None:
        """Open an address or a file and wait until it is loaded. Forgets the errors of the page before."""
        self.tab.goto("about:blank")  # so that the same page again, at an anchor, is loaded anew
        self.errors.clear()
        self.tab.goto(address.resolve().as_uri() if isinstance(address, Path) else address, timeout=1000 * timeout)

    def evaluate(self, script: str, timeout: float = 30) -> Any:
        """Evaluate an expression of JavaScript, promises awaited."""
        late = f"setTimeout(() => fail(Error('no end in {timeout} s')), {1000 * timeout})"
        return self.tab.evaluate(f"Promise.race([({script}), new Promise((_, fail) => {late})])")

    def wait(self, script: str, timeout: float = 30) -> Any:
        """Wait until an expression of JavaScript is true, and return its value."""
        return self.tab.wait_for_function(f"() => ({script})", timeout=1000 * timeout).json_value()

    def _note_console(self, message: Any) -> None:
        if message.type in ("error", "assert") and not message.text.startswith("Failed to load resource"):
            self.errors.append(f"console: {message.text}")  # loads are noted below

    def _note_dialog(self, dialog: Any) -> None:
        if dialog.type != "beforeunload":
            self.errors.append(f"dialog: {dialog.message}")
        dialog.accept()

    def _note_response(self, response: Any) -> None:
        if response.status >= 400:
            self.errors.append(f"load: {response.status} {response.url}")

    def _note_failure(self, request: Any) -> None:
        if request.failure != "net::ERR_ABORTED":  # which is what leaving a page does
            self.errors.append(f"load: {request.failure} {request.url}")


@contextmanager
def browser(width: int = 1280, height: int = 900) -> Iterator[Page]:
    """A tab of a browser of its own, ended afterwards whatever happens.

    Yields:
        The tab.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, sync_playwright() as driver:
        home: dict[str, Any] = {**os.environ, "HOME": folder, "TMPDIR": folder}  # where it keeps more than its profile
        chromium = driver.chromium.launch(executable_path=PROGRAM, args=FLAGS, chromium_sandbox=False, env=home)
        try:
            yield Page(chromium.new_page(), width, height)
        finally:
            chromium.close()
