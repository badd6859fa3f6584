"""Trained networks and results on disk: safetensors and JSON, keyed by a hash of what produced them."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import json
import marshal
import textwrap
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from types import CodeType
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from torch import Tensor, nn

from gradembed._files import write_atomically
from gradembed._validation import check_path, describe, refuse
from gradembed.cards import UnitCard
from gradembed.datasets import RandomWaves, Split, StackedSplit
from gradembed.fields import GradientFields
from gradembed.gradients import UnitGradients
from gradembed.interference import Interference
from gradembed.metrics import (
    Enrichment,
    Estimate,
    ProbeScore,
    Projection,
    RetrievalScore,
    SubspaceMatching,
    UnitMatching,
)
from gradembed.models import MLPEnsemble
from gradembed.modules import TaskModules
from gradembed.training import TrainConfig, TrainingRun
from gradembed.transplant import Transplants
from gradembed.tree import GradientTree

__all__ = ["STORABLE", "Cache", "fingerprint"]

P = ParamSpec("P")
R = TypeVar("R")

_SOURCE = Path(__file__).parent
_VERSIONED = {"numpy", "scipy", "sklearn"}  # where they are imported; torch is everywhere
_OWN = set(vars(nn.Module()))  # attributes of every module
# What may stand in an entry, by name: nothing else is ever constructed from a file.
STORABLE = {kind.__name__: kind for kind in (
    Enrichment, Estimate, GradientFields, GradientTree, Interference, ProbeScore, Projection, RandomWaves,
    RetrievalScore, Split, StackedSplit, SubspaceMatching, TaskModules, TrainConfig, TrainingRun, Transplants, UnitCard,
    UnitGradients, UnitMatching,
)}  # fmt: skip
_MAKE: dict[str, Any] = STORABLE | {"dict": dict, "MLPEnsemble": lambda **parts: MLPEnsemble.from_parts(parts)}


class Cache:
    """Calls functions, or finds what an equal call gave before.

    Each entry is a pair of files, ``<function>-<hash>.safetensors`` and ``.json``, both written atomically, the second
    with checksums of both; nothing is pickled. A damaged entry is computed again, with a warning; an entry that cannot
    be written costs a warning, not the result.

    Two calls are equal, and the second is read, if these are:

    - the function: its code and, if it is not the library's, its defaults and what it encloses. What else it finds in
      its module (other functions, constants) is not seen: pass it as an argument;
    - the arguments by content: numbers (NumPy's are Python's), strings, tensors, networks with the code of their
      classes, settings (``progress`` does not count), and lists, tuples and dictionaries of them;
    - of the library the code that the function can reach: its own package and those that this imports, directly or
      not, for `train` data sets, models and training. For a function from elsewhere all but figures and reports;
    - the versions of torch, NumPy, SciPy and scikit-learn, as far as that code imports them;
    - torch's number of threads, and whether there is CUDA.

    Comments, docstrings and formatting are no code; type annotations are. Nor do the library's version number, other
    packages and Python count (a Python that writes code in another way computes again).

    Args:
        folder: Where entries are; made when the first is written.

    Example:
        >>> import tempfile, gradembed as ge
        >>> cache, split = ge.Cache(tempfile.mkdtemp()), ge.datasets.load_iris()
        >>> config = ge.TrainConfig(epochs=1, progress=False)
        >>> first = cache.call(ge.train, ge.MLP([4, 3], seed=0), split, config)
        >>> second = cache.call(ge.train, ge.MLP([4, 3], seed=0), split, config)  # read, not trained
        >>> second.seconds == first.seconds
        True
    """

    def __init__(self, folder: str | Path = "data/cache") -> None:
        check_path("folder", folder)
        self.folder = Path(folder)

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return ``function(*args, **kwargs)``, computed or read.

        Args:
            function: A function of the library, or any that returns storable things: numbers, strings, tensors,
                plain data frames, the library's results, and lists, tuples and dictionaries (string keys) of them.
                NumPy's numbers come back as Python's. A network in the result must be one of the arguments: it is
                filled in place, as `train` does. An `MLPEnsemble` may be new.
            *args: Its arguments.
            **kwargs: Its named arguments.

        Returns:
            The result.

        Raises:
            TypeError: If an argument cannot be hashed by content, or the result cannot be stored.

        Warns:
            UserWarning: If an entry is damaged, or cannot be written.
        """
        bound = inspect.signature(function).bind(*args, **kwargs)
        path = self._path(function, bound.arguments)
        modules = [value for value in (*bound.args, *bound.kwargs.values()) if isinstance(value, nn.Module)]
        found = self._find(path, modules)
        if found is None:
            found = (function(*args, **kwargs),)
            self._keep(path, found[0], modules)
        return found[0]

    def _path(self, function: Callable[..., object], *parts: object) -> Path:
        """Return where the result of a call is, or would be; sweeps use this too, and the next two."""
        home = getattr(function, "__globals__", {}).get("__name__") or function.__module__  # decorators copy the latter
        machine = [torch.__version__, torch.get_num_threads(), torch.cuda.is_available()]
        key = fingerprint([fingerprint([function, *parts]), _library_code(str(home)), *machine])
        return self.folder / f"{getattr(function, '__name__', 'call')}-{key[:32]}.json"

    def _find(self, path: Path, modules: Sequence[nn.Module] = ()) -> tuple[Any] | None:
        """Return what an entry holds, alone in a tuple, since it may be None; nothing if it is missing or damaged."""
        if not path.exists():
            return None
        try:
            entry, content = json.loads(path.read_bytes()), path.with_suffix(".safetensors").read_bytes()
            if _checksum(entry["result"], content) == entry["sha256"]:
                return (_decode(entry["result"], safetensors.torch.load(content), modules),)
            damage: object = "the two files do not have the checksum that it states"
        except Exception as error:
            damage = error
        warnings.warn(f"cache entry {path.name} is damaged ({damage}): computing it again", UserWarning, stacklevel=3)
        return None

    def _keep(self, path: Path, result: object, modules: Sequence[nn.Module] = ()) -> None:
        """Write an entry, the tensors first; if that fails, warn."""
        tensors: dict[str, Tensor] = {}
        tree = _encode(result, "result", tensors, modules)
        content = safetensors.torch.save(tensors)
        try:
            write_atomically(path.with_suffix(".safetensors"), content)
            entry = {"sha256": _checksum(tree, content), "result": tree}
            write_atomically(path, json.dumps(entry, indent=1).encode())
        except OSError as error:
            warnings.warn(f"cache entry {path.name} cannot be written ({error}): going on without", stacklevel=3)


