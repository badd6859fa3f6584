"""Networks on groups, what their units read, and descriptors that are blind to a symmetry named by its orders."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from sklearn.base import clone

import gradembed as ge
from gradembed.embed._orbits import Orbits

S3 = list(itertools.permutations(range(3)))
PUBLISHED = os.environ.get("GRADEMBED_DATA", "")  # read before the tests hide it


def table_of(elements):
    """Multiplication table of permutations, p·q = p after q."""
    return torch.tensor([[elements.index(tuple(p[i] for i in q)) for q in elements] for p in elements])


def cyclic(n):
    return (torch.arange(n)[:, None] + torch.arange(n)) % n


def translations(table):
    """What networks on a group would say their symmetries are."""
    labels = torch.zeros(1, 1, dtype=torch.int64)
    return ge.datasets.GroupNetworks(
        "", "", table, ge.MLPEnsemble([2, 1, 1], 1), labels, labels.double(), labels[0]
    ).symmetries


# What units read


@pytest.mark.parametrize(("table", "dims"), [
    (cyclic(5), [1, 2, 2]), (cyclic(6), [1, 1, 2, 2]), (table_of(S3), [1, 1, 4]),
    (table_of([p for p in itertools.permutations(range(4)) if np.linalg.det(np.eye(4)[list(p)]) > 0]), [1, 2, 9]),
    (table_of(list(itertools.permutations(range(4)))), [1, 1, 4, 9, 9]),
    (torch.zeros(1, 1, dtype=torch.int64), [1]),
], ids=["C5", "C6", "S3", "A4", "S4", "trivial"])  # fmt: skip
def test_components_have_the_dimensions_of_the_character_tables(table, dims):
    n, generator = len(table), torch.Generator().manual_seed(0)
    bases = [torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0] for _ in range(2)]
    labels = [ge.datasets.component_labels(basis, table, least_purity=0)[0] for basis in bases]
    assert all(((some >= 0) & (some < len(dims))).all() for some in labels)
    network = ge.datasets._groups._components(table)
    assert network[1].bincount().tolist() == dims
    assert torch.allclose(network[0][:, network[1] == 0].abs(), torch.full((n, 1), n**-0.5, dtype=torch.float64))


def test_frequencies_are_told_apart_and_the_sign_of_s3_from_its_plane():
    table, n = cyclic(12), 12
    waves = torch.stack([(2 * torch.pi * k * torch.arange(n) / n + k).cos() for k in range(7) for _ in range(2)])
    labels, purity = ge.datasets.component_labels(torch.cat([waves, 3 * waves], 1), table)
    assert labels.view(7, 2).diff(dim=1).abs().max() == 0
    assert len(labels.unique()) == 7
    assert purity.min() > 1 - 1e-6
    signs = torch.tensor([float(np.linalg.det(np.eye(3)[list(p)])) for p in S3])
    place = torch.tensor([float(p[0]) for p in S3])
    labels, purity = ge.datasets.component_labels(torch.stack([signs, place - 1, torch.ones(6)]), table_of(S3))
    assert labels.tolist() == [1, 2, 0]


def test_labels_are_those_of_a_renamed_group_and_of_translated_units():
    """A property with a control: a bijection that the table does not follow changes the labels."""
    table, generator = table_of(S3), torch.Generator().manual_seed(0)
    basis, component = ge.datasets._groups._components(table)
    weights = basis.T + 0.02 * torch.randn(6, 6, generator=generator, dtype=torch.float64)
    labels = ge.datasets.component_labels(weights, table)[0]
    assert torch.equal(labels, component)
    renamed = torch.tensor([0, 3, 1, 5, 2, 4])
    back = renamed.argsort()
    same = ge.datasets.component_labels(weights[:, back], renamed[table[back][:, back]])[0]
    assert torch.equal(same, labels)
    for g in range(6):
        assert torch.equal(ge.datasets.component_labels(weights[:, table[g]], table)[0], labels)
        assert torch.equal(ge.datasets.component_labels(weights[:, table[:, g]], table)[0], labels)
    assert not torch.equal(ge.datasets.component_labels(weights[:, back], table, least_purity=0)[0], labels)


def test_dead_and_mixed_units_read_nothing():
    waves = torch.stack([(2 * torch.pi * k * torch.arange(7) / 7).cos() for k in (1, 2)])
    weights = torch.stack([waves[0], 0.05 * waves[0], 0 * waves[0], waves[0] + waves[1]])
    labels, purity = ge.datasets.component_labels(weights, cyclic(7))
    assert labels.tolist()[1:] == [-1, -1, -1]
    assert torch.allclose(purity, torch.tensor([1, 1, 0, 0.5], dtype=torch.float64), atol=1e-6)
    assert ge.datasets.component_labels(weights, cyclic(7), least_purity=0)[0][3] >= 0


@pytest.mark.parametrize(("weights", "table", "settings", "message"), [
    (torch.ones(2, 5), cyclic(3), {}, "`weights` should have blocks of 3 inputs"),
    (torch.ones(3), cyclic(3), {}, "`weights` should have shape"),
    (torch.ones(2, 3), cyclic(3)[:2], {}, "a row or column lacks an element"),
    (torch.ones(2, 3), torch.zeros(3, 3, dtype=torch.int64), {}, "a row or column lacks an element"),
    (torch.ones(2, 3), (torch.arange(3)[:, None] - torch.arange(3)) % 3, {}, "one without a neutral element"),
    (torch.ones(2, 5), [[0, 1, 2, 3, 4], [1, 0, 3, 4, 2], [2, 4, 0, 1, 3], [3, 2, 4, 0, 1], [4, 3, 1, 2, 0]], {},
     r"one with \(ab\)c ≠ a\(bc\)"),
    (torch.ones(2, 3), cyclic(3), {"least_purity": 2}, "`least_purity` should be finite"),
])  # fmt: skip
def test_wrong_weights_and_tables_are_refused(weights, table, settings, message):
    with pytest.raises(ValueError, match=message):
        ge.datasets.component_labels(weights, table, **settings)


# Networks


@pytest.fixture(scope="module")
def trained():
    return ge.datasets.train_addition_networks(7, n_networks=3, n_hidden=24, seed=3)


def test_trained_networks_add_and_their_units_read_frequencies(trained):
    assert trained.inputs.sum(1).unique().tolist() == [2]
    pairs = trained.inputs.view(49, 2, 7).argmax(2)
    assert torch.equal(trained.targets, pairs.sum(1) % 7)
    for network in trained.networks:  # one by one, in float64
        assert torch.equal(network.double()(trained.inputs.double()).argmax(1), trained.targets)
    assert trained.component_dims.tolist() == [1, 2, 2, 2]
    assert (trained.labels >= 0).double().mean() > 0.8
    assert trained.purity.median() > 0.85
    random = ge.MLPEnsemble([14, 24, 7], 3, seed=0).hidden1.linear.weight
    assert (ge.datasets.component_labels(random, trained.table)[0] >= 0).double().mean() < 0.3
    assert repr(trained) == "GroupNetworks('addition modulo 7', 3 networks 14-24-7, trained here)"


def test_a_network_depends_on_its_own_seed_alone(trained):
    alone = ge.datasets.train_addition_networks(7, n_networks=1, n_hidden=24, seed=4)
    assert torch.allclose(alone.networks[0].output.weight, trained.networks[1].output.weight, atol=0.05)
    assert not torch.allclose(alone.networks[0].output.weight, trained.networks[0].output.weight, atol=0.05)


@pytest.mark.parametrize(("settings", "error", "message"), [
    ({"p": 2}, ValueError, "`p` should be at least 3"),
    ({"n_networks": 0}, ValueError, "`n_networks` should be at least 1"),
    ({"n_hidden": 0}, ValueError, "`n_hidden` should be at least 1"),
    ({"seed": -1}, ValueError, "`seed` should be at least 0"),
    ({"p": 5.0}, TypeError, "`p` should be an integer"),
    ({"p": 5, "n_networks": 1, "n_hidden": 1}, ValueError, "`n_hidden` should be enough to get all pairs right. Got 1"),
])  # fmt: skip
def test_networks_that_cannot_be_trained_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        ge.datasets.train_addition_networks(**settings)


def put(folder, trained, name="C7", seeds=(1, 5)):
    """Write networks as the published ones are kept."""
    (folder / "groups").mkdir(parents=True)
    tensors = {"table": trained.table}
    for network, seed in zip(trained.networks, seeds, strict=False):
        a, b = network.hidden1.linear.weight.detach().T.split(7)
        parts = {"A": a, "B": b, "U": network.output.weight.detach().T}
        tensors |= {f"{part}.{seed}": weights.contiguous() for part, weights in parts.items()}
    path = folder / "groups" / f"{name}.safetensors"
    safetensors.torch.save_file(tensors, path, {"seeds": json.dumps(list(seeds))})
    return path


def test_networks_are_loaded_from_root_or_else_from_the_folder_of_data(trained, tmp_path, monkeypatch):
    put(tmp_path / "given", trained)
    put(tmp_path / "root", trained, seeds=(2,))
    monkeypatch.setenv("GRADEMBED_DATA", str(tmp_path / "given"))
    loaded = ge.datasets.load_group_networks("C7", root=tmp_path / "elsewhere")
    assert len(loaded.networks) == 2
    assert torch.equal(loaded.labels, trained.labels[:2])
    x = trained.inputs
    assert torch.allclose(loaded.networks(x), trained.networks[:2](x), atol=1e-4)
    last = ge.datasets.load_group_networks("C7", seeds=[5]).networks
    assert torch.equal(last.output.weight[0], loaded.networks.output.weight[1])
    assert len(ge.datasets.load_group_networks("C7", root=tmp_path / "root").networks) == 1


def test_networks_that_are_not_there_are_refused(trained, tmp_path, monkeypatch):
    message = "`root` should hold the published networks.* Use train_addition_networks instead"
    with pytest.raises(OSError, match=message):
        ge.datasets.load_group_networks("C7")
    path = put(tmp_path, trained)
    monkeypatch.setenv("GRADEMBED_DATA", str(tmp_path))
    with pytest.raises(ValueError, match=r"`seeds` should be among \[1, 5\]. Got \[3\]"):
        ge.datasets.load_group_networks("C7", seeds=[1, 3])
    with pytest.raises(TypeError, match="`group` should be a path"):
        ge.datasets.load_group_networks(7)
    for content in (path.read_bytes()[:-50], safetensors.torch.save({"table": trained.table})):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"`root` should hold intact files of networks. Got C7.safetensors"):
            ge.datasets.load_group_networks("C7")


@pytest.mark.parametrize("group", ["S5", "A5", "D59", "C113"])
def test_published_labels_are_reproduced_up_to_their_names(group):
    path = Path(PUBLISHED, "groups", f"{group}.safetensors")
    if not PUBLISHED or not path.is_file():
        pytest.skip("no published networks")
    networks, kept = ge.datasets.load_group_networks(group, root=PUBLISHED), safetensors.torch.load_file(path)
    weights = networks.networks.hidden1.linear.weight
    labels, purity = ge.datasets.component_labels(weights, networks.table, least_purity=0)
    theirs = torch.stack([kept[f"label.{i + 1}"] for i in range(len(labels))])
    assert torch.equal(labels < 0, theirs < 0)
    pairs = torch.stack([labels, theirs])[:, labels >= 0].unique(dim=1)
    assert pairs.shape[1] == len(pairs[0].unique()) == len(pairs[1].unique())
    published = torch.stack([kept[f"purity.{i + 1}"] for i in range(len(labels))])
    assert torch.allclose(purity.float()[labels >= 0], published[labels >= 0], atol=1e-4)
    assert networks.component_dims.sort().values.tolist() == kept["component_dims"].sort().values.tolist()
    with torch.no_grad():
        assert bool((networks.networks[:2](networks.inputs).argmax(2) == networks.targets).all())


# Symmetries that a user names


def test_symmetries_of_a_multiplication_rename_products_and_keep_them_apart(trained):
    table, n = table_of(S3), 6
    products = torch.cartesian_prod(torch.arange(n), torch.arange(n))
    for t, order in enumerate(translations(table)):
        a, b = order[products[:, 0]], order[n + products[:, 1]] - n
        renamed = torch.stack([table.flatten(), table[a, b]], 1).unique(dim=0)
        assert len(renamed) == n  # a bijection of the products
        assert t < 2 * n or torch.equal(table[a, b], table.flatten())
    assert trained.symmetries.shape == (21, 14)


def fields(u=6, m=60, d=9, seed=0, values=True):
    generator = torch.Generator().manual_seed(seed)
    x, g = torch.randn(2, u, m, d, generator=generator)
    return ge.GradientFields(x, g * x.abs() + g.mean(1, keepdim=True), (x * g).sum(2) if values else None)


def shifts(side=3):
    image = torch.arange(side**2).view(side, side)
    return torch.stack([image.roll(1, axis).flatten() for axis in (0, 1)])


def matrices(orders):
    return torch.nn.functional.one_hot(orders).mT.float()


GROUPS = {"shifts": shifts(), "S3 on both": translations(table_of(S3)), "C4 on both": translations(cyclic(4))}


@pytest.mark.parametrize("orders", GROUPS.values(), ids=GROUPS)
@pytest.mark.parametrize("values", [True, False])
def test_rows_are_blind_to_all_products_of_the_orders_and_to_no_other(orders, values):
    d, generator = orders.shape[1], torch.Generator().manual_seed(1)
    some = fields(d=d, values=values)
    descriptor = ge.FieldDescriptor(orders).fit(some)
    rows = descriptor.transform(some)
    product, scale = torch.arange(d), abs(rows).max()
    for t in torch.randint(len(orders), (12,), generator=generator):
        product = orders[t][product]
        turned = some.rotated(matrices(product[None])[0])
        assert abs(descriptor.transform(turned) - rows).max() < 1e-4 * scale
    other = some.rotated(matrices(torch.randperm(d, generator=generator)[None])[0])
    assert abs(descriptor.transform(other) - rows).max() > 1e-2 * scale
    assert descriptor.block_names_ == ("means", "moments")


def test_rows_are_the_means_over_the_group_in_float64():
    """An oracle: E[T v v' T'] over all six by six by six translations, and E[T g g' T']."""
    table = table_of(S3)
    some = fields(d=12)
    orbits = Orbits(translations(table), 1_000, torch.Generator())
    x, g, f = some.points.double(), some.gradients.double(), some.values.double()
    inverse = table.argmin(1)
    group = [torch.cat([table[table[a], h], 6 + table[table[inverse[h]], b]])
             for a, b, h in itertools.product(range(6), repeat=3)]  # fmt: skip
    v = torch.stack([g.mean(1), (f[..., None] * g).mean(1)], 1)
    v = v / v.square().sum((1, 2), keepdim=True).sqrt().sqrt()
    units = type("Units", (), {"g": g.float(), "f": f.float(), "has_values": True})
    weights = torch.full((6, 60), 1 / 60)
    found = [orbits.means(None, units, weights).double(), orbits.moments(None, units, weights).double()]
    second = g.mT @ g / g.square().sum((1, 2), keepdim=True).sqrt() / 60**0.5
    pairs = [(v[:, k, :, None] * v[:, None, j]) for k, j in ((0, 0), (0, 1), (1, 1))]
    means = [torch.stack([matrix[:, t][:, :, t] for t in group]).mean(0) for matrix in (*pairs, second)]
    gram = sum(torch.einsum("uij,vij->uv", mean, mean) for mean in means[:3])
    assert torch.allclose(found[0] @ found[0].T, gram, atol=1e-5)
    assert torch.allclose(found[1] @ found[1].T, torch.einsum("uij,vij->uv", means[3], means[3]), atol=1e-5)
    assert x.shape == g.shape


def test_matrices_say_the_same_as_orders_and_few_features_keep_distances():
    some = fields(u=40, d=9)
    rows = ge.FieldDescriptor(shifts()).fit_transform(some)
    assert np.array_equal(rows, ge.FieldDescriptor(matrices(shifts())).fit_transform(some))
    assert np.array_equal(rows, clone(ge.FieldDescriptor(shifts().tolist())).fit_transform(some))
    identity = torch.arange(9)[None]
    full, few = (ge.FieldDescriptor(identity, n_features=n).fit_transform(some) for n in (81, 40))
    assert full.shape == (40, 4 * 81)
    assert few.shape == (40, 4 * 40)
    distances = [((z[:, None] - z) ** 2).sum(2)[np.triu_indices(40, 1)] for z in (full, few)]
    assert np.corrcoef(distances)[0, 1] > 0.8


def test_even_functions_have_no_mean_gradient_but_are_told_apart():
    x = torch.randn(1, 5_000, 4, generator=torch.Generator().manual_seed(0))
    x = torch.cat([x, -x], 1)
    shapes = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 0]])  # the first two up to a shift
    some = ge.GradientFields(x.expand(3, -1, -1), 2 * x * shapes[:, None], (x.square() * shapes[:, None]).sum(2))
    order = torch.arange(4).roll(1)[None]
    rows = ge.FieldDescriptor(order).fit_transform(some)
    assert np.isfinite(rows).all()
    assert ((rows[0] - rows[1]) ** 2).sum() < 0.1 * ((rows[0] - rows[2]) ** 2).sum()


@pytest.mark.parametrize(("orders", "error", "message"), [
    (torch.zeros(2, 9, dtype=torch.int64), ValueError, "`invariance` should hold orders of 9 coordinates"),
    (torch.arange(9)[None] / 1.0, ValueError, "`invariance` should hold orders of 9 coordinates"),
    (torch.arange(1, 10)[None], ValueError, "`invariance` should hold orders of 9 coordinates"),
    (torch.arange(8)[None], ValueError, "`invariance` should have shape"),
    (0.5 * torch.eye(9)[None], ValueError, "`invariance` should hold permutation matrices"),
    (torch.linalg.qr(torch.randn(9, 9))[0][None], ValueError, "`invariance` should hold permutation matrices"),
    (None, ValueError, "`invariance` should be one of 'none'"),
    (["shifts"], TypeError, "`invariance` should be a tensor"),
    ("shifts", ValueError, "`invariance` should be one of 'none'"),
])  # fmt: skip
def test_what_is_no_set_of_orders_is_refused(orders, error, message):
    with pytest.raises(error, match=message):
        ge.FieldDescriptor(orders).fit(fields())


def test_the_learned_embedding_takes_invariances_by_name_only():
    with pytest.raises(ValueError, match="`invariance` should be one of 'none'"):
        ge.GradientFieldEmbedder(invariance=shifts()).fit(fields())


def test_translated_twins_are_found_by_the_named_symmetry_and_not_without(trained):
    """Units of networks that add, each network's inputs translated: (a + g, b + h)."""
    n, generator = 7, torch.Generator().manual_seed(0)
    keep = trained.labels.flatten() >= 0
    points = trained.inputs[torch.randperm(49, generator=generator)[:30]]
    found = ge.gradient_fields(trained.networks, points, unit_layer="hidden1", labels=trained.labels.flatten())[keep]
    turned = []
    for i in range(3):
        g, h = torch.randint(n, (2,), generator=generator)
        order = torch.cat([cyclic(n)[g], n + cyclic(n)[h]])
        own = found[found.groups == i]
        turned.append(own.rotated(matrices(order[None])[0]))
    turned = ge.GradientFields.concatenate(turned)
    y, groups = turned.labels, turned.groups
    named = ge.FieldDescriptor(translations(trained.table)).fit_transform(turned)
    assert ge.metrics.cluster_agreement(named, y) > 0.95
    assert ge.metrics.retrieval(named, y, groups).accuracy > 0.98
    assert ge.metrics.cluster_agreement(ge.FieldDescriptor("none").fit_transform(turned), y) < 0.5
