"""Gradient fields: what they hold, how they are taken, where, and what of them is left out."""

import dataclasses

import jaxtyping
import numpy as np
import pytest
import torch
from _asserts import assert_close, unchanged
from _networks import Convolutional, Residual, linear
from _oracle import gradient_loop
from torch import nn

import gradembed as ge
from gradembed.fields import _stack
from gradembed.fields._regions import numbered
from gradembed.tree._pieces import packed


def make_fields(u=3, m=10, d=4, own=True, seed=0, dtype=torch.float64, **extra):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=dtype)  # noqa: E731
    given = {
        "values": draw(u, m),
        "labels": torch.arange(u) % 2,
        "groups": torch.arange(u) // 2,
        "regions": torch.randint(0, 4, (u, m), generator=generator),
    }
    return ge.GradientFields(draw(u, m, d) if own else draw(m, d), draw(u, m, d), **(given | extra))


def bare(**changes):
    return make_fields(values=None, labels=None, groups=None, regions=None, **changes)


def assert_same(one, other):
    for field in dataclasses.fields(ge.GradientFields):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert (a is None) == (b is None), field.name
        if a is not None:
            assert_close(a, b, rtol=0, atol=0)


def inner_products(a, b):
    return torch.einsum("umd,uld->uml", a, b)


