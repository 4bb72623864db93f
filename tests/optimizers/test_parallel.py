"""Two real processes under gloo: as one process where they climb together, by the formula where they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope import SharpnessAware
from tests.optimizers.rank import STEPS, joint_batch, network, optimizer_of, run
from tests.optimizers.shared import two_ranks

RULES = [
    "sgd()", "sam(0.1)", "asam(0.5)", "ssam_f(0.1, sparsity=0.5, samples=4)", "ssam_d(0.1, sparsity=0.5)",
    "gsam(0.1)", "looksam(0.1, every=2)", "gnr(0.1, 0.8)", "rst(sam(0.1), p=0.5)", "grst(gsam(0.1), p=0.5)",
    "rst(looksam(0.1, every=2), p=0.7)", "rst(ssam_d(0.1), p=0.5)",
    "fsam(0.1)", "wsam(0.1, 0.7)", "bsam(20, 0.1)", "msam(0.2)", "gcsam(0.1)", "rst(wsam(0.1, 0.7), p=0.5)",
]  # fmt: skip
Found = dict[str, tuple[Tensor, Tensor, list[str]]]


def launch(folder: Path, sync: bool) -> list[Found]:
    return two_ranks("tests.optimizers.rank", folder, str(sync), json.dumps(RULES))


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    return launch(tmp_path_factory.mktemp("sync"), True)


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> list[Found]:
    return launch(tmp_path_factory.mktemp("local"), False)


@pytest.mark.parametrize("rule", RULES)
def test_ranks_agree(together: list[Found], apart: list[Found], rule: str) -> None:
    for first, second in (together, apart):
        assert torch.equal(first[rule][0], second[rule][0])
        assert first[rule][1] == second[rule][1]  # the same draws
        assert first[rule][2] == second[rule][2]
        assert all(not name.startswith("module.") for name in first[rule][2])


@pytest.mark.parametrize("rule", RULES)
def test_one_global_gradient_is_one_process(together: list[Found], rule: str) -> None:
    model = network()
    optimizer = optimizer_of(rule, model, model, sync=False)
    run(model, optimizer, slice(None))
    alone = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    assert (together[0][rule][0] - alone).abs().max() < 1e-10
    assert together[0][rule][1] == optimizer.passes


def gradient(model: nn.Module, x: Tensor, y: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(F.cross_entropy(model(x), y), list(model.parameters())))


@pytest.mark.parametrize(("rule", "weight"), [("sam(0.1)", 1.0), ("gnr(0.1, 0.8)", 0.8)])
def test_each_rank_climbs_along_its_own(apart: list[Found], rule: str, weight: float) -> None:
    model = network()
    params = list(model.parameters())
    momentum: list[Any] = [None] * len(params)
    for step in range(STEPS):
        x, y = joint_batch(step)
        mean = [torch.zeros_like(p) for p in params]
        for rows in (slice(0, 4), slice(4, 8)):
            g = gradient(model, x[rows], y[rows])
            length = torch.cat([part.reshape(-1) for part in g]).norm()
            weights = [p.detach().clone() for p in params]
            with torch.no_grad():
                for p, part in zip(params, g, strict=True):
                    p += 0.1 * part / length
            sharp = gradient(model, x[rows], y[rows])
            with torch.no_grad():
                for p, w in zip(params, weights, strict=True):
                    p.copy_(w)
            for total, a, b in zip(mean, g, sharp, strict=True):
                total += ((1 - weight) * a + weight * b) / 2
        with torch.no_grad():
            for index, (p, d) in enumerate(zip(params, mean, strict=True)):
                momentum[index] = d.clone() if momentum[index] is None else 0.9 * momentum[index] + d
                p -= 0.3 * momentum[index]
    expected = torch.cat([p.detach().reshape(-1) for p in params])
    assert (apart[0][rule][0] - expected).abs().max() < 1e-10


def test_sync_needs_ranks() -> None:
    model = network()
    with pytest.raises(ValueError, match=r"got sync=True without a DistributedDataParallel model, expected one: "):
        SharpnessAware(torch.optim.SGD(model.parameters(), lr=0.1), "sam(0.1)", model=model, sync=True)
