"""Symmetric matrices known by their products with a vector."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sharpscope.problem import Problem
from sharpscope.vectors import flatten, unflatten

__all__ = ["Operator", "hessian"]


class Operator:
    """A symmetric (n, n) matrix A, given by ``v -> A v`` on vectors of shape (n,).

    ``products`` counts how often A was applied.  ``Operator.of(matrix)`` wraps a dense matrix.

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
    ) -> None:
        self._product = product
        self.size, self.dtype, self.device, self.text = size, dtype, torch.device(device), text
        self.products = 0

    @staticmethod
    def of(matrix: Tensor, text: str = "matrix") -> Operator:
        """The operator of a dense symmetric matrix of shape (n, n).  Raises ValueError for any other."""
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(
                f"Operator.of got shape {tuple(matrix.shape)}, expected (n, n): an operator is a square matrix"
            )
        if not matrix.is_floating_point():
            raise ValueError(
                f"Operator.of got dtype {matrix.dtype}, expected real floating point: convert it with .double()"
            )
        if not torch.isfinite(matrix).all():
            raise ValueError("Operator.of got entries that are not finite, expected finite numbers: check the matrix")
        if bool((matrix - matrix.T).abs().max() > 1e-5 * matrix.abs().max()):
            raise ValueError("Operator.of got a matrix that is not symmetric, expected A = A^T: pass (A + A.T) / 2")
        return Operator(matrix.mv, len(matrix), dtype=matrix.dtype, device=matrix.device, text=text)

    def __matmul__(self, vector: Tensor) -> Tensor:
        if vector.shape != (self.size,):
            raise ValueError(
                f"the {self.text} got a vector of shape {tuple(vector.shape)}, expected ({self.size},): "
                f"flatten it in the order of the parameters"
            )
        self.products += 1
        product = self._product(vector)
        if product.shape != vector.shape or product.dtype != self.dtype:
            raise ValueError(
                f"a product of the {self.text} got {product.dtype} of shape {tuple(product.shape)}, "
                f"expected {self.dtype} of shape ({self.size},): return A v like v"
            )
        return product

    def __repr__(self) -> str:
        return f"Operator({self.text}, size={self.size}, dtype={self.dtype}, device={self.device})"


def hessian(problem: Problem) -> Operator:
    """The Hessian of L at the model's current weights, over its trainable parameters, in their order and dtype.

    Each product is a double backward over all data (eval mode, no augmentation, no weight decay), summed batch by batch
    and divided once by the exact denominator.

    Example:
        >>> model = torch.nn.Linear(1, 1, bias=False)
        >>> hessian(Problem(model, torch.nn.MSELoss(), (torch.tensor([[2.0]]), torch.zeros(1, 1)))) @ torch.ones(1)
        tensor([8.])
    """
    at = [w.clone() for w in problem.weights]

    def product(vector: Tensor) -> Tensor:
        return flatten(problem.hessian_product(unflatten(vector, at), at))

    text = f"Hessian of {problem.describe()}"
    return Operator(product, problem.size, dtype=problem.dtype, device=problem.device, text=text)
