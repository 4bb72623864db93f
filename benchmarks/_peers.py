"""The network of the benchmarks of curvature and surfaces, and other tools' answers about it."""

from __future__ import annotations

import os
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import nn

import sharpscope as ss
from sharpscope.runs.train import Experiment, train_run
from sharpscope.training.loop import Settings

__all__ = [
    "LOSS", "curvlinops_operator", "curvlinops_top", "eigenthings_top", "pyhessian_top", "tensors", "trained",
]  # fmt: skip

ROOT = os.environ.get("SHARPSCOPE_CIFAR10", Path(__file__).resolve().parents[2] / "shared/data/cifar-10-batches-bin")
RUN, LOSS = Path("runs/bench-resnet20"), nn.CrossEntropyLoss()


def trained() -> ss.Run:
    """ResNet-20 after ten epochs of SGD, with all its checkpoints."""
    settings = Settings("sgd()", epochs=10, batch_size=128, lr=0.1)
    return train_run(Experiment(settings, "cifar10", str(ROOT), "resnet20"), RUN, resume=True, keep_checkpoints=11)


def tensors(problem: ss.Problem) -> tuple[torch.Tensor, torch.Tensor]:
    batches = problem.batches
    return torch.cat([b.args[0] for b in batches]), torch.cat([b.targets for b in batches])


def curvlinops_operator(problem: ss.Problem, batch: int) -> Any:
    from curvlinops import HessianLinearOperator

    x, y = tensors(problem)
    data = list(zip(x.split(batch), y.split(batch), strict=True))
    return HessianLinearOperator(problem.model, LOSS, list(problem.model.parameters()), data, check_deterministic=False)


def curvlinops_top(problem: ss.Problem, batch: int) -> tuple[np.ndarray, int, float]:
    """Values, products and seconds of curvlinops under ARPACK, at its tol=1e-3."""
    matrix, count = curvlinops_operator(problem, batch).to_scipy(dtype=np.float32), [0]
    inner = matrix.matvec

    def product(v: np.ndarray) -> np.ndarray:
        count[0] += 1
        return inner(v)

    counted = LinearOperator(matrix.shape, matvec=product, dtype=np.float32)
    start = np.random.default_rng(0).standard_normal(matrix.shape[0]).astype(np.float32)
    began = time.process_time()
    found = eigsh(counted, k=5, which="LA", tol=1e-3, v0=start, return_eigenvectors=False)
    return np.sort(found)[::-1], count[0], time.process_time() - began


def pyhessian_top(problem: ss.Problem) -> tuple[np.ndarray, float]:
    from pyhessian import hessian as theirs

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        began = time.process_time()
        found = theirs(problem.model, LOSS, data=tensors(problem), cuda=False).eigenvalues(tol=1e-3, top_n=5)[0]
    for parameter in problem.model.parameters():
        parameter.grad = None
    return np.array(found), time.process_time() - began


def eigenthings_top(problem: ss.Problem, batch: int, steps: int) -> tuple[np.ndarray, int, float, int]:
    """Values, products, seconds and converged pairs of hessian-eigenthings: it makes as many steps as it is told."""
    from hessian_eigenthings import HessianOperator, lanczos, supervised_loss

    x, y = tensors(problem)
    data = list(zip(x.split(batch), y.split(batch), strict=True))
    operator = HessianOperator(problem.model, data, supervised_loss(LOSS))
    began = time.process_time()
    found = lanczos(operator, k=5, max_iter=steps, tol=1e-3, which="LA", reorthogonalize=True, seed=0)
    return (
        np.sort(found.eigenvalues.numpy())[::-1],
        int(found.iterations),
        time.process_time() - began,
        int(found.converged.sum()),
    )
