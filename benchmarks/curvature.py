"""``make bench-curvature``: certified spectra beside other tools, on a ResNet-20 trained on CIFAR-10.

``python -m benchmarks.curvature 500`` runs one part: 500, 2000 (images), power, density, whole, own, memory, along,
fine, layers, starts.  The trained network is kept in runs/bench-resnet20; SHARPSCOPE_CIFAR10 names the folder of the
CIFAR-10 files.  Times are processor seconds of one thread, which other programs disturb least.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.func import functional_call, grad

import sharpscope as ss
from benchmarks._peers import (
    LOSS,
    curvlinops_operator,
    curvlinops_top,
    eigenthings_top,
    pyhessian_top,
    tensors,
    trained,
)
from benchmarks._report import medians, say, seconds, write
from sharpscope import models
from sharpscope.analyzers.spectra._lanczos import thick_restart
from sharpscope.runs.analyze import problem_of

EIGENTHINGS = 18  # steps of hessian-eigenthings: about the fewest after which its five pairs are at 1e-3


MEMORY = """
import contextlib, re, torch, sharpscope as ss
from pathlib import Path
from sharpscope.analyzers.spectra._lanczos import thick_restart

def kilobytes(name):
    return int(re.search(name + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

torch.set_num_threads(1)
n = 4_000_000
d = torch.linspace(0, 1, n) ** 8
op = ss.Operator(lambda v: d * v, n, dtype=torch.float32)
op @ torch.ones(n)
Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
before = kilobytes("VmRSS")
with contextlib.suppress(ArithmeticError):
    thick_restart(op, 6, 1e-9, 0, 12, 26)
print((kilobytes("VmHWM") - before) * 1024 / (4 * n))
"""


def fastest_gradient(problem: ss.Problem, runs: int) -> float:
    """Seconds of the fastest float32 gradient of the same images: layouts and batch sizes tried in turn."""
    x, y = tensors(problem)
    timed = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        for size in (125, 500):
            one = ss.Problem(problem.model, LOSS, (x.contiguous(memory_format=layout), y), batch_size=size)
            timed[f"{layout} {size}"] = lambda one=one: seconds(one.gradient)
    found = medians(timed, runs=runs, warm=1)
    say(f"gradients: {found}")
    return min(found.values())


def shown(values: np.ndarray) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def top(images: int) -> None:
    """Top five eigenvalues, to each tool's 1e-3."""
    problem = problem_of(trained(), images)
    problem.model.eval()
    unit = fastest_gradient(problem, 3 if images <= 500 else 1)
    began = time.process_time()
    operator = ss.hessian(problem)
    vector = torch.randn(operator.size)
    operator @ vector
    ready = time.process_time() - began
    say(f"first product {ready:.1f} s: {operator.plan}")
    product = medians({"product": lambda: seconds(lambda: operator @ vector)}, runs=3, warm=0)["product"]
    began = time.process_time()
    ours = ss.spectrum(operator)
    taken = time.process_time() - began
    say(f"product {product:.2f} s, {ours.products} products {taken:.1f} s")
    if images <= 500:
        values, count, theirs = curvlinops_top(problem, 125)
        say(f"curvlinops {theirs:.1f} s")
        third, steps, slow, good = eigenthings_top(problem, 125, EIGENTHINGS)
    else:  # a product is timed, and the number of products that 500 images need is assumed
        matrix, values, count = curvlinops_operator(problem, 125).to_scipy(dtype=np.float32), np.zeros(0), 21
        start = np.ones(matrix.shape[0], np.float32)
        theirs = count * medians({"theirs": lambda: seconds(lambda: matrix @ start)}, runs=1, warm=0)["theirs"]
    unit = min(unit, fastest_gradient(problem, 2)) if images <= 500 else unit
    assumed = "" if images <= 500 else " (assumed; one is timed)"
    rows = [
        ("top 5 at residual 1e-3, check included: products", "<= 16", f"{ours.products}"),
        ("the same, in fastest gradients", "<= 44", f"{taken / unit:.1f}"),
        ("one product, in fastest gradients", "<= 2.7", f"{product / unit:.2f}"),
        ("first product with its preparation, in fastest gradients", "", f"{ready / unit:.1f}"),
        ("curvlinops + ARPACK, tol 1e-3: products" + assumed, "", f"{count}"),
        ("the same, in fastest gradients", "", f"{theirs / unit:.1f}"),
        ("top 5: sharpscope / curvlinops + ARPACK", "<= 0.40", f"{taken / theirs:.2f}"),
        ("sharpscope: lambda_1 ... lambda_5", "", shown(ours.eigenvalues)),
        ("their residuals", "<= 1e-3 relative", " ".join(f"{r:.1e}" for r in ours.residuals / ours.eigenvalues)),
        *([("curvlinops + ARPACK: lambda_1 ... lambda_5", "", shown(values))] if len(values) else []),
    ]
    if images <= 500:
        rows += [
            (f"hessian-eigenthings, {steps} steps: pairs at 1e-3, by its own estimate", "", f"{good} of 5"),
            ("the same, in fastest gradients", "", f"{slow / unit:.1f}"),
            ("top 5: sharpscope / hessian-eigenthings", "<= 0.40", f"{taken / slow:.2f}"),
            ("hessian-eigenthings: lambda_1 ... lambda_5", "", shown(third)),
        ]
    report(f"curvature, top 5, {images} images", rows)


def power() -> None:
    """Top five eigenvalues beside PyHessian's power iteration, at its tol=1e-3."""
    problem = problem_of(trained(), 125)
    problem.model.eval()
    operator = ss.hessian(problem)
    operator @ torch.randn(operator.size)
    began = time.process_time()
    ours = ss.spectrum(operator)
    taken = time.process_time() - began
    others, slow = pyhessian_top(problem)
    rows = [
        ("top 5: sharpscope / PyHessian, tol 1e-3", "<= 0.40", f"{taken / slow:.2f}"),
        ("sharpscope: lambda_1 ... lambda_5", "", shown(ours.eigenvalues)),
        ("PyHessian: its five values", "", shown(others)),
    ]
    report("curvature, top 5, 125 images, beside PyHessian", rows)


def density() -> None:
    """One probe of 12 steps: every probe and step costs the same."""
    from curvlinops.papyan2020traces.spectrum import lanczos_approximate_spectrum

    problem, steps = problem_of(trained(), 500), 12
    problem.model.eval()
    operator = ss.hessian(problem)
    operator @ torch.randn(operator.size)
    other = curvlinops_operator(problem, 125)

    def theirs() -> None:
        lanczos_approximate_spectrum(other, steps, num_points=1024, num_repeats=1, boundaries=(-10.0, 300.0))

    found = medians(
        {
            "ours": lambda: seconds(lambda: ss.density(operator, 1, steps, top=0)),
            "theirs": lambda: seconds(theirs),
        },
        runs=1,
        warm=0,
    )
    ratio = f"{found['ours'] / found['theirs']:.2f}"
    report("curvature, density", [(f"density, per probe of {steps} steps: sharpscope / curvlinops", "<= 0.6", ratio)])


def whole() -> None:
    """Ten probes of 80 steps, of few images so that the peer takes minutes; ours with the top five deflated."""
    from curvlinops.papyan2020traces.spectrum import lanczos_approximate_spectrum

    problem = problem_of(trained(), 25)
    problem.model.eval()
    operator, other = ss.hessian(problem), curvlinops_operator(problem, 25)
    operator @ torch.randn(operator.size)
    ours = seconds(lambda: ss.density(operator, 10, 80, top=5))
    theirs = seconds(
        lambda: lanczos_approximate_spectrum(other, 80, num_points=1024, num_repeats=10, boundaries=(-10.0, 300.0))
    )
    text = f"10 probes x 80 steps, top five and error band included, 25 images ({ours:.0f} s): sharpscope / curvlinops"
    report("curvature, density, whole", [(text, "<= 0.6", f"{ours / theirs:.2f}")])


def own() -> None:
    """Lanczos beside the products."""
    model = models.build("resnet18", (3, 32, 32), 10).eval()
    images = 100
    data = (torch.randn(images, 3, 32, 32), torch.arange(images) % 10)
    operator = ss.hessian(ss.Problem(model, LOSS, data))
    vector = torch.randn(operator.size)
    operator @ vector
    product = medians({"product": lambda: seconds(lambda: operator @ vector)}, runs=2, warm=0)["product"]
    say(f"a product of {images} images {product:.1f} s")
    diagonal = torch.linspace(0, 1, operator.size) ** 8
    bare = ss.Operator(lambda v: diagonal * v, operator.size, dtype=torch.float32)
    multiply = medians({"product": lambda: seconds(lambda: bare @ vector)}, runs=9)["product"]

    def run() -> None:
        with contextlib.suppress(ArithmeticError):  # sixteen products are enough to measure
            thick_restart(bare, 6, 1e-9, 0, 30, 16)

    each = (seconds(run) - 16 * multiply) / 16
    report(
        "curvature, Lanczos itself",
        [
            (
                f"Lanczos beside the products, ResNet-18 (11 M), {images} images, 16 products, measured",
                "<= 5 %",
                f"{100 * each / product:.1f} %",
            ),
            ("the same on 500 images, a product five times as long", "<= 5 %", f"{20 * each / product:.2f} %"),
        ],
    )


def memory() -> None:
    """Of Lanczos alone, in a process of its own."""
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}  # what is freed goes back to the system
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True, env=environment)
    row = ("peak with a basis of 12 vectors of 4 M entries, in vectors, the product's included", "<= 15")
    report("curvature, memory of Lanczos", [(*row, f"{float(done.stdout):.2f}")])


