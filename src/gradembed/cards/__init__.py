"""One unit on one page: what it does, whom it disturbs, and who does the same elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from gradembed import _validation
from gradembed._validation import as_doubles
from gradembed.cards._neighbours import interferers_of, twins_of
from gradembed.cards._portrait import plane_of, spectrum_of
from gradembed.cards._result import UnitCard
from gradembed.fields import GradientFields
from gradembed.fields._fields import check_fields
from gradembed.metrics._uncertainty import Array, Labels

__all__ = ["UnitCard", "unit_card"]


def unit_card(
    fields: GradientFields,
    unit: int,
    z: Array,
    *,
    names: Sequence[str] | None = None,
    n_neighbours: int = 5,
    exclude: Labels | None = None,
    n_top: int = 8,
) -> UnitCard:
    """Describe one unit by its field, its interference inside its network and its twins in other networks.

    The field and its spectrum are in the coordinates and the units of the fields as given; pass normalised or
    transformed fields for others. Distances are Euclidean, of the embedding as given.

    Args:
        fields: Of all units, with values and groups.
        unit: Which one, from 0.
        z: Embeddings of all units, [u, k].
        names: One per unit; ``None`` writes "unit 12 of network 3", with the unit's position in the fields.
        n_neighbours: Interferers, and twins, to list: as many as there are, up to so many.
        exclude: A label per unit, [u]: units with the unit's own are no twins. With the task, twins come from
            another network *and* another task.
        n_top: Samples to list: as many as there are points, up to so many.

    Returns:
        The card. Interferers are known only for units that have the same points, shared or equal; where there are
        none, ``interferer_note`` says why.

    Raises:
        ValueError: If there is no such unit, the fields have no values or groups, ``z``, ``names`` or ``exclude`` do
            not fit the units, numbers are not finite or too small, or no unit is left that could be a twin.
        TypeError: If an argument has the wrong type.

    Example:
        >>> import torch, gradembed as ge
        >>> ensemble = ge.MLPEnsemble([4, 8, 3], n_members=5, seed=0)
        >>> fields = ge.gradient_fields(ensemble, torch.randn(5, 100, 4), wrt="hidden1")
        >>> z = torch.arange(15)[:, None] % 3
        >>> card = ge.unit_card(fields, 4, z, names=[f"{'abc'[i % 3]}{i // 3}" for i in range(15)], n_neighbours=2)
        >>> card.name, sorted(card.interferer_names), card.twin_names, card.distances.tolist()
        ('b1', ['a1', 'c1'], ('b0', 'b2'), [0.0, 0.0])
    """
    embedded = _check(fields, unit, z, n_neighbours, n_top)
    called = _names(names, fields)
    points, gradients = fields.own_points()[unit].double().cpu(), fields.gradients[unit].double().cpu()
    values = fields.values[unit].double().cpu()  # type: ignore[index]
    spectrum = spectrum_of(gradients)
    centred = points - points.mean(0)
    directions = plane_of(gradients, centred)
    interferers, cosines, note = interferers_of(fields, unit, n_neighbours)
    twins, distances, quantiles, typical = twins_of(fields, unit, embedded, exclude, n_neighbours)
    top = values.argsort(descending=True, stable=True)[:n_top]
    summary = {"mean": values.mean(), "std": values.std(correction=0), "min": values.min(), "max": values.max()}
    groups = fields.groups.cpu()  # type: ignore[union-attr]
    return UnitCard(
        unit=unit,
        name=called[unit],
        network=int(groups[unit]),
        dim=fields.dim,
        value_summary={key: float(value) for key, value in summary.items()},
        undefined=int((gradients == 0).all(1).sum()),
        spectrum=spectrum,
        effective_dimension=float(1 / spectrum.square().sum()) if bool(spectrum.any()) else 0.0,
        directions=directions,
        points=centred @ directions.T,
        gradients=gradients @ directions.T,
        values=values.clone(),
        interferers=interferers,
        interferer_names=tuple(called[i] for i in interferers.tolist()),
        cosines=cosines,
        interferer_distances=torch.from_numpy(np.linalg.norm(embedded[interferers.numpy()] - embedded[unit], axis=1)),
        interferer_note=note,
        twins=twins,
        twin_names=tuple(called[i] for i in twins.tolist()),
        twin_networks=groups[twins],
        distances=distances,
        twin_quantiles=quantiles,
        typical_distance=typical,
        top=top,
        top_values=values[top],
    )


def _check(fields: GradientFields, unit: int, z: object, n_neighbours: int, n_top: int) -> NDArray[np.float64]:
    """Refuse fields without what a card needs, a unit that is not there, and embeddings of other units.

    Returns:
        The embeddings.
    """
    check_fields("fields", fields)
    for name, purpose in (("values", "to rank its points by"), ("groups", "which say what network a unit is from")):
        if getattr(fields, name) is None:
            remedy = "Take them with gradient_fields, or add them with dataclasses.replace"
            _validation.refuse("fields", f"have {name}, {purpose}", "fields without", remedy)
    _validation.check_integer("unit", unit)
    if not 0 <= unit < len(fields):
        _validation.refuse("unit", f"lie between 0 and {len(fields) - 1}", unit, "Choose one of the fields' units")
    for name, number in (("n_neighbours", n_neighbours), ("n_top", n_top)):
        _validation.check_integer(name, number, 1)
    embedded = as_doubles("z", z)
    if len(embedded) != len(fields):
        _validation.refuse("z", f"embed each of {len(fields)} units", len(embedded), "Transform the same fields")
    return embedded


def _names(names: object, fields: GradientFields) -> list[str]:
    """Check names, or make them up.

    Returns:
        One per unit.
    """
    if names is None:
        return [f"unit {i} of network {int(group)}" for i, group in enumerate(fields.groups)]  # type: ignore[arg-type]
    given = _validation.check_sequence("names", names, "a list of strings")
    if not all(isinstance(name, str) for name in given):
        _validation.refuse(
            "names", "be a list of strings", _validation.describe(given), "Convert them with str", TypeError
        )
    if len(given) != len(fields):
        _validation.refuse("names", f"name each of {len(fields)} units", len(given), "Name them all")
    return given
