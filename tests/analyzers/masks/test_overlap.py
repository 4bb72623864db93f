"""Overlaps of masks against sets of indices, and chance levels against masks drawn at random."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sharpscope.analyzers.masks.overlap import MaskOverlap, mask_overlap
from sharpscope.coordinates.packed import PackedMask

SHAPES = {"conv.weight": (5, 3, 3), "conv.bias": (5,), "scale": (), "head.weight": (7, 11), "one": (1,), "byte": (8,)}
SIZE = 45 + 5 + 1 + 77 + 1 + 8


def random_mask(rng: np.random.Generator, density: float = 0.4) -> dict[str, np.ndarray]:
    return {name: np.asarray(rng.random(shape) < density) for name, shape in SHAPES.items()}


def constant(value: bool) -> dict[str, np.ndarray]:
    return {name: np.full(shape, value) for name, shape in SHAPES.items()}


def ones(mask: dict[str, Any], layer: str | None = None) -> set[tuple[str, int]]:
    """The selected entries as a set of names and indices."""
    names = list(mask) if layer is None else [layer]
    return {(name, i) for name in names for i, one in enumerate(np.asarray(mask[name]).flatten().tolist()) if one}


def divided(a: float, b: float) -> float:
    return a / b if b else math.nan


def kappa(a: set[Any], b: set[Any], size: int) -> float:
    """Cohen's, from the four cells."""
    observed = (len(a & b) + size - len(a | b)) / size
    expected = (len(a) * len(b) + (size - len(a)) * (size - len(b))) / size**2
    return divided(observed - expected, 1 - expected) if expected < 1 else math.nan


def z(a: set[Any], b: set[Any], size: int) -> float:
    first, second = len(a), len(b)
    law = {
        k: Fraction(math.comb(first, k) * math.comb(size - first, second - k), math.comb(size, second))
        for k in range(second + 1)
    }
    mean = sum(k * p for k, p in law.items())
    spread = math.sqrt(sum((k - mean) ** 2 * p for k, p in law.items()))
    return float(len(a & b) - mean) / spread if spread else math.nan


def same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-15, atol=0.0, equal_nan=True)


def test_every_figure_by_brute_force() -> None:
    rng = np.random.default_rng(0)
    masks = [random_mask(rng, density) for density in (0.2, 0.5, 0.9)] + [constant(True), constant(False)]
    found = mask_overlap(masks)
    assert found.labels == ("0", "1", "2", "3", "4") and found.layers == tuple(SHAPES)
    assert found.sizes.tolist() == [math.prod(shape) for shape in SHAPES.values()]
    for i, a in enumerate(masks):
        for j, b in enumerate(masks):
            A, B = ones(a), ones(b)
            assert found.intersection[i, j] == len(A & B)
            same(found.jaccard[i, j], divided(len(A & B), len(A | B)))
            same(found.overlap[i, j], divided(len(A & B), min(len(A), len(B))))
            chance = len(A) * len(B) / SIZE
            same(found.chance_intersection[i, j], chance)
            same(found.chance_jaccard[i, j], divided(chance, len(A) + len(B) - chance))
            np.testing.assert_allclose(found.kappa[i, j], kappa(A, B, SIZE), rtol=1e-12, atol=1e-14)
            same(found.over_chance[i, j], divided(len(A & B), chance))
            np.testing.assert_allclose(found.z[i, j], z(A, B, SIZE), rtol=1e-12)
            for k, layer in enumerate(SHAPES):
                C, D = ones(a, layer), ones(b, layer)
                assert found.intersections[k, i, j] == len(C & D)
                same(found.layer_jaccard[k, i, j], divided(len(C & D), len(C | D)))
                same(found.layer_overlap[k, i, j], divided(len(C & D), min(len(C), len(D))))
                size = math.prod(SHAPES[layer])
                np.testing.assert_allclose(found.layer_kappa[k, i, j], kappa(C, D, size), rtol=1e-12, atol=1e-14)
                same(found.layer_over_chance[k, i, j], divided(len(C & D), len(C) * len(D) / size))
                np.testing.assert_allclose(found.layer_z[k, i, j], z(C, D, size), rtol=1e-12)
        for k, layer in enumerate(SHAPES):
            assert found.selected[k, i] == len(ones(a, layer))
            same(found.density[k, i], len(ones(a, layer)) / math.prod(SHAPES[layer]))
    for array in (found.sizes, found.selected, found.intersections):
        assert array.dtype == np.int64


