"""Up to which layer tasks should share a trunk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import nn

from gradembed._context import undisturbed
from gradembed._validation import as_integer, as_list, as_number, check_choice, refuse
from gradembed.gradients import Site
from gradembed.monitor._probe import Pairs, Probe

RARE = 0.05  # the share of pairs of random read-outs whose mean cosine is lower than the level of chance


@dataclass(frozen=True, repr=False, eq=False)
class SplitRecommendation:
    """Up to which layer each pair of tasks should share, and how sure that is.

    Attributes:
        layers: Of the trunk, from the lowest one up.
        pairs: Of tasks.
        layer: Pair → the last layer to share; "" for none of them.
        share: For each pair the share of bootstrap replicates that share 0, 1, ..., all layers, [p, l + 1].
        table: One row per pair and layer: ``first``, ``second``, ``layer``, ``cosine``, its interval ``low`` and
            ``high``, the ``level`` that it is held against, whether the layer ``is_shared``, and the ``support``, the
            share of replicates that share it.
        n_networks: Networks that it rests on.
        n_samples: Samples of the probe.

    Example:
        >>> import torch, gradembed as ge
        >>> network = ge.MLP([4, 8, 8, 2], seed=0)  # one output for each task
        >>> x = torch.randn(100, 4)
        >>> y = torch.stack([x[:, 0], -x[:, 0]], 1)
        >>> def losses(model, batch):
        ...     return (model(batch[0]) - batch[1]).square()
        >>> found = ge.recommend_split(network, (x, y), forward=losses, layers="hidden*")
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
        words = {last: f"up to {last!r}" if last else "nothing" for last in self.layer.values()}
        votes = [f"{a!r} and {b!r} share {words[self.layer[a, b]]}" for a, b in self.pairs[:3]]
        votes += [f"{len(self.pairs) - 3} pairs more"] * (len(self.pairs) > 3)
        networks = f"{self.n_networks} network{'s' if self.n_networks > 1 else ''}"
        return f"SplitRecommendation({'; '.join([*votes, networks])}, {self.n_samples} samples)"