@pytest.fixture
def as_users_see_it():
    """Without the checks of shapes that only run under pytest, which would come before the library's own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


# the fields themselves


def test_sizes_and_repr():
    own, shared = make_fields(), bare(u=1, d=1, own=False)
    assert (own.n_units, own.n_points, own.dim, own.is_shared, len(own)) == (3, 10, 4, False, 3)
    assert repr(own) == (
        "GradientFields(3 units at 10 own points of 4 dimensions, with values, labels, groups, regions)"
    )
    assert repr(shared) == "GradientFields(1 unit at 10 shared points of 1 dimension)"
    assert_close(shared.own_points()[0], shared.points)
    assert own.own_points().shape == own.gradients.shape


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize(
    ("index", "chosen"),
    [
        (1, [1]),
        (-1, [4]),
        (slice(1, 4), [1, 2, 3]),
        (slice(None, None, -2), [4, 2, 0]),
        ([3, 0, 3], [3, 0, 3]),
        ((0, -2), [0, 3]),
        (range(2), [0, 1]),
        (torch.tensor([4, 1]), [4, 1]),
        (np.array([4, 1]), [4, 1]),
        (np.int64(2), [2]),
        (torch.tensor(2), [2]),
        ([True, False, False, True, False], [0, 3]),
        (torch.arange(5) > 2, [3, 4]),
        (np.arange(5) > 2, [3, 4]),
    ],
)
def test_index_picks_units(own, index, chosen):
    fields = make_fields(u=5, own=own)
    part = fields[index]
    assert part.is_shared is not own
    for name in ("gradients", "values", "labels", "groups", "regions"):
        assert torch.equal(getattr(part, name), torch.stack([getattr(fields, name)[i] for i in chosen]))
    assert torch.equal(part.own_points(), torch.stack([fields.own_points()[i] for i in chosen]))


def test_fields_can_be_walked_through():
    assert [len(unit) for unit in make_fields(u=3)] == [1, 1, 1]


@pytest.mark.parametrize(
    ("index", "error", "message"),
    [
        (5, IndexError, "`index` should lie between -5 and 4. Got 5"),
        ([0, -6], IndexError, "`index` should lie between -5 and 4. Got -6"),
        ([], IndexError, "`index` should pick at least one unit. Got none. There are 5"),
        (slice(9, None), IndexError, "should pick at least one unit"),
        (torch.zeros(5, dtype=torch.bool), IndexError, "should pick at least one unit"),
        ([True, False], IndexError, "`index` should be a mask of 5 units. Got a bool tensor of shape"),
        (True, TypeError, "`index` should be an integer, a slice, a list of positions or a mask. Got True"),
        (1.0, TypeError, "list of positions or a mask. Got 1.0"),
        ([0.5], TypeError, "list of positions or a mask"),
        ("01", TypeError, "list of positions or a mask. Got '01'"),
        (None, TypeError, "list of positions or a mask. Got None"),
    ],
)
def test_index_is_refused(index, error, message):
    with pytest.raises(error, match=message):
        make_fields(u=5)[index]


X, G = torch.zeros(10, 4), torch.zeros(3, 10, 4)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"points": [[0.0]]}, TypeError, "`points` should be a torch.Tensor"),
        ({"points": X.double()}, ValueError, "`points` should have the gradients' precision and device, torch.float32"),
        ({"points": X[:9]}, ValueError, r"`points` should have shape \[10, 4\], shared, or \[3, 10, 4\], own"),
        ({"points": X.expand(2, -1, -1)}, ValueError, r"`points` should have shape"),
        ({"points": X + torch.nan}, ValueError, "`points` should be finite. Got 40 NaN or infinite values of 40"),
        ({"gradients": X}, ValueError, r"`gradients` should have shape \[u, m, d\]. .* Use gradients\[None\]"),
        ({"gradients": G.half()}, ValueError, "`gradients` should be float32 or float64. Got torch.float16"),
        ({"gradients": G / 0}, ValueError, "`gradients` should be finite"),
        ({"gradients": G[:0]}, ValueError, "`gradients` should hold at least one number"),
        ({"values": torch.zeros(3)}, ValueError, r"`values` should have shape \[3, 10\]"),
        ({"values": torch.full((3, 10), torch.inf)}, ValueError, "`values` should be finite"),
        ({"labels": [0, 1, 2]}, TypeError, "`labels` should be a torch.Tensor"),
        ({"labels": torch.zeros(3)}, ValueError, "`labels` should be int64. Got torch.float32"),
        ({"labels": torch.arange(4)}, ValueError, r"`labels` should have shape \[3\]"),
        ({"groups": torch.arange(2)}, ValueError, r"`groups` should have shape \[3\]"),
        ({"regions": torch.arange(3)}, ValueError, r"`regions` should have shape \[3, 10\]"),
    ],
)
def test_parts_are_refused(as_users_see_it, changes, error, message):
    with pytest.raises(error, match=message):
        ge.GradientFields(**({"points": X, "gradients": G} | changes))


def test_fields_carry_no_graph():
    fields = ge.GradientFields(X.clone().requires_grad_(), G.clone().requires_grad_())
    assert not fields.points.requires_grad
    assert not fields.gradients.requires_grad


# scale


def test_normalising_drops_scale_and_offset_and_nothing_else():
    fields = make_fields()
    scale, offset = torch.tensor([3.0, 1e-3, 1e4]).double(), torch.tensor([0.0, 5.0, -2e4]).double()
    moved = dataclasses.replace(
        fields,
        gradients=fields.gradients * scale[:, None, None],
        values=fields.values * scale[:, None] + offset[:, None],
    )
    one, other = fields.normalised(), moved.normalised()
    assert_close(other.gradients, one.gradients, rtol=1e-8)
    assert_close(other.values, one.values, rtol=1e-8, atol=1e-8)
    assert_close(one.values.mean(1), torch.zeros(3).double(), atol=1e-12)
    assert_close(one.values.std(1, correction=0), torch.ones(3).double())
    assert_close(one.gradients * fields.values.std(1, correction=0)[:, None, None], fields.gradients)
    assert_close(one.normalised().gradients, one.gradients)
    assert not torch.allclose(
        dataclasses.replace(fields, gradients=2 * fields.gradients).normalised().gradients, one.gradients
    )  # a gradient that is not of these values


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_without_values_the_gradients_norm_is_the_scale(scale):
    fields = bare(dtype=torch.float32)
    expected = fields.gradients.square().sum(2).mean(1).sqrt()
    scaled = dataclasses.replace(fields, gradients=fields.gradients * scale)
    assert_close(scaled.amplitudes(), expected * scale, rtol=1e-5, atol=0)
    assert_close(scaled.normalised().amplitudes(), torch.ones(3), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_constant_units_have_no_scale(dtype):
    values = torch.randn(3, 10, dtype=dtype)
    values[1] = 0.1 + 3 * torch.finfo(dtype).eps * torch.rand(10, dtype=dtype) * 0.1
    fields = make_fields(dtype=dtype, values=values)
    assert (fields.amplitudes() > 0).tolist() == [True, False, True]
    with pytest.raises(ValueError, match=r"`fields` should vary at the points of every unit. Got constant units 1\. "):
        fields.normalised()
    assert len(fields[fields.amplitudes() > 0].normalised()) == 2
    silent = bare(dtype=dtype, u=10)
    silent.gradients[:] = 0
    with pytest.raises(ValueError, match=r"Got constant units 0, 1, 2, 3, 4, 5, 6, 7, \.\.\."):
        silent.normalised()


# put together, thinned out


def test_concatenated_fields_are_their_units_in_order():
    parts = [make_fields(u=2, seed=1), make_fields(u=3, seed=2)]
    whole = ge.GradientFields.concatenate(parts)
    assert_same(whole[:2], parts[0])
    assert_same(whole[2:], parts[1])
    assert_same(ge.GradientFields.concatenate(list(whole)), whole)


def test_points_stay_shared_only_if_equal():
    shared = make_fields(own=False)
    assert ge.GradientFields.concatenate([shared, shared[:1]]).is_shared
    mixed = ge.GradientFields.concatenate([shared, make_fields(own=False, seed=5)])
    assert not mixed.is_shared
    assert_close(mixed.points[:3], shared.own_points())
    assert not ge.GradientFields.concatenate([shared, make_fields()]).is_shared


def test_new_networks_get_new_numbers():
    parts = [make_fields(u=4, groups=torch.tensor([7, 7, 3, 7])), make_fields(u=2, groups=torch.tensor([7, 7]))]
    assert ge.GradientFields.concatenate(parts).groups.tolist() == [7, 7, 3, 7, 7, 7]
    assert ge.GradientFields.concatenate(parts, new_networks=True).groups.tolist() == [1, 1, 0, 1, 2, 2]
    assert ge.GradientFields.concatenate([bare(), bare()], new_networks=True).groups is None


def test_regions_are_kept_only_if_all_have_them():
    assert ge.GradientFields.concatenate([make_fields(), make_fields(regions=None)]).regions is None


@pytest.mark.parametrize(
    ("parts", "error", "message"),
    [
        ([], ValueError, "`parts` should be a sequence of fields, not empty"),
        ([3], TypeError, "`parts` should be GradientFields. Got 3"),
        ([bare(), bare(m=9)], ValueError, "`parts` should all have 10 points of 4 dimensions. Got 9 of 4"),
        ([bare(), bare(d=3)], ValueError, "Got 10 of 3"),
        ([bare(), bare(dtype=torch.float32)], ValueError, "`parts` should all be torch.float64 on cpu. Got torch.fl"),
        ([make_fields(), make_fields(values=None)], ValueError, "`parts` should all have values, or none. Got 1 of 2"),
        ([make_fields(), make_fields(labels=None)], ValueError, "`parts` should all have labels, or none"),
        ([make_fields(groups=None), make_fields()], ValueError, "`parts` should all have groups, or none"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts, error, message):
    with pytest.raises(error, match=message):
        ge.GradientFields.concatenate(parts)


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


def test_subsampling_is_refused():
    fields = make_fields()
    for arguments, error, message in [
        ((11,), ValueError, "`m` should be at most 10, the points that there are. Got 11"),
        ((0,), ValueError, "`m` should be at least 1"),
        ((2.0,), TypeError, "`m` should be an integer"),
        ((2, -1), ValueError, "`seed` should be at least 0"),
    ]:
        with pytest.raises(error, match=message):
            fields.subsample(*arguments)


# changes of basis


def rotations(u, d, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(u, d, d, generator=generator, dtype=torch.float64)).Q


@pytest.mark.parametrize("own", [True, False])
def test_rotation_keeps_norms_and_inner_products(own):
    fields = make_fields(own=own)
    turned = fields.rotated(rotations(3, 4))
    for a, b in [("points", "points"), ("points", "gradients"), ("gradients", "gradients")]:
        before = inner_products(*(fields.own_points() if n == "points" else fields.gradients for n in (a, b)))
        after = inner_products(*(turned.own_points() if n == "points" else turned.gradients for n in (a, b)))
        assert_close(after, before, atol=1e-10)
    assert not turned.is_shared
    assert not torch.allclose(turned.gradients, fields.gradients)
    assert_close(turned.rotated(rotations(3, 4).mT).gradients, fields.gradients)
    mixed = fields.transformed(torch.diag(torch.tensor([1.0, 2, 3, 4])))  # the negative control
    assert not torch.allclose(
        inner_products(mixed.gradients, mixed.gradients), inner_products(fields.gradients, fields.gradients)
    )


def test_one_rotation_for_all_keeps_points_shared():
    fields, r = make_fields(own=False), rotations(1, 4)[0]
    turned = fields.rotated(r)
    assert turned.is_shared
    assert_close(turned.points[2], r @ fields.points[2])
    assert_close(turned.gradients[1, 2], r @ fields.gradients[1, 2])


@pytest.mark.parametrize("own", [True, False])
def test_change_of_basis_keeps_pairings_with_displacements(own):
    fields, matrices = make_fields(own=own), torch.randn(3, 4, 4, dtype=torch.float64)

    def pairings(f):
        a = f.own_points()
        return inner_products(f.gradients, a - a.mean(1, keepdim=True))

    moved = fields.transformed(matrices)
    assert_close(pairings(moved), pairings(fields), rtol=1e-8, atol=1e-8)
    assert_close(moved.own_points()[1, 2], matrices[1] @ fields.own_points()[1, 2])
    wrong = dataclasses.replace(moved, gradients=fields.gradients @ matrices.mT)  # as points move, not gradients
    assert not torch.allclose(pairings(wrong), pairings(fields))
    assert_close(fields.transformed(rotations(3, 4)).gradients, fields.rotated(rotations(3, 4)).gradients)


def test_change_of_basis_is_what_it_says_of_a_network():
    network, x, m = ge.MLP([4, 8, 2], nn.Tanh, seed=0).double(), torch.randn(9, 4).double(), torch.randn(4, 4).double()
    moved = ge.MLP([4, 8, 2], nn.Tanh, seed=0).double()
    with torch.no_grad():
        moved.hidden1.linear.weight.copy_(network.hidden1.linear.weight @ torch.linalg.inv(m))
    one, other = ge.gradient_fields(network, x).transformed(m), ge.gradient_fields(moved, x @ m.T)
    for name in ("points", "gradients", "values"):
        assert_close(getattr(one, name), getattr(other, name), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("method", "matrices", "error", "message"),
    [
        ("rotated", [[1.0]], TypeError, "`rotations` should be a torch.Tensor"),
        ("rotated", torch.eye(3), ValueError, r"`rotations` should have shape \[4, 4\] or \[3, 4, 4\]"),
        ("rotated", torch.eye(4).expand(2, 4, 4), ValueError, "`rotations` should have shape"),
        ("rotated", 2 * torch.eye(4), ValueError, "`rotations` should be orthogonal. Got R'R that differs .* 3.0e"),
        ("rotated", torch.eye(4).long(), ValueError, "`rotations` should be finite floating-point"),
        ("transformed", torch.eye(4) * torch.nan, ValueError, "`matrices` should be finite floating-point"),
        ("transformed", torch.ones(4, 4), ValueError, "`matrices` should be invertible. Got a singular one"),
        ("transformed", torch.zeros(3, 4, 4), ValueError, "`matrices` should be invertible"),
    ],
)
def test_matrices_are_refused(method, matrices, error, message):
    with pytest.raises(error, match=message):
        getattr(make_fields(), method)(matrices)


# on disk


@pytest.mark.parametrize("own", [True, False])
def test_saved_fields_come_back(tmp_path, own):
    fields = make_fields(own=own)
    path = tmp_path / "folder" / "fields.safetensors"
    fields.save(path)
    assert_same(ge.GradientFields.load(path), fields)
    bare(dtype=torch.float32).save(str(path))
    assert_same(ge.GradientFields.load(str(path)), bare(dtype=torch.float32))
    assert [p.name for p in path.parent.iterdir()] == ["fields.safetensors"]


def test_other_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": X}, tmp_path / "other")
    with pytest.raises(ValueError, match=r"`path` should name a file that GradientFields.save wrote. Got one with 'we"):
        ge.GradientFields.load(tmp_path / "other")


def test_fields_can_be_cached(tmp_path):
    cache, network, x = ge.Cache(tmp_path), ge.MLP([4, 8, 3], seed=0), torch.randn(10, 4)
    for take in (ge.gradient_fields, lambda network, x: ge.gradient_fields(network, x, labels=torch.arange(3))):
        assert_same(cache.call(take, network, x), take(network, x))  # written
        files = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        assert_same(cache.call(take, network, x), take(network, x))  # read
        assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == files


# taken of networks


ACTIVATIONS = [nn.ReLU, nn.Tanh, lambda: nn.LeakyReLU(0.2), nn.GELU, nn.Hardtanh]


def ensemble_of(widths=(4, 7, 6, 3), e=5, activation=nn.ReLU):
    return ge.MLPEnsemble(list(widths), e, activation, seed=0).double()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_fields_of_a_network_equal_the_loop(activation):
    network, x = ge.MLP([4, 7, 6, 3], activation, seed=0).double(), torch.randn(20, 4).double()
    with unchanged(network):
        fields = ge.gradient_fields(network, x)
        hidden = ge.gradient_fields(network, x, wrt="hidden1", unit_layer="hidden2")
    assert_close(fields.gradients.transpose(0, 1), gradient_loop(network, lambda s: s, x))
    assert_close(fields.values.T, network(x).detach())
    assert_close(fields.points, x, rtol=0, atol=0)
    assert_close(hidden.gradients.transpose(0, 1), gradient_loop(network.hidden2, network.hidden1, x))
    assert_close(hidden.points, network.hidden1(x).detach())
    assert hidden.is_shared
    assert fields.groups.tolist() == [0, 0, 0]
    assert fields.labels is None
    assert (fields.regions is None) == (activation in (nn.Tanh, nn.GELU))


@pytest.mark.parametrize("make", [Residual, Convolutional])
def test_general_networks_equal_the_loop(make):
    model = make().double().eval()
    x = torch.randn(9, 4).double() if make is Residual else torch.randn(9, 1, 4, 4).double()
    with unchanged(model):
        fields = ge.gradient_fields(model, x)
    assert_close(fields.gradients.transpose(0, 1), gradient_loop(lambda z: model(z.clone()), lambda s: s, x))
    assert_close(fields.points, x.flatten(1))
    assert_close(fields.values.T, model(x).detach())
    assert fields.regions is None


def test_chains_of_other_modules():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.ReLU(inplace=True), nn.Dropout(),
        nn.Linear(5, 5), nn.PReLU(5), nn.Hardsigmoid(), nn.Linear(5, 2),
    ).double().eval()  # fmt: skip
    model[2].running_var.uniform_(0.5, 2)
    x = torch.randn(30, 2, 2).double()
    fields = ge.gradient_fields(model, x)
    assert_close(fields.gradients.transpose(0, 1), gradient_loop(model, lambda s: s, x))
    assert fields.regions.amax() > 0


CASES = [
    {},
    {"wrt": "hidden1"},
    {"wrt": "hidden2"},
    {"wrt": "hidden1.linear"},
    {"wrt": "hidden1", "unit_layer": "hidden2"},
    {"wrt": "hidden2.linear", "unit_layer": "hidden2.activation"},
    {"wrt": "input", "unit_layer": "hidden1", "units": [3, 0, 3]},
    {"wrt": "hidden1", "units": [-0]},
    {"directions": "shared"},
    {"unit_layer": "hidden2", "directions": "own"},
]


@pytest.mark.parametrize("group_bytes", [1, 8 * 2**20])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_ensemble_equals_its_members(case, activation, group_bytes, monkeypatch):
    monkeypatch.setattr(_stack, "GROUP_BYTES", group_bytes)  # one member at a time, all at once
    ensemble, case = ensemble_of(activation=activation), dict(case)
    width = {"hidden2": 6}.get(case.get("unit_layer"), 3)
    directions = torch.randn(5, 2, width).double()
    if "directions" in case:
        case["directions"] = directions if case["directions"] == "own" else directions[0]
    for points in (torch.randn(20, 4).double(), torch.randn(5, 20, 4).double()):
        fields = ge.gradient_fields(ensemble, points, **case)
        assert fields.is_shared is (case.get("wrt", "input") == "input" and points.ndim == 2)
        u = len(fields) // 5
        assert fields.groups.tolist() == [i for i in range(5) for _ in range(u)]
        for i in range(5):
            own = dict(case)
            if isinstance(own.get("directions"), torch.Tensor) and own["directions"].ndim == 3:
                own["directions"] = own["directions"][i]
            x = points if points.ndim == 2 else points[i]
            expected = ge.unit_gradients(ensemble[i], x, own.pop("wrt", "input"), **own)
            part = fields[i * u : (i + 1) * u]
            assert_close(part.gradients, expected.gradients.transpose(0, 1))
            assert_close(part.own_points(), expected.activations.expand(u, -1, -1))
            assert_close(part.values, expected.values.T)
            alone = ge.gradient_fields(ensemble[i], x, **{**case, **own})
            assert (part.regions is None) == (alone.regions is None)
            assert part.regions is None or torch.equal(part.regions, alone.regions)


def test_ensemble_without_hidden_layers_and_at_a_single_point():
    for widths, x in [([4, 2], torch.randn(6, 4).double()), ([4, 7, 1], torch.randn(1, 4).double())]:
        ensemble = ensemble_of(widths)
        fields = ge.gradient_fields(ensemble, x)
        expected = torch.cat([ge.unit_gradients(net, x, "input").gradients.transpose(0, 1) for net in ensemble])
        assert_close(fields.gradients, expected)
        assert fields.regions.unique().tolist() == [0]


def test_single_precision_agrees_with_double():
    ensemble, x = ge.MLPEnsemble([64, 64, 64, 1], 3, seed=0), torch.randn(200, 64)
    single, double = ge.gradient_fields(ensemble, x), ge.gradient_fields(ensemble.double(), x.double())
    assert single.gradients.dtype == torch.float32
    assert_close(single.gradients.double(), double.gradients, rtol=1e-3, atol=1e-5)


def test_labels_come_from_the_ensemble_or_the_caller():
    ensemble, x = ensemble_of(e=2), torch.randn(5, 4).double()
    assert ge.gradient_fields(ensemble, x).labels is None
    ensemble.labels = torch.tensor([4, 9])
    assert ge.gradient_fields(ensemble, x).labels.tolist() == [4, 4, 4, 9, 9, 9]
    assert ge.gradient_fields(ensemble, x, labels=torch.arange(3)).labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert ge.gradient_fields(ensemble, x, labels=torch.arange(6)).labels.tolist() == [0, 1, 2, 3, 4, 5]
    assert ge.gradient_fields(ensemble[0], x, labels=torch.arange(3)).labels.tolist() == [0, 1, 2]


def test_fields_do_not_share_memory_with_the_inputs():
    x = torch.randn(5, 4).double()
    for model, points in [(ensemble_of(), x), (ensemble_of(), x.repeat(5, 1, 1)), (ensemble_of()[0], x)]:
        fields = ge.gradient_fields(model, points)
        before = fields.points.clone()
        points += 1
        assert torch.equal(fields.points, before)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": 3}, TypeError, "`model` should be a torch.nn.Module"),
        ({"points": [[0.0]]}, TypeError, "`points` should be a torch.Tensor"),
        ({"points": torch.zeros(5, 4)}, ValueError, "`points` should have the model's precision, torch.float64"),
        (
            {"points": torch.zeros(5, 3).double()},
            ValueError,
            r"`points` should have shape \[m, 4\] for all members, or",
        ),
        ({"points": torch.zeros(4, 5, 4).double()}, ValueError, r"or \[5, m, 4\]. Got a float64 tensor of shape"),
        ({"points": torch.zeros(0, 4).double()}, ValueError, "`points` should hold at least one sample"),
        ({"points": torch.full((5, 4), torch.nan).double()}, ValueError, "`points` should be finite"),
        ({"wrt": 3}, TypeError, "`wrt` should be one layer's name"),
        ({"wrt": "hidden9"}, ValueError, "`wrt` should name a layer of the model. Got 'hidden9'"),
        ({"wrt": "output"}, ValueError, "`unit_layer` should come after 'output', and depend on it. Got 'output'"),
        ({"unit_layer": None}, TypeError, "`unit_layer` should be one layer's name"),
        ({"unit_layer": "top"}, ValueError, "`unit_layer` should name a layer of the model"),
        ({"wrt": "hidden2", "unit_layer": "hidden1"}, ValueError, "`unit_layer` should come after 'hidden2'"),
        ({"units": [3]}, ValueError, "`units` should lie between 0 and 2, the units of 'output'"),
        ({"units": []}, ValueError, "`units` should be a list of indices, not empty"),
        ({"units": [0], "directions": torch.eye(3)}, ValueError, "`directions` should be None when `units` is given"),
        ({"directions": torch.eye(4)}, ValueError, r"`directions` should have shape \[u, 3\]"),
        ({"directions": torch.ones(4, 1, 3)}, ValueError, r"`directions` should have shape \[u, 3\], or \[5, u, 3\]"),
        ({"directions": torch.zeros(5, 1, 3)}, ValueError, "`directions` should be non-zero"),
        ({"directions": [1.0, 0, 0]}, TypeError, "`directions` should be a torch.Tensor"),
        ({"labels": torch.arange(5)}, ValueError, r"`labels` should be a tensor of shape \[3\] or \[15\]"),
        ({"labels": [0, 1, 2]}, TypeError, r"`labels` should be a tensor of shape"),
        ({"labels": torch.zeros(3)}, ValueError, "`labels` should be int64"),
    ],
)
def test_gradient_fields_are_refused(arguments, error, message):
    defaults = {"model": ensemble_of(), "points": torch.zeros(5, 4).double()}
    given = defaults | arguments
    with pytest.raises(error, match=message):
        ge.gradient_fields(given.pop("model"), given.pop("points"), **given)


@pytest.mark.parametrize("shape", [(5, 3), (5, 5, 4)])
def test_points_that_do_not_fit_a_network_are_refused(shape):
    with pytest.raises(ValueError, match=r"`points` should have shape \[m, 4\]. Got a float64 tensor of shape"):
        ge.gradient_fields(ensemble_of()[0], torch.zeros(shape).double())


class Square(nn.Module):
    def forward(self, x):
        return x.square()


@pytest.mark.parametrize(
    ("model", "points", "message"),
    [
        (nn.Sequential(nn.Linear(4, 2)), torch.zeros(5, 3), "`points` should have 4 features"),
        (nn.Conv1d(2, 3, 2), torch.zeros(5, 3, 4), "`points` should fit the model"),
        (nn.Conv1d(2, 3, 2), torch.zeros(5, 2, 4).double(), "`points` should have the model's precision, torch"),
        (
            Square(),
            torch.full((5, 4), 1e30),
            "`points` should give finite values at 'output'. Got an overflow. Scale points",
        ),
    ],
)
def test_errors_of_other_modules_name_the_points(model, points, message):
    with pytest.raises(ValueError, match=message):
        ge.gradient_fields(model, points)


def test_ensembles_and_networks_that_are_not_finite_are_refused():
    ensemble = ensemble_of()
    with torch.no_grad():
        ensemble.output.weight[0] = torch.nan
    for model in (ensemble, ensemble[0]):
        with pytest.raises(ValueError, match=r"`model` should have finite parameters. Got NaN or infinity in"):
            ge.gradient_fields(model, torch.zeros(5, 4).double())
    with pytest.raises(ValueError, match=r"`labels` should be a tensor of shape \[3\]. Got a int64"):
        ge.gradient_fields(ensemble_of()[0], torch.zeros(5, 4).double(), labels=torch.arange(4))


@pytest.mark.parametrize(
    ("layer", "factor", "scale", "message"),
    [
        ("output", 1e308, 1, r"`points` should give finite gradients at 'hidden1'. Got an overflow. Scale"),
        ("output", 1e200, 1e200, "`points` should give finite values at 'output'"),
        ("hidden1.linear", 1e200, 1e200, "`points` should give finite activations at 'hidden1'"),
    ],
)
def test_overflow_is_refused(layer, factor, scale, message):
    ensemble = ensemble_of([4, 7, 3])
    with torch.no_grad():
        ensemble.get_submodule(layer).weight.mul_(factor)
    directions = torch.full((1, 3), 10.0 if factor == 1e308 else 1.0).double()
    for model in (ensemble, ensemble[0], nn.Sequential(ensemble[0].hidden1, ensemble[0].output)):
        names = {"wrt": "hidden1"} if not isinstance(model, nn.Sequential) else {"wrt": "0"}
        with pytest.raises(ValueError, match=message.replace("'hidden1'", repr(names["wrt"]))):
            ge.gradient_fields(model, torch.ones(5, 4).double() * scale, directions=directions, **names)


# regions


def patterns_by_hand(network, x, unit):
    """For each sample: which units of each hidden layer the unit's gradient passes through, and are on."""
    result = []
    for sample in x[:, None]:
        tape, a = [], sample
        for layer in list(network.children())[:-1]:
            before = layer.linear(a)
            a = layer.activation(before)
            tape.append((before, a))
        gradients = torch.autograd.grad(network.output(a)[0, unit], [after for _, after in tape])
        result.append(
            tuple(
                tuple(((g[0] != 0) & (before[0] > 0)).tolist()) for g, (before, _) in zip(gradients, tape, strict=True)
            )
        )
    return result


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU])
@pytest.mark.parametrize("widths", [(2, 6, 3), (2, 70, 2), (2, 5, 4, 3)])
def test_regions_are_the_patterns_that_a_unit_reads(widths, activation):
    network = ge.MLP(widths, activation, seed=1).double()
    with torch.no_grad():
        network.output.weight[0, ::2] = 0  # unit 0 reads half of the last hidden layer
        if len(widths) == 4:
            network.hidden2.linear.bias -= 0.3  # at some samples all of it is off
    x = torch.randn(80, 2).double()
    fields = ge.gradient_fields(network, x)
    counts = []
    for unit in range(widths[-1]):
        patterns, regions = patterns_by_hand(network, x, unit), fields.regions[unit].tolist()
        pairs = set(zip(patterns, regions, strict=True))
        assert len(pairs) == len(set(patterns)) == len(set(regions))  # one number to each pattern
        assert sorted(set(regions)) == list(range(len(set(regions))))
        for region in set(regions):
            gradients = fields.gradients[unit][fields.regions[unit] == region]
            assert_close(gradients, gradients[:1].expand_as(gradients))
        counts.append(len(set(regions)))
    assert 1 < counts[0] < counts[1]