# ---------------------------------------------------------------- results: a tree for JSON, and named tensors


def _checksum(tree: Any, content: bytes) -> str:
    """Return the SHA-256 of an entry: of its tensors' file and, after that, of its tree without spaces for reading."""
    return hashlib.sha256(content + json.dumps(tree).encode()).hexdigest()


def _encode(value: Any, name: str, tensors: dict[str, Tensor], modules: Sequence[nn.Module]) -> Any:
    """Return a tree of lists, dictionaries, strings and numbers; tensors are set aside by unique names."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{name}.{i}", tensors, modules) for i, item in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, Tensor):
        while name in tensors:  # {"a": {"b": ...}, "a.b": ...}
            name += "_"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, pd.DataFrame) and (columns := _columns(value)) is not None:
        return {"frame": columns}
    head: dict[str, Any] = {"result": type(value).__name__}
    if isinstance(value, nn.Module) and (places := [i for i, given in enumerate(modules) if given is value]):
        head, parts = {"module": places[0]}, value.state_dict()
    elif type(value) is MLPEnsemble:
        parts = value.parts()
    elif isinstance(value, nn.Module):
        rule = "return no network but those it was given"
        refuse("function", rule, describe(value), "Pass the network in", TypeError)
    elif STORABLE.get(type(value).__name__) is type(value):
        parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif isinstance(value, dict) and all(isinstance(key, str) for key in value):
        head, parts = {"result": "dict"}, value
    else:
        remedy = "Return numbers, tensors, plain data frames or results of this library"
        refuse("function", "return what can be stored", describe(value), remedy, TypeError)
    return head | {"items": {key: _encode(item, f"{name}.{key}", tensors, modules) for key, item in parts.items()}}


def _columns(frame: pd.DataFrame) -> dict[Any, Any] | None:
    """Return the columns of a data frame for JSON, if that gives exactly this frame back, else None."""
    columns = {key: {"dtype": str(column.dtype), "values": column.tolist()} for key, column in frame.items()}
    with suppress(TypeError, ValueError):  # dates, intervals, ... are no JSON
        again = _decode({"frame": json.loads(json.dumps(columns))}, {}, [])
        if again.equals(frame) and all(axis.name is None for axis in frame.axes):
            return columns
    return None


def _decode(tree: Any, tensors: Mapping[str, Tensor], modules: Sequence[nn.Module]) -> Any:
    """Return the result that a tree stands for; networks are filled in place."""
    again = partial(_decode, tensors=tensors, modules=modules)
    match tree:
        case {"tuple": items}:
            return tuple(again(items))
        case {"tensor": name}:
            return tensors[name]
        case {"frame": columns}:
            return pd.DataFrame({key: pd.Series(c["values"], dtype=c["dtype"]) for key, c in columns.items()})
        case {"module": place, "items": items}:
            modules[place].load_state_dict({key: again(item) for key, item in items.items()})
            return modules[place]
        case {"result": kind, "items": items}:
            return _MAKE[kind](**{key: again(item) for key, item in items.items()})
        case list():
            return [again(item) for item in tree]
    return tree


# ---------------------------------------------------------------- values by content


def fingerprint(value: object) -> str:
    """Hash a value by content: SHA-256 over types, shapes and bytes.

    Args:
        value: Nothing, numbers (NumPy's are Python's), strings, paths, tensors, arrays, modules (code of their
            classes, structure, state, mode, attributes), classes of modules, functions (code, defaults, closure),
            dataclasses, and sequences and mappings of them. Comments, docstrings and formatting are no code.

    Returns:
        64 hexadecimal digits.

    Raises:
        TypeError: If something in it has no content to hash.

    Example:
        >>> import torch
        >>> from gradembed.store import fingerprint
        >>> fingerprint(torch.zeros(2)) == fingerprint(torch.zeros(2)) != fingerprint(torch.zeros(3))
        True
    """
    digest = hashlib.sha256()
    try:
        _update(digest, value)
    except RecursionError:
        got = f"{type(value).__name__}, which contains itself"
        refuse("args", "have a content to hash", got, "Pass numbers, tensors or modules", TypeError)
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    """Feed a value and its type into a hash."""
    value = value.item() if isinstance(value, np.generic) else value
    digest.update(f"<{type(value).__qualname__}>".encode())
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, nn.Module):
        _update(digest, _parts_of(value))
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [f for f in dataclasses.fields(value) if f.metadata.get("changes_result", True)]
        _update(digest, {f.name: getattr(value, f.name) for f in fields})
    elif isinstance(value, Mapping):
        _update(digest, [item for pair in value.items() for item in pair])
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        for item in value:
            _update(digest, item)
        digest.update(b"</>")
    elif value is None or isinstance(value, bool | int | float | str | bytes | Path):
        digest.update(repr(value).encode() + b";")
    elif isinstance(value, type) and issubclass(value, nn.Module):
        digest.update(_class_code(value).encode() + b";")
    elif inspect.isfunction(value):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell.cell_contents is not value]
        code = value.__qualname__ + _code(value.__code__)
        _update(digest, [code, value.__defaults__, value.__kwdefaults__, cells])
    else:
        refuse("args", "have a content to hash", describe(value), "Pass numbers, tensors or modules", TypeError)


def _parts_of(module: nn.Module) -> list[object]:
    """Return all that decides what a network does, sharing and training of its parameters included."""
    parameters = dict(module.named_parameters(remove_duplicate=False))
    first_names: dict[int, str] = {}
    return [
        repr(module),
        [_class_code(type(part)) for part in module.modules()],
        [part.training for part in module.modules()],
        {name: parameter.detach() for name, parameter in parameters.items()},
        [parameter.requires_grad for parameter in parameters.values()],
        [first_names.setdefault(id(parameter), name) for name, parameter in parameters.items()],
        dict(module.named_buffers(remove_duplicate=False)),
        [{key: _hash_or_kind(v) for key, v in vars(part).items() if key not in _OWN} for part in module.modules()],
    ]


def _hash_or_kind(value: object) -> str:
    try:
        return fingerprint(value)
    except TypeError:  # it has no content
        return type(value).__qualname__


# ---------------------------------------------------------------- code, without comments, docstrings and formatting


class _Silent(ast.NodeTransformer):
    """Takes docstrings and other bare constants away, which say something and do nothing."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)


