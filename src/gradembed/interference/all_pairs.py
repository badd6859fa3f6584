"""Means over every ordered pair of samples, a sample with itself included."""

from __future__ import annotations

from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from gradembed._validation import check_finite_result
from gradembed.gradients import unit_rows
from gradembed.interference.realised import CONFLICT_TOLERANCE, norm_similarity
from gradembed.interference.result import MEASURES

BLOCK = 512  # samples against four times as many others at a time


class AllPairs:
    """All gradients of one layer as unit vectors, and the means over their pairs."""

    def __init__(self, layer: str, u: int, kind: torch.dtype) -> None:
        self.layer, self.u = layer, u
        self.tolerance = CONFLICT_TOLERANCE[kind]
        self.parts: list[tuple[Tensor, Tensor]] = []
        self.n, self.constant = 0, False

    def add(self, gradients: Tensor, _weights: None, *, constant: bool = False) -> None:
        """Add a chunk, [u, n, c]; of gradients that are the same at every sample, one says it all."""
        self.n, self.constant = self.n + gradients.shape[1], constant
        if not (constant and self.parts):
            check_finite_result("gradients", gradients, self.layer)
            self.parts.append(unit_rows(gradients[:, :1] if constant else gradients))

    def means(self, bar: tqdm[Any]) -> dict[str, Any]:
        """Average over pairs: the cosine as the product of mean unit vectors, the rest block by block.

        Returns:
            The measures, ``norm``, ``undefined`` and ``count``.
        """
        vectors, length = (torch.cat(part, 1) for part in zip(*self.parts, strict=True))  # [u, n, c], [u, n]
        weight = self.n if self.constant else 1
        defined = (length > 0).double().sum(1)
        count = defined[:, None] * defined
        mean = vectors.sum(1, dtype=torch.float64) / defined.clamp_min(1)[:, None]
        blocks = self._blocks(vectors, length, bar) / count.clamp_min(1)
        means = torch.stack([mean @ mean.T, *blocks]).clamp_(-1, 1).cpu()
        return {
            **dict(zip(MEASURES, means, strict=True)),
            "norm": length.mean(1).cpu(),
            "undefined": (self.n - defined * weight).long().cpu(),
            "count": (count * weight**2).long().cpu(),
        }

    def _blocks(self, vectors: Tensor, length: Tensor, bar: tqdm[Any]) -> Tensor:
        """Return sums of |cosine|, conflicts and norm similarity over all pairs, [3, u, u]."""
        sums = torch.zeros(3, self.u, self.u, dtype=torch.float64, device=vectors.device)
        positive, n = length[length > 0], vectors.shape[1]
        # whether lengths, divided by the largest, have squares that vanish in float64
        is_wide = len(positive) > 0 and bool(positive.amin() < 1e-70 * positive.amax())
        similarity = norm_similarity if is_wide else _scaled_norm_similarity
        length = length / length.amax().clamp_min(torch.finfo(length.dtype).tiny)
        # pieces of the square of all pairs whose numbers stay in the cache
        starts = [(row, column) for row in range(0, n, BLOCK) for column in range(0, n, 4 * BLOCK)]
        tiles = [(slice(row, row + BLOCK), slice(column, column + 4 * BLOCK)) for row, column in starts]
        for i, j in combinations_with_replacement(range(self.u), 2):
            for rows, columns in tiles:
                cosine = vectors[i, rows] @ vectors[j, columns].T
                sums[1, i, j] += torch.count_nonzero(cosine < -self.tolerance)
                sums[0, i, j] += cosine.abs_().sum()
                sums[2, i, j] += similarity(length[i, rows, None], length[j, columns]).sum()
            bar.update()
        return sums.triu() + sums.triu(1).mT


def _scaled_norm_similarity(length: Tensor, other: Tensor) -> Tensor:
    """`norm_similarity` of lengths of which none is above 1, and none but 0 below 1e-70: several times as fast.

    Returns:
        Numbers in [0, 1], 0 where one length is 0.
    """
    squares = torch.add(length * length + 1e-300, other * other)  # no 0 / 0
    return torch.div(other, squares, out=squares).mul_(2 * length)