def test_unit_that_reads_nothing_has_one_region():
    network = nn.Sequential(linear([[1, 0], [0, 1]]), nn.ReLU(), linear([[1, 1], [0, 0], [1, 0]]))
    x = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [2.0, -3.0], [-1.0, -1.0]], dtype=torch.float64)
    regions = ge.gradient_fields(network, x).regions
    assert [len(row.unique()) for row in regions] == [4, 1, 2]
    assert regions[0, 1] == regions[0, 3]
    assert regions[2, 0] == regions[2, 1] == regions[2, 3] != regions[2, 2] == regions[2, 4]


def test_colliding_numbers_do_not_merge_patterns():
    flags = torch.rand(2, 3, 40, 130) > 0.2
    flags[..., :100] = flags[:, :, :1, :100]  # of 30 units that differ
    flags[:, :, 20:] = flags[:, :, :20]  # every pattern twice
    words = np.concatenate([packed(flags.numpy()), packed(flags.numpy()[..., 50:])], axis=-1)
    exact = numbered(words)
    for mix in (lambda keys: keys[..., 0] * 0, lambda keys: keys[..., -1] % 3):
        other = numbered(words, mix)
        for one, two in zip(exact.flatten(0, 1), other.flatten(0, 1), strict=True):
            assert torch.equal(one[:, None] == one, two[:, None] == two)
    for row, bits in zip(exact.flatten(0, 1), flags.flatten(0, 1), strict=True):
        assert torch.equal(row[:, None] == row, (bits[:, None] == bits).all(-1))


