"""Results on disk: what counts as an equal call, exact round trips, damage, and files written whole or not at all."""

import copy
import dataclasses
import errno
import functools
import hashlib
import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gradembed as ge
from gradembed import store
from gradembed._files import write_atomically
from gradembed.store import fingerprint

IRIS = ge.datasets.load_iris()
QUICK = ge.TrainConfig(epochs=2, batch_size=32, progress=False)
CALLS = []


@pytest.fixture(autouse=True)
def calls():
    CALLS.clear()
    return CALLS


@pytest.fixture
def cache(tmp_path):
    return ge.Cache(tmp_path / "cache")


# Functions to be called through the cache. Each notes that it ran.


def echo(value=None, *rest, **named):
    CALLS.append("echo")
    return 1


def give(number):
    """One of the values below: what is returned, not what is passed, is tried."""
    CALLS.append("give")
    return VALUES[number]


def train(model, split, config):
    CALLS.append("train")
    return ge.train(model, split, config)


def interference(model, x):
    CALLS.append("interference")
    return ge.interference(model, x, layers=["input", "hidden1", "hidden1.linear"])


def unit_gradients(model, x):
    CALLS.append("unit_gradients")
    return ge.unit_gradients(model, x, "hidden1")


def sum_of(x):
    CALLS.append("sum_of")
    return {"sum": float(x.sum()), "x": x}


def raise_error():
    CALLS.append("raise_error")
    raise ZeroDivisionError


def files(cache):
    return sorted(path.name for path in cache.folder.iterdir()) if cache.folder.is_dir() else []


