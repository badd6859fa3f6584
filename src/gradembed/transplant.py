"""Whether a claimed twin can do another unit's work: it is put in that unit's place, and the network is scored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool, Float64
from torch import Tensor, nn

from gradembed import _context
from gradembed._validation import (
    as_integer,
    as_list,
    as_number,
    as_positions,
    as_tensor,
    check_choice,
    check_module,
    check_parameters,
    check_per_sample,
    describe,
    is_finite,
    refuse,
)
from gradembed.gradients import Site
from gradembed.gradients.batches import Batch, call, check_fits, chosen, read_batch, size_of
from gradembed.models import MLP
from gradembed.modules import ablated, changed_at

if TYPE_CHECKING:
    import pandas as pd

ROUNDING = 1e-6  # variation below this, relative to the greatest, is float32 rounding


@dataclass(frozen=True, repr=False, eq=False)
class Transplants:
    """What a network loses when claimed twins from elsewhere take the place of its units, beside its controls.

    All losses are score before less score after, on samples that no map was fitted on. In shapes, c counts the claims
    and r the random draws.

    Attributes:
        score: Of the network as it is.
        loss: With the claimed donors in place, [c].
        ablation: With the units held at their means: what there is to lose, [c].
        random: With as many donors drawn at random, [c, r].
        matched: With as many donors chosen by correlation of activations on the fitted samples, [c]: the strongest
            rival wherever, as here, both can be run at the same inputs.
        r2: Share of the units' variance that the donors explain, [c]; 0 is their mean.
        matched_r2: The same for the donors chosen by correlation, [c].
        claims: Units and donors of each.
        tolerance: Greatest loss that a certified claim may have.

    Example:
        >>> import torch, gradembed as ge
        >>> x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
        >>> network = ge.MLP([4, 8, 3], seed=0)
        >>> found = ge.transplant(network, x, network(x).argmax(1), "hidden1", network, [([0, 1, 2], [0, 1, 2])])
        >>> found.verdicts, float(found.loss[0]), round(float(found.r2[0]), 3)
        (('certified',), 0.0, 1.0)
    """

    score: float
    loss: Float64[Tensor, " c"]
    ablation: Float64[Tensor, " c"]
    random: Float64[Tensor, "c r"]
    matched: Float64[Tensor, " c"]
    r2: Float64[Tensor, " c"]
    matched_r2: Float64[Tensor, " c"]
    claims: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]
    tolerance: float

    def __repr__(self) -> str:
        counts = ", ".join(f"{self.verdicts.count(word)} {word}" for word in ("certified", "refuted", "undecided"))
        lost = " and ".join(f"{float(part.mean()):.3f}" for part in (self.loss, self.ablation))
        return f"Transplants({len(self.loss)} claims: {counts}; mean loss {lost} by ablation, of {self.score:.3f})"

    @property
    def p_values(self) -> Float64[Tensor, " c"]:
        """Share of random draws that lose as little as the claim or less, the claim counted as one of them, [c]."""
        as_good = (self.random <= self.loss[:, None]).sum(1)
        return (1 + as_good).double() / (1 + self.random.shape[1])

    @property
    def certified(self) -> Bool[Tensor, " c"]:
        """Whether each claim loses at most the tolerance, where ablation loses more and p is at most 0.05, [c]."""
        return (self.loss <= self.tolerance) & (self.ablation > self.tolerance) & (self.p_values <= 0.05)

    @property
    def verdicts(self) -> tuple[str, ...]:
        """Of each claim: "certified"; "refuted" if it loses more than the tolerance; else "undecided".

        Undecided is what passes, but would as well if the units were held at their means, or had random donors.
        """
        both = zip(self.certified.tolist(), (self.loss > self.tolerance).tolist(), strict=True)
        return tuple("certified" if good else "refuted" if bad else "undecided" for good, bad in both)

    def to_frame(self) -> pd.DataFrame:
        """A tidy table, one row per claim.

        Returns:
            Columns ``claim``, ``units`` (how many), ``loss``, ``ablation``, ``random`` (mean), ``matched``, ``r2``,
            ``matched_r2``, ``p_value``, ``verdict``.
        """
        import pandas as pd

        numbers = {"loss": self.loss, "ablation": self.ablation, "random": self.random.mean(1), "matched": self.matched}
        numbers |= {"r2": self.r2, "matched_r2": self.matched_r2, "p_value": self.p_values}
        first = {"claim": range(len(self.loss)), "units": [len(units) for units, _ in self.claims]}
        columns = {name: column.numpy() for name, column in numbers.items()}
        return pd.DataFrame(first | columns | {"verdict": self.verdicts})


def transplant(
    model: nn.Module, x: Any, targets: Any, layer: str | Site, donors: nn.Module | Tensor, claims: Sequence[Any], *,
    mapping: str = "scale", forward: Callable[..., Any] | None = None, score: Callable[..., float] | None = None,
    tolerance: float = 0.01, n_random: int = 19, seed: int = 0,
) -> Transplants:  # fmt: skip
    """Certify or refute claims that units compute the same, by letting one do the other's work.

    A claim says that some units of the model's layer have twins among the donors. On half of the samples the donors'
    activations are mapped to the units' by least squares; on the other half they take the units' place, all units of
    the claim at once, and the rest of the network runs on. Beside it, with maps fitted alike: the units held at their
    means, random donors, and the donors whose activations correlate best.

    A claim is *certified* if it loses at most the tolerance where ablation loses more, and less than nearly all random
    draws (p ≤ 0.05); *refuted* if it loses more than the tolerance; *undecided* if nothing was at stake. Single units
    of a wide network are seldom at stake: claim many at once.

    Args:
        model: A trained network that treats every sample by itself; left as it was.
        x: One batch of what it is asked with, as in `unit_gradients`.
        targets: Class of each sample, [n], or of each sample and task, [n, t] (outputs are then those of one task after
            the other); or whatever ``score`` takes, [n, ...].
        layer: Where the units are: a name, or a `Site` without ``mean``.
        donors: Activations at the same samples (or at inputs that a symmetry relates to them), [n, b]; or a network,
            which is then read at the same layer and samples.
        claims: Pairs of units and donors, each an index or a list of them.
        mapping: "scale": the i-th unit is a·(i-th donor) + c. "linear": all units of the claim are a linear map of all
            its donors, plus a constant: for sets that span the same subspace.
        forward: How the model is called with a batch; ``None`` for as usual.
        score: Of outputs and targets, greater is better; ``None`` for accuracy.
        tolerance: Greatest loss that a certified claim may have, in units of the score.
        n_random: Random draws of donors for each claim, at least 19 (with fewer, no p reaches 0.05).
        seed: Of the halves and the draws.

    Returns:
        Losses of every claim and of its controls, with verdicts.

    Raises:
        ValueError: If samples, targets and donors do not pair up, there are fewer than 8 samples, an index is out of
            range, "scale" has another number of donors than of units, or outputs or scores are not finite.
        TypeError: If an argument has the wrong type.

    Example:
        A permuted and rescaled copy has twins throughout, a fresh network has none:

        >>> import torch, gradembed as ge
        >>> x = torch.randn(400, 4, generator=torch.Generator().manual_seed(0))
        >>> network, order = ge.MLP([4, 8, 3], seed=0), torch.randperm(8)
        >>> acts = ge.unit_gradients(network, x, "hidden1").activations[:, order] * 3
        >>> everything = [(range(8), order.argsort())]
        >>> y = network(x).argmax(1)
        >>> ge.transplant(network, x, y, "hidden1", acts, everything).verdicts
        ('certified',)
        >>> ge.transplant(network, x, y, "hidden1", ge.MLP([4, 8, 3], seed=1), everything).verdicts
        ('refuted',)
    """
    check_module(model)
    check_choice("mapping", mapping, ("scale", "linear"))
    for name, function in (("forward", forward), ("score", score)):
        if function is not None and not callable(function):
            refuse(name, "be a function", describe(function), "Pass one, or None", TypeError)
    tolerance, seed = float(as_number("tolerance", tolerance, 0)), as_integer("seed", seed, 0)
    n_random = as_integer("n_random", n_random, 19)
    check_parameters(model)
    check_per_sample(model)
    batch = read_batch(x, "x", next((p.dtype for p in model.parameters() if p.is_floating_point()), None))
    check_fits(model, batch, "x")
    if (n := size_of(batch)) < 8:
        refuse("x", "hold 8 samples or more", n, "Half of them are fitted on; pass more")
    y = as_tensor("targets", targets, "n ...", kind="any", n=n)
    if score is None and (y.is_floating_point() or y.dtype == torch.bool or y.ndim > 2):
        refuse("targets", "be classes, [n] or [n, t]", describe(y), "Pass integers, or a `score` for other targets")
    ask = forward or call
    half = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    fitted, tested = half[: n // 2].sort()[0], half[n // 2 :].sort()[0]
    with torch.no_grad(), _context.preserved(model):
        own = _read(model, batch, layer, ask, "x")
        given = _read(donors, batch, layer, call, "donors") if isinstance(donors, nn.Module) else None
        given = as_tensor("donors", donors, "n b", kind="any", n=n) if given is None else given
        if len(given) != n:
            refuse("donors", f"be read at the {n} samples", describe(given), "Pass one row per sample")
        listed = [_claim(claim, mapping, own.shape[1], given.shape[1]) for claim in as_list("claims", claims, PAIRS)]
        measure = score or partial(_accuracy, lowest=int(y.min()), highest=int(y.max()))
        runs = _Runs(model, chosen(batch, tested.tolist()), layer, y[tested.to(y.device)], ask, measure)
        fit = _Fit(own, given.to(own.device).double(), fitted, tested, mapping)
        before, rng = runs.score(fit.own), np.random.default_rng(seed)
        losses, explained = [], []
        for units, others in listed:
            k, b = len(others), given.shape[1]
            draws = [rng.choice(b, k, replace=k > b).tolist() for _ in range(n_random)]
            tried = [fit(units, these) for these in (others, fit.best(units, k), [], *draws)]
            losses.append([before - runs.score(activations) for activations, _ in tried])
            explained.append([r2 for _, r2 in tried[:2]])
    loss, matched, ablation, *random = torch.tensor(losses, dtype=torch.float64).T
    r2, matched_r2 = torch.tensor(explained, dtype=torch.float64).T
    random_losses = torch.stack(random, 1)
    return Transplants(before, loss, ablation, random_losses, matched, r2, matched_r2, tuple(listed), tolerance)


PAIRS = "a list of pairs (units, donors)"


def _claim(claim: Any, mapping: str, d: int, b: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return units and donors of one claim, each a list without repeats among the units."""
    if not isinstance(claim, Tensor | np.ndarray | list | tuple) or len(claim) != 2:
        refuse("claims", f"be {PAIRS}", describe(claim), "Pass [([0, 1], [5, 2]), ...]", TypeError)
    both = []
    for part, size, what in zip(claim, (d, b), ("units of the layer", "donors"), strict=True):
        is_one = not isinstance(part, Sequence | Tensor | np.ndarray) or getattr(part, "ndim", 1) == 0
        both.append(as_positions("claims", [part] if is_one else part, size, what))
    units, others = both
    if len(set(units)) < len(units):
        refuse("claims", "name each unit once", units, "Drop the repeats")
    if mapping == "scale" and len(units) != len(others):
        got = f"{len(others)} for {len(units)} units"
        refuse("claims", "give one donor for each unit", got, "Pair them up, or use mapping='linear'")
    return tuple(units), tuple(others)


