"""Sweeps: every setting once, in order, the same numbers everywhere, nothing lost to errors, Ctrl-C or dead workers."""

import builtins
import dataclasses
import functools
import gc
import importlib
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import cloudpickle
import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info
from torch import nn

import gradembed as ge
from gradembed.sweep._run import limited_threads

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers need not find this file
sweep = functools.partial(ge.sweep, progress=False)


# Functions to be swept. Each leaves a file for every call.


def note(folder, name):
    (Path(folder) / f"{name}-{uuid.uuid4().hex}").touch()


def calls(folder):
    """How often each setting was called."""
    names = [path.name.split("-")[0] for path in Path(folder).iterdir()]
    return {name: names.count(name) for name in sorted(names)}


def square(i, folder):
    note(folder, i)
    return {"square": i * i}


def train(width, seed):
    """Training, numbers from torch's global generator, the thread count."""
    drawn = torch.randn(()).item()
    config = ge.TrainConfig(epochs=2, seed=seed, progress=False)
    run = ge.train(ge.MLP([4, width, 3], seed=seed), ge.datasets.load_iris(), config)
    loss = float(run.history["train_loss"].iloc[-1])
    return {"loss": loss, "drawn": drawn, "threads": torch.get_num_threads()}


def picky(i, folder, bad=(2,), how="ZeroDivisionError"):
    note(folder, i)
    if i in bad and not (how == "KeyboardInterrupt" and calls(folder)[str(i)] > 1):
        raise getattr(builtins, how)(f"no {i}\nat all")
    return {"square": i * i}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "calls").mkdir()
    return str(tmp_path / "calls")


@pytest.fixture
def cache(tmp_path):
    return ge.Cache(tmp_path / "cache")


def entries(cache):
    return sorted(cache.folder.glob("*.json"))


def whole(cache):
    """No parts of files, and a tensor file and readable JSON for each entry."""
    for path in entries(cache):
        json.loads(path.read_text())
    expected = {name for path in entries(cache) for name in (path, path.with_suffix(".safetensors"))}
    return {*cache.folder.glob("*")} == expected


# Settings


def echo(**setting):
    return setting


@settings(max_examples=50)
@given(st.dictionaries(st.sampled_from("abcd"), st.lists(st.integers(0, 3), min_size=1, max_size=3), min_size=1))
def test_grid_has_every_combination_in_the_order_of_product(grid):
    result = sweep(echo, grid)  # the last name varies fastest
    assert [tuple(row.values()) for row in result.results] == list(itertools.product(*grid.values()))
    assert result.results == result.settings


def test_list_of_settings_keeps_its_order_and_values_arrive_as_plain_numbers_or_rows():
    rows = [{"a": 3}, {"b": 1}, {"a": 1, "b": 2}, {}]
    assert list(sweep(echo, iter(rows)).results) == rows
    for values in (np.arange(3), torch.arange(3), iter(range(3))):
        found = [row["a"] for row in sweep(echo, {"a": values}).results]
        assert [(type(value), value) for value in found] == [(int, 0), (int, 1), (int, 2)]
    assert torch.equal(torch.stack([row["a"] for row in sweep(echo, {"a": torch.eye(3)}).results]), torch.eye(3))


def test_equal_settings_are_computed_once_and_values_of_other_types_are_others(folder):
    rows = [{"i": i, "folder": folder} for i in (1, 2, np.int64(1), 1, 1.0, np.float32(1), True)]
    rows.append({"folder": folder, "i": 1})  # the order of names makes no other setting
    assert [row["square"] for row in sweep(square, rows).results] == [1, 4, 1, 1, 1, 1, 1, 1]
    assert calls(folder) == {"1": 1, "1.0": 1, "2": 1, "True": 1}


def test_calls_cannot_change_settings():
    def append(values, x):
        x += 1
        values.append(0)
        return len(values), float(x[0])

    shared, x = [1], torch.zeros(2)
    rows = [{"values": shared, "x": x}] * 2 + [{"values": shared, "x": torch.ones(2)}]
    assert sweep(append, rows).results == ((2, 1.0), (2, 1.0), (2, 2.0))
    assert (shared, x.tolist()) == ([1], [0, 0])


def test_partial_carries_what_calls_share(cache):
    function = functools.partial(functools.partial(lambda a, exponent, offset=0: a**exponent + offset, 2), offset=1)
    for _ in range(2):
        assert sweep(function, {"exponent": [1, 2]}, cache=cache).results == (3, 5)
        assert sweep(function, {"exponent": [1], "offset": [7]}, cache=cache).results == (9,)


