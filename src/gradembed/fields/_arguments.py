"""Checks of what gradient fields are made of, picked by and mapped with."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from gradembed import _validation


def check_fields(points: Any, gradients: Any, **optional: Any) -> None:
    """Refuse tensors that are no gradient fields, or do not fit each other."""
    _check_floats("gradients", gradients)
    if gradients.ndim != 3:
        remedy = "Use gradients[None] for one unit"
        _validation.refuse("gradients", "have shape [u, m, d]", _validation.describe(gradients), remedy)
    u, m, d = gradients.shape
    _check_floats("points", points, gradients)
    if points.shape not in ((m, d), (u, m, d)):
        rule = f"have shape [{m}, {d}], shared, or [{u}, {m}, {d}], own"
        _validation.refuse("points", rule, _validation.describe(points), "Match them to the gradients")
    values = optional.pop("values")
    if values is not None:
        _check_floats("values", values, gradients)
        _check_shape("values", values, (u, m))
    for name, value in optional.items():
        if value is not None:
            _check_integers(name, value, gradients)
            _check_shape(name, value, (u, m) if name == "regions" else (u,))


def check_kind(name: str, value: object, kind: type) -> None:
    """Refuse what is no fields."""
    if not isinstance(value, kind):
        remedy = "Take them with gradient_fields"
        _validation.refuse(name, f"be {kind.__name__}", _validation.describe(value), remedy, TypeError)


def check_fraction(name: str, value: Any) -> None:
    """Refuse what is no share of the points to leave out."""
    _validation.check_number(name, value, 0, open_low=True)
    if value >= 1:
        _validation.refuse(name, "be below 1", value, "Keep something to predict from")


def check_points_of(gradients: Tensor, first: Tensor) -> None:
    """Refuse a part of fields that cannot be put beside the first."""
    if gradients.shape[1:] != first.shape[1:]:
        m, d = first.shape[1:]
        got, remedy = f"{gradients.shape[1]} of {gradients.shape[2]}", "Use `subsample`, or take them apart"
        _validation.refuse("parts", f"all have {m} points of {d} dimensions", got, remedy)
    if gradients.dtype != first.dtype or gradients.device != first.device:
        got = f"{gradients.dtype} on {gradients.device}"
        _validation.refuse("parts", f"all be {first.dtype} on {first.device}", got, "Convert them")


def check_matrices(name: str, matrices: Any, gradients: Tensor) -> Tensor:
    """Refuse what is not one matrix for all units or one for each.

    Returns:
        The matrices in float64, on the fields' device.
    """
    u, _, d = gradients.shape
    if not isinstance(matrices, Tensor):
        _validation.refuse(name, "be a torch.Tensor", _validation.describe(matrices), "Convert it", TypeError)
    _validation.check_dense(name, matrices)
    if matrices.shape not in ((d, d), (u, d, d)):
        _validation.refuse(
            name, f"have shape [{d}, {d}] or [{u}, {d}, {d}]", _validation.describe(matrices), "Reshape it"
        )
    if not matrices.is_floating_point() or not _validation.is_finite(matrices):
        _validation.refuse(
            name, "be finite floating-point numbers", _validation.describe(matrices), "Convert or clean it"
        )
    return matrices.detach().to(gradients.device, torch.float64)


def positions(index: Any, u: int) -> Tensor:
    """Turn an integer, a slice, a list of positions or a mask into positions, refusing the rest.

    Returns:
        From 0 to u - 1, [v], at least one.
    """
    chosen = torch.tensor(range(u)[index]) if isinstance(index, slice) else _as_tensor(index)
    if chosen.dtype == torch.bool:
        if chosen.shape != (u,):
            _validation.refuse("index", f"be a mask of {u} units", _validation.describe(chosen), "Match it", IndexError)
        chosen = chosen.nonzero().flatten()
    if chosen.numel() == 0:
        _validation.refuse("index", "pick at least one unit", "none", f"There are {u}", IndexError)
    wrong = chosen[(chosen < -u) | (chosen >= u)]
    if len(wrong):
        _validation.refuse("index", f"lie between {-u} and {u - 1}", int(wrong[0]), "Drop or correct it", IndexError)
    return chosen.long() % u


def _as_tensor(index: Any) -> Tensor:
    """Read a number, or numbers or booleans in a row.

    Returns:
        One axis of them.
    """
    try:
        is_number = getattr(index, "ndim", int(hasattr(index, "__len__"))) == 0 and not isinstance(index, bool)
        row = [operator.index(index)] if is_number else index
        tensor = torch.as_tensor(row).reshape(-1) if len(row) else torch.empty(0)
        fits = (tensor.numel() == 0 or not tensor.is_floating_point()) and not isinstance(row, str | bytes)
    except (TypeError, ValueError, RuntimeError):
        fits = False
    if not fits:
        remedy = "Pass fields[0], fields[2:5], fields[[0, 7]] or fields[mask]"
        rule = "be an integer, a slice, a list of positions or a mask"
        _validation.refuse("index", rule, _validation.describe(index), remedy, TypeError)
    return tensor.cpu()


def numbered_on(groups: Sequence[Tensor]) -> list[Tensor]:
    """Number the groups of each part on from those of the part before.

    Returns:
        New numbers, part by part.
    """
    start, result = 0, []
    for part in groups:
        distinct, numbers = part.unique(return_inverse=True)
        result.append(numbers + start)
        start += len(distinct)
    return result


def _check_floats(name: str, value: Any, like: Tensor | None = None) -> None:
    if not isinstance(value, Tensor):
        remedy = f"Convert it with torch.as_tensor({name}, dtype=torch.float32)"
        _validation.refuse(name, "be a torch.Tensor", _validation.describe(value), remedy, TypeError)
    if value.dtype not in _validation.FLOAT_TYPES:
        _validation.refuse(name, "be float32 or float64", value.dtype, f"Convert it with {name}.float()")
    _validation.check_dense(name, value)
    if value.numel() == 0:
        _validation.refuse(name, "hold at least one number", _validation.describe(value), "Pass a non-empty tensor")
    if not _validation.is_finite(value):
        bad = int((~value.isfinite()).sum())
        _validation.refuse(name, "be finite", f"{bad} NaN or infinite values of {value.numel()}", "Drop those units")
    if like is not None and (value.dtype != like.dtype or value.device != like.device):
        rule = f"have the gradients' precision and device, {like.dtype} on {like.device}"
        _validation.refuse(name, rule, f"{value.dtype} on {value.device}", f"Convert it with {name}.to(gradients)")


def _check_integers(name: str, value: Any, like: Tensor) -> None:
    if not isinstance(value, Tensor):
        remedy = f"Convert it with torch.as_tensor({name})"
        _validation.refuse(name, "be a torch.Tensor", _validation.describe(value), remedy, TypeError)
    if value.dtype != torch.int64:
        _validation.refuse(name, "be int64", value.dtype, f"Convert it with {name}.long()")
    _validation.check_dense(name, value)
    if value.device != like.device:
        remedy = f"Move it with {name}.to(gradients.device)"
        _validation.refuse(name, f"be on the gradients' device, {like.device}", value.device, remedy)


def _check_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> None:
    if value.shape != shape:
        _validation.refuse(name, f"have shape {list(shape)}", _validation.describe(value), "Match it to the gradients")