@pytest.mark.parametrize("size", [1, 2, 7, 8, 9, 15, 16, 17, 63, 64, 65, 1001])
def test_sizes_that_fill_no_byte(size: int) -> None:
    rng = np.random.default_rng(size)
    a, b = rng.random(size) < 0.5, rng.random(size) < 0.5
    found = mask_overlap([{"w": a}, {"w": b}, {"w": ~a}, {"w": np.ones(size, dtype=bool)}])
    masks = (a, b, ~a, np.ones(size, dtype=bool))
    assert found.intersection.tolist() == [[int((p & q).sum()) for q in masks] for p in masks]
    assert found.selected.tolist() == [[int(p.sum()) for p in masks]]


def test_sums_over_layers_are_the_whole() -> None:
    rng = np.random.default_rng(3)
    layered = [random_mask(rng) for _ in range(3)]
    flat = [{"all": np.concatenate([part.flatten() for part in mask.values()])} for mask in layered]
    parts, whole = mask_overlap(layered), mask_overlap(flat)
    assert np.array_equal(parts.intersection, whole.intersections[0])
    assert np.array_equal(parts.selected.sum(axis=0), whole.selected[0])
    for name in ("intersection", "jaccard", "overlap", "chance_intersection", "chance_jaccard"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name))  # bit for bit


def test_identical_complementary_disjoint() -> None:
    a = random_mask(np.random.default_rng(1))
    complement = {name: np.asarray(~part) for name, part in a.items()}
    single = constant(False) | {"byte": np.arange(8) == 2}
    other = constant(False) | {"byte": np.arange(8) == 3}
    found = mask_overlap({"a": a, "again": dict(a), "not a": complement, "single": single, "other": other})
    assert found.labels == ("a", "again", "not a", "single", "other")
    assert found.jaccard[0, 1] == found.overlap[0, 1] == 1.0
    assert found.jaccard[0, 2] == found.overlap[0, 2] == found.intersection[0, 2] == 0
    assert found.selected[:, 0].sum() + found.selected[:, 2].sum() == SIZE
    assert found.jaccard[3, 4] == found.overlap[3, 4] == 0.0
    assert np.array_equal(np.diag(found.jaccard), np.ones(5)) and np.array_equal(np.diag(found.overlap), np.ones(5))
    for figure in (found.jaccard, found.overlap, found.chance_intersection, found.chance_jaccard):
        assert np.array_equal(figure, figure.T)
    # a mask within another: the coefficient is 1, the index is the share
    inside = mask_overlap([a, constant(True)])
    assert inside.overlap[0, 1] == 1.0
    assert inside.jaccard[0, 1] == inside.selected[:, 0].sum() / SIZE


def test_empty_and_full() -> None:
    found = mask_overlap({"empty": constant(False), "full": constant(True)})
    same(found.jaccard, [[math.nan, 0.0], [0.0, 1.0]])
    same(found.overlap, [[math.nan, math.nan], [math.nan, 1.0]])
    same(found.chance_intersection, [[0.0, 0.0], [0.0, SIZE]])
    same(found.chance_jaccard, [[math.nan, 0.0], [0.0, 1.0]])
    assert found.density.tolist() == [[0.0, 1.0]] * len(SHAPES)
    assert np.isnan(found.layer_jaccard[:, 0, 0]).all()