def _read(model: nn.Module, batch: Batch, layer: str | Site, ask: Callable[..., Any], name: str) -> Tensor:
    """Return what stands at a layer, [n, d]."""
    seen: list[Tensor] = []
    with changed_at(model, layer, lambda flat, _: seen.append(flat) or flat):  # type: ignore[func-returns-value]
        ask(model, batch)
    if len(seen) > 1:
        refuse("layer", "run once in a forward pass", f"{len(seen)} runs", "Say which: gradembed.Site(name, call=0)")
    if not is_finite(seen[0]):
        refuse(name, "give finite activations", "NaN or an overflow", "Scale the samples, or use float64")
    return seen[0]


class _Fit:
    """Least-squares maps from donors to units, all from the covariances over the fitted samples."""

    def __init__(self, own: Tensor, given: Tensor, fitted: Tensor, tested: Tensor, mapping: str) -> None:
        self.own, self.mapping = own[tested], mapping
        own = own.double()
        self.mean = own[fitted].mean(0)
        a, d = own[fitted] - self.mean, given[fitted] - given[fitted].mean(0)
        self.given = given[tested] - given[fitted].mean(0)
        self.cross, self.inner = d.T @ a, d.T @ d  # [b, d], [b, b]
        self.power, variance = _variation(d, given[fitted]), _variation(a, own[fitted])
        scale = self.power[:, None] * variance
        self.shared = torch.where(scale > 0, self.cross.square() / torch.where(scale > 0, scale, 1), 0)  # r², [b, d]

    def best(self, units: Sequence[int], k: int) -> list[int]:
        """Return the donors that correlate best: one for each unit, or for a linear map the k with the most r²."""
        r2 = self.shared[:, list(units)]
        found = r2.argmax(0) if self.mapping == "scale" else r2.sum(1).argsort(descending=True, stable=True)[:k]
        return [int(i) for i in found]

    def __call__(self, units: Sequence[int], donors: Sequence[int]) -> tuple[Tensor, float]:
        """Replace units by a map of donors (none: by their means), [n, d]; and give R² on the tested samples."""
        u, d = list(units), list(donors)
        cross = self.cross[d][:, u]
        if self.mapping == "scale" and d:
            power, products = self.power[d], cross.diagonal()
            explained = self.given[:, d] * torch.where(power > 0, products / torch.where(power > 0, power, 1), 0)
        else:  # the pseudoinverse drops directions that are rounding
            inverse = torch.linalg.pinv(self.inner[d][:, d], hermitian=True, rtol=ROUNDING**2)
            explained = self.given[:, d] @ (inverse @ cross)
        there = self.own[:, u].double() - self.mean[u]
        error, total = (explained - there).square().sum(), there.square().sum()
        changed = self.own.clone()
        changed[:, u] = (explained + self.mean[u]).to(changed)
        return changed, float(1 - error / total) if total > 0 else float(error == 0)


