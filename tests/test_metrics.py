"""Scores of embeddings: against loops over units, at chance where nothing is known, and never within a network."""

import itertools
import math
import sys
from importlib.machinery import ModuleSpec
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from _asserts import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import StratifiedGroupKFold

import gradembed as ge
from gradembed.metrics import _comparison, _scores

M, N_NETWORKS, PER_NETWORK = ge.metrics, 40, 6
NETWORK = np.repeat(np.arange(N_NETWORKS), PER_NETWORK)
CLASS = np.tile([0, 1, 2, 0, 1, 2], N_NETWORKS)
TASK = np.tile([0, 0, 0, 1, 1, 1], N_NETWORKS)
BY_NETWORK = np.random.default_rng(1).permutation(np.repeat([0, 1], N_NETWORKS // 2))[NETWORK]


def noise(shape, seed=0, size=1.0):
    return size * np.random.default_rng(seed).normal(size=shape)


def separate(y, seed=0):
    """Classes at the corners of a simplex, far apart beside the noise."""
    return np.eye(y.max() + 1)[y] + noise((len(y), y.max() + 1), seed, 0.05)


def marking_networks(seed=0):
    """Units lie with their network, and nowhere else."""
    return noise((N_NETWORKS, 64), seed)[NETWORK] + noise((len(NETWORK), 64), seed + 1, 0.01)


def near_chance(score, chance, n):
    return abs(score - chance) < 4 * math.sqrt(chance * (1 - chance) / n)


# Probes


@pytest.mark.parametrize("n_folds", [2, 5])
def test_separate_classes_are_probed_perfectly(n_folds):
    score = ge.metrics.linear_probe(separate(CLASS), CLASS, NETWORK, n_folds=n_folds)
    assert (score.folds, score.n_classes, score.correct.all()) == ((1.0,) * n_folds, 3, True)
    said = f"ProbeScore(accuracy 1.00 [1.00, 1.00], chance 0.33, {n_folds} folds, "
    assert repr(score) == f"{said}held-out networks: 40)"
    alone = ge.metrics.linear_probe(separate(CLASS), CLASS, n_folds=n_folds)
    assert repr(alone) == f"{said}not split by network, held-out units: 240)"


def test_random_embeddings_are_probed_and_transferred_at_chance():
    pairs, n = [noise((2, len(CLASS), 5), seed) for seed in range(4)], 4 * len(CLASS)
    for groups in (None, NETWORK):
        scores = [ge.metrics.linear_probe(z, CLASS, groups, seed) for seed, (z, _) in enumerate(pairs)]
        assert near_chance(np.mean([score.accuracy for score in scores]), 1 / 3, n)
        assert all(score.interval[0] < score.accuracy < score.interval[1] for score in scores)
    transferred = [ge.metrics.transfer_probe(z, CLASS, other, CLASS).accuracy for z, other in pairs]
    assert near_chance(np.mean(transferred), 1 / 3, n)


def test_probe_that_recognizes_networks_is_found_out():
    """The classes are constant within networks: without groups the score is perfect, and means nothing."""
    z = marking_networks()
    assert ge.metrics.linear_probe(z, BY_NETWORK).accuracy > 0.95
    scores = [ge.metrics.linear_probe(marking_networks(seed), BY_NETWORK, NETWORK, seed).accuracy for seed in range(8)]
    assert 0.25 < np.mean(scores) < 0.5 + 4 * math.sqrt(0.25 / (8 * N_NETWORKS))


def test_folds_never_share_a_network_and_are_stratified():
    """A probe that has seen a network's mark names all of its units: so it names none of one held out."""
    y = NETWORK % 10
    marks = np.eye(N_NETWORKS)[NETWORK]  # no two networks have anything in common
    assert ge.metrics.linear_probe(marks, y, NETWORK).accuracy <= 0.2
    assert ge.metrics.linear_probe(marks, y).accuracy > 0.9
    single = np.arange(160)  # one unit per network: every class is halved
    assert ge.metrics.linear_probe(np.eye(10)[single % 10], single % 10, single).folds == (1.0, 1.0)


def test_probe_equals_a_loop_over_its_folds():
    z = (noise((len(CLASS), 4)) + CLASS[:, None]) * [1, 100, 0.01, 1]
    score = ge.metrics.linear_probe(z, CLASS, NETWORK, seed=3, n_folds=4)
    correct, shares = np.zeros(len(z), bool), []
    for train, test in StratifiedGroupKFold(4, shuffle=True, random_state=3).split(z, CLASS, NETWORK):
        mean, std = z[train].mean(0), z[train].std(0)
        model = LogisticRegression(max_iter=10_000).fit((z[train] - mean) / std, CLASS[train])
        correct[test] = model.predict((z[test] - mean) / std) == CLASS[test]
        shares.append(correct[test].mean())
    assert 0.4 < score.accuracy < 1
    assert score.correct.tolist() == correct.tolist()
    np.testing.assert_allclose(score.folds, shares)


def test_scale_and_kind_of_input_change_no_probe_and_the_seed_fixes_it():
    z, homes = noise((len(CLASS), 4)) + CLASS[:, None], [f"network {i:02}" for i in NETWORK]
    score, other = (ge.metrics.linear_probe(z, CLASS, NETWORK, seed) for seed in (0, 1))
    names, frame = pd.Series(["a", "b", "c"])[CLASS], pd.DataFrame(z * [1, 10, 1e4, 1e-3] + 5)
    for y in (torch.from_numpy(CLASS), names.tolist(), names, names.astype("category")):
        again = ge.metrics.linear_probe(frame, y, homes)
        assert (again.folds, again.interval) == (score.folds, score.interval) != (other.folds, other.interval)
    half = torch.from_numpy(CLASS)[:, None].bfloat16().requires_grad_()
    assert ge.metrics.linear_probe(half, CLASS, NETWORK, np.int64(0)).accuracy == 1
    assert ge.metrics.linear_probe(z, CLASS == 0, NETWORK).chance == pytest.approx(2 / 3)  # of the commonest class


def test_transfer_probe_trains_here_and_tests_there():
    z, train, test = separate(CLASS), (TASK == 0) & (NETWORK % 2 == 0), (TASK == 1) & (NETWORK % 2 == 1)
    networks = {"groups_train": NETWORK[train], "groups_test": NETWORK[test]}
    score = ge.metrics.transfer_probe(z[train], CLASS[train], z[test], CLASS[test], **networks)
    assert (score.accuracy, score.chance, score.n_groups) == (1, 1 / 3, N_NETWORKS // 2)
    turned = ge.metrics.transfer_probe(z[train], CLASS[train], z[test][:, [1, 2, 0]], CLASS[test])  # other coordinates
    assert (turned.accuracy, turned.grouped) == (0, False)
    one = test & (CLASS == 2)
    only = ge.metrics.transfer_probe(z[train], CLASS[train], z[one], CLASS[one])
    assert (only.chance, only.n_classes) == (1.0, 3)


# Intervals


def test_interval_is_over_networks_not_units():
    """Where networks stand or fall as a whole, the interval is as wide as that of as many units as networks."""
    right, y = np.random.default_rng(0).random(N_NETWORKS) < 0.7, np.tile([0, 1], 3 * N_NETWORKS)
    z, train = np.where(right[NETWORK], y, 1 - y)[:, None].astype(float), np.eye(2)[:, 1:]
    grouped = ge.metrics.transfer_probe(train, [0, 1], z, y, groups_test=NETWORK)
    single = ge.metrics.transfer_probe(train, [0, 1], z, y)
    share, width = right.mean(), 2 * 1.96 * math.sqrt(right.mean() * (1 - right.mean()))
    for score, n in ((grouped, N_NETWORKS), (single, len(y))):
        assert score.accuracy == pytest.approx(share)
        assert np.diff(score.interval) == pytest.approx(width / math.sqrt(n), rel=0.15)
    wide = ge.metrics.transfer_probe(train, [0, 1], z, y, groups_test=NETWORK, confidence=0.99)
    assert wide.interval[0] < grouped.interval[0] < grouped.interval[1] < wide.interval[1]


def test_one_network_has_no_interval():
    score = ge.metrics.transfer_probe([[0.0], [1.0]], [0, 1], np.ones((5, 1)), [1] * 5, groups_test=[7] * 5)
    assert (score.accuracy, score.interval, str(score.estimate)) == (1, (0, 1), "1.00 (n=1)")
    assert repr(score) == "ProbeScore(accuracy 1.00 (n=1), chance 1.00, 1 fold, held-out networks: 1)"


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_spread_is_students_interval(confidence):
    values = [0.91, 0.97, 0.94, 0.99]
    low, high = scipy.stats.t.interval(confidence, 3, np.mean(values), scipy.stats.sem(values))
    for given_values in (values, tuple(values), np.array(values), torch.tensor(values).double(), pd.Series(values)):
        estimate = ge.metrics.spread(given_values, confidence)
        np.testing.assert_allclose([estimate.mean, estimate.low, estimate.high], [np.mean(values), low, high])
        assert (estimate.n, estimate.confidence) == (4, confidence)


def test_bounds_cut_the_interval():
    free, cut = (ge.metrics.spread([0.9, 1.0, 1.0], bounds=bounds) for bounds in (None, (0, 1)))
    assert free.high > 1
    assert (cut.high, cut.low, cut.mean) == (1, free.low, free.mean)


def test_estimates_are_printed_with_their_interval():
    estimate = ge.metrics.Estimate(0.9712, 0.9467, 0.9911, 5)
    assert str(estimate) == f"{estimate}" == "0.97 [0.95, 0.99]"
    assert f"{estimate:.1%}" == "97.1% [94.7%, 99.1%]"
    assert repr(estimate) == "Estimate(0.97 [0.95, 0.99], n=5, 95%)"
    assert float(estimate) == 0.9712
    single = ge.metrics.spread([0.5])
    assert (single.low, single.high) == (-math.inf, math.inf)
    assert (str(single), repr(single)) == ("0.50 (n=1)", "Estimate(0.50 (n=1))")


# Retrieval


def retrieval_loop(z, y, apart, k):
    """For each query the mean precision over all orders in which ties can be broken."""
    hits, chances, squares = [], [], ((z[:, None] - z) ** 2).sum(-1).round(9)
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i and all(label[i] != label[j] for label in apart)]
        orders = [sorted(order, key=squares[i].__getitem__) for order in itertools.permutations(others)]
        hits.append(np.mean([[y[j] == y[i] for j in order[:k]] for order in orders]))
        chances.append(np.mean([y[j] == y[i] for j in others]))
    return hits, chances


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1)), min_size=6, max_size=6), st.integers(1, 3))
def test_retrieval_equals_a_loop_with_ties_broken_every_way(places, k):
    z, y, groups = np.array(places, dtype=float), np.array([0, 1, 0, 1, 1, 0]), np.array([0, 0, 1, 1, 2, 3])
    hits, chances = retrieval_loop(z, y, [groups], k)
    score = ge.metrics.retrieval(z, y, groups, k=k)
    np.testing.assert_allclose(score.hits, hits)
    assert (score.accuracy, score.chance) == pytest.approx((np.mean(hits), np.mean(chances)))
    wide = ge.metrics.retrieval(np.hstack([z, np.zeros((6, 100))]), y, groups, k=1)  # distances by matrix products
    np.testing.assert_allclose(wide.hits, retrieval_loop(z, y, [groups], 1)[0])