@pytest.mark.parametrize(("size", "first", "second"), [(1000, 500, 500), (1000, 100, 700), (64, 8, 32), (333, 30, 300)])
def test_chance_levels_by_simulation(size: int, first: int, second: int) -> None:
    """10,000 masks with as many ones, placed at random: every chance level within three standard errors."""
    rng, count = np.random.default_rng(size + first), 10_000
    places = np.argsort(rng.random((count, size)), axis=1)
    shared = (places[:, :first] < second).sum(axis=1)  # of a mask of ``first`` ones anywhere and one of ``second``
    one = np.arange(size) < first
    drawn = [one, *(np.isin(np.arange(size), places[i, :second]) for i in range(3))]
    found = mask_overlap([{"w": mask} for mask in drawn])
    assert found.chance_intersection[0, 1] == first * second / size
    assert abs(shared.mean() - found.chance_intersection[0, 1]) < 3 * shared.std() / math.sqrt(count)
    excess = found.intersection[0, 1] - found.chance_intersection[0, 1]
    if excess:  # the spread behind z is that of the simulation
        spread = excess / found.z[0, 1]
        fourth = ((shared - shared.mean()) ** 4).mean() / shared.var() ** 2
        assert shared.var() == pytest.approx(spread**2, rel=3 * math.sqrt((fourth - 1) / count))
    cells = np.stack([shared, first - shared, second - shared])
    agree = 1 - (cells[1] + cells[2]) / size
    expected = (first * second + (size - first) * (size - second)) / size**2
    kappas = (agree - expected) / (1 - expected)
    assert abs(kappas.mean()) < 3 * kappas.std() / math.sqrt(count)
    turnover = 1 - shared / second  # of the second mask after the first
    assert abs(turnover.mean() - found.chance_turnover[0]) < 3 * turnover.std() / math.sqrt(count)
    union = (first + second - shared) / size
    assert abs(union.mean() - found.chance_union_growth[1]) < 3 * union.std() / math.sqrt(count)
    # the Jaccard index is not linear in the intersection: its mean lies above, by a second-order term
    jaccard = shared / (first + second - shared)
    level = first + second - first * second / size
    bias = shared.var() * (first + second) / level**3
    assert abs(jaccard.mean() - bias - found.chance_jaccard[0, 1]) < 3 * jaccard.std() / math.sqrt(count) + 0.2 * bias


def test_stratified_z_forgives_what_the_layers_explain() -> None:
    """Masks at random within layers of unlike densities: far from chance as a whole, at chance layer by layer."""
    rng = np.random.default_rng(0)
    count, sizes, ones = 10_000, (200, 300), (150, 30)
    shared = np.stack(
        [(np.argsort(rng.random((count, d)), axis=1)[:, :k] < k).sum(axis=1) for d, k in zip(sizes, ones, strict=True)]
    )
    masks = [
        {"a": np.isin(np.arange(200), rng.permutation(200)[:150]), "b": rng.permutation(300) < 30} for _ in range(2)
    ]
    found = mask_overlap(masks)
    assert found.z[0, 1] > 5
    excess = found.intersection[0, 1] - sum(k * k / d for d, k in zip(sizes, ones, strict=True))
    spread = excess / found.stratified_z[0, 1]
    total = shared.sum(axis=0)
    assert total.std() == pytest.approx(spread, rel=3 / math.sqrt(2 * count))
    assert abs(total.mean() - (found.intersection[0, 1] - excess)) < 3 * total.std() / math.sqrt(count)


def test_over_time_by_brute_force() -> None:
    rng = np.random.default_rng(6)
    masks = [random_mask(rng, 0.5)]
    for _ in range(6):
        masks.append({n: np.asarray(m ^ (rng.random(m.shape) < 0.25)) for n, m in masks[-1].items()})
    found = mask_overlap(masks)
    for k, layer in enumerate(SHAPES):
        sets = [ones(mask, layer) for mask in masks]
        everything = ones(constant(True), layer)
        for i in range(len(masks)):
            assert found.ever[k, i] == len(set.union(*sets[: i + 1]))
            assert found.never[k, i] == len(everything - set.union(*sets[: i + 1]))
            assert found.always[k, i] == len(set.intersection(*sets[: i + 1]))
            born = sets[i] - (sets[i - 1] if i else set())
            for j in range(len(masks)):
                assert found.stayed[k, i, j] == (len(born.intersection(*sets[i : j + 1])) if j >= i else 0)
        for i in range(len(masks) - 1):
            assert found.dropped[k, i] == len(sets[i] - sets[i + 1])
            assert found.grown[k, i] == len(sets[i + 1] - sets[i])
    whole = [ones(mask) for mask in masks]
    for i in range(len(masks) - 1):
        assert found.turnover[i] == len(whole[i + 1] - whole[i]) / len(whole[i + 1])
        assert found.chance_turnover[i] == pytest.approx(1 - len(whole[i]) / SIZE)
    assert found.union_growth.tolist() == [len(set.union(*whole[: i + 1])) / SIZE for i in range(len(masks))]
    np.testing.assert_allclose(found.survival, kaplan_meier(whole), rtol=1e-12)


