"""What a model is asked with: one batch of any structure, or a stream of them, cut and put together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gradembed._validation import FLOAT_TYPES, as_tensor, check_dense, check_placement, describe, is_finite, refuse

Batch = Any  # a tensor [n, ...], or a mapping, tuple or list of them and of what is no tensor
HALF_TYPES = (torch.float16, torch.bfloat16)


def tensors_in(batch: Batch) -> list[Tensor]:
    """List the tensors of a batch, in order.

    Returns:
        Those of its items, and of theirs.
    """
    if isinstance(batch, Tensor):
        return [batch]
    items = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else ()
    return [tensor for item in items for tensor in tensors_in(item)]


def each(batch: Batch, change: Callable[[Any], Any]) -> Batch:
    """Change every tensor (or array) of a batch; what is none stays.

    Returns:
        A batch of the same structure.
    """
    if isinstance(batch, Tensor | np.ndarray) or (isinstance(batch, list) and _is_numbers(batch)):
        return change(batch)
    if isinstance(batch, Mapping):
        return {key: each(item, change) for key, item in batch.items()}
    if isinstance(batch, tuple | list):
        items = [each(item, change) for item in batch]
        return type(batch)(*items) if hasattr(batch, "_fields") else type(batch)(items)
    return batch


def joined(batches: list[Batch]) -> Batch:
    """Put batches of the same structure one after the other.

    Returns:
        One batch.
    """
    if len(batches) == 1:
        return batches[0]
    columns = iter([torch.cat(column) for column in zip(*map(tensors_in, batches), strict=True)])
    return each(batches[0], lambda _: next(columns))


def size_of(batch: Batch) -> int:
    """Count the samples.

    Returns:
        n.
    """
    return len(tensors_in(batch)[0])


def read_batch(batch: Any, name: str, kind: torch.dtype | None = None) -> Batch:
    """Check one batch: tensors that hold numbers, each with the samples along axis 0. Arrays become tensors.

    Args:
        batch: A tensor, an array, a list of numbers, or a mapping, tuple or list of tensors.
        name: Of the argument that it comes from.
        kind: The model's precision, if it has one.

    Returns:
        The batch, of detached tensors.
    """
    if not isinstance(batch, Tensor | Mapping | tuple | list) or _is_numbers(batch):
        like = None if kind is None else torch.empty(0, dtype=kind)  # Python's numbers have no precision of their own
        batch = as_tensor(name, batch, "...", kind="any", like=like)
    batch = each(batch, lambda item: item if isinstance(item, Tensor) else as_tensor(name, item, "...", kind="any"))
    batch = each(batch, lambda tensor: tensor.detach().clone() if tensor.is_inference() else tensor.detach())
    found = tensors_in(batch)
    if isinstance(batch, Tensor) and batch.ndim == 1 and batch.is_floating_point():
        remedy = f"Use {name}[None] for one sample, {name}[:, None] for one feature"
        refuse(name, "have a sample axis and a feature axis, [n, d]", describe(batch), remedy)
    if not found:
        rule = "hold samples: a tensor, or a mapping or tuple with tensors"
        refuse(name, rule, describe(batch), "Pass what the model is called with", TypeError)
    for tensor in found:
        check_dense(name, tensor)
        if tensor.is_complex() or tensor.is_quantized:
            refuse(name, "hold real numbers", describe(tensor), "Convert it to a float type")
        if tensor.numel() == 0:
            refuse(name, "hold at least one sample and one feature", describe(tensor), "Pass a non-empty tensor")
        if tensor.ndim == 0 or len(tensor) != len(found[0]):
            got = f"shapes {[list(other.shape) for other in found]}"
            remedy = "Give every tensor a first axis for the samples, and bind the rest in `forward=`"
            refuse(name, "have the samples along axis 0 of every tensor", got, remedy)
        if not tensor.is_floating_point() or is_finite(tensor):
            continue
        wrong = tensor.isnan() if tensor is not found[0] else ~tensor.isfinite()  # a mask may hold -inf
        if bool(wrong.any()):
            got = f"{int(wrong.sum())} NaN or infinite values of {tensor.numel()}"
            refuse(name, "be finite", got, "Clean or drop those samples")
    return batch


def _is_numbers(value: Any) -> bool:
    """Whether a list holds numbers, or lists of them, and so is no list of batches."""
    while isinstance(value, list) and value:
        value = value[0]
    return isinstance(value, bool | int | float | np.number)


class Stream:
    """Batches of samples, each checked when it comes.

    Attributes:
        source: Where they come from.
        first: The first batch.
    """

    def __init__(self, source: Iterable[Any], takes_one: bool, unpacks: bool = True) -> None:
        self.source, self.takes_one, self.unpacks = source, takes_one, unpacks
        self._items = enumerate(source)
        begin = next(self._items, None)
        if begin is None:
            remedy = "Pass one with samples; an iterator that was used up gives no more"
            refuse("x", "give at least one batch", "none", remedy)
        self.first = self._read(begin[1], "x[0]")

    def chunks(self, size: int) -> Iterator[Batch]:
        """Go through the samples once, cut and put together to chunks of equal size.

        What is held back for the next chunk is copied, so that a source may fill one and the same batch anew.

        Yields:
            ``size`` samples each, at the end fewer.
        """
        held: list[Batch] = []
        n = 0
        for batch in self._batches():
            start, length = 0, size_of(batch)
            while n + length - start >= size:
                end = start + size - n
                yield joined([*held, part(batch, start, end)])
                held, n, start = [], 0, end
            if start < length:
                held.append(each(part(batch, start, length), torch.clone))
                n += length - start
        if held:
            yield joined(held)

    def _batches(self) -> Iterator[Batch]:
        yield self.first
        for i, item in self._items:
            yield self._read(item, f"x[{i}]", self.first)

    def _read(self, item: Any, name: str, first: Batch = None) -> Batch:
        """Take the samples out of what the source gave, which may have labels behind them."""
        if isinstance(item, tuple | list) and self.unpacks and (len(item) == 1 or (self.takes_one and item)):
            item = item[0]
        if not isinstance(item, Tensor | np.ndarray | Mapping | tuple | list) or _is_numbers(item):
            rule = "be a batch: a tensor of samples, or a mapping or tuple of tensors"
            refuse(name, rule, describe(item), "Have the iterable give batches, as a DataLoader does", TypeError)
        batch = read_batch(item, name)
        if first is None:
            return batch
        batch, difference = _alike(batch, first)
        if difference:
            remedy = "Make all batches alike (pad tokens to one length); only their numbers of samples may differ"
            refuse(name, f"be like the first batch, {difference[0]}", difference[1], remedy)
        return batch


class Reservoir:
    """Some of all samples that come by, drawn at random whatever they are cut into: those with the largest random keys.

    Args:
        most: Samples to keep.
        seed: Of the keys.
    """

    def __init__(self, most: int, seed: int) -> None:
        self.most, self.n, self._rng = most, 0, np.random.default_rng([seed, 1])
        self._keys, self._kept = np.empty(0), None

    def add(self, batch: Batch) -> None:
        """Look at some samples, and keep copies of those with large keys."""
        n, old = size_of(batch), len(self._keys)
        keys = np.concatenate([self._keys, self._rng.random(n)])
        best = np.sort(np.argsort(-keys, kind="stable")[: self.most])  # in the order in which they came
        before, new = best[best < old].tolist(), (best[best >= old] - old).tolist()
        if new:
            parts = [chosen(self._kept, before)] * bool(before) + [chosen(batch, new)]
            self._keys, self._kept = keys[best], joined(parts)
        self.n += n

    def draw(self, m: int) -> Batch:
        """Return m of the samples kept, or all of them."""
        return chosen(self._kept, np.sort(np.argsort(-self._keys, kind="stable")[:m]).tolist())


def _alike(batch: Batch, first: Batch) -> tuple[Batch, tuple[str, str] | None]:
    """Put a batch in the order of another; tell what the other has, and what stands there instead, if they differ."""
    if isinstance(batch, Mapping) and isinstance(first, Mapping) and batch.keys() == first.keys():
        pairs = {key: _alike(batch[key], item) for key, item in first.items()}
        return {key: item for key, (item, _) in pairs.items()}, next((d for _, d in pairs.values() if d), None)
    if isinstance(batch, tuple | list) and type(batch) is type(first) and len(batch) == len(first):
        return batch, next((d for a, b in zip(batch, first, strict=True) if (d := _alike(a, b)[1])), None)
    one, other = kind_of(first), kind_of(batch)
    return batch, None if one == other else (one, other)


def kind_of(item: Any) -> str:
    """Describe a tensor whatever the number of samples.

    Returns:
        Its type, shape and device.
    """
    if not isinstance(item, Tensor):
        return describe(sorted(item) if isinstance(item, Mapping) else item)
    return f"{str(item.dtype).removeprefix('torch.')} {['n', *item.shape[1:]]} on {item.device}".replace("'", "")


def part(batch: Batch, start: int, end: int) -> Batch:
    """Take consecutive samples.

    Returns:
        A batch of views.
    """
    return each(batch, lambda tensor: tensor[start:end])


def chosen(batch: Batch, positions: list[int]) -> Batch:
    """Take samples in a given order.

    Returns:
        A batch of copies.
    """
    return each(batch, lambda tensor: tensor[torch.tensor(positions, device=tensor.device)])


def read(x: Any, model: nn.Module, forward: Callable[..., Any] | None, name: str = "x") -> Batch | Stream:
    """Tell one batch from a stream of them, and check it.

    A tensor, an array, a list of numbers, a mapping or a tuple is one batch; any other iterable is a stream. Of its
    tuples the first element is the input where the model takes only one; where it could take more, the caller has to
    say what it takes.

    Args:
        x: What came.
        model: That is asked.
        forward: How it is called, if the caller says so.
        name: Of the argument.

    Returns:
        A batch or a stream.
    """
    if isinstance(x, Dataset) and not hasattr(x, "__iter__"):
        remedy = "Wrap it: torch.utils.data.DataLoader(dataset, batch_size=64)"
        refuse(name, "be samples, or give batches of them", f"the data set {type(x).__name__}", remedy, TypeError)
    if isinstance(x, Tensor | Mapping | tuple | np.ndarray) or _is_numbers(x) or not isinstance(x, Iterable):
        kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
        return read_batch(x, name, kind)
    if isinstance(x, str | bytes) or hasattr(x, "__array__"):
        return read_batch(np.asarray(x) if hasattr(x, "__array__") else x, name)
    takes_one = forward is None and not may_take_more(model)
    stream = Stream(x, takes_one, forward is None)
    if forward is None and not takes_one and isinstance(stream.first, tuple | list):
        rule = f"say what of a batch {type(model).__name__} takes, since it may take more than one input"
        remedy = "Pass forward=lambda model, batch: model(batch[0]), or which elements it takes"
        refuse("forward", rule, f"None for batches of {len(stream.first)} elements", remedy)
    return stream


def may_take_more(model: nn.Module) -> bool:
    """Whether a model's forward has room for more than one input.

    Returns:
        True if so, or if that cannot be told.
    """
    try:
        parameters = inspect.signature(model.forward).parameters.values()
    except (TypeError, ValueError):
        return True
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(places) != 1 or any(p.kind == p.VAR_POSITIONAL for p in parameters)


def call(model: nn.Module, batch: Batch) -> Any:
    """Call a model with a batch.

    Returns:
        What it returns.
    """
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, tuple | list) else model(batch)


def check_fits(model: nn.Module, batch: Batch, name: str) -> None:
    """Refuse samples on another device than the model's parameters, or a float tensor of another precision."""
    for tensor in tensors_in(batch):
        alone = isinstance(batch, Tensor) and tensor.is_floating_point()  # of several, only the model knows
        check_placement(model, tensor, name, any_precision=not alone)


def float_kind(model: nn.Module, batch: Batch) -> torch.dtype:
    """The precision that is computed in: that of the samples, or of the parameters where samples are integers.

    Returns:
        A float type.
    """
    found = [*tensors_in(batch), *model.parameters()]
    return next((t.dtype for t in found if t.dtype in (*FLOAT_TYPES, *HALF_TYPES)), torch.get_default_dtype())
