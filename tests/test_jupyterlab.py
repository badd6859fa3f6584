"""Notebooks open and run in JupyterLab, in a browser, without a network."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import matplotlib
import pytest
from _browser import browser, needs_chromium

nbformat = pytest.importorskip("nbformat")
pytest.importorskip("jupyterlab")
pytestmark = [pytest.mark.slow, needs_chromium]

ROOT = Path(__file__).parent.parent
OPENED = ["01-mnist-mlp", "03-iris-embed"]  # the two largest
SHORTEST = "05-soft-mixing"
SETTINGS = {  # no question to the network, no question to the user; every cell is drawn, in sight or not
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
}
PANEL = "jupyterapp.shell.currentWidget"
CELLS = f"{PANEL}.content.widgets"
DIALOGS = "[...document.querySelectorAll('.jp-Dialog')].map(one => one.innerText)"
OUTPUTS = f"{CELLS}.flatMap(cell => cell.model.type == 'code' ? cell.model.outputs.toJSON() : [])"
FAULTS = f"{OUTPUTS}.filter(one => one.output_type == 'error').map(one => one.ename)"
COUNTS = f"{CELLS}.filter(cell => cell.model.type == 'code').map(cell => cell.model.executionCount)"
FIGURES = f"[...{PANEL}.node.querySelectorAll('.jp-OutputArea img')].filter(image => image.naturalWidth > 0).length"


def environment(folder):
    """That of somebody who has no settings, and keeps none."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "IPYTHON", "XDG"))}
    for name, setting in SETTINGS.items():
        file = folder / ".jupyter/lab/user-settings/@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(setting))
    return kept | {"HOME": str(folder), "MPLCONFIGDIR": matplotlib.get_cachedir(), "GRADEMBED_PROFILE": "quick"}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """The address of a JupyterLab that shows a copy of the notebooks."""
    folder = tmp_path_factory.mktemp("lab")
    for part in ("notebooks", "docs/figures"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns(".*", "__pycache__"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = {"ServerApp.ip": "127.0.0.1", "ServerApp.port": port, "ServerApp.port_retries": 0,
               "IdentityProvider.token": "secret", "ServerApp.root_dir": folder,
               "LabApp.expose_app_in_browser": True, "LabApp.extension_manager": "readonly"}  # fmt: skip
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--{name}={value}" for name, value in options.items()]
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment(folder))
    try:
        end = time.monotonic() + 60
        while not list(folder.rglob("jpserver-*.json")):  # written when the server listens
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}/lab/tree/notebooks/{{}}.ipynb?reset&token=secret"
    finally:
        server.terminate()  # it ends its kernels
        server.wait(timeout=60)


@pytest.fixture(scope="module")
def page(lab):
    with browser(width=1400, height=1000) as page:
        yield page


def opened(page, lab, name):
    """Open a notebook, wait until its cells and its kernel are there, and return what the file says."""
    page.open(lab.format(name), timeout=60)
    page.wait(f"window.jupyterapp && {PANEL} && {PANEL}.context && {PANEL}.context.isReady", 60)
    page.wait(f"{PANEL}.sessionContext.isReady && {PANEL}.sessionContext.kernelDisplayStatus == 'idle'", 60)
    assert page.evaluate(f"{PANEL}.context.path") == f"notebooks/{name}.ipynb"
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


@pytest.mark.parametrize("name", OPENED)
def test_notebook_opens(name, page, lab):
    cells = opened(page, lab, name).cells
    n_figures = sum("image/png" in one.get("data", {}) for cell in cells for one in cell.get("outputs", []))
    assert page.wait(f"{CELLS}.every(cell => !cell.isPlaceholder()) && {CELLS}.length") == len(cells)
    page.wait(f"{FIGURES} == {n_figures}")
    headings = page.evaluate(f"[...{PANEL}.node.querySelectorAll('h1')].map(one => one.innerText.replace('¶', ''))")
    assert headings == [line[2:] for line in cells[0].source.splitlines() if line.startswith("# ")]
    assert page.evaluate(DIALOGS) == page.errors == []


def test_notebook_runs(page, lab):
    n_code = sum(cell.cell_type == "code" for cell in opened(page, lab, SHORTEST).cells)
    page.evaluate("jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    assert page.evaluate(COUNTS) == [None] * n_code
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')", timeout=300)  # until the last cell has run
    assert page.evaluate(FAULTS) == []
    assert page.evaluate(COUNTS) == list(range(1, n_code + 1))
    page.wait(f"{PANEL}.sessionContext.kernelDisplayStatus == 'idle'")
    n_figures = page.evaluate(f"{OUTPUTS}.filter(one => one.data && 'image/png' in one.data).length")
    assert n_figures > 0
    page.wait(f"{FIGURES} == {n_figures}")
    assert page.evaluate(DIALOGS) == page.errors == []


def test_cell_that_fails_is_seen(page, lab):
    """What the tests above look at does show what they look for."""
    opened(page, lab, SHORTEST)
    page.evaluate(f"{CELLS}[2].model.sharedModel.setSource('import sys; raise OSError(sys.executable)')")
    page.evaluate("jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
    assert page.evaluate(FAULTS)[0] == "OSError"  # cells whose request comes later may run, and fail for want of it
    assert Path(page.evaluate(f"{OUTPUTS}[0].evalue")).samefile(sys.executable)  # the kernel is this Python
    page.evaluate("console.error('planted'), fetch('http://gradembed.invalid').catch(() => 0)")
    assert [error.split(":")[0] for error in page.errors] == ["console", "load"]
