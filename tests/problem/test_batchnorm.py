"""Folds that only a late batch shows to be wrong, BatchNorms without statistics, weights near the ends of float64."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sharpscope as ss


class EarlyExit(nn.Module):
    """Examples of a large first entry also use what the layer gives before its BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        nn.init.uniform_(self.norm.running_mean, -1.0, 1.0)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        out: Tensor = self.last(self.norm(h).tanh())
        hard = x[:, 0] > 5.0
        if hard.any():
            out = torch.where(hard[:, None], self.last(h), out)
        return out


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_fold_is_tried_on_all_examples(precision: str) -> None:
    x, y = torch.randn(60, 4, dtype=torch.float32), torch.randint(3, (60,))
    x[-3:, 0] = 9.0
    for late, count in ((x[:57], 1), (x, 0)):
        problem = ss.Problem(EarlyExit().float(), nn.CrossEntropyLoss(), (late, y[: len(late)]), batch_size=20)
        found = ss.line(problem, 3, precision=precision, bound=1.0, how="untimed")
        assert found.how.endswith(f", {count} BatchNorms folded")
        assert found.center == pytest.approx(problem.loss(), rel=1e-6 if precision == "float32" else 3e-2)


@pytest.mark.parametrize("ask", [lambda p: ss.line(p, 3), lambda p: ss.surface(p, 3), ss.hessian])
def test_batchnorm_without_running_statistics_is_refused(ask: object) -> None:
    """Its losses would depend on how many examples are evaluated at a time."""
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3))
    problem = ss.Problem(model, nn.CrossEntropyLoss(), (torch.randn(12, 4), torch.randint(3, (12,))), batch_size=5)
    with pytest.raises(ss.ProblemError, match=r"the BatchNorm layer '1' got the statistics of each batch .*, expected"):
        ask(problem)  # type: ignore[operator]


@pytest.mark.parametrize("scale", [1e-170, 1e-155, 1e155, 1e170])
def test_filter_norms_near_the_ends_of_the_range(scale: float) -> None:
    weights = [torch.randn(5, 4), torch.randn(3, 5)]
    model = nn.Sequential(nn.Linear(4, 5, bias=False), nn.Linear(5, 3, bias=False))
    for layer, weight in zip(model, weights, strict=True):
        layer.weight = nn.Parameter(weight * scale)
    problem = ss.Problem(model, nn.MSELoss(), (torch.zeros(2, 4), torch.zeros(2, 3)))
    for scaling in ("filter", "layer"):
        made = ss.random_directions(problem, scaling)
        lengths = np.sqrt(sum(float((w**2).sum()) for w in weights)) * scale
        assert made.norms == pytest.approx([lengths, lengths], rel=1e-12)
        assert abs(made.cosine) < 1.0
        for direction, weight in zip(made.vectors[0], weights, strict=True):
            found, expected = (x.norm(dim=1 if scaling == "filter" else None) for x in (direction / scale, weight))
            assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-12)


def test_under_inference_mode() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    problem = ss.Problem(model, nn.CrossEntropyLoss(), (torch.randn(12, 4), torch.randint(3, (12,))))
    expected = ss.line(problem, 3, how="untimed")
    with torch.inference_mode():
        found = ss.line(problem, 3, how="untimed")
    assert found.loss.tolist() == expected.loss.tolist() and found.how == expected.how


@pytest.mark.parametrize("seed", [1.5, True, "a", None, float("nan")])
@pytest.mark.parametrize("verb", [ss.sharpness, ss.gradient_ratio])
def test_seeds_are_whole_numbers(verb: object, seed: object) -> None:
    problem = ss.Problem(nn.Linear(2, 1), nn.MSELoss(), (torch.ones(4, 2), torch.ones(4, 1)))
    with pytest.raises(ValueError, match=r"(sharpness|gradient_ratio) got seed=.*, expected a whole number"):
        verb(problem, seed=seed)  # type: ignore[operator]


def test_weights_to_evaluate_at() -> None:
    problem = ss.Problem(nn.Linear(2, 1), nn.MSELoss(), (torch.ones(4, 2), torch.ones(4, 1)))
    assert problem.loss(w for w in problem.weights) == problem.loss()  # type: ignore[arg-type]
    wrong = {
        "at= got int, expected tensors": [3, [1, 2]],
        "at= got 0 tensors, expected 2": [[], {}],
        "at= got str, expected tensors": ["ab"],
        r"at= got shape \(2, 1\), expected \(1, 2\)": [[w.reshape(-1, 1) for w in problem.weights]],
        "at= got a tensor of int64, .*, expected float64, torch.strided, on cpu": [[w.long() for w in problem.weights]],
        "at= got a tensor of complex128": [[w + 0j for w in problem.weights]],
        "at= got a tensor of float64, torch.sparse_coo": [[w.to_sparse() for w in problem.weights]],
        "at= got a tensor of float64, torch.strided, on meta": [[w.to("meta") for w in problem.weights]],
    }
    for text, several in wrong.items():
        for at in several:
            for verb in (problem.loss, problem.gradient, problem.error, lambda at: ss.hessian(problem, at=at)):
                with pytest.raises((TypeError, ValueError), match=text):
                    verb(at)  # type: ignore[operator]


def test_a_problem_can_be_pickled() -> None:
    """Without what was compiled for it."""
    problem = ss.Problem(nn.Linear(2, 1), nn.MSELoss(), (torch.ones(4, 2), torch.ones(4, 1)))
    problem.compiled["made here"] = lambda: None
    assert pickle.loads(pickle.dumps(problem)).compiled == {} != problem.compiled


def test_no_examples_at_a_time() -> None:
    problem = ss.Problem(nn.Linear(2, 1), nn.MSELoss(), (torch.ones(4, 2), torch.ones(4, 1)))
    with pytest.raises(ValueError, match="got how='contiguous, 0 at a time, 0 BatchNorms folded', expected"):
        ss.line(problem, 3, how="contiguous, 0 at a time, 0 BatchNorms folded")