class Unknown:
    def __repr__(self):
        return "Unknown"


@pytest.mark.parametrize(("arguments", "error", "message"), [
        ({"settings": {}}, ValueError, "`settings` should be a list of dictionaries, or a .*, not empty. Got list"),
        ({"settings": [3]}, TypeError, "`settings` should hold dictionaries. Got 3. Pass arguments by name"),
        ({"settings": [{1: 2}]}, TypeError, "`settings` should have strings as names. Got 1. Use the names"),
        ({"settings": {"i": "ab"}}, TypeError, r"`settings\['i'\]` should be a list of values. Got 'ab'. Pass a list"),
        ({"settings": {"i": []}}, ValueError, r"`settings\['i'\]` should be a list of values, not empty. Got list"),
        ({"settings": [{"i": 1}, {"j": 2}]}, TypeError,
         r"`settings` should fit the function. Got setting 1 \(j=2\): missing a required argument: 'i'. Name the"),
        ({"settings": [{"i": 1, "k": 1}]}, TypeError, "Got setting 0 .*: got an unexpected keyword argument 'k'"),
        ({"settings": [{"i": Unknown()}]}, TypeError,
         r"`settings` should hold numbers, .* of them. Got setting 0 \(i='Unknown Unknown'\): .*no content|`settings`"),
        ({"cache": "folder"}, TypeError, "`cache` should be a Cache. Got 'folder'. Pass gradembed.Cache.folder., or N"),
        ({"n_jobs": 0}, ValueError, "`n_jobs` should be positive, or negative to count from all cores. Got 0"),
])  # fmt: skip
def test_what_cannot_be_swept_is_refused_before_the_first_call(folder, arguments, error, message):
    def touch(i):
        note(folder, i)

    with pytest.raises(error, match=message):
        ge.sweep(**{"function": touch, "settings": [{"i": 0}], "progress": False} | arguments)
    assert calls(folder) == {}


# The same numbers everywhere


TRAININGS = {"width": [4, 8], "seed": range(2)}


@pytest.fixture(scope="module")
def reference():
    return sweep(train, TRAININGS)


def same(one, other):
    assert one.settings == other.settings
    assert one.results == other.results  # to the bit
    pd.testing.assert_frame_equal(one.to_frame(), other.to_frame(), check_exact=True)
    return True


def test_numbers_are_those_of_plain_calls_with_one_thread(reference):
    with limited_threads(1):
        expected = [train(**setting)["loss"] for setting in reference.settings]
    assert [row["loss"] for row in reference.results] == expected
    assert len(set(expected)) == 4


def test_numbers_from_the_global_generator_differ_by_setting_only_and_it_is_left_alone(reference):
    before = torch.get_rng_state()
    drawn = [row["drawn"] for row in reference.results]
    assert len(set(drawn)) == 4
    assert [row["drawn"] for row in sweep(train, list(reference.settings)[::-1]).results] == drawn[::-1]
    assert torch.equal(torch.get_rng_state(), before)
    assert train(4, 0)["drawn"] != train(4, 0)["drawn"]  # without a sweep they differ by call


@pytest.mark.parametrize("backend", ["threading", pytest.param("loky", marks=pytest.mark.slow)])
def test_threads_and_processes_give_the_same(reference, backend):
    with joblib.parallel_config(backend=backend, n_jobs=2):
        assert same(sweep(train, TRAININGS), reference)


def test_configured_number_of_jobs_is_used_and_none_means_one():
    def here(i):
        time.sleep(0.02)  # so that one thread cannot take all
        return threading.get_ident()

    one = (threading.get_ident(),) * 4
    assert sweep(here, {"i": range(4)}).results == one
    with joblib.parallel_config(backend="threading", n_jobs=2):
        assert not {*sweep(here, {"i": range(4)}).results} & {*one}
        assert sweep(here, {"i": range(4)}, n_jobs=1).results == one