def entry(cache, suffix=".json"):
    (path,) = cache.folder.glob(f"*{suffix}")
    return path


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def equal(one, other):
    """Equal in type and content, to the bit, all the way down."""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        kinds = one.dtype == other.dtype and one.shape == other.shape
        return kinds and one.numpy().tobytes() == other.numpy().tobytes()
    if isinstance(one, pd.DataFrame):
        pd.testing.assert_frame_equal(one, other, check_exact=True)
        return True
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if dataclasses.is_dataclass(one):
        return all(equal(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(one))
    return repr(one) == repr(other)


# Read, not computed


def test_equal_call_is_read(cache):
    x = torch.randn(3, 2)
    first = cache.call(sum_of, x)
    second = cache.call(sum_of, x.clone())
    assert CALLS == ["sum_of"]
    assert equal(first, second)
    assert float(x.sum()) == second["sum"]


def test_another_cache_on_the_same_folder_reads_too(cache):
    cache.call(echo, 1)
    ge.Cache(str(cache.folder)).call(echo, 1)
    assert CALLS == ["echo"]


def test_another_folder_has_nothing(cache, tmp_path):
    cache.call(echo, 1)
    ge.Cache(tmp_path / "other").call(echo, 1)
    assert CALLS == ["echo", "echo"]


def test_names_of_arguments_do_not_matter(cache):
    x = torch.randn(3)
    cache.call(sum_of, x)
    cache.call(sum_of, x=x)
    assert CALLS == ["sum_of"]


def changed(model, **changes):
    model = copy.deepcopy(model)
    for name, value in changes.items():
        setattr(model, name, value)
    return model


def with_weight(value):
    model = ge.MLP([4, 8, 3], seed=0)
    with torch.no_grad():
        model.hidden1.linear.weight[2, 1] = value
    return model


NETWORK = ge.MLP([4, 8, 3], seed=0)
NORM = nn.BatchNorm1d(3)
CONFIG = ge.TrainConfig(epochs=3)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.zeros(3), torch.tensor([0, 0, 1e-45])),
        (torch.zeros(3), torch.zeros(3, dtype=torch.float64)),
        (torch.zeros(3), torch.zeros(1, 3)),
        (torch.zeros(2, 3), torch.zeros(3, 2)),
        (torch.zeros(0), torch.zeros(0, 2)),
        (torch.tensor(1), torch.tensor([1])),
        (torch.zeros(3), np.zeros(3, dtype=np.float32)),
        (np.zeros(3), np.zeros(3, dtype=np.int64)),
        (np.array(["a", "b"]), np.array(["a", "c"])),
        (with_weight(1.0), with_weight(1.000001)),
        (NETWORK, copy.deepcopy(NETWORK).double()),
        (NETWORK, copy.deepcopy(NETWORK).eval()),
        (NETWORK, ge.MLP([4, 8, 3], nn.Tanh, seed=0)),
        (NETWORK, nn.Sequential(*NETWORK.children())),
        (NORM, changed(NORM, momentum=0.5)),
        (NORM, changed(NORM, running_mean=torch.ones(3))),
        (CONFIG, dataclasses.replace(CONFIG, epochs=4)),
        (CONFIG, dataclasses.replace(CONFIG, seed=1)),
        (CONFIG, dataclasses.replace(CONFIG, learning_rate=0.0061)),
        (CONFIG, dataclasses.replace(CONFIG, device="cpu")),
        (IRIS, dataclasses.replace(IRIS, source="elsewhere")),
        (IRIS, dataclasses.replace(IRIS, x_test=IRIS.x_test.roll(1, 0))),
        ([1, 2], [2, 1]),
        ([1, 2], (1, 2)),
        ({"a": 1}, {"b": 1}),
        ({"a": 1}, {"a": 2}),
        ({"a": "b"}, ["a", "b"]),
        ([["a"], ["b"]], [["a", "b"]]),
        ([["a"], "b"], [["a", "b"]]),
        ([[], ["a"]], [["a"], []]),
        (["ab"], ["a", "b"]),
        (["a", "b"], ["a;<str>'b"]),
        ("a", b"a"),
        ("a", Path("a")),
        (1, True),
        (1, 1.0),
        (1, "1"),
        (1.0, "1.0"),
        (True, "True"),
        (None, "None"),
        (0, False),
        (0, None),
        (0.0, -0.0),
        (1.0, math.nextafter(1.0, 2)),
        (math.inf, math.nan),
        (echo, sum_of),
    ],
)
def test_any_difference_in_content_makes_another_call(cache, one, other):
    assert fingerprint(one) != fingerprint(other)
    cache.call(echo, one)
    cache.call(echo, other)
    assert CALLS == ["echo", "echo"]
    assert len(files(cache)) == 4


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.arange(6.0).reshape(2, 3).T, torch.tensor([[0.0, 3], [1, 4], [2, 5]])),
        (torch.zeros(3), torch.zeros(3, requires_grad=True)),
        (np.asfortranarray(np.ones((3, 2))), np.ones((3, 2))),
        (NETWORK, copy.deepcopy(NETWORK)),
        (NETWORK, ge.MLP([4, 8, 3], seed=0)),
        (CONFIG, ge.TrainConfig(epochs=3)),
        (CONFIG, dataclasses.replace(CONFIG, progress=False)),
        (IRIS, ge.datasets.load_iris()),
        (math.nan, float("nan")),
        ({"a": [1, (2.0, None)]}, {"a": [1, (2.0, None)]}),
        (Path("a") / "b", Path("a/b")),
    ],
)
def test_equal_content_makes_an_equal_call(cache, one, other):
    assert fingerprint(one) == fingerprint(other)
    cache.call(echo, one)
    cache.call(echo, other)
    assert CALLS == ["echo"]
    assert len(files(cache)) == 2


def test_number_and_boundaries_of_arguments_matter(cache):
    for arguments, named in [(("ab",), {}), (("a", "b"), {}), (("a",), {"b": 1}), ((["a", "b"],), {}), ((), {})]:
        cache.call(echo, *arguments, **named)
    assert len(CALLS) == 5


scalars = st.sampled_from([None, True, False, 0, 1, 0.0, -0.0, 1.0, "", "0", "1", "a", "a;", b"", b"a", "</>", "<str>"])
nested = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
    ),
    max_leaves=5,
)


@settings(max_examples=300)
@given(nested, nested)
def test_fingerprints_are_equal_exactly_if_types_and_contents_are(one, other):
    assert (fingerprint(one) == fingerprint(other)) == (repr(one) == repr(other))


def test_fingerprint_is_a_sha256():
    assert len(bytes.fromhex(fingerprint(1))) == 32