def recommend_split(
    models: nn.Module | Sequence[nn.Module], probe: Any, *, forward: Callable[..., Any], on: str = "losses",
    layers: str | Site | Sequence[str | Site] | None = None, units: Sequence[int | str] | None = None,
    level: str = "zero", n_bootstrap: int = 1000, confidence: float = 0.95, n_readouts: int = 16,
    reference: str | Site | None = None, seed: int = 0,
) -> SplitRecommendation:  # fmt: skip
    """Recommend the last layer that two tasks should share, from the conflict of their losses' gradients.

    For a linear layer z = W a the gradient of a sample's loss with respect to W is δ aᵀ, where δ is its gradient with
    respect to z. So at every sample the cosine of two tasks' gradients on the layer's weights is the cosine of their δ:
    where it is negative, the layer's output is fought over, and so are its weights. The layers up to the first one
    where the mean cosine over the samples lies below a level are recommended to be shared. That is a heuristic, of what
    the tasks do to each other at the weights that they have: it knows nothing of what they could do apart. In notebook
    08 it is within a point of the best split as often as always sharing everything is.

    Args:
        models: A network that shares its trunk between the tasks, or several that were trained alike (seeds).
        probe: One batch, as in `InterferenceMonitor`.
        forward: Called with model and batch, returns each task's loss at every sample: see `InterferenceMonitor`.
        on: "losses", or "outputs" for what ``forward`` returns to be compared as it is.
        layers: Of the trunk; ``None`` for those that feed all tasks, a common output layer among them, which is always
            free of conflict: name the others. The input is left out, since it is shared anyway.
        units: Which tasks, by number or label; ``None`` for all.
        level: "zero"; or "chance", more lenient: the cosine that 5 % of pairs of random read-outs, carried down
            through the same network, are below (of 198 trunks of two tasks it split none: notebook 08).
        n_bootstrap: Replicates: networks are drawn with replacement if there are several, and their samples.
        confidence: Of the intervals.
        n_readouts: Random read-outs behind the level of chance.
        reference: The layer that they read; ``None`` for the topmost one of the trunk.
        seed: Of the read-outs and the bootstrap.

    Returns:
        The recommendation, with intervals and the share of replicates that support it.

    Raises:
        ValueError: As `InterferenceMonitor`; if the networks have not the same layers and tasks.
        TypeError: If an argument has the wrong type.

    Example:
        Two tasks that want opposite things of the same inputs, read from the same trunk with equal weights:

        >>> import torch, gradembed as ge
        >>> network, x = ge.MLP([4, 8, 2], seed=0), torch.randn(100, 4)
        >>> _ = torch.nn.init.ones_(network.output.weight)
        >>> def losses(model, x):
        ...     z = model(x)
        ...     return {"up": -z[:, 0], "down": z[:, 1]}
        >>> ge.recommend_split(network, x, forward=losses, layers="hidden1")
        SplitRecommendation('up' and 'down' share nothing; 1 network, 100 samples)
    """
    networks = [models] if isinstance(models, nn.Module) else as_list("models", models, "a network, or a list of them")
    check_choice("level", level, ("chance", "zero"))
    n_bootstrap, seed = as_integer("n_bootstrap", n_bootstrap, 1), as_integer("seed", seed, 0)
    confidence = as_number("confidence", confidence, 0.5, 0.9999)
    n_readouts = as_integer("n_readouts", n_readouts, 4) * (level == "chance")
    drawn: dict[str, Any] = {"n_readouts": n_readouts, "reference": reference if n_readouts else None, "seed": seed}
    drawn |= {"on": on, "forward": forward, "layers": layers, "units": units}
    probes = [Probe(network, probe, **drawn) for network in networks]
    layers_of, pairs = [[name for name in one.layers if name != "input"] for one in probes], probes[0].pairs
    trunk = layers_of[0]
    for one, names in zip(probes, layers_of, strict=True):
        if (names, one.pairs) != (trunk, pairs):
            refuse("models", "have the same layers and tasks", f"{names} after {trunk}", "Pass networks alike")
    if not trunk:
        refuse("layers", "name a layer of the trunk, beside the input", "none", "Pass layers=, or fewer units")
    numbers, levels = zip(*(_at_samples(one, trunk) for one in probes), strict=True)
    e, n, depths, p = len(probes), numbers[0].shape[1], len(trunk), len(pairs)
    rows = np.concatenate(numbers, 1).transpose(1, 0, 2, 3).reshape(e * n, -1)  # of every sample, [e n, 2 l p]
    rng = np.random.default_rng(seed)
    times = rng.multinomial(e, np.full(e, 1 / e), n_bootstrap)[:, :, None]  # [b, e, 1]
    weights = times * rng.multinomial(n, np.full(n, 1 / n), (n_bootstrap, e))  # [b, e, n]
    sums = np.concatenate([np.ones((1, e * n)), weights.reshape(n_bootstrap, -1)]) @ rows
    cosines, counts = sums.reshape(-1, 2, depths, p).transpose(1, 0, 2, 3)
    means = np.divide(cosines, counts, out=np.zeros_like(cosines), where=counts > 0)  # [1 + b, l, p]
    lowest = np.mean(levels, 0)[:, None]  # [l, 1]
    is_shared = np.logical_and.accumulate(means >= lowest, axis=1)  # up to the first layer below the level
    support = is_shared[1:].mean(0)  # [l, p]
    low, high = np.quantile(means[1:], [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    depth = is_shared.sum(1)  # [1 + b, p]
    share = np.stack([(depth[1:] == k).mean(0) for k in range(depths + 1)], 1)
    table = [
        {
            "first": first, "second": second, "layer": layer, "cosine": means[0, i, k], "low": low[i, k],
            "high": high[i, k], "level": lowest[i, 0], "is_shared": is_shared[0, i, k], "support": support[i, k],
        } for k, (first, second) in enumerate(pairs) for i, layer in enumerate(trunk)
    ]  # fmt: skip
    last = {pair: ("", *trunk)[depth[0, k]] for k, pair in enumerate(pairs)}
    return SplitRecommendation(tuple(trunk), pairs, last, share, pd.DataFrame(table), e, n)


def _at_samples(probe: Probe, layers: Sequence[str]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Look at every sample.

    Returns:
        Cosines and their number, [2, n, l, p], and the mean cosine that few pairs of random read-outs, whose signs are
        even, fall below, [l]: 0 without them.
    """
    places = [probe.layers.index(layer) for layer in layers]
    with undisturbed(probe.model):
        numbers, readouts = probe.at_samples()[[0, 3]][:, places].transpose(1, 2), probe.readouts()
    quantile = 1 - 2 * RARE
    levels = [-float(readouts[layer].quantile(quantile)) if readouts else 0.0 for layer in layers]
    return numbers.double().numpy(force=True), np.array(levels)