def test_separate_classes_are_retrieved_and_noise_is_not():
    score = ge.metrics.retrieval(separate(CLASS), CLASS, NETWORK, exclude=[TASK])
    assert repr(score) == "RetrievalScore(accuracy 1.00 [1.00, 1.00], chance 0.33, k=1, 240 queries, 40 networks)"
    scores = [ge.metrics.retrieval(noise((len(CLASS), 5), seed), CLASS, NETWORK).accuracy for seed in range(4)]
    assert near_chance(np.mean(scores), 1 / 3, 4 * len(CLASS))


def test_neighbor_is_never_of_the_own_network_or_task():
    """The nearest units of all are the network's own, then the other networks' of the same task."""
    z = np.stack([TASK * 100.0, NETWORK * 1.0, CLASS * 0.01], 1)
    free = ge.metrics.retrieval(z, CLASS)
    assert repr(free).endswith("k=1, 240 queries, networks not kept apart)")
    assert (NETWORK[free.neighbors[:, 0]] == NETWORK).all()
    apart = ge.metrics.retrieval(z, CLASS, NETWORK, k=3)
    both = ge.metrics.retrieval(z, CLASS, NETWORK, exclude=[TASK], k=3)
    assert all((NETWORK[found.neighbors] != NETWORK[:, None]).all() for found in (apart, both))
    assert (TASK[apart.neighbors[:, 0]] == TASK).all()
    assert (TASK[both.neighbors] != TASK[:, None]).all()
    assert both.accuracy < 1 == ge.metrics.retrieval(z, CLASS, NETWORK, exclude=[TASK]).accuracy


