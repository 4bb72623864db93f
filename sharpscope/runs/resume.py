"""Work on an operator that survives a kill: every product is kept on disk, and not made twice.

Everything that the analyzers do between two products is a function of the products and the seed.  So the same call on
the same folder finds its former products, asks for the same vectors again, and ends bit for bit where the unbroken call
would have ended.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sharpscope.core.vectors import content
from sharpscope.curvature.operators import Operator
from sharpscope.store import StoreError, read_part, write_part

__all__ = ["resumable"]


def resumable(operator: Operator, folder: str | os.PathLike[str]) -> Operator:
    """The same operator, whose products are kept in ``folder`` and found there again after a kill.

    Each product is one part (an HDF5 file of n numbers) that is on the disk, whole, before the next one begins.  The
    last product of a former call is made anew and compared, which tells other weights, data or rounding.  Delete the
    folder when the work is done.

    How a Hessian computes its products may differ from one call to the next, because the fastest way is chosen by
    measuring; going on needs the former way, which the error names if it is another.

    Args:
        operator: any operator.
        folder: of the products; made if it is missing.

    Products raise StoreError where the folder holds those of another operator or of other vectors (another seed or
    other settings).

    >>> import tempfile
    >>> from sharpscope.analyzers.spectra.spectrum import spectrum
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     work = [resumable(Operator.of(torch.diag(torch.arange(40.0))), folder) for _ in range(2)]
    ...     spectrum(work[0], k=2) == spectrum(work[1], k=2)
    True
    """
    record = _Record(operator, Path(folder))
    found = Operator(
        record.product, operator.size, dtype=operator.dtype, device=operator.device, text=operator.text,
        layout=operator.layout,
    )  # fmt: skip
    found.plan, found.noise = operator.plan, operator.noise
    return found


class _Record:
    """The products of one operator in the order in which they were asked for."""

    def __init__(self, operator: Operator, folder: Path) -> None:
        self.operator, self.folder = operator, folder
        self.asked = 0
        folder.mkdir(parents=True, exist_ok=True)

    def product(self, vector: Tensor) -> Tensor:
        how = self.operator.plan.how if self.operator.plan else ""
        about = {"operator": self.operator.text, "how": how, "vector": _digest(vector), "place": self.asked}
        path = _path(self.folder, self.asked)
        self.asked += 1
        if not path.exists():
            product = self.operator @ vector
            write_part(path, "product", {"product": product.detach().cpu().contiguous()}, about)
            return product
        tree, attributes = read_part(path, "product")
        self._check(path, attributes, about)
        product = tree["product"].to(self.operator.device)
        if not _path(self.folder, self.asked).exists():
            self._compare(path, product, self.operator @ vector)
        return product  # type: ignore[no-any-return]

    def _check(self, path: Path, attributes: dict[str, Any], about: dict[str, Any]) -> None:
        for name, expected in about.items():
            if attributes.get(name) != expected:
                if name == "how":
                    raise StoreError(
                        f"{path}: got a product computed by {attributes.get(name)!r}, expected {expected!r}: go on "
                        f"with hessian(problem, mode={attributes.get(name)!r}), or delete the folder"
                    )
                raise StoreError(
                    f"{path}: got a product of another {name} ({attributes.get(name)!r}), expected {expected!r}: use "
                    f"the same settings to go on, or delete the folder"
                )

    def _compare(self, path: Path, kept: Tensor, anew: Tensor) -> None:
        distance, scale = float((kept - anew).norm()), float(kept.norm())
        if not distance <= 1e3 * torch.finfo(kept.dtype).eps * scale:
            raise StoreError(
                f"{path}: got a product that differs by {distance:.3g} (of {scale:.3g}) when made anew, expected the "
                f"same: the weights or the data have changed; delete the folder to begin again"
            )


def _path(folder: Path, place: int) -> Path:
    return folder / f"{place:09d}.h5"


def _digest(vector: Tensor) -> str:
    return "sha256:" + hashlib.sha256(content(vector)).hexdigest()
