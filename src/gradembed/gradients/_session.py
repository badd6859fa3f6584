"""One question to one network: arguments checked once, then answered chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from torch import Tensor, nn

from gradembed import _context, _validation
from gradembed.gradients._chain import Chain
from gradembed.gradients._general import General
from gradembed.gradients._rows import Capture
from gradembed.gradients._stream import Stream

CHUNK_BYTES = 10 * 2**20  # of gradients at a time: fewer calls than smaller chunks, and still kept by the allocator
FEW = 8  # samples; of fewer at a time, running sums over many pairs of units cost more than the samples


@dataclass(frozen=True)
class Session:
    """A network, samples, units and layers that fit each other.

    Attributes:
        x: All samples, or the first batch of a stream.
        layers: Where gradients are wanted, in the caller's order.
        unit_labels: One label per unit: its index, or "direction i".
        stream: Where the samples come from, if not all of them are there.
        x_name: What the caller's users call ``x``.
        protect: With a stream, puts the model and the random state back after each chunk: what the caller's iterable
            does between them, such as drawing samples, is not undone.
    """

    network: Chain | General
    x: Tensor
    layers: tuple[str, ...]
    unit_layer: str
    readout: Tensor
    unit_labels: tuple[str, ...]
    x_name: str = "x"
    stream: Stream | None = None
    protect: Callable[[], AbstractContextManager[None]] = nullcontext

    @classmethod
    @contextmanager
    def open(
        cls,
        model: nn.Module,
        x: Tensor | Stream,
        layers: Sequence[str] | None,
        unit_layer: str,
        units: Sequence[int] | None,
        directions: Tensor | None,
        argument: str = "layers",
        x_name: str = "x",
    ) -> Iterator[Self]:
        """Check everything, choose the path, and put the model back afterwards.

        Args:
            model: The network.
            x: Samples, [n, ...], or a stream of them.
            layers: Where gradients are wanted; ``None`` for the input and the direct children before
                the unit layer.
            unit_layer: The layer that the units belong to.
            units: Their indices; ``None`` for all.
            directions: Or directions in that layer, [u, D].
            argument: What the caller's users call ``layers``, for error messages.
            x_name: What they call ``x``.

        Yields:
            The session.
        """
        _validation.check_module(model)
        stream = x if isinstance(x, Stream) else None
        if isinstance(x, Stream):
            x = x.start()
        else:
            _validation.check_samples(x, x_name)
        _validation.check_placement(model, x, x_name)
        _validation.check_parameters(model)
        _validation.check_per_sample(model)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            x = x.detach().clone() if x.is_inference() else x.detach()
            keep_freed_memory()
            opening = stack.enter_context(ExitStack())
            protect: Callable[[], AbstractContextManager[None]] = nullcontext
            network: Chain | General | None = Chain.of(model, x)
            if network is None:
                protect = partial(_context.preserved, model)
                opening.enter_context(protect())
                network = General(model, x, argument, x_name)
            _check_width(network, x, x_name)
            names = _resolve_layers(network, layers, unit_layer, argument)
            width = network.width_of(unit_layer, x)
            readout, labels = resolve_units(width, unit_layer, units, directions)
            if stream is None:
                yield cls(network, x, names, unit_layer, readout.to(x), labels, x_name)
            else:
                opening.close()
                yield cls(network, x, names, unit_layer, readout.to(x), labels, x_name, stream, protect)

    def captures(self, chunk_size: int | None, bytes_per_sample: int | None = None) -> Iterator[Capture]:
        """Answer chunk by chunk.

        Args:
            chunk_size: Samples at a time; ``None`` chooses by a memory budget.
            bytes_per_sample: What the caller needs for each sample beside ``x``; ``None`` for an estimate.

        Yields:
            Finite captures, in the order of the samples.
        """
        size = self.samples_at_a_time(chunk_size, bytes_per_sample)
        for part in self.x.split(size) if self.stream is None else self.stream.chunks(size):
            with self.protect():
                capture = self.network.capture(part, self.layers, self.unit_layer, self.readout)
            _validation.check_finite_result("values", capture.values, self.unit_layer, self.x_name)
            yield capture

    def samples_at_a_time(self, chunk_size: int | None = None, bytes_per_sample: int | None = None) -> int:
        """Choose the size of chunks; see `captures`.

        Returns:
            Samples.
        """
        if chunk_size is not None:
            _validation.check_integer("chunk_size", chunk_size, 1, "Pass None to choose by memory")
            return chunk_size
        each = bytes_per_sample or self._bytes_per_sample()
        size = max(1, CHUNK_BYTES // each, min(FEW, 4 * CHUNK_BYTES // each))
        if self.stream is not None:
            return size
        n = len(self.x)
        return -(-n // -(-n // size))  # equal chunks: a small last one costs as many calls

    def _bytes_per_sample(self) -> int:
        """Estimate the memory that the widest gradients of a chain, or all those of another network, need.

        Returns:
            Bytes, at least those of 64 numbers for each unit, or of a number for each pair of units.
        """
        if isinstance(self.network, Chain):
            steps = self.network.steps[: self.network.positions[self.unit_layer]]
            width = max((step.out_features for step in steps if isinstance(step, nn.Linear)), default=1)
        else:
            width = sum(self.network.width_of(layer, self.x) for layer in self.layers)
        u = len(self.readout)
        return u * max(width, u, self.readout.shape[1], 64) * self.x.element_size()


def keep_freed_memory() -> None:
    """Have the C library keep what a chunk frees for the next one.

    glibc gives large freed blocks back to the system and pays for them anew, page by page, which can take as long as
    the arithmetic. Freeing one block of 31 MiB, which is never touched and so costs nothing, raises the size from
    which it does so. Other allocators take no notice.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _check_width(network: Chain | General, x: Tensor, x_name: str) -> None:
    if network.width is not None and x[0].numel() != network.width:
        rule = f"have {network.width} features, the width of the model's first layer"
        _validation.refuse(x_name, rule, _validation.describe(x), "Pass samples shaped as in training")


