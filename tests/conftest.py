"""Settings for every test: shapes of results checked, drawing without a screen, fixed seeds, a clean environment."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from beartype import beartype
from hypothesis import settings
from jaxtyping import jaxtyped

from gradembed.gradients import Capture, LowRank
from gradembed.store import STORABLE

matplotlib.use("Agg")
pytest.register_assert_rewrite("_asserts", "_figures")  # so that they, too, say what they compared
settings.register_profile("same", derandomize=True, deadline=None, database=None)  # the same examples in every run
settings.load_profile("same")

# Every result's fields are checked against their annotated shapes while the tests run. Arguments are not: what a
# caller gets wrong must meet the library's own errors.
for result in (*STORABLE.values(), Capture, LowRank):
    jaxtyped(result, typechecker=beartype)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what is slow: of several processes none is left with it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(autouse=True)
def _isolated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("GRADEMBED_DATA", raising=False)
    torch.manual_seed(0)
    yield
    plt.close("all")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is ever shown: that is left to the caller."""
    calls = []

    def show(*args: object, **named: object) -> None:
        calls.append(args)

    monkeypatch.setattr(plt, "show", show)
    monkeypatch.setattr(plt.Figure, "show", show)
    yield
    assert calls == []


@pytest.fixture
def drawn() -> Iterator[None]:
    """Figures are drawn in the end: that is when some warnings come."""
    yield
    assert plt.get_fignums() != []
    for number in plt.get_fignums():
        plt.figure(number).canvas.draw()


@pytest.fixture
def run_python() -> Callable[[str], str]:
    """Run a program in a fresh interpreter and return what it printed."""

    def run(program: str) -> str:
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    return run
