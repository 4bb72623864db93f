"""Files of Li et al.'s code: read and written as that code does it, written down here index by index."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from torch import nn

from sharpscope.analyzers.surfaces.directions import Directions, random_directions
from sharpscope.analyzers.surfaces.named_directions import pca_directions
from sharpscope.analyzers.surfaces.surface import Line, Surface, line, surface
from sharpscope.analyzers.surfaces.trajectory import trajectory
from sharpscope.exchange.li import (
    read_li_directions,
    read_li_surface,
    read_li_trajectory,
    write_li_directions,
    write_li_surface,
    write_li_trajectory,
)
from sharpscope.problem.problem import Problem
from sharpscope.store import StoreError


class Net(nn.Module):
    """Tied weights, a frozen parameter, BatchNorm: what tells the orders apart."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.norm, self.two = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 4)
        self.three = nn.Linear(4, 4, bias=False)
        self.three.weight = self.two.weight
        self.scale = nn.Parameter(torch.ones(()), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.three(self.two(self.norm(self.one(x)))) * self.scale  # type: ignore[no-any-return]


@pytest.fixture
def problem() -> Problem:
    return Problem(Net().float(), nn.MSELoss(), (torch.randn(6, 3).float(), torch.randn(6, 4).float()))


def their_plane(values: Callable[[float, float], float], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """What their scheduler leaves: an array declared (nx, ny), filled by flat index of meshgrid(x, y)."""
    losses = -np.ones(shape=(len(x), len(y)))
    xs, ys = (mesh.ravel() for mesh in np.meshgrid(x, y))
    for index in range(len(x) * len(y)):
        losses.ravel()[index] = values(xs[index], ys[index])
    return losses


def their_file(path: Path, **arrays: Any) -> Path:
    with h5py.File(path, "w") as file:
        file["dir_file"] = "somewhere/directions.h5"  # a text of variable length, as theirs
        for name, value in arrays.items():
            file[name] = value
    return path


X, Y = np.linspace(-1, 1, 5), np.linspace(-0.5, 1.5, 3)


def test_the_index_rule_literally(tmp_path: Path) -> None:
    data = their_plane(lambda a, b: 100 * a + b, X, Y)
    found = read_li_surface(their_file(tmp_path / "s.h5", xcoordinates=X, ycoordinates=Y, train_loss=data))
    assert isinstance(found, Surface)
    assert found.loss.shape == (3, 5)
    for i, b in enumerate(Y):
        for j, a in enumerate(X):
            assert found.loss[i, j] == data.ravel()[i * len(X) + j] == 100 * a + b
    assert np.isnan(found.center)  # (0, 0) is no point of this grid
    assert not np.array_equal(data.T, found.loss)  # what the declared shape would suggest


def test_a_plane_that_is_not_square_comes_back(problem: Problem, tmp_path: Path) -> None:
    plane = surface(problem, (7, 4), ((-1.0, 1.0), (-0.5, 1.0)), seed=2)
    path = write_li_surface(plane, tmp_path / "s.h5", directions_file="d.h5")
    with h5py.File(path) as file:
        assert file["train_loss"].shape == (7, 4)
        assert file["dir_file"][()] == b"d.h5"
        assert not file.attrs.keys()
        xs, ys = (mesh.ravel() for mesh in np.meshgrid(file["xcoordinates"][:], file["ycoordinates"][:]))
        for index, value in enumerate(file["train_loss"][:].ravel()):
            j, i = list(plane.alpha).index(xs[index]), list(plane.beta).index(ys[index])
            assert value == plane.loss[i, j]
    back = read_li_surface(path)
    assert isinstance(back, Surface)
    for name in ("alpha", "beta", "loss"):
        assert np.array_equal(getattr(back, name), getattr(plane, name))
    assert np.isnan(back.stderr).all()


def test_a_square_plane_keeps_its_centre(problem: Problem, tmp_path: Path) -> None:
    plane = surface(problem, 5, seed=2)
    back = read_li_surface(write_li_surface(plane, tmp_path / "s.h5"))
    assert np.array_equal(back.loss, plane.loss)
    assert back.center == plane.loss[2, 2]


def test_a_line_comes_back(problem: Problem, tmp_path: Path) -> None:
    one = line(problem, 7)
    back = read_li_surface(write_li_surface(one, tmp_path / "l.h5"))
    assert isinstance(back, Line)
    assert np.array_equal(back.loss, one.loss)
    assert np.array_equal(back.alpha, one.alpha)
    assert back.center == one.loss[3]


def test_minus_one_is_missing_and_nan_is_not_finite(tmp_path: Path) -> None:
    data = their_plane(lambda a, b: -1.0 if a < 0 else np.nan if b > 1 else 2.0, X, Y)
    found = read_li_surface(their_file(tmp_path / "s.h5", xcoordinates=X, ycoordinates=Y, train_loss=data))
    assert found.status is not None
    assert found.status.tolist() == [[3, 3, 1, 1, 1], [3, 3, 1, 1, 1], [3, 3, 2, 2, 2]]
    assert np.isnan(found.loss[:, :2]).all()
    assert np.isnan(found.loss[2]).all()
    assert (found.loss[:2, 2:] == 2.0).all()
    again = read_li_surface(write_li_surface(found, tmp_path / "again.h5"))
    assert dataclasses.replace(again, directions="", problem="") == dataclasses.replace(
        found, directions="", problem=""
    )


def test_accuracies_are_percent_in_their_files(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
    problem = Problem(model, nn.CrossEntropyLoss(), (torch.randn(9, 3), torch.randint(2, (9,))))
    for metric in ("accuracy", "error"):
        plane = surface(problem, (3, 4), metrics=metric)
        path = write_li_surface(plane, tmp_path / f"{metric}.h5")
        right = plane.metrics[metric] if metric == "accuracy" else 1 - plane.metrics[metric]
        with h5py.File(path) as file:
            assert np.array_equal(file["train_acc"][:].ravel(), 100 * right.ravel())
        back = read_li_surface(path)
        np.testing.assert_allclose(back.metrics["accuracy"], right, rtol=1e-15)
    more = their_file(
        tmp_path / "more.h5", xcoordinates=X, train_loss=np.ones(5), test_acc=np.full(5, 50.0), max_eig=np.arange(5.0)
    )
    found = read_li_surface(more)
    assert found.metrics["test_acc"].tolist() == [50.0] * 5
    assert found.metrics["max_eig"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


@pytest.mark.parametrize("kind", ["weights", "states"])
def test_directions_come_back(problem: Problem, tmp_path: Path, kind: str) -> None:
    plane = random_directions(problem, seed=5)
    path = write_li_directions(plane, tmp_path / "d.h5", problem, kind=kind)
    tensors = list(problem.model.parameters()) if kind == "weights" else list(problem.model.state_dict().values())
    with h5py.File(path) as file:
        assert sorted(file) == ["xdirection", "ydirection"]
        for axis, vector in zip(("xdirection", "ydirection"), plane.vectors, strict=True):
            assert len(file[axis]) == len(tensors) == {"weights": 7, "states": 11}[kind]
            own = {id(p): x for p, x in zip(problem.parameters.values(), vector, strict=True)}
            for place, tensor in enumerate(tensors):
                stored = torch.from_numpy(np.asarray(file[axis][str(place)]))
                assert stored.shape == tensor.shape
                if kind == "weights":
                    assert torch.equal(stored, own.get(id(tensor), torch.zeros_like(tensor)))
            if kind == "states":  # as their code applies them: w + d for every entry of the state, then load it
                state = problem.model.state_dict()
                moved = {
                    name: w + torch.from_numpy(np.asarray(file[axis][str(place)])).to(w)
                    for place, (name, w) in enumerate(state.items())
                }
                copied = Net().float()
                copied.load_state_dict(moved)
                found = dict(copied.named_parameters())
                for name, w, x in zip(problem.names, problem.weights, vector, strict=True):
                    assert torch.equal(found[name], w + x)
                assert all(torch.equal(b, state[name]) for name, b in copied.named_buffers())
    back = read_li_directions(path, problem)
    assert back.names == plane.names
    assert back.digest == plane.digest


def test_the_same_plane_is_drawn_along_what_was_read(problem: Problem, tmp_path: Path) -> None:
    plane = random_directions(problem, seed=5)
    back = read_li_directions(write_li_directions(plane, tmp_path / "d.h5", problem), problem)
    for a, b in zip(back.vectors, plane.vectors, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_principal_directions_keep_their_shares(problem: Problem, tmp_path: Path) -> None:
    points = [[w + torch.randn_like(w) for w in problem.weights] for _ in range(6)]
    axes = pca_directions(problem, points)
    back = read_li_directions(write_li_directions(axes, tmp_path / "d.h5", problem), problem)
    assert back.explained == axes.explained


def test_trajectories_come_back(problem: Problem, tmp_path: Path) -> None:
    plane = random_directions(problem, seed=5)
    points = [[w + 0.1 * torch.randn_like(w) for w in problem.weights] for _ in range(6)]
    way = trajectory(problem, points, plane)
    back = read_li_trajectory(write_li_trajectory(way, tmp_path / "d_proj_lstsq.h5"), plane)
    assert np.array_equal(back.coordinates, way.coordinates)
    assert back.digest == way.digest
    # their cos files: scalar products over the length of the direction, point by point
    rows = []
    for vector in plane.vectors:
        length = sum(float((x.double() ** 2).sum()) for x in vector) ** 0.5
        dots = [
            sum(
                float(((p - w).double() * x.double()).sum())
                for p, w, x in zip(at, problem.weights, vector, strict=True)
            )
            for at in points
        ]
        rows.append(np.array(dots) / length)
    path = tmp_path / "d_proj_cos.h5"
    with h5py.File(path, "w") as file:
        file["proj_xcoord"], file["proj_ycoord"] = rows
    np.testing.assert_allclose(read_li_trajectory(path, plane).coordinates, way.coordinates, rtol=1e-6)
    with pytest.raises(ValueError, match="without these directions, expected them: pass directions="):
        read_li_trajectory(path)


def test_directions_of_another_model_are_refused(problem: Problem, tmp_path: Path) -> None:
    path = write_li_directions(random_directions(problem), tmp_path / "d.h5", problem)
    fewer = Problem(nn.Linear(3, 4), nn.MSELoss(), (torch.randn(6, 3), torch.randn(6, 4)))
    with pytest.raises(StoreError, match=r"got 7 tensors in xdirection, expected 2 .* read it with the model"):
        read_li_directions(path, fewer)
    model = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
    model.scale = nn.Parameter(torch.ones(()))
    other = Problem(model, nn.MSELoss(), (torch.randn(6, 3), torch.randn(6, 4)))
    with pytest.raises(StoreError, match=r"for tensor \d of xdirection, expected .* read it with the model"):
        read_li_directions(path, other)
    with pytest.raises(ValueError, match="write_li_directions got directions"):
        write_li_directions(random_directions(fewer), tmp_path / "e.h5", problem)
    with pytest.raises(ValueError, match="got 3 directions, expected one or two"):
        write_li_directions(random_directions(problem, count=3), tmp_path / "e.h5", problem)
    with pytest.raises(ValueError, match="got kind='both', expected one of weights, states"):
        write_li_directions(random_directions(problem), tmp_path / "e.h5", problem, kind="both")
    assert not (tmp_path / "e.h5").exists()


def test_directions_that_move_buffers_are_refused(problem: Problem, tmp_path: Path) -> None:
    path = write_li_directions(random_directions(problem), tmp_path / "d.h5", problem, kind="states")
    place = list(problem.model.state_dict()).index("norm.running_var")
    with h5py.File(path, "r+") as file:
        file[f"xdirection/{place}"][:] = 1.0
    with pytest.raises(StoreError, match=r"moves norm.running_var, expected zeros for what is no trainable parameter"):
        read_li_directions(path, problem)


def test_tied_parameters_have_one_direction(problem: Problem, tmp_path: Path) -> None:
    path = write_li_directions(random_directions(problem), tmp_path / "d.h5", problem, kind="states")
    with h5py.File(path, "r+") as file:
        file[f"xdirection/{list(problem.model.state_dict()).index('three.weight')}"][:] = 1.0
    with pytest.raises(StoreError, match=r"got two directions for two.weight, which is tied, expected one in both"):
        read_li_directions(path, problem)


def test_foreign_and_broken_files(problem: Problem, tmp_path: Path) -> None:
    plane = surface(problem, (4, 3))
    good = write_li_surface(plane, tmp_path / "s.h5")
    other = tmp_path / "one.h5"
    with h5py.File(other, "w") as file:
        file["train_loss"] = np.ones(3)
    with pytest.raises(StoreError, match="got no group xdirection but train_loss"):
        read_li_directions(other, problem)
    with pytest.raises(StoreError, match="expected xcoordinates and train_loss"):
        read_li_surface(other)
    with pytest.raises(StoreError, match="expected proj_xcoord and proj_ycoord of one length"):
        read_li_trajectory(other)
    with pytest.raises(StoreError, match="got no such file, expected a surface file of loss-landscape"):
        read_li_surface(tmp_path / "none.h5")
    half = tmp_path / "half.h5"
    half.write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    with pytest.raises(StoreError, match="got a damaged or truncated file"):
        read_li_surface(half)
    (tmp_path / "text.h5").write_text("loss,1,2,3 and more of that\n")
    with pytest.raises(StoreError, match="a file that is not HDF5, expected a surface file of loss-landscape"):
        read_li_surface(tmp_path / "text.h5")
    wrong = their_file(tmp_path / "w.h5", xcoordinates=X, ycoordinates=Y, train_loss=np.ones((3, 5)))
    with pytest.raises(StoreError, match=r"train_loss of shape \(3, 5\), expected \(5, 3\)"):
        read_li_surface(wrong)
    falling = their_file(tmp_path / "f.h5", xcoordinates=X[::-1], train_loss=np.ones(5))
    with pytest.raises(StoreError, match="xcoordinates that do not rise"):
        read_li_surface(falling)
    with pytest.raises(StoreError, match="got a file that exists, expected a new name"):
        write_li_surface(plane, good)


def test_hostile_files_open_nothing_else(problem: Problem, tmp_path: Path) -> None:
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["train_loss"] = np.ones(5)
    linked = tmp_path / "linked.h5"
    with h5py.File(linked, "w") as file:
        file["xcoordinates"] = X
        file["train_loss"] = h5py.ExternalLink(str(secret), "train_loss")
    with pytest.raises(StoreError, match="an external link"):
        read_li_surface(linked)
    virtual = tmp_path / "virtual.h5"
    with h5py.File(virtual, "w") as file:
        layout = h5py.VirtualLayout(shape=(5,), dtype="f8")
        layout[:] = h5py.VirtualSource(str(secret), "train_loss", shape=(5,))
        file["xcoordinates"] = X
        file.create_virtual_dataset("train_loss", layout)
    with pytest.raises(StoreError, match="a virtual dataset"):
        read_li_surface(virtual)
    soft = tmp_path / "soft.h5"
    with h5py.File(soft, "w") as file:
        file["xdirection"] = h5py.SoftLink("/xdirection")
    with pytest.raises(StoreError, match="a soft link"):
        read_li_directions(soft, problem)


def test_three_by_hand(tmp_path: Path) -> None:
    """A direction file of their making for nn.Linear(2, 1)."""
    model = nn.Linear(2, 1).float()
    problem = Problem(model, nn.MSELoss(), (torch.zeros(1, 2).float(), torch.zeros(1, 1).float()))
    path = tmp_path / "d.h5"
    with h5py.File(path, "w") as file:
        group = file.create_group("xdirection")
        for place, d in enumerate([np.array([[1.0, 2.0]], np.float32), np.array([3.0], np.float32)]):
            group.create_dataset(str(place), data=d)
    found = read_li_directions(path, problem)
    assert isinstance(found, Directions)
    assert [x.tolist() for x in found.vectors[0]] == [[[1.0, 2.0]], [3.0]]
    assert found.text == "of the file d.h5"
