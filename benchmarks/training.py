"""``make bench-training``: ResNet-20 on CIFAR-10, against a plain loop with a DataLoader in float32."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks._report import medians, write
from sharpscope import data, models
from sharpscope.data import Images
from sharpscope.runs.train import Experiment
from sharpscope.training.loop import train
from sharpscope.training.settings import Settings

ROOT = Path(os.environ.get("SHARPSCOPE_CIFAR10", Path(__file__).parents[1] / "../shared/data/cifar-10-batches-bin"))
STEPS, BATCH, RUNS = 3, 128, 5


class Augmented(Dataset[tuple[Tensor, Tensor]]):
    """Images one by one, padded, cropped and flipped, as a plain loop has them."""

    def __init__(self, images: Images) -> None:
        self.inputs, self.targets = images.train

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        top, left, flip = (int(torch.randint(high, ())) for high in (9, 9, 2))
        crop = F.pad(self.inputs[row], (4, 4, 4, 4))[:, top : top + 32, left : left + 32]
        return crop.flip(2) if flip else crop, self.targets[row]


def plain(images: Images) -> float:
    """Seconds of the loop of a tutorial."""
    model = models.build("resnet20", images.shape, 10).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    loader = DataLoader(Augmented(images), BATCH, shuffle=True)
    began = time.perf_counter()
    total = 0.0
    for x, y in loader:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        scheduler.step()
        total += loss.item()
    return time.perf_counter() - began


def ours(images: Images, precision: str, rule: str = "sgd()") -> Callable[[], float]:
    """Seconds of the same steps, without the test at the end."""
    settings = Settings(rule, epochs=1, batch_size=BATCH, precision=precision)

    def run() -> float:
        network = Experiment(settings, model="resnet20").network(images)
        return float(train(network, images, settings, progress=False).seconds[-1])

    return run


def main() -> None:
    torch.set_num_threads(1)  # threads that wait for one another measure the other jobs of a machine
    images = data.load("cifar10", ROOT, train=STEPS * BATCH, test=BATCH)
    assert isinstance(images, Images)
    timed = {
        "plain": lambda: plain(images),
        "float32": ours(images, "float32"),
        "bfloat16": ours(images, "bfloat16"),
    }
    seconds = medians(timed, RUNS, warm=1)
    rows = [
        (f"{name}, channels-last / plain loop, DataLoader, float32", reach, f"{seconds[name] / seconds['plain']:.2f}")
        for name, reach in (("float32", "<= 0.85"), ("bfloat16", "<= 0.60"))
    ]
    rows += [(f"images per second, {name}", "", f"{STEPS * BATCH / spent:.0f}") for name, spent in seconds.items()]
    names = ("measure", "reach", "measured")
    write("training, ResNet-20 on CIFAR-10", [dict(zip(names, row, strict=True)) for row in rows])


if __name__ == "__main__":
    main()
