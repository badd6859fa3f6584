"""Pairwise task interference: how the gradients of units relate at each layer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from torch import Tensor, nn

from gradembed import _progress, _validation
from gradembed.gradients import Session, Stream, streamed
from gradembed.interference._all_pairs import AllPairs
from gradembed.interference._geometry import DimensionSample, chance_abs_cosine
from gradembed.interference._realised import PoissonWeights, RealisedSums
from gradembed.interference._result import MEASURES, Interference
from gradembed.models import untrained

__all__ = ["Interference", "interference"]


def interference(
    model: nn.Module,
    x: Tensor | Iterable[Tensor | Sequence[Any]],
    *,
    unit_layer: str = "output",
    units: Sequence[int] | None = None,
    directions: Tensor | None = None,
    layers: Sequence[str] | None = None,
    pairing: str = "realised",
    n_bootstrap: int = 0,
    confidence: float = 0.95,
    n_untrained: int = 0,
    seed: int = 0,
    chunk_size: int | None = None,
) -> Interference:
    """Compare the gradients of every pair of units at every layer, at the samples where they happen.

    For a chain, the gradients at a layer below a linear layer of weight W are rows @ W; their angles are
    computed from rows @ M with M Mᵀ = W Wᵀ, so that the widest matrix is never formed. Time and memory are linear
    in the samples, memory in one chunk of them.

    Args:
        model: A trained network that treats every sample by itself; usually in eval mode. Left as it was.
        x: Samples, [n, d], or [n, ...] where the model takes more axes. Or batches of them, from a ``DataLoader`` or
            any other iterable: tensors, or tuples or lists that begin with one (labels may follow). Batches are gone
            through once, in constant memory; the result is that of all samples in one tensor up to rounding, save
            effective dimension and chance, which rest on a choice of samples of their own where there are more than
            2,048 gradients. Messages count batches from 0.
        unit_layer: The layer that the units belong to; "output" is what the model returns.
        units: Indices in the unit layer; ``None`` for all.
        directions: Instead of ``units``: directions in the unit layer, [u, D].
        layers: Where to compare: "input" and names of modules; ``None`` for the input and every direct child
            of the model before the unit layer.
        pairing: "realised": both gradients are taken at the same sample. "all": at every ordered pair of samples, a
            sample with itself included; the mean cosine then takes linear time, the rest quadratic (with a progress
            bar), and all gradients are kept in memory: not for batches.
        n_bootstrap: Replicates of a Poisson bootstrap over samples, for intervals; 0 for none. 1000 is usual.
        confidence: Of the intervals.
        n_untrained: Copies of the model with new initial weights to be measured likewise, as a control. Batches are
            gone through once more for each.
        seed: Of the bootstrap, and of the first copy's weights; the next copies count on from it.
        chunk_size: Samples at a time; ``None`` chooses by a memory budget. The result is the same up to rounding.

    Returns:
        Means for each layer and pair of units, with intervals, level of chance and control.

    Raises:
        ValueError: As `unit_gradients`; if ``pairing`` is unknown or has no bootstrap; if a number is out of range; if
            the model has parameters that cannot be drawn again (with ``n_untrained``); if there is no batch, batches
            differ in more than their number of samples, or are asked for what they cannot give.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> result = ge.interference(ge.MLP([4, 8, 8, 3], seed=0), torch.randn(50, 4))
        >>> result.layers
        ('input', 'hidden1', 'hidden2')
        >>> result.cosine["hidden1"].shape
        torch.Size([3, 3])

        Samples that are drawn as they are needed:

        >>> network = ge.MLP([4, 8, 3], torch.nn.Tanh, seed=0)
        >>> ge.interference(network, (torch.randn(1000, 4) for _ in range(100)))
        Interference(3 units of 'output', layers ['input', 'hidden1'], 100,000 samples)
    """
    _validation.check_choice("pairing", pairing, ("realised", "all"))
    for name, value in (("n_bootstrap", n_bootstrap), ("n_untrained", n_untrained), ("seed", seed)):
        _validation.check_integer(name, value, 0)
    _validation.check_number("confidence", confidence, 0.5, 0.9999)
    if pairing == "all" and n_bootstrap:
        remedy = "Set it to 0, or use pairing='realised'"
        _validation.refuse(
            "n_bootstrap", "be 0 with pairing='all', whose pairs are not independent", n_bootstrap, remedy
        )
    samples = streamed(x)
    if isinstance(samples, Stream):
        _check_stream(samples, pairing, n_untrained)
    with Session.open(model, samples, layers, unit_layer, units, directions) as session:
        tables, sums, n = _measure(session, pairing, n_bootstrap, seed, chunk_size)
    intervals: dict[str, dict[str, Tensor]] = {}
    summary: dict[str, dict[str, tuple[float, float]]] = {}
    for layer, part in sums.items() if n_bootstrap else ():
        by_pair, by_layer = part.intervals(confidence)
        for name in MEASURES:
            intervals.setdefault(name, {})[layer] = by_pair[name]
            summary.setdefault(name, {})[layer] = by_layer[name]
    controls = [
        interference(
            untrained(model, seed + i),
            x,
            unit_layer=unit_layer,
            units=units,
            directions=directions,
            layers=session.layers,
            pairing=pairing,
            chunk_size=chunk_size,
        )
        for i in range(n_untrained)
    ]
    return Interference(
        **tables,
        n_samples=n,
        unit_layer=unit_layer,
        unit_labels=session.unit_labels,
        pairing=pairing,
        intervals=intervals,
        summary_intervals=summary,
        confidence=confidence,
        untrained=tuple(controls),
    )


def _check_stream(stream: Stream, pairing: str, n_untrained: int) -> None:
    """Refuse what needs all samples at once, or again where they come only once."""
    if pairing == "all":
        remedy = "Pass all samples as one tensor, or use pairing='realised'"
        _validation.refuse(
            "pairing", "be 'realised' for samples in batches", "'all', which keeps all gradients", remedy
        )
    if n_untrained and isinstance(stream.source, Iterator):
        rule = "be 0 for an iterator, whose samples come only once"
        remedy = "Pass batches that can be gone through again (a list, a DataLoader), or set it to 0"
        _validation.refuse("n_untrained", rule, n_untrained, remedy)


def _measure(
    session: Session, pairing: str, n_bootstrap: int, seed: int, chunk_size: int | None
) -> tuple[dict[str, dict[str, Any]], dict[str, RealisedSums], int]:
    """Go through the samples once.

    Returns:
        For each field of the result a value per layer, the sums behind them (for realised pairs), and the number of
        samples.
    """
    n = None if session.stream else len(session.x)
    u, like = len(session.unit_labels), session.x
    weights = PoissonWeights(n_bootstrap, seed)
    realised = {layer: RealisedSums(layer, u, like, n_bootstrap) for layer in session.layers if pairing == "realised"}
    pairs = {layer: AllPairs(layer, u, like) for layer in session.layers if pairing == "all"}
    dimensions = {layer: DimensionSample(n, u, layer) for layer in session.layers}
    widths: dict[str, int] = {}
    with _progress.bar(None, "interference", " samples", wanted=session.stream is not None, delay=1) as bar:
        for capture in session.captures(chunk_size):
            drawn = weights.draw(len(capture.values))
            for layer, rows in capture.gradients.items():
                coordinates = rows.coordinates()
                widths[layer] = coordinates.shape[2]
                dimensions[layer].add(coordinates)
                if pairing == "all":
                    pairs[layer].add(coordinates, constant=rows.is_constant)
                else:
                    realised[layer].add(coordinates, drawn, constant=rows.is_constant)
            bar.update(len(capture.values))
    n = dimensions[session.layers[0]].seen
    steps = len(pairs) * u * (u + 1) // 2
    with _progress.bar(steps, "all pairs of samples", "it", wanted=steps > 0, delay=1) as bar:
        means = {layer: pairs[layer].means(n, bar) if pairs else realised[layer].means() for layer in session.layers}
    tables: dict[str, dict[str, Any]] = {}
    for layer in session.layers:
        effective = dimensions[layer].effective(widths[layer])
        extra = {"effective_dimension": effective, "chance": chance_abs_cosine(effective)}
        for name, value in {**means[layer], **extra}.items():
            tables.setdefault(name, {})[layer] = value
    return tables, realised, n