def test_one_process_makes_one_call_at_a_time():
    running = []

    def overlap(i):
        running.append(i)
        time.sleep(0.01)
        n = len(running)
        running.pop()
        return n

    with joblib.parallel_config(backend="threading", n_jobs=4):
        assert sweep(overlap, {"i": range(8)}).results == (1,) * 8
        assert max(joblib.Parallel()(joblib.delayed(overlap)(i) for i in range(8))) > 1  # without a sweep they overlap


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.usefixtures("two_threads")
def test_threads_within_calls_are_limited_and_put_back(n_jobs):
    def counts(i, fails=False):
        if fails:
            raise ValueError
        return torch.get_num_threads(), max(pool["num_threads"] for pool in threadpool_info())

    before = threadpool_info()
    with joblib.parallel_config(backend="threading", n_jobs=n_jobs):
        assert set(sweep(counts, {"i": range(3)}).results) == {(1, 1)}
        assert {threads for threads, _ in sweep(counts, {"i": range(3)}, n_threads=2).results} == {2}
        sweep(counts, {"i": range(3), "fails": [True]}, on_error="keep")
    assert torch.get_num_threads() == 2
    assert threadpool_info() == before


@pytest.mark.parametrize("backend", ["sequential", "threading"])
def test_sweep_within_a_sweep_runs_in_its_call(backend):
    def inner(i, j):
        return threading.get_ident(), 10 * i + j

    def outer(i):
        result = sweep(functools.partial(inner, i), {"j": range(3)}, n_jobs=2)
        assert {thread for thread, _ in result.results} == {threading.get_ident()}
        return [value for _, value in result.results]

    with joblib.parallel_config(backend=backend, n_jobs=2):
        assert sweep(outer, {"i": range(4)}).results == tuple([10 * i + j for j in range(3)] for i in range(4))


def test_what_cannot_be_sent_is_refused_where_it_would_have_to_be():
    lock = threading.Lock()

    def locked(i):
        with lock:
            return i

    grid = {"i": [1, 2]}
    with joblib.parallel_config(backend="threading"):
        assert sweep(locked, grid, n_jobs=2).results == (1, 2)
    message = r"`function` should be something that can be sent to workers. Got function .*lock.* Make files, locks"
    with pytest.raises(TypeError, match=message):
        sweep(locked, grid, n_jobs=2)
    network = nn.Linear(1, 1)
    network.lock = lock
    with pytest.raises(TypeError, match=r"`settings` should be something that can be sent to .* Got dict .*lock"):
        sweep(echo, {"a": [network]}, n_jobs=2)


def test_worker_of_another_version_is_told_apart(monkeypatch, folder):
    monkeypatch.setattr(sys.modules["gradembed.sweep"], "versions", lambda: "gradembed 9.9 and torch 9.9")
    message = r"Got a worker with gradembed .*, where gradembed 9\.9 .* wanted at setting"
    with pytest.raises(RuntimeError, match=message):
        sweep(square, {"i": [1], "folder": [folder]})
    assert calls(folder) == {}


# Cache


def test_results_are_found_again_and_only_new_ones_computed(cache, folder):
    function = functools.partial(square, folder=folder)
    first = sweep(function, {"i": range(3)}, cache=cache)
    assert first.n_cached == 0
    assert len(entries(cache)) == 3
    second = sweep(function, {"i": range(5)}, cache=cache)
    assert calls(folder) == {str(i): 1 for i in range(5)}
    assert second.n_cached == 3
    assert sweep(function, [{"i": 1}, {"i": np.int64(1)}, {"i": 2}], cache=cache).n_cached == 3  # counted as they stand
    assert [row["square"] for row in second.results] == [0, 1, 4, 9, 16]
    pd.testing.assert_frame_equal(sweep(function, {"i": range(5)}).to_frame(), second.to_frame())


def scaled(i, by=1):
    return i * by


def test_whatever_changes_results_makes_another_entry(cache, monkeypatch):
    usual = {"function": scaled, "settings": {"i": [1]}, "cache": cache}
    with limited_threads(1):
        cache.call(scaled, i=1)  # there, random numbers start elsewhere
        assert len(entries(cache)) == 1
    assert [sweep(**usual).n_cached for _ in range(2)] == [0, 1]
    for change in ({"function": functools.partial(scaled, by=2)}, {"function": lambda i: -i}, {"n_threads": 2}):
        assert sweep(**usual | change).n_cached == 0
    assert sweep(**usual).n_cached == 1
    monkeypatch.setattr("gradembed.store._library_code", lambda home: f"other code than {home}")
    assert sweep(**usual).n_cached == 0


