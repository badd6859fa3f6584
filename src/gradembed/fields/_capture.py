"""Gradient fields of the units of a network, or of all networks of an ensemble."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from gradembed import _validation
from gradembed.fields._fields import GradientFields
from gradembed.fields._stack import Captured, Linear, Step, capture
from gradembed.gradients import Chain, Session, check_layers, resolve_units
from gradembed.models import MLP, MLPEnsemble, StackedLinear


def gradient_fields(
    model: nn.Module,
    points: Tensor,
    *,
    wrt: str = "input",
    unit_layer: str = "output",
    units: Sequence[int] | None = None,
    directions: Tensor | None = None,
    labels: Tensor | None = None,
) -> GradientFields:
    """Take the gradient fields of units of a network, or of every network of an ensemble in one pass.

    The points of the fields are the activations of the layer ``wrt`` at the inputs ``points``. Units of one network
    share them; those of an ensemble do with ``wrt="input"`` and inputs for all, and else have their own. An
    ensemble's networks go through batched matrix products, in groups that a processor's cache can hold.

    For chains of linear layers and piecewise-linear activations ``regions`` are known exactly: points at which
    all units that the gradient passes through are on the same piece.

    Args:
        model: A trained network that treats every sample by itself, or an `MLPEnsemble`. Left as it was.
        points: Inputs of the network, [m, d] for all networks, or [e, m, d] for each member of an ensemble its own.
        wrt: "input", or the name of a layer: its activations are what the fields live on.
        unit_layer: The layer that the units belong to; "output" is what the model returns.
        units: Indices in the unit layer; ``None`` for all.
        directions: Instead of ``units``: directions in the unit layer, [u, D], or [e, u, D] for each member its own.
        labels: What the units are: [u], the same in every network, or [e·u]. ``None`` takes those of the ensemble,
            each for all units of its member.

    Returns:
        Fields of u units; for an ensemble of e·u units, member by member, with the member's number as ``groups``.

    Raises:
        ValueError: As `unit_gradients`; if points, directions or labels have the wrong shape.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> ge.gradient_fields(ge.MLPEnsemble([4, 8, 3], n_members=5, seed=0), torch.randn(100, 4))
        GradientFields(15 units at 100 shared points of 4 dimensions, with values, groups, regions)
        >>> ge.gradient_fields(ge.MLP([4, 8, 8, 1], torch.nn.Tanh, seed=0), torch.randn(100, 4), wrt="hidden1")
        GradientFields(1 unit at 100 shared points of 8 dimensions, with values, groups)
    """
    for name, value in (("wrt", wrt), ("unit_layer", unit_layer)):
        if not isinstance(value, str):
            _validation.refuse(
                name, "be one layer's name", _validation.describe(value), "Call once per layer", TypeError
            )
    _validation.check_module(model)
    _validation.check_samples(points, "points")
    _validation.check_placement(model, points, "points")
    points = points.detach()
    if isinstance(model, MLPEnsemble):
        captured = _of_ensemble(model, points, wrt, unit_layer, units, directions)
        is_shared = wrt == "input" and points.ndim == 2
    else:
        captured = _of_network(model, points, wrt, unit_layer, units, directions)
        is_shared = True
    for what, where in (("gradients", wrt), ("activations", wrt), ("values", unit_layer)):
        _validation.check_finite_result(what, getattr(captured, what), where, "points")
    e, u = captured.values.shape[:2]
    own = captured.activations
    return GradientFields(
        points=own[0].clone() if is_shared else own[:, None].expand(-1, u, -1, -1).flatten(0, 1),
        gradients=captured.gradients.flatten(0, 1),
        values=captured.values.flatten(0, 1),
        labels=_labels(labels, model.labels if isinstance(model, MLPEnsemble) else None, e, u, own.device),
        groups=torch.arange(e, device=own.device).repeat_interleave(u),
        regions=None if captured.regions is None else captured.regions.flatten(0, 1),
    )


def _of_network(
    model: nn.Module,
    points: Tensor,
    wrt: str,
    unit_layer: str,
    units: Sequence[int] | None,
    directions: Tensor | None,
) -> Captured:
    """Capture one network: a chain as an ensemble of one, every other by the general path.

    Returns:
        With e = 1.
    """
    if isinstance(model, MLP) and points.shape[1:] != model.widths[:1]:  # an axis more is meant for an ensemble
        rule = f"have shape [m, {model.widths[0]}]"
        _validation.refuse("points", rule, _validation.describe(points), "Match them to the network")
    with Session.open(model, points, [wrt], unit_layer, units, directions, "wrt", "points") as session:
        network = session.network
        if isinstance(network, Chain):
            steps: list[Step] = [
                Linear.of(step.weight, step.bias) if isinstance(step, nn.Linear) else step
                for step in network.steps[: network.positions[unit_layer]]
            ]
            return capture(steps, network.positions[wrt], session.x.flatten(1)[None], session.readout[None])
        parts = [(part.gradients[wrt].dense(), part.activations[wrt], part.values) for part in session.captures(None)]
        gradients, activations, values = (torch.cat(part) for part in zip(*parts, strict=True))
    return Captured(gradients.transpose(0, 1).contiguous()[None], activations[None], values.T.contiguous()[None], None)


def _of_ensemble(
    ensemble: MLPEnsemble,
    points: Tensor,
    wrt: str,
    unit_layer: str,
    units: Sequence[int] | None,
    directions: Tensor | None,
) -> Captured:
    """Check what is asked of an ensemble, and capture it.

    Returns:
        With e members.
    """
    _validation.check_parameters(ensemble)
    e, d = len(ensemble), ensemble.widths[0]
    if points.shape[-1] != d or points.ndim > 3 or (points.ndim == 3 and len(points) != e):
        rule = f"have shape [m, {d}] for all members, or [{e}, m, {d}]"
        _validation.refuse("points", rule, _validation.describe(points), "Match them to the ensemble")
    steps, positions = _steps(ensemble)
    check_layers([wrt], unit_layer, "wrt", list(positions), lambda layer, below: positions[layer] > positions[below])
    top, bottom = positions[unit_layer], positions[wrt]
    width = [d, *(step.weight.shape[1] for step in steps[:top] if isinstance(step, Linear))][-1]
    readout = _readout(e, width, unit_layer, units, directions).to(points)
    return capture(steps[:top], bottom, points.expand(e, -1, -1), readout)


def _steps(ensemble: MLPEnsemble) -> tuple[list[Step], dict[str, int]]:
    """Read an ensemble as a chain.

    Returns:
        Its steps, and for each layer name the number of steps before that layer's activations.
    """
    steps: list[Step] = []
    positions = {"input": 0}
    for name, module in ensemble.named_modules():
        if isinstance(module, StackedLinear):
            steps.append(Linear.of(module.weight, module.bias))
        elif name and not isinstance(module, nn.Sequential):
            steps.append(module)
        else:
            continue
        positions[name] = len(steps)
        positions[name.split(".")[0]] = len(steps)
    return steps, positions


def _readout(e: int, width: int, unit_layer: str, units: Sequence[int] | None, directions: Tensor | None) -> Tensor:
    """Turn units or directions into how each member's are read.

    Returns:
        [e, u, width].
    """
    if not (isinstance(directions, Tensor) and directions.ndim == 3):
        return resolve_units(width, unit_layer, units, directions)[0].expand(e, -1, -1)
    if len(directions) != e:
        rule = f"have shape [u, {width}], or [{e}, u, {width}]"
        _validation.refuse("directions", rule, _validation.describe(directions), "Match them to the ensemble")
    resolve_units(width, unit_layer, units, directions.flatten(0, 1))
    return directions.detach()


def _labels(given: Tensor | None, own: Tensor | None, e: int, u: int, device: torch.device) -> Tensor | None:
    """Give every unit its label.

    Returns:
        [e·u], or ``None``.
    """
    if given is None:
        return None if own is None else own.repeat_interleave(u).to(device)
    if isinstance(given, Tensor):
        _validation.check_dense("labels", given)
    if not isinstance(given, Tensor) or given.ndim != 1 or len(given) not in (u, e * u):
        rule = f"be a tensor of shape [{u}] or [{e * u}]" if e > 1 else f"be a tensor of shape [{u}]"
        error = ValueError if isinstance(given, Tensor) else TypeError
        _validation.refuse("labels", rule, _validation.describe(given), "Give one to each unit", error)
    if given.dtype != torch.int64:
        _validation.refuse("labels", "be int64", given.dtype, "Convert it with labels.long()")
    return (given if len(given) == e * u else given.repeat(e)).to(device)
