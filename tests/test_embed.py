import copy
import dataclasses
import itertools
import re
import resource

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.estimator_checks import parametrize_with_checks

import gradembed as ge
from gradembed.embed._coordinates import Coordinates
from gradembed.embed._descriptor import SHRINK, Discount
from gradembed.embed._features import Features, correlation

INVARIANCES = ("none", "permutation", "orthogonal", "linear")
CHANGES = ("permute", "rotate", "rescale", "remix")
KEPT = dict(zip(INVARIANCES, ((), CHANGES[:1], CHANGES[:2], CHANGES), strict=True))  # which leave which as it is


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def rotation(d, seed=0):
    return torch.linalg.qr(torch.randn(d, d, generator=generator(seed), dtype=torch.float64))[0].float()


def change(d, name, seed=0):
    """A matrix of a group, as float32."""
    if name == "permute":
        return torch.eye(d)[torch.randperm(d, generator=generator(seed))]
    if name == "rotate":
        return rotation(d, seed)
    if name == "rescale":
        return torch.diag(torch.rand(d, generator=generator(seed)) * 4 + 0.25)
    return rotation(d, seed) * torch.linspace(0.5, 2, d) @ rotation(d, seed + 1)


def wave_fields(n_functions=4, n_copies=6, dim=8, m=200, rotate=True, seed=0, shared=False):
    """Noiseless fields of functions, each copy at its own points (and turned): groups are the copies."""
    waves, g = ge.datasets.random_waves(n_functions, dim, seed=seed), generator(seed + 1)
    labels = torch.arange(n_functions).repeat_interleave(n_copies)
    groups = torch.arange(n_copies).repeat(n_functions)
    points = (torch.rand(1 if shared else len(labels), m, dim, generator=g) * 2 - 1).expand(len(labels), -1, -1)
    pairs = [(waves[int(i)].gradient(x)[0], waves[int(i)](x)[0]) for i, x in zip(labels, points, strict=True)]
    gradients, values = map(torch.stack, zip(*pairs, strict=True))
    fields = ge.GradientFields(points[0] if shared else points, gradients, values, labels, groups)
    return fields.rotated(torch.stack([rotation(dim, i) for i in range(len(labels))])) if rotate else fields


def at(fields, points):
    """Fields at some of their own points."""
    kept = {name: getattr(fields, name)[:, points] for name in ("points", "gradients", "values")}
    return dataclasses.replace(fields, **kept)


def embedder(**settings):
    return ge.GradientFieldEmbedder(**{"n_components": 4, "max_steps": 30, "progress": False} | settings)


def moved(rows, others):
    return float(np.abs(rows - others).max() / np.abs(rows).max())


def nearest(a, b):
    return ((a[:, None] - b[None]) ** 2).sum(-1).argmin(1)


@pytest.mark.parametrize("invariance", INVARIANCES)
@pytest.mark.parametrize("group", CHANGES)
def test_a_change_of_basis_moves_a_descriptor_only_outside_its_group(invariance, group):
    fields = wave_fields(m=100, rotate=False)
    descriptor = ge.FieldDescriptor(invariance).fit(fields)
    others = descriptor.transform(fields.transformed(change(fields.dim, group)))
    distance = moved(descriptor.transform(fields), others)
    assert distance < 1e-4 if group in KEPT[invariance] else distance > 1e-2