def test_result_is_stored_before_the_next_call(cache):
    def known(i, folder=str(cache.folder)):
        return len(list(Path(folder).glob("*.json")))

    assert sweep(known, {"i": range(4)}, cache=cache).results == (0, 1, 2, 3)
    with pytest.raises(TypeError, match=r"`function` should be known by its content, .*Got '<lambda>': .*Cache"):
        sweep(lambda i: (i, cache), {"i": range(4)}, cache=cache)


def test_result_that_cannot_be_stored_is_refused_with_its_setting(cache):
    message = r"`function` should return what the cache can store. Got something else at setting 2 \(i=2\): .*set \{1\}"
    with pytest.raises(TypeError, match=message):
        sweep(lambda i: {1} if i == 2 else i, {"i": range(4)}, cache=cache)
    assert len(entries(cache)) == 2


# Errors


def test_error_names_its_setting_after_the_others_were_stored(cache, folder):
    message = r"`function` should work at every setting. Got ZeroDivisionError: no 2 at all at setting 2 \(i=2, folder="
    message += (
        r".*\), and 1 more that failed. Mend it and sweep again: the results of the other settings are in the cache."
    )
    grid = {"i": range(6), "folder": [folder], "bad": [(2, 4)]}
    with pytest.raises(RuntimeError, match=message) as caught:
        sweep(picky, grid, cache=cache)
    assert 'raise getattr(builtins, how)(f"no {i}' in caught.value.__notes__[0]
    assert calls(folder) == {str(i): 1 for i in range(6)}
    assert len(entries(cache)) == 4
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        sweep(picky, grid, cache=cache)
    assert calls(folder) == {"0": 1, "1": 1, "2": 2, "3": 1, "4": 2, "5": 1}


def test_without_a_cache_an_error_ends_the_sweep(folder):
    with pytest.raises(RuntimeError, match=r"Got ZeroDivisionError: no 2 .* Mend it; with cache= other results"):
        sweep(picky, {"i": range(6), "folder": [folder]})
    assert calls(folder) == {"0": 1, "1": 1, "2": 1}
    with joblib.parallel_config(backend="threading", n_jobs=2), pytest.raises(RuntimeError, match="no 2 at all"):
        sweep(picky, {"i": range(50), "folder": [folder]})
    assert len(calls(folder)) < 50


@pytest.mark.parametrize("how", ["ZeroDivisionError", "SystemExit"])
def test_errors_can_be_kept(folder, how):
    result = sweep(picky, {"i": range(4), "folder": [folder], "how": [how]}, on_error="keep")
    assert result.errors == (None, None, f"{how}: no 2 at all", None)
    assert result.failed == [2]
    assert result.results == ({"square": 0}, {"square": 1}, None, {"square": 9})
    frame = result.to_frame()
    assert frame["error"].dropna().to_dict() == {2: f"{how}: no 2 at all"}
    assert frame["square"].dropna().to_dict() == {0: 0, 1: 1, 3: 9}
    assert repr(result) == "SweepResult(4 settings of 'picky', 0 from the cache, 1 failed)"


@pytest.mark.slow
def test_errors_in_processes(cache, folder):
    """One that cannot be pickled, a result that cannot be, an error, and a worker's death."""

    class OddError(Exception):
        def __init__(self, one, two):
            super().__init__(one + two)
            self.lock = threading.Lock()

    def fail(i, folder):
        note(folder, i)
        if i == 1:
            raise OddError("o", "dd")
        if i == 2:
            return (k for k in "generator")
        if i == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return i

    result = sweep(fail, {"i": [0, 1, 2, 4], "folder": [folder]}, n_jobs=2, on_error="keep")
    assert result.errors == (None, "OddError: odd", "TypeError: cannot pickle 'generator' object", None)
    assert result.results == (0, None, None, 4)
    function = functools.partial(fail, folder=folder)
    message = r"`function` should leave its worker alive. Got a worker that died .*SIGKILL.* after . settings. With"
    with pytest.raises(RuntimeError, match=message):
        sweep(function, {"i": [4, 5, 6, 7, 3, 8, 9]}, n_jobs=2, on_error="keep")
    assert calls(folder)["3"] == 1


# Ctrl-C


def test_interrupted_sweep_goes_on_where_it_stopped(cache, folder):
    function, grid = functools.partial(picky, how="KeyboardInterrupt", bad=(3,)), {"i": range(6), "folder": [folder]}
    with pytest.raises(KeyboardInterrupt):
        sweep(function, grid, cache=cache)
    assert whole(cache)
    assert len(entries(cache)) == 3
    assert [row["square"] for row in sweep(function, grid, cache=cache).results] == [0, 1, 4, 9, 16, 25]
    assert calls(folder) == {str(i): 1 + (i == 3) for i in range(6)}


