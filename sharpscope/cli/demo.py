"""The demo: five optimizers on real images with equal epochs, their minima analysed, drawn and compared."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from sharpscope.runs.analyze import Analysis, analyze_run
from sharpscope.runs.figures import draw_run
from sharpscope.runs.train import Experiment, made_by, train_run
from sharpscope.store import Run, StoreError, create_run, is_run, open_run
from sharpscope.training.loop import Settings

__all__ = ["METHODS", "PLANS", "Plan", "demo"]

METHODS = {
    "SGD": "sgd()",
    "SAM": "sam(rho=0.1)",
    "SSAM-F": "ssam_f(rho=0.1, sparsity=0.5)",
    "SSAM-D": "ssam_d(rho=0.1, sparsity=0.5)",
    "RST": "rst(sam(rho=0.1), p=0.5)",
}


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the demo trains and how it analyses."""

    experiment: Experiment
    analysis: Analysis


PLANS = {
    "digits": Plan(Experiment(Settings(epochs=30, batch_size=64)), Analysis()),
    "cifar10": Plan(
        Experiment(Settings(epochs=4, batch_size=128), "cifar10", model="resnet20", train=5000),
        Analysis(examples=250, resolution=11),
    ),
}


def demo(
    name: str = "digits",
    root: str | None = None,
    out: str | Path = "runs/demo",
    figures: str | Path = "figures/demo",
    *,
    seed: int = 0,
    plan: Plan | None = None,
    progress: bool | None = None,
    say: Callable[[str], object] = lambda text: None,
) -> Run:
    """Train, analyse and draw; what an earlier, interrupted demo left in ``out`` is kept and not computed again.

    Args:
        name: "digits" or "cifar10".
        root: folder of CIFAR-10's binary files.
        out: the run, with one child per method.
        figures: folder of the pictures.
        seed: of the weights, the batches, the rules and the analyses.
        plan: another training and analysis than ``PLANS[name]``, of the same data.
        progress: show progress bars; None shows them on a terminal only.
        say: told in one line what is being done.

    Raises ValueError for unknown data, StoreError for an ``out`` that holds something else.
    """
    if name not in PLANS:
        raise ValueError(f"the demo got data {name!r}, expected one of {', '.join(PLANS)}: choose one")
    plan = plan or PLANS[name]
    base = dataclasses.replace(
        plan.experiment, root=root, settings=dataclasses.replace(plan.experiment.settings, seed=seed)
    )
    found = dataclasses.replace(base, train=None).images().sizes[0]  # missing data is told before all else
    base = dataclasses.replace(base, train=base.train if (base.train or found) < found else None)
    run = _open(Path(out), {"demo": name, "seed": seed})
    for method, rule in METHODS.items():
        experiment = dataclasses.replace(base, settings=dataclasses.replace(base.settings, rule=rule))
        child = run.child(method) if method in run.children() else _child(run, method, experiment)
        say(f"{method}: training {experiment.settings.epochs} epochs, {rule}")
        train_run(experiment, child.path, progress=progress, run=child)
        say(f"{method}: spectrum, surface, r-ratio, masks")
        analyze_run(child, how=dataclasses.replace(plan.analysis, seed=seed, progress=progress))
    say(f"drawing into {figures}")
    draw_run(run, figures)
    return run


def _child(run: Run, method: str, experiment: Experiment) -> Run:
    images = experiment.images()
    return run.create_child(method, experiment.config(), made_by(experiment, images, experiment.network(images)))


def _open(out: Path, config: dict[str, object]) -> Run:
    if not is_run(out):
        return create_run(out, dict(config))
    run = open_run(out)
    if dict(run.config) != config:
        raise StoreError(
            f"{out} holds another run ({run.config!r}), expected the demo {config!r}: choose another --out or delete it"
        )
    return run