def along() -> None:
    """lambda_1 at the ten checkpoints of the training, an epoch apart, warm and cold."""
    run = trained()
    tracked("along training, an epoch apart", {step: problem_of(run, 125, step) for step in run.checkpoints()})


def fine() -> None:
    """lambda_1 at ten points of the training's last weights, four steps apart, warm and cold."""
    run = trained()
    problem = problem_of(run, 125)
    data = tensors(problem_of(run, 2000))
    optimizer = torch.optim.SGD(problem.model.parameters(), lr=0.01, momentum=0.9)
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0)).split(125)
    found: dict[int, ss.Operator] = {}
    for step in range(40):
        if step % 4 == 0:
            found[step] = ss.hessian(problem)
        problem.model.train()
        optimizer.zero_grad()
        LOSS(problem.model(data[0][order[step % 16]]), data[1][order[step % 16]]).backward()
        optimizer.step()
    tracked("along training, four steps apart", found)


def tracked(title: str, problems: dict[int, Any]) -> None:
    timed = []
    for warm in (True, False):
        began = time.process_time()
        timed.append((ss.track(problems, warm=warm), time.process_time() - began))
    (warm_one, quick), (cold, slow) = timed
    worst = np.abs(warm_one.eigenvalues / cold.eigenvalues - 1).max()
    report(
        f"curvature, {title}",
        [
            (
                "lambda_1 at ten checkpoints: products, warm / cold", "<= 0.5",
                f"{warm_one.products.sum() / cold.products.sum():.2f}",
            ),
            ("processor time, warm / cold, preparation of the products included", "", f"{quick / slow:.2f}"),
            ("products, warm", "", " ".join(map(str, warm_one.products))),
            ("products, cold", "", " ".join(map(str, cold.products))),
            ("largest difference of lambda_1", "", f"{worst:.1e}"),
        ],
    )  # fmt: skip


