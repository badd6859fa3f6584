"""Up to which layer tasks should share a trunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from gradembed._context import undisturbed
from gradembed._validation import as_integer, as_list, as_number, check_choice, refuse
from gradembed.gradients import Site
from gradembed.monitor._probe import Pairs, Probe

if TYPE_CHECKING:
    from torch import Tensor

SAMPLES_OF_CHANCE = 0.05  # the share of pairs of random read-outs whose mean cosine is lower than the level of chance


@dataclass(frozen=True, repr=False, eq=False)
class SplitRecommendation:
    """Up to which layer each pair of tasks should share, and how sure that is.

    Attributes:
        layers: Of the trunk, from the lowest one up.
        pairs: Of tasks.
        layer: Pair → the last layer to share; "" for none of them.
        share: For each pair the share of bootstrap replicates that recommend to share 0, 1, ..., all layers, [p, l + 1].
        table: One row per pair and layer: ``first``, ``second``, ``layer``, ``cosine``, its interval ``low`` and
            ``high``, the ``level`` that it is held against, whether the layer ``is_shared``, and the ``support``, the
            share of replicates that share it.
        n_networks: Networks that it rests on.
        n_samples: Samples of the probe.

    Example:
        >>> import torch, gradembed as ge
        >>> trunk = ge.MLP([4, 8, 8, 2], seed=0)  # one output for each task
        >>> x = torch.randn(100, 4)
        >>> y = torch.stack([x[:, 0], -x[:, 0]], 1)
        >>> def losses(model, batch):
        ...     return (model(batch[0]) - batch[1]).square()
        >>> found = ge.recommend_split(trunk, (x, y), forward=losses)
        >>> found.pairs, found.layers
        ((('0', '1'),), ('hidden1', 'hidden2'))
        >>> found.share.shape
        (1, 3)
    """

    layers: tuple[str, ...]
    pairs: Pairs
    layer: dict[tuple[str, str], str]
    share: NDArray[np.float64]
    table: pd.DataFrame
    n_networks: int
    n_samples: int

    def __repr__(self) -> str:
        votes = [f"{a} and {b} up to {self.layer[a, b]!r}" for a, b in self.pairs[:3]] + ["..."] * (len(self.pairs) > 3)
        return f"SplitRecommendation({'; '.join(votes)}; {self.n_networks} networks, {self.n_samples} samples)"


def recommend_split(
    models: nn.Module | Sequence[nn.Module], probe: Any, *, forward: Callable[..., Any], on: str = "losses",
    layers: str | Site | Sequence[str | Site] | None = None, units: Sequence[int | str] | None = None,
    level: str = "chance", n_bootstrap: int = 1000, confidence: float = 0.95, n_readouts: int = 16,
    reference: str | Site | None = None, seed: int = 0,
) -> SplitRecommendation:  # fmt: skip
    """Recommend the last layer that two tasks should share, from the conflict of their losses' gradients.

    For a linear layer z = W a the gradient of a sample's loss with respect to W is δ aᵀ, where δ is its gradient with
    respect to z. So at every sample the cosine of two tasks' gradients on the layer's weights is the cosine of their δ:
    where it is negative, the layer's output is fought over, and so are its weights. The layers up to the first one
    where the mean cosine over the samples lies below a level are recommended to be shared. That is a heuristic, of what
    the tasks do to each other at the weights that they have: it knows nothing of what they could do apart.

    Args:
        models: A network that shares its trunk between the tasks, or several that were trained alike (seeds).
        probe: One batch, as in `InterferenceMonitor`.
        forward: Called with model and batch, returns each task's loss at every sample: see `InterferenceMonitor`.
        on: "losses", or "outputs" for what ``forward`` returns to be compared as it is.
        layers: Of the trunk; ``None`` for those that feed all tasks. The input is left out: it is shared anyway.
        units: Which tasks, by number or label; ``None`` for all.
        level: "chance": the cosine that 5 % of pairs of random read-outs, carried down through the same network, are
            below; "zero".
        n_bootstrap: Replicates: networks are drawn with replacement if there are several, and their samples.
        confidence: Of the intervals.
        n_readouts: Random read-outs behind the level of chance.
        reference: The layer that they read.
        seed: Of the read-outs and the bootstrap.

    Returns:
        The recommendation, with intervals and the share of replicates that support it.

    Raises:
        ValueError: As `InterferenceMonitor`; if the networks have not the same layers and tasks.
        TypeError: If an argument has the wrong type.
    """
    networks = [models] if isinstance(models, nn.Module) else as_list("models", models, "a network, or a list of them")
    check_choice("level", level, ("chance", "zero"))
    n_bootstrap, seed = as_integer("n_bootstrap", n_bootstrap, 1), as_integer("seed", seed, 0)
    confidence = as_number("confidence", confidence, 0.5, 0.9999)
    n_readouts = as_integer("n_readouts", n_readouts, 4) if level == "chance" else 0
    drawn: dict[str, Any] = {"n_readouts": n_readouts, "reference": reference if n_readouts else None, "seed": seed}
    drawn |= {"on": on, "forward": forward, "layers": layers, "units": units}
    numbers, levels, names, pairs = [], [], (), ()  # of each network: cosines and counts [2, l, n, p], levels [l]
    for i, network in enumerate(networks):
        asked = Probe(network, probe, **drawn)
        trunk = [k for k, name in enumerate(asked.layers) if name != "input"]
        found = tuple(asked.layers[k] for k in trunk), asked.pairs
        if i and found != (names, pairs):
            refuse("models", "have the same layers and tasks", f"{found[0]} after {names}", "Pass networks alike")
        names, pairs = found
        if not names:
            refuse("layers", "name a layer of the trunk, beside the input", "none", "Pass layers=, or fewer units")
        with undisturbed(network):
            numbers.append(asked.at_samples()[[0, 3]][:, trunk])
            levels.append(_levels(asked.readouts(), names))
    cosines, counts = torch.stack(numbers, 1).cpu().numpy()  # [e, l, n, p] each
    lowest = np.mean(levels, 0)[:, None]  # [l, 1]
    e, _, n, _ = cosines.shape
    rng = np.random.default_rng(seed)
    means = _ratio(cosines.sum((0, 2)), counts.sum((0, 2)))  # [l, p]
    replicates = np.empty((n_bootstrap, *means.shape))
    for k in range(n_bootstrap):
        times = rng.multinomial(e, np.full(e, 1 / e)) if e > 1 else np.ones(1)
        weights = times[:, None] * rng.multinomial(n, np.full(n, 1 / n), e)  # [e, n]
        replicates[k] = _ratio(*(np.einsum("en,elnp->lp", weights, part) for part in (cosines, counts)))
    is_shared = np.logical_and.accumulate(means >= lowest, axis=0)  # up to the first layer below the level
    shared = np.logical_and.accumulate(replicates >= lowest, axis=1)  # [b, l, p]
    low, high = np.quantile(replicates, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    depth = shared.sum(1)  # [b, p]
    share = np.stack([(depth == k).mean(0) for k in range(len(names) + 1)], 1)
    rows = [
        {
            "first": first, "second": second, "layer": layer, "cosine": means[i, k], "low": low[i, k],
            "high": high[i, k], "level": lowest[i, 0], "is_shared": is_shared[i, k], "support": shared[:, i, k].mean(),
        } for k, (first, second) in enumerate(pairs) for i, layer in enumerate(names)
    ]  # fmt: skip
    last = {pair: ("", *names)[is_shared[:, k].sum()] for k, pair in enumerate(pairs)}
    return SplitRecommendation(names, pairs, last, share, pd.DataFrame(rows), e, n)


def _ratio(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean cosines; 0 where no gradients are."""
    return np.divide(sums, counts, out=np.zeros_like(sums), where=counts > 0)


def _levels(readouts: dict[str, Tensor], layers: Sequence[str]) -> NDArray[np.float64]:
    """The mean cosine that few pairs of random read-outs fall below, whose signs are even: [l]."""
    if not readouts:
        return np.zeros(len(layers))
    return -np.array([float(readouts[layer].quantile(1 - 2 * SAMPLES_OF_CHANCE)) for layer in layers])
