"""Sets of units matched by the subspaces that they span, against SciPy's principal angles."""

import numpy as np
import pytest
import torch
from scipy.linalg import orth, subspace_angles

import gradembed as ge

RNG = np.random.default_rng(0)
LABELS_A, LABELS_B = np.repeat([0, 1, 2], [4, 5, 3]), np.repeat(["p", "q"], [6, 3])


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def mixed(rows, n, seed=0):
    """Units that span the same subspace by another basis."""
    return noise(n, len(rows), seed=seed) @ rows


def test_overlaps_equal_principal_angles():
    a, b = noise(12, 40), noise(9, 40, seed=1)
    b[:6] += 2 * mixed(a[:4], 6)
    found = ge.metrics.match_subspaces(a, LABELS_A, b, LABELS_B, share=1)
    assert (found.labels_a, found.labels_b) == ((0, 1, 2), ("p", "q"))
    assert (found.dims_a.tolist(), found.dims_b.tolist()) == ([4, 5, 3], [6, 3])
    for i, one in enumerate(found.labels_a):
        for j, other in enumerate(found.labels_b):
            cosines = np.cos(subspace_angles(a[one == LABELS_A].T, b[other == LABELS_B].T))
            sizes = found.dims_a[i] * found.dims_b[j]
            assert float(found.overlap[i, j]) == pytest.approx((cosines**2).sum() / float(sizes) ** 0.5, rel=1e-9)
    assert found.partner.tolist() == found.overlap.argmax(1).tolist()


@pytest.mark.parametrize("p", [300, 20])
def test_sets_that_span_the_same_are_found_whatever_their_bases(p):
    planes = [noise(3, p, seed=s) for s in range(4)]
    sides = [np.concatenate([mixed(planes[k], 5, seed=10 * side + k) * 10.0**k for k in order])
             for side, order in enumerate([(0, 1, 2, 3), (2, 0, 3, 1)])]  # fmt: skip
    y = np.repeat(np.arange(4), 5)
    found = ge.metrics.match_subspaces(sides[0], y, sides[1], y, share=1 - 1e-9)
    assert found.partner.tolist() == [1, 3, 0, 2]
    assert np.allclose(found.overlap.amax(1), 1)
    assert found.null.shape == (199, 4)
    if p == 300:
        assert bool((found.p_values == 1 / 200).all())
        rest = found.overlap.clone()
        rest[torch.arange(4), found.partner] = 0
        assert float(rest.max()) < 0.1
    # the same subspaces, rotated as a whole: a negative control
    turned = sides[1] @ orth(noise(p, p, seed=9)).T
    assert float(ge.metrics.match_subspaces(sides[0], y, turned, y).overlap.max()) < 0.6


def test_units_without_sets_are_at_the_null():
    a, b = noise(40, 60), noise(40, 60, seed=1)
    y = np.arange(40) // 8
    found = ge.metrics.match_subspaces(a, y, b, y)
    assert float(found.p_values.min()) > 0.01
    assert abs(float(found.overlap.amax(1).mean() - found.null.mean())) < 0.03


def test_the_share_keeps_leading_directions_and_zeros_span_nothing():
    strong, weak = np.eye(8)[[0]], np.eye(8)[[1]]
    a = np.concatenate([strong, strong + 0.05 * weak, np.zeros((1, 8))])
    found = ge.metrics.match_subspaces(a, [0, 0, 0], strong, [0], share=0.99)
    assert found.dims_a.tolist() == [1]
    assert float(found.overlap[0, 0]) > 0.99
    assert ge.metrics.match_subspaces(a, [0, 0, 0], strong, [0], share=1).dims_a.tolist() == [2]
    frame = found.to_frame()
    assert frame.columns.tolist() == ["set", "dims", "partner", "partner_dims", "overlap", "null", "p_value"]
    assert repr(found).startswith("SubspaceMatching(1 and 1 sets, mean overlap with the best partner 1.00, null 1.00)")


def test_seeds_fix_the_null():
    a, y = noise(20, 30), np.arange(20) % 4
    one, same, other = (ge.metrics.match_subspaces(a, y, a, y, seed=seed, n_permutations=19) for seed in (0, 0, 1))
    assert torch.equal(one.null, same.null)
    assert not torch.equal(one.null, other.null)


@pytest.mark.parametrize(("given", "message"), [
    ({"x_b": noise(4, 9)}, "`x_b` should have shape"),
    ({"y_a": [0, 1]}, "`y_a` should hold one label for each of 6 units"),
    ({"share": 0}, "`share` should be finite, above 0 and at most 1"),
    ({"n_permutations": 5}, "`n_permutations` should be at least 19"),
    ({"x_a": np.zeros((6, 8))}, "`y_a` should have a unit that does something in each set. Got only zeros in 0. Drop"),
])  # fmt: skip
def test_bad_sets_are_refused(given, message):
    good = {"x_a": noise(6, 8), "y_a": [0, 0, 0, 1, 1, 1], "x_b": noise(4, 8), "y_b": [0, 0, 1, 1]}
    with pytest.raises(ValueError, match=message):
        ge.metrics.match_subspaces(**(good | given))
