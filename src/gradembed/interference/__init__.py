"""Pairwise task interference: how the gradients of units relate at each layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gradembed import _progress
from gradembed._context import preserved
from gradembed._validation import as_bool, as_integer, as_number, check_choice, describe, refuse
from gradembed.gradients import Session, Site
from gradembed.gradients.batches import Reservoir, tensors_in
from gradembed.interference.all_pairs import AllPairs
from gradembed.interference.chance import MOST, Readouts
from gradembed.interference.outputs import Correlation
from gradembed.interference.realised import RealisedSums
from gradembed.interference.result import MEASURES, Interference
from gradembed.models import check_reinitializable, redrawn

__all__ = ["Interference", "interference"]


def interference(
    model: nn.Module, x: Any, *, forward: Callable[..., Any] | None = None, unit_layer: str | Site = "output",
    units: Sequence[int | str] | Tensor | None = None, directions: Tensor | None = None,
    layers: str | Site | Sequence[str | Site] | None = None, pairing: str = "realised", n_bootstrap: int = 0,
    confidence: float = 0.95, n_untrained: int = 0, reinitialize: Callable[[nn.Module], Any] | None = None,
    centered: bool = False, n_readouts: int = 16, reference: str | Site | None = None, seed: int = 0,
    chunk_size: int | None = None,
) -> Interference:  # fmt: skip
    """Compare the gradients of every pair of units at every layer, at the samples where they happen.

    For a chain, the gradients at a layer below a linear layer of weight W are rows @ W; their angles are
    computed from rows @ M with M Mᵀ = W Wᵀ, so that the widest matrix is never formed. Time and memory are linear
    in the samples, memory in one chunk of them.

    Args:
        model: A trained network that treats every sample by itself; usually in eval mode. Left as it was.
        x: What it is asked with, as in `unit_gradients`. Batches from a ``DataLoader`` or any other iterable are gone
            through once, in constant memory; the result is that of all samples in one tensor up to rounding.
            Messages count batches from 0.
        forward: How the model is called with a batch, and what is compared, as in `unit_gradients`.
        unit_layer: The layer that the units belong to, or a `Site`; "output" is what the model returns.
        units: Indices in the unit layer, or labels; ``None`` for all.
        directions: Instead of ``units``: directions in the unit layer, [u, D].
        layers: Where to compare: "input", names of modules, patterns ("blocks.*.mlp"), or a `Site`. ``None`` for the
            input, if it is of floats (each of several, "input element 0", ...), and the modules that feed all units:
            the items of lists and sequences, inside wrappers, each run once and more than a mere pass-through.
        pairing: "realised": both gradients are taken at the same sample. "all": at every ordered pair of samples, a
            sample with itself included; the mean cosine then takes linear time, the rest quadratic (with a progress
            bar), and all gradients are kept in memory: not for batches.
        n_bootstrap: Replicates of a Poisson bootstrap over samples, for intervals; 0 for none. 1000 is usual.
        confidence: Of the intervals.
        n_untrained: Copies of the model with new initial weights to be measured likewise, as a control. Batches are
            gone through once more for each.
        reinitialize: How a copy's weights are drawn anew, where its modules cannot do so: see `untrained`.
        centered: Whether units are read less the mean of their head: for logits z, z - mean(z). A softmax computes the
            same with any number added to all logits, and so the signs of interference between its classes mean
            something for centered logits only. As fast as without. For log-probabilities pass
            ``forward=lambda model, batch: model(batch).log_softmax(1)``: there the mean is the softmax's own, which
            the likeliest class dominates.
        n_readouts: Random read-outs behind the level of chance, at least 4; 0 for none. They are looked at in up to 64
            samples, off the path of chains in fewer, at least 8, so that they take about an eighth of the time.
        reference: The layer whose random read-outs are chance; ``None`` for the one that the units are read from. What
            units have beyond it, their own read-outs have brought; with an earlier layer, the layers between add to
            that: beyond random read-outs of "hidden1" is what "hidden2" and the outputs do together.
        seed: Of the bootstrap, the random read-outs, and the first copy's weights; the next copies count on from it.
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
    check_choice("pairing", pairing, ("realised", "all"))
    n_bootstrap = as_integer("n_bootstrap", n_bootstrap, 0)
    n_untrained, seed = as_integer("n_untrained", n_untrained, 0), as_integer("seed", seed, 0)
    confidence = as_number("confidence", confidence, 0.5, 0.9999)
    centered, n_readouts = as_bool("centered", centered), as_integer("n_readouts", n_readouts, 0)
    if 0 < n_readouts < 4:
        rule = "be 0 or at least 4, to tell how much they vary"
        refuse("n_readouts", rule, n_readouts, "Pass 16, or 0 for no chance")
    if not n_readouts and reference is not None:
        refuse("reference", "be None with n_readouts=0", describe(reference), "Ask for read-outs: n_readouts=16")
    if centered and directions is not None:
        remedy = "Center the directions: directions - directions.mean(1, keepdim=True)"
        refuse("centered", "be False with `directions`, which say themselves what is read", centered, remedy)
    if reinitialize is not None and not callable(reinitialize):
        refuse("reinitialize", "be a function of a module", describe(reinitialize), "Pass one, or None", TypeError)
    if pairing == "all" and n_bootstrap:
        remedy = "Set it to 0, or use pairing='realised'"
        refuse("n_bootstrap", "be 0 with pairing='all', whose pairs are not independent", n_bootstrap, remedy)
    if n_untrained:
        check_reinitializable(model, reinitialize)
    asked: dict[str, Any] = {"unit_layer": unit_layer, "units": units, "directions": directions, "forward": forward}
    asked["centered"] = centered
    with Session.open(model, x, layers, **asked) as session:
        if session.stream and pairing == "all":
            remedy = "Pass all samples as one tensor, or use pairing='realised'"
            refuse("pairing", "be 'realised' for samples in batches", "'all', which keeps all gradients", remedy)
        if session.stream and n_untrained and isinstance(x, Iterator):
            rule = "be 0 for an iterator, whose samples come only once"
            remedy = "Pass batches that can be gone through again (a list, a DataLoader), or set it to 0"
            refuse("n_untrained", rule, n_untrained, remedy)
        some = Reservoir(MOST, seed) if n_readouts else None
        tables, sums = _measure(session, pairing, n_bootstrap, seed, chunk_size, some)
        if some:
            below: dict[str, Any] = {"forward": forward, "reference": reference, "r": n_readouts, "seed": seed}
            with preserved(model):
                levels = Readouts(model, session, some, **below).levels(partial(_abs_cosine, pairing))
            tables["chance"], tables["readouts"] = levels
    ends = {layer: part.intervals(confidence) for layer, part in sums.items() if n_bootstrap}
    names = MEASURES if n_bootstrap else ()
    intervals, summary = ({name: {k: found[name][i] for k, found in ends.items()} for name in names} for i in (0, 1))
    control = asked | {"layers": session.sites, "pairing": pairing, "chunk_size": chunk_size}
    control |= {"n_readouts": n_readouts, "reference": reference, "seed": seed}
    untrained = []
    for i in range(n_untrained):
        with redrawn(model, seed + i, reinitialize) as network:
            untrained.append(interference(network, x, **control))
        if forward is not None and all(map(torch.equal, untrained[-1].norm.values(), tables["norm"].values())):
            got, remedy = "one that gives the same with new weights", "Write it as lambda model, batch: model(...)"
            refuse("forward", "call the model that it is given", got, remedy)
    tables |= {"unit_layer": str(session.unit_site), "unit_labels": session.unit_labels, "heads": session.heads}
    tables |= {"intervals": intervals, "summary_intervals": summary, "confidence": confidence}
    return Interference(**tables, pairing=pairing, untrained=tuple(untrained))


