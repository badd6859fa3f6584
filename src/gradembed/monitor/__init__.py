"""Interference while a network trains, at saved weights, and what it says about where tasks should part."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from torch import nn

from gradembed._validation import as_integer, describe, refuse
from gradembed.gradients import Site
from gradembed.monitor._course import TrainingCourse, training_course
from gradembed.monitor._probe import MEASURES, Moment, Probe
from gradembed.monitor._split import SplitRecommendation, recommend_split

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["InterferenceMonitor", "SplitRecommendation", "TrainingCourse", "recommend_split", "training_course"]

MOST_LOGGED = 12  # pairs of tasks; of more, only the means are logged


class InterferenceMonitor:
    """Measures, every so many steps of training, how tasks interfere at each layer for a fixed batch.

    Called after each step of the optimizer, as ``monitor.step()`` or ``monitor()``. The training does not notice:
    weights, ``.grad``, optimizer, modes, buffers and all random numbers stay as they are without it. The model is
    measured in eval mode. What is wrong with the arguments is refused at once; later, what fails (weights that are no
    longer finite, a logger that raises) costs one warning, and training and measuring go on.

    Args:
        model: A network, before or in training, that in eval mode treats every sample by itself.
        probe: One batch that the model, or ``forward``, takes, with at least two samples. 64 to 256 that the training
            does not see are usual; cost and precision grow with their number. A copy is kept.
        every: Steps from one measurement to the next.
        on: What is compared. "outputs": what the model, or ``forward``, returns. "losses": ``forward`` returns each
            task's loss at every sample, a mapping of tasks to [n], or [n, t]; the usual measure in parameter space, the
            cosine of the gradients of the mean losses on shared parameters (Yu et al. 2020, Gradient surgery for
            multi-task learning), is then taken too.
        forward: Called with model and batch; ``None`` calls the model. Of several heads each is a task, and a pair of
            tasks is the mean over their pairs of units; of one head, each unit is a task.
        layers: Where to compare, as in `interference`; ``None`` for the layers that feed all tasks.
        units: Which units of ``forward``'s; ``None`` for all.
        centered: Whether units are read less the mean of their head, as in `interference`.
        n_readouts: Random read-outs behind the level of chance, as in `interference`; 0 for none.
        reference: The layer that they read; ``None`` for the one that the units are read from, and for losses for the
            topmost of those compared.
        seed: Of the read-outs, which are the same throughout.
        log: Called after each measurement with a mapping: "step", and by "interference/<layer>/<measure>" means over
            pairs and the level of chance. Of up to 12 pairs, "interference/<layer>/<measure>/<first>-<second>" too.

    Raises:
        ValueError: As `interference`; if ``probe`` is no single batch, or there are fewer than two tasks.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> network, x, y = ge.MLP([4, 8, 3], seed=0), torch.randn(96, 4), torch.randint(3, (96,))
        >>> optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
        >>> with ge.InterferenceMonitor(network, x[64:], every=2) as monitor:
        ...     for _ in range(6):
        ...         optimizer.zero_grad()
        ...         torch.nn.functional.cross_entropy(network(x[:64]), y[:64]).backward()
        ...         _ = optimizer.step()
        ...         monitor.step()
        >>> monitor.course
        TrainingCourse(3 pairs of tasks at ['input', 'hidden1'], 4 steps from 0 to 6)

        Values to TensorBoard:

        >>> def log(values):  # writer = torch.utils.tensorboard.SummaryWriter()
        ...     for name, value in values.items():
        ...         writer.add_scalar(name, value, values["step"])
    """

    def __init__(
        self, model: nn.Module, probe: Any, *, every: int = 50, on: str = "outputs",
        forward: Callable[..., Any] | None = None, layers: str | Site | Sequence[str | Site] | None = None,
        units: Sequence[int | str] | None = None, centered: bool = False, n_readouts: int = 16,
        reference: str | Site | None = None, seed: int = 0, log: Callable[[Mapping[str, float]], Any] | None = None,
    ) -> None:  # fmt: skip
        if log is not None and not callable(log):
            refuse("log", "be a function of a mapping", describe(log), "Pass one, say print", TypeError)
        self.every, self.log = as_integer("every", every, 1), log
        drawn: dict[str, Any] = {"n_readouts": n_readouts, "reference": reference, "seed": seed}
        drawn |= {"on": on, "forward": forward, "layers": layers, "units": units, "centered": centered}
        self._probe = Probe(model, probe, **drawn)
        self._probe.measure()  # whatever is refused is refused here
        self._moments: dict[int, Moment] = {}
        self._step, self._warned = 0, set[str]()

    def __call__(self, step: int | None = None) -> None:
        """Count a step of training, and measure if it is one of every so many.

        Args:
            step: Its number, where the caller counts; ``None`` for one more than the last.

        Raises:
            ValueError: If it is negative.
            TypeError: If it is no integer.
        """
        self._step = self._step + 1 if step is None else as_integer("step", step, 0)
        if self._step % self.every == 0:
            self._measure()

    step = __call__

    def __enter__(self) -> Self:
        self._measure()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        if kind is None:
            self._measure()

    @property
    def course(self) -> TrainingCourse:
        """What was measured so far."""
        return TrainingCourse.of(self._probe, self._moments)

    def to_frame(self) -> pd.DataFrame:
        """What was measured so far, one row per step, layer and pair of tasks: see `TrainingCourse.to_frame`."""
        return self.course.to_frame()

    def _measure(self) -> None:
        """Measure at this step, unless that was done, and log."""
        if self._step in self._moments:
            return
        try:
            self._moments[self._step] = self._probe.measure()
        except Exception as error:
            self._warn("interference could not be measured", error)
        else:
            try:
                if self.log is not None:
                    self.log(self._values())
            except Exception as error:
                self._warn("the logger failed", error)

    def _values(self) -> dict[str, float]:
        """What is logged of the last measurement."""
        moment, values = self._moments[self._step], {"step": float(self._step)}
        for i, layer in enumerate(self._probe.layers):
            there = moment.count[i] > 0
            for name, row in zip(MEASURES, moment.means[:, i], strict=True):
                key = f"interference/{layer}/{name}"
                values[key] = float(row[there].mean()) if bool(there.any()) else 0.0
                if len(row) <= MOST_LOGGED:
                    pairs = zip(self._probe.pairs, row.tolist(), there.tolist(), strict=True)
                    values |= {f"{key}/{'-'.join(pair)}": value for pair, value, is_there in pairs if is_there}
            if moment.chance is not None:
                values[f"interference/{layer}/chance"] = float(moment.chance[i])
        if moment.parameter_cosine is not None and len(self._probe.pairs) <= MOST_LOGGED:
            both = zip(self._probe.pairs, moment.parameter_cosine.tolist(), strict=True)
            values |= {f"interference/parameters/cosine/{'-'.join(pair)}": value for pair, value in both}
        return values

    def _warn(self, what: str, error: Exception) -> None:
        """Say once that something failed."""
        if what not in self._warned:
            self._warned.add(what)
            words = f"{what} at step {self._step}, and training goes on: {type(error).__name__}: {error}"
            warnings.warn(words, stacklevel=4)
