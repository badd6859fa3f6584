"""Results on disk: what counts as an equal call, exact round trips, damage, and files written whole or not at all."""

import ast
import copy
import dataclasses
import errno
import functools
import importlib
import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors
import sklearn
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


def sum_of(x):
    CALLS.append("sum_of")
    return {"sum": float(x.sum()), "x": x}


def files(cache):
    return sorted(path.name for path in cache.folder.glob("*"))


def entry(cache, suffix=".json"):
    (path,) = cache.folder.glob(f"*{suffix}")
    return path


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
        return equal([*one.items()], [*other.items()])
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, nn.Module):
        return repr(one) == repr(other) and equal(one.state_dict(), other.state_dict())
    if dataclasses.is_dataclass(one):
        return equal(vars(one), vars(other))
    return repr(one) == repr(other)


# Read, not computed


def test_equal_call_is_read_by_any_cache_on_the_folder(cache, tmp_path):
    x = torch.randn(3, 2)
    first = cache.call(sum_of, x)
    second = ge.Cache(str(cache.folder)).call(sum_of, x=x.clone())  # passed by name: the same call
    assert CALLS == ["sum_of"]
    assert equal(first, second)
    assert float(x.sum()) == second["sum"]
    ge.Cache(tmp_path / "other").call(sum_of, x)
    assert CALLS == ["sum_of", "sum_of"]


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


class Box(nn.Module):
    def __init__(self, factor=1.0):
        super().__init__()
        self.factor = factor
        self.register_buffer("mask", torch.full((3,), factor), persistent=False)


def tied(sharing):
    model = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    for layer in model:
        nn.init.eye_(layer.weight)
    if sharing:
        model[1].weight = model[0].weight
    return model


DIFFERENT = [
    # tensors and arrays: kinds, shapes, numbers
    (torch.zeros(3), torch.tensor([0, 0, 1e-45])), (torch.zeros(3), torch.zeros(3, dtype=torch.float64)),
    (torch.zeros(3), torch.zeros(1, 3)), (torch.zeros(2, 3), torch.zeros(3, 2)), (torch.tensor(1), torch.tensor([1])),
    (torch.zeros(0), torch.zeros(0, 2)), (torch.zeros(3), np.zeros(3, dtype=np.float32)),
    (np.zeros(3), np.zeros(3, dtype=np.int64)), (np.array(["a", "b"]), np.array(["a", "c"])),
    # networks: weights, structure, modes, attributes, what is trained, what is one
    (with_weight(1.0), with_weight(1.000001)), (NETWORK, copy.deepcopy(NETWORK).double()),
    (NETWORK, copy.deepcopy(NETWORK).eval()), (NETWORK, ge.MLP([4, 8, 3], nn.Tanh, seed=0)),
    (NETWORK, nn.Sequential(*NETWORK.children())), (NETWORK, copy.deepcopy(NETWORK).requires_grad_(False)),
    (NORM, changed(NORM, momentum=0.5)), (NORM, changed(NORM, running_mean=torch.ones(3))), (Box(1.0), Box(2.0)),
    (tied(False), tied(True)),
    # settings and data
    (CONFIG, dataclasses.replace(CONFIG, epochs=4)), (CONFIG, dataclasses.replace(CONFIG, learning_rate=0.0061)),
    (IRIS, dataclasses.replace(IRIS, source="elsewhere")),
    (IRIS, dataclasses.replace(IRIS, x_test=IRIS.x_test.roll(1, 0))),
    # containers: order, kinds, boundaries
    ([1, 2], [2, 1]), ([1, 2], (1, 2)), ({"a": 1}, {"b": 1}), ({"a": 1}, {"a": 2}), ({"a": "b"}, ["a", "b"]),
    ([["a"], ["b"]], [["a", "b"]]), ([["a"], "b"], [["a", "b"]]), ([[], ["a"]], [["a"], []]), (["ab"], ["a", "b"]),
    (["a", "b"], ["a;<str>'b"]),
    # numbers and strings
    ("a", b"a"), ("a", Path("a")), (1, True), (1, 1.0), (1, "1"), (1.0, "1.0"), (True, "True"), (None, "None"),
    (0, False), (0, None), (0.0, -0.0), (1.0, math.nextafter(1.0, 2)), (math.inf, math.nan), (0.1, np.float32(0.1)),
    (1, np.float64(1)),
    # functions
    (echo, sum_of), (lambda x: x, lambda x: -x),
]  # fmt: skip


