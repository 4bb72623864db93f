"""Patterns and scopes against literal loops: the right number of ones, on the right weights."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from sharpscope.ascent._selection import check_choice, choose, perturbed_count


def scores_of(*shapes: tuple[int, ...]) -> list[Tensor]:
    rng = torch.Generator().manual_seed(4)
    return [torch.rand(shape, generator=rng) for shape in shapes]


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "3:5", "1:2"])
def test_n_of_m_along_the_input_dimension(pattern: str) -> None:
    keep, group = (int(part) for part in pattern.split(":"))
    scores = scores_of((6, 8), (4, 10, 3, 3), (5, 7, 2), (9,))
    masks = choose(scores, 1 - keep / group, "global", pattern)
    for score, mask in zip(scores[:-1], masks[:-1], strict=True):
        assert mask.shape == score.shape
        rest = [range(n) for axis, n in enumerate(score.shape) if axis != 1]
        for place in itertools.product(*rest):
            row = score[(place[0], slice(None), *place[1:])].tolist()
            found = mask[(place[0], slice(None), *place[1:])].tolist()
            for start in range(0, len(row), group):
                part = row[start : start + group]
                best = sorted(range(len(part)), key=lambda i: (-part[i], i))[:keep]
                assert [i for i, taken in enumerate(found[start : start + group]) if taken] == sorted(best)
    assert masks[-1].all()  # tensors of one dim are perturbed whole


def test_layer_scope_takes_the_same_share_of_each() -> None:
    scores = scores_of((6, 8), (5,), (3, 2, 2))
    for sparsity in (0.0, 0.3, 0.5, 0.9):
        masks = choose(scores, sparsity, "layer", "entries")
        assert [int(m.sum()) for m in masks] == [round((1 - sparsity) * s.numel()) for s in scores]
        for score, mask in zip(scores, masks, strict=True):
            if mask.any() and not mask.all():
                assert score[mask].min() >= score[~mask].max()


@pytest.mark.parametrize("sparsity", [0.0, 0.2, 0.5, 0.8, 0.99])
def test_whole_tensors_by_mean_score(sparsity: float) -> None:
    scores = scores_of((6, 8), (5,), (3, 2, 2), (20,))
    masks = choose(scores, sparsity, "global", "tensors")
    taken = [bool(m.any()) for m in masks]
    assert all(bool(m.all()) == bool(m.any()) for m in masks)
    wanted, order = perturbed_count(sparsity, 85), sorted(range(4), key=lambda i: -float(scores[i].mean()))
    total, expected = 0, set()
    for index in order:
        if total < wanted:
            expected.add(index)
            total += scores[index].numel()
    assert {i for i, t in enumerate(taken) if t} == expected


@pytest.mark.parametrize(
    ("scope", "pattern", "sparsity", "text"),
    [
        ("model", "entries", 0.5, "Top got scope='model', expected 'global' or 'layer': change scope"),
        ("global", "rows", 0.5, "Top got pattern='rows', expected 'entries', 'tensors' or n:m with 0 < n < m"),
        ("global", "4:2", 0.5, "Top got pattern='4:2', expected 'entries', 'tensors' or n:m with 0 < n < m"),
        ("global", "2:4", 0.8, "Top got pattern='2:4' and sparsity=0.8, expected sparsity=0.5: the pattern fixes"),
        ("layer", "tensors", 0.5, "Top got whole tensors in scope='layer', expected 'global'"),
    ],
)
def test_refusals(scope: str, pattern: str, sparsity: float, text: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        check_choice("Top", scope, pattern, sparsity)
    assert str(caught.value).startswith(text)


def test_counts() -> None:
    assert [perturbed_count(0.9, n) for n in (10, 101, 85)] == [1, 10, 8]
    assert math.isclose(perturbed_count(0.95, 11_173_962), 558_698, abs_tol=1)


@pytest.mark.parametrize("pattern", ["entries", "tensors", "2:4"])
def test_a_nan_has_no_order(pattern: str) -> None:
    with pytest.raises(ValueError, match="NaN"):
        choose([torch.tensor([[1.0, math.nan, 2.0, 3.0]])], 0.5, "global", pattern)


def test_patterns_of_empty_tensors() -> None:
    assert [m.shape for m in choose(scores_of((0, 4), (3, 0)), 0.5, "global", "2:4")] == [(0, 4), (3, 0)]