def layers() -> None:
    """A product with the block of one layer beside the whole product, ResNet-20."""
    problem = problem_of(trained(), 125)
    operator = ss.hessian(problem)
    vector = torch.randn(operator.size)
    operator @ vector
    timed = {"whole": lambda: seconds(lambda: operator @ vector)}
    names = list(dict.fromkeys(name.split(".")[0] for name in problem.names))
    for name in names:
        block = operator.block(f"{name}.*")
        inside = torch.randn(block.size)
        block @ inside
        timed[name] = lambda block=block, inside=inside: seconds(lambda: block @ inside)
    found = medians(timed, runs=2, warm=0)
    rows = [
        (f"product with the block {name} / whole product", "< 1", f"{found[name] / found['whole']:.2f}")
        for name in names
    ]
    report("curvature, by layer", rows)


def starts() -> None:
    """Two hundred random starts at three stages of an MLP on the digits: how many miss one of the top five."""
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    digits = load_digits()
    x, y = torch.tensor(digits.data / 16.0), torch.tensor(digits.target)
    model = nn.Sequential(nn.Linear(64, 24), nn.Tanh(), nn.Linear(24, 10)).double()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    names = list(model.state_dict())

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = flat.split([p.numel() for p in model.parameters()])
        weights = {n: f.view(p.shape) for n, f, p in zip(names, parts, model.parameters(), strict=True)}
        return LOSS(functional_call(model, weights, (x[:600],)), y[:600])

    rows = []
    for step in range(151):
        if step in (2, 8, 150):
            at = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
            product = partial(directional, grad(loss), at)
            eye = torch.eye(len(at), dtype=torch.float64)
            columns = [torch.func.vmap(product)(rows_of) for rows_of in eye.split(200)]
            matrix = torch.cat(columns)
            matrix = (matrix + matrix.T) / 2
            true = np.sort(np.linalg.eigvalsh(matrix.numpy()))[::-1][:5]
            found = [ss.spectrum(ss.Operator.of(matrix.float()), seed=seed) for seed in range(200)]
            missed = sum(bool((np.abs(one.eigenvalues - true) > one.residuals + 1e-6 * true[0]).any()) for one in found)
            mean = np.mean([one.products for one in found])
            rows.append((f"step {step}: missed of 200 random starts ({mean:.1f} products)", "0", f"{missed}"))
        optimizer.zero_grad()
        LOSS(model(x), y).backward()
        optimizer.step()
    report("curvature, 200 random starts", rows)


def directional(gradient: Callable[..., Any], at: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.func.jvp(gradient, (at,), (v,))[1]


def report(section: str, rows: list[tuple[str, str, str]]) -> None:
    write(
        section,
        [{"measure": text, "reach": reach, "measured": value} for text, reach, value in rows],
        ("curvlinops-for-pytorch", "pyhessian", "hessian-eigenthings"),
    )


PARTS: dict[str, Callable[[], None]] = {
    "500": lambda: top(500),
    "2000": lambda: top(2000),
    "power": power,
    "density": density,
    "whole": whole,
    "own": own,
    "memory": memory,
    "along": along,
    "fine": fine,
    "layers": layers,
    "starts": starts,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