EQUAL = [
    (torch.arange(6.0).reshape(2, 3).T, torch.tensor([[0.0, 3], [1, 4], [2, 5]])),
    (torch.zeros(3), torch.zeros(3, requires_grad=True)), (np.asfortranarray(np.ones((3, 2))), np.ones((3, 2))),
    (torch.tensor([1 + 2j]).conj(), torch.tensor([1 - 2j])), (NETWORK, copy.deepcopy(NETWORK)),
    (NETWORK, ge.MLP([4, 8, 3], seed=0)), (CONFIG, ge.TrainConfig(epochs=3)),
    (CONFIG, dataclasses.replace(CONFIG, progress=False)), (IRIS, ge.datasets.load_iris()), (math.nan, float("nan")),
    ({"a": [1, (2.0, None)]}, {"a": [1, (2.0, None)]}), (Path("a") / "b", Path("a/b")),
    # NumPy's numbers are Python's
    (1, np.int64(1)), (1, np.uint8(1)), (0.5, np.float32(0.5)), (0.1, np.float64(0.1)), (True, np.bool_(True)),
    ([0, {"a": 1.5}], [np.int32(0), {"a": np.float64(1.5)}]),
]  # fmt: skip


@pytest.mark.parametrize(("is_equal", "one", "other"), [
    *((False, *pair) for pair in DIFFERENT), *((True, *pair) for pair in EQUAL)])  # fmt: skip
def test_calls_are_equal_exactly_if_contents_are(is_equal, one, other):
    assert (fingerprint(one) == fingerprint(other)) is is_equal


scalars = st.sampled_from([None, True, False, 0, 1, 0.0, -0.0, 1.0, "", "0", "1", "a", "a;", b"", b"a", "</>", "<str>"])
lists = functools.partial(st.lists, max_size=3)
nested = st.recursive(scalars, lambda inner: (
    lists(inner) | lists(inner).map(tuple) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2)
), max_leaves=5)  # fmt: skip


@settings(max_examples=300)
@given(nested, nested)
def test_fingerprints_are_equal_exactly_if_types_and_contents_are(one, other):
    assert (fingerprint(one) == fingerprint(other)) == (repr(one) == repr(other))


@pytest.mark.parametrize("make", [lambda a: lambda x: x * a, lambda a: lambda x, by=a: x * by])
def test_function_that_carries_a_value_is_another_for_another_value(cache, make):
    assert [cache.call(make(factor), 10) for factor in (2, 3)] == [20, 30]


def test_torch_and_machine_matter(cache, monkeypatch):
    values = {"__version__": "0.0", "get_num_threads": lambda: 97, "cuda.is_available": lambda: "yes"}
    for target, value in values.items():
        with monkeypatch.context() as patch:
            patch.setattr(f"torch.{target}", value)
            cache.call(echo)
    assert [cache.call(echo) for _ in range(2)] == [1, 1]
    assert CALLS == ["echo"] * 4


@pytest.mark.slow
def test_entries_are_found_by_another_process(cache):
    """One of a function without source, and another order of sets."""
    code = f"""import gradembed as ge
def known(x):
    return x in {{'a', 'b', 'c'}}
cache = ge.Cache({str(cache.folder)!r})
cache.call(ge.datasets.load_iris, 0.2, seed=1), cache.call(known, 'a')"""
    exec(code, {"__name__": "__main__"})
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "PYTHONHASHSEED": "1"})
    assert len(files(cache)) == 4


# Code: what Python reads of it counts, comments, docstrings and formatting do not

