"""Training and analysis as they are kept on disk: a run goes in, a fuller run comes out.

Everything here can be killed and called again: what is on disk already is not computed twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sharpscope import data, models
from sharpscope.core.expressions import check_count
from sharpscope.core.history import History
from sharpscope.data import Folder, Images
from sharpscope.store import (
    Run,
    StoreError,
    create_run,
    is_run,
    leaves,
    open_run,
    provenance,
    weights_digest,
)
from sharpscope.training.loop import Epoch, Settings, train

__all__ = ["Experiment", "check_data", "check_settings", "made_by", "train_run"]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """All that a training run depends on.  ``config()`` is what is stored, ``Experiment.of(config)`` reads it back."""

    settings: Settings = Settings()
    data: str = "digits"
    root: str | None = None  # folder of the data files, for sets that are not built in
    model: str = "convnet"  # a name, with options if wanted, or module:function of the user's own code
    train: int | None = None  # first so many training images; None for all
    test: int | str | None = None  # as many test images, or "rest": all that is not trained on
    side: int | None = None  # resize the images to so many pixels in height and width
    keep_best: bool = False  # keep the checkpoint of the lowest test error too, the first of them, beside the last ones

    def config(self) -> dict[str, Any]:
        """Plain numbers and texts; a rule's pieces are code, which no file holds."""
        found = dataclasses.asdict(self)
        del found["settings"]["pieces"]
        return found

    @staticmethod
    def of(config: dict[str, Any]) -> Experiment:
        """What is stored, its rule unread.  Raises StoreError for a configuration that is none."""
        try:  # a setting that a later version added has the default that it had until then
            return Experiment(**{**config, "settings": Settings(**config["settings"], pieces=None)})
        except (KeyError, TypeError) as error:
            raise StoreError(
                f"the run's configuration does not describe a training ({error}), expected what `sharpscope train` "
                f"stores: analyse a run that it made"
            ) from None

    def images(self) -> Images | Folder:
        """The data, read anew."""
        seed = self.settings.seed if self.data == "digits" else 0
        return data.load(self.data, self.root, seed, self.train, self.test, self.side)

    def network(self, images: Images | Folder) -> nn.Module:
        """The network at its first weights."""
        network = models.build(self.model, images.shape, len(images.classes), self.settings.seed)
        network.to(torch.float32)
        return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def train_run(
    experiment: Experiment,
    path: str | Path,
    *,
    resume: bool = False,
    keep_checkpoints: int = 1,
    record_every: int | None = None,
    checkpoint_seconds: float = 0.0,
    progress: bool | None = None,
    run: Run | None = None,
) -> Run:
    """Train and keep everything in the run at ``path``: configuration, curves and masks of every epoch, checkpoints.

    Args:
        experiment: what to train.
        path: of the run; must not exist unless ``resume``.
        resume: go on where an existing run stopped (bit for bit the unbroken run); start it where there is none.
        keep_checkpoints: how many of the latest checkpoints stay on disk.
        record_every: keep the weights at the start, after every so many steps and at the end (``Run.trajectory``); None
            keeps none, and goes on as before where it resumes.
        checkpoint_seconds: epochs that end sooner than so long after the last checkpoint make none, but for the last
            epoch; what is kept of a short run then costs less than its training.
        progress: show a progress bar; None shows it on a terminal only.
        run: an open, empty run to use instead of ``path``.

    Raises StoreError for a path that exists, and for a run of another configuration or of other data, naming what
    differs; the folder of the data may be another one.
    """
    if record_every is not None:
        check_count("training", "record_every", record_every)
    images = experiment.images()
    network = experiment.network(images)
    _check_network(network, experiment.model, images)
    if keep_checkpoints < 1:
        raise StoreError(f"training got keep_checkpoints={keep_checkpoints}, expected at least 1: the last one stays")
    fresh = run is None and not (resume and is_run(path))
    if run is None:
        run = create_run(path, experiment.config(), made_by(experiment, images, network)) if fresh else open_run(path)
    check_settings(run, experiment)
    check_data(run, images)
    with _not_left_empty(run) if fresh else contextlib.nullcontext(), run.lock():
        recorder = _Recorder(run, network, _recorded(run, record_every), experiment.settings)
        keeping = _Keeping(keep_checkpoints, checkpoint_seconds, experiment.keep_best)
        _train(run, experiment, images, network, keeping, recorder, progress)
    return run


def made_by(experiment: Experiment, images: Images | Folder, network: nn.Module) -> dict[str, Any]:
    """Provenance of a training: who runs it, on what, from which weights and data."""
    first = next(network.parameters())
    return provenance(
        seed=experiment.settings.seed,
        rule=experiment.settings.rule,
        data_digest=f"sha256:{images.digest()}",
        weights_digest=weights_digest(network.state_dict()),
        dtype=str(first.dtype).removeprefix("torch."),
        device=str(first.device),
    )


@dataclasses.dataclass(frozen=True)
class _Keeping:
    """Which checkpoints of a training stay on disk; see ``train_run``."""

    checkpoints: int
    seconds: float
    best: bool

    def best_step(self, history: History, epoch_steps: int, total: int) -> int | None:
        """The step of the best epoch so far, where it is to stay."""
        return min((history.best + 1) * epoch_steps, total) if self.best else None


