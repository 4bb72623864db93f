"""Surfaces and lines against closed forms; the model as it was, whatever happens on the way.

References see the displaced weights only through what the model itself was called with, so they share no code with the
library.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sharpscope.analyzers.surfaces.surface import Line, Surface, line, surface
from sharpscope.problem.problem import Problem


class Shared(list[Any]):
    """A list that copies of a model share."""

    def __deepcopy__(self, memo: Any) -> Shared:
        return self


class Recorder(nn.Linear):
    """A linear model that keeps the weights it was called with, and so does every copy of it."""

    def __init__(self, inputs: int, outputs: int, bias: bool = True) -> None:
        super().__init__(inputs, outputs, bias)
        self.seen: list[Tensor] = Shared()

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(self.weight.detach().clone())
        return super().forward(x)


def regression(examples: int = 12, outputs: int = 2, bias: bool = True) -> tuple[Recorder, Tensor, Tensor, Problem]:
    x, y = torch.randn(examples, 3), torch.randn(examples, outputs)
    model = Recorder(3, outputs, bias)
    return model, x, y, Problem(model, nn.MSELoss(), (x, y))


def axes(model: Recorder, problem: Problem, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """d1 and d2 of the weight, read off the corners of the unit square, in whatever order they are visited."""
    model.seen.clear()
    line(problem, resolution=2, span=(0.0, 1.0), seed=seed, how="untimed")
    center = model.weight.detach()
    first = model.seen[-1] - center
    model.seen.clear()
    surface(problem, resolution=2, span=(0.0, 1.0), seed=seed, how="untimed")
    both = model.seen[-1] - center  # 0, d1, d2, d1 + d2
    return first.numpy(), (both - first).numpy()


def quadratic(w: np.ndarray, b: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """Mean squared error, entry by entry."""
    terms = []
    for n in range(len(x)):
        for k in range(len(w)):
            terms.append((math.fsum(w[k, i] * x[n, i] for i in range(x.shape[1])) + b[k] - y[n, k]) ** 2)
    return math.fsum(terms) / len(terms)


def test_known_values_at_every_point_of_a_quadratic() -> None:
    model, x, y, problem = regression()
    d1, d2 = axes(model, problem, seed=4)
    found = surface(problem, resolution=(5, 4), span=((-1.0, 1.5), (-0.5, 0.7)), seed=4)
    w, b = model.weight.detach().numpy(), model.bias.detach().numpy()
    assert found.loss.shape == found.stderr.shape == found.radius.shape == (4, 5)
    assert found.alpha.tolist() == pytest.approx([-1.0, -0.375, 0.25, 0.875, 1.5])
    assert found.beta.tolist() == pytest.approx([-0.5, -0.1, 0.3, 0.7])
    for i, beta in enumerate(found.beta):
        for j, alpha in enumerate(found.alpha):
            expected = quadratic(w + alpha * d1 + beta * d2, b, x.numpy(), y.numpy())
            assert found.loss[i, j] == pytest.approx(expected, rel=1e-10)
            moved = math.sqrt(((alpha * d1 + beta * d2) ** 2).sum())
            assert found.radius[i, j] == pytest.approx(moved / math.sqrt((w**2).sum() + (b**2).sum()), rel=1e-10)
    assert found.norms == pytest.approx([np.linalg.norm(d1), np.linalg.norm(d2)], rel=1e-12)
    assert found.cosine == pytest.approx(float((d1 * d2).sum() / np.linalg.norm(d1) / np.linalg.norm(d2)), rel=1e-10)


def test_known_values_along_a_line() -> None:
    model, x, y, problem = regression()
    d1, _ = axes(model, problem)
    found = line(problem, resolution=7, span=(-0.4, 1.1))
    w, b = model.weight.detach().numpy(), model.bias.detach().numpy()
    expected = [quadratic(w + alpha * d1, b, x.numpy(), y.numpy()) for alpha in found.alpha]
    assert found.loss == pytest.approx(expected, rel=1e-10)
    assert found.norm == pytest.approx(np.linalg.norm(d1), rel=1e-12)
    whole = math.sqrt((w**2).sum() + (b**2).sum())
    assert found.radius == pytest.approx(np.abs(found.alpha) * found.norm / whole, rel=1e-10)


def test_axes_have_the_norms_of_the_filters_and_biases_stay() -> None:
    model, _, _, problem = regression()
    for d in axes(model, problem):
        assert np.linalg.norm(d, axis=1) == pytest.approx(np.linalg.norm(model.weight.detach().numpy(), axis=1))


def test_every_point_is_formed_from_the_centre() -> None:
    """No drift: a point has the same bits on a coarse and on a fine grid."""
    *_, problem = regression()
    coarse, fine = surface(problem, resolution=3), surface(problem, resolution=9)
    assert np.array_equal(coarse.loss, fine.loss[::4, ::4])
    assert np.array_equal(coarse.stderr, fine.stderr[::4, ::4])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("span", "resolution"), [(1.0, 51), (0.1, 23), (0.3, 39), (2.3, 7), ((-0.7, 0.7), 45)])
def test_the_centre_is_the_loss(span: Any, resolution: int, dtype: torch.dtype) -> None:
    x, y = torch.randn(40, 6, dtype=dtype), torch.randint(4, (40,))
    problem = Problem(nn.Linear(6, 4).to(dtype), nn.CrossEntropyLoss(), (x, y))
    found = line(problem, resolution=resolution, span=span)
    middle = resolution // 2
    assert found.alpha[middle] == 0.0
    assert found.loss[middle] == found.center  # bit for bit
    assert found.stderr[middle] == found.radius[middle] == 0.0
    assert found.center == pytest.approx(problem.loss(), rel=20 * torch.finfo(dtype).eps)
    assert np.array_equal(found.alpha, -found.alpha[::-1])
    plane = surface(problem, resolution=(resolution, 3), span=span)
    assert plane.loss[1, middle] == plane.center == found.center


def test_a_line_is_the_row_of_the_surface() -> None:
    *_, problem = regression()
    row, plane = line(problem, resolution=7, seed=9), surface(problem, resolution=(7, 5), seed=9)
    assert np.array_equal(row.alpha, plane.alpha)
    assert np.array_equal(row.loss, plane.loss[2])
    assert np.array_equal(row.stderr, plane.stderr[2])
    assert np.array_equal(row.radius, plane.radius[2])
    assert row.norm == plane.norms[0] and row.center == plane.center


def net(dtype: torch.dtype = torch.float64) -> nn.Sequential:
    """Everything that a forward pass may move: BatchNorm, dropout, a frozen layer, gradients, mixed modes."""
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5),
        nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 3),
    ).to(dtype)  # fmt: skip
    model(torch.randn(8, 2, 4, 4, dtype=dtype)).square().mean().backward()
    model[4].requires_grad_(False)
    model[7].bias.grad = None
    model.train()
    model[5].eval()
    return model


def images(dtype: torch.dtype = torch.float64, examples: int = 20) -> tuple[Tensor, Tensor]:
    return torch.randn(examples, 2, 4, 4, dtype=dtype), torch.randint(3, (examples,))


def everything(model: nn.Module) -> dict[str, Any]:
    """All that a user could find changed."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    grads = {name: p.grad for name, p in model.named_parameters()}
    return {
        "values": {name: t.detach().numpy().tobytes() for name, t in tensors},
        "places": {name: (id(t), t.data_ptr(), t._version) for name, t in tensors},
        "inference": {name: t.is_inference() for name, t in tensors},
        "gradients": {name: None if g is None else (id(g), g.numpy().tobytes()) for name, g in grads.items()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": {name: module.training for name, module in model.named_modules()},
        "hooks": {name: len(module._forward_pre_hooks) for name, module in model.named_modules()},
    }


@pytest.mark.parametrize("ask", [lambda p: surface(p, resolution=3), lambda p: line(p, resolution=4)])
def test_twice_the_same_and_the_model_untouched(ask: Callable[[Problem], Any], rng_guard: Callable[[], None]) -> None:
    model = net()
    problem = Problem(model, nn.CrossEntropyLoss(), images(), batch_size=7)
    before = everything(model)
    rng_guard()
    first, second = ask(problem), ask(problem)
    assert everything(model) == before
    assert first == second
    assert first.loss.tobytes() == second.loss.tobytes() and first.stderr.tobytes() == second.stderr.tobytes()


class Fuse(nn.Module):
    """Blows at one of its calls."""

    def __init__(self, model: nn.Module, error: type[BaseException], at: int) -> None:
        super().__init__()
        self.model, self.error, self.left = model, error, Shared([at])

    def forward(self, x: Tensor) -> Tensor:
        self.left[0] -= 1
        if not self.left[0]:
            raise self.error("the fuse has blown")
        return self.model(x)


@pytest.mark.parametrize("at", [1, 2, 30])
@pytest.mark.parametrize("error", [ArithmeticError, KeyboardInterrupt])
def test_the_model_is_untouched_after_an_interruption(
    error: type[BaseException], at: int, rng_guard: Callable[[], None]
) -> None:
    model = Fuse(net(), error, at)
    problem = Problem(model, nn.CrossEntropyLoss(), images())
    before = everything(model)
    rng_guard()
    with pytest.raises(error, match="the fuse has blown"):
        surface(problem, resolution=3)
    assert everything(model) == before
    assert model.left == [0]


def test_buffers_never_move_with_the_plane() -> None:
    """Running statistics are those of the model at every point; a reference forms the points by hand."""
    model = net()
    x, y = images()
    seen: list[dict[str, Tensor]] = []

    def listen(module: nn.Module, inputs: Any) -> None:
        seen.append({name: t.detach().clone() for name, t in (*module.named_parameters(), *module.named_buffers())})

    before = {name: t.clone() for name, t in model.named_buffers()}
    handle = model.register_forward_pre_hook(listen)
    problem = Problem(model, nn.CrossEntropyLoss(), (x, y))
    problem.loss()  # the audit looks at other weights
    seen.clear()
    found = surface(problem, resolution=3, how="untimed")
    handle.remove()
    moving = {"0.weight", "7.weight"}  # the second convolution is frozen, the others have one dim
    reference = copy.deepcopy(model).eval()
    own = dict(model.named_parameters())
    losses = []
    for values in (seen[0], *seen[-9:]):  # between them a copy is compared with the model at other weights
        assert all(torch.equal(values[name], b) for name, b in before.items())
        assert all(torch.equal(values[name], p) for name, p in own.items() if name not in moving)
        reference.load_state_dict(values)
        with torch.no_grad():
            losses.append(float(F.cross_entropy(reference(x), y)))
    assert losses[-9:] == pytest.approx(found.loss.flatten(), rel=1e-12)
    assert losses[0] == pytest.approx(found.center, rel=1e-12) and len(set(losses[-9:])) == 9


def standard_error(difference: Tensor, denominator: float) -> float:
    values = difference.tolist()
    mean = math.fsum(values) / len(values)
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return math.sqrt(variance * len(values)) / denominator


def test_paired_standard_error_by_brute_force_and_by_bootstrap() -> None:
    model, x, y, problem = regression(examples=200, outputs=1)
    d1, d2 = (torch.from_numpy(d) for d in axes(model, problem))
    found = surface(problem, resolution=3, span=0.5)
    with torch.no_grad():
        at = [F.linear(x, model.weight + 0.5 * (a * d1 + b * d2), model.bias) for b in (-1, 0, 1) for a in (-1, 0, 1)]
        losses = [(output - y).square().flatten() for output in at]
        center = (F.linear(x, model.weight, model.bias) - y).square().flatten()
    brute = [standard_error(each - center, 200) for each in losses]
    assert found.stderr.flatten() == pytest.approx(brute, rel=1e-10, abs=1e-16)
    picked = np.random.default_rng(0).integers(200, size=(2000, 200))
    for point, each in enumerate(losses):
        spread = (each - center).numpy()[picked].mean(axis=1).std()
        assert found.stderr.flatten()[point] == pytest.approx(spread, rel=0.1)
    # paired: far smaller than that of two independent samples close to the centre
    near = surface(problem, resolution=3, span=0.01).stderr
    assert near.max() < 0.1 * standard_error(center, 200)


def test_one_example_has_no_standard_error() -> None:
    *_, problem = regression(examples=1)
    found = surface(problem, resolution=3)
    assert np.isnan(found.stderr).all() and np.isfinite(found.loss).all() and found.examples == 1


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_weights_ignored_targets_and_uneven_batches(smoothing: float) -> None:
    model, x = Recorder(3, 4), torch.randn(17, 3)
    y = torch.randint(4, (17,))
    y[[2, 5, 11]] = -7
    weight = torch.tensor([0.2, 1.0, 3.0, 0.5])
    loss = nn.CrossEntropyLoss(weight=weight, ignore_index=-7, label_smoothing=smoothing)
    cuts = [slice(0, 1), slice(1, 9), slice(9, 11), slice(11, 17)]
    found = surface(Problem(model, loss, [(x[c], y[c]) for c in cuts]), resolution=3)
    d1, d2 = (torch.from_numpy(d) for d in axes(model, Problem(model, loss, (x, y))))
    shares = torch.where(y == -7, 0.0, weight[y.clamp(min=0)])
    total = float(shares.sum())
    each = nn.CrossEntropyLoss(weight=weight, ignore_index=-7, label_smoothing=smoothing, reduction="none")
    with torch.no_grad():
        center = each(F.linear(x, model.weight, model.bias), y)
        for i, b in enumerate((-1, 0, 1)):
            for j, a in enumerate((-1, 0, 1)):
                outputs = F.linear(x, model.weight + a * d1 + b * d2, model.bias)
                assert found.loss[i, j] == pytest.approx(float(loss(outputs, y)), rel=1e-12)
                difference = each(outputs, y) - center
                error = standard_error(difference - difference.sum() / total * shares, total)
                assert found.stderr[i, j] == pytest.approx(error, rel=1e-10, abs=1e-16)
    assert found.examples == 17


def test_a_sum_is_drawn_as_a_sum() -> None:
    model, x, y, problem = regression(examples=10)
    mean = surface(problem, resolution=3)
    total = surface(Problem(model, nn.MSELoss(reduction="sum"), (x, y), batch_size=3), resolution=3)
    assert total.loss == pytest.approx(mean.loss * 20, rel=1e-12)
    assert total.stderr == pytest.approx(mean.stderr * 20, rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("batch_size", [1, 3, 12])
def test_batches_are_a_choice_of_speed(batch_size: int) -> None:
    model, x, y, problem = regression()
    found = surface(Problem(model, nn.MSELoss(), (x, y), batch_size=batch_size), resolution=3)
    expected = surface(problem, resolution=3)
    assert found.loss == pytest.approx(expected.loss, rel=1e-13)
    assert found.stderr == pytest.approx(expected.stderr, rel=1e-10, abs=1e-15)


def test_a_loss_of_ones_own() -> None:
    model, x, y, problem = regression()
    found = surface(Problem(model, lambda output, target: (output - target).square().mean(), (x, y)), resolution=3)
    assert found.loss == pytest.approx(surface(problem, resolution=3).loss, rel=1e-13)


def test_a_float32_model_follows_its_float64_twin() -> None:
    model = net()
    x, y = images()
    exact = surface(Problem(model, nn.CrossEntropyLoss(), (x, y)), resolution=3)
    single = surface(Problem(copy.deepcopy(model).float(), nn.CrossEntropyLoss(), (x.float(), y)), resolution=3)
    assert single.precision == "float32" and exact.precision == "float64"
    assert single.loss.dtype == single.stderr.dtype == single.radius.dtype == np.float64
    assert single.loss == pytest.approx(exact.loss, rel=1e-5)
    assert single.stderr == pytest.approx(exact.stderr, rel=1e-3, abs=1e-7)
    assert single.radius == pytest.approx(exact.radius, rel=1e-5)
    assert single.norms == pytest.approx(exact.norms, rel=1e-6) and single.cosine == pytest.approx(
        exact.cosine, abs=1e-6
    )


def test_checkpoints_share_the_plane() -> None:
    """Two models of one architecture and of one filter norm move by the same directions."""
    model, _, _, problem = regression(bias=False)
    other, _, _, theirs = regression(bias=False)
    with torch.no_grad():
        other.weight.mul_(model.weight.norm(dim=1, keepdim=True) / other.weight.norm(dim=1, keepdim=True))
    for mine, yours in zip(axes(model, problem), axes(other, theirs), strict=True):
        assert mine == pytest.approx(yours, rel=1e-9)


def test_seeds_differ_and_kinds_of_whole_numbers_do_not() -> None:
    *_, problem = regression()
    zero, one = surface(problem, resolution=3), surface(problem, resolution=3, seed=1)
    assert not np.array_equal(zero.loss, one.loss) and zero.center == one.center
    assert surface(problem, resolution=3, seed=np.int64(1)) == one  # type: ignore[arg-type]
    assert surface(problem, resolution=np.int64(3), seed=1) == one  # type: ignore[arg-type]


def test_spans() -> None:
    *_, problem = regression()
    square = surface(problem, resolution=3, span=0.5)
    assert square == surface(problem, resolution=(3, 3), span=(-0.5, 0.5))
    assert square == surface(problem, resolution=3, span=((-0.5, 0.5), (-0.5, 0.5)))
    mixed = surface(problem, resolution=3, span=(0.5, (0.0, 1.0)))  # type: ignore[arg-type]
    assert mixed.alpha.tolist() == [-0.5, 0.0, 0.5] and mixed.beta.tolist() == [0.0, 0.5, 1.0]
    assert surface(problem, resolution=2, span=1).alpha.tolist() == [-1.0, 1.0]


class Steep(nn.Linear):
    """Finite at its weights, infinite or undefined far from them."""

    def __init__(self, kind: str) -> None:
        super().__init__(3, 1, bias=False)
        nn.init.ones_(self.weight)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        size = (self.weight - 1.0).square().sum()
        return super().forward(x) + (torch.expm1(1e4 * size) if self.kind == "inf" else torch.sqrt(1e-9 - size))


@pytest.mark.parametrize("kind", ["inf", "nan"])
def test_points_without_a_finite_loss_are_kept_as_they_are(kind: str) -> None:
    problem = Problem(Steep(kind), nn.MSELoss(), (torch.ones(4, 3), torch.zeros(4, 1)))
    found = surface(problem, resolution=3)
    around = np.ones((3, 3), dtype=bool)
    around[1, 1] = False
    assert found.loss[1, 1] == found.center and math.isfinite(found.center)
    assert (np.isposinf if kind == "inf" else np.isnan)(found.loss[around]).all()
    assert np.isnan(found.stderr[around]).all()
    assert np.isfinite(found.radius).all()


@pytest.mark.parametrize(("value", "shown"), [(math.nan, "nan"), (math.inf, "inf")])
def test_a_centre_without_a_finite_loss_is_refused(value: float, shown: str) -> None:
    problem = Problem(nn.Linear(2, 1), nn.MSELoss(), (torch.ones(3, 2), torch.tensor([[0.0], [value], [0.0]])))
    expected = f"the loss at the centre is {shown}, expected a finite number: check the weights and the data"
    with pytest.raises(ValueError, match=f"^{expected}"):
        surface(problem, resolution=3)
    with pytest.raises(ValueError, match=f"^{expected}"):
        line(problem, resolution=3)


def test_data_that_counts_for_nothing_is_refused() -> None:
    problem = Problem(nn.Linear(2, 3), nn.CrossEntropyLoss(), (torch.ones(3, 2), torch.full((3,), -100)))
    with pytest.raises(ValueError, match=r"^the loss at the centre is nan, expected a finite number"):
        surface(problem, resolution=3)


class Vector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.w[:, None]


def test_a_model_of_vectors_alone_moves_them_as_filters() -> None:
    problem = Problem(Vector().double(), nn.MSELoss(), (torch.ones(3, 2), torch.zeros(3, 1)))
    found = surface(problem, resolution=3)
    assert found.directions == "filter, 1-d parameters too" and np.ptp(found.loss) > 0


def test_a_plane_that_is_a_point_is_refused() -> None:
    model = nn.Linear(2, 1)
    nn.init.zeros_(model.weight)
    problem = Problem(model.double(), nn.MSELoss(), (torch.ones(3, 2), torch.ones(3, 1)))
    with pytest.raises(
        ValueError, match=r"^the surface got no filter that can move, expected nonzero weights in a ten"
    ):
        surface(problem, resolution=3)
    with pytest.raises(ValueError, match=r"^the line got no filter that can move"):
        line(problem, resolution=3)


WHOLE = "expected a whole number >= 2: 51 is usual"
ENDS = "expected a positive number or (low, high): 1.0 is usual"
BAD: list[tuple[dict[str, Any], str]] = [
    *[({"resolution": r}, f"resolution={r!r}, {WHOLE}") for r in (1, 0, -3, 5.0, True, "5", None, [5, 5], (5,))],
    *[({"span": s}, f"span={s!r}, {ENDS}") for s in (0, -1.0, math.nan, math.inf, "1", None, [-1, 1], 1j)],
    *[({"span": s}, f"span={s!r}, {ENDS}") for s in ((1.0, -1.0), (1.0, 1.0), (0.0,), (-1, 0, 1), (0, math.inf))],
    ({"directions": "pca"}, "directions='pca', expected one of filter, layer, weight, none or Directions: change it"),
    ({"directions": None}, "directions=None, expected one of filter, layer, weight, none or Directions: change it"),
    ({"precision": "float16"}, "precision='float16', expected 'float32' or 'bfloat16': change precision"),
    *[({"seed": s}, f"seed={s!r}, expected a whole number: 0 is usual") for s in (1.5, "0", None, True)],
]


@pytest.mark.parametrize(("arguments", "text"), BAD, ids=lambda value: repr(value) if isinstance(value, dict) else "")
def test_bad_arguments(arguments: dict[str, Any], text: str) -> None:
    *_, problem = regression()
    for ask in (surface, line):
        with pytest.raises(ValueError) as caught:  # noqa: PT011  (the whole text is compared)
            ask(problem, **{"resolution": 3, **arguments})
        assert str(caught.value) == f"the {ask.__name__} got {text}"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"resolution": (3, 1)}, f"resolution=1, {WHOLE}"),
        ({"resolution": (3, (3, 3))}, f"resolution=(3, 3), {WHOLE}"),
        ({"span": ((-1, 1), (1, -1))}, f"span=(1, -1), {ENDS}"),
        ({"span": ((-1, 1), 0.0)}, f"span=0.0, {ENDS}"),
        ({"span": ((-1, 1),)}, f"span=((-1, 1),), {ENDS}"),
    ],
    ids=repr,
)
def test_bad_arguments_of_one_axis(arguments: dict[str, Any], text: str) -> None:
    model, _, _, problem = regression()
    with pytest.raises(ValueError) as caught:  # noqa: PT011  (the whole text is compared)
        surface(problem, **{"resolution": 3, **arguments})
    assert str(caught.value) == f"the surface got {text}"
    assert not model.seen  # refused before any work


def test_what_a_result_says_of_itself() -> None:
    *_, problem = regression()
    plane, row = surface(problem, resolution=3, seed=2), line(problem, resolution=3, seed=2)
    assert isinstance(plane, Surface) and isinstance(row, Line)
    for found in (plane, row):
        assert (found.directions, found.seed, found.precision, found.examples) == ("filter", 2, "float64", 12)
        assert found.problem == "Recorder, MSELoss(mean), 12 examples, eval mode, float64"
        with pytest.raises(dataclasses.FrozenInstanceError):
            found.center = 0.0  # type: ignore[misc]
    arrays = [value for value in plane.fields().values() if isinstance(value, np.ndarray)]
    assert all(array.dtype in (np.float64, np.uint8) and array.flags.c_contiguous for array in arrays)


@pytest.mark.parametrize("show", [True, False, None])
def test_progress_is_no_part_of_the_result(show: bool | None, capsys: pytest.CaptureFixture[str]) -> None:
    *_, problem = regression()
    assert surface(problem, resolution=3, progress=show) == surface(problem, resolution=3, progress=False)
    assert capsys.readouterr().out == ""
