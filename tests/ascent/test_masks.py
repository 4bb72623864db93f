"""Masks: how many ones, which ones, and when they are drawn anew."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sharpscope import (
    Evolving,
    Fisher,
    Mask,
    Named,
    Probe,
    RandomMask,
    RandomTensors,
    SharpnessAware,
    Top,
    parse,
    rst,
    ssam_d,
    ssam_f,
)
from sharpscope.ascent.masks import perturbed_count
from sharpscope.ascent.scores import Gradient, Random, Weight
from sharpscope.coordinates.bits import unpack
from tests import reference
from tests.conftest import devices
from tests.problems import CASES, CONV, DROPOUT, MLP, TRANSFORMER, Case

SPARSITIES = [0.0, 0.001, 0.1, 0.2, 1 / 3, 0.5, 0.7, 0.9, 0.95, 0.98, 0.99, 0.9999]
SHAPES = [(4, 3), (7,), (2, 3, 5), (), (1,)]


def vectors(seed: int, device: str = "cpu") -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=rng).to(device) for shape in SHAPES]


def probe_at(step: int, params: list[Tensor] | None = None, **options: Any) -> Probe:
    params = vectors(0) if params is None else params
    return Probe(params, [f"{i}.weight" for i in range(len(params))], step=step, **options)


def flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.reshape(-1) for part in parts])


SIZE = len(flat(vectors(0)))


@pytest.mark.parametrize("s", SPARSITIES)
@pytest.mark.parametrize("size", [1, 2, 3, 10, 101, 12345])
def test_number_of_ones(s: float, size: int) -> None:
    assert perturbed_count(s, size) == round((1 - s) * size)


@pytest.mark.parametrize("device", devices())
@pytest.mark.parametrize("s", SPARSITIES)
@pytest.mark.parametrize("score", [Gradient(), Weight(), Random()], ids=str)
def test_top_has_exactly_the_largest(s: float, score: Any, device: str) -> None:
    params, g = vectors(0, device), vectors(1, device)
    probe = probe_at(3, params)
    mask = Top(score, s, every=1)(g, probe, {})
    assert [(m.dtype, m.shape, m.device.type) for m in mask] == [(torch.bool, p.shape, device) for p in params]
    scores = flat(score(g, probe)).cpu()
    expected = reference.ones(reference.argtop(scores, round((1 - s) * SIZE)), SIZE).bool()
    assert torch.equal(flat(mask).cpu(), expected)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_ties_go_to_the_lower_index(dtype: torch.dtype) -> None:
    g = [torch.tensor([1.0, 2.0, 2.0], dtype=dtype), torch.tensor([2.0, 2.0, 0.0], dtype=dtype)]
    mask = Top(Gradient(), 0.5, every=1)(g, probe_at(0, g), {})
    assert [m.tolist() for m in mask] == [[False, True, True], [True, False, False]]
    mask = Top(Gradient(), 0.5, every=1)([torch.zeros_like(x) for x in g], probe_at(0, g), {})
    assert [m.tolist() for m in mask] == [[True, True, True], [False, False, False]]


def train(case: Case, rule: Any, steps: int, **options: Any) -> tuple[list[dict[str, Tensor]], SharpnessAware]:
    model = case.model()
    base = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer = SharpnessAware(base, rule, case.problem(model), seed=3, model=model, **options)
    seen = []
    for step in range(steps):
        optimizer.step(case.closure(model, step))
        seen.append(optimizer.masks())
    return seen, optimizer


@pytest.mark.parametrize("s", SPARSITIES)
@pytest.mark.parametrize("method", ["ssam_f", "ssam_d"])
def test_every_mask_of_a_training_has_exactly_as_many(s: float, method: str) -> None:
    rule = ssam_f(0.1, s, samples=4, every=2) if method == "ssam_f" else ssam_d(0.1, s, drop=0.9, every=1, total=12)
    seen, _ = train(CONV, rule, 12)
    size = sum(m.numel() for m in seen[0].values())
    assert [sum(int(m.sum()) for m in masks.values()) for masks in seen] == [round((1 - s) * size)] * 12


@pytest.mark.parametrize("case", [*CASES, DROPOUT], ids=lambda case: case.name)
@pytest.mark.parametrize("s", [0.2, 0.5, 0.9])
def test_fisher_mask_is_the_brute_force_one_from_the_first_step(case: Case, s: float) -> None:
    seen, _ = train(case, ssam_f(0.1, s, samples=10, every=5), 1)
    walk = reference.Walk(case, seed=3)
    walk.train(reference.ssam_f(0.1, s, samples=10, every=5), 1)  # a loop over examples, as each of them is alone
    expected = reference.masks(walk)
    assert all(torch.equal(mask, expected[name]) for name, mask in seen[0].items())


def test_fisher_mask_with_groups_in_another_order() -> None:
    model = CONV.model()
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    base = torch.optim.SGD([{"params": others, "weight_decay": 0.0}, {"params": decayed}], lr=0.1, weight_decay=1e-3)
    optimizer = SharpnessAware(base, ssam_f(0.1, 0.5, samples=10, every=5), CONV.problem(model), seed=3)
    optimizer.step(CONV.closure(model, 0))
    seen, _ = train(CONV, ssam_f(0.1, 0.5, samples=10, every=5), 1)
    assert all(torch.equal(mask, seen[0][name]) for name, mask in optimizer.masks().items())


def test_refreshed_mask_is_used_at_once() -> None:
    """The weights at which the second pass of the very step looks differ from w where the new mask is 1 only."""
    model = MLP.model()
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = SharpnessAware(base, ssam_d(0.1, 0.6, drop=0.5, every=2, total=20), seed=3, model=model)
    for step in range(8):
        places: list[dict[str, Tensor]] = []
        batch = MLP.closure(model, step)

        def closure(places: list[dict[str, Tensor]] = places, batch: Any = batch) -> Tensor:
            places.append({name: p.detach().clone() for name, p in model.named_parameters()})
            return batch()

        optimizer.step(closure)
        masks = optimizer.masks()
        for name, mask in masks.items():
            assert not (places[0][name] != places[1][name])[~mask].any()
        assert any((places[0][name] != places[1][name]).any() for name in masks)


@pytest.mark.parametrize(("s", "drop"), [(0.2, 0.9), (0.2, 0.5), (0.5, 0.5), (0.9, 1.0), (0.6, 0.0), (0.0, 0.5)])
@pytest.mark.parametrize("largest", [False, True])
def test_evolving_drops_and_grows_as_many(s: float, drop: float, largest: bool) -> None:
    mask, memory = Evolving(s, drop, every=1, drop_largest=largest), {}
    ones = round((1 - s) * SIZE)
    old = flat(mask(vectors(1), probe_at(0), memory))
    assert int(old.sum()) == ones
    for step in range(1, 12):
        g = vectors(step)
        new = flat(mask(g, probe_at(step), memory))
        moves = min(int(drop * (1 - s) * SIZE), SIZE - ones, ones)
        dropped, grown = old & ~new, new & ~old
        assert int(new.sum()) == ones
        assert int(dropped.sum()) == int(grown.sum()) == moves
        sizes = flat(g).abs()
        if 0 < moves < ones:
            if largest:
                assert sizes[dropped].min() >= sizes[old & new].max()
            else:
                assert sizes[dropped].max() <= sizes[old & new].min()
        scores = flat(Random()(g, probe_at(step)))
        if 0 < moves < SIZE - ones:
            assert scores[grown].min() >= scores[~old & ~new].max()
        old = new


@pytest.mark.parametrize("by", [Weight(), Random(), Gradient()], ids=str)
def test_evolving_drops_and_grows_by_any_score(by: Any) -> None:
    mask, memory = Evolving(0.5, 0.4, every=1, drop_by=by, grow_by=Gradient()), {}
    old = flat(mask(vectors(1), probe_at(0), memory))
    g = vectors(2)
    new = flat(mask(g, probe_at(1), memory))
    scores = flat(by(g, probe_at(1)))
    assert scores[old & ~new].max() <= scores[old & new].min()
    assert flat(g).abs()[new & ~old].min() >= flat(g).abs()[~old & ~new].max()
    assert int((old & ~new).sum()) == int(0.4 * 0.5 * SIZE)


def test_evolving_rate_decays_to_nothing() -> None:
    seen, _ = train(MLP, ssam_d(0.1, 0.5, drop=0.5, every=1, total=10), 14)
    vectors_ = [torch.cat([m.reshape(-1) for m in masks.values()]) for masks in seen]
    moves = [int((a & ~b).sum()) for a, b in pairwise(vectors_)]
    size = len(vectors_[0])
    decay = [0.25 * (1 + torch.cos(torch.tensor(min(t, 10) * torch.pi / 10)).item()) for t in range(1, 14)]
    assert moves == [int(rate * 0.5 * size) for rate in decay]
    assert moves[0] > 0
    assert moves[-1] == 0


def refreshes(seen: list[dict[str, Tensor]]) -> list[int]:
    """The steps at which a mask differs from the one before it."""
    return [
        step
        for step in range(1, len(seen))
        if any(not torch.equal(seen[step][name], seen[step - 1][name]) for name in seen[step])
    ]


@pytest.mark.parametrize("method", ["ssam_f(0.1, 0.5, samples=3, every={})", "ssam_d(0.1, 0.5, every={}, total=90)"])
@pytest.mark.parametrize("every", [1, 3, 5])
def test_cadence(method: str, every: int) -> None:
    seen, _ = train(MLP, parse(method.format(every)), 12)
    assert refreshes(seen) == list(range(every, 12, every))


def test_cadence_of_an_epoch_comes_from_the_data_at_hand() -> None:
    seen, _ = train(MLP, ssam_f(0.1, 0.5, samples=3), 12, epoch=4)
    assert refreshes(seen) == [4, 8]


def test_cadence_under_a_coin_counts_staleness() -> None:
    """A mask is refreshed at the first climb at which it is old enough, never at a plain step."""
    p, every = 0.4, 4
    seen, optimizer = train(MLP, rst(ssam_d(0.1, 0.5, every=every, total=90), p), 40)
    climbs = [step for step in range(40) if reference.coin(3, step) < p]
    born, expected = climbs[0], []
    for step in climbs[1:]:
        if step - born >= every:
            born = step
            expected.append(step)
    assert refreshes([masks or seen[climbs[0]] for masks in seen]) == expected
    assert all(not masks for masks in seen[: climbs[0]])
    assert optimizer.memory["rule"]["perturbation"]["mask"]["born"] == born


def test_mask_at_rest_is_one_bit_a_parameter() -> None:
    _, optimizer = train(TRANSFORMER, ssam_d(0.1, 0.5, every=2, total=9), 3)
    memory = optimizer.memory["perturbation"]["mask"]
    size = sum(p.numel() for p in optimizer.params)
    assert set(memory) == {"bits", "born", "size", "ones"}
    assert memory["bits"].dtype == torch.uint8
    assert memory["bits"].numel() == -(-size // 8)


@pytest.mark.parametrize("every", [0, 1, 3])
def test_random_mask_is_fixed_or_redrawn(every: int) -> None:
    mask, memory = RandomMask(0.7, every), {}
    drawn = [flat(mask([], probe_at(step), memory)) for step in range(7)]
    assert all(int(m.sum()) == round(0.3 * SIZE) for m in drawn)
    changed = [step for step in range(1, 7) if not torch.equal(drawn[step], drawn[step - 1])]
    assert changed == ([] if every == 0 else list(range(every, 7, every)))


def test_random_tensors_are_whole_and_redrawn() -> None:
    mask, memory, kept = RandomTensors(0.3), {}, 0
    for step in range(400):
        drawn = mask([], probe_at(step), memory)
        assert all(m.all() or not m.any() for m in drawn)
        kept += sum(int(m.any()) for m in drawn)
    share = kept / (400 * len(SHAPES))
    assert abs(share - 0.3) < 4 * (0.3 * 0.7 / (400 * len(SHAPES))) ** 0.5
    assert all(m.all() for m in RandomTensors(1.0)([], probe_at(0), {}))
    assert not any(m.any() for m in RandomTensors(0.0)([], probe_at(0), {}))


def test_named_takes_whole_parameters() -> None:
    params = vectors(0)
    probe = Probe(params, ["a.weight", "norm1.bias", "b.norm.weight", "c", "d"])
    mask = Named("*norm*")([], probe, {})
    assert [bool(m.all()) for m in mask] == [False, True, True, False, False]
    with pytest.raises(ValueError, match=r"Named got the pattern 'x\*' that matches no parameter.*change the pattern"):
        Named("x*")([], probe, {})


def test_named_without_a_model_says_where_names_come_from() -> None:
    model = nn.Linear(2, 1)
    optimizer = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), "Ascend(Masked(Ball(0.1), Named('*bias')))")
    optimizer.step(lambda: _backward(model(torch.ones(1, 2)).sum()))  # the module that is called knows the names
    assert [int(mask.sum()) for mask in optimizer.masks().values()] == [0, 1]
    bare = SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), optimizer.rule)
    with pytest.raises(ValueError, match=r"a match among 0, 1: change the pattern, or.*model=model"):
        bare.step(lambda: _backward(model.weight.sum() + model.bias.sum()))


def _backward(loss: Tensor) -> Tensor:
    loss.backward()
    return loss


@pytest.mark.parametrize("mask", [Top(Gradient(), 0.5, 1), Evolving(0.5, 0.5, 1)], ids=str)
def test_no_order_among_nan(mask: Mask) -> None:
    g = [torch.full(shape, torch.nan) for shape in SHAPES]
    memory: dict[str, Any] = {}
    mask(vectors(1), probe_at(0), memory)
    kept = memory["bits"].clone()
    with pytest.raises(ValueError, match="a mask got scores with NaN, expected numbers that can be ordered"):
        mask(g, probe_at(1), memory)
    assert torch.equal(memory["bits"], kept)
    assert memory["born"] == 0


def test_mask_of_other_parameters_is_refused() -> None:
    """The optimizer forgets what its rule remembers when the trainable parameters change."""
    memory: dict[str, Any] = {}
    RandomMask(0.5)([], probe_at(0), memory)
    with pytest.raises(ValueError, match=r"a packed mask got 7 bytes, expected 13 for"):
        unpack(memory["bits"], [torch.zeros(101)])


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Top(Fisher(), 1.0), "Top got sparsity=1.0, expected a number in [0, 1): change sparsity"),
        (lambda: Top(Fisher(), -0.1), "Top got sparsity=-0.1, expected a number in [0, 1): change sparsity"),
        (lambda: Top(Fisher(), 0.5, -1), "Top got every=-1, expected a whole number >= 1 or None: change every"),
        (lambda: Top("fisher"), "Top got score='fisher', expected a score"),
        (lambda: Evolving(1), "Evolving got sparsity=1, expected a number in [0, 1): change sparsity"),
        (lambda: Evolving(0.5, 1.5), "Evolving got drop=1.5, expected a number in [0, 1]: change drop"),
        (lambda: Evolving(0.5, 0.5, 1.5), "Evolving got every=1.5, expected a whole number >= 1 or None"),
        (lambda: Evolving(drop_by=1), "Evolving got drop_by=1, expected a score"),
        (lambda: Evolving(grow_by=Top()), "Evolving got grow_by=Top(Fisher(128), sparsity=0.5), expected a score"),
        (lambda: RandomMask(2), "RandomMask got sparsity=2, expected a number in [0, 1): change sparsity"),
        (lambda: RandomMask(0.5, -1), "RandomMask got every=-1, expected a whole number >= 1 or None: change every"),
        (lambda: RandomTensors(1.2), "RandomTensors got keep=1.2, expected a number in [0, 1]: change keep"),
        (lambda: RandomTensors(0.5, 0), "RandomTensors got every=0, expected a whole number >= 1: change every"),
        (lambda: Named(3), "Named got pattern=3, expected a pattern such as '*weight*': change pattern"),
        (lambda: Named(""), "Named got pattern='', expected a pattern such as '*weight*': change pattern"),
    ],
)
def test_bad_arguments_are_named(make: Any, text: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        make()
    assert str(caught.value).startswith(text)
