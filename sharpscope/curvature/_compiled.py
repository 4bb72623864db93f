"""Tapes as compiled functions: torch.compile fuses their operations, and tapes of one structure share one function.

The constants of a tape are arguments of the function, as the vector is: batches of one shape differ in nothing else.
"""

from __future__ import annotations

import functools
import operator
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from sharpscope.core.vectors import Vec, flatten, generator
from sharpscope.curvature._tape import Tape, fill
from sharpscope.problem.examples import ProblemError

__all__ = ["compiled"]

_BACKEND = "inductor"
_ROUNDING = 1e3  # machine epsilons between a tape and its compiled function: operations that are fused round otherwise


def compiled(
    tapes: Sequence[Tape], vector: Vec, functions: dict[Any, Callable[..., Any]]
) -> list[Callable[[Vec], Vec]]:
    """The functions that the tapes play, compiled for vectors like ``vector``.

    Every structure that is not among ``functions`` is compiled, which takes from seconds to minutes, compared with its
    tape on a random vector, and added.  Raises ProblemError where torch.compile fails or gives another result.
    """
    found: list[Callable[[Vec], Vec]] = []
    for tape in tapes:
        graph, constants = _graph(tape, len(vector)), [x.detach() for x in tape.constants.values()]
        key = (graph.code, *((x.shape, x.stride(), x.dtype, x.device) for x in (*vector, *constants)))
        if key not in functions:
            functions[key] = _compile(graph, constants, tape, vector)
        found.append(functools.partial(_play, functions[key], constants))
    return found


def _graph(tape: Tape, count: int) -> fx.GraphModule:
    """The steps of a tape as a module of the ``count`` tensors of the vector and of the constants."""
    graph = fx.Graph()
    values: list[Any] = [None] * tape.slots
    for number in [*range(count), *tape.constants]:
        values[number] = graph.placeholder(f"x{number}")
    for step in tape.steps:
        args, kwargs = fill(step.args, values)
        made = graph.call_function(step.operation, args, kwargs)
        returns = step.operation._schema.returns
        several = len(returns) > 1 or isinstance(returns[0].type, torch.ListType)
        for place, number in enumerate(step.outputs):
            if number is not None:
                values[number] = graph.call_function(operator.getitem, (made, place)) if several else made
    graph.output(fill(tape.results, values))
    return fx.GraphModule(torch.nn.Module(), graph)


def _compile(graph: fx.GraphModule, constants: list[Tensor], tape: Tape, vector: Vec) -> Callable[..., Any]:
    random = generator("compiled")
    trial = [torch.randn(v.shape, generator=random, device="cpu").to(v) for v in vector]
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"torch\.")  # what the compiler says of itself
            function: Callable[..., Any] = torch.compile(graph.forward, dynamic=False, fullgraph=True, backend=_BACKEND)
            found = flatten(_play(function, constants, trial))
    except Exception as failure:  # of the compiler, of which there are several
        said = " ".join(str(failure).split())[:200]
        raise ProblemError(
            f"torch.compile got {type(failure).__name__} ({said}) from a product of {len(tape.steps)} operations, "
            f'expected a function: install what it needs (a C++ compiler on a CPU), or leave "compiled" out of mode='
        ) from failure
    expected = flatten(tape(trial))
    apart, size = (float(torch.linalg.vector_norm(x.double())) for x in (found - expected, expected))
    most = _ROUNDING * torch.finfo(expected.dtype).eps
    if size < float("inf") and not apart <= most * size:
        raise ProblemError(
            f"torch.compile got a product that differs by {apart / size if size else apart:.2g} from the one that was "
            f'not compiled, expected at most {most:.2g}: leave "compiled" out of mode='
        )
    return function


def _play(function: Callable[..., Any], constants: list[Tensor], vector: Vec) -> Vec:
    with torch.no_grad():
        return list(function(*vector, *constants))
