"""What `interference` returns."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from gradembed._validation import as_list, check_choice, check_layer, refuse

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("cosine", "abs_cosine", "conflict", "norm_similarity")


def spread_of_means(pairs: Tensor, u: int) -> float:
    """Estimate how far the mean over all pairs of u read-outs varies from one draw of them to another.

    The mean is a U-statistic of order two, with variance (4 (u - 2) ζ₁ + 2 ζ₂) / (u (u - 1)), where ζ₂ is the variance
    of a pair and ζ₁ that of a read-out's mean over all partners (Hoeffding 1948, A class of statistics with
    asymptotically normal distribution).

    Args:
        pairs: A number for every two of k read-outs, in s independent sets, [s, k, k].
        u: At least 2.

    Returns:
        A standard deviation.
    """
    k = pairs.shape[-1]
    off = pairs[:, ~torch.eye(k, dtype=torch.bool)].reshape(-1, k, k - 1)
    of_pair, of_mean = (float(part.var(correction=0)) for part in (off, off.mean(2)))
    zeta = max(0.0, (of_mean * (k - 1) - of_pair) / (k - 3)) if k > 3 else 0.0  # less a mean's own noise
    return math.sqrt((4 * (u - 2) * zeta + 2 * of_pair) / (u * (u - 1)))


def clustered_order(results: Sequence[Interference], layers: Sequence[str]) -> list[int]:
    """Order units so that neighbors share: average linkage of their mean cosines, with the leaves in their best order.

    Args:
        results: Of one network, or of several alike.
        layers: Whose cosines count.

    Returns:
        Positions of the units.
    """
    from scipy.cluster.hierarchy import leaves_list, linkage

    u = len(results[0].unit_labels)
    cosine = torch.stack([one.cosine[layer].cpu() for one in results for layer in layers]).mean(0)
    distance = (1 - cosine)[*torch.triu_indices(u, u, 1)].numpy()
    return leaves_list(linkage(distance, "average", optimal_ordering=True)).tolist() if u > 2 else list(range(u))


@dataclass(frozen=True, repr=False, eq=False)
class Interference:
    """How the gradients of u units relate at each layer, averaged over samples.

    A cosine near 0 says that two units use different directions of a layer, a positive one that they share, a
    negative one that what raises one lowers the other (normal between the classes of one classifier). Every
    measure is a mean over the samples (or pairs of samples) at which both gradients exist; a pair of units that
    never has any has ``count`` 0 and measures 0, and is left out of summaries.

    Attributes:
        cosine: Mean cosine per layer, [u, u], in [-1, 1].
        abs_cosine: Mean absolute cosine, [u, u], in [0, 1].
        conflict: Share with a negative cosine, [u, u], in [0, 1]. Negative means below -1e-6 (float32) or
            -1e-14 (float64), beyond what rounding reaches.
        norm_similarity: Mean of 2|a||b| / (|a|² + |b|²), [u, u]: 1 for gradients of equal length, near 0 where one is
            negligible beside the other.
        norm: Mean gradient norm, over all samples, zeros included, [u].
        undefined: Number of samples at which the unit's gradient is zero and has no direction, [u].
        count: Number of samples (or pairs of samples) that the means of a pair rest on, [u, u].
        output_correlation: Pearson's correlation of the units' values over samples, [u, u]: the control that looks at
            no gradient; 0 for a unit whose value does not vary.
        n_samples: All samples.
        unit_layer: The layer that the units belong to.
        unit_labels: One per unit, along every axis u; "head[i]" where the model has several heads.
        heads: The head of each unit, [u]; empty where there is but one.
        pairing: "realised" (both gradients at the same sample) or "all" (at every ordered pair of samples).
        chance: Mean |cosine| per layer of two independent isotropic read-outs of the layer of reference, carried down
            through the same network at some of the samples: what any read-outs have there. At the layer of reference
            itself it is in closed form. Directions, and centered units, are those of random read-outs. Empty for
            ``n_readouts=0``.
        readouts: Mean |cosine| of every two of the random read-outs behind it, in s independent sets of k, [s, k, k];
            empty likewise.
        intervals: Measure → layer → bootstrap interval of each pair's mean, [2, u, u] (low, high); empty without
            ``n_bootstrap``.
        summary_intervals: Measure → layer → bootstrap interval of the mean over all pairs of different units.
        confidence: Of the intervals.
        untrained: The same for copies of the network with new initial weights: the control.

    Example:
        >>> import torch, gradembed as ge
        >>> result = ge.interference(ge.MLP([4, 8, 3], seed=0), torch.randn(50, 4))
        >>> result
        Interference(3 units of 'output', layers ['input', 'hidden1'], 50 samples)
        >>> len(result.to_frame())  # three pairs at two layers
        6
    """

    cosine: dict[str, Float64[Tensor, "u u"]]
    abs_cosine: dict[str, Float64[Tensor, "u u"]]
    conflict: dict[str, Float64[Tensor, "u u"]]
    norm_similarity: dict[str, Float64[Tensor, "u u"]]
    norm: dict[str, Float64[Tensor, " u"]]
    undefined: dict[str, Int64[Tensor, " u"]]
    count: dict[str, Int64[Tensor, "u u"]]
    output_correlation: Float64[Tensor, "u u"]
    n_samples: int
    unit_layer: str
    unit_labels: tuple[str, ...]
    heads: tuple[str, ...] = ()
    pairing: str = "realised"
    chance: dict[str, float] = field(default_factory=dict)
    readouts: dict[str, Float64[Tensor, "s k k"]] = field(default_factory=dict)
    intervals: dict[str, dict[str, Float64[Tensor, "2 u u"]]] = field(default_factory=dict)
    summary_intervals: dict[str, dict[str, tuple[float, float]]] = field(default_factory=dict)
    confidence: float = 0.95
    untrained: tuple[Interference, ...] = ()

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

    def orthogonality(self, groups: str | Sequence[Hashable] | None = None) -> dict[str, float]:
        """One minus the mean absolute cosine between units of different groups: 1 means separate, 0 parallel.

        Independent random directions in d dimensions reach 1 - sqrt(2 / (pi d)), about.

        Args:
            groups: A group for each unit, say the task that an output belongs to; "heads" for the model's heads;
                ``None`` for each unit its own.

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
        u = len(self.unit_labels)
        if isinstance(groups, str) and groups == "heads":
            if not self.heads:
                remedy = "Pass a group for each unit, or forward= that returns a mapping of heads"
                refuse("groups", "be given for a model with one head", "'heads'", remedy)
            groups = self.heads
        members = list(range(u)) if groups is None else as_list("groups", groups, "a list of groups")
        if len(members) != u:
            refuse("groups", f"name a group for each of {u} units", len(members), "Name them all")
        across = torch.tensor([[a != b for b in members] for a in members])
        if not bool(across.any()):
            refuse("groups", "name at least two groups", "one", "Split the units, or pass more of them")
        result = {}
        for layer in self.layers:
            defined = across & (self.count[layer] > 0)
            if not bool(defined.any()):
                rule = f"have a defined cosine between them at {layer!r}"
                refuse("groups", rule, "zero gradients only", "Leave this layer out: `layers=` of interference")
            result[layer] = 1 - float(self.abs_cosine[layer][defined].mean())
        return result

    def pair_mean(self, measure: str, layer: str) -> float:
        """Average a measure over all pairs of different units that have it.

        Args:
            measure: "cosine", "abs_cosine", "conflict" or "norm_similarity".
            layer: Where.

        Returns:
            The mean, or 0 where no pair has it.

        Raises:
            ValueError: If measure or layer is unknown.
        """
        check_choice("measure", measure, MEASURES)
        check_layer("layer", layer, self.layers)
        pairs = (self.count[layer] > 0) & ~torch.eye(len(self.unit_labels), dtype=torch.bool)
        return float(getattr(self, measure)[layer][pairs].mean()) if bool(pairs.any()) else 0.0

    def excess(self, layer: str) -> tuple[float, float, float]:
        """Take the level of chance off the mean |cosine| of all pairs of different units.

        Args:
            layer: Where.

        Returns:
            The excess, and the ends of its interval: it contains 0 where as many random read-outs do as much. It counts
            how much their mean varies from draw to draw, how well chance is known, and, with a bootstrap, the samples.

        Raises:
            ValueError: If the layer is unknown, there is one unit only, or chance was not asked for.

        Example:
            >>> import torch, gradembed as ge
            >>> result = ge.interference(ge.MLP([4, 8, 5], seed=0), torch.randn(50, 4))
            >>> excess, low, high = result.excess("hidden1")
            >>> low < 0 < high  # nothing was trained
            True
        """
        check_layer("layer", layer, self.layers)
        u = len(self.unit_labels)
        if not self.chance or u < 2:
            got = "one unit" if self.chance else "n_readouts=0"
            refuse("result", "have two units or more, and a level of chance", got, "Measure it with n_readouts=16")
        pairs, z = self.readouts[layer], NormalDist().inv_cdf((1 + self.confidence) / 2)
        s, k, _ = pairs.shape
        errors = [spread_of_means(pairs, u), spread_of_means(pairs, k) / math.sqrt(s)]
        if "abs_cosine" in self.summary_intervals:
            low, high = self.summary_intervals["abs_cosine"][layer]
            errors.append((high - low) / 2 / z)
        excess, half = self.pair_mean("abs_cosine", layer) - self.chance[layer], z * math.hypot(*errors)
        return excess, excess - half, excess + half

    def to_frame(self) -> pd.DataFrame:
        """One row per layer and unordered pair of different units.

        Returns:
            Columns ``layer``, ``unit_a``, ``unit_b``, the four measures, ``norm_a``, ``norm_b``, ``undefined_a``,
            ``undefined_b``, ``n_pairs``, ``output_correlation``; ``chance``, the ``excess`` of |cosine| over it and
            ``excess_low``, ``excess_high``, its interval over pairs of random read-outs; with a bootstrap
            ``<measure>_low`` and ``<measure>_high``; with a control ``untrained_<measure>``, the mean over its copies.
        """
        import pandas as pd

        u, parts = len(self.unit_labels), []
        a, b = torch.triu_indices(u, u, 1).tolist()
        for layer in self.layers:
            columns: dict[str, Any] = {"layer": [layer] * len(a)}
            columns |= {f"unit_{side}": [self.unit_labels[i] for i in units] for side, units in (("a", a), ("b", b))}
            columns |= {name: getattr(self, name)[layer][a, b].numpy() for name in MEASURES}
            for name, values in (("norm", self.norm[layer]), ("undefined", self.undefined[layer])):
                columns |= {f"{name}_a": values[a].numpy(), f"{name}_b": values[b].numpy()}
            columns["n_pairs"] = self.count[layer][a, b].numpy()
            columns["output_correlation"] = self.output_correlation[a, b].numpy()
            if self.chance:
                k = self.readouts[layer].shape[-1]
                pairs = self.readouts[layer][:, *torch.triu_indices(k, k, 1)]
                ends = pairs.new_tensor([(1 + self.confidence) / 2, (1 - self.confidence) / 2])
                high, low = pairs.quantile(ends).tolist()
                columns |= {"chance": self.chance[layer], "excess": columns["abs_cosine"] - self.chance[layer]}
                columns |= {"excess_low": columns["abs_cosine"] - high, "excess_high": columns["abs_cosine"] - low}
            for name, interval in self.intervals.items():
                columns |= {f"{name}_{end}": interval[layer][i, a, b].numpy() for i, end in enumerate(("low", "high"))}
            if self.untrained:
                control = {name: [getattr(result, name)[layer] for result in self.untrained] for name in MEASURES}
                columns |= {f"untrained_{name}": torch.stack(m).mean(0)[a, b].numpy() for name, m in control.items()}
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)