def test_constant_embeddings_are_exactly_at_chance():
    y = np.where(NETWORK < 10, CLASS, 0)
    for k, width in itertools.product((1, 5), (3, 100)):
        score = ge.metrics.retrieval(np.full((len(y), width), 0.1), y, NETWORK, k=k)
        assert score.accuracy == pytest.approx(score.chance, abs=1e-12)


@pytest.mark.parametrize("width", [4, 200])
def test_neighbors_are_sorted_with_their_distances_in_any_blocks_and_far_from_the_origin(monkeypatch, width):
    z = noise((60, width))
    whole, far = (ge.metrics.retrieval(a, CLASS[:60], k=3) for a in (z, 1e-3 * z + 1e5))
    expected, places = torch.cdist(torch.from_numpy(z), torch.from_numpy(z)).fill_diagonal_(math.inf).sort(1)
    assert whole.neighbors.tolist() == far.neighbors.tolist() == places[:, :3].tolist()
    assert_close(whole.distances, expected[:, :3], rtol=1e-7)
    assert_close(1e3 * far.distances, expected[:, :3], rtol=1e-6)
    monkeypatch.setattr(_scores, "BLOCK", 7 * 60)
    parts = ge.metrics.retrieval(z, CLASS[:60], k=3)
    assert parts.neighbors.tolist() == whole.neighbors.tolist()
    assert_close(parts.distances, whole.distances)
    assert (parts.accuracy, parts.chance, parts.interval) == (whole.accuracy, whole.chance, whole.interval)