CODE = """
from torch import nn

class Base(nn.Identity):
    def forward(self, x):
        return x + 1

class Net(Base):
    '''A network.'''
    limit = 3

def twice(x, by=2):
    '''Double.'''
    # a number
    return {"sum": (x * by)}
"""
SILENT = [("A network", "Another network"), ("    '''Double.'''\n", ""), ("# a number", "# numbers\n    # and more"),
          ("(x * by)", "x*by"), ('"sum"', "'sum'"), ("limit = 3", "limit = 3\n    'the limit'")]  # fmt: skip
LOUD = {"twice": [("x * by", "x + by"), ("by=2", "by=3"), ('"sum"', '"total"')],
        "Net": [("limit = 3", "limit = 4"), ("x + 1", "x + 2"), ("(Base)", "(nn.Identity)")]}  # fmt: skip
numbers = itertools.count()


@pytest.fixture
def written(tmp_path, monkeypatch):
    """Import an edition of the code above."""
    monkeypatch.syspath_prepend(tmp_path)

    def load(old="", new=""):
        assert old in CODE
        name = f"edition_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(CODE.replace(old, new) if old else CODE)
        return importlib.import_module(name)

    return load


@pytest.mark.parametrize("edit", SILENT)
def test_comments_docstrings_and_formatting_of_functions_and_classes_are_no_code(written, edit):
    one, other = written(), written(*edit)
    assert fingerprint([one.twice, one.Net]) == fingerprint([other.twice, other.Net])
    assert fingerprint(one.Net()) == fingerprint(other.Net())


@pytest.mark.parametrize(("name", "edit"), [(name, edit) for name, edits in LOUD.items() for edit in edits])
def test_statements_of_functions_and_classes_count(written, name, edit):
    one, other = written(), written(*edit)
    for thing in ("twice", "Net"):
        assert (fingerprint(getattr(one, thing)) != fingerprint(getattr(other, thing))) is (thing == name)


def test_code_without_a_source_file_is_known_too(cache):
    def define(text):
        found = {"nn": nn}
        exec(compile(text, "<nowhere>", "exec"), found)
        return found["f"]

    texts = ["def f(x): return x + 1", "def f(x): return x + 2", "def f(x): return x * 1"]
    texts += [f"class f(nn.Identity):\n    def forward(self, x): return {sign}x" for sign in "+-"]
    assert len({fingerprint(define(text)) for text in texts}) == 5
    assert all(fingerprint(define(text)) == fingerprint(define("\n" + text)) for text in texts)
    assert [cache.call(define(text), 3) for text in texts[:3]] == [4, 5, 3]


# Code of the library: that which a function can reach