def _statements(tree: ast.AST) -> str:
    return ast.unparse(_Silent().visit(tree))


def _class_code(kind: type) -> str:
    """Return code of a class and its bases; those of torch are known by name."""
    own = [base for base in kind.__mro__ if base is not object and base.__module__.split(".")[0] != "torch"]
    return "".join(base.__qualname__ + _code(base) for base in own) or f"{kind.__module__}.{kind.__qualname__}"


@cache
def _code(thing: type | CodeType) -> str:
    """Return the statements of a class or function; of lambdas (a line holds many), and without source, bytecode."""
    with suppress(OSError, TypeError, SyntaxError):
        if getattr(thing, "co_name", "") != "<lambda>":
            return _statements(ast.parse(textwrap.dedent(inspect.getsource(thing))))
    members = vars(thing).values() if isinstance(thing, type) else [thing]
    codes = [getattr(member, "__code__", member) for member in members]
    return "".join(marshal.dumps(_without_places(code), 2).hex() for code in codes if isinstance(code, CodeType))


def _without_places(code: CodeType) -> CodeType:
    """Return code that does not know its file and lines."""
    inner = tuple(_without_places(item) if isinstance(item, CodeType) else item for item in code.co_consts)
    return code.replace(co_filename="", co_firstlineno=1, co_linetable=b"", co_consts=inner)