def kaplan_meier(sets: list[set[Any]]) -> list[float]:
    """From the spells of every entry, one after the other: length, and whether its end was seen."""
    spells = []
    for entry in set.union(*sets):
        length = 0
        for chosen in [entry in one for one in sets]:
            if chosen:
                length += 1
            elif length:
                spells.append((length, True))
                length = 0
        if length:
            spells.append((length, False))
    curve = [1.0]
    for k in range(1, len(sets)):
        at_risk = sum(length > k or (length == k and ended) for length, ended in spells)
        lost = sum(length == k and ended for length, ended in spells)
        curve.append(curve[-1] * (1 - lost / at_risk) if at_risk else math.nan)
    return curve


def test_over_time_at_the_extremes() -> None:
    a = random_mask(np.random.default_rng(2))
    b = {name: np.asarray(~part) for name, part in a.items()}
    still, swapped = mask_overlap([a, a, a]), mask_overlap([a, b, a])
    assert still.turnover.tolist() == [0.0, 0.0] and still.survival.tolist() == [1.0] * 3
    assert swapped.turnover.tolist() == [1.0, 1.0] and swapped.survival[1] == 0.0
    assert swapped.union_growth.tolist()[1:] == [1.0, 1.0] and swapped.always[:, -1].sum() == 0
    assert still.kappa[0, 1] == 1.0
    assert swapped.kappa[0, 1] == pytest.approx(2 * -1 * (n := len(ones(a))) * (SIZE - n) / (n**2 + (SIZE - n) ** 2))


def test_packed_masks_are_the_same() -> None:
    rng = np.random.default_rng(8)
    masks = {f"step {i}": random_mask(rng) for i in range(4)}
    packed = {name: PackedMask.of(mask) for name, mask in masks.items()}
    assert mask_overlap(packed) == mask_overlap(masks)
    turned = PackedMask.of({name: masks["step 1"][name] for name in reversed(list(SHAPES))})
    assert mask_overlap([packed["step 0"], turned]) == mask_overlap([masks["step 0"], masks["step 1"]])


def test_tidy_tables() -> None:
    pytest.importorskip("pandas")
    rng = np.random.default_rng(4)
    found = mask_overlap({"a": random_mask(rng), "b": random_mask(rng), "c": random_mask(rng)})
    table = found.to_frame()
    assert list(table.columns) == ["first", "second", "layer", "quantity", "value"]

    def value(first: str, second: str, layer: str, quantity: str) -> float:
        rows = table[(table["first"] == first) & (table["second"] == second) & (table["layer"] == layer)]
        return rows[rows.quantity == quantity].value.item()

    assert value("a", "c", "", "kappa") == found.kappa[0, 2]
    assert value("b", "c", "head.weight", "z") == found.layer_z[3, 1, 2]
    assert value("a", "b", "conv.bias", "turnover") == found.grown[1, 0] / found.selected[1, 1]
    assert value("b", "b", "byte", "density") == found.density[5, 1]
    assert value("c", "c", "", "union") == found.union_growth[2]


def test_torch_and_numpy_lists_and_mappings() -> None:
    rng = np.random.default_rng(5)
    arrays = [random_mask(rng) for _ in range(2)]
    tensors = [{name: torch.tensor(part) for name, part in mask.items()} for mask in arrays]
    expected = mask_overlap(arrays)
    assert mask_overlap(tensors) == mask_overlap([tensors[0], arrays[1]]) == mask_overlap(tuple(arrays)) == expected
    assert mask_overlap({"0": arrays[0], "1": tensors[1]}) == expected
    named = mask_overlap(arrays, labels=["epoch 1", "epoch 2"])
    assert named.labels == ("epoch 1", "epoch 2") and np.array_equal(named.intersections, expected.intersections)
    assert mask_overlap({"a": arrays[0], "b": arrays[1]}, labels=["epoch 1", "epoch 2"]) == named
    assert isinstance(expected, MaskOverlap)


def test_labels_become_texts() -> None:
    mask = {"w": np.array([True])}
    assert mask_overlap({0: mask, 100: mask}).labels == ("0", "100")  # type: ignore[dict-item]


def test_the_order_of_the_parameters_is_free() -> None:
    a, b = (random_mask(np.random.default_rng(seed)) for seed in (0, 1))
    turned = {name: b[name] for name in reversed(list(b))}
    assert mask_overlap([a, turned]) == mask_overlap([a, b])


def test_views_and_one_mask() -> None:
    wide = torch.rand(6, 4) < 0.5
    found = mask_overlap([{"w": wide.t()}, {"w": wide.t().contiguous()}])
    assert found.jaccard[0, 1] == 1.0
    alone = mask_overlap([{"w": wide}])
    assert alone.intersections.tolist() == [[[int(wide.sum())]]]