def test_queries_and_candidates_are_those_of_the_masks():
    z, asked, open_to = noise((len(CLASS), 4)), TASK == 0, torch.from_numpy((TASK == 1) & (CLASS != 2))
    score = ge.metrics.retrieval(z, CLASS, NETWORK, queries=asked, candidates=open_to, k=2)
    assert score.queries.tolist() == np.flatnonzero(asked).tolist()
    assert bool(open_to[score.neighbors].all())
    assert score.chance == pytest.approx(1 / 3)  # a third of the queries has none of its class to find
    assert ge.metrics.retrieval(separate(CLASS), CLASS, NETWORK, candidates=open_to).accuracy == pytest.approx(2 / 3)


def test_copies_far_from_the_origin_tie_in_many_dimensions(monkeypatch):
    """Distances by matrix products: of copies 0, not what rounding leaves of 1e10 - 1e10."""
    z = (noise((4, 200)) + 1e4)[np.tile(np.arange(4), 15)]
    y, groups = np.repeat([0, 0, 1], 20), np.arange(60) // 4
    wide = ge.metrics.retrieval(z, y, groups, k=2)
    assert bool((wide.distances == 0).all())
    monkeypatch.setattr(_scores, "WIDE", 1000)
    assert_close(wide.hits, ge.metrics.retrieval(z, y, groups, k=2).hits)
    assert_close(wide.hits, torch.tensor([9 / 14] * 40 + [4 / 14] * 20).double(), rtol=1e-6)


# Clusters and matching


def rand_loop(a, b):
    """Adjusted Rand index from pairs of units that are together or apart."""
    pairs = [(a[i] == a[j], b[i] == b[j]) for i, j in itertools.combinations(range(len(a)), 2)]
    both, in_a, in_b = sum(p and q for p, q in pairs), sum(p for p, _ in pairs), sum(q for _, q in pairs)
    expected = in_a * in_b / len(pairs)
    return (both - expected) / ((in_a + in_b) / 2 - expected)


def test_clusters_agree_with_classes_as_pairs_do():
    for y in (CLASS, ["b", "c", "a"] * (2 * N_NETWORKS)):
        assert ge.metrics.cluster_agreement(separate(CLASS), y) == 1
    assert abs(ge.metrics.cluster_agreement(noise((len(CLASS), 4)), CLASS)) < 0.05
    line, y = np.array([0.0, 0.1, 0.2, 5.0, 5.1, 5.2])[:, None], [0, 0, 1, 1, 1, 1]
    assert ge.metrics.cluster_agreement(line, y) == pytest.approx(rand_loop([0, 0, 0, 1, 1, 1], y))
    assert ge.metrics.cluster_agreement(np.ones((12, 2)), CLASS[:12]) == 0  # collapsed to one place, and to two
    assert ge.metrics.cluster_agreement(np.repeat([[0.0], [1.0]], 6, 0), CLASS[:12]) < 0.2


def test_clusters_are_of_the_embedding_as_given():
    z = np.stack([CLASS * 1.0, noise(len(CLASS)) * 100], 1)
    assert ge.metrics.cluster_agreement(z, CLASS) < 0.1
    assert ge.metrics.cluster_agreement(z / z.std(0) * [3, 1], CLASS) > 0.9