# points


def test_grid_is_regular():
    assert ge.grid_points(5, 1).flatten().tolist() == [-1, -0.5, 0, 0.5, 1]
    points = ge.grid_points(27, 3)
    assert points.shape == (27, 3)
    assert len({tuple(p) for p in points.tolist()}) == 27
    assert set(points.flatten().tolist()) == {-1, 0, 1}
    assert ge.grid_points(10**6, 1).shape == (10**6, 1)
    assert ge.grid_points(4**6, 6).shape == (4**6, 6)


def test_sobol_points_fill_the_cube_evenly():
    points = ge.sobol_points(512, 3, seed=1)
    assert points.shape == (512, 3)
    assert float(points.abs().max()) <= 1
    octants = ((points > 0) * torch.tensor([1, 2, 4])).sum(1).bincount()
    assert octants.tolist() == [64] * 8  # a random draw would not be that even
    assert torch.equal(points, ge.sobol_points(512, 3, seed=1))
    assert torch.equal(points[:100], ge.sobol_points(100, 3, seed=1))
    assert not torch.equal(points, ge.sobol_points(512, 3, seed=2))


def test_sampled_points_are_distinct_rows():
    x = torch.arange(40.0).view(20, 2)
    points = ge.sample_points(x, 8, seed=0)
    rows = points[:, 0].div(2).long()
    assert torch.equal(points, x[rows])
    assert len(rows.unique()) == 8
    assert not torch.equal(points, ge.sample_points(x, 8, seed=1))
    assert torch.equal(ge.sample_points(x, 20).sort(0).values, x)


