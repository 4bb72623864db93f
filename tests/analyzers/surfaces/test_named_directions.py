"""Scalings, masks, and directions that mean something, against dense linear algebra and entry by entry."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import sharpscope as ss
from sharpscope import Directions, PackedMask, Problem, random_directions


def problem_of(dtype: torch.dtype = torch.float64) -> Problem:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(dtype)
    return Problem(model, nn.CrossEntropyLoss(), (torch.randn(20, 3, dtype=dtype), torch.randint(2, (20,))))


def flat(vector: list[Tensor]) -> np.ndarray:
    return torch.cat([x.reshape(-1) for x in vector]).double().numpy()


def test_scalings_tensor_by_tensor() -> None:
    problem = problem_of()
    drawn = random_directions(problem, "none", 5).vectors[0]
    for name in ("layer", "weight"):
        found = random_directions(problem, name, 5).vectors[0]
        for w, d, r in zip(problem.weights, found, drawn, strict=True):
            if w.dim() < 2:
                assert not d.any()
            elif name == "weight":
                assert torch.equal(d, r * w)
            else:
                torch.testing.assert_close(d, r * (w.norm() / r.norm()), rtol=1e-14, atol=0.0)
    assert [bool(d.any()) for d in drawn] == [True, False, True, False]


@pytest.mark.parametrize("scaling", ["filter", "layer", "weight", "none"])
def test_1d_parameters_on_request(scaling: str) -> None:
    problem = problem_of()
    without = random_directions(problem, scaling).vectors[0]
    found = random_directions(problem, scaling, include_1d=True)
    for w, d, old in zip(problem.weights, found.vectors[0], without, strict=True):
        if w.dim() >= 2:
            assert torch.equal(d, old)
        elif scaling in ("filter", "layer"):
            assert float(d.norm()) == pytest.approx(float(w.norm()), rel=1e-13)
        else:
            assert bool(d.all())
    assert "1-d" in found.text


def test_many_directions_begin_with_the_usual_two() -> None:
    problem = problem_of()
    two, five = random_directions(problem, seed=3), random_directions(problem, seed=3, count=5)
    assert len(five.vectors) == 5 and len({flat(v).tobytes() for v in five.vectors}) == 5
    for a, b in zip(two.vectors, five.vectors, strict=False):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_norms_cosine_and_orthogonalisation() -> None:
    found = random_directions(problem_of(), "none", count=3)
    a, b, c = (flat(v) for v in found.vectors)
    assert found.norms == pytest.approx([np.linalg.norm(x) for x in (a, b, c)], rel=1e-14)
    assert found.cosine == pytest.approx(a @ b / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-12)
    apart = found.orthogonalised()
    rows = np.array([flat(v) for v in apart.vectors])
    gram = rows @ rows.T
    assert gram == pytest.approx(np.diag(found.norms**2), abs=1e-13 * gram.max())
    assert np.linalg.matrix_rank(np.vstack([a, b, c, rows])) == 3  # the same span
    assert "orthogonalised" in apart.text and apart.seed == found.seed
    with pytest.raises(ValueError, match=r"^orthogonalised got direction 2 in the span of those before it, expected"):
        Directions(found.names, (found.vectors[0], [2 * x for x in found.vectors[0]]), "twice").orthogonalised()


@pytest.mark.parametrize("packed", [False, True])
def test_a_mask_s_subspace(packed: bool) -> None:
    """Off the mask nothing moves, on it everything as before; the complement is the rest."""
    problem = problem_of()
    found = random_directions(problem, include_1d=True)
    mask = {n: torch.rand(w.shape) < 0.5 for n, w in zip(problem.names, problem.weights, strict=True)}
    given: Any = PackedMask.of(mask) if packed else mask
    inside, outside = found.on(given), found.on(given, inside=False)
    for whole, a, b in zip(found.vectors, inside.vectors, outside.vectors, strict=True):
        for part, kept, x, y in zip(whole, mask.values(), a, b, strict=True):
            assert torch.equal(x, torch.where(kept, part, 0.0)) and torch.equal(y, torch.where(kept, 0.0, part))
    assert (inside.text, outside.text) == (f"{found.text}, inside a mask", f"{found.text}, outside a mask")
    only = found.on({"0.weight": mask["0.weight"]})
    assert [bool(x.any()) for x in only.vectors[0]] == [True, False, False, False]


def test_the_plane_of_a_mask_moves_nothing_else() -> None:
    problem = problem_of()
    mask = {name: torch.rand(w.shape) < 0.3 for name, w in problem.parameters.items()}
    seen: list[Tensor] = []
    problem.audit  # noqa: B018  (looks at other weights)
    problem.twin.module.register_forward_pre_hook(
        lambda m, _: seen.append(torch.cat([p.detach().reshape(-1) for p in m.parameters()]))
    )
    ss.surface(problem, 3, directions=random_directions(problem, "none", include_1d=True).on(mask), how="untimed")
    moved = torch.stack(seen[-9:]) - seen[0]  # before, the model is tried at other weights
    kept = torch.cat([part.reshape(-1) for part in mask.values()])
    assert not moved[:, ~kept].any() and moved[-1][kept].all()


def test_hessian_eigenvectors() -> None:
    problem = problem_of()
    matrix = ss.hessian(problem).to_scipy() @ np.eye(problem.size)
    values, vectors = np.linalg.eigh(matrix)
    found = ss.hessian_directions(problem, tol=1e-8)
    assert found.norms == pytest.approx([1.0, 1.0], rel=1e-12) and abs(found.cosine) < 1e-6
    for place, vector in enumerate(found.vectors):
        assert abs(flat(vector) @ vectors[:, -1 - place]) == pytest.approx(1.0, abs=1e-6)
    again = ss.hessian_directions(problem, ss.spectrum(problem, 3, vectors=True, tol=1e-8), which=(2,))
    assert abs(flat(again.vectors[0]) @ vectors[:, -3]) == pytest.approx(1.0, abs=1e-6)
    curve = ss.line(problem, 3, 1e-3, found)
    second = (curve.loss[0] - 2 * curve.loss[1] + curve.loss[2]) / 1e-6
    assert second == pytest.approx(values[-1], rel=1e-4)
    with pytest.raises(ValueError, match=r"^hessian_directions got a spectrum without vectors, expected them"):
        ss.hessian_directions(problem, ss.spectrum(problem, 2))
    with pytest.raises(ValueError, match=r"^hessian_directions got 2 eigenvectors of 26 entries, expected at least 4"):
        ss.hessian_directions(problem, ss.spectrum(problem, 2, vectors=True), which=(3,))
    with pytest.raises(ValueError, match=r"^hessian_directions got which=\(-1,\), expected places from 0"):
        ss.hessian_directions(problem, which=(-1,))


def test_the_gradient_and_a_plane_of_two_kinds() -> None:
    problem = problem_of()
    found = ss.gradient_direction(problem)
    gradient = flat(problem.gradient())
    assert flat(found.vectors[0]) == pytest.approx(gradient / np.linalg.norm(gradient), rel=1e-12)
    plane = found.beside(ss.hessian_directions(problem, which=(0,)))
    result = ss.surface(problem, 3, 1e-4, plane)
    assert result.directions == "gradient, of unit length; eigenvectors 1 of the Hessian" and result.seed is None
    assert (result.loss[1, 2] - result.loss[1, 0]) / 2e-4 == pytest.approx(np.linalg.norm(gradient), rel=1e-5)


def test_towards_other_weights_ends_there() -> None:
    problem = problem_of()
    others = [copy.deepcopy(problem.model) for _ in range(2)]
    for other in others:
        for p in other.parameters():
            nn.init.normal_(p)
    x, y = problem.batches[0].args[0], problem.batches[0].targets
    ends = [Problem(other, nn.CrossEntropyLoss(), (x, y)).loss() for other in others]
    way = ss.line(problem, 5, (0.0, 1.0), ss.towards(problem, others[0].state_dict()))
    assert way.loss[-1] == pytest.approx(ends[0], rel=1e-12) and way.loss[0] == pytest.approx(problem.loss())
    plane = ss.surface(problem, 2, (0.0, 1.0), ss.towards(problem, *others))
    assert [plane.loss[0, 1], plane.loss[1, 0]] == pytest.approx(ends, rel=1e-12)
    with pytest.raises(ValueError, match=r"^towards got weights 1 equal to the centre, expected others"):
        ss.towards(problem, problem.model)
    with pytest.raises(ValueError, match=r"^other weights got nothing for 0.weight, expected shape \(4, 3\)"):
        ss.towards(problem, {"weight": torch.ones(3)})
    with pytest.raises(ValueError, match=r"^towards got no other weights, expected one or two"):
        ss.towards(problem)


def test_principal_directions_of_a_trajectory() -> None:
    problem = problem_of()
    steps = [[w + 0.1 * torch.randn_like(w) * (1 + i) for w in problem.weights] for i in range(7)]
    given = [dict(zip(problem.names, step, strict=True)) for step in steps]
    found = ss.pca_directions(problem, given)
    rows = np.array([flat(step) for step in steps])
    _, singular, right = np.linalg.svd(rows - rows.mean(0), full_matrices=False)
    for place, vector in enumerate(found.vectors):
        assert abs(flat(vector) @ right[place]) == pytest.approx(1.0, abs=1e-10)
    assert found.explained == pytest.approx((singular**2 / (singular**2).sum())[:2], rel=1e-10)
    assert ss.pca_directions(problem, given).digest == found.digest
    with pytest.raises(ValueError, match=r"^pca_directions got 2 weights, expected more than 2: keep more"):
        ss.pca_directions(problem, given[:2])
    with pytest.raises(ValueError, match=r"^pca_directions got a trajectory along fewer than 2 directions"):
        ss.pca_directions(problem, [[w * s for w in problem.weights] for s in (1.0, 2.0, 3.0)])


def test_fingerprints() -> None:
    problem = problem_of()
    one, same, other = (random_directions(problem, seed=seed) for seed in (0, 0, 1))
    assert one.digest == same.digest != other.digest
    result = ss.surface(problem, 3)
    assert result.digest == one.digest and result == ss.surface(problem, 3, directions=one)
    last = [[x.to(memory_format=torch.contiguous_format).clone() for x in v] for v in one.vectors]
    assert Directions(one.names, tuple(last), "by hand").digest == one.digest


def test_one_plane_for_several_checkpoints() -> None:
    """The same directions move another model by the same amount, whatever its own filters are."""
    problem, other = problem_of(), problem_of()
    plane = random_directions(problem)
    assert ss.surface(other, 3, directions=plane).norms.tolist() == plane.norms[:2].tolist()
    single = problem_of(torch.float32)
    assert ss.surface(single, 3, directions=plane).digest == plane.digest


class Wide(nn.Module):
    def __init__(self, order: list[str], width: int = 4) -> None:
        super().__init__()
        for name in order:
            setattr(self, name, nn.Linear(3, width if name == "a" else 4, bias=False))

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x).sum(1, keepdim=True)


def wide(order: list[str], width: int = 4) -> Problem:
    return Problem(Wide(order, width), nn.MSELoss(), (torch.ones(4, 3), torch.ones(4, 1)))


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (["a"], "without b.weight"),
        (["a", "b", "c"], "with c.weight"),
        (["b", "a"], "in another order"),
    ],
)
def test_directions_of_another_model(other: list[str], text: str) -> None:
    made = random_directions(wide(other))
    with pytest.raises(ValueError, match=rf"^the surface got directions {text}, expected those of the 2 parameters of"):
        ss.surface(wide(["a", "b"]), 3, directions=made)


def test_other_mistakes() -> None:
    problem = wide(["a", "b"])
    with pytest.raises(ValueError, match=r"^the line got directions of shape \(5, 3\) for a.weight, expected \(4, 3\)"):
        ss.line(problem, 3, directions=random_directions(wide(["a", "b"], 5)))
    with pytest.raises(ValueError, match=r"^the surface got 1 directions, expected 2: use first.beside\(second\)"):
        ss.surface(problem, 3, directions=random_directions(problem, count=1))
    zero = random_directions(problem).on({"a.weight": torch.zeros(4, 3, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"^the surface got a direction of length 0 \(filter, inside a mask\), exp"):
        ss.surface(problem, 3, directions=zero)
    with pytest.raises(ValueError, match=r"^a mask got a.weight of shape \(2,\) and torch.bool, expected boolean ten"):
        zero.on({"a.weight": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(ValueError, match=r"^Directions got entries of w that are not finite, expected numbers"):
        Directions(("w",), ([torch.tensor([float("nan")])],), "by hand")
    with pytest.raises(ValueError, match=r"^Directions got \[2\] tensors for 1 names, expected one tensor per name"):
        Directions(("w",), ([torch.ones(1), torch.ones(1)],), "by hand")
    with pytest.raises(ValueError, match=r"^beside got directions of w, expected those of a.weight, b.weight"):
        zero.beside(Directions(("w",), ([torch.ones(1)],), "by hand"))
    for arguments, text in [
        ({"scaling": "li"}, "scaling='li', expected one of filter, layer, weight, none: change it"),
        ({"seed": 0.5}, "seed=0.5, expected a whole number: 0 is usual"),
        ({"count": 0}, "count=0, expected a whole number >= 1: change count"),
    ]:
        with pytest.raises(ValueError) as caught:  # noqa: PT011  (the whole text is compared)
            random_directions(problem, **arguments)  # type: ignore[arg-type]
        assert str(caught.value) == f"random_directions got {text}"


def test_too_many_tensors_are_no_other_weights() -> None:
    problem = Problem(nn.Linear(2, 1), nn.MSELoss(), (torch.eye(2), torch.ones(2, 1)))
    more = [0.5 * w for w in problem.weights] + [torch.zeros(3)]
    with pytest.raises(ValueError, match=r"^other weights got 3 tensors, expected 2, one per parameter: take those of"):
        ss.towards(problem, more)