@cache
def _read(source: bytes) -> tuple[str, list[str]]:
    """Return the statements of a file, and the dotted names that it imports."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    names = [f"{n.module}.{alias.name}" for n in nodes if isinstance(n, ast.ImportFrom) for alias in n.names]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    return _statements(tree), names


@cache
def _library_code(home: str) -> str:
    """Return a hash of what of the library code in a module can reach, and of numerical packages' versions.

    From ``gradembed.training._loop`` that is the package ``training`` and, one step after the other, each that is
    imported there. From elsewhere all may be called, figures and reports excepted, which cannot be stored.
    """
    parts = {path.stem for path in _SOURCE.glob("[!.]*") if path.suffix != ".typed"} - {"plots", "report"}
    waiting = {home.split(".")[1]} if home.startswith("gradembed.") else parts - {"__init__", "__pycache__"}
    found: dict[str, str] = {}
    while waiting:
        part = waiting.pop()
        files = [*_SOURCE.glob(f"{part}.py"), *sorted(_SOURCE.glob(f"{part}/**/*.py"))]
        read = [_read(path.read_bytes()) for path in files]
        found[part] = "\n".join(statements for statements, _ in read)
        names = [name for _, imported in read for name in imported]
        waiting |= {name.split(".")[1] for name in names if name.startswith("gradembed.")} - found.keys()
        for package in _VERSIONED & {name.split(".")[0] for name in names}:
            found[package] = import_module(package).__version__
    return fingerprint(dict(sorted(found.items())))
