"""What a library meets that it was not written for: abuses by name, and what must hold whatever the answer is.

A table row is (subject, argument, {abuse: expected}). The abuse changes one argument of an ordinary call; expected is

- "same": the ordinary answer, to the subject's precision;
- "finite": numbers without NaN or infinity, in the ordinary structure, of axes as long as they were or as the
  argument now is;
- "ValueError" or "TypeError": a refusal in the house grammar that names the argument; "ValueError: other|names" if it
  is known by another name.
"""

from __future__ import annotations

import copy
import dataclasses
import re
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.axes import Axes
from torch import Tensor, nn

import gradembed as ge

GRAMMAR = re.compile(r"`(?P<name>[^`]+)` should (?P<rule>.+?)\. Got (?P<got>.+)\. (?P<remedy>[A-Z].+)\.", re.DOTALL)
VALUE, TYPE, INDEX, SAME, FINITE = "ValueError", "TypeError", "IndexError", "same", "finite"
REFUSALS = (VALUE, TYPE, INDEX, "FloatingPointError")


def assert_house_grammar(error: BaseException, names: str) -> None:
    """The message names the argument, the rule, the value and the remedy."""
    match = GRAMMAR.fullmatch(str(error))
    assert match, f"{type(error).__name__} not in the house grammar: {error}"
    assert re.fullmatch(names, match["name"]), f"{match['name']!r} is refused, not {names!r}: {error}"
    assert not re.search(r"\bnan\b.*\bnan\b.*\bnan\b", match["got"]), f"numbers spelled out: {error}"
    assert len(str(error)) < 600, f"a message of {len(str(error))} characters: {error}"


@dataclasses.dataclass(frozen=True)
class Subject:
    """An ordinary call of a public name.

    Attributes:
        call: Takes the arguments by name.
        usual: Makes them anew.
        rtol: How near "same" must be.
        is_ragged: Whether the lengths of the answer's axes depend on the numbers.
        trains: Whether the call may change the network that it is given.
    """

    call: Callable[..., Any]
    usual: Callable[[], dict[str, Any]]
    rtol: float = 1e-9
    is_ragged: bool = False
    trains: bool = False


Row = tuple[str, str, dict[str, str]]


def rows(grouped: dict[str, dict[str, dict[str, str]]]) -> list[Row]:
    """The rows of a table whose subjects have their arguments beside each other."""
    return [(name, argument, abuses) for name, arguments in grouped.items() for argument, abuses in arguments.items()]


# Abuses


def _with_first(number: float) -> Callable[[Tensor], Tensor]:
    def change(value: Any) -> Any:
        changed = value.clone() if isinstance(value, Tensor) else np.array(value)
        changed.reshape(-1)[0] = number
        return changed

    return change


def _model(change: Callable[[nn.Module], object]) -> Callable[[nn.Module], nn.Module]:
    """Change a copy of a network."""

    def changed(model: nn.Module) -> nn.Module:
        copied = copy.deepcopy(model)
        with torch.no_grad():
            change(copied)
        return copied

    return changed


def _poison(number: float) -> Callable[[nn.Module], nn.Module]:
    return _model(lambda model: next(model.parameters()).view(-1)[:1].fill_(number))


def _silence(model: nn.Module) -> None:
    """Every ReLU of the first layer is off everywhere."""
    first = next(module for module in model.modules() if isinstance(module, nn.Linear))
    first.weight.zero_()
    first.bias.fill_(-1)


def _scaled(factor: float) -> Callable[[nn.Module], nn.Module]:
    return _model(lambda model: [p.mul_(factor) for p in model.parameters()])


def _fields(**changes: Callable[[ge.GradientFields], Any]) -> Callable[[ge.GradientFields], ge.GradientFields]:
    return lambda fields: dataclasses.replace(fields, **{name: change(fields) for name, change in changes.items()})


def _times(factor: float, units: slice = slice(None)) -> Callable[[ge.GradientFields], ge.GradientFields]:
    """Scale gradients and values of some units."""

    def scaled(numbers: Tensor | None) -> Tensor | None:
        if numbers is not None:
            numbers = numbers.clone()
            numbers[units] *= factor
        return numbers

    return _fields(gradients=lambda f: scaled(f.gradients), values=lambda f: scaled(f.values))


