"""Settings for every test: shapes of results checked, drawing without a screen, fixed seeds, a clean environment."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped

from gradembed.capture import Capture, Rows
from gradembed.store import STORABLE

matplotlib.use("Agg")

# Every result's fields are checked against their annotated shapes while the tests run. Arguments are not: what a
# caller gets wrong must meet the library's own errors.
for result in (*STORABLE.values(), Capture, Rows):
    jaxtyped(result, typechecker=beartype)


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("GRADEMBED_DATA", raising=False)
    torch.manual_seed(0)
    yield
    plt.close("all")


@pytest.fixture
def run_python() -> Callable[[str], str]:
    """Run a program in a fresh interpreter and return what it printed."""

    def run(program: str) -> str:
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    return run
