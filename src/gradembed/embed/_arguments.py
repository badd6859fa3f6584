"""Refusals of what cannot be embedded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradembed import _validation
from gradembed.embed._canonical import INVARIANCES
from gradembed.fields import GradientFields
from gradembed.fields._arguments import check_fraction

if TYPE_CHECKING:
    from gradembed.embed._arrays import RowEmbedder
    from gradembed.embed._embedder import GradientFieldEmbedder


def check_invariance(value: object) -> None:
    """Refuse unknown groups."""
    _validation.check_choice("invariance", value, INVARIANCES)


def check_seed(value: object) -> None:
    """Refuse what is no seed."""
    _validation.check_integer("random_state", value, 0)


def check_cloze(embedder: GradientFieldEmbedder | RowEmbedder) -> None:
    """Refuse settings of a cloze that are out of range."""
    for name in ("n_components", "max_steps", "width"):
        _validation.check_integer(name, getattr(embedder, name), 1)
    _validation.check_number("learning_rate", embedder.learning_rate, 0, open_low=True)
    check_fraction("mask_fraction", embedder.mask_fraction)


def check_settings(embedder: GradientFieldEmbedder) -> None:
    """Refuse settings that are out of range; what is masked is checked where it is drawn."""
    check_invariance(embedder.invariance)
    _validation.check_choice("encoder", embedder.encoder, ("auto", "flat", "set"))
    check_cloze(embedder)
    for name in ("n_features", "n_views"):
        _validation.check_integer(name, getattr(embedder, name), 2)
    check_seed(embedder.random_state)
    _validation.check_choice("mask_kind", embedder.mask_kind, ("points", "regions"))


def check_units(fields: object, least: int = 1) -> None:
    """Refuse what is no fields, or too few units or points."""
    if not isinstance(fields, GradientFields):
        remedy = "Take them with gradembed.gradient_fields"
        _validation.refuse("fields", "be gradembed.GradientFields", _validation.describe(fields), remedy, TypeError)
    if fields.n_points < 2:
        _validation.refuse("fields", "have at least two points of each unit", fields.n_points, "Take more points")
    if fields.n_units < least:
        _validation.refuse("fields", f"have at least {least} units", fields.n_units, "Concatenate more units")


def choose_encoder(encoder: str, invariance: str, fields: GradientFields) -> str:
    """Choose between the encoders, and refuse the flat one where positions or axes mean nothing.

    Returns:
        "flat" or "set".
    """
    if encoder == "flat" and invariance != "none":
        remedy = "Use encoder='set', or invariance='none' if the basis is shared"
        _validation.refuse("encoder", "be 'set' or 'auto' with an invariance", "'flat'", remedy)
    if encoder == "flat" and not fields.is_shared:
        remedy = "Use encoder='set', or take the fields at the same points"
        _validation.refuse("fields", "have shared points with encoder='flat'", "own points", remedy)
    if encoder == "auto":
        return "flat" if invariance == "none" and fields.is_shared else "set"
    return encoder


def shared_points(fields: GradientFields) -> Tensor:
    """Note the points that all units share.

    Returns:
        [m, d].
    """
    return fields.points.double().cpu()


def check_like_fit(fields: GradientFields, dim: int, has_values: bool, points: Tensor | None) -> None:
    """Refuse fields that are of another kind than those of the fit."""
    check_units(fields)
    if fields.dim != dim:
        _validation.refuse("fields", f"have {dim} dimensions, as in fit", fields.dim, "Fit again")
    if has_values != (fields.values is not None):
        got = "fields without" if has_values else "fields with values"
        rule = "have values, as in fit" if has_values else "have no values, as in fit"
        _validation.refuse("fields", rule, got, "Add or drop them with dataclasses.replace, or fit again")
    if points is not None and not (fields.is_shared and torch.equal(shared_points(fields), points)):
        remedy = "Take fields at those points, or use own points and encoder='set'"
        _validation.refuse("fields", "have the shared points of fit", "other points", remedy)


def check_points(points: object, fields: GradientFields) -> None:
    """Refuse points at which no gradient can be decoded."""
    _validation.check_samples(points, "points")
    shape = list(points.shape)  # type: ignore[attr-defined]
    if len(shape) > 3 or shape[-1] != fields.dim or (len(shape) == 3 and shape[0] != len(fields)):
        rule = f"have shape [m, {fields.dim}] or [{len(fields)}, m, {fields.dim}]"
        _validation.refuse("points", rule, shape, "Reshape them")