def _abs_cosine(pairing: str, session: Session) -> dict[str, tuple[Tensor, Tensor]]:
    """Return |cosine| and count of all pairs of units, per layer."""
    tables, _ = _measure(session, pairing, 0, 0, None, None)
    return {layer: (tables["abs_cosine"][layer], tables["count"][layer]) for layer in session.layers}


def _measure(
    session: Session, pairing: str, n_bootstrap: int, seed: int, chunk_size: int | None, some: Reservoir | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Go through the samples once.

    With a Poisson bootstrap, how often each sample stands in each replicate are independent Poisson(1) numbers
    (Hanley and MacGibbon 2006, Creating non-parametric bootstrap samples using Poisson frequencies). They are drawn
    sample by sample: a stream of chunks needs no memory of its samples, and how it is cut does not matter.

    Returns:
        The number of samples, and for other fields of the result a value per layer; the sums behind them.
    """
    u, device, layers = len(session.unit_labels), tensors_in(session.batch)[0].device, session.layers
    sums: dict[str, Any] = {}
    for layer in layers:
        is_all, kind = pairing == "all", session.kind
        sums[layer] = AllPairs(layer, u, kind) if is_all else RealisedSums(layer, u, kind, device, n_bootstrap)
    rng, outputs = np.random.default_rng(seed), Correlation()
    weights: Tensor | None = None
    for capture in session.captures(chunk_size, reservoir=some):
        if n_bootstrap:
            weights = torch.from_numpy(rng.poisson(1.0, (capture.values.shape[1], n_bootstrap)).astype(np.float32))
        for layer, rows in capture.gradients.items():
            sums[layer].add(rows.coordinates(), weights, constant=rows.is_constant)
        outputs.add(capture.values)
    tables: dict[str, Any] = {}
    steps = len(layers) * u * (u + 1) // 2
    with _progress.bar(steps, "all pairs of samples", "it", wanted=pairing == "all", delay=1) as bar:
        for layer, part in sums.items():
            for name, value in part.means(bar).items():
                tables.setdefault(name, {})[layer] = value
    return tables | {"n_samples": outputs.n, "output_correlation": outputs.matrix()}, sums
