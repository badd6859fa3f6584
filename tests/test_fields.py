"""Gradient fields: what they hold, how they change, at which points, and what of them is left out."""

import dataclasses
import itertools
import re

import jaxtyping
import numpy as np
import pytest
import safetensors.torch
import torch
from _asserts import assert_close
from torch import nn

import gradembed as ge

OPTIONAL = ("values", "labels", "groups", "regions")


def make_fields(u=3, m=10, d=4, own=True, seed=0, dtype=torch.float64, **extra):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    given = {"values": draw(u, m), "labels": torch.arange(u) % 2, "groups": torch.arange(u) // 2}
    given["regions"] = torch.randint(0, 4, (u, m), generator=generator)
    return ge.GradientFields(draw(u, m, d) if own else draw(m, d), draw(u, m, d), **(given | extra))


def bare(**changes):
    return make_fields(**dict.fromkeys(OPTIONAL), **changes)


def assert_same(one, other):
    for name, value in vars(one).items():
        assert (value is getattr(other, name) is None) or torch.equal(value, getattr(other, name)), name


@pytest.fixture(autouse=True)
def as_users_see_it(monkeypatch):
    """Without the checks of shapes that only run under pytest, which would come before the library's own."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


# the fields themselves


def test_sizes_and_repr():
    own, shared = make_fields(), bare(u=1, d=1, own=False)
    assert (own.n_units, own.n_points, own.dim, own.is_shared, len(own)) == (3, 10, 4, False, 3)
    assert repr(own) == f"GradientFields(3 units at 10 own points of 4 dimensions, with {', '.join(OPTIONAL)})"
    assert repr(shared) == "GradientFields(1 unit at 10 shared points of 1 dimension)"
    assert_close(shared.own_points()[0], shared.points)
    assert own.own_points().shape == own.gradients.shape


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(("index", "chosen"), [
    (-1, [4]), (slice(None, None, -2), [4, 2, 0]), ([3, 0, 3], [3, 0, 3]), (range(2), [0, 1]), (np.int64(2), [2]),
    (torch.tensor([4, 1]), [4, 1]), ([True, False, False, True, False], [0, 3]), (torch.arange(5) > 2, [3, 4]),
])  # fmt: skip
def test_index_picks_units(own, index, chosen):
    fields = make_fields(u=5, own=own)
    part = fields[index]
    assert part.is_shared is not own
    for name in ("gradients", *OPTIONAL):
        assert torch.equal(getattr(part, name), torch.stack([getattr(fields, name)[i] for i in chosen]))
    assert torch.equal(part.own_points(), torch.stack([fields.own_points()[i] for i in chosen]))


X, G = torch.zeros(10, 4), torch.zeros(3, 10, 4)


@pytest.mark.parametrize("convert", [np.asarray, torch.Tensor.tolist, lambda t: t.clone().requires_grad_()])
def test_arrays_and_lists_are_kept_as_tensors_of_their_own_without_a_graph(convert):
    given = make_fields(dtype=torch.float32)
    there = {name: value for name, value in vars(given).items() if value is not None}
    converted = {name: convert(value) if value.is_floating_point() else value for name, value in there.items()}
    fields = ge.GradientFields(**converted)
    assert_same(fields, given)
    assert {fields.points.requires_grad, fields.gradients.requires_grad} == {False}
    own = np.zeros((1, 10, 4), dtype=np.float32)
    kept = ge.GradientFields(X, own)
    own += 1  # numbers of an array may change afterwards
    assert not kept.gradients.any()


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, np.uint16])
def test_labels_may_be_integers_of_any_width(dtype):
    fields = make_fields(labels=np.array([7, 0, 7], dtype=dtype), groups=[2, 1, 2])
    assert fields.labels.dtype == fields.groups.dtype == torch.int64
    assert (fields.labels.tolist(), fields.groups.tolist()) == ([7, 0, 7], [2, 1, 2])


# scale


def test_normalizing_drops_scale_and_offset_and_nothing_else():
    fields = make_fields()
    scale, offset = torch.tensor([3.0, 1e-3, 1e4]).double(), torch.tensor([0.0, 5.0, -2e4]).double()
    g, f = fields.gradients * scale[:, None, None], fields.values * scale[:, None] + offset[:, None]
    moved = dataclasses.replace(fields, gradients=g, values=f)
    one, other = fields.normalized(), moved.normalized()
    assert_close(other.gradients, one.gradients, rtol=1e-8)
    assert_close(other.values, one.values, rtol=1e-8, atol=1e-8)
    assert_close(one.values.mean(1), torch.zeros(3).double(), atol=1e-12)
    assert_close(one.values.std(1, correction=0), torch.ones(3).double())
    assert_close(one.gradients * fields.values.std(1, correction=0)[:, None, None], fields.gradients)
    assert_close(one.normalized().gradients, one.gradients)
    foreign = dataclasses.replace(fields, gradients=2 * fields.gradients).normalized()  # not of these values
    assert not torch.allclose(foreign.gradients, one.gradients)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_without_values_the_gradients_norm_is_the_scale(scale):
    fields = bare(dtype=torch.float32)
    expected = fields.gradients.square().sum(2).mean(1).sqrt()
    scaled = dataclasses.replace(fields, gradients=fields.gradients * scale)
    assert_close(scaled.amplitudes(), expected * scale, rtol=1e-5, atol=0)
    assert_close(scaled.normalized().amplitudes(), torch.ones(3), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_units_have_no_scale(dtype):
    values = torch.randn(3, 10, dtype=dtype)
    values[1] = 0.1 + 3 * torch.finfo(dtype).eps * torch.rand(10, dtype=dtype) * 0.1
    fields = make_fields(dtype=dtype, values=values)
    assert (fields.amplitudes() > 0).tolist() == [True, False, True]
    with pytest.raises(ValueError, match=r"`fields` should vary at the points of every unit. Got constant units \[1\]"):
        fields.normalized()
    assert len(fields[fields.amplitudes() > 0].normalized()) == 2
    silent = bare(dtype=dtype, u=10)
    silent.gradients[:] = 0
    with pytest.raises(ValueError, match=r"Got constant units \[0, 1, 2, 3, 4, 5, \.\.\.\]"):
        silent.normalized()


# put together, thinned out


def test_concatenated_fields_are_their_units_in_order():
    one, other = make_fields(u=2, seed=1), make_fields(u=3, seed=2)
    whole = ge.GradientFields.concatenate([one, other])
    assert_same(whole[:2], one)
    assert_same(whole[2:], other)
    assert_same(ge.GradientFields.concatenate(list(whole)), whole)


def test_points_stay_shared_only_if_equal():
    shared = make_fields(own=False)
    assert ge.GradientFields.concatenate([shared, shared[:1]]).is_shared
    mixed = ge.GradientFields.concatenate([shared, make_fields(own=False, seed=5)])
    assert torch.equal(mixed.points[:3], shared.own_points())
    assert not ge.GradientFields.concatenate([shared, make_fields()]).is_shared
    assert ge.GradientFields.concatenate([make_fields(), make_fields(regions=None)]).regions is None


def test_new_networks_get_new_numbers():
    parts = [make_fields(u=4, groups=[7, 7, 3, 7]), make_fields(u=2, groups=[7, 7])]
    for new, groups in ((False, [7, 7, 3, 7, 7, 7]), (True, [1, 1, 0, 1, 2, 2])):
        assert ge.GradientFields.concatenate(parts, new_networks=new).groups.tolist() == groups
    assert ge.GradientFields.concatenate([bare(), bare()], new_networks=True).groups is None


@pytest.mark.parametrize("own", [True, False])
def test_subsampled_points_keep_their_gradients(own):
    fields = make_fields(u=4, m=50, own=own)
    part = fields.subsample(20, seed=3)
    assert part.is_shared is not own
    picks = []
    for k in range(4):
        index = [fields.own_points()[k].eq(p).all(1).nonzero().item() for p in part.own_points()[k]]
        assert len(set(index)) == 20
        for name in ("gradients", "values", "regions"):
            assert torch.equal(getattr(part, name)[k], getattr(fields, name)[k][index])
        picks.append(sorted(index))
    assert (picks[0] == picks[1]) is not own  # own points are drawn for each unit alone
    assert torch.equal(part.labels, fields.labels)
    assert_same(part, fields.subsample(20, seed=3))
    assert not torch.equal(part.gradients, fields.subsample(20, seed=4).gradients)
    assert_close(fields.subsample(50).gradients.sum(1), fields.gradients.sum(1))


# changes of basis


def rotations(u, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(u, d, d, generator=generator, dtype=torch.float64)).Q


@pytest.mark.parametrize("own", [True, False])
def test_rotation_keeps_norms_and_inner_products(own):
    fields = make_fields(own=own)
    turned = fields.rotated(rotations(3, 4))
    mixed = fields.transformed(torch.diag(torch.tensor([1.0, 2, 3, 4])))  # the negative control
    before, after, other = (torch.cat([f.own_points(), f.gradients], 1) for f in (fields, turned, mixed))
    assert_close(after @ after.mT, before @ before.mT, atol=1e-10)
    assert not torch.allclose(other @ other.mT, before @ before.mT)
    assert not torch.allclose(after, before)
    assert_close(turned.rotated(rotations(3, 4).mT).gradients, fields.gradients)
    r = rotations(1, 4)[0]
    assert (turned.is_shared, fields.rotated(r).is_shared) == (False, not own)
    assert_close(fields.rotated(r).own_points()[1, 2], r @ fields.own_points()[1, 2])
    assert_close(fields.rotated(r).gradients[1, 2], r @ fields.gradients[1, 2])


@pytest.mark.parametrize("own", [True, False])
def test_change_of_basis_keeps_pairings_with_displacements(own):
    fields, matrices = make_fields(own=own), torch.randn(3, 4, 4, dtype=torch.float64)

    def pairings(f):
        return f.gradients @ (f.own_points() - f.own_points().mean(1, keepdim=True)).mT

    moved = fields.transformed(matrices)
    assert_close(pairings(moved), pairings(fields), rtol=1e-8, atol=1e-8)
    assert_close(moved.own_points()[1, 2], matrices[1] @ fields.own_points()[1, 2])
    wrong = dataclasses.replace(moved, gradients=fields.gradients @ matrices.mT)  # as points move, not gradients
    assert not torch.allclose(pairings(wrong), pairings(fields))
    assert_close(fields.transformed(rotations(3, 4)).gradients, fields.rotated(rotations(3, 4)).gradients)


def test_change_of_basis_is_what_it_says_of_a_network():
    network, moved = (ge.MLP([4, 8, 2], nn.Tanh, seed=0).double() for _ in range(2))
    x, m = torch.randn(9, 4).double(), torch.randn(4, 4).double()
    with torch.no_grad():
        moved.hidden1.linear.weight.copy_(network.hidden1.linear.weight @ torch.linalg.inv(m))
    one, other = ge.gradient_fields(network, x).transformed(m), ge.gradient_fields(moved, x @ m.T)
    for name in ("points", "gradients", "values"):
        assert_close(getattr(one, name), getattr(other, name), rtol=1e-8, atol=1e-10)


# on disk


@pytest.mark.parametrize("own", [True, False])
def test_saved_fields_come_back(tmp_path, own):
    path = tmp_path / "folder" / "fields.safetensors"
    for fields, name in ((make_fields(own=own), path), (bare(own=own, dtype=torch.float32), str(path))):
        fields.save(name)
        assert_same(ge.GradientFields.load(name), fields)
    assert [p.name for p in path.parent.iterdir()] == ["fields.safetensors"]


# points


def test_grid_is_regular():
    assert ge.grid_points(5, 1).flatten().tolist() == [-1, -0.5, 0, 0.5, 1]
    assert [tuple(p) for p in ge.grid_points(27, 3).tolist()] == list(itertools.product((-1, 0, 1), repeat=3))
    for m, dim in ((10**6, 1), (4**6, 6)):
        assert ge.grid_points(m, dim).shape == (m, dim)


def test_sobol_points_fill_the_cube_evenly():
    points = ge.sobol_points(512, 3, seed=1)
    assert (points.shape, bool(points.abs().max() <= 1)) == ((512, 3), True)
    octants = ((points > 0) * torch.tensor([1, 2, 4])).sum(1).bincount()
    assert octants.tolist() == [64] * 8  # a random draw would not be that even
    assert all(torch.equal(points[:m], ge.sobol_points(m, 3, seed=1)) for m in (100, 512))
    assert not torch.equal(points, ge.sobol_points(512, 3, seed=2))


def test_sampled_points_are_distinct_rows():
    x = torch.arange(40.0).view(20, 2)
    points = ge.sample_points(x, 8, seed=0)
    assert len(set(map(tuple, points.tolist())) & set(map(tuple, x.tolist()))) == 8
    assert not torch.equal(points, ge.sample_points(x, 8, seed=1))
    assert torch.equal(ge.sample_points(x, 20).sort(0).values, x)


def test_draws_leave_the_global_generator_alone():
    before, fields = torch.get_rng_state(), make_fields()
    ge.sobol_points(8, 2, seed=3)
    ge.sample_points(X, 5, seed=3)
    for kind in ("points", "regions"):
        ge.field_mask(fields.subsample(5, seed=3), 0.5, seed=3, kind=kind)
    assert torch.equal(torch.get_rng_state(), before)


# masks


@pytest.mark.parametrize("own", [True, False])
def test_masked_points_are_the_fraction_asked_for(own):
    fields = make_fields(u=200, m=30, own=own)
    mask = ge.field_mask(fields, 0.4, seed=1)
    assert mask.sum(1).eq(12).all()
    assert 50 < int(mask.sum(0).min()) <= int(mask.sum(0).max()) < 110  # 80 expected, 7 the deviation
    assert torch.equal(mask, ge.field_mask(fields, 0.4, seed=1))
    assert not torch.equal(mask, ge.field_mask(fields, 0.4, seed=2))
    for fraction, lost in ((1e-9, 1), (0.9999, 29)):
        assert ge.field_mask(fields, fraction).sum(1).eq(lost).all()


@pytest.mark.parametrize("fraction", [0.001, 0.4, 0.999])
def test_masked_regions_are_never_split(fraction):
    ensemble, x = ge.MLPEnsemble([2, 8, 3], 20, seed=0), torch.randn(100, 2)
    fields = ge.gradient_fields(ensemble, x)
    masks = [ge.field_mask(fields, fraction, seed, kind="regions") for seed in range(5)]
    same = fields.regions[:, :, None] == fields.regions[:, None]
    for mask in masks:
        assert [len(row.unique()) for row in mask] == [2] * len(fields)  # some kept, some left out
        assert not bool((same & (mask[:, :, None] != mask[:, None])).any())
    assert not torch.equal(masks[0], masks[1])
    by_points = ge.field_mask(fields, fraction)  # the negative control
    assert bool((same & (by_points[:, :, None] != by_points[:, None])).any())
    if fraction == 0.4:
        assert abs(float(torch.stack(masks).double().mean()) - 0.4) < 0.03


def test_masked_regions_may_have_any_numbers():
    regions = torch.tensor([[-7, 10**12, 10**12, -7], [5, 5, 5, 3]])
    fields = make_fields(u=2, m=4, regions=regions)
    seen = {tuple(ge.field_mask(fields, 0.5, seed, kind="regions")[0].tolist()) for seed in range(20)}
    assert seen == {(True, False, False, True), (False, True, True, False)}


# refused with a word of their own; the rest is in the table of abuses


ONE_REGION = {"regions": torch.arange(3)[:, None] * (torch.arange(10) > 4)}  # in unit 0
join = ge.GradientFields.concatenate
REFUSED = {
    "`points` should have shape [10, 4] or [3, 10, 4]": lambda: ge.GradientFields(X[:9], G),
    "`index` should pick units between -5 and 4, one or more, or": lambda: make_fields(u=5)[5],
    "or be a mask of 3 units. Got list [True, False]": lambda: make_fields()[[True, False]],
    "one or more, or be a mask of 5 units. Got slice slice(9, None, None). Drop": lambda: make_fields(u=5)[9:],
    "mask of 3 units. Got a bool tensor of shape": lambda: make_fields()[torch.zeros(3).bool()],
    "a list of positions or a mask. Got True": lambda: make_fields()[True],
    "a list of positions or a mask. Got list [[0], [1, 2]]": lambda: make_fields()[[[0], [1, 2]]],
    "`parts` should all have 10 points of 4 dimensions, torch.float64": lambda: join([bare(), bare(m=9)]),
    "Got 10 points of 4 dimensions, torch.float32 on": lambda: join([bare(), bare(dtype=torch.float32)]),
    "all have values, or none. Got 1 of 2 without": lambda: join([make_fields(), make_fields(values=None)]),
    "Got R'R that differs from the identity by 3.0e+00": lambda: make_fields().rotated(2 * torch.eye(4)),
    "should be invertible. Got a singular one": lambda: make_fields().transformed(torch.ones(4, 4)),
    "a number of points to the power of dim=2. Got 10. Pass 9 or 16": lambda: ge.grid_points(10, 2),
    "Got 3. Pass 4 or 9, or use sobol_points": lambda: ge.grid_points(3, 2),
    "`fraction` should be below 1. Got 1.0. Keep something": lambda: ge.field_mask(make_fields(), 1.0),
    "have regions with kind='regions'. Got None": lambda: ge.field_mask(bare(), 0.5, kind="regions"),
    "Got one in 1 of them, unit 0 the first. ": lambda: ge.field_mask(make_fields(**ONE_REGION), 0.5, kind="regions"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused_is_said(message):
    with pytest.raises((ValueError, TypeError, IndexError), match=re.escape(message)):
        REFUSED[message]()


def test_other_files_are_refused(tmp_path):
    safetensors.torch.save_file({"weight": X}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"`path` should name a file that GradientFields.save wrote. Got one with 'we"):
        ge.GradientFields.load(tmp_path / "other")