def test_permuted_copy_is_matched_exactly():
    rng = np.random.default_rng(0)
    z, order = rng.normal(size=(64, 8)), rng.permutation(64)
    matching = ge.metrics.match_units(z, torch.from_numpy(z[order]).float())
    assert order[matching.pairs[:, 1]].tolist() == matching.pairs[:, 0].tolist() == list(range(64))
    assert (matching.accuracy(range(64), order), matching.chance(range(64), order)) == (1, 1 / 64)
    assert float(matching.distance.max()) < 1e-5


@pytest.mark.parametrize(("a", "b"), [(4, 4), (3, 5), (5, 2)])
def test_matching_is_the_shortest_of_all(a, b):
    z_a, z_b = noise((a, 3)), noise((b, 3), 1)
    matching = ge.metrics.match_units(z_a, z_b)
    lengths = np.linalg.norm(z_a[:, None] - z_b, axis=-1)
    table, orders = lengths if a <= b else lengths.T, itertools.permutations(range(max(a, b)), min(a, b))
    best = min(sum(table[i, j] for i, j in enumerate(order)) for order in orders)
    assert float(matching.distance.sum()) == pytest.approx(best)
    assert [lengths[i, j] for i, j in matching.pairs] == pytest.approx(matching.distance.tolist())
    assert len(matching.pairs) == min(a, b)
    assert f"{min(a, b)} pairs of {a} and {b} units" in repr(matching)


def test_chance_of_a_matching_is_its_mean_over_all():
    labels_a, labels_b = [0, 0, 1], [1, 0, 1, 2]
    orders = itertools.permutations(range(4), 3)
    share = np.mean([[labels_a[i] == labels_b[j] for i, j in enumerate(order)] for order in orders])
    matching = ge.metrics.match_units(noise((3, 2)), noise((4, 2)))
    assert matching.chance(labels_a, labels_b) == pytest.approx(share)


# Permutations


def test_p_values_are_uniform_where_nothing_is_there_and_small_where_it_is():
    y, homes = CLASS[:60], NETWORK[:60]
    null = np.array([ge.metrics.enrichment(noise((60, 3), i), y, homes, 59, seed=i).p_value for i in range(100)])
    assert 0.4 < null.mean() < 0.65  # ties make p a little greater
    assert (null <= 0.1).mean() < 0.22 < 0.3 < (null <= 0.5).mean()
    found = ge.metrics.enrichment(separate(CLASS), CLASS, NETWORK, exclude=[TASK], n_permutations=99)
    assert (found.observed, found.p_value) == (1, 0.01)
    assert found.null_mean == pytest.approx(1 / 3, abs=0.05)
    assert found.ratio == pytest.approx(3, rel=0.2)
    assert found.effect_size > 10


def test_networks_alike_are_no_enrichment():
    """Networks come in two kinds with other shares of the labels, and lie with their kind: nothing about units."""
    rng, kind, within, across = np.random.default_rng(0), NETWORK % 2, [], []
    for seed in range(20):
        y = (rng.random(len(NETWORK)) < np.where(kind, 0.8, 0.2)).astype(int)
        z = kind[:, None] * 10 + rng.normal(size=(len(NETWORK), 2))
        within.append(ge.metrics.enrichment(z, y, NETWORK, n_permutations=39, seed=seed).p_value)
        across.append(ge.metrics.enrichment(z, y, NETWORK, n_permutations=39, seed=seed, within=0 * NETWORK).p_value)
    assert np.median(across) == 1 / 40  # the control: labels dealt among all networks
    assert 0.2 < np.median(within) < 0.9


def test_permutations_stay_within_groups_and_keep_the_labels():
    y, seen, groups = np.array(list("aabbcdef")), [], [0, 1, 0, 1, 2, 2, 2, 0]
    ge.metrics.permutation_null(lambda labels: float(seen.append(labels) or 0), y, groups, n_permutations=200)
    assert "".join(seen[0]) == "aabbcdef"
    for group, own in enumerate(("abf", "ab", "cde")):
        orders = {"".join(labels[np.array(groups) == group]) for labels in seen[1:]}
        assert orders == {"".join(order) for order in itertools.permutations(own)}


def test_null_is_summed_up_by_hand():
    values = iter([5.0, *range(1, 21)])
    result = ge.metrics.permutation_null(lambda _: next(values), [0, 1], n_permutations=20)
    assert (result.observed, result.null_mean, result.p_value) == (5, 10.5, 17 / 21)  # 5 to 20, and itself
    std = np.std(range(1, 21))
    assert (result.null_std, result.effect_size, result.ratio) == pytest.approx((std, -5.5 / std, 5 / 10.5))
    assert "p = 0.81, 20 permutations" in repr(result)


