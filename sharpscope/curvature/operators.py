"""Symmetric matrices known by their products with a vector, and their algebra.

The curvature of a Problem comes as three of them: ``hessian``, ``ggn`` and ``fisher``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from sharpscope.coordinates.where import Where, mask_of, words
from sharpscope.core.expressions import check_count, check_seed
from sharpscope.core.surroundings import undisturbed
from sharpscope.curvature._over_data import Sum, budget
from sharpscope.curvature._preflight import Noise, Plan, measure_noise, plan
from sharpscope.curvature.gauss import check_split, fisher_of, ggn_of, with_draws
from sharpscope.curvature.products import Curvature, Hessian, Point
from sharpscope.problem.examples import Examples
from sharpscope.problem.problem import Problem, check_problem
from sharpscope.problem.returned import ModelLoss

__all__ = ["Noise", "Operator", "Plan", "fisher", "ggn", "hessian"]


class Operator:
    """A symmetric (n, n) matrix A, given by ``v -> A v`` on vectors of shape (n,).

    ``A @ v`` multiplies a vector (n,) or a block of columns (n, k), and raises ArithmeticError for a product that is
    not finite.  ``products`` counts how often A was applied to a
    vector, or a block of it; a sum, a restriction or a block counts its own, and its parts count theirs.  ``A + B``,
    ``A - B``, ``2 * A`` and ``-A`` are operators; ``A.restrict(where)`` keeps some coordinates, ``A.block(where)`` on
    shorter vectors; ``A.to_scipy()`` serves SciPy's solvers.

    Args:
        product: ``v -> A v`` for v of shape (n,), which must return a new tensor of the same shape and dtype.
        size: n.
        dtype: of the vectors.
        device: of the vectors.
        text: what the matrix is, in words, for figures, files and errors.
        layout: the parameters by name, in the order of the coordinates; needed for names and layers in ``restrict``.
        block: ``(n, k) -> A times it``, where that is cheaper than column by column.
        part: ``places of some parameters -> the product with their block alone``, on vectors (m,) of their entries,
            where that is cheaper than a whole product.

    ``plan`` says how products are computed (None where the product was given), ``noise`` how exact they are, relative
    to the largest eigenvalue: residuals below ``noise.floor`` times it mean nothing.

    Example:
        >>> op = Operator.of(torch.diag(torch.tensor([3.0, 1.0])))
        >>> op @ torch.tensor([1.0, 1.0])
        tensor([3., 1.])
    """

    def __init__(
        self,
        product: Callable[[Tensor], Tensor],
        size: int,
        *,
        dtype: torch.dtype,
        device: torch.device | str = "cpu",
        text: str = "operator",
        layout: Mapping[str, Tensor] | None = None,
        block: Callable[[Tensor], Tensor] | None = None,
        part: Callable[[Sequence[int]], Callable[[Tensor], Tensor]] | None = None,
    ) -> None:
        self._product, self._block, self._part = product, block, part
        self.size, self.dtype, self.device, self.text = size, dtype, torch.device(device), text
        self.layout = dict(layout or {})
        self.products = 0
        self.plan: Plan | None = None
        self.noise: Noise | None = None

    @staticmethod
    def of(matrix: Tensor, text: str = "matrix") -> Operator:
        """The operator of a dense symmetric matrix of shape (n, n).  Raises ValueError for any other."""
        if not isinstance(matrix, Tensor):
            raise TypeError(f"Operator.of got a {type(matrix).__name__}, expected a tensor: torch.tensor(matrix)")
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
            raise ValueError(
                f"Operator.of got shape {tuple(matrix.shape)}, expected (n, n), n >= 1: an operator is a square matrix"
            )
        if not matrix.is_floating_point():
            raise ValueError(
                f"Operator.of got dtype {matrix.dtype}, expected real floating point: convert it with .double()"
            )
        if not torch.isfinite(matrix).all():
            raise ValueError("Operator.of got entries that are not finite, expected finite numbers: check the matrix")
        if bool((matrix - matrix.T).abs().max() > 1e-5 * matrix.abs().max()):
            raise ValueError("Operator.of got a matrix that is not symmetric, expected A = A^T: pass (A + A.T) / 2")
        return Operator(
            matrix.mv, len(matrix), dtype=matrix.dtype, device=matrix.device, text=text, block=matrix.matmul
        )

    def __matmul__(self, vector: Tensor) -> Tensor:
        if not isinstance(vector, Tensor):
            raise TypeError(
                f"the {self.text} got a {type(vector).__name__}, expected a tensor of shape ({self.size},) or "
                f"({self.size}, k): torch.as_tensor(v), or flatten the tensors of the parameters"
            )
        if vector.shape[:1] != (self.size,) or vector.dim() > 2:
            raise ValueError(
                f"the {self.text} got a vector of shape {tuple(vector.shape)}, expected ({self.size},) or "
                f"({self.size}, k): flatten it in the order of the parameters"
            )
        self.products += 1 if vector.dim() == 1 else vector.shape[1]
        if vector.dim() == 2 and self._block is not None:
            product = self._block(vector)
        else:
            product = _by_columns(self._product, vector)
        if product.shape != vector.shape or product.dtype != self.dtype:
            raise ValueError(
                f"a product of the {self.text} got {product.dtype} of shape {tuple(product.shape)}, "
                f"expected {self.dtype} of shape {tuple(vector.shape)}: return A v like v"
            )
        if product.numel() and not math.isfinite(float(torch.linalg.vector_norm(product, math.inf))):
            raise ArithmeticError(
                f"a product of the {self.text} is not finite, expected finite numbers: check the loss at these weights"
            )
        return product

    def __add__(self, other: Operator) -> Operator:
        if not isinstance(other, Operator):
            return NotImplemented
        if (self.size, self.dtype, self.device) != (other.size, other.dtype, other.device):
            raise ValueError(
                f"a sum got the {self.text} of size {self.size} ({self.dtype}, {self.device}) and the {other.text} of "
                f"size {other.size} ({other.dtype}, {other.device}), expected the same: build both on one problem"
            )
        return self._like(lambda v: (self @ v) + (other @ v), f"{self.text} + {other.text}")

    def __mul__(self, factor: float) -> Operator:
        if isinstance(factor, bool) or not isinstance(factor, (int, float, np.integer, np.floating)):
            return NotImplemented
        number = float(factor)
        if not np.isfinite(number):
            raise ValueError(f"the {self.text} got the factor {number}, expected a finite number: change the factor")
        inside = f"({self.text})" if " + " in self.text else self.text
        found = self._like(lambda v: (self @ v) * number, f"{number:g} * {inside}")
        found.noise = self.noise
        return found

    __rmul__ = __mul__

    def __neg__(self) -> Operator:
        return self * -1.0

    def __sub__(self, other: Operator) -> Operator:
        return self + -other if isinstance(other, Operator) else NotImplemented

    def restrict(self, where: Where) -> Operator:
        """P A P, of the same size: the rows and columns that ``where`` names are kept, all others are zero.

        Args:
            where: a boolean tensor (n,); a list of boolean tensors, one per parameter, or a dictionary of them by name
                (a parameter that it leaves out is not kept), NumPy's arrays as well; a layer (``torch.nn.Module``) of
                the model; or a name pattern such as ``"layer1.*"``.

        Of a curvature, derivatives are taken in those parameters alone that have a coordinate kept.

        Raises ValueError for a mask of another shape or dtype, a pattern or layer without a parameter among the
        coordinates, and names where the operator knows none.

        Example:
            >>> op = Operator.of(torch.tensor([[2.0, 1.0], [1.0, 3.0]]))
            >>> op.restrict(torch.tensor([True, False])) @ torch.ones(2)
            tensor([2., 0.])
        """
        kept = mask_of(where, self.text, self.size, self.layout, self.device)
        inner, places = self.block(kept), kept.nonzero().view(-1)
        inside = f"({self.text})" if " + " in self.text else self.text
        text = f"{inside}, restricted to {words(where, int(kept.sum()), self.size)}"

        def product(vector: Tensor) -> Tensor:
            return torch.zeros_like(vector).index_copy_(0, places, inner @ vector[places])

        return self._like(product, text)

    def block(self, where: Where) -> Operator:
        """The rows and columns of A that ``where`` names, as an operator on vectors of their entries alone, in order.

        Takes and raises what ``restrict`` does, and costs the same.

        Example:
            >>> op = Operator.of(torch.tensor([[2.0, 1.0], [1.0, 3.0]]))
            >>> op.block(torch.tensor([False, True])) @ torch.ones(1)
            tensor([3.])
        """
        kept = mask_of(where, self.text, self.size, self.layout, self.device)
        inner, around = self._around(kept)
        places, length = kept[around].nonzero().view(-1), int(around.sum())

        def product(vector: Tensor) -> Tensor:
            whole = vector.new_zeros(length, *vector.shape[1:]).index_copy_(0, places, vector)
            return inner(whole)[places]

        text = f"block of {len(places)} of {self.size} coordinates of the {self.text}"
        return Operator(product, len(places), dtype=self.dtype, device=self.device, text=text, block=product)

    def _around(self, kept: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """The product with the smallest block at hand that has all coordinates in ``kept``, and the mask of those."""
        sizes = [p.numel() for p in self.layout.values()]
        touched = [bool(part.any()) for part in kept.split(sizes)] if self._part and sizes else []
        if self._part is None or all(touched) or not any(touched):
            return self.__matmul__, torch.ones_like(kept)
        inner = self._part([place for place, touch in enumerate(touched) if touch])

        def product(vector: Tensor) -> Tensor:
            self.products += 1 if vector.dim() == 1 else vector.shape[1]
            return _by_columns(inner, vector)

        filled = [torch.full_like(part, touch) for part, touch in zip(kept.split(sizes), touched, strict=True)]
        return product, torch.cat(filled)

    def to_scipy(self) -> LinearOperator:
        """The same matrix for ``scipy.sparse.linalg``: products go to the device and back, and count.

        Example:
            >>> from scipy.sparse.linalg import eigsh
            >>> op = Operator.of(torch.diag(torch.arange(1.0, 9.0)))
            >>> float(eigsh(op.to_scipy(), k=1, which="LA", v0=np.ones(8, "float32"))[0][0].round(4))
            8.0
        """
        kind = np.dtype(np.float64 if self.dtype == torch.float64 else np.float32)

        def product(array: np.ndarray) -> np.ndarray:
            vector = torch.as_tensor(np.ascontiguousarray(array), dtype=self.dtype, device=self.device)
            found: np.ndarray = (self @ vector).cpu().to(torch.float64).numpy().astype(kind)
            return found

        def vector_product(array: np.ndarray) -> np.ndarray:
            return product(array.reshape(-1))

        shape = (self.size, self.size)
        return LinearOperator(shape, matvec=vector_product, rmatvec=vector_product, matmat=product, dtype=kind)

    def measure_noise(self) -> Noise:
        """``noise``, measured with four products (which count) where it is not known yet.

        Curvatures know theirs, and a multiple of an operator knows its operator's.
        """
        if self.noise is None:
            self.noise = measure_noise(self.__matmul__, self.size, self.dtype, self.device)
        return self.noise

    def _like(self, product: Callable[[Tensor], Tensor], text: str) -> Operator:
        return Operator(
            product, self.size, dtype=self.dtype, device=self.device, text=text, layout=self.layout, block=product
        )

    def __repr__(self) -> str:
        how = f", mode={self.plan.how!r}" if self.plan else ""
        cost = f", {self.plan.cost:.2g} gradients a product" if self.plan and self.plan.cost == self.plan.cost else ""
        return f"Operator({self.text}, size={self.size}, dtype={self.dtype}, device={self.device}{how}{cost})"


def _by_columns(product: Callable[[Tensor], Tensor], vector: Tensor) -> Tensor:
    if vector.dim() == 1:
        return product(vector)
    columns = [product(column.contiguous()) for column in vector.T]
    return torch.stack(columns, 1) if columns else torch.zeros_like(vector)


@undisturbed
def hessian(
    problem: Problem, *, at: Sequence[Tensor] | None = None, mode: str = "auto", memory: int | None = None
) -> Operator:
    """The Hessian of L over the trainable parameters, in their order and dtype, at the model's current weights.

    Products sum over all data (eval mode, no augmentation, no weight decay) and divide once by the exact denominator.
    Weights and buffers are copied: training on does not change the operator.

    Args:
        problem: model, loss and data.
        at: other weights, one tensor per parameter.
        mode: how a product is computed.  "auto" tries every way on a few examples, compares each with a finite
            difference and takes the fastest correct one; "untimed" takes the first correct one, the same on every run;
            or "reverse-over-forward", "forward-over-reverse", "double-backward", "finite-differences" (a last resort:
            it is inexact), or the text ``operator.plan.how`` of another operator, which repeats its products exactly.
            Any of them may end in ", compiled", as "auto, compiled": torch.compile makes functions of recorded
            products, once for every shape of batch of a Problem, and each is compared with the product that it
            replaces.  That takes from seconds to minutes at the first product and gains a tenth to a fifth of the
            time of a product on a CPU, so nothing is compiled that is not asked for; blocks of the operator are not.
            Compiled products agree with others to rounding.
        memory: bytes for what products have in common and keep from one to the next (never fewer examples at a time
            than 32, for its sake); by default a third of the memory of the device, at most 16 GiB.  A choice of speed
            and never of the result; 0 keeps nothing.

    A product raises ArithmeticError where it is not finite, ProblemError where all targets are ignored.
    Raises ProblemError under ``torch.inference_mode``, for a loss that is not finite, differs between two evaluations
    or depends on batches by BatchNorm, and for a mode that does not work for the model; ValueError for another mode
    and for ``at`` of other shapes, TypeError for ``at`` that is no tensors.  Where products are compiled, ProblemError
    for those that cannot be recorded, and from the first product where ``memory`` does not hold all batches and where
    torch.compile fails.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> op = hessian(Problem(model, torch.nn.MSELoss(), (torch.tensor([[2.0]]), torch.zeros(1, 1))))
        >>> op @ torch.ones(1), op.plan.mode
        (tensor([8.]), 'reverse-over-forward')
    """
    return _of(Hessian(_point(problem, at, "hessian")), problem.batches, mode, memory)


@undisturbed
def ggn(
    problem: Problem, *, at: Sequence[Tensor] | None = None, mode: str = "auto", memory: int | None = None
) -> Operator:
    """The generalised Gauss-Newton matrix J^T M J: J the Jacobian of the outputs, M the Hessian of the loss in them.

    It is the Hessian without the curvature of the model (Schraudolph 2002), positive semi-definite where the loss is
    convex in the outputs.  Outputs may be a tensor, or tuples and dicts of tensors.  Arguments and errors are those of
    ``hessian``; there is no "forward-over-reverse".

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> ggn(Problem(model, torch.nn.MSELoss(), (torch.tensor([[2.0]]), torch.zeros(1, 1)))) @ torch.ones(1)
        tensor([8.])
    """
    point = _point(problem, at, "ggn")
    check_split(point)
    return _of(ggn_of(point), problem.batches, mode, memory)


@undisturbed
def fisher(
    problem: Problem,
    kind: str = "empirical",
    *,
    samples: int = 1,
    seed: int = 0,
    at: Sequence[Tensor] | None = None,
    mode: str = "auto",
    memory: int | None = None,
) -> Operator:
    """A Fisher matrix: the sum of g g^T over examples, divided by the denominator of L.

    ``kind="empirical"``: g is the gradient of the example's own numerator in L (for a loss over positions the sum over
    them, for class weights the weighted loss), so L's gradient is the sum of the g over the same denominator.
    ``kind="positions"``: g is that of every position's own numerator (a token, a pixel; an entry beyond the last dim of
    the outputs of a squared error), as curvlinops has it.
    ``kind="model"``: targets are drawn from the model's own prediction, ``samples`` for every example, once; the mean
    over draws is the GGN, also with class weights, ignored targets and label smoothing (Kunstner et al. 2019 on why
    the two differ).  It needs cross_entropy, mse_loss or binary_cross_entropy_with_logits on one tensor of outputs.

    Other arguments and errors are those of ``hessian``; there is no "forward-over-reverse".

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False).requires_grad_()
        >>> _ = torch.nn.init.ones_(model.weight)
        >>> fisher(Problem(model, torch.nn.MSELoss(), (torch.tensor([[2.0]]), torch.zeros(1, 1)))) @ torch.ones(1)
        tensor([64.])
    """
    check_count("fisher", "samples", samples)
    check_seed("fisher", seed)
    if kind not in ("empirical", "positions", "model"):
        raise ValueError(f'fisher got kind={kind!r}, expected "empirical", "positions" or "model": change kind')
    point = _point(problem, at, "fisher")
    if kind != "model" or not isinstance(problem.objective, ModelLoss):
        problem.audit.check_single("a Fisher")
    if kind == "empirical":
        return _of(fisher_of(point, "empirical Fisher", "examples"), problem.batches, mode, memory)
    if kind == "positions":
        return _of(fisher_of(point, "Fisher of positions", "positions"), problem.batches, mode, memory)
    name = f"model Fisher ({samples} sample{'s' if samples > 1 else ''}, seed {seed})"
    curvature = fisher_of(point, name, "drawn")
    return _of(curvature, with_draws(point, samples, seed), mode, memory)


def _point(problem: Problem, at: Sequence[Tensor] | None, verb: str) -> Point:
    """Where a curvature is taken.  Raises TypeError for what is no problem."""
    check_problem(verb, problem)
    weights = problem.weights_at(at)
    problem.check_derivatives()
    return Point(problem, weights)


def _of(curvature: Curvature, batches: list[Examples], mode: str, memory: int | None) -> Operator:
    problem, room = curvature.point.problem, budget(curvature.point.problem.device, memory)
    chosen = plan(curvature, batches, mode, room)
    laid = curvature.at(curvature.point.stored(chosen.channels_last))
    products = Sum(laid, batches, chosen.mode, chosen.size, room, chosen.taped, chosen.compiled)
    operator = Operator(
        products,
        problem.size,
        dtype=problem.dtype,
        device=problem.device,
        text=f"{curvature.name} of {problem.describe()}",
        layout=problem.parameters,
        part=products.part,
    )
    operator.plan, operator.noise = chosen, chosen.noise
    return operator
