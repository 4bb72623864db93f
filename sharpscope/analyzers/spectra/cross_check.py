"""The same eigenvalues by another tool, side by side."""

from __future__ import annotations

import copy
import importlib
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from scipy.sparse.linalg import eigsh

from sharpscope.analyzers.spectra.spectrum import spectrum
from sharpscope.core.expressions import check_count
from sharpscope.core.results import Result
from sharpscope.core.surroundings import undisturbed
from sharpscope.curvature.operators import hessian
from sharpscope.problem.problem import Problem

__all__ = ["CrossCheck", "cross_check"]


@dataclass(frozen=True, eq=False, repr=False)
class CrossCheck(Result):
    """The k largest eigenvalues as sharpscope and as another tool find them."""

    eigenvalues: np.ndarray  # (k,) float64, descending, by sharpscope
    residuals: np.ndarray  # (k,) float64, theirs
    others: np.ndarray  # (k,) float64, by the other tool, descending (it may have left out some of the largest)
    tool: str  # the other tool and its version
    tol: float  # requested of both: residual here, whatever the other tool means by it there
    seconds: float  # wall time here
    other_seconds: float  # wall time there
    operator: str  # what was analysed, in words

    @property
    def differences(self) -> np.ndarray:
        """(k,): other minus own, relative to own."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((self.others - self.eigenvalues) / np.abs(self.eigenvalues))

    def table(self, style: str = "github") -> str:
        """One row per eigenvalue; ``style`` is any table format of tabulate."""
        rows = [
            (f"lambda_{place + 1}", f"{own:.6g}", f"{bound:.1g}", f"{other:.6g}", f"{difference:+.1e}")
            for place, (own, bound, other, difference) in enumerate(
                zip(self.eigenvalues, self.residuals, self.others, self.differences, strict=True)
            )
        ]
        rows.append(("seconds", f"{self.seconds:.2f}", "", f"{self.other_seconds:.2f}", ""))
        heads = ("", "sharpscope", "+-", self.tool, "difference")
        from tabulate import tabulate  # only here, as are all tables

        return tabulate(rows, headers=heads, tablefmt=style, disable_numparse=True)


@undisturbed
def cross_check(
    problem: Problem, against: Literal["pyhessian", "curvlinops"] = "curvlinops", k: int = 5, tol: float = 1e-3
) -> CrossCheck:
    """The k largest Hessian eigenvalues of a problem beside those of another tool, on the same data.

    "pyhessian": power iteration of PyHessian, which stops where a value changes by less than ``tol`` and orders by
    magnitude.  "curvlinops": its Hessian product under SciPy's ARPACK.  Both see a copy of the model in eval mode and
    the batches of the problem.  Their batches are weighted by examples: with class weights, ignored targets or token
    means over several batches they compute another matrix.

    Raises ImportError where the tool is not installed, ValueError for an unknown tool or data that it cannot take
    (anything but one input tensor and one target tensor a batch), RuntimeError where it fails, as both do for a
    parameter that the loss does not use.

    >>> print(cross_check(problem, "curvlinops").table())  # doctest: +SKIP
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"cross_check got a {type(problem).__name__}, expected a Problem: Problem(model, loss, data)")
    if against not in _TOOLS:
        raise ValueError(f"cross_check got against={against!r}, expected one of {', '.join(_TOOLS)}: choose one")
    check_count("cross_check", "k", k)
    if against == "curvlinops" and k >= problem.size:
        raise ValueError(
            f"cross_check got k={k}, expected at most {problem.size - 1}, as ARPACK cannot find all {problem.size} "
            f"eigenvalues: lower k"
        )
    package, run = _TOOLS[against]
    try:
        module = importlib.import_module(against)
    except ImportError as error:
        raise ImportError(
            f"cross_check got against={against!r}, which is not installed, expected {package}: "
            f"pip install 'sharpscope[check]'"
        ) from error
    began = time.perf_counter()
    own = spectrum(hessian(problem), k, tol)
    between = time.perf_counter()
    others = _elsewhere(run, module, problem, k, tol)
    return CrossCheck(
        eigenvalues=own.eigenvalues,
        residuals=own.residuals,
        others=np.sort(others)[::-1],
        tool=f"{package} {version(package)}",
        tol=tol,
        seconds=between - began,
        other_seconds=time.perf_counter() - between,
        operator=own.operator,
    )


def _elsewhere(run: Callable[..., Any], module: Any, problem: Problem, k: int, tol: float) -> np.ndarray:
    """The other tool at work on a copy of the model; its own warnings are its own matter."""
    batches = [(batch.args[0] if len(batch.args) == 1 and not batch.kwargs else None, batch.targets)
               for batch in problem.batches]  # fmt: skip
    if any(not isinstance(x, torch.Tensor) or not isinstance(y, torch.Tensor) for x, y in batches):
        raise ValueError(
            "cross_check got batches that are not one input tensor and one target tensor, expected those: "
            "other tools take nothing else"
        )
    model = copy.deepcopy(problem.model).eval()
    with problem.guard(), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return np.asarray(run(module, model, problem.objective.loss, batches, k, tol), dtype=np.float64)
        except Exception as error:  # whatever the other tool raises
            said = " ".join(str(error).split())[:200]
            raise RuntimeError(
                f"cross_check got {type(error).__name__} from {module.__name__} ({said}), expected it to take this "
                f"model: leave out parameters that the loss does not use, or choose the other tool"
            ) from error


def _pyhessian(module: Any, model: Any, loss: Any, batches: Any, k: int, tol: float) -> Any:
    cuda = next(model.parameters()).is_cuda
    data = {"data": batches[0]} if len(batches) == 1 else {"dataloader": batches}
    found = module.hessian(model, loss, cuda=cuda, **data).eigenvalues(tol=tol, top_n=k)[0]
    for parameter in model.parameters():
        parameter.grad = None  # breaks the cycle of graph and gradient
    return found


def _curvlinops(module: Any, model: Any, loss: Any, batches: Any, k: int, tol: float) -> Any:
    chosen = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if int(version("curvlinops-for-pytorch").split(".")[0]) <= 3:
        chosen = list(chosen.values())  # type: ignore[assignment]
    operator = module.HessianLinearOperator(model, loss, chosen, batches, check_deterministic=False)
    kind = np.float64 if next(model.parameters()).dtype == torch.float64 else np.float32
    start = np.random.default_rng(0).standard_normal(operator.shape[0]).astype(kind)
    return eigsh(operator.to_scipy(dtype=kind), k=k, which="LA", tol=tol, v0=start, return_eigenvectors=False)


_TOOLS: dict[str, tuple[str, Callable[..., Any]]] = {
    "pyhessian": ("PyHessian", _pyhessian),
    "curvlinops": ("curvlinops-for-pytorch", _curvlinops),
}
