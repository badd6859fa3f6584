"""Hashes of values by content."""

from __future__ import annotations

import dataclasses
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradembed import _validation

_OWN_TO_EVERY_MODULE = set(vars(nn.Module()))


def fingerprint(value: object) -> str:
    """Hash a value by content: SHA-256 over types, shapes and bytes.

    Args:
        value: Nothing, numbers, strings, paths, tensors, arrays, modules (source, structure, state, mode,
            attributes), classes of modules (name, source), functions (name, source, defaults, closure), dataclasses,
            and sequences and mappings of them.

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
        got, remedy = f"{type(value).__name__}, which contains itself", "Pass numbers, tensors or modules"
        _validation.refuse("args", "have a content to hash", got, remedy, TypeError)
    return digest.hexdigest()


def _update(digest: Any, value: object) -> None:
    """Feed a value and its type into a hash."""
    digest.update(f"<{type(value).__qualname__}>".encode())
    if isinstance(value, Tensor):
        digest.update(f"{value.dtype}{tuple(value.shape)}".encode())
        plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
        digest.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
    elif isinstance(value, nn.Module):
        _update(digest, _module_parts(value))
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
        digest.update(_source(value).encode() + b";")
    elif inspect.isfunction(value):
        cells = [cell.cell_contents for cell in value.__closure__ or () if cell.cell_contents is not value]
        _update(digest, [_source(value), value.__defaults__, value.__kwdefaults__, cells])
    else:
        _validation.refuse(
            "args", "have a content to hash", _validation.describe(value), "Pass numbers, tensors or modules", TypeError
        )


def _module_parts(module: nn.Module) -> list[object]:
    """All that decides what a network does, in hashable parts.

    Returns:
        Structure, source, modes, parameters (which of them are one, which are trained), buffers, attributes.
    """
    parameters = dict(module.named_parameters(remove_duplicate=False))
    first_names: dict[int, str] = {}
    shared = [first_names.setdefault(id(parameter), name) for name, parameter in parameters.items()]
    return [
        repr(module),
        [_source(type(part)) for part in module.modules()],
        [part.training for part in module.modules()],
        {name: parameter.detach() for name, parameter in parameters.items()},
        [parameter.requires_grad for parameter in parameters.values()],
        shared,
        dict(module.named_buffers(remove_duplicate=False)),
        [_attributes(part) for part in module.modules()],
    ]


def _attributes(module: nn.Module) -> dict[str, str]:
    """What a module keeps beside parameters, buffers and modules; what cannot be hashed counts by its type.

    Returns:
        A hash per attribute.
    """
    result = {}
    for key, value in vars(module).items():
        if key not in _OWN_TO_EVERY_MODULE:
            try:
                result[key] = fingerprint(value)
            except TypeError:
                result[key] = type(value).__qualname__
    return result


def _source(thing: type | Callable[..., object]) -> str:
    """Name and source of a class or function; torch's own are covered by its version.

    Returns:
        The text, without the source where there is none.
    """
    name = f"{thing.__module__}.{thing.__qualname__}"
    if name.startswith("torch."):
        return name
    try:
        return thing.__qualname__ + inspect.getsource(thing)
    except (OSError, TypeError):
        return name
