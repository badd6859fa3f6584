"""Which hidden units serve which task, from gradients; and what is lost when units are taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from gradembed._validation import (
    as_integer,
    as_list,
    as_number,
    as_positions,
    as_tensor,
    check_finite_result,
    check_module,
    describe,
    refuse,
)
from gradembed.gradients import Session, Site
from gradembed.gradients.sites import find_sites, read_element, replace_element
from gradembed.gradients.tape import changed_arguments
from gradembed.models import MLPEnsemble

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False, eq=False)
class TaskModules:
    """A layer's units and the units that read them, sorted into modules that have little to do with each other.

    Modules are numbered by their first output. A unit that moves no output, and an output that no unit moves, is in
    none: -1.

    Attributes:
        effects: By how many of its standard deviations an output moves when a unit moves by one of its own, to first
            order: sqrt(E[g²]) · std(unit) / std(output), [u, d].
        output_modules: The module of each output, [u].
        unit_modules: The module of each unit of the layer, [d]: that whose outputs it moves most.
        selectivity: The part of a unit's mean squared effect that falls to its own module, [d]: 1 / n_modules for a
            unit that serves all alike, 1 for one that serves its own alone; 0 for a unit in none.
        layer: The layer.
        unit_layer: The layer of the outputs.
        unit_labels: One per output.

    Example:
        >>> import torch, gradembed as ge
        >>> network, x = ge.MLP([4, 8, 4], seed=0), torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * 4)
        >>> ge.task_modules(network, x, "hidden1")
        TaskModules(2 modules of 'hidden1': 3 and 5 of 8 units, mean selectivity 0.77)
    """

    effects: Float[Tensor, "u d"]
    output_modules: Int64[Tensor, " u"]
    unit_modules: Int64[Tensor, " d"]
    selectivity: Float[Tensor, " d"]
    layer: str
    unit_layer: str
    unit_labels: tuple[str, ...]

    @property
    def n_modules(self) -> int:
        """How many modules there are."""
        return int(self.output_modules.max()) + 1

    def __repr__(self) -> str:
        sizes = " and ".join(str(len(self.units(m))) for m in range(self.n_modules))
        served = self.selectivity[self.unit_modules >= 0]
        units = f"{self.n_modules} modules of {self.layer!r}: {sizes} of {len(self.unit_modules)} units"
        return f"TaskModules({units}, mean selectivity {float(served.mean()):.2f})"

    def units(self, module: int) -> list[int]:
        """The units of one module.

        Args:
            module: Its number.

        Returns:
            Their indices in the layer; pass them to `ablated`.

        Raises:
            ValueError: If there is no such module.
            TypeError: If ``module`` is no integer.
        """
        module = as_integer("module", module, 0, self.n_modules - 1)
        chosen: list[int] = torch.nonzero(self.unit_modules == module)[:, 0].tolist()
        return chosen

    def to_frame(self) -> pd.DataFrame:
        """A tidy table, one row per unit of the layer.

        Returns:
            Columns ``layer``, ``unit``, ``module``, ``selectivity``, ``effect`` (root of the summed squares).
        """
        import pandas as pd

        effect = torch.linalg.vector_norm(self.effects, dim=0)
        columns = {"module": self.unit_modules, "selectivity": self.selectivity, "effect": effect}
        first = {"layer": self.layer, "unit": range(len(effect))}
        return pd.DataFrame(first | {name: column.numpy() for name, column in columns.items()})


def task_modules(
    model: nn.Module, x: Any, layer: str | Site, *, forward: Callable[..., Any] | None = None, n_modules: int = 2,
    unit_layer: str | Site = "output", units: Sequence[int | str] | Tensor | None = None,
    directions: Tensor | None = None, chunk_size: int | None = None,
) -> TaskModules:  # fmt: skip
    """Find out which outputs belong together and which units of a layer serve them, without labels.

    The table of effects says how far each unit moves each output. Outputs whose rows are alike (cosine, average
    linkage) are moved by the same units and make a module; a unit then goes to the module that it moves most.

    Args:
        model: A trained network; left as it was.
        x: What it is asked with, as in `unit_gradients`.
        layer: Whose units are sorted, a name or `Site`.
        forward: How the model is called with a batch, as in `unit_gradients`.
        n_modules: How many modules to look for. The method finds as many as it is told to: whether they are real,
            selectivity, an untrained control and `ablated` must say.
        unit_layer: Where the outputs are.
        units: Their indices; ``None`` for all.
        directions: Or directions in that layer, [u, D].
        chunk_size: Samples at a time; ``None`` chooses by a memory budget.

    Returns:
        The modules.

    Raises:
        ValueError: As `unit_gradients`; if fewer outputs or units than modules have an effect.
        TypeError: If an argument has the wrong type.

    Example:
        Two networks side by side in one come apart:

        >>> import torch, gradembed as ge
        >>> network = ge.MLP([4, 6, 4], seed=0)
        >>> with torch.no_grad():
        ...     network.output.weight[:2, 3:] = 0
        ...     network.output.weight[2:, :3] = 0
        >>> ge.task_modules(network, torch.randn(50, 4), "hidden1").unit_modules.tolist()
        [0, 0, 0, 1, 1, 1]
    """
    n_modules = as_integer("n_modules", n_modules, 2)
    with Session.open(model, x, layer, unit_layer, units, directions, forward=forward, argument="layer") as session:
        effects = _effects(session, session.layers[0], chunk_size)
    outputs, inner = effects.sum(1) > 0, effects.sum(0) > 0
    if min(int(outputs.sum()), int(inner.sum())) < n_modules:
        got = f"{n_modules}, for {int(outputs.sum())} outputs and {int(inner.sum())} units with an effect"
        remedy = "Lower it, or pass samples that differ at more of them"
        refuse("n_modules", "be at most the number of outputs, and of units, with an effect", got, remedy)
    output_modules = torch.full((len(effects),), -1)
    output_modules[outputs] = _group(effects[outputs].numpy(), n_modules)
    shares = torch.stack([effects[output_modules == m].square().mean(0) for m in range(n_modules)])
    own, unit_modules = shares.max(0)
    unit_modules = torch.where(inner, unit_modules, -1)
    selectivity = torch.where(inner, own / torch.where(inner, shares.sum(0), 1), 0)
    where = session.layers[0], str(session.unit_site), session.unit_labels
    return TaskModules(effects, output_modules, unit_modules, selectivity, *where)


def _effects(session: Session, layer: str, chunk_size: int | None) -> Tensor:
    """Root mean square gradients times the units' spread, over the outputs' spread; 0 where an output is constant.

    Returns:
        [u, d], float64.
    """
    squares, moments = torch.zeros(()), []
    for capture in session.captures(chunk_size):
        gradients = capture.gradients[layer].dense()  # [u, n, d]
        check_finite_result("gradients", gradients, layer)
        squares = squares + gradients.double().square().sum(1).cpu()
        moments.append((capture.activations[layer].double().cpu().clone(), capture.values.T.double().cpu()))
    columns = [torch.cat(parts) for parts in zip(*moments, strict=True)]
    inner, outer = (_spread(column, session.kind) for column in columns)
    effects = (squares / len(columns[0])).sqrt() * inner
    effects = torch.where(outer > 0, effects.T / torch.where(outer > 0, outer, 1), 0).T.contiguous()
    check_finite_result("effects", effects, layer)
    return effects


def _spread(numbers: Tensor, dtype: torch.dtype) -> Tensor:
    """Standard deviations of columns, exactly 0 for those that are constant but for rounding in the model's precision.

    Returns:
        [d].
    """
    eps = torch.finfo(dtype).eps
    rounding = min(64 * eps, max(2 * eps, 1e-4)) * numbers.abs().amax(0)
    return torch.where(numbers.amax(0) - numbers.amin(0) > rounding, numbers.std(0, correction=0), 0)


def _group(effects: np.ndarray, n_modules: int) -> Tensor:
    """Return the group of each row, numbered in the order of their first row."""
    from sklearn.cluster import AgglomerativeClustering

    groups = AgglomerativeClustering(n_modules, metric="cosine", linkage="average").fit_predict(effects / effects.max())
    _, first, groups = np.unique(groups, return_index=True, return_inverse=True)
    return torch.from_numpy(first.argsort().argsort()[groups])


@contextmanager
def ablated(
    model: nn.Module, layer: str | Site, units: Sequence[int] | Tensor, at: float | Tensor = 0.0
) -> Iterator[nn.Module]:
    """Hold units of a layer at given numbers for the duration of a block: what is lost is what they did.

    Zero says what the network does without them; their mean over the data, what it does without their information; the
    numbers that another network's units have at the same samples, whether those could stand in for them (`transplant`).
    A module that runs several times is held every time.

    Args:
        model: A network that treats every sample by itself; its hooks are put back when the block ends.
        layer: "input", the name of a module, or a `Site` without ``mean``; with ``call`` only that run is held.
        units: Indices in what stands there, flattened.
        at: A number for all, one for each unit of the layer, [d] (say, ``activations.mean(0)``), or one for each sample
            and unit, [n, d].

    Yields:
        The model.

    Raises:
        ValueError: If the layer is unknown, or ``at`` is not finite; in the block, if a unit is out of range, or
            ``at`` does not fit; when the block ends, if the layer did not run in it.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> network, x = ge.MLP([4, 8, 3], seed=0), torch.randn(5, 4)
        >>> with ge.ablated(network, "hidden1", range(8)):
        ...     alike = torch.equal(network(x)[0], network(x)[1])
        >>> alike, torch.equal(network(x)[0], network(x)[1])
        (True, False)
    """
    check_module(model)
    indices = [as_integer("units", unit, 0) for unit in as_list("units", units, "a list of indices")]
    is_one = isinstance(at, int | float | np.number) or np.ndim(at) == 0
    held: float | Tensor = at
    if not (isinstance(at, Tensor) and at.requires_grad):  # a constant can be learned
        axes = "n d" if np.ndim(at) == 2 else "d"
        held = as_number("at", at, -3e38, 3e38) if is_one else as_tensor("at", at, axes, kind="any").double()

    def hold(flat: Tensor, where: str) -> Tensor:
        as_positions("units", indices, width := flat.shape[1], f"units of {where!r}")
        if isinstance(held, Tensor) and held.ndim and held.shape not in (flat.shape, flat.shape[1:]):
            rule = f"be a number, or have shape [{width}] or {list(flat.shape)}, one for each unit of {where!r}"
            refuse("at", rule, describe(held), "Pass activations.mean(0)")
        flat[:, indices] = held.to(flat).expand_as(flat)[:, indices] if isinstance(held, Tensor) else held
        return flat

    with changed_at(model, layer, hold):
        yield model


@contextmanager
def changed_at(model: nn.Module, layer: str | Site, change: Callable[[Tensor, str], Tensor]) -> Iterator[None]:
    """Hand on something else than what stands at a site for the duration of a block.

    Args:
        model: The network.
        layer: The site.
        change: Takes a copy of what stands there, flattened, [n, d], and the site's name; gives what is handed on.

    Yields:
        Nothing.
    """
    check_module(model)
    if isinstance(model, MLPEnsemble):
        refuse("model", "be one network", describe(model), "Take a member out by ensemble[i]")
    if hasattr(model, "_orig_mod"):
        refuse("model", "be the module before torch.compile", describe(model), "Pass model._orig_mod, and call that")
    modules = dict(model.named_modules(remove_duplicate=False))
    names = ["input", *(name for name in modules if name not in ("", "input"))]
    (site,) = find_sites("layer", layer, names, several=False)
    if site.mean is not None:
        refuse("layer", "name units, not their mean", repr(str(site)), "Leave out `mean`")
    holder = _Holder(site, change)
    module = model if site.name == "input" else modules[site.name]
    reset = model.register_forward_pre_hook(lambda *_: setattr(holder, "runs", 0))  # runs are those of one pass
    if site.name == "input" or site.input:
        handle = module.register_forward_pre_hook(holder.before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(holder.after)
    try:
        yield
    finally:
        handle.remove()
        reset.remove()
    if not holder.has_run:
        run = "did not run" if site.call is None else f"ran {holder.runs} times"
        got, remedy = f"{str(site)!r}, which {run}", "Call the model in the block, or choose another layer"
        refuse("layer", "name a layer that runs in the block", got, remedy)


@dataclass
class _Holder:
    """Hooks that change what stands at a site, and note that they did."""

    site: Site
    change: Callable[[Tensor, str], Tensor]
    runs: int = 0
    has_run: bool = False

    def before(self, module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        """Change what a module takes."""
        return changed_arguments(module, args, named, self.hold)

    def after(self, _module: nn.Module, _args: object, output: Any) -> Any:
        """Change what it returns."""
        return self.hold(output)

    def hold(self, holder: Any) -> Any:
        """Change what stands there in a copy."""
        self.runs += 1
        if self.site.call not in (None, self.runs - 1):
            return holder
        values, place = read_element(holder, self.site.element)
        if not isinstance(values, Tensor) or values.ndim < 1 or not values.is_floating_point():
            got = f"{str(self.site)!r}, which has {describe(holder)}"
            refuse("layer", "name a layer with one float tensor, a row per sample", got, "Choose another layer")
        changed, index = values.clone(), self.site.index or (slice(None),)
        flat = self.change(self.site.part(values).clone(), str(self.site))
        changed[index] = flat.reshape(changed[index].shape)
        self.has_run = True
        return replace_element(holder, place, changed)