@pytest.mark.parametrize("kind", ["permute", "rescale"])
def test_twins_of_a_network_are_recognized(kind):
    """The same functions, the basis of a hidden layer changed."""
    x, matrix = torch.randn(150, 5, generator=generator(), dtype=torch.float64), change(12, kind).double()
    networks = [ge.MLP([5, 12, 8, 3], seed=seed).double() for seed in range(4)]
    twins = copy.deepcopy(networks)
    for twin in twins:
        first, second = twin.hidden1.linear, twin.hidden2.linear
        with torch.no_grad():
            first.weight.copy_(matrix @ first.weight)
            first.bias.copy_(matrix @ first.bias)
            second.weight.copy_(second.weight @ torch.linalg.inv(matrix))
    assert torch.allclose(networks[0](x), twins[0](x))
    fields = [[ge.gradient_fields(network, x, wrt="hidden1") for network in some] for some in (networks, twins)]
    one, other = map(ge.GradientFields.concatenate, fields)
    for invariance in INVARIANCES:
        descriptor = ge.FieldDescriptor(invariance).fit(one)
        distance = moved(descriptor.transform(one), descriptor.transform(other))
        assert distance < 1e-4 if kind in KEPT[invariance] else distance > 1e-2
    fitted = embedder(invariance="linear").fit(one)
    assert nearest(fitted.transform(other), fitted.embedding_).tolist() == list(range(len(one)))


@pytest.mark.parametrize("invariance", INVARIANCES)
def test_nearest_neighbors_of_the_learnt_embedding_change_only_without_invariance(invariance):
    fields = wave_fields(m=100, rotate=invariance != "none")
    fitted = embedder(invariance=invariance).fit(fields)
    turned = fields.transformed(change(8, (KEPT[invariance] or ["rotate"])[-1]))
    is_same = nearest(fitted.transform(turned), fitted.embedding_).tolist() == list(range(len(fields)))
    assert is_same is (invariance != "none")


@pytest.mark.parametrize("invariance", INVARIANCES)
def test_order_scale_offset_and_chunks_do_not_matter(invariance, monkeypatch):
    fields = wave_fields(m=300)
    descriptor = ge.FieldDescriptor(invariance, n_features=64, origin=False).fit(fields)
    rows = descriptor.transform(fields)
    shuffled = at(fields, torch.randperm(300, generator=generator()))
    scaled = dataclasses.replace(fields, gradients=3 * fields.gradients, values=3 * fields.values + 7)
    flipped = dataclasses.replace(fields, gradients=-fields.gradients, values=-fields.values)
    assert max(moved(rows, descriptor.transform(same)) for same in (shuffled, scaled)) < 1e-4
    assert moved(rows, descriptor.transform(flipped)) > 1e-2
    monkeypatch.setattr("gradembed.embed._features.CHUNK", 1)
    monkeypatch.setattr("gradembed.embed._coordinates.AT_A_TIME", 5 * 300 * 8)
    assert moved(rows, descriptor.transform(fields)) < 1e-5


EVERY = {*CHANGES, "shift", "offset"}
BLIND = {  # what leaves a block alone, in coordinates that are not whitened
    "waves": {"permute", "rotate", "shift", "offset"},
    "reach": EVERY,
    "step": EVERY,
    "near": {"permute", "rotate", "shift", "offset"},
    "pairs": {"permute", "rotate", "shift", "offset"},
    "level": {*CHANGES, "shift"},
    "floor": {*CHANGES},
    "coordinates": {"permute", "shift", "offset"},
}


def changed(fields, name):
    if name == "offset":
        return dataclasses.replace(fields, values=fields.values + 1)
    if name == "shift":
        return dataclasses.replace(fields, points=fields.points + 0.5)
    return fields.transformed(change(8, name))


@pytest.mark.parametrize("invariance", ["permutation", "linear"])
@pytest.mark.parametrize("name", sorted(EVERY))
def test_each_block_is_blind_to_its_group_and_to_no_more(invariance, name):
    fields = wave_fields(m=100, rotate=False)
    descriptor = ge.FieldDescriptor(invariance).fit(fields)
    before, after = (descriptor.blocks(descriptor.transform(some)) for some in (fields, changed(fields, name)))
    blind = {**BLIND, "waves": EVERY, "pairs": EVERY} if invariance == "linear" else BLIND
    assert tuple(before) == descriptor.block_names_
    assert set(before) == set(BLIND) - ({"near", "coordinates"} if invariance == "linear" else set())
    for block, rows in before.items():
        distance = moved(rows, after[block])
        assert distance < 1e-3 if name in blind[block] else distance > 1e-2, block