def _train(
    run: Run,
    experiment: Experiment,
    images: Images | Folder,
    network: nn.Module,
    keeping: _Keeping,
    recorder: _Recorder,
    progress: bool | None,
) -> None:
    """Go on from the last checkpoint, whatever was written after it, and leave what the unbroken training leaves."""
    steps = run.checkpoints()
    start = run.checkpoint() if steps else None
    epoch_steps = -(-images.sizes[0] // experiment.settings.batch_size)
    recorder.start(steps[-1] if steps else 0, epoch_steps)
    total = experiment.settings.total(epoch_steps)
    kept = time.monotonic()
    with run.step_writer(after=steps[-1] if steps else 0) as points:

        def on_step(step: int, loss: float, lr: float, passes: float) -> None:
            points.add(step, loss, lr, passes)
            recorder(step)
            if step % epoch_steps == 0:
                points.merge()

        def on_epoch(epoch: Epoch) -> None:
            nonlocal kept
            if epoch.masks:
                run.add_masks(epoch.step, epoch.masks, replace=True)
            best = keeping.best_step(epoch.history, epoch_steps, total)
            if time.monotonic() - kept < keeping.seconds and epoch.step not in (best, total):
                return
            kept = time.monotonic()
            run.add_checkpoint(epoch.step, epoch.checkpoint(), replace=True)
            run.set_history(epoch.history)
            run.prune(keeping.checkpoints, best)

        history = train(network, images, experiment.settings, start, on_epoch, progress, on_step)
    if run.history != history:  # it was stopped between its last checkpoint and its last curve
        run.set_history(history)
    run.prune(keeping.checkpoints, keeping.best_step(history, epoch_steps, total))


class _Recorder:
    """Keeps the trainable weights in a run, at the start, every so many steps and at the end."""

    def __init__(self, run: Run, network: nn.Module, every: int | None, settings: Settings) -> None:
        self.run, self.every, self.settings = run, every, settings
        self.weights = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.last = 0

    def start(self, step: int, epoch_steps: int) -> None:
        """Forget what was recorded after ``step``, from where the training goes on."""
        self.last = self.settings.total(epoch_steps)
        self.run.prune_trajectory(later for later in self.run.trajectory() if later > step)
        if step == 0:
            self(0)

    def __call__(self, step: int) -> None:
        if self.every and (step % self.every == 0 or step == self.last):
            weights = {name: p.detach() for name, p in self.weights.items()}
            self.run.add_weights(step, weights, self.every, replace=True)


def _recorded(run: Run, asked: int | None) -> int | None:
    """Steps between two points of the trajectory; raises StoreError where the run has those of another distance."""
    stored = run.trajectory().every
    if stored is None and asked is not None and run.checkpoints():
        raise StoreError(
            f"the run {run.path} got record_every={asked}, expected none: its first steps were not recorded; train "
            f"another --out"
        )
    if None not in (stored, asked) and stored != asked:
        raise StoreError(
            f"the run {run.path} was recorded with record_every={stored}, expected {asked}: use the same to resume it, "
            f"or another --out"
        )
    return stored if asked is None else asked


@contextlib.contextmanager
def _not_left_empty(run: Run) -> Iterator[None]:
    """Remove a run that fails before its first checkpoint: it holds nothing, and would only be in the way."""
    try:
        yield
    except Exception:
        if not run.checkpoints() and not run.result_names() and run.history is None:
            shutil.rmtree(run.path)
        raise


def _check_network(network: nn.Module, name: str, images: Images | Folder) -> None:
    """Raise ModelError for a network that does not turn images into one number per class."""
    problem = f"expected outputs of shape (images, {len(images.classes)}) for inputs {images.shape}: mend the network"
    training = network.training
    try:
        with torch.no_grad():
            outputs = network.eval()(torch.zeros(2, *images.shape, dtype=torch.float32, device="cpu"))
    except Exception as error:  # the user's code, which may raise anything
        said = " ".join(str(error).split())
        raise models.ModelError(f"the model {name!r} got {type(error).__name__}: {said}; {problem}") from error
    finally:
        network.train(training)
    shape = tuple(outputs.shape) if isinstance(outputs, torch.Tensor) else type(outputs).__name__
    if shape != (2, len(images.classes)):
        raise models.ModelError(f"the model {name!r} got outputs {shape}, {problem}")


def check_settings(run: Run, experiment: Experiment) -> None:
    """Raise StoreError for other settings than those of the run; the folder of the data may have moved."""
    stored, wanted = leaves(Experiment.of(run.config).config()), leaves(experiment.config())
    for name in {**stored, **wanted}:
        if name != "root" and stored.get(name) != wanted.get(name):
            raise StoreError(
                f"the run {run.path} was made with {name}={stored.get(name)!r}, expected {wanted.get(name)!r}: "
                f"use the same settings to resume it, or another --out"
            )


def check_data(run: Run, images: Images | Folder) -> None:
    """Raise StoreError for data that a run was not trained on."""
    was, now = run.provenance().get("data_digest"), f"sha256:{images.digest()}"
    if was not in (None, now):
        raise StoreError(
            f"the run {run.path} was trained on the data {was}, expected the same and got {now}: give the folder of "
            f"its files with --root"
        )
