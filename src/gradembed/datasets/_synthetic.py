"""Toys whose answer is known: two tasks as separate as one asks for, and random smooth functions with gradients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64
from numpy.typing import NDArray
from torch import Tensor

from gradembed._validation import as_integer, as_list, as_number, as_tensor, refuse
from gradembed.datasets._split import Split


def soft_mixing(mixing: float, n_samples: int = 10_000, seed: int = 0) -> Split:
    """Two regression tasks whose overlap is one number: two products of two inputs, mixed into two targets.

    With four independent inputs, uniform on [-√3, √3] (mean 0, variance 1), p₁ = x₀·x₁ and p₂ = x₂·x₃, the targets are

        y₁ = (1 - λ)·p₁ + λ·p₂,    y₂ = λ·p₁ + (1 - λ)·p₂.

    At λ = 0 the tasks are separate by construction: each reads two inputs that the other does not. At λ = 0.5 they
    are identical. In between their covariance is 2λ(1 - λ) and their variance (1 - λ)² + λ². Single inputs do not
    correlate with the targets, so a linear model explains nothing.

    Args:
        mixing: λ, from 0 (separate) to 0.5 (identical).
        n_samples: Of both parts together, at least 5; four fifths are for training.
        seed: Of the inputs, which are the same for every mixing.

    Returns:
        A split with ``x`` [n, 4] and ``y`` [n, 2], float32.

    Raises:
        ValueError: If a number is out of range.
        TypeError: If an argument is no number.

    Example:
        >>> import gradembed as ge
        >>> ge.datasets.soft_mixing(0.25)
        Split('soft mixing 0.25', 8,000 training and 2,000 test samples of 4 features,
              from products of inputs, drawn with seed 0)
    """
    mixing, seed = as_number("mixing", mixing, 0, 0.5), as_integer("seed", seed, 0)
    n_samples = as_integer("n_samples", n_samples, 5)
    drawn = np.random.default_rng(seed).uniform(-math.sqrt(3), math.sqrt(3), (n_samples, 4))
    x, n_train = torch.from_numpy(drawn).float(), round(0.8 * n_samples)
    products = torch.stack([x[:, 0] * x[:, 1], x[:, 2] * x[:, 3]], 1)
    y = (1 - mixing) * products + mixing * products.flip(1)
    name, source = f"soft mixing {mixing:g}", f"products of inputs, drawn with seed {seed}"
    return Split(x[:n_train], y[:n_train], x[n_train:], y[n_train:], name, source)


@dataclass(frozen=True, repr=False, eq=False)
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
            ValueError: If ``x`` is not finite or has another shape.
            TypeError: If it is no tensor, array or list of numbers.
        """
        points, angles = self._angles(x)
        return torch.einsum("fw,fnw->fn", self.amplitudes.to(points), angles.sin()) - self.offsets.to(points)[:, None]

    def gradient(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "f n d"]:
        """Evaluate the gradient of every function at every point, by its formula.

        Args:
            x: Points, [n, d].

        Returns:
            Σₖ aₖ·cos(wₖ·x + φₖ)·wₖ, [f, n, d].

        Raises:
            ValueError: If ``x`` is not finite or has another shape.
            TypeError: If it is no tensor, array or list of numbers.

        Example:
            >>> import torch, gradembed as ge
            >>> ge.datasets.random_waves(10, dim=3).gradient(torch.rand(100, 3)).shape
            torch.Size([10, 100, 3])
        """
        points, angles = self._angles(x)
        slopes = angles.cos() * self.amplitudes.to(points)[:, None]  # [f, n, w]
        return torch.einsum("fnw,fwd->fnd", slopes, self.wave_vectors.to(points))

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
        n = self.n_functions
        chosen = [as_integer("indices", i) for i in as_list("indices", indices, "a sequence of positions")]
        if foreign := [i for i in chosen if not -n <= i < n]:
            refuse("indices", f"lie between {-n} and {n - 1}", foreign[0], "Drop or correct it", IndexError)
        parts = {name: getattr(self, name)[chosen] for name in ("wave_vectors", "phases", "amplitudes", "offsets")}
        return replace(self, **parts, indices=tuple(self.indices[i] for i in chosen))

    def __len__(self) -> int:
        return self.n_functions

    def __getitem__(self, index: int | slice) -> RandomWaves:
        return self.subset(range(self.n_functions)[index] if isinstance(index, slice) else [index])

    def __repr__(self) -> str:
        counts = zip(self.wave_vectors.shape, ("function", "wave", "input"), strict=True)
        functions, waves, inputs = (f"{n:,} {noun}{'s' * (n != 1)}" for n, noun in counts)
        if self.indices != tuple(range(self.n_functions)):
            shown = ", ".join(map(str, self.indices[:8])) + (", ..." if self.n_functions > 8 else "")
            functions = f"function{'s' * (self.n_functions > 1)} {shown}"
        return f"RandomWaves({functions} of {inputs}, {waves} each, roughness {self.roughness:g}, seed {self.seed})"

    def _angles(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return points, [n, d], and wₖ·x + φₖ, [f, n, w]."""
        checked = as_tensor("x", x, "n d", d=self.dim)
        points = x if isinstance(x, Tensor) else checked  # with its graph
        angles = torch.einsum("nd,fwd->fnw", points, self.wave_vectors.to(points))
        return points, angles + self.phases.to(points)[:, None]


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
    n_functions, dim = as_integer("n_functions", n_functions, 1), as_integer("dim", dim, 1)
    n_waves, seed = as_integer("n_waves", n_waves, 1), as_integer("seed", seed, 0)
    roughness = float(as_number("roughness", roughness, 0.1, 100))
    drawn = [_draw(np.random.default_rng([seed, i]), dim, n_waves, roughness) for i in range(n_functions)]
    vectors, phases, amplitudes, offsets = (torch.from_numpy(np.stack(part)) for part in zip(*drawn, strict=True))
    return RandomWaves(vectors, phases, amplitudes, offsets, tuple(range(n_functions)), roughness, seed)


def _draw(rng: np.random.Generator, dim: int, n_waves: int, roughness: float) -> tuple[NDArray[np.float64], ...]:
    """Return wave vectors [w, d], phases [w], amplitudes [w] and the offset [] of one function, scaled.

    Mean and variance over the cube follow from sin α·sin β = ½·cos(α - β) - ½·cos(α + β).
    """
    directions = rng.standard_normal((n_waves, dim))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    vectors = math.sqrt(3) * roughness * rng.uniform(0.75, 1.75, (n_waves, 1)) * directions
    phases, amplitudes = rng.uniform(0, 2 * np.pi, n_waves), rng.uniform(0.5, 1.5, n_waves)  # no wave is negligible
    mean = amplitudes @ _mean_cosine(vectors, phases - np.pi / 2)
    difference = _mean_cosine(vectors[:, None] - vectors, phases[:, None] - phases)  # [w, w]
    total = _mean_cosine(vectors[:, None] + vectors, phases[:, None] + phases)  # [w, w]
    std = np.sqrt(amplitudes @ (difference - total) @ amplitudes / 2 - mean**2)
    return vectors, phases, amplitudes / std, mean / std


def _mean_cosine(vectors: NDArray[np.float64], phases: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean of cos(w·x + φ) over the cube for wave vectors [..., d] and phases [...]."""
    return np.asarray(np.cos(phases) * np.sinc(vectors / np.pi).prod(-1))
