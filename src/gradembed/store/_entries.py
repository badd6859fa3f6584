"""Results as a tree for JSON and named tensors, and back; files with checksums."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
from torch import Tensor, nn

from gradembed import _validation
from gradembed._files import write_atomically
from gradembed.cards import UnitCard
from gradembed.datasets import RandomWaves, Split, StackedSplit
from gradembed.fields import GradientFields
from gradembed.gradients import UnitGradients
from gradembed.interference import Interference
from gradembed.metrics import Enrichment, Estimate, ProbeScore, Projection, RetrievalScore, UnitMatching
from gradembed.models import MLPEnsemble
from gradembed.modules import TaskModules
from gradembed.training import TrainConfig, TrainingRun
from gradembed.tree import GradientTree

# What may stand in an entry, by name: nothing else is ever constructed from a file.
_RESULTS = (
    Enrichment,
    Estimate,
    GradientFields,
    GradientTree,
    Interference,
    ProbeScore,
    Projection,
    RandomWaves,
    RetrievalScore,
    Split,
    StackedSplit,
    TaskModules,
    TrainConfig,
    TrainingRun,
    UnitCard,
    UnitGradients,
    UnitMatching,
)
STORABLE = {kind.__name__: kind for kind in _RESULTS}


class Encoder:
    """Turns a result into a tree, setting its tensors aside.

    Attributes:
        tensors: Those found so far, by unique names.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules
        self.tensors: dict[str, Tensor] = {}

    def encode(self, value: Any, name: str) -> Any:
        """Encode a value and what it contains.

        Returns:
            A tree of lists, dictionaries with string keys, strings, numbers.
        """
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, Tensor):
            return {"tensor": self._set_aside(value, name)}
        if type(value) is MLPEnsemble and not any(value is given for given in self.modules):
            return {"ensemble": self._items(value.parts(), name)}
        if isinstance(value, nn.Module):
            return {"module": self._place(value), "state": self._items(dict(value.state_dict()), name)}
        if isinstance(value, pd.DataFrame):
            return {"frame": _frame(value)}
        if STORABLE.get(type(value).__name__) is type(value):
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return {"result": type(value).__name__, "fields": self._items(fields, name)}
        if isinstance(value, list | tuple):
            items = [self.encode(item, f"{name}.{i}") for i, item in enumerate(value)]
            return {"tuple": items} if isinstance(value, tuple) else items
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return {"dict": self._items(value, name)}
        return _unstorable(value)

    def _items(self, items: Mapping[str, Any], name: str) -> dict[str, Any]:
        return {key: self.encode(item, f"{name}.{key}") for key, item in items.items()}

    def _set_aside(self, tensor: Tensor, name: str) -> str:
        while name in self.tensors:  # {"a": {"b": ...}, "a.b": ...}
            name += "_"
        self.tensors[name] = tensor.detach().cpu().contiguous().clone()
        return name

    def _place(self, module: nn.Module) -> int:
        place = next((i for i, given in enumerate(self.modules) if given is module), None)
        if place is None:
            rule, remedy = "return no network but those it was given", "Pass the network in"
            _validation.refuse("function", rule, _validation.describe(module), remedy, TypeError)
        return place


def _frame(frame: pd.DataFrame) -> dict[str, Any]:
    """Encode a plain data frame: unique string columns of numbers, strings or bools, rows numbered from 0.

    Returns:
        Columns with their types.
    """
    plain_rows = frame.index.equals(pd.RangeIndex(len(frame))) and frame.index.name is None
    plain_columns = frame.columns.is_unique and all(isinstance(key, str) for key in frame.columns)
    if not plain_rows or not plain_columns or not all(_is_plain(frame[key]) for key in frame.columns):
        _unstorable(frame)
    return {key: {"dtype": str(frame[key].dtype), "values": frame[key].tolist()} for key in frame.columns}


def _is_plain(column: pd.Series) -> bool:
    if isinstance(column.dtype, pd.CategoricalDtype):
        return False
    is_number = pd.api.types.is_any_real_numeric_dtype(column) or pd.api.types.is_bool_dtype(column)
    return is_number or all(isinstance(item, str) for item in column)


def _unstorable(value: object) -> Any:
    remedy = "Return numbers, tensors, plain data frames or results of this library"
    _validation.refuse("function", "return what can be stored", _validation.describe(value), remedy, TypeError)


def decode(tree: Any, tensors: Mapping[str, Tensor], modules: Sequence[nn.Module]) -> Any:
    """Turn a tree back into the result; networks are filled in place.

    Returns:
        The result.
    """
    if isinstance(tree, list):
        return [decode(item, tensors, modules) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[tree["tensor"]]
    if "module" in tree:
        module = modules[tree["module"]]
        module.load_state_dict(decode({"dict": tree["state"]}, tensors, modules))
        return module
    if "ensemble" in tree:
        return MLPEnsemble.from_parts(decode({"dict": tree["ensemble"]}, tensors, modules))
    if "frame" in tree:
        columns = tree["frame"].items()
        return pd.DataFrame({key: pd.Series(column["values"], dtype=column["dtype"]) for key, column in columns})
    if "tuple" in tree:
        return tuple(decode(item, tensors, modules) for item in tree["tuple"])
    if "dict" in tree:
        return {key: decode(item, tensors, modules) for key, item in tree["dict"].items()}
    fields = {key: decode(item, tensors, modules) for key, item in tree["fields"].items()}
    return STORABLE[tree["result"]](**fields)


def write(path: Path, tree: Any, tensors: dict[str, Tensor]) -> None:
    """Write the tensors, then the JSON file that vouches for them and for itself."""
    content = safetensors.torch.save(tensors)
    write_atomically(path.with_suffix(".safetensors"), content)
    checks = {"sha256": hashlib.sha256(content).hexdigest(), "result_sha256": _tree_checksum(tree)}
    write_atomically(path, json.dumps(checks | {"result": tree}, indent=1).encode())


def read(path: Path, modules: Sequence[nn.Module]) -> Any:
    """Check and decode an entry.

    Returns:
        The result.

    Raises:
        ValueError: If a checksum is wrong.
    """
    entry = json.loads(path.read_bytes())
    content = path.with_suffix(".safetensors").read_bytes()
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise ValueError("its tensors do not have the checksum that its JSON file states")
    if _tree_checksum(entry["result"]) != entry["result_sha256"]:
        raise ValueError("its JSON file does not have the checksum that it states")
    return decode(entry["result"], safetensors.torch.load(content), modules)


def _tree_checksum(tree: Any) -> str:
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()
