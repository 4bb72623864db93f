"""Ranks that are unlike one another: other parameters used, other numbers of examples, an overflow on one alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from tests.optimizers.odd_ranks import FORKED, MASKED, OVERFLOWING, network, plain_network, share
from tests.optimizers.shared import two_ranks

Found = list[dict[str, Any]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return two_ranks("tests.optimizers.odd_ranks", tmp_path_factory.mktemp("odd"))


def weights(state: Tensor) -> Tensor:
    """Those of ``Forked``, without its buffers (three of BatchNorm, between stem and heads)."""
    return torch.cat([state[:45], state[56:]])


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("rule", FORKED)
def test_a_parameter_that_one_rank_uses_moves_on_all(found: Found, rule: str, sync: bool) -> None:
    first, second = (weights(rank[f"fork {rule} {sync}"]) for rank in found)
    assert torch.equal(first, second)


@pytest.mark.parametrize("sync", [False, True])
def test_plain_descent_is_torch_s_own_with_its_buffers(found: Found, sync: bool) -> None:
    """DistributedDataParallel sends rank 0's BatchNorm statistics to all before each forward pass."""
    for rank in found:
        assert (rank[f"fork sgd() {sync}"] - rank["plain"]).abs().max() < 1e-14


@pytest.mark.parametrize("bad", [1, 2])
@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("rule", OVERFLOWING)
def test_an_overflow_on_one_rank_skips_the_step_on_all(found: Found, rule: str, sync: bool, bad: int) -> None:
    first, second = (rank[f"overflow {rule} {sync} {bad}"] for rank in found)
    assert torch.equal(first, second)
    assert first.isfinite().all()
    assert first[:, -1].tolist() == [1024.0, 1024.0, 512.0, 512.0]
    assert torch.equal(first[2, :-1], first[1, :-1])
    assert not torch.equal(first[3, :-1], first[2, :-1])


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("rule", MASKED)
def test_masked_ascent_is_its_equation(found: Found, rule: str, sync: bool) -> None:
    """w - lr mean_r g_r(w + m rho g_r / |g_r|); with sync the mean gradient in place of each rank's g_r."""
    model = network(plain_network).double()

    def gradient(at: Tensor, rank: int, step: int) -> Tensor:
        vector_to_parameters(at, model.parameters())
        x, y = (part.double() if part.is_floating_point() else part for part in share(step, rank))
        return parameters_to_vector(torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters())))

    first, second = (rank[f"masked {rule} {sync}"] for rank in found)
    for step in range(len(first) - 1):
        (w, _), (following, mask) = first[step], (first[step + 1][0], first[step][1])
        assert torch.equal(mask, second[step][1])
        g = [gradient(w, rank, step) for rank in range(2)]
        climbs = [(g[0] + g[1]) / 2] * 2 if sync else g
        sharp = [gradient(w + mask * 0.3 * climbs[rank] / climbs[rank].norm(), rank, step) for rank in range(2)]
        assert (w - 0.1 * (sharp[0] + sharp[1]) / 2 - following).abs().max() < 1e-14


def test_ranks_that_were_built_differently_are_refused_together(found: Found) -> None:
    expected = "step() got ranks that differ in seed, step, rule, scaler or trainable parameters, expected the same on"
    assert all(rank["disagree"].startswith(expected) for rank in found)


def test_a_compiled_parallel_model_is_a_parallel_model(found: Found) -> None:
    for plain, compiled in (rank["compiled"] for rank in found):
        assert (plain - compiled).abs().max() < 1e-14
