"""Interference in the course of training: over saved weights, or as a monitor has seen it."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float64, Int64
from safetensors.torch import load_file
from torch import Tensor, nn

from gradembed._validation import as_integer, check_module, describe, refuse
from gradembed.gradients import Site
from gradembed.monitor._probe import MEASURES, Moment, Pairs, Probe

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False, eq=False)
class TrainingCourse:
    """How tasks interfere at l layers, for p pairs of tasks, at s steps of training.

    Attributes:
        steps: When, [s].
        layers: Where, from the lowest one up.
        pairs: Of tasks: heads of the model, or units of its one head.
        cosine: Mean over the probe's samples, and over the pairs of units of two heads, [s, l, p].
        abs_cosine: Mean |cosine|, [s, l, p].
        conflict: Share of samples with a cosine below 0, [s, l, p]; 0.5 is chance for gradients of either sign.
        errors: Standard errors of the three over the probe's samples, in that order, [3, s, l, p].
        count: Samples at which both gradients exist, [s, l, p]; where there are none, the means are 0.
        chance: Mean |cosine| of two random read-outs carried down through the network as it was then, [s, l], as in
            `Interference`; ``None`` without read-outs.
        parameter_cosine: Cosine of the gradients of two mean losses on the parameters that both reach, [s, p]; 0 where
            they share none. ``None`` unless losses are compared.

    Example:
        >>> import torch, gradembed as ge
        >>> network, later = ge.MLP([4, 8, 3], seed=0), ge.MLP([4, 8, 3], seed=1).state_dict()
        >>> course = ge.training_course(network, {0: network.state_dict(), 100: later}, torch.randn(50, 4))
        >>> course
        TrainingCourse(3 pairs of tasks at ['input', 'hidden1'], 2 steps from 0 to 100)
        >>> course.to_frame().columns.tolist()[:7]
        ['step', 'layer', 'first', 'second', 'cosine', 'abs_cosine', 'conflict']
    """

    steps: Int64[Tensor, " s"]
    layers: tuple[str, ...]
    pairs: Pairs
    cosine: Float64[Tensor, "s l p"]
    abs_cosine: Float64[Tensor, "s l p"]
    conflict: Float64[Tensor, "s l p"]
    errors: Float64[Tensor, "3 s l p"]
    count: Int64[Tensor, "s l p"]
    chance: Float64[Tensor, "s l"] | None
    parameter_cosine: Float64[Tensor, "s p"] | None

    @classmethod
    def of(cls, probe: Probe, moments: Mapping[int, Moment]) -> TrainingCourse:
        """Put together what a probe has said, by step."""
        seen, none = list(moments.values()), Moment.empty(len(probe.layers), len(probe.pairs))
        means, errors = (torch.stack([getattr(one, name) for one in seen or [none]], 1) for name in ("means", "errors"))
        count = torch.stack([one.count for one in seen or [none]])
        chance, cosines = ([getattr(one, name) for one in seen] for name in ("chance", "parameter_cosine"))
        s = len(seen)
        cosine, abs_cosine, conflict = means[:, :s]
        return cls(
            torch.tensor(list(moments), dtype=torch.long), probe.layers, probe.pairs,
            cosine, abs_cosine, conflict, errors[:, :s], count[:s],
            torch.stack(chance) if s and chance[0] is not None else None,
            torch.stack(cosines) if s and cosines[0] is not None else None,
        )  # fmt: skip

    def __repr__(self) -> str:
        when = f"{len(self.steps)} steps"
        when += f" from {int(self.steps[0])} to {int(self.steps[-1])}" if len(self.steps) else ""
        return f"TrainingCourse({len(self.pairs)} pairs of tasks at {list(self.layers)}, {when})"

    def to_frame(self) -> pd.DataFrame:
        """One row per step, layer and pair of tasks with gradients at any sample.

        Returns:
            Columns ``step``, ``layer``, ``first``, ``second``, ``cosine``, ``abs_cosine``, ``conflict``, their standard
            errors over samples (``cosine_error``, ...), ``count``; where they were asked for, ``chance`` (of
            |cosine|) and ``parameter_cosine`` (of the pair, at all layers the same).
        """
        import pandas as pd

        grid = torch.meshgrid(*map(torch.arange, self.cosine.shape), indexing="ij")
        step, layer, pair = (axis.flatten() for axis in grid)
        columns: dict[str, Any] = {"step": self.steps[step].numpy(), "layer": [self.layers[i] for i in layer]}
        columns |= {name: [self.pairs[i][k] for i in pair] for k, name in enumerate(("first", "second"))}
        columns |= {name: getattr(self, name).flatten().numpy() for name in MEASURES}
        columns |= {f"{name}_error": self.errors[i].flatten().numpy() for i, name in enumerate(MEASURES)}
        columns["count"] = self.count.flatten().numpy()
        if self.chance is not None:
            columns["chance"] = self.chance[step, layer].numpy()
        if self.parameter_cosine is not None:
            columns["parameter_cosine"] = self.parameter_cosine[step, pair].numpy()
        table = pd.DataFrame(columns)
        return table[table["count"] > 0].reset_index(drop=True)


def training_course(
    model: nn.Module, checkpoints: Mapping[int, Any] | Iterable[Any], probe: Any, *, on: str = "outputs",
    forward: Callable[..., Any] | None = None, layers: str | Site | Sequence[str | Site] | None = None,
    units: Sequence[int | str] | None = None, centered: bool = False, n_readouts: int = 16,
    reference: str | Site | None = None, seed: int = 0,
) -> TrainingCourse:  # fmt: skip
    """Measure interference at saved weights, as `InterferenceMonitor` does while they are learned.

    Args:
        model: The network that they are weights of. Left as it was: they are loaded into a copy.
        checkpoints: Step → weights, or weights one after the other, whose steps are then 0, 1, ...: state dicts, or
            paths of files that hold one (``.safetensors``, or of ``torch.save``), also under the key "state_dict".
        probe: One batch, as in `InterferenceMonitor`, as are all further arguments.
        on: "outputs" or "losses".
        forward: How the model is called with the batch.
        layers: Where to compare.
        units: Which of them; ``None`` for all.
        centered: Whether units are read less the mean of their head.
        n_readouts: Random read-outs behind the level of chance; 0 for none.
        reference: The layer that they read.
        seed: Of the read-outs, which are the same at all steps.

    Returns:
        The course.

    Raises:
        ValueError: As `interference`; if there are no weights, they do not fit the model, or ``forward`` does not call
            the model that it is given.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> network = ge.MLP([4, 8, 3], seed=0)
        >>> saved = {0: network.state_dict(), 500: ge.MLP([4, 8, 3], seed=1).state_dict()}
        >>> len(ge.training_course(network, saved, torch.randn(50, 4)).to_frame())  # 2 steps, 2 layers, 3 pairs
        12
    """
    check_module(model)
    if isinstance(checkpoints, str | bytes | os.PathLike | Tensor) or not isinstance(checkpoints, Iterable):
        rule = "map steps to state dicts or paths, or list them"
        refuse("checkpoints", rule, describe(checkpoints), "Pass {0: state_dict, ...}", TypeError)
    network, moments, asked = copy.deepcopy(model), dict[int, Moment](), None
    first: dict[str, Any] = {}
    for key, saved in checkpoints.items() if isinstance(checkpoints, Mapping) else enumerate(checkpoints):
        step = as_integer("checkpoints", key, 0)
        state = _state(saved)
        try:
            network.load_state_dict(state)
        except (RuntimeError, TypeError, AttributeError) as error:
            got = f"another at step {step}: {' '.join(str(error).split())[:200]}"
            refuse("checkpoints", "be state dicts of the model", got, "Pass the model that was trained")
        if asked is None:
            drawn: dict[str, Any] = {"n_readouts": n_readouts, "reference": reference, "seed": seed}
            drawn |= {"on": on, "forward": forward, "layers": layers, "units": units, "centered": centered}
            asked, first = Probe(network, probe, **drawn), copy.deepcopy(network.state_dict())
        moments[step] = asked.measure()
    if asked is None:
        refuse("checkpoints", "hold at least one", "none", "Save some: copy.deepcopy(model.state_dict())")
    moved = any(not torch.equal(value, first[name]) for name, value in network.named_parameters())
    if forward is not None and moved and torch.equal(next(iter(moments.values())).means, moments[step].means):
        got, remedy = "one that gives the same with other weights", "Write it as lambda model, batch: model(...)"
        refuse("forward", "call the model that it is given", got, remedy)
    return TrainingCourse.of(asked, moments)


def _state(saved: Any) -> Any:
    """Read a state dict, from a file if need be."""
    if isinstance(saved, str | os.PathLike):
        path = Path(saved)
        if not path.exists():
            refuse("checkpoints", "name files that exist", repr(path.name), "Correct the path")
        saved = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    inner = saved.get("state_dict") if isinstance(saved, Mapping) else None
    return inner if isinstance(inner, Mapping) else saved