def test_masks_on_any_device(device: torch.device) -> None:
    a, b = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    assert mask_overlap([{"w": a.to(device)}, {"w": b.to(device)}]).jaccard[0, 1] == 1 / 3


def test_empty_layers_are_no_obstacle() -> None:
    mask = {"w": np.array([True, False]), "none": np.zeros((0, 3), dtype=bool)}
    found = mask_overlap([mask, mask])
    assert found.sizes.tolist() == [2, 0] and found.jaccard[0, 1] == 1.0
    assert np.isnan(found.density[1]).all() and np.isnan(found.layer_jaccard[1]).all()


def test_what_was_given_is_left_alone() -> None:
    mask = torch.tensor([True, False])
    found = mask_overlap({"a": {"w": mask}})
    mask[1] = True
    assert found.selected.tolist() == [[1]]


A: Tensor = torch.tensor([True, False])
COUNT = "expected at least one mask and as many labels: give one label per mask"
KIND = "expected {parameter name: boolean tensor}: give a list of such masks or {label: mask}"
NAMES = "in one of them only), expected the same: compare masks of one model"


@pytest.mark.parametrize(
    ("masks", "labels", "text"),
    [
        ([], None, f"mask_overlap got 0 masks and 0 labels, {COUNT}"),
        ({}, None, f"mask_overlap got 0 masks and 0 labels, {COUNT}"),
        ([{"w": A}], ["a", "b"], f"mask_overlap got 1 masks and 2 labels, {COUNT}"),
        ({"a": {"w": A}}, [], f"mask_overlap got 1 masks and 0 labels, {COUNT}"),
        ({"w": A}, None, f"mask 'w' got a Tensor, {KIND}"),
        ([A, A], None, f"mask '0' got a Tensor, {KIND}"),
        ([{"w": A}, {}], None, "mask '1' got no parameter, expected at least one: leave out rules that have no mask"),
        (
            [{"w": A}, {"w": A.double()}],
            ["a", "b"],
            "mask 'b' got float64 for w, expected booleans: convert with mask.bool()",
        ),
        ([{"w": A.byte()}], None, "mask '0' got uint8 for w, expected booleans: convert with mask.bool()"),
        (
            [{"w": A}, {"w": A[None]}],
            None,
            "mask '1' got shape (1, 2) for w, expected (2,): compare masks of one model",
        ),
        ([{"w": A}, {"v": A}], None, f"mask '1' got other parameters than the first mask (w, v {NAMES}"),
        (
            [dict.fromkeys("abcd", A), dict.fromkeys("abce", A)],
            None,
            f"mask '1' got other parameters than the first mask (d, e {NAMES}",
        ),
        (
            [dict.fromkeys("abcdef", A), {"a": A}],
            None,
            f"mask '1' got other parameters than the first mask (b, c, d, ... {NAMES}",
        ),
        ([{"w": A}, {"w": A, "v": A}], None, f"mask '1' got other parameters than the first mask (v {NAMES}"),
    ],
)
def test_error_texts(masks: Any, labels: Any, text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the whole text is compared)
        mask_overlap(masks, labels)
    assert str(caught.value) == text


def test_a_label_that_stands_twice_is_refused() -> None:
    masks = [{"w": torch.tensor([True, False])}] * 2
    with pytest.raises(ValueError, match="got the label 'a' twice, expected one per mask: rename one"):
        mask_overlap(masks, labels=["a", "a"])


def test_a_layer_without_entries_changes_nothing() -> None:
    masks = [{"b": np.array([1, 0, 1, 0], bool)}, {"b": np.array([1, 1, 0, 0], bool)}] * 2
    with_empty = [{"a": np.zeros((0, 3), bool)} | mask for mask in masks]
    plain, wider = mask_overlap(masks), mask_overlap(with_empty)
    for name in ("stratified_z", "z", "kappa", "over_chance", "chance_intersection"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(wider, name))


@pytest.mark.parametrize("bad", [None, 3, "ab", (mask for mask in ())])
def test_what_is_no_collection_of_masks_is_told(bad: object) -> None:
    with pytest.raises(TypeError, match="expected a list of masks, or a mapping of labels to masks"):
        mask_overlap(bad)  # type: ignore[arg-type]
