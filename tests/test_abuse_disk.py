"""Interruptions, full disks and folders that cannot be written: nothing half-done remains, and a second try works."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from _abuse import assert_house_grammar, numbers_of, portrait, weights
from _abuse_embeddings import PLACES, embedder, make_fields
from _abuse_networks import X, chain, config, general, split
from sklearn.exceptions import NotFittedError
from torch import nn

import gradembed as ge
from gradembed.training._optimization import Stack

FULL = OSError(errno.ENOSPC, "No space left on device")
READ_ONLY = OSError(errno.EROFS, "Read-only file system")


def everything_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, at: int) -> Iterator[list[int]]:
    """Ctrl-C when something is called for the at-th time."""
    original, calls = getattr(owner, name), [0]

    def stop(*args, **named):
        calls[0] += 1
        if calls[0] == at:
            raise KeyboardInterrupt
        return original(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stop)
        yield calls


# Ctrl-C in the middle of a call


def trained(**changes: object) -> ge.TrainingRun:
    return ge.train(chain(torch.float32), split(), config(**changes))


def members(n: int = 3, **changes: object) -> ge.MLPEnsemble:
    return ge.train_ensemble(split(), [4, 5, 3], n, config(**changes), group_size=2)


ESTIMATORS = {
    "GradientFieldEmbedder": (lambda: embedder(max_steps=4), make_fields, torch.optim.AdamW, "step"),
    "RowEmbedder": (lambda: ge.RowEmbedder(2, max_steps=4), lambda u=8: PLACES[:u].numpy(), torch.optim.AdamW, "step"),
    "FieldDescriptor": (lambda: ge.FieldDescriptor(n_features=8), make_fields, torch, "rand"),
}
LEARNING: dict[str, tuple[Callable[[], object], object, str, int]] = {
    # what is called, where it is interrupted, and how often that is reached
    "train, a step": (trained, torch.optim.AdamW, "step", 6),
    "train, the test part": (trained, torch.nn.functional, "cross_entropy", 8),
    "train_ensemble, a step": (members, Stack, "step", 12),
    **{f"{name}, a step": (lambda make=make, data=data: make().fit_transform(data()), owner, method, 4)
       for name, (make, data, owner, method) in ESTIMATORS.items() if name != "FieldDescriptor"},
}  # fmt: skip


@pytest.mark.parametrize("name", LEARNING)
@pytest.mark.parametrize("is_last", [False, True])
def test_interrupted_learning_leaves_no_trace_and_can_be_begun_again(monkeypatch, name, is_last):
    call, owner, method, n = LEARNING[name]
    expected, before = numbers_of(call()), portrait({})
    at = n if is_last else 1
    with interrupted(monkeypatch, owner, method, at) as calls, pytest.raises(KeyboardInterrupt):
        call()
    assert calls == [at]
    assert portrait({}) == before
    for number, again in zip(expected, numbers_of(call()), strict=True):
        assert torch.equal(number, again)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_an_interrupted_fit_is_none_and_a_former_one_stays(monkeypatch, name):
    make, data, owner, method = ESTIMATORS[name]
    estimator = make()
    with interrupted(monkeypatch, owner, method, 1), pytest.raises(KeyboardInterrupt):
        estimator.fit(data())
    assert vars(estimator) == vars(make())
    with pytest.raises(NotFittedError):
        estimator.transform(data())
    expected = make().fit(data()).transform(data())
    assert np.array_equal(estimator.fit(data()).transform(data()), expected)
    with interrupted(monkeypatch, owner, method, 1), pytest.raises(KeyboardInterrupt):
        estimator.fit(data(u=6))
    assert np.array_equal(estimator.transform(data()), expected)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_fit_that_is_refused_half_way_is_none(name):
    make, data, *_ = ESTIMATORS[name]
    estimator, wrong = make(), data()
    if name == "RowEmbedder":
        wrong = np.full((8, 2), np.nan)
    else:
        wrong = ge.GradientFields(wrong.points, wrong.gradients * 0, wrong.values * 0)
    with pytest.raises(ValueError, match=r"vary at the points|NaN"):
        estimator.fit(wrong).transform(wrong)
    if name != "FieldDescriptor":  # which looks at the points only until it describes
        assert vars(estimator) == vars(make())


class Stopped(nn.Module):
    """Ctrl-C in the at-th forward pass."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.network, self.at, self.calls = general(), at, [0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls[0] += 1
        if self.calls[0] == self.at:
            raise KeyboardInterrupt
        return self.network(x)


def ablate(model: nn.Module) -> None:
    with ge.ablated(model, "network.stem", [0]):
        for _ in range(4):
            model(X)


READING = {
    "unit_gradients": lambda m: ge.unit_gradients(m, X, "network.stem", chunk_size=4),
    "interference": lambda m: ge.interference(m, X, layers=["network.stem", "input"], chunk_size=4),
    "gradient_tree": lambda m: ge.gradient_tree(m, X, layers=["network.stem"], tolerance=0.01),
    "gradient_fields": lambda m: ge.gradient_fields(m, X, wrt="network.stem"),
    "task_modules": lambda m: ge.task_modules(m, X, "network.stem", chunk_size=4),
    "ablated": ablate,
}


