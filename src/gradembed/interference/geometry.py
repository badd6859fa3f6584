"""Angles and lengths of gradients, safe against overflow and underflow."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gradembed._validation import check_finite_result
from gradembed.gradients import unit_rows

# A cosine below minus this counts as negative: what rounding alone can reach between orthogonal gradients.
CONFLICT_TOLERANCE = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}


def gram(gradients: Tensor, layer: str) -> tuple[Tensor, Tensor | float]:
    """Inner products of each sample's gradients [u, n, c], safe against overflow and underflow.

    Returns:
        The Gram matrices [n, u, u] of the gradients divided by a scale, and that scale ([n, u], or 1.0).
    """
    by_sample = gradients.transpose(0, 1)
    products = by_sample @ by_sample.mT
    low, high = diagonals(products).aminmax()
    kind = torch.finfo(products.dtype)
    if kind.tiny / kind.eps < low and high < kind.max:  # false for NaN
        return products, 1.0
    check_finite_result("gradients", gradients, layer)
    largest = by_sample.abs().amax(-1)
    scaled = (by_sample / torch.where(largest > 0, largest, 1)[..., None]).double()
    return scaled @ scaled.mT, largest.double()


def diagonals(matrices: Tensor) -> Tensor:
    """The diagonal of every matrix, [n, u] of [n, u, u], as a new tensor: much faster to go on with than a view.

    Returns:
        The diagonals.
    """
    u = matrices.shape[1]
    return matrices.flatten(1).index_select(1, torch.arange(0, u * u, u + 1, device=matrices.device))


def norm_similarity(length: Tensor, other: Tensor) -> Tensor:
    """2|a||b| / (|a|² + |b|²) from the ratio of lengths, which neither overflows nor underflows; 0 where one is 0.

    Args:
        length: Any shape.
        other: A shape that broadcasts with it.

    Returns:
        Numbers in [0, 1].
    """
    ratio = length / other.clamp_min(torch.finfo(other.dtype).tiny)
    if ratio.numel() and ratio.amax() < 1e15:
        return 2 * ratio / (ratio * ratio + 1)
    return 2 / (ratio + ratio.reciprocal())  # slower, and safe where the square is not


class DimensionSample:
    """Evenly spaced gradients, about 2,000, and the dimension that they span.

    Of samples whose number ``n`` is known they are ceil(n · u / 2048) apart. Of a stream, ``None``, every sample is
    kept until there are too many, then every second of them, and so on: they are a power of two apart.
    """

    def __init__(self, n: int | None, u: int) -> None:
        self.most = max(1, 2048 // u)  # samples
        self.step = -(-n // self.most) if n else 1
        self.seen = self.n_kept = 0
        self.kept: Tensor | None = None  # [u, most, c], made once: small blocks kept here and there fragment memory

    def add(self, gradients: Tensor) -> None:
        """Look at a chunk, [u, n, c]."""
        if self.kept is None:
            self.kept = gradients.new_empty(len(gradients), self.most, gradients.shape[2])
        chosen = gradients[:, -self.seen % self.step :: self.step]
        self.seen += gradients.shape[1]
        while self.n_kept + chosen.shape[1] > self.most:  # never if n is known
            chosen = chosen[:, self.n_kept % 2 :: 2]
            half = self.kept[:, : self.n_kept : 2].clone()
            self.n_kept, self.step = half.shape[1], 2 * self.step
            self.kept[:, : self.n_kept] = half
        self.kept[:, self.n_kept : self.n_kept + chosen.shape[1]] = chosen
        self.n_kept += chosen.shape[1]

    def effective(self, width: int) -> float:
        """Participation ratio: 1 / E[cos²] over pairs of different gradients.

        Args:
            width: Of the layer.

        Returns:
            A number from 1 to the width; the width where there are not two gradients to compare.
        """
        if self.kept is None:
            return float(width)
        vectors, length = unit_rows(self.kept[:, : self.n_kept])
        v = vectors[length > 0].double().cpu()
        n = len(v)
        if n < 2:
            return float(width)
        moment = v.T @ v if v.shape[1] < n else v @ v.T
        mean_square = (float(moment.square().sum()) - n) / (n * (n - 1))  # a gradient with itself left out
        return float(width) if mean_square * width <= 1 else min(1 / mean_square, float(width))


def chance_abs_cosine(dimension: float) -> float:
    """Mean |cosine| of independent directions, uniform on the sphere in a (possibly fractional) dimension d.

    Gamma(d/2) / (sqrt(pi) Gamma((d+1)/2)), about sqrt(2 / (pi d)).

    Returns:
        A number in (0, 1].
    """
    return math.exp(math.lgamma(dimension / 2) - math.lgamma((dimension + 1) / 2)) / math.sqrt(math.pi)