def closed_file() -> Any:
    """A file that was closed."""
    with open(__file__) as file:  # noqa: PTH123
        return file


def strided(value: Any) -> Any:
    """The same numbers, not next to each other in memory."""
    return (torch.stack if isinstance(value, Tensor) else np.stack)([value, value], -1)[..., 0]


def _dtype(model: nn.Module) -> torch.dtype:
    return next(model.parameters()).dtype


ABUSES: dict[str, Callable[[Any], Any]] = {
    # wrong types
    "string": lambda _: "nonsense", "bytes": lambda _: b"nonsense", "none": lambda _: None,
    "object": lambda _: object(), "list": lambda v: v.tolist() if hasattr(v, "tolist") else [v],
    "numpy": lambda v: v.numpy(), "tensor": lambda _: torch.tensor(1.5), "frame": lambda v: pd.DataFrame(np.asarray(v)),
    "function": lambda _: lambda *_args, **_named: None, "dictionary": lambda _: {}, "class": lambda v: type(v),
    "closed file": lambda _: closed_file(), "bool": lambda _: True, "integer": lambda _: 3, "float": lambda _: 1.5,
    # numbers
    "zero": lambda _: 0, "negative": lambda _: -1, "nan": lambda _: float("nan"), "infinity": lambda _: float("inf"),
    "huge": lambda _: 1e30, "tiny": lambda _: 1e-30, "one": lambda _: 1, "two": lambda _: 2, "many": lambda _: 10**6,
    # tensors and arrays
    "empty": lambda v: v[:0], "no columns": lambda v: v[:, :0], "one row": lambda v: v[:1],
    "one column": lambda v: v[:, :1], "one axis": lambda v: v[0], "scalar": lambda v: v.reshape(-1)[0],
    "another axis": lambda v: v[None], "shorter": lambda v: v[:-1], "NaN": _with_first(float("nan")),
    "inf": _with_first(float("inf")), "-inf": _with_first(float("-inf")), "1e30": lambda v: v * 1e30,
    "1e-30": lambda v: v * 1e-30, "zeros": lambda v: v * 0, "longs": lambda v: v.long(), "bools": lambda v: v > 0,
    "floats": lambda v: v.double() + 0.5, "half": lambda v: v.half(), "bfloat16": lambda v: v.bfloat16(),
    "complex": lambda v: v + 0j, "sparse": lambda v: v.to_sparse(), "meta": lambda v: v.to("meta"), "strided": strided,
    "requires grad": lambda v: v.clone().requires_grad_(), "expanded": lambda v: v[:1].expand(v.shape),
    "doubled": lambda v: torch.cat([v, v]) if isinstance(v, Tensor) else np.concatenate([v, v]),
    "negative first": _with_first(-1), "large first": _with_first(99), "objects": lambda v: np.array([None] * len(v)),
    "expanded array": lambda v: np.broadcast_to(v[:1], v.shape), "in a tuple": lambda v: (v,),
    "in a mapping": lambda v: {"x": v}, "in batches": lambda v: [v[:5], v[5:]], "batches of nothing": lambda _: [None],
    # sequences
    "nothing": lambda _: [], "one item": lambda v: list(v)[:1], "nested": lambda v: [list(v)],
    "floats in it": lambda v: [0.5] * len(list(v)), "bools in it": lambda v: [True] * len(list(v)),
    "strings in it": lambda v: ["a"] * len(list(v)), "None in it": lambda v: [None] * len(list(v)),
    "far away": lambda _: [99], "negative in it": lambda _: [-1], "twice the same": lambda v: [next(iter(v))] * 2,
    "as a tuple": lambda v: tuple(v), "as a list": lambda v: list(v) if not hasattr(v, "tolist") else v.tolist(),
    "as a tensor": lambda v: torch.as_tensor(list(v)), "as an array": lambda v: np.asarray(v),
    "as strings": lambda v: [str(item) for item in torch.as_tensor(v).tolist()],
    "too few": lambda v: list(v)[:-1], "too many": lambda v: [*v, *v],
    # networks
    "NaN weights": _poison(float("nan")), "infinite weights": _poison(float("inf")), "dead": _scaled(0),
    "dead ReLUs": _model(_silence), "weights 1e30": _scaled(1e30), "weights 1e-30": _scaled(1e-30),
    "half network": lambda v: copy.deepcopy(v).half(), "meta network": lambda v: copy.deepcopy(v).to("meta"),
    "other precision": lambda v: copy.deepcopy(v).to(torch.float32 if _dtype(v) == torch.float64 else torch.float64),
    "frozen": lambda v: copy.deepcopy(v).requires_grad_(False), "eval": lambda v: copy.deepcopy(v).eval(),
    "without parameters": lambda _: nn.ReLU(), "ensemble": lambda v: ge.MLPEnsemble([4, 5, 3], 2, seed=0).to(_dtype(v)),
    "lazy network": lambda v: nn.Sequential(nn.LazyLinear(3, dtype=_dtype(v))),
    "dropout": lambda v: nn.Sequential(copy.deepcopy(v), nn.Dropout(0.5)),
    "batch norm": lambda v: nn.Sequential(nn.BatchNorm1d(4), copy.deepcopy(v)).to(_dtype(v)),
    # fields
    "one unit": lambda v: v[:1], "one point": lambda v: v.subsample(1), "two points": lambda v: v.subsample(2),
    "constant units": _times(0), "one constant unit": _times(0, slice(1)), "fields 1e30": _times(1e30),
    "fields 1e-30": _times(1e-30), "points 1e30": _fields(points=lambda f: f.points * 1e30),
    "equal points": _fields(points=lambda f: f.points[..., :1, :].expand(f.points.shape).clone()),
    "single precision": _fields(points=lambda f: f.points.float(), gradients=lambda f: f.gradients.float(),
                                values=lambda f: None if f.values is None else f.values.float()),
    "strided fields": _fields(points=lambda f: strided(f.points), gradients=lambda f: strided(f.gradients)),
    "doubled units": lambda v: ge.GradientFields.concatenate([v, v]), "its gradients": lambda v: v.gradients,
    "without values": _fields(values=lambda _: None),
}  # fmt: skip

