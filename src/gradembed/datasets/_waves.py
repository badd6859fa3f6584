"""Random smooth functions with known gradients, equally hard in any number of dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from gradembed import _validation

SPREAD = (0.75, 1.75)  # bounds of the standard deviation of w·x over the cube, at roughness 1
AMPLITUDES = (0.5, 1.5)  # bounds before scaling: no wave of a sum is negligible


@dataclass(frozen=True, repr=False)
class RandomWaves:
    """Functions f(x) = Σₖ aₖ·sin(wₖ·x + φₖ) - c of mean 0 and variance 1 over the cube [-1, 1]^d, with their gradients.

    Called with points it gives values; ``waves[i]`` and ``waves[2:5]`` are fewer of the functions. The numbers are
    kept in float64; values and gradients have the precision and the device of the points. In shapes, f counts
    functions and w the waves of each.

    Attributes:
        wave_vectors: The wₖ, [f, w, d].
        phases: The φₖ, [f, w].
        amplitudes: The aₖ, [f, w].
        offsets: The c, [f].
        indices: Which functions of the seed these are.
        roughness: As given to `random_waves`.
        seed: As given to `random_waves`.

    Example:
        >>> import torch, gradembed as ge
        >>> waves = ge.datasets.random_waves(10, dim=3)
        >>> waves[2:5]
        RandomWaves(functions 2, 3, 4 of 3 inputs, 4 waves each, roughness 1, seed 0)
        >>> waves[2:5](torch.rand(100, 3)).shape
        torch.Size([3, 100])
    """

    wave_vectors: Float64[Tensor, "f w d"]
    phases: Float64[Tensor, "f w"]
    amplitudes: Float64[Tensor, "f w"]
    offsets: Float64[Tensor, " f"]
    indices: tuple[int, ...]
    roughness: float
    seed: int

    @property
    def n_functions(self) -> int:
        """Number of functions."""
        return len(self.wave_vectors)

    @property
    def n_waves(self) -> int:
        """Number of waves in each."""
        return self.wave_vectors.shape[1]

    @property
    def dim(self) -> int:
        """Number of inputs, d."""
        return self.wave_vectors.shape[2]

    def __call__(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "f n"]:
        """Evaluate every function at every point.

        Args:
            x: Points, [n, d]; the cube is where they are scaled, not a limit.

        Returns:
            Values, [f, n]. Autograd can pass through them.

        Raises:
            ValueError: If ``x`` is no finite float tensor of shape [n, d].
            TypeError: If it is no tensor.
        """
        heights = self._angles(x).sin()
        return torch.einsum("fw,fnw->fn", self.amplitudes.to(x), heights) - self.offsets.to(x)[:, None]

    def gradient(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "f n d"]:
        """Evaluate the gradient of every function at every point, by its formula.

        Args:
            x: Points, [n, d].

        Returns:
            Σₖ aₖ·cos(wₖ·x + φₖ)·wₖ, [f, n, d].

        Raises:
            ValueError: If ``x`` is no finite float tensor of shape [n, d].
            TypeError: If it is no tensor.

        Example:
            >>> import torch, gradembed as ge
            >>> ge.datasets.random_waves(10, dim=3).gradient(torch.rand(100, 3)).shape
            torch.Size([10, 100, 3])
        """
        slopes = self._angles(x).cos() * self.amplitudes.to(x)[:, None]
        return torch.einsum("fnw,fwd->fnd", slopes, self.wave_vectors.to(x))

    def subset(self, indices: Sequence[int]) -> RandomWaves:
        """Pick functions.

        Args:
            indices: Positions among these functions, in any order; negative ones count from the end.

        Returns:
            The picked ones; their ``indices`` still say which functions of the seed they are.

        Raises:
            IndexError: If there is no such function.
            ValueError: If ``indices`` is empty.
            TypeError: If it is no sequence of integers.

        Example:
            >>> import gradembed as ge
            >>> ge.datasets.random_waves(10, dim=3).subset([7, -1]).indices
            (7, 9)
        """
        chosen = _validation.check_sequence("indices", indices, "a sequence of positions")
        n = self.n_functions
        for i in chosen:
            _validation.check_integer("indices", i)
            if not -n <= i < n:
                _validation.refuse("indices", f"lie between {-n} and {n - 1}", i, "Drop or correct it", IndexError)
        return replace(
            self,
            wave_vectors=self.wave_vectors[chosen],
            phases=self.phases[chosen],
            amplitudes=self.amplitudes[chosen],
            offsets=self.offsets[chosen],
            indices=tuple(self.indices[i] for i in chosen),
        )

    def __len__(self) -> int:
        return self.n_functions

    def __getitem__(self, index: int | slice) -> RandomWaves:
        return self.subset(range(self.n_functions)[index] if isinstance(index, slice) else [index])

    def __repr__(self) -> str:
        if self.indices == tuple(range(self.n_functions)):
            functions = _count(self.n_functions, "function")
        else:
            shown = ", ".join(map(str, self.indices[:8])) + (", ..." if self.n_functions > 8 else "")
            functions = f"function{'s' if self.n_functions > 1 else ''} {shown}"
        waves = f"{_count(self.n_waves, 'wave')} each, roughness {self.roughness:g}, seed {self.seed}"
        return f"RandomWaves({functions} of {_count(self.dim, 'input')}, {waves})"

    def _angles(self, x: Tensor) -> Tensor:
        """Check points and project them.

        Returns:
            wₖ·x + φₖ, [f, n, w].
        """
        _validation.check_samples(x)
        if x.ndim != 2 or x.shape[1] != self.dim:
            _validation.refuse("x", f"have shape [n, {self.dim}]", _validation.describe(x), "Pass one point per row")
        return torch.einsum("nd,fwd->fnw", x, self.wave_vectors.to(x)) + self.phases.to(x)[:, None]


def random_waves(n_functions: int, dim: int, seed: int = 0, n_waves: int = 4, roughness: float = 1.0) -> RandomWaves:
    """Draw smooth functions on the cube [-1, 1]^d that are about equally hard to learn whatever d.

    Each is a sum of waves, f(x) = Σₖ aₖ·sin(wₖ·x + φₖ) - c. Directions of the wₖ are uniform on the sphere. Their
    lengths are √3·roughness·s with s uniform on [0.75, 1.75], so that roughness·s is the standard deviation of wₖ·x
    over the cube whatever d: a wave runs through as much of its period in 64 dimensions as in one. Phases are
    uniform; amplitudes are uniform on [0.5, 1.5] and then scaled. Scale and c give each function mean 0 and
    variance 1 over the cube, by formula: E cos(w·x + φ) = cos φ · Πⱼ sin(wⱼ)/wⱼ.

    In few dimensions smooth functions resemble each other. The absolute correlation of two of them is on average
    0.62 for d = 1, 0.37 for d = 2 and 0.13 for d = 8; at roughness 4 it is 0.35, 0.11 and 0.01.

    Args:
        n_functions: How many, f. The i-th is the same for every ``n_functions``.
        dim: Number of inputs, d.
        seed: Of all draws.
        n_waves: Waves in each sum.
        roughness: Scale of the wₖ, from 0.1 (nearly linear) to 100 (many periods along each direction).

    Returns:
        The functions, to be called with points [n, d].

    Raises:
        ValueError: If a number is out of range.
        TypeError: If an argument is no number.

    Example:
        >>> import torch, gradembed as ge
        >>> waves = ge.datasets.random_waves(10, dim=64)
        >>> waves
        RandomWaves(10 functions of 64 inputs, 4 waves each, roughness 1, seed 0)
        >>> x = 2 * torch.rand(100, 64) - 1
        >>> waves(x).shape, waves.gradient(x).shape
        (torch.Size([10, 100]), torch.Size([10, 100, 64]))
    """
    for name, value, minimum in (("n_functions", n_functions, 1), ("dim", dim, 1), ("seed", seed, 0)):
        _validation.check_integer(name, value, minimum)
    _validation.check_integer("n_waves", n_waves, 1)
    _validation.check_number("roughness", roughness, 0.1, 100)
    drawn = [_draw(np.random.default_rng([seed, i]), dim, n_waves, roughness) for i in range(n_functions)]
    vectors, phases, amplitudes, offsets = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
    return RandomWaves(vectors, phases, amplitudes, offsets, tuple(range(n_functions)), float(roughness), seed)


def _draw(rng: np.random.Generator, dim: int, n_waves: int, roughness: float) -> tuple[NDArray[np.float64], ...]:
    """Draw one function and scale it.

    Returns:
        Wave vectors [w, d], phases [w], amplitudes [w], offset [].
    """
    directions = rng.standard_normal((n_waves, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    vectors = math.sqrt(3) * roughness * rng.uniform(*SPREAD, (n_waves, 1)) * directions
    phases, amplitudes = rng.uniform(0, 2 * np.pi, n_waves), rng.uniform(*AMPLITUDES, n_waves)
    mean, variance = _moments(vectors, phases, amplitudes)
    return vectors, phases, amplitudes / np.sqrt(variance), mean / np.sqrt(variance)


def _moments(
    vectors: NDArray[np.float64], phases: NDArray[np.float64], amplitudes: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Integrate a sum of waves over the cube, with sin α·sin β = ½·cos(α - β) - ½·cos(α + β).

    Returns:
        Mean [] and variance [].
    """
    mean = amplitudes @ _mean_cosine(vectors, phases - np.pi / 2)
    difference = _mean_cosine(vectors[:, None] - vectors, phases[:, None] - phases)
    total = _mean_cosine(vectors[:, None] + vectors, phases[:, None] + phases)
    return mean, amplitudes @ (difference - total) @ amplitudes / 2 - mean**2


def _mean_cosine(vectors: NDArray[np.float64], phases: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of cos(w·x + φ) over the cube.

    Returns:
        One number per wave, in the shape of ``phases``.
    """
    mean: NDArray[np.float64] = np.cos(phases) * np.sinc(vectors / np.pi).prod(-1)
    return mean


def _count(n: int, noun: str) -> str:
    """Say how many.

    Returns:
        The number with its noun.
    """
    return f"{n:,} {noun}{'s' if n != 1 else ''}"