@pytest.fixture
def library(tmp_path, monkeypatch):
    """A copy of the library's files, to be edited."""
    shutil.copytree(store._SOURCE, tmp_path / "gradembed", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(store, "_SOURCE", tmp_path / "gradembed")
    store._library_code.cache_clear()
    yield tmp_path / "gradembed"
    store._library_code.cache_clear()


HOMES = {"train": "gradembed.training._loop", "interference": "gradembed.interference", "yours": "notebook"}


def keys():
    return {name: store._library_code.__wrapped__(home) for name, home in HOMES.items()}


@pytest.fixture(scope="module")
def before():
    return keys()


def changed_keys(before):
    after = keys()
    return {name for name in HOMES if before[name] != after[name]}


def edit_file(library, package):
    place = library / package
    with (place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).open("a") as file:
        file.write("\nANSWER = 42\n")


def test_comments_docstrings_and_formatting_of_the_library_change_no_key(library, before):
    for path in library.rglob("*.py"):
        docstring, code = path.read_text().split('"""', 2)[1:]
        path.write_text(f'"""Other than {docstring}"""\n\n{ast.unparse(ast.parse(code))}\n# one more comment\n')
    assert keys() == before


@pytest.mark.parametrize(("package", "reaching"), [
    ("_context", {"train", "interference", "yours"}), ("training", {"train", "yours"}),
    ("interference", {"interference", "yours"}), ("metrics", {"yours"}), ("plots", set()), ("report", set()),
])  # fmt: skip
def test_a_statement_changes_the_keys_of_functions_that_reach_it_and_no_others(library, before, package, reaching):
    edit_file(library, package)
    assert changed_keys(before) == reaching


def test_new_files_and_imports_count(library, before):
    (library / "models" / "_new.py").write_text("from gradembed.metrics import spread\n")
    between = keys()
    assert changed_keys(before) == {*HOMES}
    edit_file(library, "metrics")
    assert between["train"] != store._library_code.__wrapped__(HOMES["train"])  # it reaches metrics now


def test_imports_are_written_in_the_way_that_is_followed():
    for path in store._SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            assert getattr(node, "level", 0) == 0, path
            assert not isinstance(node, ast.Import) or "gradembed" not in [alias.name for alias in node.names], path


def test_versions_count_where_they_are_imported(monkeypatch, before):
    for package, reaching in ((sklearn, {"train", "yours"}), (np, {"train", "interference", "yours"})):
        monkeypatch.setattr(package, "__version__", "0.0")
        assert changed_keys(before) == reaching


def test_a_function_of_ones_own_may_call_anything_even_if_it_wraps_one_of_the_library(cache, library):
    @functools.wraps(ge.train)
    def wrapper(*args, **kwargs):
        return ge.train(*args, **kwargs)

    before = cache._path(ge.train), cache._path(wrapper)
    edit_file(library, "metrics")
    store._library_code.cache_clear()
    assert cache._path(ge.train) == before[0]
    assert cache._path(wrapper) != before[1]


# Exact round trips


VALUES = [
    None, True, False, 0, -7, 10**30, 0.1, -0.0, math.nan, math.inf, -math.inf, 5e-324, "", "ä €\n\0", "NaN",
    [], (), {}, [1, [2.0, (None, ["x"])], ()], (1,), {"a": {"b": [True]}, "": 0}, {"tensor": "x", "module": 0},
    {"dict": {"tuple": [1]}, "frame": {}, "result": "Split", "items": {}},
    torch.tensor(1.5), torch.zeros(0, 3), torch.tensor([math.nan, -0.0]), torch.tensor([True, False]),
    torch.arange(5, dtype=torch.int8), torch.ones(2, dtype=torch.float16), torch.eye(3, dtype=torch.float64),
    torch.arange(6).reshape(2, 3).T, [torch.zeros(2), {"x": torch.ones(2)}, (torch.full((2,), 2.0),)],
    {"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1), "": torch.ones(2)}, (IRIS, QUICK), ge.MLPEnsemble([4, 3], 2),
    pd.DataFrame({"i": [1, 2], "f": [0.1, math.nan], "s": ["x", "y"], "b": [True, False]}),
    pd.DataFrame({"i": np.array([1, 2], dtype=np.int8), "f": np.array([0.1, 2], dtype=np.float32)}),
    pd.DataFrame({"f": np.zeros(0)}), pd.DataFrame({"dtype": [1], "values": [2]}), pd.DataFrame({"o": [1, "a", None]}),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_values_come_back_exactly(cache, number):
    first, second = (cache.call(give, number) for _ in range(2))
    assert CALLS == ["give"]
    assert first is VALUES[number]
    assert equal(second, first)


def test_numbers_of_numpy_come_back_as_those_of_python(cache):
    numbers = [cache.call(lambda: [np.int64(3), np.float32(0.5), np.bool_(True), np.str_("a")]) for _ in range(2)]
    assert equal(numbers[1], [3, 0.5, True, "a"])


@pytest.mark.parametrize(("function", "named"), [
    (ge.interference, {"layers": ["input", "hidden1.linear"]}), (ge.unit_gradients, {"wrt": "hidden1"}),
    (ge.gradient_fields, {})])  # fmt: skip
def test_results_of_the_library_come_back_exactly(cache, function, named):
    first, second = (cache.call(function, copy.deepcopy(NETWORK), IRIS.x_test, **named) for _ in range(2))
    assert second is not first
    assert equal(first, second)


def test_training_run_comes_back_exactly_and_fills_the_network(cache):
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).eval()
    other = copy.deepcopy(model)
    before = copy.deepcopy(model.state_dict())
    first = cache.call(train, model, IRIS, QUICK)
    second = cache.call(train, config=QUICK, split=IRIS, model=other)
    assert CALLS == ["train"]
    assert first.model is model
    assert second.model is other
    assert not equal(before, other.state_dict())
    assert other.training is model.training
    assert equal(first, second)


def push_second(a, b):
    nn.init.constant_(b.weight, 9)
    return b


def test_order_of_named_arguments_does_not_mix_up_networks(cache):
    a, b = nn.Linear(1, 1), nn.Linear(1, 1)
    c, d = copy.deepcopy(a), copy.deepcopy(b)
    assert cache.call(push_second, a=a, b=b) is b
    assert cache.call(push_second, b=d, a=c) is d
    assert equal([a, b], [c, d])


# What is on disk


def test_nothing_is_pickled(cache, monkeypatch):
    for name in ("torch.save", "pickle.dumps", "pickle.dump"):
        monkeypatch.setattr(name, None)
    cache.call(train, ge.MLP([4, 8, 3], seed=0), IRIS, QUICK)
    stem = entry(cache).stem
    assert files(cache) == [f"{stem}.json", f"{stem}.safetensors"]
    assert stem.startswith("train-")
    assert json.loads(entry(cache).read_text())["result"]["result"] == "TrainingRun"
    assert len(safetensors.torch.load(entry(cache, ".safetensors").read_bytes())) == 4


def test_function_that_fails_leaves_nothing_not_even_a_folder(tmp_path):
    cache = ge.Cache(tmp_path / "a" / "b")
    with pytest.raises(ZeroDivisionError):
        cache.call(lambda: 1 / 0)
    assert not (tmp_path / "a").exists()


# Refusals


def endless():
    items = []
    items.append(items)
    return items


@pytest.mark.parametrize("argument", [
    {1}, object(), iter([1]), dict, torch.device("cpu"), 1j, np.complex64(1), np.datetime64(1, "s"), np.longdouble(1),
    [1, {"a": object()}], len, functools.partial(echo), np.array(["a", None], dtype=object), endless()])  # fmt: skip
def test_argument_without_content_is_refused_before_anything_runs(cache, argument):
    for call in (fingerprint, functools.partial(cache.call, echo)):
        with pytest.raises(TypeError, match=r"(?s)`args` should have a content to hash\. Got .* Pass numbers"):
            call(argument)
    assert CALLS == []


@dataclasses.dataclass
class Split:
    """Of the same name as one of the library's results, and no more."""

    a: int = 1


FRAME = pd.DataFrame({"a": [1, 2]})
UNSTORABLE = [
    {1}, object(), 1j, b"bytes", np.zeros(2), {1: 2}, {"a": {None: 1}}, [1, (2, object())], Path("a"), Split(),
    # data frames that JSON would change
    pd.DataFrame({0: [1, 2]}), FRAME.set_axis(["x", "y"]), FRAME.iloc[1:], FRAME.rename_axis("name"),
    pd.DataFrame({"a": pd.Categorical(["b", "a"], categories=["b", "a", "c"])}), FRAME.rename_axis(columns="name"),
    pd.DataFrame({"a": pd.to_datetime(["2020-01-01"])}), pd.DataFrame([[1, 2]], columns=["a", "a"]),
    pd.DataFrame({"a": [(1,)]}),
]  # fmt: skip


def give_unstorable(number):
    CALLS.append("give_unstorable")
    return UNSTORABLE[number]


@pytest.mark.parametrize("number", range(len(UNSTORABLE)))
def test_result_that_cannot_be_stored_is_refused(cache, number):
    message = "`function` should return what can be stored. Got .* Return numbers, tensors, plain data frames or"
    with pytest.raises(TypeError, match=f"(?s){message}"):
        cache.call(give_unstorable, number)
    assert CALLS == ["give_unstorable"]
    assert files(cache) == []


@pytest.mark.parametrize("function", [copy.deepcopy, lambda model: model[0]])
def test_network_that_was_not_passed_is_refused(cache, function):
    message = "(?s)`function` should return no network but those it was given. Got .*Linear.* Pass the network in"
    with pytest.raises(TypeError, match=message):
        cache.call(function, nn.Sequential(nn.Linear(2, 2)))
    assert files(cache) == []


# Damage


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    return content[:-1] + bytes([content[-1] ^ 1])


DAMAGES = {
    **{f"{kind}, {change.__name__}": (kind, change) for kind in (".safetensors", ".json") for change in (cut, flip)},
    **{f".json, {new!r}": (".json", lambda content, old=old, new=new: content.replace(old, new, 1)) for old, new in [
        (b'"sha256": "', b'"sha256": "0'), (b'"epochs": 2', b'"epochs": 3'), (b'"TrainingRun"', b'"os.system"')]},
    "gone": (".safetensors", None), "garbage": (".json", lambda _: b"\xff\xfe\0"), "list": (".json", lambda _: b"[]"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_entry_is_named_and_computed_again(cache, damage):
    first = cache.call(train, ge.MLP([4, 8, 3], seed=0), IRIS, QUICK)
    suffix, change = DAMAGES[damage]
    name, path = entry(cache).name, entry(cache, suffix)
    content = path.read_bytes()
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(content))
        assert path.read_bytes() != content
    model = ge.MLP([4, 8, 3], seed=0)
    with pytest.warns(UserWarning, match=f"(?s)cache entry {name} is damaged .*: computing it again") as caught:
        second = cache.call(train, model, IRIS, QUICK)
    assert [warning.filename for warning in caught] == [__file__]
    assert CALLS == ["train", "train"]
    assert second.model is model  # trained from where it stood, not from what the damaged entry filled it with
    assert equal(model, first.model)
    assert len(files(cache)) == 2
    third = cache.call(train, ge.MLP([4, 8, 3], seed=0), IRIS, QUICK)  # good again, and quietly read
    assert CALLS == ["train", "train"]
    assert equal(third, second)


def test_entry_of_another_call_is_not_taken(cache):
    """Tensors swapped between two entries do not have the checksum."""
    cache.call(sum_of, torch.zeros(2))
    first = entry(cache, ".safetensors")
    cache.call(sum_of, torch.ones(2))
    (other,) = set(cache.folder.glob("*.safetensors")) - {first}
    other.write_bytes(first.read_bytes())
    with pytest.warns(UserWarning, match="is damaged .the two files do not have the checksum"):
        assert cache.call(sum_of, torch.ones(2))["sum"] == 2


# Writing (disks that break: test_abuse_disk.py)


def test_unwritable_folder_costs_a_warning_not_the_result(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    cache = ge.Cache(tmp_path / "file")
    with pytest.warns(UserWarning, match=r"entry sum_of-\w+.json cannot be written .*: going on without") as caught:
        assert cache.call(sum_of, torch.ones(2))["sum"] == 2
    assert caught[0].filename == __file__
    assert (tmp_path / "file").read_text() == "not a folder"


def test_tensors_without_their_json_are_no_entry(cache, monkeypatch):
    """The disk is full at the second file."""
    replace = Path.replace

    def full(path, target):
        if target.suffix == ".json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full)
    with pytest.warns(UserWarning, match="cannot be written"):
        cache.call(sum_of, torch.ones(2))
    monkeypatch.undo()
    assert [Path(name).suffix for name in files(cache)] == [".safetensors"]
    for _ in range(2):
        assert cache.call(sum_of, torch.ones(2))["sum"] == 2  # nothing to read, nothing to warn of
    assert CALLS == ["sum_of", "sum_of"]


def test_files_can_be_read_by_others(tmp_path):
    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "target", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o644
