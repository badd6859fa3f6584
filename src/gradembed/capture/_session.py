"""One question to one network: arguments checked once, then answered chunk by chunk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from gradembed import _checks, _state
from gradembed.capture._chain import Chain
from gradembed.capture._general import General
from gradembed.capture._rows import Capture

CHUNK_BYTES = 10 * 2**20  # of gradients at a time: fewer calls than smaller chunks, and still kept by the allocator


@dataclass(frozen=True)
class Session:
    """A network, samples, units and layers that fit each other.

    Attributes:
        layers: Where gradients are wanted, in the caller's order.
        unit_labels: One label per unit: its index, or "direction i".
    """

    network: Chain | General
    x: Tensor
    layers: tuple[str, ...]
    unit_layer: str
    readout: Tensor
    unit_labels: tuple[str, ...]

    @classmethod
    @contextmanager
    def open(
        cls,
        model: nn.Module,
        x: Tensor,
        layers: Sequence[str] | None,
        unit_layer: str,
        units: Sequence[int] | None,
        directions: Tensor | None,
        argument: str = "layers",
    ) -> Iterator[Self]:
        """Check everything, choose the path, and put the model back afterwards.

        Args:
            model: The network.
            x: Samples, [n, ...].
            layers: Where gradients are wanted; ``None`` for the input and the direct children before
                the unit layer.
            unit_layer: The layer that the units belong to.
            units: Their indices; ``None`` for all.
            directions: Or directions in that layer, [u, D].
            argument: What the caller's users call ``layers``, for error messages.

        Yields:
            The session.
        """
        _checks.check_module(model)
        _checks.check_samples(x)
        _checks.check_placement(model, x)
        _checks.check_parameters(model)
        _checks.check_per_sample(model)
        if units is not None and directions is not None:
            _checks.refuse(
                "directions",
                "be None when `units` is given",
                _checks.describe(directions),
                "Pass one of them",
            )
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(False))
            x = x.detach().clone() if x.is_inference() else x.detach()
            _keep_freed_memory()
            network: Chain | General | None = Chain.of(model, x)
            if network is None:
                stack.enter_context(_state.preserved(model))
                network = General(model, x, argument)
            _check_width(network, x)
            names = _resolve_layers(network, layers, unit_layer, argument)
            width = network.width_of(unit_layer, x)
            readout, labels = _resolve_units(width, unit_layer, units, directions)
            yield cls(network, x, names, unit_layer, readout.to(x), labels)

    def captures(self, chunk_size: int | None, bytes_per_sample: int | None = None) -> Iterator[Capture]:
        """Answer chunk by chunk.

        Args:
            chunk_size: Samples at a time; ``None`` chooses by a memory budget.
            bytes_per_sample: What the caller needs for each sample beside ``x``; ``None`` for an estimate.

        Yields:
            Finite captures, in the order of the samples.
        """
        if chunk_size is None:
            if bytes_per_sample is None:
                bytes_per_sample = len(self.readout) * max(self.readout.shape[1], 64) * self.x.element_size()
            n, most = len(self.x), max(1, CHUNK_BYTES // bytes_per_sample)
            chunk_size = -(-n // -(-n // most))  # equal chunks: a small last one costs as many calls
        else:
            _checks.check_integer("chunk_size", chunk_size, 1, "Pass None to choose by memory")
        for part in self.x.split(chunk_size):
            capture = self.network.capture(part, self.layers, self.unit_layer, self.readout)
            _checks.check_finite_result("values", capture.values, self.unit_layer)
            yield capture


def _keep_freed_memory() -> None:
    """Have the C library keep what a chunk frees for the next one.

    glibc gives large freed blocks back to the system and pays for them anew, page by page, which can take as long as
    the arithmetic. Freeing one block of 31 MiB, which is never touched and so costs nothing, raises the size from
    which it does so. Other allocators take no notice.
    """
    torch.empty(31 * 2**20, dtype=torch.uint8)


def _check_width(network: Chain | General, x: Tensor) -> None:
    if network.width is not None and x[0].numel() != network.width:
        _checks.refuse(
            "x",
            f"have {network.width} features, the width of the model's first layer",
            _checks.describe(x),
            "Pass samples shaped as in training",
        )


def _resolve_layers(
    network: Chain | General, layers: Sequence[str] | None, unit_layer: str, argument: str
) -> tuple[str, ...]:
    """Check names and order.

    Returns:
        The layers where gradients are wanted.
    """
    _checks.check_layer("unit_layer", unit_layer, network.names)
    given = ["input"] if layers is None else _checks.check_sequence("layers", layers, "a list of layer names")
    names = list(dict.fromkeys(given))
    for name in names:
        _checks.check_layer(argument, name, network.names)
        if not network.comes_after(unit_layer, name):
            _checks.refuse(
                "unit_layer",
                f"come after {name!r}, and depend on it",
                repr(unit_layer),
                "Choose a later unit layer, or an earlier layer to differentiate by",
            )
    return tuple(network.default_layers(unit_layer) if layers is None else names)


def _resolve_units(
    width: int, unit_layer: str, units: Sequence[int] | None, directions: Tensor | None
) -> tuple[Tensor, tuple[str, ...]]:
    """Turn units or directions into a read-out.

    Returns:
        The read-out [u, width] and a label per unit.
    """
    if directions is not None:
        _checks.check_directions(directions, width, unit_layer)
        return directions.detach(), tuple(f"direction {i}" for i in range(len(directions)))
    if units is None:
        return torch.eye(width), tuple(map(str, range(width)))
    listed = units.tolist() if hasattr(units, "tolist") else units  # tensors and arrays of indices too
    indices = _checks.check_sequence("units", listed, "a list of indices")
    _checks.check_units(indices, width, unit_layer)
    return torch.eye(width)[indices], tuple(map(str, indices))