SAMPLES = dict.fromkeys(["string", "none", "list", "numpy", "frame"], TYPE)
SAMPLES |= dict.fromkeys(["empty", "no columns", "one axis", "scalar", "NaN", "inf", "-inf", "longs", "bools"], VALUE)
SAMPLES |= dict.fromkeys(["half", "bfloat16", "complex", "sparse", "meta"], VALUE) | {"strided": SAME}
SAMPLES |= dict.fromkeys(["one row", "1e30", "1e-30", "zeros", "expanded", "doubled"], FINITE) | {"requires grad": SAME}

INTEGER = dict.fromkeys(["string", "none", "float", "bool", "nan", "list", "tensor"], TYPE) | {"negative": VALUE}
COUNT = INTEGER | {"zero": VALUE}
OPTIONAL_COUNT = COUNT | {"none": SAME}
NUMBER = dict.fromkeys(["string", "none", "bool", "list", "tensor"], TYPE)
NUMBER |= dict.fromkeys(["nan", "infinity", "negative"], VALUE)
CHOICE = dict.fromkeys(["string", "none", "integer", "list", "tensor"], VALUE)
LAYER = dict.fromkeys(["none", "integer", "list", "object"], TYPE) | {"string": VALUE}
NETWORK = dict.fromkeys(["string", "none", "list", "class", "function"], TYPE)

# What holds for every case


def numbers_of(result: Any) -> list[Tensor]:
    """All numbers in an answer, in a fixed order."""
    if isinstance(result, Tensor):
        return [result.detach().to_dense().to(torch.complex128 if result.is_complex() else torch.float64)]
    if isinstance(result, np.ndarray):
        return [torch.from_numpy(result.astype(float))] if result.dtype.kind in "biuf" else []
    if isinstance(result, bool | int | float | np.generic):
        return [torch.tensor(float(result), dtype=torch.float64)]
    if isinstance(result, pd.DataFrame):
        table = result.select_dtypes(["number", "bool"])
        return numbers_of(table.drop(columns="seconds", errors="ignore").to_numpy(float))
    if isinstance(result, nn.Module):
        known = [getattr(result, name, None) for name in ("scores", "losses", "labels")]  # of a trained ensemble
        return numbers_of([*result.state_dict().values(), *known])
    if isinstance(result, Axes):
        lines = [np.asarray(line.get_xydata(), dtype=float) for line in result.lines]
        images = [np.ma.filled(image.get_array().astype(float), 0) for image in result.images]
        return numbers_of([*lines, *images, *(np.asarray(c.get_offsets(), float) for c in result.collections)])
    if dataclasses.is_dataclass(result):
        skipped = ("seconds", "config", "seed")
        return numbers_of([getattr(result, f.name) for f in dataclasses.fields(result) if f.name not in skipped])
    if isinstance(result, dict):
        return numbers_of(list(result.values()))
    if isinstance(result, list | tuple):
        return [number for item in result for number in numbers_of(item)]
    return []