NULLS = [(0.3, 0.3, 0, 1, 1), (0.0, 0.0, 0, 1, 1), (1.0, 0.0, math.inf, 0.05, math.inf), (0.0, 1.0, -math.inf, 1, 0)]


@pytest.mark.parametrize(("observed", "null", "effect", "p", "ratio"), NULLS)
def test_null_without_spread_gives_no_nan(observed, null, effect, p, ratio):
    values = iter([observed, *[null] * 19])
    result = ge.metrics.permutation_null(lambda _: next(values), [0, 1], n_permutations=19)
    assert (result.effect_size, result.p_value, result.null_std, result.ratio) == (effect, p, 0, ratio)
    assert "nan" not in repr(result)


# Decoded fields


def test_r2_of_fields_equals_that_of_their_components():
    gradients, predicted = noise((3, 20, 4)), noise((3, 20, 4), 1, 0.3)
    predicted[0] += gradients[0]
    score = ge.metrics.field_r2(torch.from_numpy(predicted), gradients)
    expected = [r2_score(g, p, multioutput="variance_weighted") for g, p in zip(gradients, predicted, strict=True)]
    np.testing.assert_allclose(score, expected)
    assert score[0] > 0.8 > 0.1 > score[1]
    assert ge.metrics.field_r2(gradients, gradients).tolist() == [1, 1, 1]
    zero = ge.metrics.field_r2(predicted, gradients, baseline="zero")
    np.testing.assert_allclose(zero, 1 - ((predicted - gradients) ** 2).sum((1, 2)) / (gradients**2).sum((1, 2)))


def test_constant_fields_are_right_or_wrong():
    """Up to the rounding of float32, which is no field to explain."""
    gradients = torch.full((3, 70, 2), 0.1) * torch.tensor([1, 1, 0])[:, None, None]
    gradients[0, ::2] = torch.nextafter(gradients[0, ::2], torch.tensor(1.0))
    predicted = gradients[:, 1:2].expand(-1, 70, -1).clone()
    assert ge.metrics.field_r2(predicted, gradients).tolist() == [1, 1, 1]
    predicted[1:] += 0.01
    assert ge.metrics.field_r2(predicted, gradients)[1:].tolist() == [0, 0]
    assert ge.metrics.field_r2(predicted, gradients, baseline="zero")[2] == 0


# Pictures


def test_pca_projects_on_the_directions_of_greatest_variance():
    z = noise((50, 6)) * [1, 5, 1, 20, 1, 1]
    projection = ge.metrics.project_2d(z, method="pca")
    vectors = np.linalg.eigh(np.cov(z.T)).eigenvectors
    expected = (z - z.mean(0)) @ vectors[:, [-1, -2]]
    np.testing.assert_allclose(projection.coordinates.abs(), np.abs(expected), atol=1e-9)
    assert repr(projection) == "Projection(50 units, pca)"
    assert ge.metrics.project_2d(z[:3]).method == "pca"  # too few units for UMAP
    assert not ge.metrics.project_2d(np.ones((5, 3)), method="pca").coordinates.any()
    line = np.stack([z[:, 0] - z[:, 0].mean(), np.zeros(50)], 1)
    assert_close(ge.metrics.project_2d(z[:, :1], method="pca").coordinates.abs(), torch.from_numpy(np.abs(line)))


def test_pca_of_many_units_is_iterated_for_and_the_same(monkeypatch):
    z = noise((50, 6)) * [1, 5, 1, 20, 1, 1]
    whole = ge.metrics.project_2d(z, method="pca").coordinates
    monkeypatch.setattr(_comparison, "MANY", 5)
    assert_close(ge.metrics.project_2d(z, method="pca").coordinates, whole)