def test_source_of_a_network_matters(tmp_path, monkeypatch):
    """Two classes of the same name, structure and state, and other arithmetic."""
    monkeypatch.syspath_prepend(tmp_path)
    networks = []
    for name, sign in (("net_one", "+"), ("net_two", "-"), ("net_three", "+")):
        text = f"from torch import nn\nclass Net(nn.Identity):\n    def forward(self, x):\n        return {sign}x\n"
        (tmp_path / f"{name}.py").write_text(text)
        networks.append(importlib.import_module(name).Net())
    one, other, again = networks
    assert repr(one) == repr(other)
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(again)


class Box(nn.Module):
    def __init__(self, inner, factor=1.0, kept=False):
        super().__init__()
        self.inner, self.factor = inner, factor
        self.register_buffer("mask", torch.full((3,), factor), persistent=kept)


def frozen():
    model = copy.deepcopy(NETWORK)
    model.hidden1.requires_grad_(False)
    return model


def tied(sharing):
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    with torch.no_grad():
        for layer in model:
            layer.weight.copy_(torch.eye(3))
    if sharing:
        model[1].weight = model[0].weight
    return model


@pytest.mark.parametrize(
    ("one", "other"),
    [(NETWORK, frozen()), (Box(NETWORK, 1.0), Box(NETWORK, 2.0)), (tied(False), tied(True))],
    ids=["requires_grad", "attributes and buffers that are not saved", "shared parameters"],
)
def test_whatever_else_decides_what_a_network_does_matters(one, other):
    assert fingerprint(one) != fingerprint(other)


def scaled_by(factor):
    def scaled(x):
        return float(x) * factor

    return scaled


def scaled_by_default(factor):
    def scaled(x, factor=factor):
        return float(x) * factor

    return scaled


@pytest.mark.parametrize("make", [scaled_by, scaled_by_default])
def test_function_that_carries_a_value_is_another_for_another_value(cache, make):
    assert cache.call(make(2), 10) == 20
    assert cache.call(make(3), 10) == 30


@pytest.mark.parametrize(
    ("target", "value"),
    [
        ("gradembed.store._library", lambda: "another source"),
        ("torch.__version__", "0.0"),
        ("torch.get_num_threads", lambda: 97),
        ("torch.cuda.is_available", lambda: "surely"),
    ],
)
def test_library_and_machine_matter(cache, monkeypatch, target, value):
    cache.call(echo)
    cache.call(echo)
    assert CALLS == ["echo"]
    monkeypatch.setattr(target, value)
    cache.call(echo)
    assert CALLS == ["echo", "echo"]


def test_library_is_known_by_its_source(monkeypatch):
    """Every file but those that draw."""
    before = store._library.__wrapped__()
    assert store._library.__wrapped__() == before
    read = Path.read_bytes
    for name, differs in (("_frame.py", False), ("_loop.py", True), ("_chain.py", True)):
        monkeypatch.setattr(Path, "read_bytes", lambda path, name=name: read(path) + b"#" * (path.name == name))
        assert (store._library.__wrapped__() != before) is differs


@pytest.mark.slow
def test_entry_is_found_by_another_process(cache):
    folder = str(cache.folder)
    code = f"import gradembed as ge; ge.Cache({folder!r}).call(ge.datasets.load_iris, 0.2, seed=1)"
    for seed in "12":
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": seed})
    assert len(files(cache)) == 2


# Exact round trips


def twice(cache, function, *arguments):
    """The result as computed, and as read."""
    first = cache.call(function, *arguments)
    n_calls = len(CALLS)
    second = cache.call(function, *copy.deepcopy(arguments))
    assert len(CALLS) == n_calls
    return first, second