SCRIPT = """
import sys, time
from pathlib import Path
import gradembed as ge

def slow(i, folder):
    (Path(folder) / f"{i}-{time.time_ns()}").touch()
    time.sleep(0.2)
    return i * i

if __name__ == "__main__":
    folder, cache = sys.argv[1:]
    ge.sweep(slow, {"i": range(12), "folder": [folder]}, cache=ge.Cache(cache), n_jobs=2)
"""


@pytest.mark.slow
def test_signal_of_the_keyboard(tmp_path, monkeypatch, cache, folder):
    """SIGINT goes to the whole process group, workers included, as from a terminal."""
    script = tmp_path / "slow_script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), folder, str(cache.folder)]
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may ignore it
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    signal.signal(signal.SIGINT, ours)
    deadline = time.time() + 120
    while len(entries(cache)) < 3 and time.time() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in errors
    assert "Warning" not in errors
    assert whole(cache)
    n_stored, before = len(entries(cache)), sum(calls(folder).values())
    assert 3 <= n_stored < 12
    assert before - n_stored <= 4  # no more than were in flight
    monkeypatch.syspath_prepend(tmp_path)
    result = sweep(importlib.import_module("slow_script").slow, {"i": range(12), "folder": [folder]}, cache=cache)
    assert result.results == tuple(i * i for i in range(12))
    assert result.n_cached == n_stored
    assert sum(calls(folder).values()) - before == 12 - n_stored


# Progress


def test_progress_covers_all_settings_and_counts_cached_ones_at_once(cache, capsys):
    rows = [{"i": 1}, {"i": 2}, {"i": 2}]
    ge.sweep(scaled, rows, cache=cache)
    assert "sweep scaled: 100%" in capsys.readouterr().err
    ge.sweep(scaled, [*rows, {"i": 3}], cache=cache)
    shown = re.findall(r"\d/\d", capsys.readouterr().err)
    assert (shown[0], shown[-1]) == ("0/4", "4/4")
    assert not {"1/4", "2/4"} & {*shown}
    ge.sweep(scaled, rows, progress=False)
    assert capsys.readouterr().err == ""


# Tables


def test_table_of_every_kind_of_result():
    library = ge.interference(ge.MLP([2, 4, 2], seed=0), torch.randn(5, 2), layers=["hidden1"])
    kinds = {"number": 1.5, "tensor": torch.tensor(2.5), "dict": {"a": 1, "b": np.float32(0.5)}, "none": []}
    kinds |= {"rows": [{"a": 1}, {"a": 2}], "frame": pd.DataFrame({"a": [3], "c": ["x"]}), "library": library}
    frame = sweep(lambda kind: kinds[kind], {"kind": list(kinds)}).to_frame()
    assert frame.columns[:2].tolist() == ["kind", "result"]
    expected = {"number": 1, "tensor": 1, "dict": 1, "rows": 2, "frame": 1, "library": len(library.to_frame())}
    assert frame["kind"].value_counts().to_dict() == expected
    assert frame["result"].dropna().tolist() == [1.5, 2.5]
    assert frame["a"].dropna().tolist() == [1, 1, 2, 3]
    assert frame["c"].dropna().tolist() == ["x"]
    assert set(frame["layer"].dropna()) == {"hidden1"}


def test_table_shows_settings_by_short_texts():
    rows = [{"widths": [4, 8], "activation": nn.Tanh, "x": torch.zeros(2)}, {"widths": (1,), "activation": echo}]
    frame = sweep(lambda **setting: len(setting), rows).to_frame().fillna("none")
    shown = [["[4, 8]", "Tanh", "a float32 tensor of shape [2]", 3], ["(1,)", "echo", "none", 2]]
    pd.testing.assert_frame_equal(frame, pd.DataFrame(shown, columns=["widths", "activation", "x", "result"]))


OTHER = r"`function` should return numbers, .*, to make a table. Got .* at setting 0 \(i=1\). Take what you need"


