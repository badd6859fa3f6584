"""Means over every ordered pair of samples, a sample with itself included."""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor
from tqdm import tqdm

from gradembed.interference._geometry import CONFLICT_TOLERANCE, norm_similarity, normalised
from gradembed.interference._result import MEASURES

BLOCK = 2048  # samples against as many others at a time


class AllPairs:
    """All gradients of one layer as unit vectors, and the means over their pairs."""

    def __init__(self, layer: str, u: int, like: Tensor) -> None:
        self.layer, self.u = layer, u
        self.tolerance = CONFLICT_TOLERANCE[like.dtype]
        self.parts: list[tuple[Tensor, Tensor]] = []
        self.constant = False

    def add(self, gradients: Tensor, *, constant: bool = False) -> None:
        """Add a chunk, [n, u, c]; of gradients that are the same at every sample, one says it all."""
        self.constant = constant
        if not (constant and self.parts):
            self.parts.append(normalised(gradients[:1] if constant else gradients, self.layer))

    def means(self, n: int, bar: tqdm[NoReturn]) -> dict[str, Tensor]:
        """Average over pairs: the cosine as the product of mean unit vectors, the rest block by block.

        Returns:
            The measures, ``norm``, ``undefined`` and ``count``.
        """
        vectors = torch.cat([part[0] for part in self.parts])  # [n, u, c]
        length = torch.cat([part[1] for part in self.parts])  # [n, u]
        weight = n if self.constant else 1
        defined = (length > 0).double().sum(0)
        count = defined[:, None] * defined
        mean = vectors.sum(0, dtype=torch.float64) / defined.clamp_min(1)[:, None]
        blocks = self._blocks(vectors, length, bar) / count.clamp_min(1)
        means = torch.stack([mean @ mean.T, *blocks]).clamp_(-1, 1).cpu()
        return {
            **dict(zip(MEASURES, means, strict=True)),
            "norm": length.mean(0).cpu(),
            "undefined": (n - defined * weight).long().cpu(),
            "count": (count * weight**2).long().cpu(),
        }

    def _blocks(self, vectors: Tensor, length: Tensor, bar: tqdm[NoReturn]) -> Tensor:
        """Sums of |cosine|, conflicts and norm similarity over all pairs.

        Returns:
            [3, u, u].
        """
        sums = torch.zeros(3, self.u, self.u, dtype=torch.float64, device=vectors.device)
        for i in range(self.u):
            for j in range(i, self.u):
                for rows in torch.arange(len(vectors)).split(BLOCK):
                    first, last = int(rows[0]), int(rows[-1]) + 1
                    cosine = vectors[first:last, i] @ vectors[:, j].T
                    similarity = norm_similarity(length[first:last, i, None].float(), length[:, j].float())
                    sums[0, i, j] += cosine.abs().sum(dtype=torch.float64)
                    sums[1, i, j] += (cosine < -self.tolerance).sum()
                    sums[2, i, j] += similarity.sum(dtype=torch.float64)
                bar.update()
        return sums.triu() + sums.triu(1).mT
