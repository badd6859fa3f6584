"""Which set of units is which: the subspaces that they span, compared by principal angles."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float64, Int64
from numpy.typing import NDArray
from torch import Tensor

from gradembed._validation import as_categories, as_doubles, as_integer, as_number, refuse
from gradembed.metrics._uncertainty import Array, Labels

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False, eq=False)
class SubspaceMatching:
    """Sets of units in two networks, each with its best partner and what it reaches when units are dealt at random.

    In shapes, a and b count the sets of the first and of the second network, r the permutations.

    Attributes:
        overlap: Agreement of each two subspaces, tr(P_A P_B) / √(dim A · dim B), [a, b]: the mean squared cosine of
            their principal angles where dimensions are equal. 1 for equal subspaces, 0 for orthogonal ones.
        partner: The set of the second network that overlaps most with each of the first, its position, [a].
        null: The overlap with the best partner when units are dealt to sets of the same sizes at random, [r, a].
        dims_a: Dimensions of the subspaces of the first network, [a].
        dims_b: Of the second, [b].
        labels_a: Of the sets, along axis 0 of ``overlap``.
        labels_b: Along axis 1.

    Example:
        >>> import torch, gradembed as ge
        >>> plane, line = torch.eye(5)[:2], torch.eye(5)[2:3]
        >>> units = torch.cat([torch.randn(4, 2) @ plane, torch.randn(3, 1) @ line])
        >>> other = torch.cat([torch.randn(3, 1) @ line, torch.randn(4, 2) @ plane])
        >>> found = ge.metrics.match_subspaces(units, [0] * 4 + [1] * 3, other, [0] * 3 + [1] * 4)
        >>> found
        SubspaceMatching(2 and 2 sets, mean overlap with the best partner 1.00, null ...)
        >>> found.partner.tolist(), found.dims_a.tolist()
        ([1, 0], [2, 1])
    """

    overlap: Float64[Tensor, "a b"]
    partner: Int64[Tensor, " a"]
    null: Float64[Tensor, "r a"]
    dims_a: Int64[Tensor, " a"]
    dims_b: Int64[Tensor, " b"]
    labels_a: tuple[Any, ...]
    labels_b: tuple[Any, ...]

    def __repr__(self) -> str:
        best, null = float(self.overlap.amax(1).mean()), float(self.null.mean())
        sets = f"{len(self.labels_a)} and {len(self.labels_b)} sets"
        return f"SubspaceMatching({sets}, mean overlap with the best partner {best:.2f}, null {null:.2f})"

    @property
    def p_values(self) -> Float64[Tensor, " a"]:
        """Share of permutations whose best partner overlaps as much, the true sets counted as one of them, [a]."""
        reached = (self.null >= self.overlap.amax(1) - 1e-12).sum(0)
        return (1 + reached).double() / (1 + len(self.null))

    def to_frame(self) -> pd.DataFrame:
        """A tidy table, one row per set of the first network.

        Returns:
            Columns ``set``, ``dims``, ``partner`` (its label), ``partner_dims``, ``overlap``, ``null`` (mean),
            ``p_value``.
        """
        import pandas as pd

        first = {"set": self.labels_a, "dims": self.dims_a.numpy()}
        second = {
            "partner": [self.labels_b[j] for j in self.partner],
            "partner_dims": self.dims_b[self.partner].numpy(),
        }
        numbers = {"overlap": self.overlap.amax(1), "null": self.null.mean(0), "p_value": self.p_values}
        return pd.DataFrame(first | second | {name: column.numpy() for name, column in numbers.items()})


def match_subspaces(
    x_a: Array, y_a: Labels, x_b: Array, y_b: Labels, *, share: float = 0.99, n_permutations: int = 199, seed: int = 0
) -> SubspaceMatching:
    """Match sets of units between two networks by the subspaces that they span.

    Where a function is carried by several units (a frequency by some of its phases), no unit may have a twin, and yet
    the sets are twins. Each set spans a subspace of functions at shared points; a network is free to choose any basis
    of it. Subspaces are compared by Yanai's generalized coefficient of determination, tr(P_A P_B) / √(dim A · dim B)
    with P the orthogonal projections, which is the mean squared canonical correlation where dimensions are equal.

    Args:
        x_a: What each unit does at points that both networks share, [u, p]: its mean gradient, gradient field
            (``gradients.flatten(1)``), or activations less their mean. Compared up to scale.
        y_a: The set that each unit belongs to, [u]: clusters of an embedding, say.
        x_b: The same for the second network, [v, p].
        y_b: The same, [v]; labels need not mean the same.
        share: A set's subspace is spanned by its leading singular directions, as many as hold this share of its units'
            squared length.
        n_permutations: Times that the units of each network are dealt to its sets at random, at least 19.
        seed: Of the permutations.

    Returns:
        Overlaps, the best partner of each set of the first network, and the null.

    Raises:
        ValueError: If shapes do not fit, numbers are not finite or out of range, or a set holds only zeros.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> x, y = torch.randn(20, 300), torch.arange(20) // 5
        >>> ge.metrics.match_subspaces(x, y, torch.randn(20, 20) @ x, y).overlap.shape
        torch.Size([4, 4])

    References:
        H. Yanai (1974), Unification of various techniques of multivariate analysis by means of generalized coefficient
        of determination. M. Raghu et al. (2017), SVCCA.
    """
    a = as_doubles("x_a", x_a, "u p")
    b = as_doubles("x_b", x_b, "v p", p=a.shape[1])
    share = float(as_number("share", share, 0, 1, open_low=True))
    n_permutations, seed = as_integer("n_permutations", n_permutations, 19), as_integer("seed", seed, 0)
    sets = []
    for name, units, labels in (("y_a", a, y_a), ("y_b", b, y_b)):
        known, numbers = np.unique(as_categories(name, labels, len(units)), return_inverse=True)
        if empty := [label for i, label in enumerate(known.tolist()) if not units[numbers == i].any()]:
            rule, remedy = "have a unit that does something in each set", "Drop units that are zero at all points"
            refuse(name, rule, f"only zeros in {empty[0]!r}", remedy)
        sets.append((tuple(known.tolist()), numbers))
    (labels_a, y), (labels_b, z) = sets
    stacked = np.concatenate([a, b])
    lengths = np.linalg.norm(stacked, axis=1, keepdims=True)
    # all inner products of units, in as few coordinates as there are units
    joint = np.linalg.qr((stacked / np.where(lengths > 0, lengths, 1)).T)[1].T  # [u + v, ≤ u + v]
    first, second = joint[: len(a)], joint[len(a) :]
    overlap, dims_a, dims_b = _overlaps(_bases(first, y, share), _bases(second, z, share))
    rng = np.random.default_rng(seed)
    dealt = ((_bases(first, rng.permutation(y), share), _bases(second, rng.permutation(z), share))
             for _ in range(n_permutations))  # fmt: skip
    null = np.stack([_overlaps(*both)[0].max(1) for both in dealt])
    best = overlap.argmax(1).astype(np.int64)
    table, partner, chance, a_dims, b_dims = map(torch.from_numpy, (overlap, best, null, dims_a, dims_b))
    return SubspaceMatching(table, partner, chance, a_dims, b_dims, labels_a, labels_b)


def _bases(x: NDArray[np.float64], y: NDArray[np.int64], share: float) -> list[NDArray[np.float64]]:
    """Return an orthonormal basis [k, p] of each set's subspace; k is 0 for units that are all zero."""
    found = []
    for i in range(y.max() + 1):
        _, singular, directions = np.linalg.svd(x[y == i], full_matrices=False)
        held = np.cumsum(singular**2)
        k = int(np.searchsorted(held, (share - 1e-12) * held[-1])) + 1 if held[-1] > 0 else 0
        found.append(directions[:k])
    return found


def _overlaps(
    a: list[NDArray[np.float64]], b: list[NDArray[np.float64]]
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return tr(P_A P_B) / √(dim A · dim B) of each two bases, [a, b], and their dimensions."""
    table = [[float(((p @ q.T) ** 2).sum()) / math.sqrt(max(1, len(p) * len(q))) for q in b] for p in a]
    dims_a, dims_b = (np.array([len(basis) for basis in bases], dtype=np.int64) for bases in (a, b))
    return np.array(table), dims_a, dims_b