@pytest.mark.parametrize("name", READING)
@pytest.mark.parametrize("at", [1, 4])
def test_interrupted_reading_of_a_network_leaves_it_as_it_was(name, at):
    model = Stopped(at).train()
    arguments = {"model": model}
    before, old = portrait(arguments), weights(arguments)
    with pytest.raises(KeyboardInterrupt):
        READING[name](model)
    assert model.calls == [at]
    assert (portrait(arguments), weights(arguments)) == (before, old)


# Disks


STEPS = pytest.mark.parametrize("step", ["mkdir", "write_bytes", "replace"])


@contextmanager
def broken_disk(monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException) -> Iterator[None]:
    """The next folder cannot be made, file written (it ends half-way), or moved."""
    write = Path.write_bytes

    def fail(path: Path, *content: object, **_: object) -> None:
        if step == "write_bytes":
            write(path, content[0][: len(content[0]) // 2])
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(Path, step, fail)
        yield


@STEPS
@pytest.mark.parametrize("error", [FULL, READ_ONLY, KeyboardInterrupt()], ids=["full", "read-only", "Ctrl-C"])
def test_fields_are_saved_whole_or_not_at_all(tmp_path, monkeypatch, step, error):
    fields, path = make_fields(), tmp_path / "fields.safetensors"
    fields[:3].save(path)
    before = everything_below(tmp_path)
    with broken_disk(monkeypatch, step, error), pytest.raises(type(error)) as caught:
        fields.save(path)
    if isinstance(error, OSError):
        assert_house_grammar(caught.value, "path")
        assert error.strerror in str(caught.value)
    assert everything_below(tmp_path) == before
    assert len(ge.GradientFields.load(path)) == 3
    fields.save(path)
    assert len(ge.GradientFields.load(path)) == 8


def below_a_file(folder: Path) -> Path:
    """A path that nobody can write to, the superuser neither."""
    (folder / "file").write_text("no folder")
    return folder / "file" / "deeper" / "fields"


def closed(folder: Path) -> object:
    with (folder / "closed").open("wb") as file:
        return file


@pytest.mark.parametrize(("make", "error"), [(below_a_file, OSError), (Path, OSError), (closed, TypeError)])
def test_places_that_are_no_files_are_refused(tmp_path, make, error):
    place = make(tmp_path)
    before = everything_below(tmp_path)
    for call in (make_fields().save, ge.GradientFields.load):
        with pytest.raises(error) as caught:
            call(place)
        assert_house_grammar(caught.value, "path")
    assert everything_below(tmp_path) == before


def test_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / "fields"
    for content in (b"", b"nonsense" * 20):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"GradientFields\.save wrote") as caught:
            ge.GradientFields.load(path)
        assert_house_grammar(caught.value, "path")
    with pytest.raises(FileNotFoundError, match="`path` should name a file that can be read"):
        ge.GradientFields.load(tmp_path / "nowhere")


CALLS = {
    "train": lambda cache: cache.call(ge.train, chain(torch.float32), split(), config()),
    "interference": lambda cache: cache.call(ge.interference, chain(), X),
    "sweep": lambda cache: ge.sweep(scored, {"seed": [0, 1]}, cache=cache, progress=False).results,
}


def scored(seed: int) -> dict[str, float]:
    return {"score": trained(seed=seed).test_accuracy or 0.0}


@pytest.mark.parametrize("name", CALLS)
@STEPS
def test_a_disk_that_breaks_costs_a_warning_or_the_call_and_leaves_no_entry(tmp_path, monkeypatch, name, step):
    cache = ge.Cache(tmp_path / "cache")
    with broken_disk(monkeypatch, step, KeyboardInterrupt()), pytest.raises(KeyboardInterrupt):
        CALLS[name](cache)
    warned = pytest.warns(UserWarning, match=r"cannot be written .*No space left")
    with broken_disk(monkeypatch, step, FULL), warned:
        found = numbers_of(CALLS[name](cache))
    assert list(cache.folder.rglob("*")) == []
    for _ in range(2):  # computed, and read
        assert all(map(torch.equal, found, numbers_of(CALLS[name](cache))))


# Nowhere to draw a progress bar

WITH_A_BAR = {
    "train": lambda: trained(progress=True).model,
    "train_ensemble": lambda: members(2, progress=True),
    "GradientFieldEmbedder": lambda: embedder(progress=True).fit_transform(make_fields()),
    "sweep": lambda: ge.sweep(scored, {"seed": [0, 1]}, progress=True).results,
}


@pytest.mark.parametrize("name", WITH_A_BAR)
@pytest.mark.parametrize("kind", ["closed", "none"])
def test_without_standard_error_there_is_no_bar_and_no_error(tmp_path, monkeypatch, name, kind):
    expected = numbers_of(WITH_A_BAR[name]())
    monkeypatch.setattr(sys, "stderr", closed(tmp_path) if kind == "closed" else None)
    found = numbers_of(WITH_A_BAR[name]())
    monkeypatch.undo()
    assert all(map(torch.equal, found, expected))
