"""Gradient fields of units: how they are taken, where, and what of them a cloze task leaves out."""

from __future__ import annotations

from gradembed.fields._capture import gradient_fields
from gradembed.fields._estimate import estimated_fields
from gradembed.fields._fields import GradientFields
from gradembed.fields._points import field_mask, grid_points, sample_points, sobol_points

__all__ = [
    "GradientFields", "estimated_fields", "field_mask", "gradient_fields", "grid_points", "sample_points",
    "sobol_points",
]  # fmt: skip