def test_pca_takes_the_place_of_a_missing_umap(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", None)
    assert ge.metrics.project_2d(noise((20, 3))).method == "pca"
    message = r"`method` should be installed\. Got 'umap' without umap-learn\. Install umap-learn, or use method='pca'"
    with pytest.raises(ImportError, match=message):
        ge.metrics.project_2d(noise((20, 3)), method="umap")


class StandIn:
    """In place of UMAP, which compiles for twenty seconds: lays units out by their first columns; sets all threads."""

    def __init__(self, **settings):
        self.settings = settings

    def fit_transform(self, points):
        assert self.settings == {"n_neighbors": min(15, len(points) - 1), "init": "pca", "n_jobs": 1, "random_state": 7}
        torch.set_num_threads(torch.get_num_threads() + 1)
        return points[:, :2].astype(np.float32)


def test_umap_is_asked_for_a_layout_by_the_seed_and_torch_keeps_its_threads(monkeypatch):
    monkeypatch.setitem(sys.modules, "umap", SimpleNamespace(UMAP=StandIn, __spec__=ModuleSpec("umap", None)))
    z, n_threads = noise((40, 5)), torch.get_num_threads()
    for points in (z, z[:4], z[:, :1]):
        layout = ge.metrics.project_2d(points, seed=7)
        assert layout.method == "umap"
        expected = np.pad(points, ((0, 0), (0, 1)))[:, :2]
        assert_close(layout.coordinates, torch.from_numpy(expected), atol=1e-6, rtol=1e-6)
    assert torch.get_num_threads() == n_threads
    assert not ge.metrics.project_2d(np.ones((10, 3)), method="umap").coordinates.any()


# Everything


def test_results_are_stored_and_read_again(tmp_path):
    cache, z = ge.Cache(tmp_path), noise((60, 3))
    known = z, CLASS[:60], NETWORK[:60]
    scores = {M.linear_probe: known, M.retrieval: known, M.enrichment: (*known, 19), M.spread: ([0.5],)}
    for function, arguments in (scores | {M.match_units: (z[:20], z[20:]), M.project_2d: (z, 0, "pca")}).items():
        fresh, read = cache.call(function, *arguments), cache.call(function, *arguments)
        assert (type(read), repr(read)) == (type(fresh), repr(fresh))
        for name, value in vars(fresh).items():
            assert np.array_equal(value, vars(read)[name]), name


# Refusals of a special kind; for the others see the abuse tables

Z, Y, G = noise((12, 2)), np.arange(12) % 3, np.arange(12) // 3
RARE = np.where(G == 0, 3, Y)
REFUSALS = [
    (M.retrieval, (Z * 1e150, Y), {}, "`z` should be finite, below 1e.* Got 2.*e.150. Scale it down"),
    (M.linear_probe, (Z, ["a", 1] * 6), {}, "`y` should hold integers, booleans or strings. Got list"),
    (M.linear_probe, (Z, [[1], [1, 2]]), {}, "`y` should hold integers, booleans or strings"),
    (M.linear_probe, (Z, Y, G), {"n_folds": 5}, "`groups` should name as many networks as folds. Got 4 for 5"),
    (M.linear_probe, (Z, RARE, G), {}, "`y` should have every class in at least 2 networks. Got one in 1. Leave rare"),
    (M.linear_probe, (Z, [0] * 11 + [1]), {}, "`y` should have every class in at least 2 units. Got one in 1"),
    (M.transfer_probe, (Z, Y, Z, list("abcdef") * 2), {}, "hold classes of y_train only. Got .'a', 'b', 'c', 'd'"),
    (M.transfer_probe, (Z, Y, Z, Y), {"groups_train": G, "groups_test": G + 2}, "no network .* Got 2 on both sides"),
    (M.retrieval, (Z, Y, G * 0), {}, "`groups` should leave every query 1 or more candidates. Got 12 with fewer"),
    (M.retrieval, (Z, Y, G), {"queries": Y}, "`queries` should be a mask of booleans. Got labels of type int64"),
    (M.retrieval, (Z, Y, G), {"candidates": Y > 5}, "`candidates` should be true for at least one unit. Got none"),
    (M.cluster_agreement, (Z, np.arange(12)), {}, "`y` should have two units in some class. Got one in each"),
    (M.permutation_null, (lambda _: np.nan, Y), {}, "`statistic` should give a finite number. Got nan. Correct"),
    (M.permutation_null, (lambda y: y, Y), {}, "`statistic` should give a finite number. Got ndarray"),
    (M.enrichment, (Z, G, G), {}, "`y` should differ within some group. Got one label in each. Permute within larger"),
    (M.field_r2, (Z[:, None], Z[:, None]), {}, "`gradients` should be taken at two points or more. Got one"),
    (M.spread, ([0.5],), {"bounds": (1, 0)}, r"`bounds` should be a lower and an upper bound.* Pass \(low, high\)"),
    (M.spread, ([0.5, 2],), {"bounds": (0, 1)}, "`bounds` should hold all values .* Got values from 0.5 to 2. Widen"),
    (M.project_2d, (Z[:3],), {"method": "umap"}, "`z` should hold 4 units or more for umap. Got 3"),
]  # fmt: skip


@pytest.mark.parametrize(("function", "arguments", "named", "message"), REFUSALS)
def test_wrong_arguments_are_refused(function, arguments, named, message):
    with pytest.raises((ValueError, TypeError), match=message):
        function(*arguments, **named)


def test_classes_that_no_split_can_keep_in_training_are_refused():
    counts = np.array([[5, 10, 0], [1, 2, 1], [2, 2, 1], [10, 0, 5]])
    groups, y = (places.repeat(counts.flatten()) for places in np.divmod(np.arange(12), 3))
    with pytest.raises(ValueError, match=r"`y` should leave every class in every training part\. Got .* another seed"):
        ge.metrics.linear_probe(np.eye(3)[y], y, groups)


# Patterns over pairs


def pattern(u, seed):
    table = torch.randn(u, u, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return table + table.T


def test_mantel_finds_a_common_pattern_and_is_fair_where_there_is_none():
    a, b = pattern(8, 0), pattern(8, 1)
    found = ge.metrics.mantel(a, a + 0.3 * b, n_permutations=999)
    above = np.triu_indices(8, 1)
    assert found.observed == pytest.approx(np.corrcoef(a[above], (a + 0.3 * b)[above])[0, 1])
    assert (found.p_value, abs(found.null_mean) < 0.05) == (0.001, True)
    chance = [ge.metrics.mantel(pattern(6, 2 * i), pattern(6, 2 * i + 1), n_permutations=39).p_value for i in range(80)]
    assert 0.35 < np.mean(chance) < 0.65
    assert np.mean(np.array(chance) <= 0.1) < 0.22  # 0.1 expected: more with probability 0.001


def test_mantel_permutes_units_not_pairs():
    """Patterns of one number per unit: pairs that share a unit agree, which permuting pairs takes for evidence."""
    spread = []
    for i in range(30):
        one, other = (torch.randn(10, generator=torch.Generator().manual_seed(2 * i + j)).double() for j in (0, 1))
        spread.append(ge.metrics.mantel(one[:, None] + one, other[:, None] + other, n_permutations=99).null_std)
    assert np.mean(spread) > 1.5 / math.sqrt(45 - 1)


def test_partial_mantel_takes_off_what_a_third_pattern_says_of_both():
    common, a, b = pattern(12, 0), pattern(12, 1), pattern(12, 2)
    plain = ge.metrics.mantel(common + 0.4 * a, common + 0.4 * b, n_permutations=199)
    partial = ge.metrics.mantel(common + 0.4 * a, common + 0.4 * b, common, n_permutations=199)
    assert (plain.observed > 0.7, abs(partial.observed) < 0.35) == (True, True)
    above = np.triu_indices(12, 1)
    rows = np.stack([np.ones(66), common[above]], 1)
    left = [t[above].numpy() - rows @ np.linalg.lstsq(rows, t[above].numpy(), rcond=None)[0] for t in (a, b)]
    assert partial.observed == pytest.approx(np.corrcoef(*left)[0, 1])


def test_partial_mantel_takes_a_control_for_each_network():
    """Each pattern is its own control plus noise: nothing is common, whatever the mean of the controls says."""
    own, mean = [], []
    for i in range(20):
        controls = torch.stack([pattern(10, 4 * i), pattern(10, 4 * i + 1)])
        a, b = (control + 0.5 * pattern(10, 4 * i + 2 + j) for j, control in enumerate(controls))
        own.append(ge.metrics.mantel(a, b, controls, n_permutations=19).observed)
        mean.append(ge.metrics.mantel(a, b, controls.mean(0), n_permutations=19).observed)
    assert abs(np.mean(own)) < 0.1
    assert np.mean(mean) < -0.4


@pytest.mark.parametrize(("tables", "message"), [
    ((pattern(3, 0), pattern(3, 1)), r"`a` should be a symmetric matrix of the same 4 or more units. Got shape"),
    ((pattern(5, 0), pattern(6, 1)), r"`b` should be a symmetric matrix"),
    ((pattern(5, 0), torch.randn(5, 5)), r"`b` should be a symmetric matrix"),
    ((torch.ones(5, 5), pattern(5, 1)), "`a` should vary over pairs, beyond what the control says. Got a pattern"),
    ((pattern(5, 0), 2 * pattern(5, 1), pattern(5, 1)), "`b` should vary over pairs, beyond what the control says"),
])  # fmt: skip
def test_mantel_refuses_what_is_no_pattern(tables, message):
    with pytest.raises(ValueError, match=message):
        ge.metrics.mantel(*tables)
