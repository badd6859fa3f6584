"""Samples that come in batches, from a `DataLoader` or any other iterable, gone through in constant memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from gradembed import _validation


class Stream:
    """Batches of samples, each checked when it comes.

    Attributes:
        source: Where they come from.
        first: The first batch, [n, ...], once the stream has been started.
    """

    first: Tensor

    def __init__(self, source: Iterable[object]) -> None:
        self.source = source

    def start(self) -> Tensor:
        """Ask for the first batch, which says what the others have to look like.

        Returns:
            It, [n, ...].
        """
        self._items = enumerate(self.source)
        begin = list(islice(self._items, 1))
        if not begin:
            remedy = "Pass one with samples; an iterator that was used up gives no more"
            _validation.refuse("x", "give at least one batch", "none", remedy)
        self.first = self._checked(begin[0][1], "x[0]")
        return self.first

    def chunks(self, size: int) -> Iterator[Tensor]:
        """Go through the samples once, cut and put together to chunks of equal size.

        What is held back for the next chunk is copied, so that a source may fill one and the same batch anew.

        Yields:
            ``size`` samples each, at the end fewer.
        """
        held: list[Tensor] = []
        n = 0
        for batch in self._batches():
            rest = batch
            while n + len(rest) >= size:
                part, rest = rest[: size - n], rest[size - n :]
                yield torch.cat([*held, part]) if held else part
                held, n = [], 0
            if len(rest):
                held.append(rest.clone())
                n += len(rest)
        if held:
            yield torch.cat(held)

    def _batches(self) -> Iterator[Tensor]:
        yield self.first
        for i, item in self._items:
            yield self._checked(item, f"x[{i}]", self.first)

    @staticmethod
    def _checked(item: object, name: str, first: Tensor | None = None) -> Tensor:
        """Take the samples out of what the source gave, which may have labels and more behind them.

        Args:
            item: What the source gave.
            name: Of the batch, for messages.
            first: The first batch, for the others.

        Returns:
            [n, ...].
        """
        batch = _batch_of(item)
        if not isinstance(batch, Tensor):
            rule = "be a torch.Tensor of samples, or a tuple or list that begins with one"
            remedy = "Have the iterable give batches, as a DataLoader does"
            _validation.refuse(name, rule, _validation.describe(item), remedy, TypeError)
        first = batch if first is None else first
        for rule, value, expected in (
            ("have the precision", batch.dtype, first.dtype),
            ("be on the device", batch.device, first.device),
            ("have samples of the shape", list(batch.shape[1:]), list(first.shape[1:])),
        ):
            if value != expected:
                remedy = "Make all batches alike; only their numbers of samples may differ"
                _validation.refuse(name, f"{rule} of the first batch, {expected}", value, remedy)
        _validation.check_samples(batch, name)
        return batch.detach().clone() if batch.is_inference() else batch.detach()


def streamed(x: Any) -> Tensor | Stream:
    """See batches as a stream. Arrays, texts, mappings and lists of numbers, which can be iterated too, are no batches.

    Returns:
        A stream, or what came.
    """
    is_other = isinstance(x, str | bytes | Mapping) or hasattr(x, "__array__")
    if isinstance(x, list | tuple) and x:
        is_other = not isinstance(_batch_of(x[0]), Tensor)
    return Stream(x) if isinstance(x, Iterable) and not is_other and not isinstance(x, Tensor) else x


def _batch_of(item: object) -> object:
    return item[0] if isinstance(item, tuple | list) and item else item
