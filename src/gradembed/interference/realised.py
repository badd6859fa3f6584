"""Means over samples: both gradients are taken at the same sample."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gradembed.interference.geometry import CONFLICT_TOLERANCE, diagonals, gram, norm_similarity
from gradembed.interference.result import MEASURES

WIDE = 4096  # pairs; from about there torch's norm over samples is many times slower than a sum


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
        everywhere = bool(exists.amin() > 0)
        both = (
            exists.index_select(1, self.a) * exists.index_select(1, self.b)
            if weights is not None or not everywhere
            else None
        )
        conflict = torch.lt(
            cosine, -self.tolerance, out=torch.empty_like(cosine)
        )  # ten times faster than by way of bool
        count = both.sum(0) if both is not None else torch.full_like(self.pairs[0], len(length))
        sums = (
            cosine.sum(0),
            cosine.abs().sum(0) if cosine.shape[1] > WIDE else torch.linalg.vector_norm(cosine, ord=1, dim=0),
            conflict.sum(0),
            similarity.sum(0),
            count,
        )
        self.pairs += torch.stack([part.double() for part in sums]) * times
        self.norm += length.sum(0).double() * times
        self.defined += exists.sum(0).double() * times
        if weights is not None:
            columns = torch.cat([cosine, cosine.abs(), conflict, similarity, both], dim=1)  # type: ignore[list-item]
            self.replicates += (weights.to(columns).T @ columns).double()

    def _settle(self) -> None:
        """Add the gradients that are the same at every sample: once, with the weight of all samples."""
        if self.constant is not None:
            gradients, self.constant = self.constant, None
            self._add(gradients, self.drawn, self.n)

    def means(self) -> dict[str, Tensor]:
        """Turn sums into means on the CPU.

        Returns:
            The measures, ``norm``, ``undefined`` and ``count``.
        """
        self._settle()
        *sums, count = self.pairs
        exists = (self.defined > 0).double()
        own = {"cosine": exists, "abs_cosine": exists, "conflict": torch.zeros_like(exists), "norm_similarity": exists}
        means = {
            # rounding may pass the bounds
            name: self._matrix((part / count.clamp_min(1)).clamp(-1, 1), own[name])
            for name, part in zip(MEASURES, sums, strict=True)
        }
        return {
            **means,
            "norm": (self.norm / self.n).cpu(),
            "undefined": (self.n - self.defined).long().cpu(),
            "count": self._matrix(count, self.defined).long(),
        }

    def _matrix(self, pairs: Tensor, own: Tensor) -> Tensor:
        """Put values of pairs, [..., pairs], into symmetric matrices, [..., u, u], with a diagonal of their own.

        Returns:
            The matrices, on the CPU.
        """
        matrix = own.diag().expand(*pairs.shape[:-1], -1, -1).clone()
        matrix[..., self.a, self.b] = pairs
        matrix[..., self.b, self.a] = pairs
        return matrix.cpu()

    def intervals(self, confidence: float) -> tuple[dict[str, Tensor], dict[str, tuple[float, float]]]:
        """Percentiles of the bootstrap replicates.

        Returns:
            For each measure the interval of every pair, [2, u, u], and that of the mean over pairs.
        """
        self._settle()
        ends = self.pairs.new_tensor([(1 - confidence) / 2, (1 + confidence) / 2])
        *sums, count = self.replicates.chunk(len(MEASURES) + 1, dim=1)
        own = {name: mean.diagonal().to(self.pairs.device) for name, mean in self.means().items() if name in MEASURES}
        pairs, summary = {}, {}
        for name, part in zip(MEASURES, sums, strict=True):
            values = torch.where(
                count > 0, part / count.clamp_min(1), torch.nan
            )  # a replicate without the pair says nothing
            bounds = (
                torch.nanquantile(values, ends, dim=0)
                if bool((count == 0).any())
                else torch.quantile(values, ends, dim=0)
            )
            pairs[name] = self._matrix(bounds.nan_to_num(0), own[name])  # the diagonal is certain
            low, high = torch.nanquantile(values.nanmean(1), ends).nan_to_num(0).tolist()
            summary[name] = (low, high)
        return pairs, summary


class PoissonWeights:
    """How often each sample stands in each replicate of a Poisson bootstrap: independent Poisson(1) numbers.

    They can be drawn sample by sample, so that a stream of chunks needs no memory of its samples, and do not
    depend on how the samples are cut into chunks.

    References:
        J. A. Hanley, B. MacGibbon (2006), Creating non-parametric bootstrap samples using Poisson frequencies.
    """

    def __init__(self, n_bootstrap: int, seed: int) -> None:
        self.n_bootstrap, self.generator = n_bootstrap, np.random.default_rng(seed)

    def draw(self, n: int) -> Tensor | None:
        """Draw for the next n samples.

        Returns:
            [n, n_bootstrap], or ``None`` if there are no replicates.
        """
        if not self.n_bootstrap:
            return None
        return torch.from_numpy(self.generator.poisson(1.0, (n, self.n_bootstrap)).astype(np.float32))