VALUES = [
    None, True, False, 0, -7, 10**30, 0.1, -0.0, math.nan, math.inf, -math.inf, 5e-324, "", "ä €\n\0", "NaN",
    [], (), {}, [1, [2.0, (None, ["x"])], ()], (1,), {"a": {"b": [True]}, "": 0}, {"tensor": "x", "module": 0},
    {"dict": {"tuple": [1]}, "frame": {}, "result": "Split", "fields": {}},
    torch.tensor(1.5), torch.zeros(0, 3), torch.tensor([math.nan, -0.0]), torch.tensor([True, False]),
    torch.arange(5, dtype=torch.int8), torch.ones(2, dtype=torch.float16), torch.eye(3, dtype=torch.float64),
    torch.arange(6).reshape(2, 3).T, [torch.zeros(2), {"x": torch.ones(2)}, (torch.full((2,), 2.0),)],
    {"a.b": torch.zeros(1), "c": torch.ones(1), "": torch.ones(2)},
    pd.DataFrame({"i": [1, 2], "f": [0.1, math.nan], "s": ["x", "y"], "b": [True, False]}),
    pd.DataFrame({"i": np.array([1, 2], dtype=np.int8), "f": np.array([0.1, 2], dtype=np.float32)}),
    pd.DataFrame({"f": np.zeros(0)}), pd.DataFrame({"dtype": [1], "values": [2]}),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_values_come_back_exactly(cache, number):
    first, second = twice(cache, give, number)
    assert first is VALUES[number]
    assert equal(second, first)


@pytest.mark.parametrize(
    ("one", "other"),
    [(0.0, -0.0), (1, 1.0), (1, True), ((1,), [1]), ({"a": 1, "b": 2}, {"b": 2, "a": 1}), (0.1 + 0.2, 0.3),
     (torch.zeros(2), torch.zeros(2, 1)), (torch.zeros(2), torch.zeros(2).double()),
     ([torch.zeros(2)], [-torch.zeros(2)])],
)  # fmt: skip
def test_the_comparison_used_here_is_strict(one, other):
    assert not equal(one, other)


def give_same_names():
    return {"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1)}


def test_tensors_do_not_get_mixed_up(cache):
    _, second = twice(cache, give_same_names)
    assert (float(second["a"]["b"]), float(second["a.b"])) == (0, 1)


FRAMES = [
    pd.DataFrame({0: [1, 2], 1: [3, 4]}),
    pd.DataFrame({"a": [1, 2]}, index=["x", "y"]),
    pd.DataFrame({"a": [1, 2, 3]}).iloc[1:],
    pd.DataFrame({"a": pd.Categorical(["b", "a"], categories=["b", "a", "c"], ordered=True)}),
    pd.DataFrame({"a": pd.to_datetime(["2020-01-01"])}),
    pd.DataFrame([[1, 2]], columns=["a", "a"]),
]


def give_frame(number):
    return FRAMES[number]


@pytest.mark.parametrize("number", range(len(FRAMES)))
def test_other_frames_come_back_exactly_or_are_refused(cache, number):
    try:
        _, second = twice(cache, give_frame, number)
    except TypeError as error:
        assert "`function` should return what can be stored" in str(error)  # noqa: PT017
    else:
        assert equal(second, FRAMES[number])


def test_interference_comes_back_exactly(cache):
    first, second = twice(cache, interference, NETWORK, IRIS.x_test)
    assert type(second) is ge.Interference
    assert equal(first, second)
    assert second.layers == ("input", "hidden1", "hidden1.linear")
    assert second.to_frame().equals(first.to_frame())


def test_unit_gradients_come_back_exactly(cache):
    first, second = twice(cache, unit_gradients, NETWORK, IRIS.x_test)
    assert type(second) is ge.UnitGradients
    assert equal(first, second)


def give_split():
    CALLS.append("give_split")
    return IRIS, QUICK


def test_data_and_settings_come_back_exactly(cache):
    _, (split, config) = twice(cache, give_split)
    assert equal(split, IRIS)
    assert config == QUICK


def normed():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()


@pytest.mark.parametrize("make", [lambda: ge.MLP([4, 8, 3], seed=0), normed], ids=["MLP", "batch norm"])
def test_training_run_comes_back_exactly_and_fills_the_network(cache, make):
    model, other = make(), make()
    before = copy.deepcopy(model.state_dict())
    first = cache.call(train, model, IRIS, QUICK)
    second = cache.call(train, other, IRIS, QUICK)
    assert CALLS == ["train"]
    assert first.model is model
    assert second.model is other
    assert same(model.state_dict(), other.state_dict())
    assert not same(before, other.state_dict())
    assert other.training is model.training
    assert equal(first.history, second.history)
    assert second.history.dtypes.map(str).tolist() == ["int64"] + ["float64"] * 6
    assert (first.test_accuracy, first.test_r2, first.seconds) == (second.test_accuracy, second.test_r2, second.seconds)
    assert second.config == QUICK


def test_trained_network_passed_by_name_is_filled(cache):
    cache.call(train, ge.MLP([4, 8, 3], seed=0), IRIS, QUICK)
    model = ge.MLP([4, 8, 3], seed=0)
    run = cache.call(train, config=QUICK, split=IRIS, model=model)
    assert CALLS == ["train"]
    assert run.model is model


def push_second(a, b):
    with torch.no_grad():
        b.weight.add_(1)
    return b


def test_order_of_named_arguments_does_not_mix_up_networks(cache):
    def pair():
        torch.manual_seed(0)
        return nn.Linear(1, 1), nn.Linear(1, 1)

    a, b = pair()
    assert cache.call(push_second, a=a, b=b) is b
    a, b = pair()
    untouched = copy.deepcopy(a.state_dict())
    assert cache.call(push_second, b=b, a=a) is b
    assert same(a.state_dict(), untouched)


def test_library_function_itself_can_be_called(cache):
    x = torch.randn(5, 4)
    first = cache.call(ge.interference, NETWORK, x, layers=["input"])
    second = cache.call(ge.interference, NETWORK, x, layers=["input"])
    assert equal(first, second)
    assert second is not first


# What is on disk


def test_nothing_is_pickled(cache, monkeypatch):
    monkeypatch.setattr(torch, "save", None)
    monkeypatch.setattr("pickle.dumps", None)
    monkeypatch.setattr("pickle.dump", None)
    cache.call(train, ge.MLP([4, 8, 3], seed=0), IRIS, QUICK)
    stem = entry(cache).stem
    assert files(cache) == [f"{stem}.json", f"{stem}.safetensors"]
    assert stem.startswith("train-")
    tree = json.loads(entry(cache).read_text())
    content = entry(cache, ".safetensors").read_bytes()
    assert tree["sha256"] == hashlib.sha256(content).hexdigest()
    assert len(safetensors.torch.load(content)) == 4


def test_folder_is_made_when_it_is_needed(tmp_path):
    cache = ge.Cache(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()
    cache.call(echo)
    assert len(files(cache)) == 2


def test_function_that_fails_leaves_nothing(cache):
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            cache.call(raise_error)
    assert CALLS == ["raise_error", "raise_error"]
    assert files(cache) == []


# Refusals


@pytest.mark.parametrize(
    "argument",
    [{1}, object(), iter([1]), dict, torch.device("cpu"), 1j, np.int64(1), [1, {"a": object()}], len,
     functools.partial(echo)],
)  # fmt: skip
def test_argument_without_content_is_refused_before_anything_runs(cache, argument):
    with pytest.raises(TypeError, match=r"`args` should have a content to hash\. Got .* Pass numbers"):
        cache.call(echo, argument)
    with pytest.raises(TypeError, match="`args` should have a content to hash"):
        fingerprint(argument)
    assert CALLS == []


@pytest.mark.parametrize("argument", [np.array(["a", None], dtype=object)])
def test_tensor_without_content_is_refused_likewise(argument):
    with pytest.raises(TypeError, match="`args` should have a content to hash"):
        fingerprint(argument)


def test_wrong_arguments_are_refused(cache):
    with pytest.raises(TypeError, match="missing a required argument: 'x'"):
        cache.call(sum_of)
    with pytest.raises(TypeError, match="unexpected keyword argument 'y'"):
        cache.call(sum_of, torch.zeros(1), y=1)
    assert CALLS == []


class Unknown:
    pass


UNSTORABLE = [{1}, object(), 1j, b"bytes", np.zeros(2), {1: 2}, {"a": {None: 1}}, [1, (2, Unknown())], Path("a")]


def give_unstorable(number):
    CALLS.append("give_unstorable")
    return UNSTORABLE[number]


@pytest.mark.parametrize("number", range(len(UNSTORABLE)))
def test_result_that_cannot_be_stored_is_refused(cache, number):
    message = (
        "`function` should return what can be stored. Got .* Return numbers, tensors, plain data frames or results"
    )
    with pytest.raises(TypeError, match=message):
        cache.call(give_unstorable, number)
    assert CALLS == ["give_unstorable"]
    assert files(cache) == []


def give_network():
    return nn.Linear(2, 2)


def give_copy(model):
    return copy.deepcopy(model)


def give_inner(model):
    return model[0]


@pytest.mark.parametrize(
    ("function", "arguments"),
    [(give_network, []), (give_copy, [nn.Linear(2, 2)]), (give_inner, [nn.Sequential(nn.Linear(2, 2))])],
)
def test_network_that_was_not_passed_is_refused(cache, function, arguments):
    message = "`function` should return no network but those it was given. Got Linear .* Pass the network in"
    with pytest.raises(TypeError, match=message):
        cache.call(function, *arguments)
    assert files(cache) == []


@dataclasses.dataclass
class Split:
    """Of the same name as one of the library's results, and no more."""

    a: int = 1


def give_namesake():
    return Split()


def test_namesake_of_a_result_is_refused(cache):
    with pytest.raises(TypeError, match="`function` should return what can be stored"):
        cache.call(give_namesake)


# Damage


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def empty(path):
    path.write_bytes(b"")


def flip(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def garbage(path):
    path.write_bytes(b"\xff\xfe\x00 nothing that is text")


def replaced(path, text):
    path.write_text(text)


def edited(path, old, new):
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


DAMAGES = {
    "tensors cut": (".safetensors", cut),
    "tensors empty": (".safetensors", empty),
    "tensors flipped": (".safetensors", flip),
    "tensors garbage": (".safetensors", garbage),
    "tensors missing": (".safetensors", Path.unlink),
    "json cut": (".json", cut),
    "json empty": (".json", empty),
    "json flipped": (".json", flip),
    "json garbage": (".json", garbage),
    "json a list": (".json", functools.partial(replaced, text="[]")),
    "json a number": (".json", functools.partial(replaced, text="3")),
    "json null": (".json", functools.partial(replaced, text="null")),
    "json without content": (".json", functools.partial(replaced, text="{}")),
    "checksum edited": (".json", functools.partial(edited, old='"sha256": "', new='"sha256": "0')),
    "checksum missing": (".json", functools.partial(edited, old='"sha256"', new='"sha"')),
    "unknown tensor": (".json", functools.partial(edited, old='"result.model.output.bias"', new='"other"')),
}


def assert_computed_again(cache, first, damage):
    suffix, change = damage
    path = entry(cache)
    change(entry(cache, suffix))
    model = ge.MLP([4, 8, 3], seed=0)
    with pytest.warns(UserWarning, match=f"(?s)cache entry {path.name} is damaged .*: computing it again") as caught:
        second = cache.call(train, model, IRIS, QUICK)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert CALLS == ["train", "train"]
    assert second.model is model
    assert same(model.state_dict(), first.model.state_dict())
    assert len(files(cache)) == 2
    third = cache.call(train, ge.MLP([4, 8, 3], seed=0), IRIS, QUICK)  # good again, and quietly read
    assert CALLS == ["train", "train"]
    assert equal(third.history, second.history)
    assert same(third.model.state_dict(), first.model.state_dict())


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_damaged_entry_is_named_and_computed_again(cache, damage):
    first = cache.call(train, ge.MLP([4, 8, 3], seed=0), IRIS, QUICK)
    assert_computed_again(cache, first, damage)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"epochs": 2', '"epochs": 3'),
        ('"epochs": 2', '"epoch": 2'),
        ('"values": [\n       1,\n       2\n      ]', '"values": [\n       1,\n       7\n      ]'),
        ('"module": 0', '"module": 9'),
        ('"frame": {', '"frame": 0, "rest": {'),
        ('"output.bias"', '"outputs.bias"'),
        ('"TrainingRun"', '"os.system"'),
    ],
    ids=["number", "name, after the network was filled", "history", "place of the network", "kind", "weight", "result"],
)
def test_damaged_text_is_named_and_computed_again(cache, old, new):
    first = cache.call(train, ge.MLP([4, 8, 3], seed=0), IRIS, QUICK)
    text = entry(cache).read_text()
    start = text.index('"epoch": {') if "values" in old else 0
    assert old in text[start:]
    damage = (".json", lambda path: path.write_text(text[:start] + text[start:].replace(old, new, 1)))
    assert_computed_again(cache, first, damage)


def test_entry_of_another_call_is_not_taken(cache):
    """Tensors swapped between two entries do not have the checksum."""
    cache.call(sum_of, torch.zeros(2))
    zeros = entry(cache, ".safetensors").read_bytes()
    path = entry(cache)
    cache.call(sum_of, torch.ones(2))
    (other,) = set(cache.folder.glob("*.safetensors")) - {path.with_suffix(".safetensors")}
    other.write_bytes(zeros)
    with pytest.warns(UserWarning, match="is damaged .its tensors do not have the checksum"):
        assert cache.call(sum_of, torch.ones(2))["sum"] == 2


# Writing


def test_unwritable_folder_costs_a_warning_not_the_result(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    cache = ge.Cache(tmp_path / "file")
    for _ in range(2):
        with pytest.warns(UserWarning, match=r"entry sum_of-\w+.json cannot be written .*: going on without") as caught:
            assert cache.call(sum_of, torch.ones(2))["sum"] == 2
        assert caught[0].filename == __file__
    assert CALLS == ["sum_of", "sum_of"]
    assert (tmp_path / "file").read_text() == "not a folder"


class Disk:
    """A disk that fails at the n-th file, in opening, writing or moving it."""

    def __init__(self, monkeypatch, step, at, error):
        self.left, self.error = at, error
        fdopen, replace = os.fdopen, Path.replace
        if step == "open":
            monkeypatch.setattr(os, "fdopen", lambda *args, **named: self.check() or fdopen(*args, **named))
        elif step == "move":
            monkeypatch.setattr(Path, "replace", lambda *args: self.check() or replace(*args))
        else:
            monkeypatch.setattr(os, "fdopen", lambda *args, **named: self.failing(fdopen(*args, **named)))

    def check(self):
        self.left -= 1
        if self.left == 0:
            raise self.error

    def failing(self, file):
        disk = self

        class Failing:
            def __enter__(self):
                return self

            def __exit__(self, *args):
                file.close()

            def write(self, content):
                file.write(content[: len(content) // 2])
                disk.check()
                return file.write(content[len(content) // 2 :])

        return Failing()


FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("at", [1, 2], ids=["tensors", "json"])
@pytest.mark.parametrize("step", ["open", "write", "move"])
def test_disk_that_fails_costs_a_warning_and_leaves_nothing_half_written(cache, monkeypatch, step, at):
    with monkeypatch.context() as patch:
        Disk(patch, step, at, FULL)
        with pytest.warns(UserWarning, match="cannot be written .*No space left"):
            assert cache.call(sum_of, torch.ones(2))["sum"] == 2
    assert [Path(name).suffix for name in files(cache)] == [".safetensors"] * (at - 1)
    assert cache.call(sum_of, torch.ones(2))["sum"] == 2  # nothing to read, nothing to warn of
    assert cache.call(sum_of, torch.ones(2))["sum"] == 2
    assert CALLS == ["sum_of", "sum_of"]
    assert sorted(Path(name).suffix for name in files(cache)) == [".json", ".safetensors"]


@pytest.mark.parametrize("step", ["open", "write", "move"])
@pytest.mark.parametrize("error", [FULL, KeyboardInterrupt()], ids=["disk full", "interrupted"])
def test_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch, step, error):
    target = tmp_path / "folder" / "target"
    write_atomically(target, b"old")
    with monkeypatch.context() as patch:
        Disk(patch, step, 1, error)
        with pytest.raises(type(error)):
            write_atomically(target, b"new content")
    assert [path.name for path in target.parent.iterdir()] == ["target"]
    assert target.read_bytes() == b"old"
    write_atomically(target, b"new content")
    assert target.read_bytes() == b"new content"
    assert [path.name for path in target.parent.iterdir()] == ["target"]


def test_interrupted_write_is_not_swallowed(cache, monkeypatch):
    with monkeypatch.context() as patch:
        Disk(patch, "move", 2, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            cache.call(sum_of, torch.ones(2))
    assert [Path(name).suffix for name in files(cache)] == [".safetensors"]


def test_files_can_be_read_by_others(tmp_path):
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "target", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o644


def test_what_contains_itself_is_refused():
    endless = []
    endless.append(endless)
    with pytest.raises(TypeError, match=r"`args` should have a content to hash\. Got list, which contains itself"):
        fingerprint(endless)


def test_conjugated_views_are_hashed_by_what_they_show():
    z = torch.tensor([1 + 2j])
    assert fingerprint(z.conj()) == fingerprint(torch.tensor([1 - 2j])) != fingerprint(z)
