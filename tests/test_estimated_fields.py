"""Gradients estimated from points and values alone."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from _networks import randn
from sklearn.kernel_ridge import KernelRidge

import gradembed as ge
from gradembed.fields._estimate import RIDGES, SCALES


def quadratic(m, d=2, seed=0):
    """Two quadratics and a constant at shared points, with their true gradients."""
    x = 2 * torch.rand(m, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) - 1
    values = torch.stack([x.square().sum(1), 5 * x[:, 0] * x[:, 1] + 100, torch.full((m,), 3.0).double()])
    swapped = torch.zeros_like(x)
    swapped[:, :2] = 5 * x[:, [1, 0]]
    return ge.GradientFields(x, torch.stack([2 * x, swapped, torch.zeros_like(x)]), values=values)


def error_of(estimated, true):
    return ((estimated.gradients - true.gradients).square().sum((1, 2)) / true.gradients.square().sum((1, 2)))[:2]


def test_settings_are_those_of_the_smallest_leave_one_out_error_and_gradients_those_of_the_fit():
    fields = quadratic(25)
    estimated = ge.estimated_fields(fields)
    x, y = fields.points.numpy(), fields.values.numpy()
    median = np.median(((x[:, None] - x) ** 2).sum(-1)[np.triu_indices(25, 1)])
    for unit in (0, 1):
        mean, spread = y[unit].mean(), y[unit].std()
        target, errors = (y[unit] - mean) / spread, {}
        for scale in SCALES:
            for ridge in RIDGES:
                model = KernelRidge(alpha=ridge, kernel="rbf", gamma=1 / (2 * scale * median))
                left = [
                    model.fit(np.delete(x, i, 0), np.delete(target, i)).predict(x[[i]])[0] - target[i]
                    for i in range(25)
                ]
                errors[scale, ridge] = np.mean(np.square(left))
        scale, ridge = min(errors, key=errors.get)
        assert float(estimated.fit_r2[unit]) == pytest.approx(1 - errors[scale, ridge], abs=1e-6)
        model = KernelRidge(alpha=ridge, kernel="rbf", gamma=1 / (2 * scale * median)).fit(x, target)
        for axis in (0, 1):  # central differences of the fit
            step = np.zeros(2)
            step[axis] = 1e-5
            slope = spread * (model.predict(x + step) - model.predict(x - step)) / 2e-5
            assert estimated.gradients[unit, :, axis].numpy() == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_more_points_help_more_dimensions_hurt_and_the_share_of_variance_says_so():
    few, many, wide = (quadratic(*size) for size in ((12, 2), (200, 2), (200, 40)))
    found = [ge.estimated_fields(fields) for fields in (few, many, wide)]
    errors = [error_of(estimated, fields).max() for estimated, fields in zip(found, (few, many, wide), strict=True)]
    assert errors[1] < 1e-3 < errors[0]
    assert errors[2] > 0.1
    assert found[1].fit_r2[:2].min() > 0.999 > found[2].fit_r2[:2].min()
    assert (found[1].fit_r2[2], found[1].gradients[2].abs().max()) == (0, 0)  # a constant unit has neither


def test_noise_has_no_share_of_variance():
    fields = replace(quadratic(150, 3), values=randn(3, 150))
    assert ge.estimated_fields(fields).fit_r2.abs().max() < 0.15


def test_true_gradients_are_not_looked_at_and_units_with_points_of_their_own_are_fitted_alone():
    fields = quadratic(40)
    expected = ge.estimated_fields(fields)
    other = ge.estimated_fields(replace(fields, gradients=torch.ones_like(fields.gradients)))
    assert torch.equal(other.gradients, expected.gradients)
    own = replace(fields, points=fields.own_points().clone())
    torch.testing.assert_close(ge.estimated_fields(own).gradients, expected.gradients)
    apart = ge.GradientFields.concatenate([fields, quadratic(40, seed=1)])
    torch.testing.assert_close(ge.estimated_fields(apart).gradients[:3], expected.gradients)
    assert repr(expected).endswith("with values, fit_r2)")


def test_estimates_turn_with_the_points():
    fields = quadratic(40)
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
    turned = ge.estimated_fields(fields.rotated(turn))
    close = {"rtol": 1e-4, "atol": 1e-5}  # of a fit with a small ridge
    torch.testing.assert_close(turned.gradients, ge.estimated_fields(fields).rotated(turn).gradients, **close)
    scaled = ge.estimated_fields(replace(fields, values=7 * fields.values - 4))
    torch.testing.assert_close(scaled.gradients, 7 * ge.estimated_fields(fields).gradients, **close)


def test_fields_without_values_or_with_too_few_points_are_refused():
    with pytest.raises(ValueError, match="`fields` should have values, which gradients are estimated from"):
        ge.estimated_fields(replace(quadratic(9), values=None))
    with pytest.raises(ValueError, match=r"`fields` should have at least 3 points of each unit. Got 2"):
        ge.estimated_fields(quadratic(9).subsample(2))