def portrait(arguments: dict[str, Any]) -> list[Any]:
    """Everything about networks and tensors that a call must leave alone."""
    facts: list[Any] = [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist()]  # noqa: NPY002
    for value in arguments.values():
        if isinstance(value, Tensor):
            facts.append((value.requires_grad, value.grad, _bytes(value)))
        for module in value.modules() if isinstance(value, nn.Module) else []:
            kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
            facts.append((id(module), module.training, [len(getattr(module, kind)) for kind in kinds]))
            facts.extend((name, id(p), p.requires_grad, p.grad) for name, p in module.named_parameters(recurse=False))
            facts.append(sorted(vars(module)))
    return facts


def weights(arguments: dict[str, Any]) -> list[Any]:
    """Parameters and buffers of the networks among some arguments."""
    networks = [value for value in arguments.values() if isinstance(value, nn.Module)]
    return [_bytes(tensor) for network in networks for tensor in network.state_dict().values()]


def _bytes(tensor: Tensor) -> Any:
    is_lazy = isinstance(tensor, nn.parameter.UninitializedParameter)
    if is_lazy or tensor.device.type == "meta" or tensor.layout != torch.strided:
        return None
    return tensor.detach().clone().contiguous().view(-1).view(torch.uint8).numpy().tobytes()


def assert_answered_or_refused(
    subject: Subject, argument: str, abuse: str, expected: str, ordinary: list[Tensor]
) -> None:
    """Make the call, and hold it to what the table says."""
    arguments = subject.usual()
    arguments[argument] = changed = ABUSES[abuse](arguments[argument])
    before, weights_before, figures = portrait(arguments), weights(arguments), plt.get_fignums()
    kind, _, names = expected.partition(": ")
    if kind == "scikit-learn":  # which asks for messages of its own from its estimators
        with pytest.raises((ValueError, TypeError), match=r"array|sample|NaN|infinity|numeric|string|float"):
            subject.call(**arguments)
    elif kind in REFUSALS:
        with pytest.raises(Exception) as caught:  # noqa: PT011
            subject.call(**arguments)
        assert_house_grammar(caught.value, names or re.escape(argument))
        assert type(caught.value).__name__ == kind
        assert plt.get_fignums() == figures, "a figure is left behind"
    else:
        found = numbers_of(subject.call(**arguments))
        _compare(found, ordinary, subject, kind, changed)
    assert portrait(arguments) == before
    if kind in REFUSALS or not subject.trains:
        assert weights(arguments) == weights_before


def _compare(found: list[Tensor], ordinary: list[Tensor], subject: Subject, kind: str, changed: Any) -> None:
    assert found
    assert all(bool(value.isfinite().all()) for value in found), "not finite"
    if kind == SAME:
        assert [value.shape for value in found] == [value.shape for value in ordinary]
        for value, expected in zip(found, ordinary, strict=True):
            torch.testing.assert_close(value, expected, rtol=subject.rtol, atol=subject.rtol * _size(expected))
        return
    assert kind == FINITE
    if not subject.is_ragged:
        assert [value.ndim for value in found] == [value.ndim for value in ordinary]
        allowed = {*getattr(changed, "shape", ()), changed if isinstance(changed, int) else None}
        allowed |= {len(changed)} if hasattr(changed, "__len__") and not hasattr(changed, "shape") else set()
        for value, expected in zip(found, ordinary, strict=True):
            pairs = zip(value.shape, expected.shape, strict=True)
            assert all(a == b or a in allowed for a, b in pairs), f"{value.shape} after {expected.shape}"


def _size(value: Tensor) -> float:
    return float(value.abs().max()) if value.numel() else 0
