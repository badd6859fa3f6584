"""Unit cards: what they say of a unit, against numbers found another way; what they refuse; how they are drawn."""

import dataclasses
import math
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from _asserts import assert_close
from _figures import words as names
from matplotlib.colors import to_rgb
from scipy.spatial.distance import cdist

import gradembed as ge
from gradembed import plots


def make_fields(e=4, v=3, m=12, d=5, seed=0, **changes):
    """Units of e networks, v of each, all of a network at the same points."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    given = {"points": draw(e, 1, m, d).expand(-1, v, -1, -1).flatten(0, 1).clone()}
    given |= {"gradients": draw(e * v, m, d) + draw(e * v, 1, d), "values": draw(e * v, m)}
    return ge.GradientFields(**(given | {"groups": torch.arange(e).repeat_interleave(v) + 10} | changes))


def make_z(u=12, k=3, seed=1):
    return torch.randn(u, k, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def make_card(unit=4, z=None, fields=None, **named):
    return ge.unit_card(make_fields() if fields is None else fields, unit, make_z() if z is None else z, **named)


# names and values


def test_names_are_made_up_or_given():
    assert make_card().name == "unit 4 of network 11"
    card = make_card(names=[f"n{i}" for i in range(12)])
    assert (card.unit, card.name, card.network, card.dim) == (4, "n4", 11, 5)
    assert card.aligned_names + card.twin_names == tuple(f"n{i}" for i in [*card.aligned, *card.twins])
    assert card.twin_networks.tolist() == [10 + i // 3 for i in card.twins.tolist()]


def test_values_are_summed_up_and_the_highest_listed():
    values = torch.tensor([1.0, 5, 3, 5, -4, 2]).double().expand(12, -1)
    card = ge.unit_card(make_fields(m=6, values=values), 2, make_z(), n_top=3)
    assert card.value_summary == {"mean": 2, "std": np.std([1, 5, 3, 5, -4, 2]), "min": -4, "max": 5}
    assert card.top.tolist() == [1, 3, 2]  # of equal ones the first comes first
    assert card.top_values.tolist() == [5, 5, 3]
    assert card.values.tolist() == values[2].tolist()
    assert ge.unit_card(make_fields(m=6, values=values), 2, make_z()).top.tolist() == [1, 3, 2, 5, 0, 4]


# the field and its spectrum


@pytest.mark.parametrize(("m", "d"), [(12, 5), (3, 5), (5, 3)])
def test_spectrum_is_that_of_the_second_moment(m, d):
    fields = make_fields(m=m, d=d)
    card = ge.unit_card(fields, 7, make_z())
    moment = np.mean([np.outer(g, g) for g in fields.gradients[7].numpy()], axis=0)
    expected = np.linalg.eigvalsh(moment)[::-1][: min(m, d)] / np.trace(moment)
    assert_close(card.spectrum, torch.from_numpy(expected.copy()))
    assert card.effective_dimension == pytest.approx(np.trace(moment) ** 2 / np.trace(moment @ moment))
    assert_close(card.directions @ card.directions.T, torch.eye(2, dtype=torch.float64), atol=1e-12)
    for direction, share in zip(card.directions.numpy(), expected, strict=False):
        assert moment @ direction == pytest.approx(share * np.trace(moment) * direction, abs=1e-12)
    points = fields.points[7] - fields.points[7].mean(0)
    assert_close(card.points, points @ card.directions.T)
    assert_close(card.gradients, fields.gradients[7] @ card.directions.T)


def test_spectrum_of_known_gradients():
    gradients = torch.zeros(12, 4, 5, dtype=torch.float64)
    gradients[:, 0, 3], gradients[:, 1, 3], gradients[:, 2, 1] = 3, -1, 2  # E[g g'] = diag(0, 4, 0, 10, 0) / 4
    card = ge.unit_card(make_fields(m=4, gradients=gradients), 0, make_z())
    assert_close(card.spectrum, torch.tensor([10, 4, 0, 0], dtype=torch.float64) / 14, atol=1e-15)
    assert (card.undefined, card.effective_dimension) == (1, pytest.approx(14**2 / (10**2 + 4**2)))
    assert_close(card.directions, torch.eye(5, dtype=torch.float64)[[3, 1]], atol=1e-12)
    assert_close(card.gradients[:, 0], torch.tensor([3.0, -1, 0, 0]).double(), atol=1e-12)


@pytest.mark.parametrize(
    ("along", "sign"),
    [
        ([1.0, 1, 1, -2.5], -1),  # mean 0.125, below a tenth of the root mean square 1.52: the skewness decides
        ([-1.0, -1, -1, 2], -1),  # mean -0.25, above a tenth of 1.32: it decides, against the skewness
        ([1.0, 1, 1, -3], -1),  # mean 0
        ([-2.0, -2, 1, 3], 1),
        ([1.0, -1, 2, -2], 0),  # neither: the largest entry of the direction is positive
    ],
)
@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_signs_are_the_stated_ones(along, sign, flip):
    """Gradients along one axis: their projections are those on the axis, or the opposite."""
    along = flip * torch.tensor(along, dtype=torch.float64)
    gradients = torch.zeros(12, 4, 5, dtype=torch.float64)
    gradients[0, :, 2] = along
    card = ge.unit_card(make_fields(m=4, gradients=gradients), 0, make_z())
    expected = sign * flip or 1.0
    assert_close(card.directions[0], expected * torch.eye(5, dtype=torch.float64)[2], atol=1e-12)
    assert_close(card.gradients[:, 0], expected * along, atol=1e-12)


def test_a_turned_network_has_the_same_card():
    fields, z = make_fields(), make_z()
    rotation = torch.linalg.qr(make_z(5, 5))[0]
    for unit in (0, 4, 11):
        one, other = (ge.unit_card(f, unit, z) for f in (fields, fields.rotated(rotation)))
        for name in ("spectrum", "points", "gradients", "values", "cosines", "distances"):
            assert_close(getattr(one, name), getattr(other, name), rtol=1e-7, atol=1e-9)
        assert one.aligned.tolist() == other.aligned.tolist()
    stretched = ge.unit_card(fields.transformed(torch.diag(torch.tensor([1.0, 1, 1, 1, 9]).double())), 0, z)
    assert (stretched.spectrum - ge.unit_card(fields, 0, z).spectrum).abs().max() > 1e-3  # only rotations


def test_gradients_along_a_line_are_drawn_over_where_the_points_spread():
    fields = make_fields(m=40)
    direction = torch.tensor([1.0, 2, 0, 0, -1]).double()
    gradients = direction.expand(12, 40, -1).clone()
    card = ge.unit_card(dataclasses.replace(fields, gradients=gradients), 0, make_z())
    assert_close(card.spectrum, torch.eye(5, dtype=torch.float64)[0], atol=1e-15)
    assert card.effective_dimension == pytest.approx(1)
    unit = direction / direction.norm()
    assert_close(card.directions[0], unit)
    centered = (fields.points[0] - fields.points[0].mean(0)).numpy()
    left = centered - np.outer(centered @ unit.numpy(), unit.numpy())
    widest = np.linalg.eigh(left.T @ left)[1][:, -1]
    assert abs(widest @ card.directions[1].numpy()) == pytest.approx(1)
    assert card.points[:, 1].pow(3).mean() > 0
    assert card.gradients[:, 1].abs().max() < 1e-12


def test_a_unit_without_gradient_has_documented_values():
    fields, z = make_fields(), make_z()
    fields.gradients[4] = 0
    card = ge.unit_card(fields, 4, z)
    assert (card.spectrum.tolist(), card.effective_dimension, card.undefined) == ([0] * 5, 0, 12)
    assert card.aligned.tolist() == []
    assert card.aligned_note == "2 other units of the network, of which 2 without a common gradient"
    assert_close(card.directions @ card.directions.T, torch.eye(2, dtype=torch.float64), atol=1e-12)
    assert card.gradients.abs().max() == 0
    assert card.points.square().mean(0).diff() < 0  # the two directions in which points vary most
    assert ge.unit_card(fields, 3, z).aligned.tolist() == [5]


def test_one_dimension_has_no_second_direction():
    card = ge.unit_card(make_fields(d=1), 0, make_z())
    assert card.directions.abs().tolist() == [[1], [0]]
    assert card.points[:, 1].tolist() == card.gradients[:, 1].tolist() == [0] * 12
    assert card.effective_dimension == 1


@pytest.mark.parametrize("scale", [1e-170, 1e170])
def test_squares_neither_overflow_nor_vanish(scale):
    fields, z = make_fields(), make_z()
    one, other = (ge.unit_card(dataclasses.replace(fields, gradients=fields.gradients * s), 0, z) for s in (1.0, scale))
    for name in ("spectrum", "directions", "cosines"):
        assert_close(getattr(one, name), getattr(other, name))


# aligned


def test_aligned_units_are_the_largest_mean_cosines_of_the_network():
    fields, z = make_fields(e=2, v=6), make_z()
    fields.gradients[8, :5] = 0
    fields.gradients[9] = 0.5 * fields.gradients[9] - fields.gradients[7]
    card = ge.unit_card(fields, 7, z, n_neighbors=3)
    peers = [6, 8, 9, 10, 11]
    exist = fields.gradients.any(2)  # [u, m]
    every = {i: torch.cosine_similarity(fields.gradients[7], fields.gradients[i])[exist[7] & exist[i]] for i in peers}
    cosines = {i: float(cosine.mean()) for i, cosine in every.items()}
    expected = sorted(peers, key=lambda i: -abs(cosines[i]))[:3]
    assert card.aligned.tolist() == expected
    assert_close(card.cosines, torch.tensor([cosines[i] for i in expected], dtype=torch.float64))
    assert card.cosines.min() < 0 < card.cosines.max()  # either sign counts
    assert_close(card.aligned_distances, (z[expected] - z[7]).norm(dim=1))
    assert card.aligned_note == ""


def test_mean_cosines_are_those_of_interference():
    network, x = ge.MLP([5, 16, 4], seed=0).double(), torch.randn(30, 5, dtype=torch.float64)
    fields = ge.gradient_fields(network, x, wrt="hidden1")
    both = ge.GradientFields.concatenate([fields, fields], new_networks=True)
    card = ge.unit_card(both, 1, make_z(8))
    expected = ge.interference(network, x).cosine["hidden1"][1]
    assert_close(card.cosines, expected[card.aligned], rtol=1e-7)


def test_units_at_other_points_are_not_compared():
    fields, z = make_fields(), make_z()
    fields.points[5] += 1e-9
    card = ge.unit_card(fields, 4, z)
    assert card.aligned.tolist() == [3]
    assert card.aligned_note == "2 other units of the network, of which 1 at other points"
    fields.gradients[3] = 0
    card = ge.unit_card(fields, 4, z)
    assert (card.aligned.shape, card.cosines.shape, card.aligned_names) == ((0,), (0,), ())
    assert card.aligned_note.endswith("of which 1 at other points and 1 without a common gradient")
    shared = ge.unit_card(dataclasses.replace(make_fields(), points=fields.points[0]), 4, z)
    assert (sorted(shared.aligned.tolist()), shared.aligned_note) == ([3, 5], "")


# twins


@pytest.mark.parametrize("with_task", [False, True])
def test_twins_are_the_nearest_of_other_networks_and_tasks_ranked_among_those_of_all_units(with_task):
    fields, z = make_fields(e=6, v=4, m=3), make_z(24)
    network, task = np.arange(24) // 4, np.arange(24) % 2 if with_task else np.arange(24)
    apart = (network[:, None] == network) | (task[:, None] == task)
    distances = np.where(apart, np.inf, cdist(z, z))
    nearest, order = np.sort(distances, axis=1)[:, :4], distances.argsort(1)
    for unit in range(0, 24, 5):
        card = ge.unit_card(fields, unit, z, exclude=torch.from_numpy(task) if with_task else None, n_neighbors=4)
        assert card.twins.tolist() == order[unit, :4].tolist()
        assert_close(card.distances, torch.from_numpy(nearest[unit]))
        assert card.typical_distance == pytest.approx(np.median(distances[unit][~apart[unit]]))
        others = np.delete(nearest, unit, axis=0)
        smaller, equal = others < nearest[unit] - 1e-12, np.abs(others - nearest[unit]) < 1e-12
        assert card.twin_quantiles.tolist() == pytest.approx((smaller + equal / 2).mean(0).tolist())


def test_a_close_pair_is_at_quantile_zero_and_equal_ones_at_one_half():
    z = make_z()
    z[8] = z[4] + 1e-3
    card = ge.unit_card(make_fields(), 4, z, n_neighbors=1)
    assert card.twins.tolist() == [8]
    assert card.twin_quantiles.item() == pytest.approx(0.5 / 11)  # only its twin's twin is as near
    assert card.distances.item() < 0.1 * card.typical_distance
    constant = ge.unit_card(make_fields(), 4, torch.ones(12, 2))
    assert constant.twin_quantiles.tolist() == [0.5] * 5
    assert constant.typical_distance == 0


def test_fewer_candidates_than_asked_for_are_all_listed():
    groups = torch.tensor([0] * 9 + [1, 1, 2])
    card = ge.unit_card(make_fields(groups=groups), 0, make_z())
    assert sorted(card.twins.tolist()) == [9, 10, 11]
    task = torch.tensor([0] * 11 + [1])  # 11 is the only one with candidates of both kinds
    only = ge.unit_card(make_fields(groups=groups), 11, make_z(), exclude=task, n_neighbors=11)
    assert sorted(only.twins.tolist()) == list(range(11))
    assert only.twin_quantiles.tolist() == [0.5] * 11  # no other unit has so many: nothing to compare with


def test_labels_and_embeddings_of_any_kind_give_the_same():
    fields, z, task = make_fields(), make_z(), [i % 2 for i in range(12)]
    kinds = [torch.tensor(task), np.array(task), task, ["ab"[i] for i in task]]
    (one, *others) = [ge.unit_card(fields, 1, z.numpy(), exclude=kind).twins.tolist() for kind in kinds]
    assert all(other == one == ge.unit_card(fields, 1, z, exclude=kinds[0]).twins.tolist() for other in others)
    assert not {i % 2 for i in one} & {1}


# the whole card


def test_single_precision_is_close_to_double():
    fields, names = make_fields(), ("points", "gradients", "values")
    single = dataclasses.replace(fields, **{name: getattr(fields, name).float() for name in names})
    one, other = ge.unit_card(fields, 6, make_z()), ge.unit_card(single, 6, make_z())
    for name in ("spectrum", "points", "gradients", "cosines", "distances", "top_values"):
        assert getattr(other, name).dtype == torch.float64
        assert_close(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-5)


def test_nothing_given_is_shared():
    fields, before = make_fields(), make_fields()
    card = ge.unit_card(fields, 6, make_z())
    card.values.zero_(), card.points.zero_(), card.gradients.zero_(), card.top_values.zero_()
    assert all(torch.equal(getattr(fields, name), getattr(before, name)) for name in ("points", "gradients", "values"))


def test_repr_tells_what_is_known_and_what_is_not():
    fields, z = make_fields(), torch.arange(12, dtype=torch.float64)[:, None]
    fields.gradients[4, :2] = 0
    text = repr(ge.unit_card(fields, 4, z, n_neighbors=1))
    dimension = ge.unit_card(fields, 4, z).effective_dimension
    assert text == (
        f"UnitCard('unit 4 of network 11', 12 points (2 without gradient), effective dimension {dimension:.1f} of 5, "
        "1 aligned unit, 1 twin from 2 where 4 is typical)"
    )
    alone = repr(ge.unit_card(make_fields(e=12, v=1), 4, z))
    assert "12 points, effective" in alone
    assert alone.endswith("0 aligned units, 5 twins from 1 where 3 is typical, note: no other unit of the network)")


def test_frame_has_one_row_per_neighbor():
    card = ge.unit_card(make_fields(), 4, make_z(), names=list("abcdefghijkl"), n_neighbors=4)
    frame, found, nan = card.to_frame(), card.aligned.tolist() + card.twins.tolist(), math.nan
    expected = {
        "unit": [4] * 6, "name": ["e"] * 6, "relation": ["aligned"] * 2 + ["twin"] * 4, "rank": [1, 2, 1, 2, 3, 4],
        "neighbor": found, "neighbor_name": ["abcdefghijkl"[i] for i in found],
        "network": [10 + i // 3 for i in found], "cosine": [*card.cosines.tolist(), nan, nan, nan, nan],
        "distance": card.aligned_distances.tolist() + card.distances.tolist(),
        "quantile": [nan, nan, *card.twin_quantiles.tolist()],
    }  # fmt: skip
    pd.testing.assert_frame_equal(frame, pd.DataFrame(expected), check_exact=True)


def test_a_card_is_stored_and_read(tmp_path):
    fields, z = make_fields(), make_z()
    cards = [ge.Cache(tmp_path).call(ge.unit_card, fields, 4, z) for _ in range(2)]
    assert len(list(tmp_path.glob("unit_card-*.json"))) == 1
    for field in dataclasses.fields(ge.UnitCard):
        one, other = (getattr(card, field.name) for card in cards)
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


# what is refused (the ordinary mistakes: tests/_abuse_embeddings.py)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fields": make_fields(values=None)}, "`fields` should have values, to rank points by, and groups, which say "
         "what network a unit is from. Got fields without. Take them with gradient_fields"),
        ({"fields": make_fields(groups=None)}, "`fields` should have values, to rank points by, and groups"),
        ({"exclude": [0] * 11}, "`exclude` should hold one label for each of 12"),
        ({"exclude": [0] * 12}, "`fields` should leave the unit another network with another label in `exclude`. Got "
         "no unit that could be its twin. Pass units of more networks"),
        ({"fields": make_fields(groups=torch.zeros(12, dtype=torch.int64))},
         "`fields` should leave the unit another network. Got no unit that could be its twin"),
    ],
)  # fmt: skip
def test_unit_card_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        ge.unit_card(**({"fields": make_fields(), "unit": 4, "z": make_z()} | arguments))


# the figure


def test_four_panels_show_the_card(drawn):
    card = make_card(names=[f"unit {letter}" for letter in "abcdefghijkl"], n_neighbors=4, n_top=3)
    field, spectrum, aligned, twins = panels = plots.unit_card(card)
    assert field.figure.get_suptitle() == "unit e"
    assert field.collections[0].get_offsets().tolist() == card.points.tolist()
    assert np.array_equal(np.stack([field.collections[0].U, field.collections[0].V], 1), card.gradients.numpy())
    assert np.array_equal(field.collections[0].get_array(), card.values.numpy())
    assert field.collections[1].get_offsets().tolist() == card.points[card.top].tolist()
    assert [bar.get_height() for bar in spectrum.patches] == card.spectrum.tolist()
    assert spectrum.get_title() == f"effective dimension {card.effective_dimension:.1f}"
    assert spectrum.get_xlabel() == "gradient direction (of 5)"
    assert [bar.get_width() for bar in aligned.patches] == card.cosines.tolist()
    assert [bar.get_width() for bar in twins.patches] == card.distances.tolist()
    assert names(aligned.get_yticklabels()) == list(card.aligned_names)
    assert names(twins.get_yticklabels()) == list(card.twin_names)
    assert set(twins.lines[0].get_xdata()) == {card.typical_distance}
    assert all(ax.yaxis_inverted() for ax in (aligned, twins))  # the first on top
    assert all(ax.get_title() for ax in panels)


def test_aligned_units_are_red_where_they_agree_and_blue_where_not():
    fields = make_fields()
    fields.gradients[3], fields.gradients[5] = fields.gradients[4], -fields.gradients[4]
    _, _, ax, _ = plots.unit_card(make_card(fields=fields))
    colors = {round(bar.get_width()): to_rgb(bar.get_facecolor()) for bar in ax.patches}
    assert colors[1][0] > 2 * colors[1][2]
    assert colors[-1][2] > 2 * colors[-1][0]
    assert ax.get_xlim() == (-1.3, 1.3)
    assert sorted(names(ax.texts)) == ["1.00", "−1.00"]


def test_given_axes_have_the_title_over_the_first(drawn):
    figure, grid = plt.subplots(2, 2, layout="constrained")
    card = make_card()
    assert plots.unit_card(card, axes=grid)[0].get_title() == card.name
    assert plots.unit_card(card, title="one of many", axes=list(grid.flat))[0].get_title() == "one of many"
    assert figure.get_suptitle() == ""


def test_missing_aligned_units_are_explained_and_many_points_thinned_but_for_the_highest(drawn):
    card = make_card(fields=make_fields(e=12, v=1, m=1000), n_top=20)
    field, _, ax, _ = plots.unit_card(card)
    assert (len(card.aligned), card.aligned_note, len(card.twins)) == (0, "no other unit of the network", 5)
    assert not ax.patches
    assert " ".join(names(ax.texts)[0].split()) == "None to compare: no other unit of the network"
    shown = sorted({*range(0, 1000, 4), *card.top.tolist()})
    assert field.collections[0].get_offsets().tolist() == card.points[shown].tolist()
    assert 250 < len(shown) < 270


@pytest.mark.parametrize(
    ("z", "changes"),
    [(None, {"gradients": torch.zeros(12, 12, 5).double(), "values": torch.ones(12, 12).double()}), (None, {"d": 1}),
     (None, {"m": 1}), (torch.ones(12, 2), {}), (None, {"m": 30, "d": 40}),
     (None, {"points": torch.zeros(12, 12, 5).double()})],
    ids=["flat", "one dimension", "one point", "constant", "wide", "nowhere"],
)  # fmt: skip
def test_any_card_is_drawn(drawn, z, changes):
    panels = plots.unit_card(make_card(fields=make_fields(**changes), z=z))
    assert len(panels[1].patches) <= 10
    assert all(np.isfinite([*ax.get_xlim(), *ax.get_ylim()]).all() for ax in panels)


def test_long_names_keep_to_two_lines_and_off_their_neighbors():
    named = [f"a rather long name of the unit at place {i} of all that there are" for i in range(12)]
    _, spectrum, aligned, twins = plots.unit_card(make_card(names=named))
    figure = twins.figure
    figure.canvas.draw()
    assert all(label.count("\n") == 1 and label.endswith("…") for label in names(twins.get_yticklabels()))
    for ax, left in ((aligned, spectrum), (twins, aligned)):
        boxes = [label.get_window_extent() for label in ax.get_yticklabels()]
        assert min(box.x0 for box in boxes) > left.get_window_extent().x1
        for upper, lower in pairwise(boxes):
            assert upper.y0 >= lower.y1