def test_without_an_origin_no_block_sees_shifts_and_offsets():
    fields = wave_fields(m=100)
    descriptor = ge.FieldDescriptor(origin=False).fit(fields)
    for name in ("shift", "offset"):
        assert moved(descriptor.transform(fields), descriptor.transform(changed(fields, name))) < 1e-3


def oracle_frame(a, g, f):
    """The frame of four mean gradients, by a singular value decomposition."""
    v = np.stack([f**0, f, f**2 - 1, np.tanh(1.5 * f)]) @ g / len(a)
    left, s, right = np.linalg.svd(v, full_matrices=False)
    return left @ np.diag(s / np.sqrt(s**2 + 0.25)) @ right


def oracle_blocks(a, g, f, zero, offset, features):
    """The blocks of one unit, point by point and pair by pair, in float64; a centered, f standardized."""
    waves = {block.name: block.waves for block in features.blocks}
    wave = {k: lambda t, w=w: np.cos(np.array(t) @ w.weights.numpy() + w.phases.numpy()) for k, w in waves.items()}
    m, frame = len(a), oracle_frame(a, g, f)
    order = np.argsort(f)
    bins = [order[[i for i in range(m) if i * 8 // m == b]] for b in range(8)]
    gap = np.array([[(x - y) @ (x - y) for y in a] for x in a])
    gap /= np.sort(gap[order][:, order].ravel())[(m * m - 1) // 2]  # the lower median

    def binned(number):
        return np.array([np.mean([number(i, j) for i in one for j in two]) for one in bins for two in bins])

    covariance = a.T @ a / m
    tokens = []
    for one, two in features.draws.double().numpy().T:
        i, j = order[int(np.float32(one) * m)], order[int(np.float32(two) * m)]
        token = [f[i], f[j], g[i] @ (a[j] - a[i]), g[j] @ (a[i] - a[j]), g[i] @ covariance @ g[j]]
        tokens.append([*token, *([g[i] @ g[j], 2 * np.sqrt(gap[i, j])] if "near" in waves else [])])
    points = [[f[i], a[i] @ g[i], np.sqrt(g[i] @ g[i]), *(frame @ a[i]), *(frame @ g[i])] for i in range(m)]
    grid = np.linspace(0, 1, 34)[1:-1]
    near = [binned(lambda i, j, c=c: np.exp(-c * gap[i, j])) for c in (2.0, 0.5)]
    return {
        "waves": wave["waves"](points).mean(0),
        "reach": np.sqrt(binned(lambda i, j: (g[i] @ a[j]) ** 2)),
        "step": binned(lambda i, j: np.tanh(g[i] @ (a[j] - a[i]))),
        "near": np.concatenate(near),
        "pairs": wave["pairs"](tokens).mean(0),
        "level": np.quantile(f + offset, grid),
        "floor": np.quantile([f[i] + offset - g[i] @ (a[i] - zero) for i in range(m)], grid),
    }


@pytest.mark.parametrize("invariance", ["orthogonal", "linear"])
def test_features_are_those_of_the_formula(invariance):
    fields = wave_fields(2, 2, dim=5, m=40)
    fields = dataclasses.replace(fields, values=fields.values + 2)
    descriptor = ge.FieldDescriptor(invariance, n_features=20).fit(fields)
    features = descriptor.features_
    a, g = fields.points.double().numpy(), fields.gradients.double().numpy()
    f, scale = fields.values.double().numpy(), 1 / np.sqrt(((a - a.mean(1, keepdims=True)) ** 2).mean())
    rows = []
    for i in range(4):
        center, spread = a[i].mean(0), f[i].std()
        matrix = scale * np.eye(5)
        if invariance == "linear":  # any square root of the inverse covariance will do
            matrix = np.linalg.cholesky(np.linalg.inv((a[i] - center).T @ (a[i] - center) / 40))
        field = (a[i] - center) @ matrix, g[i] @ np.linalg.inv(matrix).T / spread, (f[i] - f[i].mean()) / spread
        rows.append(oracle_blocks(*field, -center @ matrix, f[i].mean() / spread, features))
    for name, block in descriptor.blocks(descriptor.transform(fields)).items():
        expected = np.stack([row[name] for row in rows])
        expected = expected - expected.mean(0)
        expected = expected / np.sqrt((expected**2).sum(1).mean() / descriptor.reliability_[name])
        np.testing.assert_allclose(block, expected, atol=2e-4, err_msg=name)


def test_a_block_weighs_what_two_halves_of_the_points_agree_on():
    """Against two descriptions of half the points each, whose center and spread are a little different."""
    fields = wave_fields(6, 4, dim=16, m=300)
    descriptor = ge.FieldDescriptor().fit(fields)
    chosen = torch.randperm(300, generator=generator()) < 150
    halves = [
        descriptor.blocks(descriptor.transform(ge.GradientFields(x[:, some], g[:, some], f[:, some])))
        for x, g, f in [(fields.own_points(), fields.gradients, fields.values)]
        for some in (chosen, ~chosen)
    ]
    for name, block in descriptor.blocks(descriptor.transform(fields)).items():
        r = descriptor.reliability_[name]
        assert (block**2).sum(1).mean() == pytest.approx(r, rel=1e-3)
        one, two = ((half[name] - half[name].mean(0)).ravel() for half in halves)
        assert r == pytest.approx(one @ two / np.sqrt(one @ one * (two @ two)), abs=0.2)
    assert descriptor.reliability_["near"] < 0.3 < 0.8 < descriptor.reliability_["floor"]


def test_halves_of_different_units_do_not_agree():
    rows = torch.randn(40, 30, generator=generator())
    assert correlation(rows, rows) == pytest.approx(1)
    assert correlation(rows, rows.roll(1, 0)) < 0.1
    assert correlation(rows, -rows) == 0.01  # no block is lost
    assert correlation(0 * rows, 0 * rows) == 1  # nothing to be weighed


def test_the_more_references_the_smaller_the_error(monkeypatch):
    """What subsampling pairs costs: with a quarter of the points, step moves by less than a third of its spread."""
    fields = wave_fields(m=256)
    monkeypatch.setattr("gradembed.embed._blocks.REFERENCES", 256)
    descriptor = ge.FieldDescriptor().fit(fields)
    rows = descriptor.blocks(descriptor.transform(fields))["step"]
    errors = []
    for n in (32, 64, 128, 256):
        monkeypatch.setattr("gradembed.embed._blocks.REFERENCES", n)
        fewer = descriptor.blocks(descriptor.transform(fields))["step"]
        errors.append(np.sqrt(((rows - fewer) ** 2).sum(1).mean() / (rows**2).sum(1).mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] == 0 < errors[1] < 1 / 3


def two_groups(n=12, d=40):
    """Rows of n functions in each of eight groups, which differ by a shift and along five directions."""
    functions = torch.randn(n, d, generator=generator(), dtype=torch.float64)
    nuisance = 3 * torch.randn(8 * n, 5, generator=generator(1), dtype=torch.float64)
    nuisance = nuisance @ torch.randn(5, d, generator=generator(2), dtype=torch.float64) / 2
    shifts = 2 * torch.randn(8, d, generator=generator(3), dtype=torch.float64).repeat_interleave(n, 0)
    return functions.repeat(8, 1) + nuisance + shifts, torch.arange(8).repeat_interleave(n), torch.arange(n).repeat(8)


def test_what_differs_between_groups_is_discounted():
    rows, groups, functions = two_groups()
    discount = Discount(rows, groups)
    plain, centered = (ge.metrics.retrieval(z, functions, groups).accuracy for z in (rows, discounted(rows, groups)))
    found = ge.metrics.retrieval(discount(rows, groups), functions, groups).accuracy
    assert found > centered + 0.1
    assert centered > plain
    assert torch.equal(discount(rows, groups), discount(rows, groups * 7 - 3))  # whatever groups are called
    shifted = rows + torch.randn(8, rows.shape[1], generator=generator(4), dtype=torch.float64)[groups]
    assert torch.allclose(discount(shifted, groups), discount(rows, groups), atol=1e-9)


def discounted(rows, groups):
    return torch.cat([rows[groups == k] - rows[groups == k].mean(0) for k in groups.unique()])


def test_the_discount_is_that_of_the_formula():
    rows, groups, _ = two_groups(n=5, d=7)
    centered = discounted(rows, groups).numpy()
    differences = []
    for i in range(40):
        for j in range(i + 1, 40):
            if groups[i] == groups[j]:
                continue
            one = min(np.flatnonzero(groups == groups[j]), key=lambda k: np.linalg.norm(centered[i] - centered[k]))
            two = min(np.flatnonzero(groups == groups[i]), key=lambda k: np.linalg.norm(centered[j] - centered[k]))
            if (one, two) == (j, i):
                differences.append(centered[i] - centered[j])
    w = np.array(differences).T @ np.array(differences) / len(differences) / 2
    variances, vectors = np.linalg.eigh(w / (SHRINK * np.trace(w)) + np.eye(7))
    expected = centered @ vectors / np.sqrt(variances) @ vectors.T
    np.testing.assert_allclose(Discount(rows, groups)(rows, groups).numpy(), expected, atol=1e-9)


def test_whitening_keeps_pairings_and_drops_what_is_not_there():
    fields = wave_fields(2, 2, dim=5, m=80)
    fields.points[..., 0] = 3.0  # a coordinate in which no point differs
    canonical = Coordinates(fields, "linear").transform(fields)
    size = torch.linalg.eigvalsh(canonical.points.mT @ canonical.points / 80)
    assert torch.allclose(size[:, 1:], torch.ones(()), atol=1e-4)
    assert float(size[:, 0].abs().max()) < 1e-6
    centered = fields.points - fields.points.mean(1, keepdim=True)
    expected = torch.einsum("umd,und->umn", fields.gradients, centered) / fields.amplitudes()[:, None, None]
    assert torch.allclose(canonical.gradients @ canonical.points.mT, expected, atol=1e-4)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("invariance", INVARIANCES)
def test_the_inverse_undoes_the_coordinates(invariance, shared, monkeypatch):
    monkeypatch.setattr("gradembed.embed._coordinates.AT_A_TIME", 3 * 80 * 5)
    fields = wave_fields(2, 4, dim=5, m=80, rotate=not shared, shared=shared)
    canonical = Coordinates(fields, invariance).transform(fields)
    assert torch.allclose(canonical.inverse_transform(canonical.gradients).float(), fields.gradients, atol=1e-4)
    assert torch.allclose(canonical.transform(fields.own_points()), canonical.points, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_wide_layers_need_no_square_matrices(shared):
    fields = ge.GradientFields(torch.randn(*([] if shared else [4]), 6, 20_000), torch.randn(4, 6, 20_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fitted = embedder(invariance="none", width=8, max_steps=2, n_features=64).fit(fields)
    assert fitted.predict_gradients(fields, fields.points).shape == (4, 6, 20_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000  # kB; one matrix alone has 1,600,000


@pytest.mark.parametrize("invariance", ["orthogonal", "linear"])
@pytest.mark.parametrize("function", ["bowl", "plane", "saddle"])
def test_degenerate_fields_are_described_all_the_same(invariance, function):
    """Equal eigenvalues, vanishing odd moments, rank one: nothing jumps and nothing is NaN."""
    x = torch.randn(3, 300, 6, generator=generator())
    signs = torch.tensor([1.0, 1, 1, -1, -1, -1]) if function == "saddle" else torch.ones(6)
    gradients = torch.ones_like(x) if function == "plane" else x * signs
    values = x.sum(2) if function == "plane" else (x.square() * signs).sum(2) / 2
    fields = ge.GradientFields(x, gradients, values)
    descriptor = ge.FieldDescriptor(invariance).fit(fields)
    rows = descriptor.transform(fields)
    assert moved(rows, descriptor.transform(fields.rotated(rotation(6)))) < 1e-4
    fitted = embedder(invariance=invariance, max_steps=10).fit(fields)
    answers = rows, fitted.embedding_, fitted.predict_gradients(fields, x).numpy()
    assert all(np.isfinite(answer).all() for answer in answers)


@pytest.mark.parametrize(("invariance", "shared"), [("linear", False), ("none", True), ("none", False)])
def test_embeddings_are_those_of_whole_fields(invariance, shared):
    fields = wave_fields(m=50, rotate=False, shared=shared)
    fitted = embedder(invariance=invariance).fit(fields)
    assert fitted.encoder_kind_ == ("flat" if shared else "set")
    np.testing.assert_allclose(fitted.transform(fields), fitted.embedding_, atol=1e-5)
    np.testing.assert_allclose(fitted.transform(fields[3:5]), fitted.embedding_[3:5], atol=1e-5)
    for point in range(0, 50, 7):  # every point counts
        changed = fields.gradients.clone()
        changed[:, point] += 1
        assert moved(fitted.embedding_, fitted.transform(dataclasses.replace(fields, gradients=changed))) > 1e-4


def test_only_what_is_seen_reaches_the_encoder():
    fields = wave_fields(m=50)
    mask = ge.field_mask(fields, 0.4)
    other = fields.gradients + mask[..., None] * torch.randn(fields.gradients.shape, generator=generator())
    changed = dataclasses.replace(fields, gradients=other)
    for invariance, bare in itertools.product(INVARIANCES, (False, True)):
        given = [dataclasses.replace(f, values=None) if bare else f for f in (fields, changed)]
        coordinates = Coordinates(given[0], invariance)
        features = Features(invariance, given[0], is_flat=False, n=64, seed=0)
        one, two = (coordinates.transform(f) for f in given)
        seen = [features.transform(f, ~mask[None]) for f in (one, two)]
        assert torch.allclose(*seen, atol=1e-4)
        assert not torch.allclose(features.transform(one), features.transform(two), atol=1e-2)


def test_the_same_seed_gives_the_same_and_the_global_generator_stays():
    fields = wave_fields(m=50)
    before = torch.random.get_rng_state()
    bare = dataclasses.replace(fields, labels=None, groups=None)  # which are not looked at
    one, again, other = (embedder(random_state=seed).fit(some) for seed, some in ((3, fields), (3, bare), (4, fields)))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert np.array_equal(one.embedding_, again.embedding_)
    assert np.array_equal(one.loss_curve_, again.loss_curve_)
    assert not np.array_equal(one.embedding_, other.embedding_)
    assert (len(one.loss_curve_), one.held_out_curve_.shape, one.n_features_in_) == (30, (1, 2), 8)


def test_decoding_follows_the_basis_and_the_scale():
    fields = wave_fields(m=200)
    fitted, matrix = embedder(invariance="linear", max_steps=150).fit(fields), change(8, "remix")
    asked = fields.points[:, :20]
    moved_fields = dataclasses.replace(fields, gradients=5 * fields.gradients, values=5 * fields.values)
    predicted = fitted.predict_gradients(fields, asked)
    remixed = fitted.predict_gradients(moved_fields.transformed(matrix), asked @ matrix.T)
    # the signs of the axes and their turn are searched for again, so a few units may end elsewhere
    error = (remixed @ matrix / 5 - predicted).square().sum((1, 2)) / predicted.square().sum((1, 2))
    assert float(error.median()) < 1e-3


def test_embeddings_find_the_function_where_raw_gradients_do_not():
    fields = wave_fields(n_functions=5, n_copies=8, dim=8, m=400)
    seen, unseen = at(fields, slice(300)), at(fields, slice(300, None))
    bare = dataclasses.replace(seen, values=None)  # described by their gradients
    fitted, raw = embedder(n_components=6, max_steps=250).fit(seen), seen.gradients.flatten(1)
    probes = [ge.metrics.linear_probe(z, fields.labels, groups=fields.groups) for z in (fitted.embedding_, raw)]
    assert probes[0].accuracy > 0.9 > probes[1].accuracy + 0.3
    described = [ge.FieldDescriptor().fit_transform(some) for some in (seen, bare)]
    for z in (*described, fitted.embedding_, fitted.transform(seen.subsample(200))):
        assert ge.metrics.retrieval(z, fields.labels, fields.groups).accuracy > 0.9
    assert float(ge.metrics.field_r2(fitted.predict_gradients(seen, unseen.points), unseen.gradients).median()) > 0.4
    assert np.mean(fitted.loss_curve_[-20:]) < 0.7 * np.mean(fitted.loss_curve_[:20])


def test_a_static_grid_is_decoded():
    waves, x = ge.datasets.random_waves(4, 1), ge.grid_points(40, 1)
    gradients = waves.gradient(x).repeat_interleave(6, 0)
    gradients = gradients + 0.05 * torch.randn(gradients.shape, generator=generator())
    fields = ge.GradientFields(x, gradients, waves(x).repeat_interleave(6, 0))
    fitted = embedder(invariance="none", max_steps=250).fit(fields)
    assert fitted.encoder_kind_ == "flat"
    assert float(ge.metrics.field_r2(fitted.predict_gradients(fields, x), gradients).median()) > 0.8


@pytest.mark.parametrize("estimator", [ge.FieldDescriptor("orthogonal", n_features=32), embedder(n_views=3)])
def test_conventions_of_scikit_learn(estimator):
    fields = wave_fields(2, 2, m=20)
    twin = clone(estimator)
    assert twin.get_params() == estimator.get_params()
    with pytest.raises(NotFittedError):
        twin.transform(fields)
    assert twin.fit(fields) is twin is twin.set_params(random_state=1)


def test_settings_may_be_numbers_of_numpy():
    fields = wave_fields(2, 2, m=20)
    given = {"n_components": 3, "max_steps": 4, "width": 8, "n_features": 16, "n_views": 2, "random_state": 2}
    numbers = {name: np.int64(value) for name, value in given.items()} | {"mask_fraction": np.float64(0.4)}
    assert np.array_equal(embedder(**given).fit_transform(fields), embedder(**numbers).fit_transform(fields))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([ge.RowEmbedder(max_steps=20)])
def test_rows_pass_the_checks_of_scikit_learn(estimator, check):
    check(estimator)  # raises what is wrong
    assert estimator.get_params() == ge.RowEmbedder(max_steps=20).get_params()  # and no fit changes a setting


def test_rows_of_the_same_kind_lie_together():
    x, kinds = np.linspace(-1, 1, 30), np.repeat([1, 3, 6], 5)
    rows = np.array([np.cos(k * x + 0.1 * i) for i, k in enumerate(kinds)])
    fitted = ge.RowEmbedder(n_components=3, max_steps=200).fit(rows)
    distance = ((fitted.embedding_[:, None] - fitted.embedding_[None]) ** 2).sum(-1) + 1e9 * np.eye(15)
    assert (kinds[distance.argmin(1)] == kinds).all()
    assert np.array_equal(fitted.transform(rows), fitted.embedding_)
    assert fitted.loss_curve_[-1] < 0.7 * fitted.loss_curve_[0]


TRAINED = [(ge.RowEmbedder(2, max_steps=5), np.eye(6)), (embedder(max_steps=5), wave_fields(2, 2, m=20))]


@pytest.mark.parametrize(("estimator", "given"), TRAINED)
def test_diverging_training_is_refused_and_leaves_the_estimator_as_it_was(estimator, given):
    message = r"`learning_rate` should be small enough to converge. Got 1e\+30, with which .* Pass a smaller one."
    for _ in range(2):  # not yet fitted, and fitted
        before = dict(vars(estimator.set_params(learning_rate=1e30)))
        with pytest.raises(FloatingPointError, match=message):
            estimator.fit(given)
        assert vars(estimator) == before
        estimator.set_params(learning_rate=3e-3).fit(given)


SHARED = wave_fields(2, 2, dim=3, m=20, rotate=False, shared=True)
OWN, WIDER = wave_fields(2, 2, dim=3, m=20), wave_fields(2, 2, dim=4, m=20)
CONSTANT = dataclasses.replace(SHARED, values=torch.ones(4, 20))
REFUSED = {  # with a word of their own; the rest is in the table of abuses
    "`encoder` should be 'set' or 'auto' with an invariance": lambda _: embedder(encoder="flat").fit(SHARED),
    "or own points. Got 'flat'": lambda _: embedder(encoder="flat", invariance="none").fit(OWN),
    "have 3 dimensions and values, as in fit. Got 4 dimensions and values": lambda fitted: fitted.transform(WIDER),
    "Got 3 dimensions and no values": lambda fitted: fitted.transform(dataclasses.replace(SHARED, values=None)),
    "`fields` should have the shared points of fit. Got other points": lambda fitted: fitted.transform(OWN),
    "should vary at the points of every unit. Got constant units [0, 1": lambda fitted: fitted.transform(CONSTANT),
}


@pytest.mark.parametrize("estimator", [ge.FieldDescriptor("none"), embedder(invariance="none", max_steps=1)])
@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused_is_said(estimator, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        REFUSED[message](estimator.fit(SHARED))


GROUPS = {  # what cannot be discounted
    "have groups of two or more units. Got no groups": lambda f: dataclasses.replace(f, groups=None),
    "have groups of two or more units. Got a group of one unit": lambda f: dataclasses.replace(
        f, groups=torch.arange(4)
    ),
    "have two groups to be compared. Got one": lambda f: dataclasses.replace(f, groups=torch.zeros(4).long()),
}


@pytest.mark.parametrize("message", GROUPS)
def test_groups_that_cannot_be_discounted_are_refused_with_a_remedy_that_works(message):
    fields, descriptor = GROUPS[message](OWN), ge.FieldDescriptor(n_features=16, discount_groups=True)
    with pytest.raises(ValueError, match=re.escape(message) + ".*Pass discount_groups=False"):
        descriptor.fit(fields)
    assert not hasattr(descriptor, "block_names_")
    assert descriptor.set_params(discount_groups=False).fit_transform(fields).shape[0] == 4


def test_rows_of_another_width_have_no_blocks():
    descriptor = ge.FieldDescriptor(n_features=16).fit(OWN)
    rows = descriptor.transform(OWN)
    assert np.array_equal(np.concatenate(list(descriptor.blocks(rows).values()), 1), rows)
    with pytest.raises(ValueError, match="`rows` should have shape"):
        descriptor.blocks(rows[:, :-1])
    with pytest.raises(NotFittedError):
        ge.FieldDescriptor().blocks(rows)


def test_a_fitted_discount_is_applied_to_other_units():
    fields = wave_fields(4, 6, m=60)
    descriptor = ge.FieldDescriptor(n_features=32, discount_groups=True).fit(fields)
    half = fields[fields.groups < 3]
    np.testing.assert_allclose(descriptor.transform(half), descriptor.transform(fields)[fields.groups < 3], atol=1e-6)
    plain = ge.FieldDescriptor(n_features=32).fit_transform(fields)
    assert descriptor.transform(fields).shape == plain.shape
    assert moved(plain, descriptor.transform(fields)) > 1e-2