def test_draws_leave_the_global_generator_alone():
    before, fields = torch.get_rng_state(), make_fields()
    ge.sobol_points(8, 2, seed=3)
    ge.sample_points(X, 5, seed=3)
    ge.field_mask(fields, 0.5, seed=3)
    ge.field_mask(fields, 0.5, seed=3, kind="regions")
    fields.subsample(5, seed=3)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("function", "arguments", "error", "message"),
    [
        (
            ge.grid_points,
            (10, 2),
            ValueError,
            "`m` should be a number of points to the power of dim=2. Got 10. Pass 9 ",
        ),
        (ge.grid_points, (3, 2), ValueError, r"Got 3. Pass 4 or 9, or use sobol_points"),
        (ge.grid_points, (1, 2), ValueError, "`m` should be at least 2"),
        (ge.grid_points, (4, 0), ValueError, "`dim` should be at least 1"),
        (ge.grid_points, (4.0, 1), TypeError, "`m` should be an integer"),
        (ge.sobol_points, (0, 1), ValueError, "`m` should be at least 1"),
        (ge.sobol_points, (4, 10**6), ValueError, r"`dim` should be at most 21,201, as far as"),
        (ge.sobol_points, (4, 2, -1), ValueError, "`seed` should be at least 0"),
        (ge.sample_points, (X, 11), ValueError, "`m` should be at most 10, the rows that there are. Got 11"),
        (ge.sample_points, (X, 0), ValueError, "`m` should be at least 1"),
        (ge.sample_points, ([1], 1), TypeError, "`x` should be a torch.Tensor"),
        (ge.sample_points, (X, 3, 0.5), TypeError, "`seed` should be an integer"),
    ],
)
def test_points_are_refused(function, arguments, error, message):
    with pytest.raises(error, match=message):
        function(*arguments)