@pytest.mark.parametrize(("value", "error", "message"), [
    *((value, TypeError, OTHER) for value in (torch.zeros(2), [{"a": 1}, 2], object())),
    ({"i": 6}, ValueError, r"`function` should leave the settings' names their values. Got 'i': 6 at .*i=1\). Name")],
)  # fmt: skip
def test_table_of_other_results_or_of_contradicted_settings_is_refused(value, error, message):
    result = sweep(lambda i: {"i": i, "j": 1}, {"i": [1]})
    assert result.to_frame().to_dict("records") == [{"i": 1, "j": 1}]
    with pytest.raises(error, match=message):
        dataclasses.replace(result, results=(value,)).to_frame()


def test_long_settings_are_cut_in_messages():
    with pytest.raises(RuntimeError, match=r"at setting 0 \(text='a{191}\.\.\.\)\. Mend"):
        sweep(lambda text: int(text), {"text": ["a" * 500]})


# Dask


@pytest.fixture(scope="module")
def dask():
    """Two workers, processes of one thread each, on this machine; a task that takes one with it is given up."""
    config = pytest.importorskip("dask").config
    distributed = pytest.importorskip("distributed")
    quiet = {"distributed.scheduler.allowed-failures": 0, "distributed.admin.log-format": "%(message)s"}
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": 60}
    with config.set(quiet), distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        yield client


def hurried(i, folder):
    note(folder, i)
    time.sleep(0.05)
    return i


@pytest.mark.slow
def test_cluster_gives_the_same(dask, reference):
    with joblib.parallel_config(backend="dask"):
        assert same(sweep(train, TRAININGS), reference)
        assert set(sweep(lambda _: os.getpid(), {"_": range(8)}).results) <= set(dask.run(os.getpid).values())


@pytest.mark.slow
def test_only_the_setting_that_kills_its_worker_alone_fails(dask, cache, folder, monkeypatch):
    """Dask blames whatever is on a worker when it dies, and gives it up: it gets a second chance alone."""

    def deadly(i, folder):
        note(folder, i)
        if i == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return i * i

    keep, kept = ge.Cache._keep, []
    monkeypatch.setattr(ge.Cache, "_keep", lambda self, path, *rest: (kept.append(path), keep(self, path, *rest)))
    with joblib.parallel_config(backend="dask"):
        result = sweep(deadly, {"i": range(8), "folder": [folder]}, cache=cache, on_error="keep")
    assert result.failed == [2]
    assert result.errors[2].startswith("a task that the cluster gave up: KilledWorker: ")
    assert result.results == tuple(None if i == 2 else i * i for i in range(8))
    assert calls(folder)["2"] == 2
    assert len(kept) == len(set(kept)) == len(entries(cache)) == 7
    assert whole(cache)


# A client that closes between two steps of its own loop drops a coroutine that it has made and not begun, once in a
# hundred times. Python warns of it when the coroutine is collected: within the test, by the last line.
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.slow
def test_cluster_that_goes_away_ends_the_sweep(dask, cache, folder):
    def leave(client):
        while not entries(cache):
            time.sleep(0.01)
        client.close()

    client = type(dask)(dask.scheduler.address, set_as_default=False)
    thread = threading.Thread(target=leave, args=(client,))
    thread.start()
    message = "`backend` should stay connected to its cluster. Got a client that is clos(ing|ed). Start a cluster and"
    with joblib.parallel_config(backend="dask", client=client):
        with pytest.raises(RuntimeError, match=message):
            sweep(hurried, {"i": range(50), "folder": [folder]}, cache=cache)
        thread.join()
        with pytest.raises(RuntimeError, match=message):  # it is gone beforehand
            sweep(hurried, {"i": [50], "folder": [folder]}, cache=cache)
    assert whole(cache)
    assert 1 <= len(entries(cache)) < 50
    with joblib.parallel_config(backend="dask"):
        assert sweep(hurried, {"i": range(50), "folder": [folder]}, cache=cache).results == tuple(range(50))
    del client
    gc.collect()


@pytest.mark.slow
def test_interruption_on_a_cluster_calls_off_what_is_left(dask, cache, folder, monkeypatch):
    keep = ge.Cache._keep

    def interrupted(self, path, *rest):
        keep(self, path, *rest)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, joblib.parallel_config(backend="dask"):
        patch.setattr(ge.Cache, "_keep", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sweep(hurried, {"i": range(40), "folder": [folder]}, cache=cache)
    time.sleep(0.5)
    assert len(calls(folder)) < 15  # the others are not computed behind one's back
    assert whole(cache)
    with joblib.parallel_config(backend="dask"):
        assert sweep(hurried, {"i": range(40), "folder": [folder]}, cache=cache).n_cached == 1