def _variation(centered: Tensor, values: Tensor) -> Tensor:
    """Return sums of squares of columns, [d], exactly 0 where they are rounding."""
    squares = centered.square().sum(0)
    return torch.where(squares > ROUNDING**2 * values.square().sum(0), squares, 0)


class _Runs:
    """The network from the layer on, and its score."""

    def __init__(
        self, model: nn.Module, batch: Batch, layer: str | Site, y: Tensor, ask: Callable[..., Any],
        measure: Callable[..., Any],
    ) -> None:  # fmt: skip
        self.model, self.batch, self.layer, self.y, self.ask = model, batch, layer, y, ask
        self.measure, self.tail = measure, None
        names = ["input", *(name for name, _ in model.named_children())]
        if type(model) is MLP and ask is call and layer in names and not any(m._forward_hooks for m in model.modules()):
            self.tail = nn.Sequential(*list(model.children())[names.index(str(layer)) :])

    def score(self, activations: Tensor) -> float:
        """Run on with other activations, [n, d], and compare with the targets."""
        if self.tail is not None:
            outputs = self.tail(activations)
        else:
            with ablated(self.model, self.layer, range(activations.shape[1]), at=activations):
                outputs = self.ask(self.model, self.batch)
            outputs = getattr(outputs, "logits", outputs)
        if not isinstance(outputs, Tensor) or len(outputs) != len(self.y):
            remedy = "Pick one by forward=lambda model, batch: model(batch)[...]"
            refuse("model", "return one tensor with a row per sample", describe(outputs), remedy)
        if not is_finite(outputs):
            refuse("x", "give finite outputs", "NaN or an overflow", "Scale the samples, or use float64")
        value = self.measure(outputs, self.y)
        if np.ndim(value) or not isinstance(value, int | float | np.number | Tensor) or not np.isfinite(float(value)):
            refuse("score", "give a finite number", describe(value), "Correct the function")
        return float(value)


def _accuracy(outputs: Tensor, y: Tensor, lowest: int, highest: int) -> float:
    """Share of right answers, over samples and tasks."""
    n_tasks, n_outputs = y[0].numel(), outputs[0].numel()
    if n_outputs % n_tasks or highest >= n_outputs // n_tasks or lowest < 0:
        got = f"classes {lowest} to {highest} of {n_tasks} task{'s' * (n_tasks > 1)}"
        refuse("targets", f"be classes of the {n_outputs} outputs", got, "Pass the targets of this model")
    right = outputs.reshape(len(y) * n_tasks, -1).argmax(1) == y.reshape(-1).to(outputs.device)
    return float(right.double().mean())