# masks


@pytest.mark.parametrize("own", [True, False])
def test_masked_points_are_the_fraction_asked_for(own):
    fields = make_fields(u=200, m=30, own=own)
    mask = ge.field_mask(fields, 0.4, seed=1)
    assert mask.dtype == torch.bool
    assert mask.sum(1).eq(12).all()
    assert 50 < int(mask.sum(0).min()) <= int(mask.sum(0).max()) < 110  # 80 expected, 7 the deviation
    assert torch.equal(mask, ge.field_mask(fields, 0.4, seed=1))
    assert not torch.equal(mask, ge.field_mask(fields, 0.4, seed=2))
    assert ge.field_mask(fields, 1e-9).sum(1).eq(1).all()
    assert ge.field_mask(fields, 0.9999).sum(1).eq(29).all()


@pytest.mark.parametrize("fraction", [0.001, 0.4, 0.999])
def test_masked_regions_are_never_split(fraction):
    ensemble, x = ge.MLPEnsemble([2, 8, 3], 20, seed=0), torch.randn(100, 2)
    fields = ge.gradient_fields(ensemble, x)
    masks = [ge.field_mask(fields, fraction, seed, kind="regions") for seed in range(5)]
    for mask in masks:
        assert bool(mask.any(1).all())
        assert not bool(mask.all(1).any())
        same = fields.regions[:, :, None] == fields.regions[:, None]
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


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((3, 0.5), TypeError, "`fields` should be GradientFields. Got 3"),
        ((make_fields(), 0.0), ValueError, "`fraction` should be finite, above 0"),
        ((make_fields(), 1.0), ValueError, "`fraction` should be below 1"),
        ((make_fields(), "half"), TypeError, "`fraction` should be a number"),
        ((make_fields(), 0.5, -1), ValueError, "`seed` should be at least 0"),
        ((make_fields(), 0.5, 0, "rows"), ValueError, "`kind` should be one of 'points', 'regions'"),
        ((make_fields(m=1), 0.5), ValueError, "`fields` should have at least two points of each unit. Got 1"),
        ((bare(), 0.5, 0, "regions"), ValueError, "`fields` should have regions with kind='regions'. Got None"),
        (
            (make_fields(regions=torch.arange(3)[:, None] * (torch.arange(10) > 4)), 0.5, 0, "regions"),
            ValueError,
            r"`fields` should have at least two regions in every unit. Got one in units 0\. ",
        ),
    ],
)
def test_masks_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        ge.field_mask(*arguments)
