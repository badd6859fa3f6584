"""Means over samples: both gradients are taken at the same sample. Safe against overflow and underflow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradembed._validation import check_finite_result
from gradembed.interference.result import MEASURES

# A cosine below minus this counts as negative: what rounding alone can reach between orthogonal gradients.
CONFLICT_TOLERANCE = {torch.float64: 1e-14, torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}

WIDE = 4096  # pairs; from about there torch's norm over samples is many times slower than a sum


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
    """Return the diagonal of every matrix, [n, u] of [n, u, u], as a new tensor: faster to go on with than a view."""
    u = matrices.shape[1]
    return matrices.flatten(1).index_select(1, torch.arange(0, u * u, u + 1, device=matrices.device))


def norm_similarity(length: Tensor, other: Tensor) -> Tensor:
    """2|a||b| / (|a|² + |b|²) from the ratio of lengths, which neither overflows nor underflows; 0 where one is 0.

    Returns:
        Numbers in [0, 1], of the shape to which both broadcast.
    """
    ratio = length / other.clamp_min(torch.finfo(other.dtype).tiny)
    if ratio.numel() and ratio.amax() < 1e15:
        return 2 * ratio / (ratio * ratio + 1)
    return 2 / (ratio + ratio.reciprocal())  # slower, and safe where the square is not


class RealisedSums:
    """Running sums over samples, in float64, of everything that the means of one layer need."""

    def __init__(self, layer: str, u: int, kind: torch.dtype, device: torch.device, n_bootstrap: int) -> None:
        self.layer = layer
        self.tolerance = CONFLICT_TOLERANCE[kind]
        # Pairs of different units: of a unit with itself all is known.
        a, b = torch.triu_indices(u, u, 1, device=device)
        self.a, self.b, self.places = a, b, a * u + b
        self.pairs = torch.zeros(len(MEASURES) + 1, len(a), dtype=torch.float64, device=device)  # and the count
        self.norm = torch.zeros(u, dtype=torch.float64, device=device)
        self.defined = torch.zeros(u, dtype=torch.float64, device=device)
        self.replicates = torch.zeros(n_bootstrap, self.pairs.numel(), dtype=torch.float64, device=device)
        self.n = 0
        self.constant: Tensor | None = None  # the gradients [u, 1, c], if they are the same at every sample
        self.drawn: Tensor | None = None  # how often they then stand in each replicate, [1, n_bootstrap]

    def add(self, gradients: Tensor, weights: Tensor | None, *, constant: bool = False) -> None:
        """Add a chunk.

        Args:
            gradients: [u, n, c].
            weights: How often each sample stands in each bootstrap replicate, [n, n_bootstrap], if there are any.
            constant: Whether the gradients are the same at every sample; then one of them is looked at, at the end.
        """
        self.n += gradients.shape[1]
        if constant:
            self.constant = gradients[:, :1]
            if weights is not None:
                drawn = weights.double().sum(0, keepdim=True)
                self.drawn = drawn if self.drawn is None else self.drawn + drawn
        else:
            self._add(gradients, weights, 1)

    def _add(self, gradients: Tensor, weights: Tensor | None, times: int) -> None:
        products, scale = gram(gradients, self.layer)
        length = diagonals(products).sqrt_()  # [n, u]
        exists = length.sign()
        inverse = (length + (1 - exists)).reciprocal_()  # 1 where there is no gradient, and no product either
        cosine = products.flatten(1).index_select(1, self.places)  # [n, pairs]
        cosine.mul_(inverse.index_select(1, self.a)).mul_(inverse.index_select(1, self.b))
        length = length * scale
        similarity = norm_similarity(length.index_select(1, self.a), length.index_select(1, self.b))
        everywhere, both = bool(exists.amin() > 0), None
        if weights is not None or not everywhere:
            both = exists.index_select(1, self.a) * exists.index_select(1, self.b)
        # ten times faster than by way of bool
        conflict = torch.lt(cosine, -self.tolerance, out=torch.empty_like(cosine))
        count = both.sum(0) if both is not None else torch.full_like(self.pairs[0], len(length))
        is_wide = cosine.shape[1] > WIDE
        absolute = cosine.abs().sum(0) if is_wide else torch.linalg.vector_norm(cosine, ord=1, dim=0)
        sums = (cosine.sum(0), absolute, conflict.sum(0), similarity.sum(0), count)
        self.pairs += torch.stack([part.double() for part in sums]) * times
        self.norm += length.sum(0).double() * times
        self.defined += exists.sum(0).double() * times
        if weights is not None:
            columns = torch.cat([cosine, cosine.abs(), conflict, similarity, both], dim=1)  # type: ignore[list-item]
            self.replicates += (weights.to(columns).T @ columns).double()

    def means(self, _bar: object = None) -> dict[str, Any]:
        """Turn sums into means on the CPU.

        Returns:
            The measures, ``norm``, ``undefined`` and ``count``.
        """
        if self.constant is not None:  # the same at every sample: once, with the weight of all samples
            gradients, self.constant = self.constant, None
            self._add(gradients, self.drawn, self.n)
        *sums, count = self.pairs
        means = {"norm": (self.norm / self.n).cpu(), "undefined": (self.n - self.defined).long().cpu()}
        for name, part in zip(MEASURES, sums, strict=True):
            own = (self.defined > 0).double() * (name != "conflict")
            means[name] = self._matrix((part / count.clamp_min(1)).clamp(-1, 1), own)  # rounding may pass the bounds
        return means | {"count": self._matrix(count, self.defined).long()}

    def _matrix(self, pairs: Tensor, own: Tensor) -> Tensor:
        """Put values of pairs, [..., pairs], into symmetric matrices, [..., u, u], with a diagonal of their own.

        Returns:
            The matrices, on the CPU.
        """
        matrix = own.diag().expand(*pairs.shape[:-1], -1, -1).clone()
        matrix[..., self.a, self.b] = pairs
        matrix[..., self.b, self.a] = pairs
        return matrix.cpu()

    def intervals(self, confidence: float) -> dict[str, tuple[Tensor, tuple[float, float]]]:
        """Percentiles of the bootstrap replicates, after `means`.

        Returns:
            For each measure the interval of every pair, [2, u, u], and that of the mean over pairs.
        """
        own, found = self.means(), {}
        ends = self.pairs.new_tensor([(1 - confidence) / 2, (1 + confidence) / 2])
        *sums, count = self.replicates.chunk(len(MEASURES) + 1, dim=1)
        quantile = torch.nanquantile if bool((count == 0).any()) else torch.quantile
        for name, part in zip(MEASURES, sums, strict=True):
            values = torch.where(count > 0, part / count.clamp_min(1), torch.nan)  # one without the pair says nothing
            certain = own[name].diagonal().to(ends.device)
            low, high = torch.nanquantile(values.nanmean(1), ends).nan_to_num(0).tolist()
            bounds = quantile(values, ends, dim=0).nan_to_num(0) if values.numel() else ends[:, None][:, :0]
            found[name] = self._matrix(bounds, certain), (low, high)
        return found
