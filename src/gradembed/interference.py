"""Pairwise task interference: how the gradients of units relate at each layer, sample by sample."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float64, Int64
from torch import Tensor, nn

from gradembed import _checks
from gradembed.capture import Session

if TYPE_CHECKING:
    import pandas as pd

# A cosine below minus this counts as negative: what rounding alone can reach between orthogonal gradients.
CONFLICT_TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-14}


@dataclass(frozen=True, repr=False)
class Interference:
    """How the gradients of u units relate at each layer, averaged over samples.

    A cosine near 0 says that two units use different directions of a layer, a positive one that they share, a
    negative one that what raises one lowers the other (normal between the classes of one classifier). Every
    measure is a mean over the samples at which both gradients exist; a pair that never does has ``count`` 0 and
    measures 0, and is left out of summaries.

    Attributes:
        cosine: Mean cosine per layer, [u, u], in [-1, 1].
        abs_cosine: Mean absolute cosine, [u, u], in [0, 1].
        conflict: Share of samples with a negative cosine, [u, u], in [0, 1]. Negative means below
            -1e-6 (float32) or -1e-14 (float64), beyond what rounding reaches.
        norm: Mean gradient norm, over all samples, zeros included, [u].
        undefined: Number of samples at which the unit's gradient is zero and has no direction, [u].
        count: Number of samples that the means of a pair rest on, [u, u].
        n_samples: All samples.
        unit_layer: The layer that the units belong to.
        unit_labels: One per unit, along every axis u.
        pairing: "realised".
    """

    cosine: dict[str, Float64[Tensor, "u u"]]
    abs_cosine: dict[str, Float64[Tensor, "u u"]]
    conflict: dict[str, Float64[Tensor, "u u"]]
    norm: dict[str, Float64[Tensor, " u"]]
    undefined: dict[str, Int64[Tensor, " u"]]
    count: dict[str, Int64[Tensor, "u u"]]
    n_samples: int
    unit_layer: str
    unit_labels: tuple[str, ...]
    pairing: str = "realised"

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers, in the order in which they were asked for."""
        return tuple(self.cosine)

    def __repr__(self) -> str:
        zeros = {layer: int(number.sum()) for layer, number in self.undefined.items() if number.any()}
        note = f", zero gradients left out: {zeros}" if zeros else ""
        return (
            f"Interference({len(self.unit_labels)} units of {self.unit_layer!r}, layers {list(self.layers)}, "
            f"{self.n_samples:,} samples{note})"
        )

    def orthogonality(self, groups: Sequence[Hashable] | None = None) -> dict[str, float]:
        """One minus the mean absolute cosine between units of different groups: 1 means separate, 0 parallel.

        Independent random directions in d dimensions reach 1 - sqrt(2 / (pi d)), about.

        Args:
            groups: A group for each unit, say the task that an output belongs to; ``None`` for each its own.

        Returns:
            A number per layer.

        Raises:
            ValueError: If there are not as many groups as units, or fewer than two, or at some
                layer no pair between groups has a defined cosine.
            TypeError: If ``groups`` is no sequence.

        Example:
            >>> import torch, gradembed as ge
            >>> result = ge.interference(ge.MLP([4, 8, 4], seed=0), torch.randn(50, 4))
            >>> sorted(result.orthogonality(groups=["a", "a", "b", "b"]))
            ['hidden1', 'input']
        """
        members = (
            list(self.unit_labels) if groups is None else _checks.check_sequence("groups", groups, "a list of groups")
        )
        if len(members) != len(self.unit_labels):
            _checks.refuse(
                "groups",
                f"name a group for each of {len(self.unit_labels)} units",
                len(members),
                "Name them all",
            )
        if groups is None:
            members = list(range(len(members)))  # units of the same label are different units all the same
        across = torch.tensor([[a != b for b in members] for a in members])
        if not bool(across.any()):
            _checks.refuse("groups", "name at least two groups", "one", "Split the units, or pass more of them")
        result = {}
        for layer in self.layers:
            defined = across & (self.count[layer] > 0)
            if not bool(defined.any()):
                _checks.refuse(
                    "groups",
                    f"have a defined cosine between them at {layer!r}",
                    "zero gradients only",
                    "Leave this layer out: `layers=` of interference",
                )
            result[layer] = 1 - float(self.abs_cosine[layer][defined].mean())
        return result

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and unordered pair of different units.

        Returns:
            Columns ``layer``, ``unit_a``, ``unit_b``, ``cosine``, ``abs_cosine``, ``conflict``, ``norm_a``, ``norm_b``,
            ``undefined_a``, ``undefined_b``, ``n_pairs``.
        """
        import pandas as pd

        pairs = list(combinations(range(len(self.unit_labels)), 2))
        first, second = ([pair[side] for pair in pairs] for side in (0, 1))
        parts = []
        for layer in self.layers:
            columns = {
                "layer": [layer] * len(pairs),
                "unit_a": [self.unit_labels[a] for a in first],
                "unit_b": [self.unit_labels[b] for b in second],
                **{
                    name: getattr(self, name)[layer][first, second].numpy()
                    for name in ("cosine", "abs_cosine", "conflict")
                },
                "norm_a": self.norm[layer][first].numpy(),
                "norm_b": self.norm[layer][second].numpy(),
                "undefined_a": self.undefined[layer][first].numpy(),
                "undefined_b": self.undefined[layer][second].numpy(),
                "n_pairs": self.count[layer][first, second].numpy(),
            }
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)


def interference(
    model: nn.Module,
    x: Tensor,
    *,
    unit_layer: str = "output",
    units: Sequence[int] | None = None,
    directions: Tensor | None = None,
    layers: Sequence[str] | None = None,
    pairing: str = "realised",
    chunk_size: int | None = None,
) -> Interference:
    """Compare the gradients of every pair of units at every layer, at the samples where they happen.

    For a chain, the gradients at a layer below a linear layer of weight W are rows @ W; their angles are
    computed from rows @ M with M Mᵀ = W Wᵀ, so that the widest matrix is never formed. Time and memory are linear
    in the samples, memory in one chunk of them.

    Args:
        model: A trained network that treats every sample by itself; usually in eval mode. Left as it was.
        x: Samples, [n, d], or [n, ...] where the model takes more axes.
        unit_layer: The layer that the units belong to; "output" is what the model returns.
        units: Indices in the unit layer; ``None`` for all.
        directions: Instead of ``units``: directions in the unit layer, [u, D].
        layers: Where to compare: "input" and names of modules; ``None`` for the input and every direct child
            of the model before the unit layer.
        pairing: "realised": both gradients are taken at the same sample.
        chunk_size: Samples at a time; ``None`` chooses by a memory budget. The result is the same up to rounding.

    Returns:
        Means over samples for each layer and pair of units.

    Raises:
        ValueError: As `unit_gradients`, and if ``pairing`` is unknown.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> result = ge.interference(ge.MLP([4, 8, 8, 3], seed=0), torch.randn(50, 4))
        >>> result.layers
        ('input', 'hidden1', 'hidden2')
        >>> result.cosine["hidden1"].shape
        torch.Size([3, 3])
    """
    _checks.check_choice("pairing", pairing, ("realised",))
    with Session.open(model, x, layers, unit_layer, units, directions) as session:
        sums = {layer: _Sums(layer, len(session.unit_labels), session.x) for layer in session.layers}
        for capture in session.captures(chunk_size):
            for layer, rows in capture.gradients.items():
                sums[layer].add(rows.coordinates())
    means = {layer: part.means(len(x)) for layer, part in sums.items()}
    cosine, abs_cosine, conflict, norm, undefined, count = (
        {layer: mean[i] for layer, mean in means.items()} for i in range(6)
    )
    return Interference(cosine, abs_cosine, conflict, norm, undefined, count, len(x), unit_layer, session.unit_labels)


class _Sums:
    """Running sums over samples, in float64, of everything that the means need."""

    def __init__(self, layer: str, u: int, like: Tensor) -> None:
        self.layer = layer
        self.tolerance = CONFLICT_TOLERANCE[like.dtype]
        self.pairs = torch.zeros(4, u, u, dtype=torch.float64, device=like.device)  # cosine, |cosine|, negative, count
        self.norm = torch.zeros(u, dtype=torch.float64, device=like.device)
        self.defined = torch.zeros(u, dtype=torch.float64, device=like.device)

    def add(self, gradients: Tensor) -> None:
        """Add a chunk of gradients, [n, u, c]."""
        weight = 1
        if gradients.stride(0) == 0:  # below nothing but linear layers: the same gradients at every sample
            gradients, weight = gradients[:1], len(gradients)
        gram, scale = _gram(gradients, self.layer)
        length = gram.diagonal(dim1=1, dim2=2).sqrt()  # [n, u]
        defined = length > 0
        inverse = torch.where(defined, length, 1).reciprocal()
        cosine = gram.mul_(inverse[:, :, None]).mul_(inverse[:, None, :])
        exists = defined.double()
        self.pairs[0] += cosine.sum(0) * weight
        self.pairs[1] += torch.linalg.vector_norm(cosine, ord=1, dim=0) * weight
        self.pairs[2] += (cosine < -self.tolerance).sum(0) * weight
        self.pairs[3] += exists.T @ exists * weight
        self.norm += (length.double() * scale).sum(0) * weight
        self.defined += exists.sum(0) * weight

    def means(self, n: int) -> tuple[Tensor, ...]:
        """Turn sums into means on the CPU.

        Returns:
            cosine, abs_cosine, conflict, norm, undefined, count.
        """
        count = self.pairs[3]
        # rounding may leave a mean of cosines just outside its bounds
        cosine, abs_cosine, conflict = (self.pairs[:3] / count.clamp_min(1)).clamp_(-1, 1).cpu()
        return (
            cosine,
            abs_cosine,
            conflict,
            (self.norm / n).cpu(),
            (n - self.defined).long().cpu(),
            count.long().cpu(),
        )


def _gram(gradients: Tensor, layer: str) -> tuple[Tensor, Tensor | float]:
    """Inner products of each sample's gradients, safe against overflow and underflow.

    Returns:
        The Gram matrices [n, u, u] of the gradients divided by a scale, and that scale ([n, u], or 1.0).
    """
    gram = gradients @ gradients.mT
    squares = gram.diagonal(dim1=1, dim2=2)
    kind = torch.finfo(gram.dtype)
    if bool(((squares > kind.tiny / kind.eps) & (squares < kind.max)).all()):
        return gram, 1.0
    _checks.check_finite_result("gradients", gradients, layer)
    largest = gradients.abs().amax(-1)
    scaled = (gradients / torch.where(largest > 0, largest, 1)[..., None]).double()
    return scaled @ scaled.mT, largest.double()