def _resolve_layers(
    network: Chain | General, layers: Sequence[str] | None, unit_layer: str, argument: str
) -> tuple[str, ...]:
    """Check names and order.

    Returns:
        The layers where gradients are wanted.
    """
    given = ["input"] if layers is None else _validation.check_sequence("layers", layers, "a list of layer names")
    names = list(dict.fromkeys(given))
    check_layers(names, unit_layer, argument, network.names, network.comes_after)
    return tuple(network.default_layers(unit_layer) if layers is None else names)


def check_layers(
    layers: Sequence[str],
    unit_layer: str,
    argument: str,
    known: Sequence[str],
    comes_after: Callable[[str, str], bool],
) -> None:
    """Refuse layers that are not known, and those that the unit layer does not come after.

    Args:
        layers: Where gradients are wanted.
        unit_layer: The layer that the units belong to.
        argument: What the caller's users call ``layers``.
        known: Names of all layers.
        comes_after: Whether a layer, the first, depends on another one.
    """
    _validation.check_layer("unit_layer", unit_layer, known)
    for name in layers:
        _validation.check_layer(argument, name, known)
        if not comes_after(unit_layer, name):
            remedy = "Choose a later unit layer, or an earlier layer to differentiate by"
            _validation.refuse("unit_layer", f"come after {name!r}, and depend on it", repr(unit_layer), remedy)


def resolve_units(
    width: int, unit_layer: str, units: Sequence[int] | None, directions: Tensor | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Turn units or directions of a layer into a read-out, refusing both and those that the layer does not have.

    Returns:
        The read-out [u, width] and a label per unit.
    """
    if units is not None and directions is not None:
        _validation.refuse(
            "directions", "be None when `units` is given", _validation.describe(directions), "Pass one of them"
        )
    if directions is not None:
        _validation.check_directions(directions, width, unit_layer)
        return directions.detach(), tuple(f"direction {i}" for i in range(len(directions)))
    if units is None:
        return torch.eye(width), tuple(map(str, range(width)))
    listed = units.tolist() if hasattr(units, "tolist") else units  # tensors and arrays of indices too
    indices = _validation.check_sequence("units", listed, "a list of indices")
    _validation.check_units(indices, width, unit_layer)
    return torch.eye(width)[indices], tuple(map(str, indices))
